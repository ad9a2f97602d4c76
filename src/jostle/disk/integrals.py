"""The integrals of motion that f0 of a disk rests on, for stars on full three-dimensional orbits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from jostle.core.errors import require
from jostle.disk.distributions import PseudoIsothermal
from jostle.disk.potentials import Potential
from jostle.disk.units import Array

_H = 1e-3  # relative step of the derivative by R_c


@dataclass(frozen=True)
class VerticalEnergy:
    r"""The vertical energy of a star carried to its guiding radius: a Staeckel third integral.

    In prolate coordinates R = D sinh u sin v, z = D cosh u cos v with the focal length D, and with the
    potential taken at u = u_0 (sinh u_0 = R_c / D), as in Binney's fudge (2012, MNRAS 426, 1324),

        E_z' = [p_v^2 / 2 D^2 + (L_z^2 / 2 D^2) cot^2 v + E cos^2 v
                + (sinh^2 u_0 + sin^2 v) Phi(u_0, v) - cosh^2 u_0 Phi(R_c, 0)] / cosh^2 u_0.

    It is exact for Staeckel potentials, and v_z^2 / 2 + Phi(R_c, z) - Phi(R_c, 0) for cool stars. Along warm
    orbits of our Milky Way (35 km/s radially) it scatters by half a per cent, where the adiabatic
    E_z nu(R_c) / nu(R) does by three.

    **Arguments:** `potential`. `guide`: R_c, and `D`: the focal length of each star (kpc), both kept fixed.
    """

    potential: Potential
    guide: Array
    D: Array

    def value(self, R: Array, z: Array, vR: Array, vz: Array, E: Array, L: Array) -> Array:
        """E_z' in (km/s)^2."""
        momentum, cos2 = self._prolate(R, z)
        p, sin2, D2 = momentum(vR, vz), 1 - cos2, self.D**2
        s0 = self.guide**2 / D2
        height = self.D * np.sqrt((1 + s0) * cos2)
        column = (s0 + sin2) * self.potential.value(self.guide * np.sqrt(sin2), height)
        column = column - (1 + s0) * self.potential.value(self.guide, 0 * self.guide)
        return (0.5 * p * p / D2 + 0.5 * L * L / D2 * cos2 / sin2 + E * cos2 + column) / (1 + s0)

    def work(
        self,
        place: tuple[Array, Array],
        vel: tuple[Array, Array],
        g: tuple[Array, Array],
        dE: Array,
        dL: Array,
        L: Array,
    ) -> Array:
        """dE_z' / dv . g for the gradient g = (g_R, g_z) of a potential with dE = v . g and dL = R g_phi."""
        momentum, cos2 = self._prolate(*place)
        D2 = self.D**2
        along = momentum(*vel) * momentum(*g) + L * dL * cos2 / (1 - cos2)
        return (along + D2 * cos2 * dE) / (D2 + self.guide**2)

    def _prolate(self, R: Array, z: Array) -> tuple[Callable[[Array, Array], Array], Array]:
        """The function p_v(v_R, v_z) at (R, z), and cos^2 v."""
        D2 = self.D**2
        half = 0.5 * (R * R + z * z - D2)
        sinh2 = (half + np.sqrt(half * half + D2 * R * R)) / D2  # of u
        cosh2 = 1 + sinh2
        cos2 = z * z / (D2 * cosh2)
        # p_v = D (v_R sinh u cos v - v_z cosh u sin v)
        along_R, along_z = z * np.sqrt(sinh2 / cosh2), self.D * np.sqrt(cosh2 * (1 - cos2))
        return (lambda vR, vz: vR * along_R - vz * along_z), cos2


def focal_length(potential: Potential, R: Array, z: Array) -> Array:
    """The focal length (kpc) of the Staeckel potential that is closest at (R, z), kept within 0.05-20 R.

    D^2 = z^2 - R^2 + [3 z Phi_R - 3 R Phi_z + R z (Phi_RR - Phi_zz)] / Phi_Rz (Sanders 2012, MNRAS 426, 128).

    >>> from jostle.disk.potentials import milky_way
    >>> focal_length(milky_way(), np.array([8.0]), np.array([0.3])).round(2)
    array([4.37])
    """
    h = 1e-3
    (right, up_r), (left, down_r) = potential.gradient(R + h, z), potential.gradient(R - h, z)
    (_, above), (_, below) = potential.gradient(R, z + h), potential.gradient(R, z - h)
    radial, vertical = potential.gradient(R, z)
    mixed = (up_r - down_r) / (2 * h)
    bend = (right - left - above + below) / (2 * h)
    safe = np.where(np.abs(mixed) < 1e-12 * np.abs(bend), -1e-12 * np.abs(bend), mixed)
    D2 = z * z - R * R + (3 * z * radial - 3 * R * vertical + R * z * bend) / safe
    # Where the potential separates in R and z, Phi_Rz is zero and the coordinates are cylindrical.
    D2 = np.where(np.abs(D2) > 400 * R * R, 400 * R * R, D2)
    return np.sqrt(np.clip(D2, 0.0025 * R * R, 400 * R * R))


