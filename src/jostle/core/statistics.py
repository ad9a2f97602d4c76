"""Intervals for what was counted or measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from jostle.core.errors import require

# The 97.5 % point of the standard normal distribution.
Z95 = 1.959963984540054


def wilson(hits: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a share (J. Am. Stat. Assoc. 22, 1927).

    `(p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)` with `p = hits/n`.

    **Arguments:** `hits`: 0 to `count`. `count`: at least 1. `z`: normal quantile; 95 % by default.
    **Returns:** the bounds, in [0, 1].

    >>> low, high = wilson(52, 100)
    >>> round(low, 3), round(high, 3)
    (0.423, 0.615)
    """
    require(count >= 1, f"count must be at least 1, but {count} came")
    require(0 <= hits <= count, f"hits must lie in 0 to {count}, but {hits} came")
    share, extra = hits / count, z * z / count
    middle = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))


@dataclass(frozen=True)
class Interval:
    """A mean over `count` values, their sample standard deviation, and the bounds of the mean's interval.

    `sd`, `low` and `high` are NaN where there is one value, which tells nothing of them.
    """

    mean: float
    sd: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of a mean: `mean ± t_{n-1} sd / sqrt(n)` (Biometrika 6, 1908).

    **Arguments:** `values`: independent repetitions, such as one a seed; at least one. `level`: in (0, 1).
    **Returns:** [`Interval`][jostle.core.statistics.Interval].

    >>> print(t_interval([1.0, 2.0, 3.0]))
    2.0 [-0.5, 4.5]
    """
    count = len(values)
    require(count >= 1, "values must hold at least one number, but it is empty")
    require(0 < level < 1, f"level must lie in (0, 1), but {level} came")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * sd / math.sqrt(count)
    return Interval(mean, sd, mean - half, mean + half, count)
