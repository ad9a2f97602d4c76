"""Unperturbed distribution functions f0(I) and their gradients."""

from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from jostle.core.errors import require
from jostle.disk.adapters import as_potential
from jostle.disk.potentials import IsothermalSlab, Potential, milky_way
from jostle.disk.units import Array, Numbers, number, plain, positive
from jostle.disk.vertical import VerticalActions


class PseudoIsothermal:
    r"""The pseudo-isothermal disk of near-circular orbits (epicyclic in the plane, separable vertically).

        f0 = [Omega Sigma / (pi kappa sigma_R^2)]_{R_c} exp(-kappa I_R / sigma_R^2) f_z(I_z; R_c) for L_z > 0,
        f_z = exp(-E_z(I_z) / sigma_z^2) / (2 pi \int exp(-E_z / sigma_z^2) dI_z),

    with Sigma ~ exp(-R_c / h_R) and both dispersions squared ~ exp(-R_c / h_sigma). f_z is normalised by
    quadrature, so that f0 over all actions and angles is 2 pi int Sigma R dR.

    **Arguments:** `potential`: of this room, galpy or gala, or a function Phi(R, z); our Milky Way if `None`.
    `sigma_z`, `sigma_R`: dispersions at `R_sun` (km/s). `Sigma`: surface density at `R_sun` (M_sun/kpc^2).
    `h_R`, `h_sigma`: scale lengths (kpc); `h_sigma` is `h_R` if `None`. `z_max`: reach of the vertical tables
    (kpc). The defaults are this package's.

    >>> disk = PseudoIsothermal()
    >>> round(disk.sigma_z_at(8.0), 1), round(disk.mean_action(8.0), 2)
    (23.0, 10.79)
    """

    def __init__(
        self,
        potential: Any = None,
        sigma_z: Numbers = 23.0,
        sigma_R: Numbers = 35.0,
        Sigma: Numbers = 5.0e7,
        h_R: Numbers = 2.5,
        h_sigma: Numbers | None = None,
        R_sun: Numbers = 8.0,
        z_max: Numbers | None = None,
    ) -> None:
        self.potential: Potential = milky_way() if potential is None else as_potential(potential)
        self.sigma_z = positive(sigma_z, "km/s", "sigma_z")
        self.sigma_R = positive(sigma_R, "km/s", "sigma_R")
        self.Sigma = positive(Sigma, "Msun/kpc2", "Sigma")
        self.h_R = positive(h_R, "kpc", "h_R")
        self.h_sigma = self.h_R if h_sigma is None else positive(h_sigma, "kpc", "h_sigma")
        self.R_sun = positive(R_sun, "kpc", "R_sun")
        self.z_max = z_max
        self._tables: dict[float, VerticalActions] = {}
        self._slopes: dict[float, Any] = {}

    @property
    def slab(self) -> bool:
        """Whether there is only vertical structure."""
        return isinstance(self.potential, IsothermalSlab)

    def vertical(self, R: Numbers) -> VerticalActions:
        """The vertical tables at radius `R` (kpc), built once."""
        R = positive(R, "kpc", "R")
        if R not in self._tables:
            self._tables[R] = VerticalActions(self.potential, R, self.z_max)
        return self._tables[R]

    def sigma_z_at(self, R: Numbers) -> float:
        """Vertical dispersion at `R` (km/s)."""
        return self.sigma_z * float(np.exp(-(number(R, "kpc", "R") - self.R_sun) / (2 * self.h_sigma)))

    def sigma_R_at(self, R: Numbers) -> float:
        """Radial dispersion at `R` (km/s)."""
        return self.sigma_R * float(np.exp(-(number(R, "kpc", "R") - self.R_sun) / (2 * self.h_sigma)))

    def spread(self, R: Array) -> tuple[Array, Array]:
        """(sigma_R^2, sigma_z^2) at radii `R`."""
        fall = np.exp(-(R - self.R_sun) / self.h_sigma)
        return self.sigma_R**2 * fall, self.sigma_z**2 * fall

    def vertical_weights(self, R: float) -> tuple[Array, Array]:
        """(J, weights) of the tables' tori such that sum(weights) = 1: the share of stars on each torus."""
        va = self.vertical(R)
        # dJ = 2 s ds / Omega, trapezoid in s; smooth and decaying, so spectrally accurate.
        density = np.exp(-(va.s**2) / self.sigma_z_at(R) ** 2) * 2 * va.s / va.Omega_grid
        return va.J_grid, density / density.sum()

    def vertical_norm(self, R: float) -> float:
        """N(R) = int exp(-E_z / sigma_z^2) dI_z (kpc km/s)."""
        va = self.vertical(R)
        density = np.exp(-(va.s**2) / self.sigma_z_at(R) ** 2) * 2 * va.s / va.Omega_grid
        return float(density.sum() * (va.s[1] - va.s[0]))

    def mean_action(self, R: Numbers) -> float:
        """<I_z> at `R` (kpc km/s)."""
        J, weights = self.vertical_weights(number(R, "kpc", "R"))
        return float((J * weights).sum())

    def value(self, R_c: Numbers, J_z: Numbers, I_R: Numbers) -> Array:
        """f0(I) at guiding radius `R_c` (M_sun / (kpc km/s)^3)."""
        require(not self.slab, "a slab has no planar distribution; its f0 is exp(-E_z / sigma_z^2)")
        R_c = number(R_c, "kpc", "R_c")
        J_z, I_R = plain(J_z, "kpc km/s", "J_z"), plain(I_R, "kpc km/s", "I_R")
        omega, kappa, _ = (float(f) for f in self.potential.frequencies(R_c))
        sR2, sz2 = self.sigma_R_at(R_c) ** 2, self.sigma_z_at(R_c) ** 2
        surface = self.Sigma * np.exp(-(R_c - self.R_sun) / self.h_R)
        plane = omega * surface / (np.pi * kappa * sR2) * np.exp(-kappa * I_R / sR2)
        s = self.vertical(R_c).radius_of(J_z)
        return plane * np.exp(-(s**2) / sz2) / (2 * np.pi * self.vertical_norm(R_c))

    def vertical_gradient(self, R: float, s: Array) -> Array:
        """d ln f0 / dI_z = -Omega_z / sigma_z^2 on the tori s = sqrt(E_z)."""
        return -self.vertical(R).frequency_of(s) / self.sigma_z_at(R) ** 2

    def planar_gradient(self, R: float, s: Array, I_R: float) -> tuple[float, Array]:
        """(d ln f0 / dI_R, d ln f0 / dL_z) at guiding radius `R`.

        The second is taken along R_c(L_z), dR_c/dL_z = 2 Omega / (kappa^2 R_c). How E_z(I_z; R_c) changes
        with R_c is exact to first order: the average of d Phi_z / dR over the torus.
        """
        omega, kappa, _ = (float(f) for f in self.potential.frequencies(R))
        sR2, sz2 = self.sigma_R_at(R) ** 2, self.sigma_z_at(R) ** 2
        h = 1e-3 * R
        (o1, k1, _), (o2, k2, _) = self.potential.frequencies(R - h), self.potential.frequencies(R + h)
        dln_omega, dln_kappa = np.log(o2 / o1) / (2 * h), np.log(k2 / k1) / (2 * h)
        dE = self.energy_slope(R, s)
        E = s**2
        grid = self.vertical(R).s
        _, weights = self.vertical_weights(R)
        # d/dR of E/sigma_z^2 at fixed I_z; sigma^-2 grows as exp(R / h_sigma).
        steepen = (dE + E / self.h_sigma) / sz2
        dlnN = -float((weights * (self.energy_slope(R, grid) + grid**2 / self.h_sigma) / sz2).sum())
        by_R = (
            dln_omega
            - 1 / self.h_R
            - dln_kappa
            + 1 / self.h_sigma
            - kappa * I_R / sR2 * (dln_kappa + 1 / self.h_sigma)
            - steepen
            - dlnN
        )
        return -kappa / sR2, by_R * 2 * omega / (kappa**2 * R)

    def drift(self, R: float, s: Array, I_R: float) -> Array:
        """What warm stars add to Omega_phi = dH0/dL_z, H0 = E_c + kappa I_R + E_z(I_z; R_c) (km/s/kpc)."""
        omega, kappa, _ = (float(f) for f in self.potential.frequencies(R))
        h = 1e-3 * R
        low, high = (float(self.potential.frequencies(x)[1]) for x in (R - h, R + h))
        by_R = (high - low) / (2 * h) * I_R + self.energy_slope(R, s)
        return by_R * 2 * omega / (kappa**2 * R)

    def energy_slope(self, R: float, s: Array) -> Array:
        """dE_z/dR at fixed I_z: the torus average of d[Phi(R, z) - Phi(R, 0)]/dR."""
        if len(s) <= 16:
            return self._direct_slope(R, s)
        if R not in self._slopes:
            grid = self.vertical(R).s[::2]
            self._slopes[R] = make_interp_spline(grid, self._direct_slope(R, grid), k=5)
        return self._slopes[R](s)

    def _direct_slope(self, R: float, s: Array) -> Array:
        z, _, g, _ = self.vertical(R).torus(s, 256)
        radius = np.full_like(z, R)
        change = self.potential.gradient(radius, z)[0] - self.potential.gradient(radius, 0 * z)[0]
        return (change * g).mean(axis=1)

    def epicycles(self, R: float, count: int) -> tuple[Array, Array]:
        """Gauss-Laguerre nodes I_R (kpc km/s) and weights of exp(-kappa I_R / sigma_R^2)."""
        x, weights = np.polynomial.laguerre.laggauss(count)
        kappa = float(self.potential.frequencies(R)[1])
        return x * self.sigma_R_at(R) ** 2 / kappa, weights


def as_disk(thing: Any) -> PseudoIsothermal:
    """Take a disk, or an isothermal slab or another potential to put our default disk into.

    >>> as_disk(IsothermalSlab()).slab
    True
    """
    if isinstance(thing, PseudoIsothermal):
        return thing
    if isinstance(thing, IsothermalSlab):
        # One dispersion everywhere: an infinite scale length.
        return PseudoIsothermal(thing, sigma_z=thing.sigma_z, sigma_R=thing.sigma, h_R=1e12)
    return PseudoIsothermal(as_potential(thing))
