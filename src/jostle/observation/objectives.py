"""Attack objectives: a loss tied to a policy, the clean observations and the time step."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.observation.losses import Distance, dl, gaussian_kl
from jostle.observation.policy import Policy

Direction = Literal["flip", "up", "down", "toggle"] | Callable[[np.ndarray], np.ndarray]
Value = Callable[[Tensor, Tensor], Tensor]
"""From perturbed observations and the body's output for them to one number a sample."""


Slope = Callable[[Any], tuple[Any, Any]]
"""From the body's output, array or tensor, to the objective, one number a sample, and its gradient in the output."""


class Goal(ABC):
    """What to maximise; a small class of settings with one method: `slope` where there is one, or else `bind`."""

    needs_start: bool = False
    """Whether its gradient vanishes at the clean point, so that an ascent must start elsewhere."""

    reads_output_only: bool = False
    """Whether it asks nothing of the policy but its body's output: no critic, no spread."""

    def slope(self, policy: Policy, x0: Any, t: np.ndarray) -> Slope | None:
        """Tie the objective to the clean output `x0`, array or tensor, if its gradient there has a closed form."""
        return None

    @abstractmethod
    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        """Tie the objective to clean observations `(batch, features)` at time steps `t`, one a sample."""


class _Sloped(Goal):
    """A goal whose gradient in the policy's output is known in closed form."""

    reads_output_only = True

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        with torch.no_grad():
            slope = self.slope(policy, policy.body(o), t)
        assert slope is not None
        return lambda _, x: slope(x)[0]


@dataclass(frozen=True)
class Bifurcate(_Sloped):
    """Push the action to the other half of its range, or to a named one.

    **Arguments:** `direction`: `flip` (away from the clean half), `up`, `down`, `toggle` (down on even steps,
    up on odd ones) or a function from time steps to signs. `dims`: the action dimensions that are pushed;
    all by default (the sum trades them off). `weights`: one a pushed dimension.
    """

    direction: Direction = "flip"
    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None

    def slope(self, policy: Policy, x0: Any, t: np.ndarray) -> Slope:
        if policy.discrete:
            return self._halved(x0, t)
        assert policy.centre is not None
        centre = policy.centre.to(x0) if isinstance(x0, Tensor) else policy.centre.numpy().astype(x0.dtype)
        side = self._sides(x0, centre, t)
        if not centre.any():  # as for every squashed policy: one operation less a step
            return lambda x: (_rows(x * side), side)
        return lambda x: (_rows((x - centre) * side), side)

    def _sides(self, x0: Any, centre: Any, t: np.ndarray) -> Any:
        """+2 or -2 where each action is pushed, times its weight: `(batch, actions)`, of the kind of `x0`."""
        want = self._signs(t)
        up = x0 < centre if want is None else (want[:, None] > 0) | np.zeros(x0.shape, bool)
        side = 4.0 * _numbers(up, x0) - 2.0
        if self.dims is None and self.weights is None:
            return side
        return side * _numbers(self._weights(x0.shape[1]), x0)

    def _halved(self, x0: Any, t: np.ndarray) -> Slope:
        """For classes in order: the best logit of the wanted half less the best of the other (the loss `gdl`)."""
        require(self.dims is None and self.weights is None, "dims and weights are for continuous actions")
        count = x0.shape[1]
        cut = count // 2
        rows = torch.arange(len(x0), device=x0.device) if isinstance(x0, Tensor) else np.arange(len(x0))
        if count % 2:
            warnings.warn(
                f"{count} actions have no halves: the lower {cut} stand against the upper {count - cut}",
                stacklevel=2,
            )
        want = self._signs(t)
        side = 2.0 * _numbers(x0.argmax(1) < cut if want is None else want > 0, x0) - 1.0

        def slope(z: Any) -> tuple[Any, Any]:
            low, high = z[:, :cut].argmax(1), cut + z[:, cut:].argmax(1)
            grad = torch.zeros_like(z) if isinstance(z, Tensor) else np.zeros_like(z)
            grad[rows, low], grad[rows, high] = -side, side
            return side * (z[rows, high] - z[rows, low]), grad

        return slope

    def _signs(self, t: np.ndarray) -> np.ndarray | None:
        """The wanted side a sample: +1 up, -1 down; `None` for the other half."""
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
        return signs.astype(np.float64)

    def _weights(self, count: int) -> np.ndarray:
        dims = tuple(range(count)) if self.dims is None else self.dims
        require(
            all(0 <= k < count for k in dims) and len(dims) > 0,
            f"dims must be of 0 to {count - 1}, but {dims} came",
        )
        values = (1.0,) * len(dims) if self.weights is None else self.weights
        require(len(values) == len(dims), f"weights must be {len(dims)} numbers, one a dimension of dims")
        weights = np.zeros(count)
        weights[list(dims)] = values
        return weights


