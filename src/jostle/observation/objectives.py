"""Attack objectives: a loss tied to a policy, the clean observations and the time step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.observation.losses import Distance, bifurcated, dl, gaussian_kl, gdl, halves, regression
from jostle.observation.policy import Policy

Direction = Literal["flip", "up", "down", "toggle"] | Callable[[np.ndarray], np.ndarray]
Value = Callable[[Tensor, Tensor], Tensor]
"""From perturbed observations and the body's output for them to one number a sample."""


@dataclass(frozen=True)
class Bound:
    """An objective with everything clean frozen in it.

    `value`: see `Value`. `side`: where the objective is `sum side (x - c)`, its constant slope in the
    output; `pull`: where it is a distance of the output from the clean one; both for the closed form.
    """

    value: Value
    side: Tensor | None = None
    pull: Distance | None = None


class Goal(ABC):
    """What to maximise; a small class of settings with one method."""

    needs_start: bool = False
    """Whether its gradient vanishes at the clean point, so that an ascent must start elsewhere."""

    @abstractmethod
    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        """Tie the objective to clean observations `(batch, features)` at time steps `t`, one a sample."""


@dataclass(frozen=True)
class Bifurcate(Goal):
    """Push the action to the other half of its range, or to a named one.

    **Arguments:** `direction`: `flip` (away from the clean half), `up`, `down`, `toggle` (down on even steps,
    up on odd ones) or a function from time steps to signs. `dims`: the action dimensions that are pushed;
    all by default (the sum trades them off). `weights`: one a pushed dimension.
    """

    direction: Direction = "flip"
    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        with torch.no_grad():
            x0 = policy.body(o)
        if policy.discrete:
            return self._grouped(x0, t)
        assert policy.centre is not None
        centre = policy.centre.to(x0)
        want = self._signs(t, x0)
        side = torch.where(x0 >= centre, -1.0, 1.0).to(x0) if want is None else want.expand_as(x0)
        side = side * self._weights(x0)
        return Bound(lambda _, x: bifurcated(x, side, centre), side=2 * side)

    def _grouped(self, x0: Tensor, t: np.ndarray) -> Bound:
        require(self.dims is None and self.weights is None, "dims and weights are for continuous actions")
        groups = halves(x0.shape[1]).to(x0.device)
        y = x0.argmax(1)
        want = self._signs(t, x0)
        if want is None:
            return Bound(lambda _, z: gdl(z, y, groups))
        # The margin of the wanted half over the other: its first class stands for the half to leave.
        leave = torch.where(want[:, 0] > 0, 0, x0.shape[1] - 1)
        return Bound(lambda _, z: gdl(z, leave, groups))

    def _signs(self, t: np.ndarray, x0: Tensor) -> Tensor | None:
        """The wanted side a sample, `(batch, 1)`: +1 up, -1 down; `None` for the other half."""
        if self.direction == "flip":
            return None
        if callable(self.direction):
            signs = np.asarray(self.direction(t))
            require(
                signs.shape == t.shape and bool(np.isin(signs, (-1, 1)).all()),
                f"direction must give -1 or +1 for each of the {len(t)} time steps, but {signs!r} came",
            )
        else:
            require(
                self.direction in ("up", "down", "toggle"),
                f"direction must be flip, up, down, toggle or a function, but {self.direction!r} came",
            )
            signs = {"up": np.ones(len(t)), "down": -np.ones(len(t)), "toggle": 2 * (t % 2) - 1}[
                self.direction
            ]
        return torch.as_tensor(signs.astype(np.float64)).to(x0)[:, None]

    def _weights(self, x0: Tensor) -> Tensor:
        count = x0.shape[1]
        dims = tuple(range(count)) if self.dims is None else self.dims
        require(
            all(0 <= k < count for k in dims) and len(dims) > 0,
            f"dims must be of 0 to {count - 1}, but {dims} came",
        )
        values = (1.0,) * len(dims) if self.weights is None else self.weights
        require(len(values) == len(dims), f"weights must be {len(dims)} numbers, one a dimension of dims")
        weights = torch.zeros(count)
        weights[list(dims)] = torch.tensor(values, dtype=torch.float32)
        return weights.to(x0)


@dataclass(frozen=True)
class Regress(Goal):
    """Away from the clean output, by its distance: the untargeted baseline."""

    kind: Distance = "mse"
    needs_start = True

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        _continuous(policy, "a regression loss")
        with torch.no_grad():
            x0 = policy.body(o)
        return Bound(lambda _, x: regression(x, x0, self.kind), pull=self.kind)


@dataclass(frozen=True)
class Classify(Goal):
    """Away from the clean class, by the cross-entropy (`ce`) or the difference of logits (`dl`)."""

    kind: Literal["ce", "dl"] = "ce"

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        require(
            policy.discrete, f"the {self.kind} loss is for discrete actions, but this policy's are continuous"
        )
        with torch.no_grad():
            y = policy.body(o).argmax(1)
        if self.kind == "dl":
            return Bound(lambda _, z: dl(z, y))
        return Bound(lambda _, z: torch.nn.functional.cross_entropy(z, y, reduction="none"))


@dataclass(frozen=True)
class Diverge(Goal):
    """The largest change of the action's distribution, KL(clean || perturbed) (Zhang et al. 2020)."""

    needs_start = True

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        with torch.no_grad():
            x0 = policy.body(o)
        if policy.discrete:
            p0 = x0.log_softmax(1)
            return Bound(lambda _, z: (p0.exp() * (p0 - z.log_softmax(1))).sum(1))
        if policy.spread is None:
            return Bound(lambda _, x: 0.5 * (x - x0).square().sum(1), pull="mse")
        spread = policy.spread
        with torch.no_grad():
            sd0 = spread(o)
        return Bound(lambda shown, x: gaussian_kl(x, spread(shown), x0, sd0))


@dataclass(frozen=True)
class LowestQ(Goal):
    """The executed action that the critic thinks worst at the true observation: `-Q(o, a(o'))`."""

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        _continuous(policy, "min-Q")
        return Bound(lambda _, x: -policy.q(o, policy.execute(x)))


@dataclass(frozen=True)
class LowestValue(Goal):
    """The observation that the policy's own value function thinks worst: `-V(o')`."""

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        return Bound(lambda shown, _: -policy.value(shown))


@dataclass(frozen=True)
class Toward(Goal):
    """Toward the action that somebody wants: a class by its margin, a continuous action by its distance.

    **Arguments:** `wanted`: from clean observations to class indices `(batch,)` or executed actions
    `(batch, actions)`.
    """

    wanted: Callable[[Tensor], Any]

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Bound:
        with torch.no_grad():
            target = torch.as_tensor(self.wanted(o)).to(o.device)
        if policy.discrete:
            require(
                tuple(target.shape) == (len(o),),
                f"wanted must give one class for each of {len(o)} observations, but {tuple(target.shape)} came",
            )
            return Bound(lambda _, z: -dl(z, target.long()))
        target = target.to(o).reshape(len(o), -1)
        return Bound(lambda _, x: -(policy.execute(x) - target).square().sum(1))


def _continuous(policy: Policy, what: str) -> None:
    if policy.discrete:
        raise JostleError(f"{what} is for continuous actions, but this policy's are discrete")