@dataclass(frozen=True)
class Integrals:
    r"""ln f0 of a disk as a function of integrals of motion, and its change to first order.

        ln f0 = ln(Omega nu / kappa) + R_c (2 / h_sigma - 1 / h_R) - E_R / sigma_R^2 - E_z' / sigma_z^2,
        E_R = E - E_c(L_z) - E_z',

    up to a constant, with E_c the energy of the circular orbit. For cool stars E_R is kappa I_R and E_z' the
    vertical energy at R_c, so that this is the pseudo-isothermal disk; E and L_z are exact integrals also for
    warm stars, where kappa^2 (R - R_c)^2 + v_R^2 is none.

    **Arguments:** `guide`: R_c (kpc). `omega`, `kappa`: frequencies there (km/s/kpc). `D`: focal lengths (kpc).
    `E_R`, `E_z`: (km/s)^2. `sR2`, `sz2`: the dispersions squared at R_c. `bend`: how E_z' grows with R_c.
    `front`: the part of ln f0 that depends on R_c alone. `slope`: the derivative of ln f0 by R_c.
    """

    guide: Array
    omega: Array
    kappa: Array
    D: Array
    E_R: Array
    E_z: Array
    sR2: Array
    sz2: Array
    bend: Array
    front: Array
    slope: Array

    @classmethod
    def of(
        cls, disk: PseudoIsothermal, place: list[Array], vel: list[Array], like: "Integrals | None" = None
    ) -> "Integrals":
        """From Cartesian positions and velocities; with the focal lengths of the stars `like`.

        **Raises:** `JostleError` if a star does not rotate with the disk.
        """
        potential = disk.potential
        R = np.hypot(place[0], place[1])
        L = place[0] * vel[1] - place[1] * vel[0]
        v_R = (place[0] * vel[0] + place[1] * vel[1]) / R
        require(bool(np.all(L > 0)), "the disk's stars must rotate with L_z > 0")
        grid = np.linspace(0.25 * R.min(), 3.0 * R.max(), 1024)
        omega, kappa, nu = potential.frequencies(grid)
        guide = CubicSpline(omega * grid**2, grid)(L)
        logs = CubicSpline(grid, np.log(np.stack([omega, kappa, nu], axis=1)))
        at, steep = np.exp(logs(guide)), logs(guide, 1)
        rise = 0.5 * vel[2] ** 2 + potential.lift(R, place[2]) * place[2] ** 2
        energy = 0.5 * (vel[0] ** 2 + vel[1] ** 2) + rise + potential.value(R, 0 * R)
        if like is None:
            typical = np.maximum(np.sqrt(rise) / np.exp(logs(R)[:, 2]), 0.02)  # rms height of the orbit
            D = focal_length(potential, guide, typical)
        else:
            D = like.D
        E_z, inner, outer = (
            VerticalEnergy(potential, guide * x, D).value(R, place[2], v_R, vel[2], energy, L)
            for x in (1.0, 1 - _H, 1 + _H)
        )
        circular = 0.5 * (L / guide) ** 2 + potential.value(guide, 0 * guide)
        E_R = energy - circular - E_z
        sR2, sz2 = disk.spread(guide)
        grow = 1 / disk.h_sigma
        front = np.log(at[:, 0] * at[:, 2] / at[:, 1]) + guide * (2 * grow - 1 / disk.h_R)
        slope = steep[:, 0] - steep[:, 1] + steep[:, 2] - 1 / disk.h_R + 2 * grow
        slope = slope - grow * (E_R / sR2 + E_z / sz2)
        bend = (outer - inner) / (2 * _H * guide)
        return cls(guide, at[:, 0], at[:, 1], D, E_R, E_z, sR2, sz2, bend, front, slope)

    def of_share(self, potential: Potential, part: slice) -> VerticalEnergy:
        """The third integral of some of the stars."""
        return VerticalEnergy(potential, self.guide[part], self.D[part])

    @property
    def log_f0(self) -> Array:
        """ln f0 up to a constant."""
        return self.front - self.E_R / self.sR2 - self.E_z / self.sz2

    def guide_change(self, dL: Array) -> Array:
        """dR_c = 2 Omega / (kappa^2 R_c) dL_z."""
        return 2 * self.omega / (self.kappa**2 * self.guide) * dL

    def change(self, dE: Array, dL: Array, dE_z: Array) -> Array:
        """d ln f0 to first order in the changes of energy, angular momentum and E_z'."""
        radial = dE - self.omega * dL - dE_z
        return -radial / self.sR2 - dE_z / self.sz2 + self.slope * self.guide_change(dL)
