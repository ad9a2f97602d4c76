"""One and two exponentials fitted to many autocorrelation curves at once, each to its global optimum."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from jostle.core.errors import require
from jostle.timescales.autocorrelation import Autocorrelation, as_series
from jostle.timescales.exponentials import best_fits

Array = np.ndarray
LIMIT = 100.0  # the largest time constant that a fit may return, in samples (released code)
_TOP = float(np.exp(-1 / LIMIT))


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
    fitted = [best_fits(part, _TOP) for part in np.array_split(values[~flat], max(1, (~flat).sum() // 500))]
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
