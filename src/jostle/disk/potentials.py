"""Galactic potentials: the isothermal slab, Miyamoto-Nagai disks, NFW haloes and their sums."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jostle.core.errors import require
from jostle.disk.units import Array, G, Numbers, plain, positive


class Potential(ABC):
    """An axisymmetric potential, even in z; arguments are plain arrays in kpc, results in (km/s)^2.

    A new potential gives `value`, `gradient` and `lift`. It is an object that is passed on, never a string.
    """

    @abstractmethod
    def value(self, R: Array, z: Array) -> Array:
        """Phi(R, z)."""

    @abstractmethod
    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        """(dPhi/dR, dPhi/dz)."""

    @abstractmethod
    def lift(self, R: Array, z: Array) -> Array:
        """[Phi(R, z) - Phi(R, 0)] / z^2 without cancellation, with its limit nu^2 / 2 at z = 0."""

    def pull(self, R2: Array, z: Array) -> tuple[Array, Array]:
        """(dPhi/dR / R, dPhi/dz / z) from R^2 and z: what an orbit integrator needs, with few operations."""
        R = np.sqrt(R2)
        safe = np.where(np.abs(z) < 1e-12, 1e-12, z)
        dR, dz = self.gradient(R, safe)
        return dR / R, dz / safe

    def frequencies(self, R: Numbers) -> tuple[Array, Array, Array]:
        """Circular, epicyclic and vertical frequency in the midplane at `R` (kpc), in km/s/kpc.

        Omega_phi^2 = (1/R) dPhi/dR, kappa^2 = d2Phi/dR^2 + 3 Omega_phi^2 and nu^2 = d2Phi/dz^2 at z = 0; the
        second radial derivative is a five-point difference of the first (relative error near 1e-11).

        **Raises:** `JostleError` if `R` is not positive or the disk is radially unstable there.

        >>> omega, kappa, nu = milky_way().frequencies(8.0)
        >>> round(float(nu), 2)
        74.58
        """
        R = plain(R, "kpc", "R")
        require(bool(np.all(R > 0)), "R must be positive (kpc)")
        zero = np.zeros_like(R)
        omega2 = self.gradient(R, zero)[0] / R
        h = 2e-3 * R
        near, far = (self.gradient(R + k * h, zero)[0] - self.gradient(R - k * h, zero)[0] for k in (1, 2))
        kappa2 = (8 * near - far) / (12 * h) + 3 * omega2
        require(
            bool(np.all(omega2 > 0) and np.all(kappa2 > 0)), "the potential has no stable circular orbit at R"
        )
        return np.sqrt(omega2), np.sqrt(kappa2), np.sqrt(2 * self.lift(R, zero))

    def __call__(self, R: Numbers, z: Numbers) -> Array:
        """Phi(R, z) in (km/s)^2, from kpc or Quantities."""
        return self.value(plain(R, "kpc", "R"), plain(z, "kpc", "z"))

    def __add__(self, other: "Potential") -> "Composite":
        return Composite((self, other))


@dataclass(frozen=True)
class IsothermalSlab(Potential):
    """The self-gravitating isothermal slab, Phi = 2 sigma_z^2 ln cosh(z / h_z) (Spitzer 1942).

    It has no radial structure: R is accepted and ignored, the frequencies in the plane are zero. `h_z = 1`
    and `sigma_z = 1` are its natural units.

    **Arguments:** `h_z`: scale height (kpc), the density is sech^2(z / h_z). `sigma_z`: vertical velocity
    dispersion (km/s). `sigma`: dispersion in the plane (km/s); 1.5 sigma_z if `None`.

    >>> round(IsothermalSlab().nu, 6)
    1.414214
    """

    h_z: Numbers = 1.0
    sigma_z: Numbers = 1.0
    sigma: Numbers = None

    def __post_init__(self) -> None:
        for name, unit in (("h_z", "kpc"), ("sigma_z", "km/s")):
            object.__setattr__(self, name, positive(getattr(self, name), unit, name))
        plane = 1.5 * self.sigma_z if self.sigma is None else self.sigma
        object.__setattr__(self, "sigma", positive(plane, "km/s", "sigma"))

    @property
    def nu(self) -> float:
        """Small-amplitude vertical frequency sqrt(2) sigma_z / h_z."""
        return float(np.sqrt(2) * self.sigma_z / self.h_z)

    @property
    def rho_c(self) -> float:
        """Midplane density sigma_z^2 / (2 pi G h_z^2) in M_sun / kpc^3."""
        return self.sigma_z**2 / (2 * np.pi * G * self.h_z**2)

    def z_max(self, energy: Numbers) -> Array:
        """Turning height 2 h_z arcsinh(sqrt(expm1(E / 2 sigma_z^2) / 2)) of vertical energy `energy`.

        >>> round(float(IsothermalSlab().z_max(1.0)), 6)
        1.085039
        """
        energy = plain(energy, "km2/s2", "energy")
        return 2 * self.h_z * np.arcsinh(np.sqrt(np.expm1(energy / (2 * self.sigma_z**2)) / 2))

    def value(self, R: Array, z: Array) -> Array:
        u = np.abs(z) / self.h_z + 0.0 * R
        return 2 * self.sigma_z**2 * (u + np.log1p(np.exp(-2 * u)) - np.log(2))

    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        slope = 2 * self.sigma_z**2 / self.h_z * np.tanh(z / self.h_z)
        return np.zeros_like(slope + R), slope + 0.0 * R

    def lift(self, R: Array, z: Array) -> Array:
        u = np.abs(z) / self.h_z + 0.0 * R
        half = np.sinh(np.minimum(u, 30.0) / 2)
        log = np.where(u < 30, np.log1p(2 * half * half), u - np.log(2))  # ln cosh u = log1p(2 sinh^2(u/2))
        small = u < 1e-4
        ratio = np.where(small, 0.5 - u * u / 12, log / np.where(small, 1.0, u * u))
        return 2 * self.sigma_z**2 / self.h_z**2 * ratio

    def frequencies(self, R: Numbers = 1.0) -> tuple[Array, Array, Array]:
        """(0, 0, nu): the slab has no structure in the plane."""
        zero = np.zeros_like(plain(R, "kpc", "R"))
        return zero, zero, zero + self.nu


@dataclass(frozen=True)
class MiyamotoNagai(Potential):
    """Phi = -G M / sqrt(R^2 + (a + sqrt(z^2 + b^2))^2) (Miyamoto & Nagai 1975).

    **Arguments:** `M`: mass (M_sun). `a`, `b`: radial and vertical scale (kpc), `a` >= 0 and `b` > 0. The
    defaults are those of galpy's MWPotential2014.

    >>> round(float(MiyamotoNagai()(8.0, 0.0)))
    -33825
    """

    M: Numbers = 6.8e10
    a: Numbers = 3.0
    b: Numbers = 0.28

    def __post_init__(self) -> None:
        object.__setattr__(self, "M", _mass(self.M))
        object.__setattr__(self, "a", float(plain(self.a, "kpc", "a")))
        object.__setattr__(self, "b", positive(self.b, "kpc", "b"))
        require(self.a >= 0, f"a must not be negative, but {self.a} came")

    def value(self, R: Array, z: Array) -> Array:
        return -G * self.M / np.sqrt(R * R + (self.a + np.sqrt(z * z + self.b**2)) ** 2)

    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        radial, vertical = self.pull(R * R, z)
        return radial * R, vertical * z

    def pull(self, R2: Array, z: Array) -> tuple[Array, Array]:
        s = np.sqrt(z * z + self.b**2)
        t = s + self.a
        d2 = R2 + t * t
        radial = G * self.M / (d2 * np.sqrt(d2))
        return radial, radial * t / s

    def lift(self, R: Array, z: Array) -> Array:
        s = np.sqrt(z * z + self.b**2)
        low, high = np.sqrt(R * R + (self.a + self.b) ** 2), np.sqrt(R * R + (self.a + s) ** 2)
        # D2^2 - D1^2 = (s - b)(2a + s + b) and s - b = z^2 / (s + b): nothing cancels.
        return G * self.M * (2 * self.a + s + self.b) / ((s + self.b) * low * high * (low + high))


@dataclass(frozen=True)
class NFW(Potential):
    """Phi = -(G M / (ln(1+c) - c/(1+c))) ln(1 + r/r_s) / r, r_s = r_vir / c (Navarro, Frenk & White 1997).

    **Arguments:** `M`: mass within `r_vir` (M_sun). `c`: concentration. `r_vir`: virial radius (kpc).

    >>> round(float(NFW()(8.0, 0.0)))
    -94072
    """

    M: Numbers = 0.8e12
    c: Numbers = 15.3
    r_vir: Numbers = 245.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "M", _mass(self.M))
        object.__setattr__(self, "c", positive(self.c, "", "c"))
        object.__setattr__(self, "r_vir", positive(self.r_vir, "kpc", "r_vir"))

    @cached_property
    def _amplitude(self) -> float:
        return G * self.M / (np.log1p(self.c) - self.c / (1 + self.c))

    @property
    def r_s(self) -> float:
        """Scale radius (kpc)."""
        return self.r_vir / self.c

    def value(self, R: Array, z: Array) -> Array:
        r = np.sqrt(R * R + z * z)
        x = r / self.r_s
        return (
            -self._amplitude / self.r_s * np.where(x < 1e-8, 1 - x / 2, np.log1p(x) / np.maximum(x, 1e-300))
        )

    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        pull, _ = self.pull(R * R, z)
        return pull * R, pull * z

    def pull(self, R2: Array, z: Array) -> tuple[Array, Array]:
        r2 = R2 + z * z
        r = np.sqrt(r2)
        x = r * (1 / self.r_s)
        y = 1 + x
        # numpy's log is several times faster than log1p, and as good away from the centre.
        mass = np.log(y) + 1 / y - 1 if x.size and x.min() > 0.05 else np.log1p(x) - x / y
        both = self._amplitude * mass / (r2 * r)
        return both, both

    def lift(self, R: Array, z: Array) -> Array:
        r1, r2 = np.abs(R) + 0.0 * z, np.sqrt(R * R + z * z)
        x1, x2 = r1 / self.r_s, r2 / self.r_s
        step = z * z / (r1 + r2) / self.r_s  # x2 - x1
        d = step / (1 + x1)
        ratio = np.where(d < 1e-8, 1 - d / 2, np.log1p(d) / np.maximum(d, 1e-300))
        difference = (np.log1p(x1) - x1 / (1 + x1) * ratio) / (x1 * x2)
        return self._amplitude / self.r_s**2 * difference / (r1 + r2)


@dataclass(frozen=True)
class Composite(Potential):
    """The sum of potentials.

    **Arguments:** `parts`: the potentials.

    >>> len(Composite((MiyamotoNagai(), NFW())).parts)
    2
    """

    parts: tuple[Potential, ...]

    def __post_init__(self) -> None:
        flat: list[Potential] = []
        for part in self.parts:
            require(isinstance(part, Potential), f"parts must be potentials, but {type(part).__name__} came")
            flat.extend(part.parts if isinstance(part, Composite) else (part,))
        require(bool(flat), "parts must hold at least one potential")
        object.__setattr__(self, "parts", tuple(flat))

    def value(self, R: Array, z: Array) -> Array:
        return _total([p.value(R, z) for p in self.parts])

    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        pairs = [p.gradient(R, z) for p in self.parts]
        return _total([p[0] for p in pairs]), _total([p[1] for p in pairs])

    def pull(self, R2: Array, z: Array) -> tuple[Array, Array]:
        pairs = [p.pull(R2, z) for p in self.parts]
        return _total([p[0] for p in pairs]), _total([p[1] for p in pairs])

    def lift(self, R: Array, z: Array) -> Array:
        return _total([p.lift(R, z) for p in self.parts])


def milky_way(halo: bool = True) -> Potential:
    """Our default Milky Way: a Miyamoto-Nagai disk in an NFW halo, those of galpy's MWPotential2014.

    The bulge of that model is left out. These are this package's defaults, not a paper's.

    **Arguments:** `halo`: whether the NFW halo is in.
    **Returns:** the potential.

    >>> milky_way(halo=False)
    MiyamotoNagai(M=68000000000.0, a=3.0, b=0.28)
    """
    return MiyamotoNagai() + NFW() if halo else MiyamotoNagai()


def _mass(value: Numbers) -> float:
    mass = float(plain(value, "Msun", "M"))
    require(bool(mass >= 0 and np.isfinite(mass)), f"M must be a mass >= 0, but {value!r} came")
    return mass


def _total(arrays: Sequence[Array]) -> Array:
    result = arrays[0]
    for array in arrays[1:]:
        result = result + array
    return result
