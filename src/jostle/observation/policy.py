"""A trained policy as the attacks see it: a differentiable body, and how its output becomes an action."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import frozen

Head = Literal["tanh", "clip", "argmax"]
_CHAIN = (nn.Linear, nn.Tanh, nn.ReLU)
_NOTHING = (nn.Identity, nn.Dropout)  # in evaluation mode


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy: `body` gives the output before squashing, `act` the action that is carried out.

    Make one with [`wrap_policy`][jostle.observation.wrap_policy].

    **Arguments:** `net`: `(batch, features)` to `(batch, actions)`, or to logits or Q-values of the classes.
    `head`: what turns it into an action: `tanh` (SAC, TD3, DDPG; then affine to the action box), `clip` (the
    Gaussian mean of PPO, A2C) or `argmax` (discrete). `observation_low`, `observation_high`: the box of valid
    observations, one a feature. `low`, `high`: the action box. `centre`: where the bifurcation layer divides
    each action, in units of the body's output. `spread`: standard deviation of a Gaussian policy before
    squashing. `value_of`: V(o). `q_of`: Q(o, a).
    """

    net: nn.Module
    head: Head
    observation_low: Tensor
    observation_high: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    centre: Tensor | None = None
    spread: Callable[[Tensor], Tensor] | None = None
    value_of: Callable[[Tensor], Tensor] | None = None
    q_of: Callable[[Tensor, Tensor], Tensor] | None = None
    others: tuple[nn.Module, ...] = ()
    _holds: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    @property
    def features(self) -> int:
        """Numbers in an observation."""
        return len(self.observation_low)

    @property
    def discrete(self) -> bool:
        """Whether an action is one of finitely many."""
        return self.head == "argmax"

    @property
    def like(self) -> Tensor:
        """A tensor on the device and in the precision of the policy."""
        for tensor in chain(self.net.parameters(), self.net.buffers()):
            if tensor.is_floating_point():
                return tensor
        return self.observation_low

    def body(self, o: Tensor) -> Tensor:
        """The output before squashing: `(batch, actions)` or `(batch, classes)`."""
        return self.net(o)

    def execute(self, x: Tensor) -> Tensor:
        """The action that an output of the body leads to: `(batch, actions)`, or `(batch,)` class indices."""
        if self.head == "argmax":
            return x.argmax(1)
        assert self.low is not None and self.high is not None
        low, high = self.low.to(x), self.high.to(x)
        if self.head == "tanh":
            return low + 0.5 * (torch.tanh(x) + 1.0) * (high - low)
        return torch.minimum(torch.maximum(x, low), high)

    def act(self, o: Any, generator: torch.Generator | None = None) -> Any:
        """The executed action; deterministic (mean, argmax), or sampled where a generator is given.

        **Arguments:** `o`: `(batch, features)` or `(features,)`, tensor or array; the answer is of the same kind.
        """
        x, back = self.take(o)
        with self.held(), torch.no_grad():
            out = self.body(x)
            if generator is not None:
                out = self._drawn(x, out, generator)
            action = self.execute(out)
        return back(action)

    def _drawn(self, o: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.discrete:
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            return x - (-noise.clamp_min(1e-300).log()).log().to(x)  # Gumbel: argmax draws from the softmax
        if self.spread is None:
            raise JostleError("policy has no Gaussian to sample from: leave the generator out")
        return x + self.spread(o) * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def value(self, o: Tensor) -> Tensor:
        """V(o), shape `(batch,)`.

        **Raises:** `JostleError` if the policy has no value function.
        """
        if self.value_of is None:
            raise JostleError("policy has no value function: wrap a PPO or A2C model, or give value=")
        return self.value_of(o).reshape(len(o))

    def q(self, o: Tensor, a: Tensor) -> Tensor:
        """Q(o, a) of executed actions `a`, shape `(batch,)`; the smaller one of twin critics.

        **Raises:** `JostleError` if the policy has no critic.
        """
        if self.q_of is None:
            raise JostleError("policy has no critic Q: wrap a SAC, TD3 or DDPG model, or give q=")
        return self.q_of(o, a).reshape(len(o))

    @property
    def chain(self) -> tuple[nn.Module, ...] | None:
        """The body as linear, tanh and ReLU layers in a row, or `None` if it is anything else."""
        layers = _flat(self.net)
        if not layers or type(layers[0]) is not nn.Linear or type(layers[-1]) is not nn.Linear:
            return None
        for layer in layers:
            if type(layer) not in _CHAIN or not _plain(layer):
                return None
        return tuple(layers)

    def swift(self) -> Callable[[Tensor], Tensor]:
        """`body` for a loop over many steps, in a held policy: its linear layers without the calls of modules.

        It is made for the weights of this moment.
        """
        layers = _flat(self.net)
        if len(layers) < 2:
            return self.net
        calls = [_call(layer) for layer in layers]

        def body(o: Tensor) -> Tensor:
            for call in calls:
                o = call(o)
            return o

        return body

    @contextmanager
    def held(self) -> Iterator[None]:
        """Evaluation mode, no parameter gradients; all is restored at the end.

        Within another one it does nothing: a loop over many steps holds the policy once.
        """
        with ExitStack() as stack:
            if not self._holds[0]:
                for module in (self.net, *self.others):
                    stack.enter_context(frozen(module))
            self._holds[0] += 1
            try:
                yield
            finally:
                self._holds[0] -= 1

    def take(self, o: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        """Observations as the policy reads them, `(batch, features)`, and the way back to the caller's kind.

        **Raises:** `JostleError` if the shape is wrong or an entry is not finite.
        """
        given = o if isinstance(o, Tensor) else torch.as_tensor(np.asarray(o))
        if given.ndim not in (1, 2) or given.shape[-1] != self.features:
            raise JostleError(
                f"o must have the shape (batch, {self.features}) or ({self.features},), but "
                f"{tuple(given.shape)} came"
            )
        x = given.detach().to(self.like)
        x = x[None] if given.ndim == 1 else x
        # A finite sum tells at once; one that is not can be an overflow.
        finite = math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())
        require(finite, "o must be finite, but it holds NaN or infinity")

        def back(out: Tensor) -> Any:
            out = out[0] if given.ndim == 1 else out
            return out.to(given.device) if isinstance(o, Tensor) else out.cpu().numpy()

        return x, back


def wrap_policy(
    model: Any,
    *,
    head: Literal["auto", "tanh", "clip", "argmax"] = "auto",
    observation_space: Any = None,
    action_space: Any = None,
    boundary: Literal["auto"] | float | Any = "auto",
    value: Callable[[Tensor], Tensor] | None = None,
    q: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Policy:
    """Make a policy of a Stable-Baselines3 model, a module or a differentiable function.

    **Arguments:** `model`: SAC, TD3, DDPG, PPO, A2C or DQN of Stable-Baselines3; or a module or function from
    observations to the output before squashing. A last tanh layer of a `Sequential` is taken off and becomes
    the head. `head`: as for [`Policy`][jostle.observation.Policy]; `auto`: what the model or the action space
    says. `observation_space`, `action_space`: of Gymnasium; boxes, or `Discrete` actions. `boundary`: the
    output at which "more" and "less" divide; `auto`: the preimage of the middle of the action box.
    `value`, `q`: V(o) and Q(o, a), for modules.
    **Raises:** `JostleError` for other spaces than these, or a model through which no gradient flows.

    >>> from gymnasium.spaces import Box
    >>> box = lambda n: Box(0.0, 1.0, (n,))
    >>> p = wrap_policy(nn.Linear(3, 1), head="tanh", observation_space=box(3), action_space=box(1))
    >>> p.centre, tuple(p.act(torch.rand(5, 3)).shape)
    (tensor([0.]), (5, 1))
    """
    if hasattr(model, "policy") and hasattr(model, "predict"):
        from jostle.observation.sb3 import parts

        found = parts(model)
        observation_space = observation_space or model.observation_space
        action_space = action_space or model.action_space
        require(
            observation_space == model.observation_space and action_space == model.action_space,
            f"the model was trained on {model.observation_space} and {model.action_space}, but "
            f"{observation_space} and {action_space} came",
        )
    else:
        require(callable(model), f"model must be a module or a function, but {type(model).__name__} came")
        net = model if isinstance(model, nn.Module) else _Called(model)
        found = {"net": net, "head": None, "value_of": value, "q_of": q}
        layers = _flat(net)
        if (
            len(layers) > 1
            and type(layers[-1]) is nn.Tanh
            and _plain(layers[-1])
            and head in ("auto", "tanh")
        ):
            found |= {"net": nn.Sequential(*layers[:-1]), "head": "tanh"}
    require(
        observation_space is not None and action_space is not None,
        "observation_space and action_space must be given with a module or function",
    )
    o_low, o_high = _box("observation_space", observation_space)
    kind = found.pop("head")
    chosen = head if head != "auto" else kind or ("argmax" if hasattr(action_space, "n") else "clip")
    require(
        (chosen == "argmax") == hasattr(action_space, "n"),
        f"head {chosen!r} does not go with the action space {action_space}: argmax is for Discrete, tanh and "
        "clip for Box",
    )
    low, high = (None, None) if chosen == "argmax" else _box("action_space", action_space)
    centre = None if low is None or high is None else _centre(boundary, chosen, low, high)
    policy = Policy(
        head=chosen,
        observation_low=o_low,
        observation_high=o_high,
        low=low,
        high=high,
        centre=centre,
        **found,
    )
    assert action_space is not None
    _try(policy, int(action_space.n) if chosen == "argmax" else len(low) if low is not None else 0)
    return policy


def _centre(boundary: Any, head: str, low: Tensor, high: Tensor) -> Tensor:
    if isinstance(boundary, str):
        require(boundary == "auto", f"boundary must be 'auto' or numbers, but {boundary!r} came")
        if head == "tanh":
            return torch.zeros_like(low)  # tanh(0) is the middle of the action box, whatever the box
        require(
            bool(torch.isfinite(low + high).all()),
            "boundary must be given, since the action box has no middle: it is not bounded",
        )
        return (low + high) / 2
    return torch.as_tensor(boundary, dtype=low.dtype).expand(low.shape).clone()


def _box(name: str, space: Any) -> tuple[Tensor, Tensor]:
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        raise JostleError(
            f"{name} must be a Box, but {space} came; pick one entry of a Dict or Tuple, or flatten it"
        )
    require(
        np.issubdtype(np.asarray(low).dtype, np.floating),
        f"{name} holds integers ({space}); scale them to floating point numbers first",
    )
    low, high = (torch.from_numpy(np.array(b, dtype=np.float32).reshape(-1)) for b in (low, high))
    require(bool((low <= high).all()), f"{name} must have low not above high, but {space} came")
    return low, high


def _try(policy: Policy, outputs: int) -> None:
    """One pass through the policy: wrong shapes and cut gradients show here, not deep in an attack."""
    middle = torch.minimum(policy.observation_high, policy.observation_low.clamp_min(0.0))
    o = middle.to(policy.like)[None].requires_grad_()
    try:
        with policy.held(), torch.enable_grad():
            x = policy.body(o)
    except (RuntimeError, TypeError, ValueError) as error:
        raise JostleError(
            f"model cannot read an observation of {policy.features} numbers as a (batch, features) tensor: {error}"
        ) from error
    require(
        isinstance(x, Tensor) and x.requires_grad,
        "model is not differentiable: there is a .detach(), torch.no_grad() or NumPy inside",
    )
    require(
        tuple(x.shape) == (1, outputs),
        f"model gives the shape {tuple(x.shape)} for one observation, but its action space wants (1, {outputs})",
    )


def _flat(module: nn.Module) -> list[nn.Module]:
    """The layers of nested `Sequential`s in a row, without those that do nothing to a row of numbers."""
    layers = _unrolled(module)
    return layers[1:] if layers and type(layers[0]) is nn.Flatten and len(layers) > 1 else layers


def _unrolled(module: nn.Module) -> list[nn.Module]:
    if not _plain(module) or type(module) is not nn.Sequential:
        return [] if type(module) in _NOTHING and _plain(module) else [module]
    return [layer for child in module for layer in _unrolled(child)]


def _plain(module: nn.Module) -> bool:
    """Whether nothing listens to the module's calls."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return not (forward or module._backward_hooks or module._backward_pre_hooks)


def _call(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if type(layer) is nn.Tanh and _plain(layer):
        return torch.tanh
    if type(layer) is not nn.Linear or not _plain(layer):
        return layer
    weight = layer.weight.detach().t()  # once: with one observation turning it round costs as much as tanh
    if layer.bias is None:
        return partial(torch.mm, mat2=weight)
    return partial(torch.addmm, layer.bias.detach(), mat2=weight)


class _Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, o: Tensor) -> Tensor:
        return self.function(o)
