"""One and two exponentials fitted to many autocorrelation curves at once, each to its global optimum.

Variable projection: with the decays given, the amplitudes are a small bounded linear problem with an exact
solution. So only one or two numbers a curve are searched: first on a grid of all (pairs of) decays, then by
damped Gauss-Newton steps from the best local minima of the grid, for all curves in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from jostle.core.errors import require
from jostle.timescales.autocorrelation import Autocorrelation, as_series

Array = np.ndarray
LIMIT = 100.0  # the largest time constant that a fit may return, in samples (released code)
_STARTS = 4


@dataclass(frozen=True)
class TimescaleFit:
    """Fits of one and of two exponentials to each curve, and which of them AIC prefers.

    **Arguments:** `tau`: the chosen model's timescale in samples, the slower one of two; NaN where no curve
    was there to fit. `double`: whether two exponentials were chosen. `single`: time constant, amplitude.
    `pair`: fast and slow time constants. `amplitude`, `slow_weight`: of the two-exponential fit; the weight
    of the slow part in it. `rss`, `aic`: residual sums of squares and criteria, of one and of two
    exponentials. `at_bound`: a chosen time constant lies at 0 or at the limit. `flat`: the unit never varied.
    """

    tau: Float[Array, " curves"]
    double: Bool[Array, " curves"]
    single: Float[Array, "curves 2"]
    pair: Float[Array, "curves 2"]
    amplitude: Float[Array, " curves"]
    slow_weight: Float[Array, " curves"]
    rss: Float[Array, "curves 2"]
    aic: Float[Array, "curves 2"]
    at_bound: Bool[Array, " curves"]
    flat: Bool[Array, " curves"]

    def of(self, curves: slice | Sequence[int]) -> "TimescaleFit":
        """The fits of some of the curves."""
        return TimescaleFit(*(getattr(self, field.name)[curves] for field in fields(self)))

    def curves(self, lags: Float[Array, " lags"]) -> Float[Array, "curves lags"]:
        """The chosen model at some lags."""
        with np.errstate(divide="ignore", invalid="ignore"):
            one = self.single[:, 1:] * _decays(self.single[:, :1], lags)
            fast, slow = (_decays(self.pair[:, i : i + 1], lags) for i in (0, 1))
        weight = self.slow_weight[:, None]
        two = self.amplitude[:, None] * (weight * slow + (1 - weight) * fast)
        return np.where(self.double[:, None], two, one)

    def good(self, min_weight: float = 0.02) -> Bool[Array, " curves"]:
        """Curves whose fit is beyond doubt: not flat, not at a bound, and no slow part lighter than
        `min_weight`."""
        return ~self.flat & ~self.at_bound & ~(self.double & (self.slow_weight < min_weight))


def fit_timescales(curves: Autocorrelation | ArrayLike, *, fit_lags: int = 30) -> TimescaleFit:
    r"""Fit $a e^{-k/t}$ and $a [c e^{-k/t_1} + (1-c) e^{-k/t_2}]$ to each curve at lags $0 \ldots$
    `fit_lags`.

    Least squares with $0 \le a, c \le 1$ and $0 \le t \le 100$; the smaller $\mathrm{AIC} = 2q + n
    \ln(RSS/n)$ wins, with $q$ = 2 or 4 (arXiv 2309.12927, released code). Where both residuals are rounding
    noise, one exponential wins. A local fit from one start is often worse than its own nested model; this one
    is a global search.

    **Arguments:** `curves`: autocorrelations, or an array `(curves, lags)` or `(lags,)` that starts at lag 0.
    `fit_lags`: the last lag of the fit, in samples.
    **Returns:** arrays with one entry a curve, in samples.
    **Raises:** `JostleError` for curves with fewer than `fit_lags + 1` lags.

    >>> fit = fit_timescales(np.exp(-np.arange(31) / 7.3))
    >>> round(float(fit.tau[0]), 6), bool(fit.double[0])
    (7.3, False)
    """
    values = curves.values if isinstance(curves, Autocorrelation) else np.atleast_2d(as_series(curves))
    require(values.ndim == 2, f"curves must have one or two axes, but {values.ndim} came")
    require(fit_lags >= 4, f"fit_lags must be at least 4, but {fit_lags} came")
    have = values.shape[1]
    require(
        have > fit_lags, f"curves must reach lag {fit_lags}, but they have {have} lags, the first of them 0"
    )
    values = values[:, : fit_lags + 1]
    flat = np.asarray(~np.isfinite(values).all(1))
    fitted = [_fit(part) for part in np.array_split(values[~flat], max(1, (~flat).sum() // 500))]
    z, amplitudes, rss = (np.concatenate([part[i] for part in fitted]) for i in range(3))
    tau = _tau(z)
    swap = tau[:, 1] > tau[:, 2]
    tau[swap, 1:] = tau[swap, :0:-1]
    amplitudes[swap, 1:] = amplitudes[swap, :0:-1]
    n = fit_lags + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        aic = np.array([4.0, 8.0]) + n * np.log(rss / n)
        weight = amplitudes[:, 2] / amplitudes[:, 1:].sum(1)
    double = (aic[:, 1] < aic[:, 0]) & ~(rss / n < 1e-12).all(1)
    used = np.where(double[:, None], tau[:, 1:], tau[:, :1])
    at_bound = ((used >= LIMIT * (1 - 1e-9)) | (used < 0.03)).any(1)

    def spread(part: Array, empty: float | bool = np.nan) -> Array:
        out = np.full((len(flat), *part.shape[1:]), empty)
        out[~flat] = part
        return out

    return TimescaleFit(
        tau=spread(used.max(1)),
        double=spread(np.asarray(double), False),
        single=spread(np.stack([tau[:, 0], amplitudes[:, 0]], 1)),
        pair=spread(tau[:, 1:]),
        amplitude=spread(amplitudes[:, 1:].sum(1)),
        slow_weight=spread(weight),
        rss=spread(rss),
        aic=spread(aic),
        at_bound=spread(np.asarray(at_bound), False),
        flat=flat,
    )


def tau_as_decay(tau: float | Sequence[float] | np.ndarray | torch.Tensor) -> Array:
    r"""The autocorrelation time of an uncoupled leaky neuron, $-1/\ln(1 - 1/\tau)$: about $\tau - 1/2$.

    A time constant and a network timescale are on one scale only after this.

    >>> tau_as_decay([1.0, 2.0, 10.0]).round(4).tolist()
    [0.0, 1.4427, 9.4912]
    """
    with np.errstate(divide="ignore"):
        return -1 / np.log1p(-1 / np.maximum(as_series(tau), 1.0))


def _decays(tau: Array, lags: Array) -> Array:
    """`exp(-k/tau)`, with the limit 1, 0, 0, ... at tau = 0."""
    return np.exp(-lags / tau, where=lags != 0, out=np.ones(np.broadcast(tau, lags).shape))


def _tau(z: Array) -> Array:
    """Time constants of `z = exp(-1/tau)`: the search runs in z, which has no singular end."""
    with np.errstate(divide="ignore"):
        return np.where(z > 0, -1 / np.log(z), 0.0)


_TOP = float(np.exp(-1 / LIMIT))


@cache
def _grid(points: int) -> Array:
    return np.concatenate([[0.0], np.exp(-1 / np.geomspace(0.15, LIMIT, points - 1))])


def _powers(z: Array, n: int) -> Array:
    """`z**k` for k = 0 ... n-1 along a new last axis."""
    out = np.empty((*z.shape, n))
    out[..., 0] = 1
    np.cumprod(np.broadcast_to(z[..., None], (*z.shape, n - 1)), axis=-1, out=out[..., 1:])
    return out


def _fit(y: Array) -> tuple[Array, Array, Array]:
    """z, amplitudes (single, and of the pair) and RSS (single, double) of the best fits to curves `y`."""
    z1, a1, rss1 = _fit_single(y)
    z2, a2, rss2 = _fit_double(y, z1)
    # The single fit is a point of the double model: the larger model is never the worse one.
    worse = rss2 > rss1
    z2[worse] = z1[worse, None]
    a2[worse] = np.stack([a1[worse], np.zeros(worse.sum())], 1)
    rss2 = np.minimum(rss1, rss2)
    return (
        np.concatenate([z1[:, None], z2], 1),
        np.concatenate([a1[:, None], a2], 1),
        np.stack([rss1, rss2], 1),
    )


def _fit_single(y: Array) -> tuple[Array, Array, Array]:
    n = y.shape[1]
    grid = _grid(160)
    phi = _powers(grid, n)
    b, g = y @ phi.T, (phi**2).sum(1)
    a = np.clip(b / g, 0, 1)
    rss = (y**2).sum(1)[:, None] - 2 * a * b + a**2 * g
    starts = _minima(rss)
    z = grid[starts][..., None]
    z, amplitudes, rss = _refine(np.repeat(y[:, None], starts.shape[1], 1), z)
    best, rows = rss.argmin(1), np.arange(len(y))
    return z[rows, best, 0], amplitudes[rows, best, 0], rss[rows, best]


def _minima(rss: Array) -> Array:
    """Indices of the best local minima along the grid, `_STARTS` a curve (repeated if there are fewer)."""
    padded = np.pad(rss, ((0, 0), (1, 1)), constant_values=np.inf)
    local = (rss <= padded[:, :-2]) & (rss <= padded[:, 2:])
    return np.argsort(np.where(local, rss, np.inf), axis=1, kind="stable")[:, :_STARTS]


@cache
def _pairs(points: int, n: int) -> tuple[Array, ...]:
    grid = _grid(points)
    phi = _powers(grid, n)
    gram = phi @ phi.T
    i, j = np.triu_indices(points, 1)
    return grid, phi, i, j, gram[i, i], gram[j, j], gram[i, j]


def _fit_double(y: Array, single: Array) -> tuple[Array, Array, Array]:
    n = y.shape[1]
    points = 48
    grid, phi, i, j, gii, gjj, gij = _pairs(points, n)
    b = y @ phi.T
    _, _, drop = _bounded(b[:, i], b[:, j], gii, gjj, gij)
    surface = np.full((len(y), points, points), np.inf)
    surface[:, i, j] = surface[:, j, i] = drop
    local = np.ones((len(y), len(i)), dtype=bool)
    padded = np.pad(surface, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        local &= drop <= padded[:, 1 + i + di, 1 + j + dj]
    order = np.argsort(np.where(local, drop, np.inf), axis=1, kind="stable")[:, :_STARTS]
    z = np.stack([grid[i[order]], grid[j[order]]], -1)
    # One more start beside the single fit: a second, faster part.
    beside = np.stack([0.3 * single, single], -1)[:, None]
    z = np.concatenate([z, beside], 1)
    z, amplitudes, rss = _refine(np.repeat(y[:, None], z.shape[1], 1), z)
    best, rows = rss.argmin(1), np.arange(len(y))
    return z[rows, best], amplitudes[rows, best], rss[rows, best]


def _bounded(b1: Array, b2: Array, g11: Array, g22: Array, g12: Array) -> tuple[Array, Array, Array]:
    """Amplitudes `p, q >= 0, p + q <= 1` that minimise `-2 (p b1 + q b2) + p^2 g11 + 2 p q g12 + q^2 g22`,
    and it."""

    def value(p: Array, q: Array) -> Array:
        return p * (p * g11 - 2 * b1) + q * (q * g22 - 2 * b2) + 2 * p * q * g12

    with np.errstate(divide="ignore", invalid="ignore"):
        det = g11 * g22 - g12**2
        p, q = (g22 * b1 - g12 * b2) / det, (g11 * b2 - g12 * b1) / det
        inside = (p >= 0) & (q >= 0) & (p + q <= 1) & (det > 1e-14 * g11 * g22)
        edge = np.clip(np.nan_to_num((b1 - b2 + g22 - g12) / (g11 + g22 - 2 * g12), nan=0.5), 0, 1)
    p1, q2 = np.clip(b1 / g11, 0, 1), np.clip(b2 / g22, 0, 1)
    zero = np.zeros_like(b1)
    # If the free optimum is not inside, the optimum lies on one of the three edges.
    options = [(p1, zero), (zero, q2), (edge, 1 - edge), (np.where(inside, p, 0), np.where(inside, q, 0))]
    best_p, best_q, best = p1, zero, value(p1, zero)
    for index, (one, other) in enumerate(options[1:]):
        this = value(one, other)
        better = this < best if index < 2 else inside & (this <= best)
        best_p, best_q = np.where(better, one, best_p), np.where(better, other, best_q)
        best = np.where(better, this, best)
    return best_p, best_q, best


def _project(y: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """Powers, best amplitudes, residual and RSS at decays `z`."""
    phi = _powers(z, y.shape[-1])
    b = np.einsum("...qn,...n->...q", phi, y)
    g = np.einsum("...qn,...rn->...qr", phi, phi)
    if z.shape[-1] == 1:
        amplitudes = np.clip(b / g[..., 0], 0, 1)
    else:
        p, q, _ = _bounded(b[..., 0], b[..., 1], g[..., 0, 0], g[..., 1, 1], g[..., 0, 1])
        amplitudes = np.stack([p, q], -1)
    residual = y - np.einsum("...qn,...q->...n", phi, amplitudes)
    return phi, amplitudes, residual, (residual**2).sum(-1)


def _refine(y: Array, z: Array, steps: int = 60) -> tuple[Array, Array, Array]:
    """Damped Gauss-Newton steps on the projected problem, with `0 <= z <= top`, for all starts of all
    curves."""
    shape, n, q = z.shape, y.shape[-1], z.shape[-1]
    y, z = y.reshape(-1, n), z.reshape(-1, q).copy()
    k = np.arange(n)
    _, amplitudes, _, rss = _project(y, z)
    damping = np.full(len(y), 1e-3)
    todo = np.arange(len(y))
    for _ in range(steps):
        yt, zt = y[todo], z[todo]
        phi, amp, residual, before = _project(yt, zt)
        slope = k * np.concatenate([np.zeros_like(phi[..., :1]), phi[..., :-1]], -1)
        jacobian = amp[..., None] * slope
        gradient = np.einsum("cqn,cn->cq", jacobian, residual)
        # What the amplitudes will take up at once is no progress of the decays (Kaufman's variable
        # projection).
        held = ((zt <= 0) & (gradient < 0)) | ((zt >= _TOP) & (gradient > 0))
        jacobian = np.where(held[..., None], 0.0, _free(jacobian, phi, amp))
        gradient = np.where(held, 0.0, np.einsum("cqn,cn->cq", jacobian, residual))
        normal = np.einsum("cqn,crn->cqr", jacobian, jacobian)
        diagonal = np.einsum("cqq->cq", normal)
        ridge = damping[todo, None] * diagonal + 1e-300 + 1e-14 * diagonal.max(1, keepdims=True)
        step = _solve(normal, ridge, gradient)
        trial = np.clip(zt + step, 0, _TOP)
        _, new_amp, _, after = _project(yt, trial)
        better = after < before
        moved = np.abs(trial - zt).max(1)
        z[todo[better]], amplitudes[todo[better]], rss[todo[better]] = (
            trial[better],
            new_amp[better],
            after[better],
        )
        damping[todo] = np.where(better, np.maximum(damping[todo] / 10, 1e-12), damping[todo] * 8)
        gained = before - after
        done = (
            better & (gained <= 1e-13 * before) | (moved < 1e-15) | (damping[todo] > 1e8) | (before < 1e-28)
        )
        todo = todo[~done]
        if not len(todo):
            break
    return z.reshape(shape), amplitudes.reshape(shape), rss.reshape(shape[:-1])


def _free(jacobian: Array, phi: Array, amplitudes: Array) -> Array:
    """The Jacobian without its part in the span of the amplitudes that are free to follow."""
    if phi.shape[1] == 1:
        free = ((amplitudes > 0) & (amplitudes < 1))[..., None]
        span = phi
        return np.where(free, jacobian - _along(jacobian, span), jacobian)
    total = amplitudes.sum(1)
    inner = (amplitudes > 0) & (total < 1)[:, None]
    on_edge = (total >= 1) & (amplitudes > 0).all(1)
    first = np.where(on_edge[:, None], phi[:, 0] - phi[:, 1], phi[:, 0] * inner[:, :1])
    second = np.where(on_edge[:, None], 0.0, phi[:, 1] * inner[:, 1:])
    second = second - _along(second[:, None], first[:, None])[:, 0]
    return jacobian - _along(jacobian, first[:, None]) - _along(jacobian, second[:, None])


def _along(vectors: Array, direction: Array) -> Array:
    size = (direction**2).sum(-1, keepdims=True)
    return (vectors * direction).sum(-1, keepdims=True) / np.where(size > 1e-20, size, np.inf) * direction


def _solve(normal: Array, ridge: Array, gradient: Array) -> Array:
    if gradient.shape[1] == 1:
        return gradient / (normal[:, 0] + ridge)
    a, d, b = normal[:, 0, 0] + ridge[:, 0], normal[:, 1, 1] + ridge[:, 1], normal[:, 0, 1]
    det = a * d - b * b
    x = np.stack([d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], 1)
    return np.where(np.abs(det[:, None]) > 0, x / np.where(det == 0, 1, det)[:, None], 0.0)
