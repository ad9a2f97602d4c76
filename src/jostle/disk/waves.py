"""Waves across the plane: number-count asymmetry and mean velocity against height, and the kick that fits them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from jostle.core.errors import JostleError, require
from jostle.disk.adapters import as_potential
from jostle.disk.potentials import milky_way
from jostle.disk.response import LinearResponse
from jostle.disk.units import GYR, MYR, Array, Numbers, number, plain, positive
from jostle.disk.vertical import VerticalActions

_HARMONICS = 16  # odd ones of a star's height, up to n = 31


@dataclass(frozen=True)
class Waves:
    """What stars show against height: A(z) = [n(z) - n(-z)] / [n(z) + n(-z)] and <v_z>(z).

    **Arguments:** `z`: kpc, positive. `asymmetry`: A(z). `mean_vz`: <v_z> at z (km/s), and `mean_vz_below` at
    -z. `labels`: what was assumed.
    """

    z: Array
    asymmetry: Array
    mean_vz: Array
    mean_vz_below: Array
    labels: tuple[str, ...]


def vertical_waves(
    response: LinearResponse, z: Numbers, t: Numbers, R: Numbers = 8.0, phi: Numbers = 0.0, points: int = 401
) -> Waves:
    """Asymmetry and mean velocity against height that a response makes at a place, to first order.

    **Arguments:** `response`. `z`: heights (kpc), positive. `t`, `R`, `phi`: when and where. `points`: nodes
    in v_z, five dispersions to either side.

    >>> from jostle.disk import IsothermalSlab, Kick
    >>> waves = vertical_waves(LinearResponse(IsothermalSlab(), Kick(dv=0.01), n_max=15), [0.5], 1e-6)
    >>> round(float(waves.mean_vz[0]), 4)  # all stars were pushed by dv
    0.01
    """
    heights = np.atleast_1d(plain(z, "kpc", "z"))
    require(bool(np.all(heights > 0)), "z must be positive; the other side comes with it")
    radius = number(R, "kpc", "R")
    va, sigma = response.disk.vertical(radius), response.disk.sigma_z_at(radius)
    both = np.concatenate([heights, -heights])
    top = np.sqrt(2 * (va.s_max**2 - va.rise(heights.max()) ** 2))
    reach = min(5 * sigma, 0.999 * float(top))
    v = np.linspace(-reach, reach, points)
    Z, V = np.meshgrid(both, v, indexing="ij")
    weight = np.exp(-0.5 * (v / sigma) ** 2)
    weight /= weight.sum()
    f1 = response(Z, V, t, radius, phi)
    count, flow = f1 @ weight, f1 @ (weight * v)
    half = len(heights)
    return Waves(heights, 0.5 * (count[:half] - count[half:]), flow[:half], flow[half:], response.labels)


@dataclass(frozen=True)
class KickFit:
    """One kick of the whole disk fitted to A(z) and <v_z>(z).

    **Arguments:** `time` (kpc s/km), `dv` (km/s), `dz` (kpc): the kick. `offset`: of the velocities (km/s).
    `chi2`, `chi2_null`: with the kick, and with the offset alone. `points`: of data. `times`, `curve`: chi^2
    against time. `model`: A and <v_z> of the fit at the data. `labels`: what was assumed.
    """

    time: float
    dv: float
    dz: float
    offset: float
    chi2: float
    chi2_null: float
    points: int
    times: Array
    curve: Array
    model: tuple[Array, Array]
    labels: tuple[str, ...]

    def numbers(self) -> dict[str, object]:
        """What the terminal shows."""
        good = self.chi2 < 1.5 * self.points
        return {
            "time since the kick (Myr)": self.time / MYR,
            "dv (km/s)": self.dv,
            "dz (kpc)": self.dz,
            "velocity offset (km/s)": self.offset,
            "chi2": self.chi2,
            "chi2 without a kick": self.chi2_null,
            "data points": self.points,
            "verdict": "one kick fits" if good else "one linear kick explains a part of it, not all",
            "assumes": "; ".join(self.labels),
        }


def fit_kick(
    asymmetry: tuple[Numbers, Numbers, Numbers] | None,
    mean_vz: tuple[Numbers, Numbers, Numbers] | None,
    potential: Any = None,
    R: Numbers = 8.1,
    sigmas: Numbers = (18.0, 38.0),
    shares: tuple[float, ...] = (0.88, 0.12),
    t_max: Numbers = 1.2 * GYR,
    times: int = 401,
    z_max: Numbers = 1.3,
    floor: float = 0.01,
) -> KickFit:
    """Fit one kick (dv, dz) of isothermal components to A(z) and <v_z>(z), at every time, by least squares.

    To first order f1 / f0 of a component is [dv v_0 + dz dPhi/dz(z_0)] / sigma^2 at the point (z_0, v_0) where
    the star was at the kick, so that the fit is linear at a given time.

    **Arguments:** `asymmetry`, `mean_vz`: (z in kpc, value, error); one of them may be `None`. `potential`:
    any; our Milky Way if `None`. `R`: kpc. `sigmas`: dispersions (km/s) of components with `shares` of the
    density in the plane. `t_max`: longest time searched (kpc s/km), on a grid of `times`. `z_max`: data
    beyond are left out (kpc). `floor`: error added to A in quadrature. The defaults are this package's.
    **Raises:** `JostleError` for data that are no such table.
    """
    va = VerticalActions(milky_way() if potential is None else as_potential(potential), R)
    spreads = np.atleast_1d(plain(sigmas, "km/s", "sigmas"))
    require(
        bool(np.all(spreads > 0)) and len(spreads) == len(shares), "sigmas and shares must match, positive"
    )
    require(floor >= 0, f"floor must not be negative, but {floor} came")
    edge = positive(z_max, "kpc", "z_max")
    zA, A, eA = _data(asymmetry, "", "asymmetry", edge)
    zV, V, eV = _data(mean_vz, "km/s", "mean_vz", edge)
    require(len(A) + len(V) >= 5, "at least five data points are needed")
    require(bool(np.all(zA > 0)), "asymmetry must be given at positive z")
    grid = np.linspace(0, positive(t_max, "kpc s/km", "t_max"), times)
    model = _Kicked(va, spreads, np.asarray(shares, float), np.concatenate([zA, -zA, zV]))
    error = np.concatenate([np.hypot(eA, floor), eV])
    data = np.concatenate([A, V]) / error
    rest = np.concatenate([np.zeros(len(A)), np.ones(len(V))]) / error
    best: tuple[float, int, Array, Array] | None = None
    curve = np.empty(times)
    for k, t in enumerate(grid):
        count, flow = model.moments(float(t))
        a = len(A)
        rows = np.concatenate([0.5 * (count[:a] - count[a : 2 * a]), flow[2 * a :]])
        design = np.column_stack([rows / error[:, None], rest])
        answer, *_ = np.linalg.lstsq(design, data, rcond=None)
        curve[k] = float(((data - design @ answer) ** 2).sum())
        if best is None or curve[k] < best[0]:
            best = float(curve[k]), k, answer, design @ answer * error
    assert best is not None
    level = float(rest @ data / max(rest @ rest, 1e-300))
    chi2, k, answer, fitted = best
    labels = (
        "linear",
        "no self-gravity of the response",
        "one instant of excitation, the same for all stars",
        f"isothermal components of {', '.join(f'{s:g}' for s in spreads)} km/s",
        f"error floor of {floor:g} on the asymmetry",
    )
    return KickFit(
        float(grid[k]),
        float(answer[0]),
        float(answer[1]),
        float(answer[2]),
        chi2,
        float(((data - level * rest) ** 2).sum()),
        len(data),
        grid,
        curve,
        (fitted[: len(A)], fitted[len(A) :]),
        labels,
    )


def read_profile(path: str | Path) -> tuple[Array, Array, Array]:
    """A CSV of z (kpc), a value and its error, one header line.

    **Raises:** `JostleError` if it is no such table.
    """
    path = Path(path)
    require(path.exists(), f"there is no file {path}")
    try:
        table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=float, ndmin=2)
    except ValueError as error:
        raise JostleError(f"{path} is not a table of numbers with one header line: {error}") from None
    require(
        table.ndim == 2 and table.shape[1] == 3,
        f"{path} must have three columns, z (kpc), value and error, but it has {table.shape[-1]}",
    )
    require(bool(np.isfinite(table).all()), f"{path} holds rows that are no numbers")
    return table[:, 0], table[:, 1], table[:, 2]


class _Kicked:
    """Moments over v_z of f1 for unit kicks in velocity and in height, at given heights.

    Where a star was at the kick follows from the harmonics of z(w) = sum c_n sin(n w) on its torus:
    v_0 = Omega sum n c_n cos(n w_0) and dPhi/dz = Omega^2 sum n^2 c_n sin(n w_0), n odd.
    """

    def __init__(
        self, va: VerticalActions, sigmas: Array, shares: Array, z: Array, points: int = 121
    ) -> None:
        room = np.sqrt(2 * (va.s_max**2 - va.rise(np.abs(z).max()) ** 2))
        reach = min(5 * float(sigmas.max()), 0.99 * float(room))
        self.v = np.linspace(-reach, reach, points)
        Z, V = np.meshgrid(z, self.v, indexing="ij")
        s, self.w = va.polar(Z, V)
        self.Omega = va.frequency_of(s)
        n = np.arange(1, 2 * _HARMONICS, 2)
        table = -2 * va.fourier(lambda height: height, int(n[-1])).values[:, n + n[-1]].imag
        self.terms = np.moveaxis(make_interp_spline(va.s, table * n, k=5)(s), -1, 0)
        self.n = n
        E = (s * s)[..., None]
        f0 = shares / sigmas * np.exp(-E / sigmas**2)  # (height, velocity, component)
        self.over = (f0 / sigmas**2).sum(axis=2)
        self.total = f0.sum(axis=(1, 2))

    def moments(self, t: float) -> tuple[Array, Array]:
        """(change of the density over it, mean velocity), each `(heights, 2)` for dv and dz of one."""
        turn = np.exp(1j * (self.w - self.Omega * t))
        square = turn * turn
        speed, push = (np.zeros_like(turn) for _ in range(2))
        for n, term in zip(self.n[::-1], self.terms[::-1], strict=True):
            speed = speed * square + term
            push = push * square + n * term
        v0, slope = self.Omega * (speed * turn).real, self.Omega**2 * (push * turn).imag
        f1 = np.stack([self.over * v0, self.over * slope], axis=2)
        return f1.sum(axis=1) / self.total[:, None], (f1 * self.v[:, None]).sum(axis=1) / self.total[:, None]


def _data(table: Any, unit: str, name: str, edge: float) -> tuple[Array, Array, Array]:
    if table is None:
        return np.empty(0), np.empty(0), np.empty(0)
    require(len(table) == 3, f"{name} must be (z, value, error)")
    z, value, error = (
        np.atleast_1d(plain(x, u, name)) for x, u in zip(table, ("kpc", unit, unit), strict=True)
    )
    require(z.shape == value.shape == error.shape and z.ndim == 1, f"{name} must be three rows of one length")
    require(bool(np.isfinite(np.concatenate([z, value, error])).all()), f"{name} must be finite")
    require(bool(np.all(error > 0)), f"the errors of {name} must be positive")
    keep = np.abs(z) <= edge
    return z[keep], value[keep], error[keep]
