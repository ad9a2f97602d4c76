"""The exact group-sequential binomial test of `p > p0`: when to look, and how many successes reject."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from jostle.core.errors import require
from jostle.smoothing.bounds import check_level

# Probabilities below this are dropped from the running distribution: together far below any level.
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Boundary:
    """A boundary of a group-sequential test: at look `k`, after `looks[k]` draws, `critical[k]` successes reject.

    `critical[k] = looks[k] + 1` where no number of successes rejects yet. `spent[k]`: the exact probability,
    under `p0`, of a rejection at look `k` or before; `spent[-1]` is the test's exact level.
    """

    p0: float
    looks: Int[np.ndarray, " looks"]
    critical: Int[np.ndarray, " looks"]
    spent: Float[np.ndarray, " looks"]


def looks(n_max: int, first: int = 50, ratio: float = 1.1) -> Int[np.ndarray, " looks"]:
    """When to look: `n_1 = first`, `n_{k+1} = min(N, max(n_k + 1, ceil(ratio n_k)))` up to `N = n_max`.

    **Arguments:** `n_max`: most draws, at least 1. `first`: draws before the first look. `ratio`: above 1.

    >>> looks(100, first=50, ratio=1.3).tolist()
    [50, 65, 85, 100]
    """
    require(n_max >= 1, f"n_max must be at least 1, but {n_max} came")
    require(first >= 1, f"first must be at least 1, but {first} came")
    require(ratio > 1, f"ratio must be above 1, but {ratio} came")
    found = [min(first, n_max)]
    while found[-1] < n_max:
        found.append(min(n_max, max(found[-1] + 1, math.ceil(ratio * found[-1]))))
    return np.array(found)


@lru_cache(maxsize=4096)
def boundary(
    p0: float, n_max: int, alpha: float, *, rho: float = 0.5, first: int = 50, ratio: float = 1.1
) -> Boundary:
    """The boundary that spends the level `A_k = alpha (n_k / N)^rho` by look `k`, computed exactly.

    `D_k(s)`, the chance under `p0` of `s` successes at look `k` without an earlier rejection, is the convolution
    of what was left with the next draws' binomial. `c_k` is the smallest `c` whose tail `sum_{s >= c} D_k(s)`
    fits in what may be spent by then (Lan & DeMets 1983 for the spending, Armitage et al. 1969 for the recursion).
    For `p <= p0` rejections are rarer still. A table takes about 20 ms at `N = 100,000`, and is kept in memory.

    **Arguments:** `p0`: the hypothesis, in (0, 1). `n_max`: most draws `N`. `alpha`: level in (0, 1). `rho`: above
    0; small spends early. `first`, `ratio`: of [`looks`][jostle.smoothing.looks].
    **Returns:** a [`Boundary`][jostle.smoothing.Boundary] with `spent[-1] <= alpha`.
    **Raises:** `JostleError` for settings out of range.

    >>> table = boundary(0.5, 100_000, 0.001)
    >>> len(table.looks), int(table.critical[-1]), round(float(table.spent[-1]), 9)
    (80, 50582, 0.00099863)
    """
    require(0 < p0 < 1, f"p0 must lie in (0, 1), but {p0} came")
    check_level("alpha", alpha)
    require(rho > 0, f"rho must be above 0, but {rho} came")
    when = looks(n_max, first, ratio)
    critical, spent = np.empty_like(when), np.empty(len(when))
    left, start = np.ones(1), 0  # left[i]: chance of start + i successes without a rejection so far
    used, before = 0.0, 0
    for k, n in enumerate(when):
        step, offset = _binomial(int(n - before), p0)
        left, start = np.convolve(left, step), start + offset
        allowed = alpha * (n / n_max) ** rho - used
        # Tails from the top, smallest terms first.
        tails = np.cumsum(left[::-1])[::-1]
        fits = np.flatnonzero(tails <= allowed)
        first_fit = int(fits[0]) if len(fits) else len(left)
        if first_fit == len(left):
            # What lies above the window has no mass to speak of, but only counts up to n exist.
            critical[k] = min(start + len(left), n + 1)
        else:
            critical[k] = start + first_fit
            used += float(tails[first_fit])
            left = left[:first_fit]
        spent[k] = used
        keep = np.flatnonzero(left > _TINY)
        if not len(keep):  # everything has been rejected
            critical[k + 1 :], spent[k + 1 :] = 0, used
            break
        left, start = left[keep[0] : keep[-1] + 1], start + int(keep[0])
        before = n
    return Boundary(p0, when, critical, spent)


def _binomial(n: int, p: float) -> tuple[Float[np.ndarray, " counts"], int]:
    """The binomial's probabilities where they are not negligible, and the first such count."""
    reach = 12 * math.sqrt(n * p * (1 - p)) + 40
    low, high = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
    return stats.binom.pmf(np.arange(low, high + 1), n, p), low
