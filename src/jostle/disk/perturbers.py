"""Perturbations that factor into a vertical shape, a wave in the plane and a time profile."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jostle.core.errors import require
from jostle.disk.profiles import Gaussian, Growing, Impulse, Profile, Saturating
from jostle.disk.units import Array, Numbers, number, positive
from jostle.disk.vertical import VerticalActions


@dataclass(frozen=True)
class Shape:
    """A vertical shape psi(z) of a perturbing potential with its slope.

    **Arguments:** `value`: psi(z). `slope`: dpsi/dz.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def odd_shape(strength: Numbers = 1.0) -> Shape:
    """psi = -strength z: a uniform push upwards by `strength` (km/s for an impulse); it bends the disk.

    >>> float(odd_shape(2.0).slope(np.array(0.3)))
    -2.0
    """
    a = number(strength, "km/s", "strength")
    return Shape(lambda z: -a * z, lambda z: -a + 0.0 * z)


def even_shape(strength: Numbers = 1.0) -> Shape:
    """psi = -strength z^2 / 2: a push away from the plane that grows with height; the disk breathes.

    >>> float(even_shape(2.0).slope(np.array(0.5)))
    -1.0
    """
    a = number(strength, "km/(s kpc)", "strength")
    return Shape(lambda z: -0.5 * a * z * z, lambda z: -a * z)


def wave_shape(k_z: Numbers, alpha_odd: float = 0.0, amplitude: Numbers = 1.0) -> Shape:
    """psi = -amplitude [alpha_odd sin(k_z z) + cos(k_z z)]; `k_z` in rad/kpc, `amplitude` in (km/s)^2.

    >>> float(wave_shape(1.5).value(np.array(0.0)))
    -1.0
    """
    k_z, amplitude = number(k_z, "rad/kpc", "k_z"), number(amplitude, "km2/s2", "amplitude")
    return Shape(
        lambda z: -amplitude * (alpha_odd * np.sin(k_z * z) + np.cos(k_z * z)),
        lambda z: -amplitude * k_z * (alpha_odd * np.cos(k_z * z) - np.sin(k_z * z)),
    )


class Perturbation(ABC):
    """What the mode sum and the orbit integrals need of a perturber.

    The potential is T(t) Re[psi(z) exp(i (k_R R + m (phi - Omega_P t)))].
    """

    profile: Profile
    m: int = 0
    k_R: float = 0.0
    Omega_P: float = 0.0
    #: Whether the vertical coefficients depend on where in the plane the stars are.
    local: bool = False

    @abstractmethod
    def vertical(self, va: VerticalActions, s: Array, n_max: int, R: float, phi: float) -> Array:
        """Coefficients psi_n on the tori s = sqrt(E_z), `(len(s), 2 n_max + 1)`."""

    @abstractmethod
    def gradient(self, x: Array, y: Array, z: Array, t: float) -> tuple[Array, Array, Array]:
        """The Cartesian gradient of Phi_P at time t, without the factor delta(t) for an impulse."""

    @property
    def planar(self) -> bool:
        """Whether the perturbation varies in the plane, so that the radial and azimuthal motion matter."""
        return self.m != 0 or self.k_R != 0

    @property
    def instant(self) -> bool:
        """Whether it strikes at t = 0 and is over."""
        return isinstance(self.profile, Impulse)

    @property
    def timescale(self) -> float:
        """The shortest time over which the perturbation changes (kpc s/km); sets integration steps."""
        gamma = getattr(self.profile, "gamma", None)
        omega0 = getattr(self.profile, "omega0", None)
        rates = [r for r in (gamma, omega0, abs(self.m * self.Omega_P)) if r]
        return 1.0 / max(rates) if rates else np.inf

    def settled(self, R: float, phi: float) -> float:
        """The time from which on the mode sum holds for stars at (R, phi); for most, always."""
        return -np.inf

    def begin(self, t: float) -> float:
        """When the perturbation may be taken to begin, for a response asked at `t`."""
        return self.profile.window(t)[0]


@dataclass(frozen=True)
class Separable(Perturbation):
    """A perturbation with a vertical shape; the named ones below are made of it.

    **Arguments:** `shape`: psi(z) and its slope. `profile`: T(t). `m`, `k_R` (rad/kpc), `Omega_P`
    (km/s/kpc): the wave in the plane.
    """

    shape: Shape
    profile: Profile = field(default_factory=Impulse)
    m: int = 0
    k_R: float = 0.0
    Omega_P: float = 0.0

    def vertical(self, va: VerticalActions, s: Array, n_max: int, R: float, phi: float) -> Array:
        return va.project(lambda z, _: self.shape.value(z), n_max, s).values

    def gradient(self, x: Array, y: Array, z: Array, t: float) -> tuple[Array, Array, Array]:
        T = 1.0 if isinstance(self.profile, Impulse) else self.profile.value(t)
        if not self.planar:
            zero = np.zeros_like(z)
            return zero, zero, T * self.shape.slope(z)
        R = np.sqrt(x * x + y * y)
        phase = self.k_R * R + self.m * (np.arctan2(y, x) - self.Omega_P * t)
        cos, sin = T * np.cos(phase), T * np.sin(phase)
        psi = self.shape.value(z)
        dR, dphi_over_R = -psi * self.k_R * sin, -psi * self.m * sin / R
        return (
            dR * x / R - dphi_over_R * y / R,
            dR * y / R + dphi_over_R * x / R,
            self.shape.slope(z) * cos,
        )


