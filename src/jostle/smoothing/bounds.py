"""From counts to bounds on a probability, and from a probability to a radius."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from jostle.core.errors import require

Floats = np.ndarray | float
"""Numbers, one or many."""
Hits = Int[np.ndarray, "*any"] | np.integer | int
"""Successes, one or many."""
Found = Float[np.ndarray, "*any"] | float
"""A bound a count."""


def lower_bound(hits: Hits, count: int, alpha: float) -> Found:
    """One-sided Clopper-Pearson lower bound: `Beta^-1(alpha; k, n - k + 1)`, 0 at `k = 0` (Biometrika 26, 1934).

    **Arguments:** `hits`: successes, 0 to `count`. `count`: draws, at least 1. `alpha`: in (0, 1).
    **Returns:** the bound; it lies above the true probability in at most `alpha` of the cases.

    >>> round(float(lower_bound(100_000, 100_000, 0.001)), 10)
    0.9999309248
    """
    return 1.0 - _miss(hits, count, alpha)


def upper_bound(hits: Hits, count: int, alpha: float) -> Found:
    """One-sided Clopper-Pearson upper bound: `Beta^-1(1 - alpha; k + 1, n - k)`, 1 at `k = n`.

    >>> float(upper_bound(0, 1, 0.25))
    0.75
    """
    return _miss(count - np.asarray(hits), count, alpha)


def _miss(hits: Hits, count: int, alpha: float) -> Found:
    """Upper bound on the share of failures: near 1 successes keep all of their digits."""
    check_level("alpha", alpha)
    require(count >= 1, f"count must be at least 1, but {count} came")
    hits = np.asarray(hits)
    require(
        bool(((hits >= 0) & (hits <= count)).all()),
        f"hits must lie in 0 to {count}, but {hits.min()} to {hits.max()} came",
    )
    fails = count - hits
    bound = special.betainccinv(fails + 1.0, np.maximum(hits, 1.0), alpha)
    return np.where(hits == 0, 1.0, bound)


def radius_of(p: Floats, sigma: float) -> Floats:
    """The radius that a lower bound on `p_A` gives: `sigma Phi^-1(p)`, and 0 below a half (Cohen et al. 2019).

    **Arguments:** `p`: lower bound(s) on the top class's probability, below 1. `sigma`: of the noise.

    >>> round(float(radius_of(0.9999309248, 1.0)), 4)
    3.8115
    """
    check_sigma(sigma)
    return sigma * np.maximum(special.ndtri(p), 0.0)


def two_sided_radius(p_lower: float, p_upper: float, sigma: float) -> float:
    """The radius with a bound on the runner-up too: `sigma/2 (Phi^-1(pA) - Phi^-1(pB))` (Cohen, theorem 1).

    The level is shared by the two bounds: half of alpha each.

    >>> round(two_sided_radius(0.8, 0.1, 1.0), 4)
    1.0616
    """
    check_sigma(sigma)
    return max(0.0, 0.5 * sigma * float(special.ndtri(p_lower) - special.ndtri(p_upper)))


def threshold_of(radius: Floats, sigma: float) -> Floats:
    """The probability that a radius needs: `Phi(r / sigma)`, the inverse of `radius_of`.

    >>> float(threshold_of(0.0, 0.5))
    0.5
    """
    check_sigma(sigma)
    return special.ndtr(np.asarray(radius) / sigma)


def largest_radius(sigma: float, count: int, alpha: float) -> float:
    """The radius when all `count` draws agree, `sigma Phi^-1(alpha^(1/n))`: none above it can be certified.

    >>> round(largest_radius(1.0, 100_000, 0.001), 4)
    3.8115
    """
    return -sigma * float(special.ndtri(-math.expm1(math.log(alpha) / count)))


def draws_for(radius: float, sigma: float, alpha: float) -> int:
    """The fewest draws with which a radius can be certified at all: `ln alpha / ln Phi(r / sigma)`.

    >>> draws_for(3.8, 1.0, 0.001)
    95477
    """
    check_level("alpha", alpha)
    return math.ceil(math.log(alpha) / float(special.log_ndtr(radius / sigma)))


def check_radii(radii: Sequence[float], sigma: float, count: int, alpha: float) -> tuple[float, ...]:
    """Radii in order, each once.

    **Raises:** `JostleError` if one is negative or NaN, or cannot be reached with `count` draws.
    """
    require(len(radii) > 0, "radii must hold at least one radius, but none came")
    values = sorted({float(radius) for radius in radii})
    for radius in values:
        require(0 <= radius < math.inf, f"radii must be finite and at least 0, but {radius} came")
    check_sigma(sigma)
    check_level("alpha", alpha)
    top, most = values[-1], largest_radius(sigma, count, alpha)
    if top > most:
        needed = f"{draws_for(top, sigma, alpha):,}" if top < 8 * sigma else "beyond all"
        require(
            False,
            f"radius {top:g} cannot be certified with n_max = {count:,} draws at sigma {sigma:g} and alpha "
            f"{alpha:g}: at most {most:.4g} can; the draws needed are {needed}",
        )
    return tuple(values)


def usual_radii(
    sigma: float, step: float = 0.25, count: int = 100_000, alpha: float = 1e-3
) -> tuple[float, ...]:
    """The grid 0, `step`, 2 `step`, ... of radii that `count` draws can certify.

    >>> usual_radii(0.25)
    (0.0, 0.25, 0.5, 0.75)
    """
    most = largest_radius(sigma, count, alpha)
    return tuple(step * i for i in range(int(most / step) + 1))


def agreement_test(top: int, second: int) -> float:
    """p-value of `top` against `second` draws, were both classes equally likely (Cohen's prediction test).

    >>> round(agreement_test(9, 1), 4)
    0.0215
    """
    return float(stats.binomtest(top, top + second, 0.5).pvalue) if top + second else 1.0


def surely_correct(share: float, count: int, alpha: float, rho: float = 0.05) -> float:
    """A lower bound on the true certified accuracy of a set, with probability `1 - rho` (Cohen, appendix).

    `m - alpha - sqrt(2 alpha (1 - alpha) ln(1/rho) / n) - ln(1/rho) / (3 n)`, by Bernstein's inequality.

    **Arguments:** `share`: of the set that was certified. `count`: inputs. `alpha`: of each certificate.

    >>> round(surely_correct(0.5, 500, 0.001), 4)
    0.4935
    """
    spread = math.sqrt(2 * alpha * (1 - alpha) * math.log(1 / rho) / count)
    return max(0.0, share - alpha - spread - math.log(1 / rho) / (3 * count))


def check_level(name: str, level: float) -> None:
    """Refuse an error level outside (0, 1)."""
    require(0 < level < 1, f"{name} must lie in (0, 1), but {level} came")


def check_sigma(sigma: float) -> None:
    """Refuse a noise that is not positive, or that must have been meant in units of 0 to 255."""
    require(0 < sigma < math.inf, f"sigma must be above 0 and finite, but {sigma} came")
    require(
        sigma <= 5,
        f"sigma is in units of images in [0, 1] (0.25, 0.5 and 1 are usual), but {sigma:g} came; divide a sigma "
        "in 0-255 units by 255",
    )
