"""Intervals for what was counted or measured."""

import math

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
