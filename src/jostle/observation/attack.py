"""What every attack is: observations in, observations out, and a note of what was done."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.observation.policy import Policy


@dataclass(frozen=True, eq=False)
class Info:
    """What an attack did, one entry a sample.

    `moved`: whether the observation changed. `linf`, `l2`: by how much. `active`: the features that the budget
    let move. `objective`: what was maximised, at the observation shown; NaN for noise.
    """

    moved: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    active: np.ndarray
    objective: np.ndarray


@dataclass(frozen=True, eq=False)
class Shown:
    """What an attack shows: observations `o`, the features it may move, and its objective (`None`: NaN)."""

    o: Tensor
    active: Tensor
    objective: np.ndarray | None = None


class Attack(ABC):
    """Observations to show a policy instead of the true ones.

    Call it with a policy and observations `(batch, features)` or `(features,)`, tensors or arrays; what comes
    back is of the same kind, and the arguments are as they were. `t` is the time step, one number or one a
    sample. `generator` is needed by attacks that draw numbers. A new attack is one method, `show`.
    """

    @abstractmethod
    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """What is shown in the place of `clean`, `(batch, features)` and at least one, as the policy reads it."""

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations; see the class."""
        clean, back = policy.take(o)
        count = len(clean)
        if count:
            _inside(policy, clean)
            steps = np.full(count, t) if isinstance(t, int) else np.broadcast_to(np.asarray(t), (count,))
            found = self.show(policy, clean, steps, generator)
        else:
            found = Shown(clean, torch.arange(0))
        gap = (found.o - clean).cpu().numpy()
        furthest = np.abs(gap).max(1, initial=0.0)
        info = Info(
            furthest > 0,
            furthest,
            np.sqrt((gap * gap).sum(1)),
            found.active.cpu().numpy(),
            np.full(count, np.nan) if found.objective is None else found.objective,
        )
        given = o if isinstance(o, Tensor) else torch.from_numpy(np.asarray(o))
        if given.dtype == clean.dtype:
            return back(found.o.clone() if found.o is clean else found.o), info
        landed = _land(given, clean, found.o, policy)
        return (landed if isinstance(o, Tensor) else landed.cpu().numpy()), info


def _inside(policy: Policy, clean: Tensor) -> None:
    """Warn of true observations beyond the space's bounds: real sensors exceed what their data set held."""
    low, high = policy.observation_low.to(clean), policy.observation_high.to(clean)
    beyond = float(torch.maximum(low - clean, clean - high).max())
    if beyond > 1e-5:
        warnings.warn(
            f"o leaves the observation space by up to {beyond:.2g} before any attack; such values may stay, and "
            "move inwards only",
            stacklevel=3,
        )


def _land(given: Tensor, clean: Tensor, shown: Tensor, policy: Policy) -> Tensor:
    """What is shown, in the caller's own precision: untouched features keep their bits, none leaves its bound."""
    require(given.is_floating_point(), f"o must hold floating point numbers, but {given.dtype} came")
    wide = torch.promote_types(given.dtype, torch.float32)
    base = given.reshape(clean.shape).to(wide)
    move = (shown - clean).to(base)
    low, high = policy.observation_low.to(base), policy.observation_high.to(base)
    moved = torch.minimum(torch.maximum(base + move, torch.minimum(low, base)), torch.maximum(high, base))
    short = moved.to(given.dtype)
    over = (short.to(wide) - base).abs() > (moved - base).abs()
    short = torch.where(over, torch.nextafter(short, base.to(given.dtype)), short)
    return torch.where(move == 0, base.to(given.dtype), short).reshape(given.shape)


def needed(generator: torch.Generator | None, what: str) -> torch.Generator:
    """The generator, which must be there."""
    if generator is None:
        raise JostleError(f"generator must be given: the attack draws numbers for {what}")
    return generator
