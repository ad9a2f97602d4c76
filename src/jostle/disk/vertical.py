"""Vertical actions, angles and frequencies from tables."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import map_coordinates, spline_filter

from jostle.core.errors import require
from jostle.disk.adapters import as_potential
from jostle.disk.potentials import IsothermalSlab, Potential
from jostle.disk.units import Array, Numbers, plain, positive

_PAD = 24  # nodes beyond the end: a quintic spline forgets its boundary by a factor 0.43 a node


class EvenTable:
    """A quintic spline of functions even in every coordinate, on a uniform grid that starts at zero.

    The boundary at zero is exact (mirrored); the caller pads the other end.
    """

    def __init__(self, values: Array, steps: tuple[float, ...]) -> None:
        self.coefficients = spline_filter(values, order=5, mode="mirror")
        self.steps = steps

    def __call__(self, *points: Array) -> Array:
        where = np.stack([p.ravel() / s for p, s in zip(points, self.steps, strict=True)])
        result = map_coordinates(self.coefficients, where, order=5, mode="mirror", prefilter=False)
        return result.reshape(points[0].shape)


@dataclass(frozen=True)
class Coefficients:
    """Fourier coefficients of a function of the vertical angle.

    **Arguments:** `n`: the integers -n_max ... n_max. `values`: complex, one row a torus, one column an n.
    """

    n: Array
    values: Array

    def __getitem__(self, n: int) -> Array:
        return self.values[:, n - int(self.n[0])]


class VerticalActions:
    r"""Actions, frequencies and angles of the one-dimensional vertical motion at a fixed radius.

    With y = sign(z) sqrt(Phi(z) - Phi(0)) = s sin(theta), v_z = sqrt(2) s cos(theta), s = sqrt(E_z) and
    P(y) = dz/dy, nothing cancels at the turning points:

        J = (s^2 / (sqrt(2) pi)) \oint cos^2(theta) P dtheta,   2 pi / Omega = \oint P dtheta / sqrt(2),
        dw / dtheta = Omega P(s sin(theta)) / sqrt(2).

    The angle w is zero where the star crosses z = 0 upwards, and grows with time. Everything is tabulated
    once, on a grid uniform in s; a star then costs a few look-ups.

    **Arguments:** `potential`: of this room, galpy or gala, or a function Phi(R, z). `R`: radius (kpc).
    `z_max`: the largest turning height (kpc) the tables reach; 8 h_z for a slab, else 5 kpc. `nodes`: in s.

    >>> J, Omega, w = VerticalActions(IsothermalSlab())(0.0, 2**0.5)
    >>> round(float(J), 10), round(float(Omega), 10), float(w)
    (0.7520755327, 1.2536482004, 0.0)
    """

    def __init__(
        self, potential: Any, R: Numbers = 8.0, z_max: Numbers | None = None, nodes: int = 768
    ) -> None:
        self.potential: Potential = as_potential(potential)
        self.R = positive(R, "kpc", "R")
        if z_max is None:
            z_max = 8 * self.potential.h_z if isinstance(self.potential, IsothermalSlab) else 5.0
        self.z_max = positive(z_max, "kpc", "z_max")
        require(nodes >= 64, f"nodes must be at least 64, but {nodes} came")
        self.s_max = float(self.rise(np.asarray(self.z_max)))
        require(
            bool(np.isfinite(self.s_max) and self.s_max > 0), "the potential must rise away from the plane"
        )
        step = self.s_max / (nodes - 1)
        self._s = step * np.arange(nodes + _PAD)
        self._height_tables(step)
        self._torus_tables(step)
        self.s, self.J_grid, self.Omega_grid = (a[:nodes] for a in (self._s, self._J, self._Omega))

    def rise(self, z: Array) -> Array:
        """y(z) = sign(z) sqrt(Phi(R, z) - Phi(R, 0)) in km/s, from kpc."""
        return z * np.sqrt(self.potential.lift(np.asarray(self.R), z))

    def __call__(self, z: Numbers, vz: Numbers) -> tuple[Array, Array, Array]:
        """Actions, frequencies and angles of stars.

        **Arguments:** `z`, `vz`: heights (kpc) and vertical velocities (km/s), any one shape.
        **Returns:** (J in kpc km/s, Omega in km/s/kpc, w in radians in [0, 2 pi)).
        **Raises:** `JostleError` if a star is not finite or rises above the tables' `z_max`.
        """
        s, theta = self._polar(z, vz)
        return self.action_of(s), self.frequency_of(s), self.angle(s, theta)

    def polar(self, z: Numbers, vz: Numbers) -> tuple[Array, Array]:
        """(s, w) of stars: the square root of the vertical energy, and the angle."""
        s, theta = self._polar(z, vz)
        return s, self.angle(s, theta)

    def energy(self, z: Numbers, vz: Numbers) -> Array:
        """Vertical energy E_z = v_z^2 / 2 + Phi(R, z) - Phi(R, 0) in (km/s)^2."""
        return self._polar(z, vz)[0] ** 2

    def angle(self, s: Array, theta: Array) -> Array:
        """The angle w(s, theta) in [0, 2 pi)."""
        folded = np.abs((theta + np.pi / 2) % np.pi - np.pi / 2)
        w = theta + self._bend(s, folded) * np.sin(2 * theta)
        return np.where(w < 0, w + 2 * np.pi, w)

    def reach(self, z: Numbers, vz: Numbers) -> Array:
        """Which stars are finite and stay within the tables (a boolean array)."""
        z, vz = np.broadcast_arrays(plain(z, "kpc", "z"), plain(vz, "km/s", "vz"))
        good = np.isfinite(z) & np.isfinite(vz)
        y = self.rise(np.where(good, z, 0.0))
        return good & (0.5 * vz * vz + y * y <= self.s_max**2)

    def inverse(self, J: Numbers, w: Numbers) -> tuple[Array, Array]:
        """Heights and velocities (kpc, km/s) from actions and angles.

        **Raises:** `JostleError` if an action is negative or above the tables' end.

        >>> va = VerticalActions(IsothermalSlab())
        >>> z, vz = va.inverse(*va(0.3, -0.8)[::2])
        >>> round(float(z), 9), round(float(vz), 9)
        (0.3, -0.8)
        """
        J, w = np.broadcast_arrays(plain(J, "kpc km/s", "J"), plain(w, "rad", "w"))
        top = float(self.J_grid[-1])
        require(
            bool(np.all((J >= 0) & (top >= J))),
            f"J must be within 0 and {top:.6g} kpc km/s, where the table ends",
        )
        s = self.radius_of(J)
        theta = w % (2 * np.pi)
        for _ in range(6):  # Newton; dw/dtheta is known and never small
            error = (self.angle(s, np.arctan2(np.sin(theta), np.cos(theta))) - w + np.pi) % (
                2 * np.pi
            ) - np.pi
            theta = theta - error / (self._Omega_table(s) / np.sqrt(2) * self._P(np.abs(s * np.sin(theta))))
        y = s * np.sin(theta)
        return y * self._height(np.abs(y)), np.sqrt(2) * s * np.cos(theta)

    def radius_of(self, J: Array) -> Array:
        """s = sqrt(E_z) of actions: the inverse of the table, polished by Newton with dJ/ds = 2 s / Omega."""
        s = np.interp(np.sqrt(J), np.sqrt(self._J), self._s)
        for _ in range(4):
            safe = np.maximum(s, 1e-300)
            s = np.abs(s - (self._J_table(s) * s * s - J) * self._Omega_table(s) / (2 * safe))
        return s

    def action_of(self, s: Array) -> Array:
        """J as a function of s = sqrt(E_z)."""
        return self._J_table(s) * s * s

    def frequency_of(self, s: Array) -> Array:
        """Omega_z as a function of s = sqrt(E_z)."""
        return self._Omega_table(s)

    def frequency(self, J: Numbers) -> Array:
        """Omega_z(J) in km/s/kpc."""
        return self.frequency_of(self.radius_of(plain(J, "kpc km/s", "J")))

    def shear(self, J: Numbers) -> Array:
        """dOmega_z/dJ in 1/kpc^2."""
        return self.shear_of(self.radius_of(plain(J, "kpc km/s", "J")))

    def shear_of(self, s: Array) -> Array:
        """dOmega_z/dJ as a function of s = sqrt(E_z): (dOmega/dE) Omega, E = s^2."""
        return self._dOmega_dE(s) * self._Omega_table(s)

    def torus(self, s: Array, points: int = 512) -> tuple[Array, Array, Array, Array]:
        """(z, v_z, g, w) on uniform theta for every s: rows are tori; g = dw/dtheta is the weight."""
        theta = 2 * np.pi * np.arange(points) / points
        y = s[:, None] * np.sin(theta)
        P = self._P(np.abs(y))
        g = P / P.mean(axis=1, keepdims=True)
        return y * self._height(np.abs(y)), np.sqrt(2) * s[:, None] * np.cos(theta), g, _integrate(g)

    def fourier(
        self, psi: Callable[..., Array], n_max: int = 8, J: Numbers | None = None, points: int = 512
    ) -> Coefficients:
        """Fourier coefficients F_n(J) = (1/2 pi) int psi exp(-i n w) dw of a function of (z, v_z).

        **Arguments:** `psi`: function of (z, v_z), or of z alone. `n_max`: the largest |n|. `J`: the tori
        (kpc km/s); the tables' own nodes if `None`. `points`: nodes in theta (spectrally accurate).
        **Returns:** the coefficients, complex, `(N, 2 n_max + 1)`.

        >>> c = VerticalActions(IsothermalSlab()).fourier(lambda z: z, n_max=3, J=[1.0])
        >>> bool(abs(c[2][0]) < 1e-12), bool(abs(c[1][0]) > 0.1)
        (True, True)
        """
        s = self.s if J is None else self.radius_of(np.atleast_1d(plain(J, "kpc km/s", "J")))
        return self.project(psi, n_max, s, points)

    def project(self, psi: Callable[..., Array], n_max: int, s: Array, points: int = 512) -> Coefficients:
        """As `fourier`, on the tori s = sqrt(E_z)."""
        require(1 <= n_max < points // 4, f"n_max must be between 1 and points / 4, but {n_max} came")
        z, v, g, w = self.torus(s, points)
        try:
            values = psi(z, v)
        except TypeError:
            values = psi(z)
        weighted = np.asarray(values) * g / points
        turn = np.exp(-1j * w)
        n = np.arange(-n_max, n_max + 1)
        out = np.empty((len(s), len(n)), complex)
        power = np.ones_like(turn)
        real = np.isrealobj(weighted)
        for k in range(n_max + 1):
            out[:, n_max + k] = np.einsum("ij,ij->i", weighted, power)
            out[:, n_max - k] = (
                out[:, n_max + k].conj() if real else np.einsum("ij,ij->i", weighted, power.conj())
            )
            power = power * turn
        return Coefficients(n, out)

    def _polar(self, z: Numbers, vz: Numbers) -> tuple[Array, Array]:
        z, vz = np.broadcast_arrays(plain(z, "kpc", "z"), plain(vz, "km/s", "vz"))
        y = self.rise(z)
        v = vz / np.sqrt(2)
        s = np.sqrt(y * y + v * v)
        if not np.all(s <= self.s_max):
            require(bool(np.isfinite(s).all()), "z and vz must be finite; drop the rows with NaN first")
            raise_to = int(np.sum(s > self.s_max))
            require(
                False,
                f"{raise_to} of {s.size} stars rise above z_max = {self.z_max:g} kpc, where the tables end; "
                "give VerticalActions a larger z_max or drop them (see reach)",
            )
        return s, np.arctan2(y, v)

    def _height_tables(self, step: float) -> None:
        # z(y) at uniform y by Newton on y(z), from the inverse of a coarse table.
        count = 2 * len(self._s)
        y = np.linspace(0.0, self._s[-1], count)
        far = self.z_max
        while float(self.rise(np.asarray(far))) < y[-1]:
            far *= 1.2
            require(
                far < 50 * self.z_max,
                "the potential does not rise enough beyond z_max; choose a smaller z_max",
            )
        coarse = far * np.linspace(0, 1, 512) ** 1.5
        z = np.interp(y, self.rise(coarse), coarse)
        for _ in range(8):
            slope = self._rise_slope(z)
            z = np.maximum(z - (self.rise(z) - y) / slope, 0.0)
        grid = y[1]
        slope = 1 / self._rise_slope(z)
        ratio = np.where(y > 0, z / np.where(y > 0, y, 1.0), slope[0])
        self._P = EvenTable(slope, (grid,))
        self._height = EvenTable(ratio, (grid,))

    def _rise_slope(self, z: Array) -> Array:
        # dy/dz = Phi'(z) / (2 y), with the limit sqrt(lift(0)) in the plane.
        R = np.asarray(self.R)
        root = np.sqrt(self.potential.lift(R, z))
        small = np.abs(z) < 1e-9 * self.z_max
        safe = np.where(small, 1.0, z)
        return np.where(small, root, self.potential.gradient(R, safe)[1] / (2 * safe * root))

    def _torus_tables(self, step: float) -> None:
        points = 256
        while True:
            theta = 2 * np.pi * np.arange(points) / points
            P = self._P(np.abs(self._s[:, None] * np.sin(theta)))
            tail = np.abs(np.fft.rfft(P[-1]))
            if points >= 2048 or tail[-8:].max() < 1e-12 * tail[0]:
                break
            points *= 2
        mean = P.mean(axis=1)
        self._Omega = np.sqrt(2) / mean
        J_over_E = np.sqrt(2) * (P * np.cos(theta) ** 2).mean(axis=1)
        self._J = J_over_E * self._s**2
        self._J_table, self._Omega_table = EvenTable(J_over_E, (step,)), EvenTable(self._Omega, (step,))
        bend = _integrate(P / mean[:, None]) - theta
        quarter = points // 4
        turn = np.sin(2 * theta[1:quarter])
        table = np.empty((len(self._s), quarter + 1))
        table[:, 1:quarter] = bend[:, 1:quarter] / turn
        table[:, 0] = (P[:, 0] / mean - 1) / 2
        table[:, quarter] = (1 - P[:, quarter] / mean) / 2
        self._bend = EvenTable(table, (step, 2 * np.pi / points))
        energy_slope = make_interp_spline(self._s, self._Omega, k=5).derivative()(self._s)
        ratio = np.empty_like(self._s)
        ratio[1:] = energy_slope[1:] / (2 * self._s[1:])
        ratio[0] = (4 * ratio[1] - ratio[2]) / 3
        self._dOmega_dE = EvenTable(ratio, (step,))


def _integrate(g: Array) -> Array:
    """w(theta) = int_0^theta g of periodic rows with mean 1, by FFT."""
    points = g.shape[1]
    spectrum = np.fft.rfft(g - 1.0, axis=1)
    k = np.arange(spectrum.shape[1])
    spectrum[:, 1:] /= 1j * k[1:]
    spectrum[:, 0] = 0.0
    bend = np.fft.irfft(spectrum, points, axis=1)
    return 2 * np.pi * np.arange(points) / points + bend - bend[:, :1]
