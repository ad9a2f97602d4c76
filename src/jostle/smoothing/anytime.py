"""Certification whose bounds hold at every moment: continuous radii, and budgets that stay open."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from jostle.core.errors import require
from jostle.smoothing.boundary import looks
from jostle.smoothing.bounds import radius_of
from jostle.smoothing.eprocess import anytime_lower, anytime_upper, log_e
from jostle.smoothing.procedures import Counts, Procedure, Track


@dataclass(frozen=True)
class Anytime(Procedure):
    """The truncated mixture e-process, looked at every 3 %: for continuous radii and open budgets.

    An input is done when each radius of the grid is decided, when the bounds are closer than `tolerance`, or after
    `n_max` draws; its radius is that of the bound at that moment, which needs no correction for having looked.

    **Arguments:** as for every [`Procedure`][jostle.smoothing.Procedure]. `tolerance`: width in the radius at which
    to stop; 0 leaves it to the grid.
    """

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tolerance >= 0, f"tolerance must be at least 0, but {self.tolerance} came")

    truncated: ClassVar[bool] = True

    @property
    def levels(self) -> tuple[float, float]:
        """The levels of the lower and of the upper bound."""
        return self.alpha, self.beta

    @cached_property
    def looks(self) -> list[int]:
        """Totals of draws at which the counts are looked at."""
        return looks(self.n_max, min(50, self.n_max), 1.03).tolist()

    def begin(self, top: int, selection: Counts) -> Track:
        return _AnytimeTrack(self, top)


# At the early looks the same few counts come for input after input.
@lru_cache(maxsize=2**15)
def _decided(
    hits: int, n: int, thresholds: tuple[float, ...], levels: tuple[float, float], truncated: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which thresholds the process puts below `p_A`, and which above, were these counts all there is."""
    at = np.array(thresholds)
    against = log_e(hits, n, at, truncated=truncated)
    mirrored = log_e(n - hits, n, 1 - at, truncated=truncated)
    # Without truncation the process grows on either side; only one of them speaks for the claim.
    side = hits > n * at
    return side & (against >= -math.log(levels[0])), ~side & (mirrored >= -math.log(levels[1]))


class _AnytimeTrack(Track):
    def __init__(self, plan: Anytime, top: int) -> None:
        self.plan, self.top, self.at = plan, top, 0
        self.next_look = plan.looks[0]
        self.above = np.zeros(len(plan.thresholds), dtype=bool)
        self.below = self.above.copy()

    def look(self, counts: Counts, n: int) -> bool:
        plan, hits = self.plan, int(counts[self.top])
        alpha, beta = plan.levels
        above, below = _decided(hits, n, plan.thresholds, plan.levels, plan.truncated)
        self.above |= above
        self.below |= below
        self.at += 1
        done = self.at == len(plan.looks) or bool(self.below[0])
        if not done and plan.tolerance:
            high = anytime_upper(hits, n, beta, truncated=plan.truncated)
            low = anytime_lower(hits, n, alpha, truncated=plan.truncated)
            done = bool(
                radius_of(min(high, 1 - 1e-16), plan.sigma) - radius_of(low, plan.sigma) <= plan.tolerance
            )
        elif not done:
            done = bool((self.above | self.below).all())
        if done:
            self.p_lower = anytime_lower(hits, n, alpha, truncated=plan.truncated)
            if self.above.any():  # what was shown at an earlier look stays shown
                self.p_lower = max(self.p_lower, float(np.array(plan.thresholds)[self.above].max()))
            self.certain = self.p_lower > 0.5
            self.radius = float(radius_of(self.p_lower, plan.sigma))
            return True
        self.next_look = plan.looks[self.at]
        return False


@dataclass(frozen=True)
class Betting(Anytime):
    """Voracek's betting test (2024): the mixture over all of (0, 1), stopped at a wealth of `1 / (2 alpha)`.

    A comparator: its total two-sided error is `2 alpha`; that each side keeps `alpha` is not proven.
    """

    truncated: ClassVar[bool] = False

    @property
    def levels(self) -> tuple[float, float]:
        level = min(2 * self.alpha, 0.5)
        return level, level