@dataclass(frozen=True)
class Regress(_Sloped):
    """Away from the clean output, by its distance: the untargeted baseline."""

    kind: Distance = "mse"
    needs_start = True

    def slope(self, policy: Policy, x0: Any, t: np.ndarray) -> Slope:
        _continuous(policy, "a regression loss")
        share = 1 / x0.shape[1]

        def slope(x: Any) -> tuple[Any, Any]:
            gap = x - x0
            if self.kind == "mse":
                return share * _rows(gap * gap), 2 * share * gap
            if self.kind == "mae":
                sign = torch.sign(gap) if isinstance(gap, Tensor) else np.sign(gap)
                return share * _rows(abs(gap)), share * sign
            near = gap.clip(-1, 1)
            return share * _rows(near * (gap - near / 2)), share * near

        return slope


@dataclass(frozen=True)
class Classify(Goal):
    """Away from the clean class, by the cross-entropy (`ce`) or the difference of logits (`dl`)."""

    kind: Literal["ce", "dl"] = "ce"
    reads_output_only = True

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        require(
            policy.discrete, f"the {self.kind} loss is for discrete actions, but this policy's are continuous"
        )
        with torch.no_grad():
            y = policy.body(o).argmax(1)
        if self.kind == "dl":
            return lambda _, z: dl(z, y)
        return lambda _, z: torch.nn.functional.cross_entropy(z, y, reduction="none")


@dataclass(frozen=True)
class Diverge(Goal):
    """The largest change of the action's distribution, KL(clean || perturbed) (Zhang et al. 2020)."""

    needs_start = True

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        with torch.no_grad():
            x0 = policy.body(o)
        if policy.discrete:
            p0 = x0.log_softmax(1)
            return lambda _, z: (p0.exp() * (p0 - z.log_softmax(1))).sum(1)
        if policy.spread is None:
            return lambda _, x: 0.5 * (x - x0).square().sum(1)
        spread = policy.spread
        with torch.no_grad():
            sd0 = spread(o)
        return lambda shown, x: gaussian_kl(x, spread(shown), x0, sd0)


@dataclass(frozen=True)
class LowestQ(Goal):
    """The executed action that the critic thinks worst at the true observation: `-Q(o, a(o'))`."""

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        _continuous(policy, "min-Q")
        return lambda _, x: -policy.q(o, policy.execute(x))


@dataclass(frozen=True)
class LowestValue(Goal):
    """The observation that the policy's own value function thinks worst: `-V(o')`."""

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        return lambda shown, _: -policy.value(shown)


@dataclass(frozen=True)
class Toward(Goal):
    """Toward the action that somebody wants: a class by its margin, a continuous action by its distance.

    **Arguments:** `wanted`: from clean observations to class indices `(batch,)` or executed actions
    `(batch, actions)`.
    """

    wanted: Callable[[Tensor], Any]

    def bind(self, policy: Policy, o: Tensor, t: np.ndarray) -> Value:
        with torch.no_grad():
            target = torch.as_tensor(self.wanted(o)).to(o.device)
        if policy.discrete:
            require(
                tuple(target.shape) == (len(o),),
                f"wanted must give one class for each of {len(o)} observations, but {tuple(target.shape)} came",
            )
            return lambda _, z: -dl(z, target.long())
        target = target.to(o).reshape(len(o), -1)
        return lambda _, x: -(policy.execute(x) - target).square().sum(1)


def _continuous(policy: Policy, what: str) -> None:
    if policy.discrete:
        raise JostleError(f"{what} is for continuous actions, but this policy's are discrete")


def _rows(values: Any) -> Any:
    """The sum of each row, array or tensor."""
    return values.reshape(-1) if values.shape[1] == 1 else values.sum(1)


def _numbers(values: Any, like: Any) -> Any:
    """Numbers of the kind of `like`: an array of its precision, or a tensor on its device."""
    return torch.as_tensor(values).to(like) if isinstance(like, Tensor) else np.asarray(values, like.dtype)
