"""Policies from examples: imitation of a rule, of a log, and training that resists the sensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.training import Trainer, minibatches
from jostle.observation.attacks import PGD
from jostle.observation.evaluate import roll
from jostle.observation.policy import Policy, wrap_policy

Rule = Callable[[NDArray[Any]], NDArray[Any]]
"""From true observations `(batch, features)` to executed actions `(batch, actions)`, or classes `(batch,)`."""


def network(
    sizes: Sequence[int], generator: torch.Generator, activation: type[nn.Module] = nn.Tanh
) -> nn.Sequential:
    """Linear layers of these widths with an activation between them, from the generator's numbers.

    >>> network((3, 8, 1), torch.Generator().manual_seed(0))[0]
    Linear(in_features=3, out_features=8, bias=True)
    """
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layer = nn.Linear(wide, narrow)
        for parameter in layer.parameters():  # torch's own law, drawn from our generator
            nn.init.uniform_(parameter, -(wide**-0.5), wide**-0.5, generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def imitate(
    net: nn.Module,
    policy: Policy,
    o: Tensor,
    wanted: Tensor,
    generator: torch.Generator,
    *,
    epochs: int = 60,
    batch: int = 256,
    lr: float = 1e-3,
    guard: tuple[PGD, float] | None = None,
) -> float:
    """Fit a policy's net to executed actions, in place; the loss of the last batch.

    By squared error; discrete actions by cross-entropy.

    With a `guard`, an attack and a weight kappa, the loss gains `kappa D(o', o)`, the squared shift of the
    action at the attacked observation: the smoothness regulariser of Zhang et al. (2020) for policies that
    learn from examples.

    **Arguments:** `net`: `policy.net`. `o`: `(samples, features)`. `wanted`: `(samples, actions)`. `generator`:
    shuffles, and draws for the attack.
    """
    require(guard is None or not policy.discrete, "guard is for continuous actions")
    learning = torch.optim.Adam(net.parameters(), lr)
    steps = epochs * (-(-len(o) // batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(learning, steps)

    def loss(_: nn.Module, pair: tuple[Tensor, ...]) -> Tensor:
        seen, target = pair
        if policy.discrete:
            return nn.functional.cross_entropy(policy.body(seen), target)
        shown = seen if guard is None else guard[0](policy, seen, generator=generator)[0]
        action = policy.execute(policy.body(seen))
        fit = (action - target).square().mean()
        if guard is None:
            return fit
        shift = policy.execute(policy.body(shown)) - action
        return fit + guard[1] * shift.square().mean()

    trainer = Trainer(net, learning, loss, schedule=schedule)
    trainer.run(minibatches(o, wanted, size=batch, epochs=epochs, generator=generator))
    return trainer.last


@dataclass(frozen=True, eq=False)
class Clone:
    """A cloned policy and the examples it was made of."""

    policy: Policy
    o: Tensor
    wanted: Tensor


def clone(
    rule: Rule,
    make_env: Callable[[], gym.Env | VectorEnv],
    spaces: tuple[Any, Any],
    *,
    seeds: Sequence[int] = (0,),
    hidden: Sequence[int] = (64, 64),
    rounds: int = 1,
    epochs: int = 60,
    generator: torch.Generator,
    guard: tuple[PGD, float] | None = None,
) -> Clone:
    """A neural policy that does what a rule does, by imitation with DAgger rounds (Ross et al. 2011).

    The rule drives the first episodes; in each round the clone drives and the rule says what it would have
    done.

    **Arguments:** `rule`. `make_env`, `seeds`: as for [`evaluate`][jostle.observation.evaluate]. `spaces`: of
    observations and actions. `hidden`: widths. `rounds`: of DAgger. `epochs`: of each fit. `guard`: see
    `imitate`. `generator`: first weights and shuffling.
    **Returns:** [`Clone`][jostle.observation.Clone], with a tanh head, or one class a discrete action.
    """
    discrete = hasattr(spaces[1], "n")
    outputs = int(spaces[1].n) if discrete else spaces[1].shape[0]
    net = network((spaces[0].shape[0], *hidden, outputs), generator)
    head = "argmax" if discrete else "tanh"
    policy = wrap_policy(net, head=head, observation_space=spaces[0], action_space=spaces[1])
    seen = _flat(roll(_Ruled(policy, rule), make_env, None, seeds).true)
    for turn in range(rounds + 1):
        wanted = torch.from_numpy(np.asarray(rule(seen), dtype=np.int64 if discrete else np.float32))
        o = torch.from_numpy(seen)
        imitate(net, policy, o, wanted, generator, epochs=epochs, guard=guard)
        if turn < rounds:
            driven = _flat(roll(policy, make_env, None, seeds).true)
            seen = np.concatenate([seen, driven])
    return Clone(policy, o, wanted)


class _Ruled(Policy):
    """A policy of the spaces of another that does what a rule says."""

    def __init__(self, policy: Policy, rule: Rule) -> None:
        for name in ("net", "head", "observation_low", "observation_high", "low", "high", "others", "_holds"):
            object.__setattr__(self, name, getattr(policy, name))
        object.__setattr__(self, "rule", rule)

    def act(self, o: Any, generator: torch.Generator | None = None) -> Any:
        """What the rule says."""
        return np.asarray(self.rule(o), dtype=np.int64 if self.discrete else np.float32)  # type: ignore[attr-defined]


def _flat(o: NDArray[Any]) -> NDArray[np.float32]:
    rows = o.reshape(-1, o.shape[-1])
    return rows[np.isfinite(rows).all(1)].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Proxy:
    """A stand-in for a policy that was fitted to its log. `rmse`: validation error of each candidate, by name."""

    policy: Policy
    chosen: str
    rmse: dict[str, float]

    def numbers(self) -> dict[str, Any]:
        """Which candidate won, and the errors of all."""
        return {"chosen": self.chosen, "rmse": self.rmse}


@dataclass(frozen=True)
class Candidate:
    """A shape of proxy: hidden widths, activation, share of dropped units, loss."""

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    dropout: float = 0.0
    loss: str = "mse"

    @property
    def name(self) -> str:
        """A short label."""
        return f"{'x'.join(map(str, self.hidden))} {self.activation} {self.loss} drop {self.dropout:g}"


CANDIDATES = (
    Candidate(),
    Candidate((128,), "relu"),
    Candidate((128, 128), "relu", 0.1, "huber"),
    Candidate((64, 64), "tanh", 0.0, "mae"),
)


def fit_proxy(
    o: Any,
    actions: Any,
    spaces: tuple[Any, Any],
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    folds: int = 3,
    epochs: int = 30,
    generator: torch.Generator,
) -> Proxy:
    """Fit networks to a log of observations and executed actions, for attacks without a look at the policy.

    Candidates are compared on expanding windows of time: fold `k` learns the first `k` of `folds + 1` parts
    and predicts the next, without shuffling across; the one with the least mean RMSE learns the whole log.

    **Arguments:** `o`: `(steps, features)`, in time order. `actions`: `(steps, actions)`, continuous. `spaces`:
    of observations and actions. `candidates`: at least one. `folds`: at least 1. `epochs`: of each fit.
    **Returns:** [`Proxy`][jostle.observation.Proxy]; attack it through [`Transfer`][jostle.observation.Transfer].
    """
    x = torch.as_tensor(np.asarray(o), dtype=torch.float32)
    y = torch.as_tensor(np.asarray(actions), dtype=torch.float32).reshape(len(x), -1)
    require(folds >= 1 and len(candidates) >= 1, "folds and candidates must be at least 1")
    require(
        len(x) >= 2 * (folds + 1) and bool(torch.isfinite(x).all() and torch.isfinite(y).all()),
        f"the log must be finite and hold at least {2 * (folds + 1)} steps, but {len(x)} came",
    )
    part = len(x) // (folds + 1)
    rmse = {}
    if len(candidates) > 1:
        for candidate in candidates:
            errors = []
            for k in range(1, folds + 1):
                made = _fit(candidate, x[: k * part], y[: k * part], spaces, epochs, generator)
                ahead = slice(k * part, (k + 1) * part)
                errors.append(float((made.act(x[ahead]) - y[ahead]).square().mean().sqrt()))
            rmse[candidate.name] = float(np.mean(errors))
    best = min(candidates, key=lambda c: rmse.get(c.name, 0.0))
    return Proxy(_fit(best, x, y, spaces, epochs, generator), best.name, rmse)


def _fit(
    candidate: Candidate,
    x: Tensor,
    y: Tensor,
    spaces: tuple[Any, Any],
    epochs: int,
    generator: torch.Generator,
) -> Policy:
    require(candidate.activation in ("tanh", "relu"), f"activation must be tanh or relu: {candidate}")
    require(candidate.loss in ("mse", "mae", "huber"), f"loss must be mse, mae or huber: {candidate}")
    act = nn.Tanh if candidate.activation == "tanh" else nn.ReLU
    net = network((x.shape[1], *candidate.hidden, y.shape[1]), generator, act)
    policy = wrap_policy(net, head="tanh", observation_space=spaces[0], action_space=spaces[1])
    measure = {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": nn.HuberLoss()}[candidate.loss]

    def loss(_: nn.Module, pair: tuple[Tensor, ...]) -> Tensor:
        h = pair[0]
        for layer in net:
            h = layer(h)
            if candidate.dropout and isinstance(layer, act):
                keep = torch.rand(h.shape, generator=generator) >= candidate.dropout
                h = h * keep.to(h) / (1 - candidate.dropout)
        return measure(policy.execute(h), pair[1])

    fit = Trainer(net, torch.optim.Adam(net.parameters(), 2e-3), loss)
    fit.run(minibatches(x, y, size=128, epochs=epochs, generator=generator))
    return policy
