"""Attacks made of attacks: at chosen moments, with the least change, through a stand-in for the policy."""

from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import require
from jostle.observation.attack import Attack, Shown, needed
from jostle.observation.attacks import PGD, Bifurcation
from jostle.observation.policy import Policy


@dataclass(frozen=True, eq=False)
class Timed(Attack):
    """Strike at some steps only; what is shown otherwise is the truth.

    **Arguments:** `attack`: the attack. Exactly one of `value_above`: strike where V(o) is at least this
    (take a percentile of the clean values); `rate`: strike at random with this probability; `steps`: strike at
    these time steps.
    """

    attack: Attack
    value_above: float | None = None
    rate: float | None = None
    steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = [self.value_above, self.rate, self.steps]
        require(sum(one is not None for one in given) == 1, "give exactly one of value_above, rate and steps")
        require(self.rate is None or 0 <= self.rate <= 1, f"rate must lie in [0, 1], but {self.rate} came")

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """The attack's observations where it is time to, the true ones elsewhere."""
        strike = self._strikes(policy, clean, t, generator)
        found = self.attack.show(policy, clean, t, generator)
        shown = torch.where(strike[:, None].to(clean.device), found.o, clean)
        if found.objective is None:
            return Shown(shown, found.active)
        return Shown(shown, found.active, np.where(strike.cpu().numpy(), found.objective, np.nan))

    def _strikes(
        self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None
    ) -> Tensor:
        if self.value_above is not None:
            with policy.held(), torch.no_grad():
                return policy.value(clean) >= self.value_above
        if self.rate is not None:
            return torch.rand(len(clean), generator=needed(generator, "its moments")) < self.rate
        return torch.from_numpy(np.isin(t, self.steps or ()))


@dataclass(frozen=True, eq=False)
class MinDistortion(Attack):
    """The smallest of given radii at which the action changes, by binary search, a sample at a time.

    Where none suffices the true observation is shown; `info.objective` holds the radius, or NaN.

    **Arguments:** `attack`: the attack; its budget's radii are multiplied by each of `factors`. `factors`:
    rising. `change`: how far a continuous action must move, in units of the action; a discrete one must
    become another.
    """

    attack: PGD
    factors: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    change: float = 0.1

    def __post_init__(self) -> None:
        require(
            len(self.factors) > 0 and list(self.factors) == sorted(self.factors),
            f"factors must rise, but {self.factors} came",
        )

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """Observations that are changed as little as is needed."""
        before = policy.act(clean)
        low, high = np.zeros(len(clean), int), np.full(len(clean), len(self.factors))
        shown, active = clean.clone(), torch.arange(0)
        while (low < high).any():
            middle = (low + high) // 2
            for m in np.unique(middle[low < high]):
                some = np.flatnonzero((middle == m) & (low < high))
                inner = replace(self.attack, budget=self.attack.budget.times(self.factors[m]))
                found = inner.show(policy, clean[some], t[some], generator)
                good = self._changed(policy, before[some], found.o)
                high[some[good]], low[some[~good]] = m, m + 1
                shown[some[good]], active = found.o[good], found.active
        return Shown(shown, active, np.append(self.factors, np.nan)[low])

    def _changed(self, policy: Policy, before: Tensor, shown: Tensor) -> np.ndarray:
        after = policy.act(shown)
        if policy.discrete:
            return (after != before).cpu().numpy()
        return ((after - before).abs().amax(1) >= self.change).cpu().numpy()


@dataclass(frozen=True, eq=False)
class WorstCorner(Attack):
    """For several actions: push them to each corner of their box in turn, and keep the corner the critic likes least.

    The sum of the bifurcation losses trades actions off; this tries all `2^A` combinations of "more" and "less",
    and shows, a sample, the one with the smallest `Q(o, a(o'))` at the true `o`; `info.objective` is `-Q`.

    **Arguments:** `attack`: the bifurcation attack whose budget and steps are used. The policy needs a critic and
    at most 6 continuous actions.
    """

    attack: Bifurcation = field(default_factory=Bifurcation)

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """The observations of the worst corner."""
        count = 0 if policy.low is None else len(policy.low)
        require(
            1 <= count <= 6,
            f"the policy must have 1 to 6 continuous actions, but this one has {count or 'classes'}",
        )
        shown, active, worst = clean, torch.arange(0), clean.new_full((len(clean),), -torch.inf)
        for signs in product((-1.0, 1.0), repeat=count):
            one = replace(self.attack, direction="up", dims=None, weights=signs)
            found = one.show(policy, clean, t, generator)
            with policy.held(), torch.no_grad():
                harm = -policy.q(clean, policy.execute(policy.body(found.o)))
            more, active = harm > worst, found.active
            shown = torch.where(more[:, None], found.o, shown)
            worst = torch.where(more, harm, worst)
        return Shown(shown, active, worst.cpu().numpy())


@dataclass(frozen=True, eq=False)
class Transfer(Attack):
    """A black-box attack: computed on a stand-in (a proxy that was fitted to a log), shown to the policy.

    **Arguments:** `attack`: the attack. `proxy`: what it may look into.
    """

    attack: Attack
    proxy: Policy

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """What fools the proxy."""
        read = clean.to(self.proxy.like)
        found = self.attack.show(self.proxy, read, t, generator)
        shown = torch.where(found.o == read, clean, found.o.to(clean))
        return Shown(shown, found.active, found.objective)
