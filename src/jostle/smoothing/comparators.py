"""Other ways to save draws, to compare with, and the table of all procedures by name."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from jostle.smoothing.anytime import Anytime, Betting
from jostle.smoothing.bounds import lower_bound, radius_of, upper_bound
from jostle.smoothing.procedures import Counts, Fixed, Procedure, Sequential, Track


@dataclass(frozen=True)
class Bounded(Procedure):
    """Procedures with Clopper-Pearson bounds whose levels are shared out over their looks, so that all hold."""

    @cached_property
    @abstractmethod
    def looks(self) -> list[int]:
        """Totals of draws at which to look."""

    @abstractmethod
    def bounds(self, hits: list[int]) -> tuple[float, float]:
        """Lower and upper bound at the last look, from the successes at all looks so far."""

    def begin(self, top: int, selection: Counts) -> Track:
        return _BoundedTrack(self, top)


# At the early looks the same few counts come for input after input.
@lru_cache(maxsize=2**15)
def _both(hits: int, count: int, alpha: float, beta: float) -> tuple[float, float]:
    return float(lower_bound(hits, count, alpha)), float(upper_bound(hits, count, beta))


class _BoundedTrack(Track):
    def __init__(self, plan: Bounded, top: int) -> None:
        self.plan, self.top, self.hits, self.p_upper = plan, top, [], 1.0
        self.next_look = plan.looks[0]

    def look(self, counts: Counts, n: int) -> bool:
        plan = self.plan
        self.hits.append(int(counts[self.top]))
        low, high = plan.bounds(self.hits)
        # All bounds of one input hold together, so the best of them does.
        self.p_lower, self.p_upper = max(self.p_lower, low), min(self.p_upper, high)
        self.certain = self.p_lower > 0.5
        self.radius = float(radius_of(self.p_lower, plan.sigma))
        open_radii = [p for p in plan.thresholds if self.p_lower <= p < self.p_upper]
        if len(self.hits) == len(plan.looks) or self.p_upper <= plan.thresholds[0] or not open_radii:
            return True
        self.next_look = plan.looks[len(self.hits)]
        return False


@dataclass(frozen=True)
class Union(Bounded):
    """Clopper-Pearson at `ceil(1.1^k)` draws with the level `5 alpha / ((i + 4)(i + 5))`, `i = 1, 2, ...` (Voracek).

    The levels sum to `alpha`. A comparator.
    """

    @cached_property
    def looks(self) -> list[int]:
        k0, found = 11, []
        while not found or found[-1] < self.n_max:
            found.append(min(self.n_max, math.ceil(1.1 ** (k0 + len(found)))))
        return found

    def bounds(self, hits: list[int]) -> tuple[float, float]:
        i = len(hits)
        share = 5 / ((i + 4) * (i + 5))
        return _both(hits[-1], self.looks[i - 1], self.alpha * share, self.beta * share)


@dataclass(frozen=True)
class Stages(Bounded):
    """Up to three stages of 1 %, 10 % and 100 % of `n_max` fresh draws, `alpha / 3` each (Horvath et al. 2022).

    A comparator: the draws of earlier stages are thrown away.
    """

    @cached_property
    def looks(self) -> list[int]:
        sizes = [max(1, self.n_max // 100), max(1, self.n_max // 10), self.n_max]
        return np.cumsum(sizes).tolist()

    def bounds(self, hits: list[int]) -> tuple[float, float]:
        i = len(hits) - 1
        before, n0 = (hits[i - 1], self.looks[i - 1]) if i else (0, 0)
        fresh, n = hits[i] - before, self.looks[i] - n0
        return _both(fresh, n, self.alpha / 3, self.beta / 3)


@dataclass(frozen=True)
class InputSpecific(Procedure):
    """Cohen's bound with as many draws as the input needs, judged on the selection draws (after Chen et al. 2022).

    The fewest fresh draws with which the radius would fall short of that with `n_max` by at most `loss`, if the
    share of the selection draws were true. The draws that choose `n` are not used in the bound, so it is sound.

    **Arguments:** as for every [`Procedure`][jostle.smoothing.Procedure]. `loss`: in units of the radius.
    """

    loss: float = 0.05
    sizes: tuple[int, ...] = (100, 300, 1000, 3000, 10_000, 30_000)

    def begin(self, top: int, selection: Counts) -> Track:
        share = float(selection[top] + 0.5) / float(selection.sum() + 1)
        best = self._hoped(share, self.n_max)
        for n in (n for n in self.sizes if n < self.n_max):
            if best == 0 or best - self._hoped(share, n) <= self.loss:
                break
        else:
            n = self.n_max
        return Fixed(self.sigma, self.alpha, n).begin(top, selection)

    def _hoped(self, share: float, n: int) -> float:
        return float(radius_of(lower_bound(round(share * n), n, self.alpha), self.sigma))


METHODS: dict[str, type[Procedure]] = {
    "sequential": Sequential,
    "fixed": Fixed,
    "anytime": Anytime,
    "betting": Betting,
    "union": Union,
    "stages": Stages,
    "input-specific": InputSpecific,
}
"""The procedures by name."""
