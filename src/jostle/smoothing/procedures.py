"""Ways to certify: when to look at the counts of an input, when to stop, and what may be said then."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from jostle.core.errors import require
from jostle.smoothing.boundary import Boundary, boundary, looks
from jostle.smoothing.bounds import (
    check_level,
    check_radii,
    check_sigma,
    lower_bound,
    threshold_of,
    two_sided_radius,
    upper_bound,
    usual_radii,
)

Counts = Int[np.ndarray, " classes"]
"""How often each class was the answer, in the draws that estimate."""


class Track(ABC):
    """One input on its way to a certificate."""

    next_look: int
    """Total of estimation draws after which `look` wants to be called."""
    radius: float = 0.0
    """What is certified so far; 0 may mean 'nothing' (see `p_lower`)."""
    p_lower: float = 0.0
    """What `p_A` is certified to exceed so far; a prediction needs at least 1/2."""
    certain: bool = False
    """Whether even the class is certified."""

    @abstractmethod
    def look(self, counts: Counts, n: int) -> bool:
        """Take in the counts after `n` draws; say whether the input is done."""


@dataclass(frozen=True)
class Procedure(ABC):
    """A certification procedure for one noise level.

    **Arguments:** `sigma`: of the noise, in units of images in [0, 1]. `alpha`: chance at most of a false
    certificate, an input. `n_max`: most estimation draws. `radii`: the radii that are asked for; none takes 0,
    0.25, 0.5 ... as far as `n_max` draws reach. `beta`: chance at most, a radius, to give up one that could have
    been certified; it costs power, never soundness.
    """

    sigma: float
    alpha: float = 1e-3
    n_max: int = 100_000
    radii: tuple[float, ...] | None = None
    beta: float = 1e-3

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_level("alpha", self.alpha)
        check_level("beta", self.beta)
        require(self.n_max >= 1, f"n_max must be at least 1, but {self.n_max} came")
        if 0.5**self.n_max > self.alpha:
            require(
                False,
                f"with n_max = {self.n_max} draws nothing can be certified at alpha {self.alpha:g}; at least "
                f"{math.ceil(-math.log2(self.alpha))} are needed",
            )
        if self.radii is not None:
            check_radii(self.radii, self.sigma, self.n_max, self.alpha)

    @property
    def name(self) -> str:
        """What the procedure is called in tables."""
        return type(self).__name__.lower()

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """The radii that are asked for, rising."""
        if self.radii is None:
            step = 0.25 if self.sigma > 0.1 else self.sigma / 2
            return usual_radii(self.sigma, step, self.n_max, self.alpha)
        return check_radii(self.radii, self.sigma, self.n_max, self.alpha)

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """What `p_A` must exceed for each radius of the grid."""
        return tuple(float(threshold_of(radius, self.sigma)) for radius in self.grid)

    @abstractmethod
    def begin(self, top: int, selection: Counts) -> Track:
        """Start on an input whose most frequent class among the selection draws is `top`."""


@dataclass(frozen=True)
class Fixed(Procedure):
    """Cohen's procedure: `n_max` draws, then one Clopper-Pearson bound (Cohen, Rosenfeld & Kolter 2019).

    **Arguments:** as for every [`Procedure`][jostle.smoothing.Procedure]. `runner_up`: bound the other classes too,
    each at `alpha / 2 (K - 1)` with `alpha / 2` for the top class; then `R = sigma/2 (Phi^-1(pA) - Phi^-1(pB))`.
    """

    runner_up: bool = False

    def begin(self, top: int, selection: Counts) -> Track:
        return _FixedTrack(self, top)


class _FixedTrack(Track):
    def __init__(self, plan: Fixed, top: int) -> None:
        self.plan, self.top, self.next_look = plan, top, plan.n_max

    def look(self, counts: Counts, n: int) -> bool:
        plan, hits = self.plan, int(counts[self.top])
        alpha = plan.alpha / 2 if plan.runner_up else plan.alpha
        self.p_lower = float(lower_bound(hits, n, alpha))
        others = 1.0 - self.p_lower
        if plan.runner_up and len(counts) > 1:
            second = int(np.delete(counts, self.top).max())
            others = min(others, float(upper_bound(second, n, alpha / (len(counts) - 1))))
        self.certain = self.p_lower > others
        self.radius = two_sided_radius(self.p_lower, others, plan.sigma) if self.certain else 0.0
        return True


@dataclass(frozen=True)
class Sequential(Procedure):
    """The exact group-sequential test of a grid of radii, stopped as soon as each is decided; the default.

    At each look a radius `r` is certified when the successes reach the boundary for `p0 = Phi(r / sigma)`, and
    given up when it is out of reach or when the failures reach the mirrored boundary at level `beta`. A radius
    counts only if all smaller ones of the grid are certified: a false claim then needs a false rejection at the
    first false radius, so the whole grid holds at level `alpha` without any correction.

    **Arguments:** as for every [`Procedure`][jostle.smoothing.Procedure]. `rho`, `first`, `ratio`: of the
    [`boundary`][jostle.smoothing.boundary].
    """

    rho: float = 0.5
    first: int = 50
    ratio: float = 1.1

    @cached_property
    def _accept(self) -> list[Boundary]:
        return [self._table(p0, self.alpha) for p0 in self.thresholds]

    @cached_property
    def looks(self) -> list[int]:
        """Totals of draws at which the counts are looked at."""
        return looks(self.n_max, self.first, self.ratio).tolist()

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """By look and radius: from how many successes it is certified, and up to how many it is given up."""
        accept = np.stack([table.critical for table in self._accept], axis=1)
        fails = np.stack([self._table(1 - p0, self.beta).critical for p0 in self.thresholds], axis=1)
        n = np.array(self.looks)[:, None]
        hopeless = accept[-1] - (self.n_max - n) - 1
        return accept, np.maximum(n - fails, hopeless)

    @cached_property
    def rows(self) -> list[tuple[list[int], list[int]]]:
        """The tables by look, as lists: a look at a few radii is quicker without arrays."""
        accept, reject = self.tables
        return list(zip(accept.tolist(), reject.tolist(), strict=True))

    def _table(self, p0: float, level: float) -> Boundary:
        return boundary(p0, self.n_max, level, rho=self.rho, first=self.first, ratio=self.ratio)

    def begin(self, top: int, selection: Counts) -> Track:
        return _SequentialTrack(self, top)


class _SequentialTrack(Track):
    def __init__(self, plan: Sequential, top: int) -> None:
        self.plan, self.top, self.at = plan, top, 0
        self.next_look = plan.looks[0]
        self.passed = [False] * len(plan.grid)
        self.proven = 0  # radii that count: these and all smaller ones have passed
        self.alive = len(plan.grid)  # radii from here on are given up

    def look(self, counts: Counts, n: int) -> bool:
        accept, reject = self.plan.rows[self.at]
        hits = int(counts[self.top])
        for i in range(self.proven, self.alive):
            if self.passed[i] or hits >= accept[i]:
                self.passed[i] = True
            elif hits <= reject[i]:
                self.alive = i
                break
        while self.proven < self.alive and self.passed[self.proven]:
            self.proven += 1
        if self.proven:
            self.certain = True
            self.radius, self.p_lower = self.plan.grid[self.proven - 1], self.plan.thresholds[self.proven - 1]
        self.at += 1
        if self.proven == self.alive or self.at == len(self.plan.looks):
            return True
        self.next_look = self.plan.looks[self.at]
        return False


def dense_radii(sigma: float, n_max: int = 100_000, alpha: float = 1e-3) -> tuple[float, ...]:
    """A grid in steps of `0.05 sigma`, where nearly continuous radii are wanted from the sequential test.

    >>> len(dense_radii(1.0))
    77
    """
    return usual_radii(sigma, 0.05 * sigma, n_max, alpha)
