"""What an attack does to a building: the KPIs of CityLearn, as ratios to the same building without storage."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jostle.core.errors import require

Series = NDArray[np.float64]


def kpis(net: Any, base: Any, price: Any, carbon: Any) -> dict[str, float]:
    """The district KPIs of a controlled building, each divided by that of the building without storage.

    `consumption`: sum of `max(e, 0)`. `cost`: of `max(e, 0) p`. `carbon`: of `max(e c, 0)`. `zero_net_energy`:
    of `e`. `ramping`: of `|e_t - e_t-1|` (CityLearn to 2.1.2), `ramping_up`: of its rises only (3.x); over a
    year their ratios are almost the same. `daily_peak`: mean of the days' maxima. `peak`: the maximum.
    `load_factor_daily`, `load_factor_monthly`: mean of 1 - mean/max over blocks of 24 and 730 steps; the daily
    one explodes when a day's maximum is near 0: do not average or plot it unguarded.

    **Arguments:** `net`: consumption with control, kWh a step, at least 2 steps. `base`: without storage.
    `price`: a kWh. `carbon`: kg CO2 a kWh. All of one length.
    **Returns:** ratios (1: as without storage); NaN where the divisor is 0.

    >>> k = kpis([0, 1, 0, 2], [0, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1])
    >>> k["ramping"], k["ramping_up"], k["consumption"]
    (1.3333333333333333, 1.5, 1.5)
    """
    e, b, p, c = (np.asarray(one, dtype=np.float64) for one in (net, base, price, carbon))
    require(
        e.ndim == 1 and len(e) >= 2 and e.shape == b.shape == p.shape == c.shape,
        f"net, base, price and carbon must be series of one length, at least 2, but the shapes {e.shape}, "
        f"{b.shape}, {p.shape}, {c.shape} came",
    )
    require(
        bool(np.isfinite(np.stack([e, b, p, c])).all()),
        "net, base, price and carbon must be finite, but one holds NaN or infinity",
    )
    return {name: _ratio(value, of_base) for (name, value), of_base in zip(
        _sums(e, p, c).items(), _sums(b, p, c).values(), strict=True
    )}  # fmt: skip


def ramping(e: Series, *, up_only: bool = False) -> float:
    """Sum of the changes from step to step, both ways or rises only.

    >>> ramping(np.array([0.0, 1.0, 0.0, 2.0])), ramping(np.array([0.0, 1.0, 0.0, 2.0]), up_only=True)
    (4.0, 3.0)
    """
    change = np.diff(e)
    return float(np.maximum(change, 0).sum() if up_only else np.abs(change).sum())


def block_peak(e: Series, block: int = 24) -> float:
    """Mean over blocks of their maximum; the last block may be short.

    >>> block_peak(np.array([1.0, 3.0, 5.0, 0.0]), 2)
    4.0
    """
    return float(np.mean([part.max() for part in _blocks(e, block)]))


def one_minus_load_factor(e: Series, block: int = 730) -> float:
    """Mean over blocks of `1 - mean / max`.

    >>> one_minus_load_factor(np.array([0.0, 0.0, 0.0, 4.0]), 4)
    0.75
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean([1 - part.mean() / part.max() for part in _blocks(e, block)]))


def _sums(e: Series, p: Series, c: Series) -> dict[str, float]:
    drawn = np.maximum(e, 0)
    return {
        "cost": float((drawn * p).sum()),
        "consumption": float(drawn.sum()),
        "carbon": float(np.maximum(e * c, 0).sum()),
        "ramping": ramping(e),
        "ramping_up": ramping(e, up_only=True),
        "daily_peak": block_peak(e, 24),
        "peak": float(e.max()),
        "load_factor_daily": one_minus_load_factor(e, 24),
        "load_factor_monthly": one_minus_load_factor(e, 730),
        "zero_net_energy": float(e.sum()),
    }


def _ratio(value: float, base: float) -> float:
    return value / base if base != 0 and np.isfinite(base) else float("nan")


def _blocks(e: Series, block: int) -> list[Series]:
    return [e[start : start + block] for start in range(0, len(e), block)]
