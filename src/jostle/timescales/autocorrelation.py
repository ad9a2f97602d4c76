"""Autocorrelations of recorded time series, and the timescales that can be read off them without a fit."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import fft

from jostle.core.errors import require

Array = np.ndarray


@dataclass(frozen=True)
class Autocorrelation:
    """Autocorrelations of many units at lags 0, 1, 2, ... (in samples).

    **Arguments:** `values`: one curve a unit, 1 at lag 0; NaN for a unit that never varies. `variance`: of
    each unit. `samples`: length of the series that they were measured on.
    """

    values: Float[Array, "units lags"]
    variance: Float[Array, " units"]
    samples: int

    def of(self, units: slice | Sequence[int]) -> "Autocorrelation":
        """The curves of some of the units."""
        return Autocorrelation(self.values[units], self.variance[units], self.samples)

    def measures(self) -> dict[str, Float[Array, " units"]]:
        """Timescales without a fit, in samples; NaN where a curve does not cross within the lags that it has.

        `acw50`, `acwe`, `acw0`: the first lag at which the curve falls to 1/2, 1/e, 0, interpolated linearly.
        `auc`: its integral from lag 0 to `acw0` (or to the last lag). `iat`: the integrated autocorrelation
        time `1 + 2 sum rho(k)` over the lags before the first value at or below zero.

        >>> decay = np.exp(-np.arange(200) / 8)[None]
        >>> round(float(Autocorrelation(decay, np.ones(1), 10**6).measures()["acw50"][0]), 2)
        5.56
        """
        rho = self.values
        lags = np.arange(rho.shape[1])
        before = np.cumsum(rho <= 0, axis=1) == 0
        positive = np.where(before, rho, 0.0)
        zero = _crossing(rho, 0.0)
        # Trapezia between the positive values, and the triangle from the last of them to the crossing.
        last = before.sum(1) - 1
        rest = np.where(np.isnan(zero), 0.0, zero - last) * rho[np.arange(len(rho)), np.maximum(last, 0)] / 2
        inner = (positive[:, 1:] + positive[:, :-1]) / 2 * before[:, 1:]
        flat = np.isnan(rho).any(1)
        return {
            "acw50": _crossing(rho, 0.5),
            "acwe": _crossing(rho, float(np.exp(-1))),
            "acw0": zero,
            "auc": np.where(flat, np.nan, inner.sum(1) + rest),
            "iat": np.where(flat, np.nan, 1 + 2 * positive[:, 1:].sum(1) if len(lags) > 1 else 1.0),
        }


def autocorrelation(
    series: ArrayLike,
    *,
    max_lag: int = 100,
    layout: Literal["time", "time units", "trials time", "trials time units"] | None = None,
    detrend: Literal["mean", "linear"] = "mean",
    missing: Literal["error", "pairwise"] = "error",
) -> Autocorrelation:
    r"""Autocorrelation of rates, spike counts or any evenly sampled series, by FFT with zero padding.

    $C(k) = \frac{1}{T-k} \sum_t (r_t - \bar r)(r_{t+k} - \bar r)$, with each trial's own mean, averaged over
    trials; $\rho(k) = C(k) / C(0)$. Taking the mean away biases short series down by about $2\tau/T$: a
    series should be at least 200 of its own timescales long.

    **Arguments:** `series`: an array or tensor. `max_lag`: in samples. `layout`: which axis is which; default
    by the number of axes: `time`, `time units`, `trials time units`. `detrend`: what is removed from each
    trial. `missing`: NaN is refused, or left out pair by pair.
    **Returns:** the curves, one a unit; NaN for a unit that never varies.
    **Raises:** `JostleError` for a series shorter than `max_lag + 1`, NaN, or a layout that does not fit.
    **Warns:** if the series is shorter than 200 times its longest `1/e` time.

    >>> rng = np.random.default_rng(0)
    >>> autocorrelation(rng.poisson(3.0, size=(5000, 4)), max_lag=10).values.shape
    (4, 11)
    """
    data = np.asarray(series, dtype=np.float64)
    layouts = {1: "time", 2: "time units", 3: "trials time units"}
    require(data.ndim in layouts, f"series must have one to three axes, but {data.ndim} came")
    layout = layouts[data.ndim] if layout is None else layout  # type: ignore[assignment]
    axes = str(layout).split()
    require(len(axes) == data.ndim, f"layout {layout!r} has {len(axes)} axes, but series has {data.ndim}")
    data = np.einsum(f"{''.join(a[1] for a in axes)}->{''.join(a[1] for a in axes)}", data)
    for position, axis in enumerate(("trials", "time", "units")):
        if axis not in axes:
            data = np.expand_dims(data, position)
    samples = data.shape[1]
    require(max_lag >= 1, f"max_lag must be at least 1, but {max_lag} came")
    require(
        samples > max_lag,
        f"the time axis must be longer than max_lag = {max_lag}, but {samples} samples came",
    )
    there = ~np.isnan(data)
    require(
        missing == "pairwise" or bool(there.all()),
        "series holds NaN; pass missing='pairwise' to leave them out",
    )
    data = _detrended(data, there, detrend)
    size = int(fft.next_fast_len(samples + max_lag, real=True) or 0)
    covariance = _correlate(np.where(there, data, 0.0), size, max_lag)
    counts = _correlate(there.astype(np.float64), size, max_lag) if not there.all() else None
    pairs = np.round(counts) if counts is not None else (samples - np.arange(max_lag + 1.0))[None, :, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nanmean(np.where(pairs > 0, covariance / pairs, np.nan), axis=0).T
    return normalised(mean, samples, scale=np.abs(np.where(there, np.asarray(data), 0.0)).max((0, 1)))


def normalised(
    covariance: Float[Array, "units lags"], samples: int, scale: Float[Array, " units"] | None = None
) -> Autocorrelation:
    """Divide autocovariances by their value at lag 0, and warn if the series was too short for what it
    shows."""
    variance = covariance[:, 0]
    # The variance of a constant is rounding noise of its own size, not zero.
    floor = np.finfo(np.float64).tiny if scale is None else 0.0
    flat = ~(variance > floor)
    values = np.where(flat[:, None], np.nan, covariance / np.where(flat, 1.0, variance)[:, None])
    result = Autocorrelation(values, variance, samples)
    slow = np.nan_to_num(result.measures()["acwe"], nan=0.0)
    if slow.size and samples < 200 * slow.max():
        warnings.warn(
            f"the series has {samples} samples, fewer than 200 times its slowest timescale "
            f"({slow.max():.1f}); removing its mean biases the autocorrelation down",
            stacklevel=3,
        )
    return result


def _detrended(data: Array, there: Array, detrend: str) -> Array:
    count = np.maximum(there.sum(1, keepdims=True), 1)
    filled = np.where(there, data, 0.0)
    size = np.abs(filled).max(1, keepdims=True)
    centred = filled - filled.sum(1, keepdims=True) / count
    if detrend == "linear":
        time = np.where(there, np.arange(data.shape[1])[None, :, None], 0.0)
        time = np.where(there, time - time.sum(1, keepdims=True) / count, 0.0)
        slope = (centred * time).sum(1, keepdims=True) / np.maximum((time**2).sum(1, keepdims=True), 1e-300)
        centred = centred - slope * time
    return np.where(np.abs(centred) <= 64 * np.finfo(np.float64).eps * size, 0.0, centred)


def _correlate(data: Array, size: int, max_lag: int) -> Array:
    power = np.abs(np.asarray(fft.rfft(data, size, axis=1))) ** 2
    return np.asarray(fft.irfft(power, size, axis=1))[:, : max_lag + 1]


def _crossing(rho: Array, level: float) -> Array:
    """The first lag at which each curve is at or below `level`, interpolated linearly; NaN if there is
    none."""
    below = rho <= level
    index = np.where(below.any(1), below.argmax(1), 0)
    rows = np.arange(len(rho))
    high, low = rho[rows, np.maximum(index - 1, 0)], rho[rows, index]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = index - 1 + (high - level) / (high - low)
    return np.where(index > 0, crossing, np.nan)


def as_series(value: Any) -> Array:
    """An array of a tensor or array-like, in double precision, on the processor."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
