"""Attacks made of attacks: at chosen moments, with the least change, through a stand-in for the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import require
from jostle.observation.attacks import PGD, Attack, Info
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

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations, where it is time to."""
        clean, _ = policy.take(o)
        strike = torch.as_tensor(
            self._strikes(policy, clean, np.broadcast_to(np.asarray(t), len(clean)), generator)
        )
        shown, info = self.attack(policy, o, t=t, generator=generator)
        kind = torch.as_tensor(np.asarray(shown)) if not isinstance(shown, Tensor) else shown
        given = torch.as_tensor(np.asarray(o)) if not isinstance(o, Tensor) else o
        mask = strike[0] if kind.ndim == 1 else strike[:, None]
        out = torch.where(mask.to(kind.device), kind, given)
        struck = strike.cpu().numpy()
        info = Info(
            info.moved & struck,
            np.where(struck, info.linf, 0),
            np.where(struck, info.l2, 0),
            info.active,
            np.where(struck, info.objective, np.nan),
        )
        return (out if isinstance(o, Tensor) else out.numpy()), info

    def _strikes(
        self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None
    ) -> Any:
        if self.value_above is not None:
            with policy.held(), torch.no_grad():
                return policy.value(clean) >= self.value_above
        if self.rate is not None:
            require(generator is not None, "generator must be given: the attack draws its moments")
            return torch.rand(len(clean), generator=generator) < self.rate
        return np.isin(t, self.steps or ())


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

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations with as little as is needed."""
        given = o.detach() if isinstance(o, Tensor) else torch.as_tensor(np.asarray(o))
        rows = given if given.ndim == 2 else given[None]
        before = policy.act(rows)
        steps = np.broadcast_to(np.asarray(t), len(rows))
        low, high = np.zeros(len(rows), int), np.full(len(rows), len(self.factors))
        shown = rows.clone()
        while (low < high).any():
            middle = (low + high) // 2
            for m in np.unique(middle[low < high]):
                some = np.flatnonzero((middle == m) & (low < high))
                inner = replace(self.attack, budget=self.attack.budget.times(self.factors[m]))
                found, _ = inner(policy, rows[some], t=steps[some], generator=generator)
                good = self._changed(policy, before[some], found)
                high[some[good]], low[some[~good]] = m, m + 1
                shown[some[good]] = found[good]
        none = low == len(self.factors)
        gap = (shown - rows).abs().double().cpu().numpy()
        largest = gap.max(1, initial=0.0)
        radius = np.where(none, np.nan, np.append(self.factors, np.nan)[low])
        e = self.attack.budget.radii(policy.features, policy.observation_low, policy.observation_high)
        info = Info(largest > 0, largest, np.sqrt((gap**2).sum(1)), e.nonzero()[:, 0].numpy(), radius)
        out = shown if given.ndim == 2 else shown[0]
        return (out if isinstance(o, Tensor) else out.numpy()), info

    def _changed(self, policy: Policy, before: Tensor, shown: Tensor) -> np.ndarray:
        after = policy.act(shown)
        if policy.discrete:
            return (after != before).cpu().numpy()
        return ((after - before).abs().amax(1) >= self.change).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Transfer(Attack):
    """A black-box attack: computed on a stand-in (a proxy that was fitted to a log), shown to the policy.

    **Arguments:** `attack`: the attack. `proxy`: what it may look into.
    """

    attack: Attack
    proxy: Policy

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations without a look at the policy."""
        return self.attack(self.proxy, o, t=t, generator=generator)