@dataclass(frozen=True)
class Kick(Perturbation):
    """An instant displacement of all stars at t = 0: velocities by `dv` and heights by `dz`.

    The generator is psi = -dv z + dz v_z, so that to first order f1 = -dv df0/dv_z - dz df0/dz.

    **Arguments:** `dv`: km/s. `dz`: kpc.

    >>> float(Kick(dv=2.0).apply(np.array(0.1), np.array(5.0))[1])
    7.0
    """

    dv: Numbers = 0.0
    dz: Numbers = 0.0
    profile: Profile = field(default_factory=Impulse, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dv", number(self.dv, "km/s", "dv"))
        object.__setattr__(self, "dz", number(self.dz, "kpc", "dz"))
        require(self.dv != 0 or self.dz != 0, "a kick needs dv or dz different from zero")

    def vertical(self, va: VerticalActions, s: Array, n_max: int, R: float, phi: float) -> Array:
        return va.project(lambda z, v: -self.dv * z + self.dz * v, n_max, s).values

    def gradient(self, x: Array, y: Array, z: Array, t: float) -> tuple[Array, Array, Array]:
        require(self.dz == 0, "a shift in height is no potential; use the mode sum or liouville for it")
        zero = np.zeros_like(z)
        return zero, zero, zero - self.dv

    def apply(self, z: Array, vz: Array) -> tuple[Array, Array]:
        """Where the kick sends a star."""
        return z + self.dz, vz + self.dv


def GaussianPulse(psi: Shape, omega0: Numbers, unit_area: bool = True) -> Separable:
    """A pulse (omega0 / sqrt(pi)) exp(-omega0^2 t^2) of the vertical shape `psi`, centred on t = 0.

    **Arguments:** `psi`: the shape. `omega0`: inverse duration (km/s/kpc). `unit_area`: see
    [`Gaussian`][jostle.disk.profiles.Gaussian].

    >>> GaussianPulse(odd_shape(), 2.0).timescale
    0.5
    """
    return Separable(psi, Gaussian(positive(omega0, "km/(s kpc)", "omega0"), unit_area))


def GrowingWave(
    psi: Shape,
    gamma: Numbers,
    saturate: bool = False,
    m: int = 0,
    k_R: Numbers = 0.0,
    Omega_P: Numbers = 0.0,
) -> Separable:
    """A wave that grows as exp(gamma t), for ever or until t = 0 (`saturate`), rotating at `Omega_P`.

    **Arguments:** `psi`: the shape. `gamma`, `Omega_P`: km/s/kpc. `k_R`: rad/kpc.

    >>> GrowingWave(even_shape(), 3.0, m=2, Omega_P=30.0).planar
    True
    """
    rate = positive(gamma, "km/(s kpc)", "gamma")
    wave = number(k_R, "rad/kpc", "k_R")
    pattern = number(Omega_P, "km/(s kpc)", "Omega_P")
    return Separable(psi, Saturating(rate) if saturate else Growing(rate), int(m), wave, pattern)


def SpiralArms(
    amplitude: Numbers,
    k_R: Numbers,
    k_z: Numbers,
    Omega_P: Numbers,
    m: int = 2,
    alpha_odd: float = 0.0,
    profile: Profile | None = None,
) -> Separable:
    """Spiral arms Phi_P = -A T(t) [alpha_odd sin(k_z z) + cos(k_z z)] cos[k_R R + m (phi - Omega_P t)].

    **Arguments:** `amplitude`: A ((km/s)^2). `k_R`: radial wave number (rad/kpc); its sign makes the arms
    trail or lead. `k_z`: rad/kpc. `Omega_P`: pattern speed (km/s/kpc). `m`: number of arms. `alpha_odd`:
    share of the odd (bending) part. `profile`: T(t); a pulse of 0.1 Gyr if `None`.

    >>> SpiralArms(500.0, -1.2, 1.5, 25.0).m
    2
    """
    require(int(m) == m and m >= 0, f"m must be a whole number >= 0, but {m!r} came")
    shape = wave_shape(k_z, float(alpha_odd), amplitude)
    wave, pattern = number(k_R, "rad/kpc", "k_R"), number(Omega_P, "km/(s kpc)", "Omega_P")
    return Separable(shape, profile or Gaussian(10.0, unit_area=False), int(m), wave, pattern)


def Bar(amplitude: Numbers, k_z: Numbers, Omega_P: Numbers, m: int = 2, **options: Any) -> Separable:
    """A bar: spiral arms without winding (k_R = 0), so the phase is the same at every radius.

    **Arguments:** as [`SpiralArms`][jostle.disk.perturbers.SpiralArms].

    >>> Bar(500.0, 1.5, 40.0).k_R
    0.0
    """
    return SpiralArms(amplitude, 0.0, k_z, Omega_P, m, **options)
