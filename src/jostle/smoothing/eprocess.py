"""Bounds on a probability that hold at every moment at once: a mixture e-process, inverted."""

import math
from typing import Any

import numpy as np
from scipy import optimize, special

from jostle.core.errors import require
from jostle.smoothing.bounds import Floats, Hits, check_level

_HALF = 0.5  # Jeffreys' prior, Beta(1/2, 1/2)


def log_e(hits: Hits, count: int, p0: Floats, *, truncated: bool = True) -> Floats:
    """Logarithm of the e-process against `p <= p0` after `hits` successes in `count` draws.

    The likelihood ratio of a Beta(1/2, 1/2) prior cut to `(p0, 1]` against `p0`:
    `ln B(1/2+S, 1/2+n-S) + ln I^c_p0(1/2+S, 1/2+n-S) - ln B(1/2, 1/2) - ln I^c_p0(1/2, 1/2) - S ln p0 - (n-S)
    ln(1-p0)`, `I^c` the upper incomplete beta. For every `p <= p0` it is a supermartingale that starts at 1, so by
    Ville's inequality it ever reaches `1/alpha` with probability at most `alpha`.

    **Arguments:** `hits`: 0 to `count`. `count`: draws, at least 0. `p0`: in (0, 1), one or
    many. `truncated`: False takes the
    prior on all of (0, 1), as in the betting test of Voracek (2024), which holds two-sided only.
    **Returns:** the logarithm; `-inf` where it is below what a float can say.

    >>> round(float(log_e(100, 100, 0.5)), 3)
    67.132
    """
    p0 = np.asarray(p0, dtype=np.float64)
    require(bool(((p0 > 0) & (p0 < 1)).all()), f"p0 must lie in (0, 1), but {p0} came")
    require(count >= 0, f"count must be at least 0, but {count} came")
    hits = np.asarray(hits, dtype=np.float64)
    fails = count - hits
    ratio = (
        special.betaln(_HALF + hits, _HALF + fails)
        - special.betaln(_HALF, _HALF)
        - special.xlogy(hits, p0)
        - special.xlog1py(fails, -p0)
    )
    if not truncated:
        return ratio
    with np.errstate(divide="ignore"):  # where the tail underflows, E is far below 1 and rejects nothing
        tail = np.log(special.betaincc(_HALF + hits, _HALF + fails, p0))
    return ratio + tail - np.log(special.betaincc(_HALF, _HALF, p0))


def anytime_lower(hits: int, count: int, alpha: float, *, truncated: bool = True) -> float:
    """The lower bound `inf { p0 : E_n(p0) < 1/alpha }`, valid at any time, even one chosen by the data.

    **Arguments:** `hits`, `count`: of the draws so far. `alpha`: level in (0, 1).

    >>> round(anytime_lower(1000, 1000, 0.001), 4)
    0.992
    """
    check_level("alpha", alpha)
    share, target = hits / count if count else 0.0, -math.log(alpha)

    def excess(logit: float) -> float:
        return float(log_e(hits, count, float(special.expit(logit)), truncated=truncated)) - target

    # In logits: near 0 and 1 the bound keeps its relative precision. E falls in p0 up to the observed share.
    low, high = -36.0, float(special.logit(share)) if 0 < share < 1 else math.copysign(36.0, share - 0.5)
    if hits == 0 or excess(low) <= 0:
        return 0.0
    if excess(high) >= 0:  # only without truncation, whose E may be large on the far side
        return share
    root: Any = optimize.brentq(excess, low, high, xtol=1e-12, rtol=1e-12)  # type: ignore[arg-type]
    return float(special.expit(root))


def anytime_upper(hits: int, count: int, alpha: float, *, truncated: bool = True) -> float:
    """The mirrored upper bound: 1 less the lower bound on the share of failures.

    >>> anytime_upper(3, 10, 0.01) == 1 - anytime_lower(7, 10, 0.01)
    True
    """
    return 1.0 - anytime_lower(count - hits, count, alpha, truncated=truncated)
