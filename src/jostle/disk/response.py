"""The linear response as a sum of Fourier modes in the angles."""

import warnings
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.special import jv

from jostle.core.errors import JostleError, require
from jostle.disk.checks import Check, compare
from jostle.disk.diffusion import GMCDiffusion
from jostle.disk.distributions import as_disk
from jostle.disk.maps import SpiralMap, sum_modes, turning_height
from jostle.disk.perturbers import Perturbation
from jostle.disk.units import GYR, Array, Numbers, angle, number, plain

WARN, REFUSE = 0.1, 0.3


class LinearityWarning(UserWarning):
    """The perturbation is so strong that the linear answer is off by several per cent."""


class LinearResponse:
    r"""f1 / f0 to first order in the perturbing potential, mode by mode.

    f1_k(I, t) = i (k . df0/dI) \int dtau Phi_k(I, tau) exp[-i omega_k (t - tau)] S_k(t - tau), summed with
    exp(i k . w) over k = (n, l, m). The plane is epicyclic, the vertical motion separable at R_c. A map at
    (R, phi) holds the stars with guiding radius within the window, averaged over epicycles with their f0
    weight at that azimuth.

    **Arguments:** `disk`: a `PseudoIsothermal` disk, a slab or a potential. `perturbation`: what nudges it.
    `diffusion`: collisions, or `None`. `n_max`, `l_max`: the largest |n| and |l|. `tol`: shells in n that
    together add less than this share of the norm are left out. `force`: answer even where the response is
    so strong (rms f1/f0 > 0.3) that a linear answer means nothing.
    **Raises:** `JostleError` when the response is beyond linear.

    >>> from jostle.disk.perturbers import Kick
    >>> from jostle.disk.potentials import IsothermalSlab
    >>> response = LinearResponse(IsothermalSlab(), Kick(dv=0.01), n_max=15, tol=0.0)
    >>> round(float(response(0.0, 1.0, 1e-9)), 6)  # just after the kick: v dv / sigma^2
    0.01
    """

    def __init__(
        self,
        disk: Any,
        perturbation: Perturbation,
        diffusion: GMCDiffusion | None = None,
        n_max: int = 8,
        l_max: int = 4,
        tol: float = 1e-3,
        force: bool = False,
    ) -> None:
        self.disk = as_disk(disk)
        require(
            isinstance(perturbation, Perturbation), f"perturbation must be one, but {perturbation!r} came"
        )
        require(
            not (perturbation.planar and self.disk.slab),
            "a slab has no plane; bars and arms need a galactic disk",
        )
        require(n_max >= 1 and l_max >= 0 and tol >= 0, "n_max must be >= 1, l_max and tol >= 0")
        self.perturbation, self.diffusion = perturbation, diffusion
        self.n_max, self.l_max = n_max, (l_max if perturbation.planar else 0)
        self.tol, self.force = tol, force
        # Without structure in the plane psi is real and the modes -n are the conjugates of n.
        self._n = np.arange(-n_max, n_max + 1) if perturbation.planar else np.arange(1, n_max + 1)
        self._psi: dict[tuple[float, float], Any] = {}
        self._size: dict[tuple[float, float, float], tuple[float, int]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """What the result assumes; it belongs beside every figure."""
        age = f"T_disc = {self.diffusion.T_disc / GYR:g} Gyr" if self.diffusion else ""
        return (
            "linear",
            "no self-gravity of the response",
            "rigid halo",
            "tidal forces" if getattr(self.perturbation, "indirect", False) else "direct forces",
            "separable vertical motion" if not self.perturbation.planar else "epicyclic, separable",
            f"cloud scattering, {age}" if self.diffusion else "collisionless",
            "stability of the disk not assessed",
        )

    def __call__(
        self,
        z: Numbers,
        vz: Numbers,
        t: Numbers,
        R: Numbers = 8.0,
        phi: Numbers = 0.0,
        window: Numbers = 0.0,
    ) -> Array:
        """f1 / f0 at phase points.

        **Arguments:** `z` (kpc), `vz` (km/s): any one shape. `t`: time after the perturbation's zero
        (kpc s/km). `R` (kpc), `phi` (rad): where. `window`: half-width in guiding radius over which to
        average (kpc); 0 for one radius.
        """
        z, vz = np.broadcast_arrays(plain(z, "kpc", "z"), plain(vz, "km/s", "vz"))
        t, R, azimuth = number(t, "kpc s/km", "t"), number(R, "kpc", "R"), float(angle(phi, "phi"))
        half = number(window, "kpc", "window")
        require(R > 0 and 0 <= half < R, "R must be positive and window between 0 and R")
        nodes, weights = self._ring(R, half, t, z, vz)
        result = np.zeros(z.shape)
        for node, weight in zip(nodes, weights, strict=True):
            strength, n_top = self.strength(t, node, azimuth)
            self._judge(strength)
            result += weight * self._at_radius(z, vz, t, node, azimuth, n_top)
        return result

    def map(
        self,
        t: Numbers,
        R: Numbers = 8.0,
        phi: Numbers = 0.0,
        window: Numbers = 0.0,
        z_max: Numbers | None = None,
        v_max: Numbers | None = None,
        points: int | None = 200,
    ) -> SpiralMap:
        """f1 / f0 on a square grid of (z, v_z).

        **Arguments:** as for a call; `z_max`, `v_max`: the grid's reach (default: four dispersions).
        `points`: a side; as many as the spiral needs if `None`.
        **Raises:** `JostleError` if the grid is too coarse to show the spiral that has wound up by then.
        """
        time, radius = number(t, "kpc s/km", "t"), number(R, "kpc", "R")
        sigma = self.disk.sigma_z_at(radius)
        va = self.disk.vertical(radius)
        top = float(plain(v_max, "km/s", "v_max")) if v_max is not None else 3 * sigma
        high = float(plain(z_max, "kpc", "z_max")) if z_max is not None else turning_height(va, top)
        if points is None:
            points = self.points_needed(high, top, time, radius)
        require(points >= 4, f"points must be at least 4, but {points} came")
        z, v = np.linspace(-high, high, points), np.linspace(-top, top, points)
        Z, V = np.meshgrid(z, v)
        self.check_grid(Z, V, time, radius)
        values = self(Z, V, time, radius, phi, window)
        half = float(plain(window, "kpc", "window"))
        strength, _ = self.strength(time, radius, float(angle(phi, "phi")))
        return SpiralMap(z, v, values, radius, float(angle(phi, "phi")), half, time, strength, self.labels)

    def check_grid(self, Z: Array, V: Array, t: float, R: float) -> None:
        """Refuse a grid with fewer than four points a sheet: it would show spirals that are not there."""
        n, turn = self._turn(Z, V, t, R)
        if turn > np.pi / 2:
            need = int(np.ceil(max(Z.shape) * turn / (np.pi / 2)))
            raise JostleError(
                f"the grid has {max(Z.shape)} points a side, too coarse for t = {t / GYR:.3g} Gyr: "
                f"a spiral with {n} arms needs at least {need} for four points a sheet"
            )

    def points_needed(self, z_max: float, v_max: float, t: float, R: float) -> int:
        """Points a side, from 121 to 1,001, with which a square map has four a sheet."""
        Z, V = np.meshgrid(np.linspace(-z_max, z_max, 121), np.linspace(-v_max, v_max, 121))
        return int(np.clip(np.ceil(125 * self._turn(Z, V, t, R)[1] / (np.pi / 2)), 121, 1001))

    def _turn(self, Z: Array, V: Array, t: float, R: float) -> tuple[int, float]:
        """(arms, the largest change of phase between neighbours of a grid)."""
        Omega, n = self.disk.vertical(R)(Z, V)[1], self.dominant(t, R)
        steps = (np.abs(np.diff(Omega, axis=axis)).max() for axis in (0, 1))
        return n, float(n * abs(t) * max(steps))

    def dominant(self, t: Numbers, R: Numbers = 8.0, phi: Numbers = 0.0) -> int:
        """The number of arms: the |n| that carries most of the response."""
        shells = self.spectrum(t, R, phi)
        return int(np.argmax(shells[1:]) + 1)

    def spectrum(self, t: Numbers, R: Numbers = 8.0, phi: Numbers = 0.0) -> Array:
        """Root-mean-square of f1 / f0 in every |n| = 0 ... n_max, weighted with f0."""
        t, R, phi = number(t, "kpc s/km", "t"), number(R, "kpc", "R"), number(phi, "rad", "phi")
        va = self.disk.vertical(R)
        _, weights = self.disk.vertical_weights(R)
        pick = slice(1, None, 8)
        weights = weights[pick] / weights[pick].sum()
        rows = self.amplitudes(va.s[pick], t, R, phi)
        power = np.zeros(self.n_max + 1)
        if self.perturbation.planar:
            real = 0.5 * (rows + rows[:, ::-1].conj())  # of Re sum: the two signs share the field
            np.add.at(power, np.abs(self._n), weights @ np.abs(real) ** 2)
        else:
            power[1:] = weights @ (0.5 * np.abs(rows) ** 2)
        return np.sqrt(power)

    def strength(self, t: Numbers, R: Numbers = 8.0, phi: Numbers = 0.0) -> tuple[float, int]:
        """(rms of f1 / f0, the largest |n| that is needed for `tol`)."""
        key = (number(t, "kpc s/km", "t"), number(R, "kpc", "R"), number(phi, "rad", "phi"))
        if key not in self._size:
            shells = self.spectrum(*key)
            total = float(np.sqrt((shells**2).sum()))
            tail = np.sqrt(np.cumsum((shells**2)[::-1])[::-1])  # all shells from n on
            keep = np.nonzero(tail > self.tol * total)[0]
            self._size[key] = (total, int(keep[-1]) if len(keep) and self.tol > 0 else self.n_max)
        return self._size[key]

    def modes(self, J: Numbers, t: Numbers, R: Numbers = 8.0, phi: Numbers = 0.0) -> tuple[Array, Array]:
        """(n, A_n(J)) with f1 / f0 = Re sum A_n exp(i n w_z); sums over l and epicycles are done."""
        s = self.disk.vertical(R).radius_of(np.atleast_1d(plain(J, "kpc km/s", "J")))
        time, azimuth = number(t, "kpc s/km", "t"), number(phi, "rad", "phi")
        return self._n.copy(), self.amplitudes(s, time, number(R, "kpc", "R"), azimuth)

    def amplitude(
        self,
        n: int,
        l: int,  # noqa: E741
        m: int,
        J: Numbers,
        t: Numbers,
        I_R: Numbers = 0.0,
        R: Numbers = 8.0,
        phi: Numbers = 0.0,
    ) -> Array:
        """A_nlm on tori, with f1 / f0 = Re sum A_nlm exp[i (n w_z + l w_R + m w_phi)]: zero where nothing couples.

        **Arguments:** `n`, `l`, `m`: the mode. `J`, `I_R`: actions (kpc km/s). `t`, `R`, `phi`: when, where.
        """
        s = self.disk.vertical(R).radius_of(np.atleast_1d(plain(J, "kpc km/s", "J")))
        place = number(t, "kpc s/km", "t"), number(R, "kpc", "R"), number(phi, "rad", "phi")
        if m != self.perturbation.m or n not in self._n or (l and not self.perturbation.planar):
            return np.zeros(len(s), complex)
        double = 1 if self.perturbation.planar else 2
        term = self._term(s, *place, number(I_R, "kpc km/s", "I_R"), l, double)
        return term[:, n - int(self._n[0])]

    def check(
        self,
        t: Numbers,
        R: Numbers = 8.0,
        phi: Numbers = 0.0,
        n_points: int = 200,
        generator: np.random.Generator | None = None,
    ) -> Check:
        """Compare the mode sum with the orbit integral and with the exact back-trace on stars drawn from f0.

        **Arguments:** `t`, `R`, `phi`: when and where. `n_points`: stars. `generator`: of the stars.
        **Returns:** the residuals.

        >>> from jostle.disk.perturbers import Kick
        >>> from jostle.disk.potentials import IsothermalSlab
        >>> LinearResponse(IsothermalSlab(), Kick(dv=0.01), n_max=24, tol=0.0).check(3.0).modes < 1e-3
        True
        """
        twin = self
        if self.diffusion is not None:  # orbits know no collisions: compare without them
            twin = LinearResponse(
                self.disk, self.perturbation, None, self.n_max, self.l_max, self.tol, self.force
            )
        place = number(t, "kpc s/km", "t"), number(R, "kpc", "R"), float(angle(phi, "phi"))
        return compare(twin, *place, n_points, generator or np.random.default_rng(0))

    def amplitudes(self, s: Array, t: float, R: float, phi: float) -> Array:
        """A_n on the tori s = sqrt(E_z), `(len(s), len(n))`, the factor exp(-i omega t) included."""
        if not self.perturbation.planar:
            return 2 * self._term(s, t, R, phi, 0.0, 0, 1.0)
        I_R, weights = self.disk.epicycles(R, 6)
        result = np.zeros((len(s), len(self._n)), complex)
        for action, weight in zip(I_R, weights, strict=True):
            _, b = self._epicycle(R, action)
            for l in range(-self.l_max, self.l_max + 1):  # noqa: E741
                # The mean of exp(i l w_R + i m w_phi) over the epicycle at fixed azimuth.
                seen = weight * (-1j) ** l * jv(l, b) * np.exp(1j * self.perturbation.m * phi)
                result += self._term(s, t, R, phi, float(action), l, seen)
        return result

    def torus(
        self, J: float, I_R: float, w: tuple[Array, Array, Array], t: float, R: float = 8.0, phi: float = 0.0
    ) -> Array:
        """f1 / f0 on one torus of guiding radius `R` at the angles w = (w_z, w_R, w_phi)."""
        s = self.disk.vertical(R).radius_of(np.atleast_1d(float(J)))
        result = np.zeros(np.shape(w[0]))
        double = 1 if self.perturbation.planar else 2
        for l in range(-self.l_max, self.l_max + 1):  # noqa: E741
            row = double * self._term(s, t, R, phi, float(I_R), l, 1.0)[0]
            for n, value in zip(self._n, row, strict=True):
                result += (value * np.exp(1j * (n * w[0] + l * w[1] + self.perturbation.m * w[2]))).real
        return result

    def _epicycle(self, R: float, I_R: float) -> tuple[float, float]:
        omega, kappa, _ = (float(f) for f in self.disk.potential.frequencies(R))
        X = np.sqrt(2 * I_R / kappa) if kappa else 0.0
        return self.perturbation.k_R * X, (
            2 * self.perturbation.m * omega * X / (kappa * R) if kappa else 0.0
        )

    def _term(self, s: Array, t: float, R: float, phi: float, I_R: float, l: int, factor: Any) -> Array:  # noqa: E741
        """i (k . dlnf0/dI) psi_n J_l ... K S for all n at one l and I_R."""
        p, n = self.perturbation, self._n
        ready = p.settled(R, phi)
        require(
            t >= ready,
            f"t = {t / GYR:.3g} Gyr lies within the passage; modes need {ready / GYR:.3g} Gyr or later: "
            "use orbit_integral",
        )
        va = self.disk.vertical(R)
        Omega = va.frequency_of(s)
        nOmega = Omega[:, None] * n
        slope = self.disk.vertical_gradient(R, s)[:, None] * n
        shift: Any = 0.0
        if p.planar:
            omega, kappa, _ = (float(f) for f in self.disk.potential.frequencies(R))
            radial, azimuthal = self.disk.planar_gradient(R, s, I_R)
            slope = slope + l * radial + p.m * azimuthal[:, None]
            a, b = self._epicycle(R, I_R)
            factor = factor * jv(l, np.hypot(a, b)) * np.exp(1j * (l * np.arctan2(b, a) + p.k_R * R))
            # Omega_phi = dH0/dL_z holds the drift of guiding radii with both other actions.
            shift = l * kappa + p.m * (omega - p.Omega_P + self.disk.drift(R, s, I_R)[:, None])
            factor = factor * np.exp(-1j * p.m * p.Omega_P * t)
        if self.diffusion is None:
            kernel = p.profile.kernel(nOmega + shift, t)
        else:
            scattering = self.diffusion

            def survival(elapsed: float) -> Array:
                return scattering.survival(self.disk, R, n, s[:, None], elapsed)

            kernel = p.profile.damped_kernel(nOmega + shift, t, survival)
        return 1j * factor * slope * self._coefficients(va, s, R, phi) * kernel

    def _coefficients(self, va: Any, s: Array, R: float, phi: float) -> Array:
        if len(s) <= 16:  # a few tori are worth their own transform: no table's error
            return self.perturbation.vertical(va, s, self.n_max, R, phi)[:, self._n + self.n_max]
        key = (R, phi if self.perturbation.local else 0.0)
        if key not in self._psi:
            table = self.perturbation.vertical(va, va.s, self.n_max, R, phi)
            columns = table[:, self._n + self.n_max]
            self._psi[key] = make_interp_spline(
                va.s, np.concatenate([columns.real, columns.imag], axis=1), k=5
            )
        both = self._psi[key](s)
        return both[:, : len(self._n)] + 1j * both[:, len(self._n) :]

    def _at_radius(self, z: Array, vz: Array, t: float, R: float, phi: float, n_top: int) -> Array:
        va = self.disk.vertical(R)
        s, w = va.polar(z, vz)
        s, w = s.ravel(), w.ravel()
        pick = np.abs(self._n) <= n_top
        n = self._n[pick]
        if self.perturbation.planar or self.diffusion is not None:
            # Many terms a star: tabulate their sum without its winding factor, then wind each star.
            Omega = va.Omega_grid
            turns = max(self.n_max * abs(t) * float(Omega.max() - Omega.min()), 1.0)
            grid = np.linspace(0, s.max() * (1 + 1e-9) + 1e-12, int(min(max(512, 6 * turns), 20000)))
            rows = self.amplitudes(grid, t, R, phi)[:, pick]
            rows = rows * np.exp(1j * va.frequency_of(grid)[:, None] * n * t)
            spline = make_interp_spline(grid, np.concatenate([rows.real, rows.imag], axis=1), k=5)
            w = w - va.frequency_of(s) * t
            both = spline(s)
            rows = both[:, : len(n)] + 1j * both[:, len(n) :]
            return sum_modes(rows, n, w).reshape(z.shape)
        result = np.empty(s.size)
        for low in range(0, s.size, 65536):
            part = slice(low, low + 65536)
            rows = self.amplitudes(s[part], t, R, phi)[:, pick]
            result[part] = sum_modes(rows, n, w[part])
        return result.reshape(z.shape)

    def _ring(self, R: float, half: float, t: float, z: Array, vz: Array) -> tuple[Array, Array]:
        if half == 0:
            return np.array([R]), np.array([1.0])
        require(not self.disk.slab, "a slab is the same at every radius; leave window at 0")
        # Enough radii that neighbours differ by under a radian of winding.
        low, high = (self.disk.vertical(r).Omega_grid[0] for r in (R - half, R + half))
        count = int(np.clip(np.ceil(self.n_max / 2 * abs(t) * abs(high - low) / 2), 6, 48))
        x, weights = np.polynomial.legendre.leggauss(count)
        return R + half * x, weights / 2

    def _judge(self, strength: float) -> None:
        if strength > REFUSE and not self.force:
            raise JostleError(
                f"the response is beyond linear: rms f1/f0 = {strength:.3g}, above {REFUSE}; "
                "use liouville, a weaker perturbation, or force=True"
            )
        if strength > WARN:
            warnings.warn(
                f"rms f1/f0 = {strength:.3g}: expect errors of about {71 * strength:.0f} % from linearity",
                LinearityWarning,
                stacklevel=3,
            )
