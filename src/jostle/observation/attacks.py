"""The attacks: small classes of settings, called with a policy and its observations."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.ascent import ascend
from jostle.core.errors import JostleError, require
from jostle.core.rules import APGD as AutoSteps
from jostle.core.rules import Rule
from jostle.observation.budget import Budget, Reach, step_sizes
from jostle.observation.chain import Chain, climb
from jostle.observation.objectives import (
    Bifurcate,
    Direction,
    Diverge,
    Goal,
    LowestQ,
    LowestValue,
    Regress,
    Toward,
    Value,
)
from jostle.observation.policy import Policy
from jostle.observation.steps import ConjugateGradient, Phases

_SINGLE = (torch.float32, torch.float64)


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


class Attack(ABC):
    """Observations to show a policy instead of the true ones.

    Call it with a policy and observations `(batch, features)` or `(features,)`, tensors or arrays; what comes
    back is of the same kind, and the arguments are as they were. `t` is the time step, one number or one a
    sample. `generator` is needed by attacks that draw numbers.
    """

    @abstractmethod
    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations; see the class."""


class Bounded(Attack):
    """An attack that finds a perturbation inside a budget's ball."""

    budget: Budget

    @abstractmethod
    def _perturb(
        self, policy: Policy, reach: Reach, t: np.ndarray, generator: torch.Generator | None
    ) -> tuple[Tensor, Value | None]:
        """The perturbation, in the coordinates of the reach's ball, and the objective that it serves."""

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations; see [`Attack`][jostle.observation.Attack]."""
        clean, back = policy.take(o)
        steps = np.broadcast_to(np.asarray(t, dtype=np.int64), (len(clean),))
        reach = Reach.around(self.budget, clean, policy.observation_low, policy.observation_high)
        shown, objective = clean, np.full(len(clean), np.nan)
        if len(clean) and len(reach.active):
            with policy.held():
                u, bound = self._perturb(policy, reach, steps, generator)
                shown = reach.show(u)
                if bound is not None:
                    with torch.no_grad():
                        objective = bound(shown, policy.body(shown)).cpu().numpy()
        gap = (shown - clean).abs().cpu().numpy()
        largest = gap.max(1, initial=0.0)
        info = Info(largest > 0, largest, np.sqrt((gap * gap).sum(1)), reach.active.cpu().numpy(), objective)
        given = o if isinstance(o, Tensor) else torch.from_numpy(np.asarray(o))
        if given.dtype == clean.dtype:
            return back(shown.clone() if shown is clean else shown), info
        landed = _land(given, clean, shown, policy)
        return (landed if isinstance(o, Tensor) else landed.cpu().numpy()), info


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


@dataclass(frozen=True, eq=False)
class Noise(Bounded):
    """Random noise of the budget's size, the baseline: no policy is asked.

    **Arguments:** `kind`: `uniform` in the ball, `normal` (standard deviation a third of the radius, projected)
    or `corner` (every feature at its bound: the largest noise, with the norms of a sign attack).
    """

    budget: Budget = field(default_factory=Budget)
    kind: Literal["uniform", "normal", "corner"] = "uniform"

    def _perturb(
        self, policy: Policy, reach: Reach, t: np.ndarray, generator: torch.Generator | None
    ) -> tuple[Tensor, Value | None]:
        return self._draw(reach, _need(generator, "noise")), None

    def _draw(self, reach: Reach, rng: torch.Generator) -> Tensor:
        start = reach.start()
        if self.kind == "uniform":
            return reach.ball.sample(start, rng, reach.centre)
        draw = torch.randn(start.shape, generator=rng, dtype=torch.float64).to(start)
        size = reach.e / reach.unit
        if self.kind == "normal":
            return reach.ball.project(draw * size / 3, reach.centre)
        require(self.kind == "corner", f"kind must be uniform, normal or corner, but {self.kind!r} came")
        if self.budget.norm != "linf":
            draw = draw.sign() * (1e3 if self.budget.norm == "l2" else 1.0)
            return reach.ball.project(draw, reach.centre)
        return reach.ball.project(draw.sign() * size, reach.centre)


@dataclass(frozen=True, eq=False)
class PGD(Bounded):
    """Projected gradient ascent on an objective, with the authors' step phases and the best iterate kept.

    **Arguments:** `budget`. `goal`: what to maximise: [`Regress`][jostle.observation.Regress] (default),
    `Bifurcate`, `Classify`, `Diverge`, `LowestQ`, `LowestValue` or `Toward`. `steps`: ascent steps. `step_size`:
    first length in observation units; default 0.2 of the largest radius. `decays`, `rate`: the length is
    multiplied by `rate` after each of `decays + 1` equal phases. `restarts`: starts in all, the best kept.
    `start`: at the `clean` observation or at a `random` one of the ball; `auto`: random where the gradient
    vanishes at the clean point.
    """

    budget: Budget = field(default_factory=Budget)
    goal: Goal = field(default_factory=Regress)
    steps: int = 40
    step_size: float | None = None
    decays: int = 4
    rate: float = 0.5
    restarts: int = 1
    start: Literal["auto", "clean", "random"] = "auto"

    def __post_init__(self) -> None:
        step_sizes(self.steps, self.step_size or 1.0, self.decays, self.rate)
        require(
            self.step_size is None or self.step_size > 0,
            f"step_size must be above 0, but {self.step_size} came",
        )
        require(self.restarts >= 1, f"restarts must be at least 1, but {self.restarts} came")
        require(
            self.start in ("auto", "clean", "random"),
            f"start must be auto, clean or random, but {self.start!r} came",
        )

    def _perturb(
        self, policy: Policy, reach: Reach, t: np.ndarray, generator: torch.Generator | None
    ) -> tuple[Tensor, Value | None]:
        bound = self.goal.bind(policy, reach.clean, t)
        rng = _need(generator, "a random start") if self._drawn or self.restarts > 1 else None
        first = self._first(reach, rng)
        found = ascend(
            lambda u: self._value(policy, bound, reach, u),
            first,
            reach.ball,
            steps=self.steps,
            rule=self._rule(reach),
            x=reach.centre,
            restarts=self.restarts,
            generator=rng,
        )
        return found.delta, bound

    @staticmethod
    def _value(policy: Policy, bound: Value, reach: Reach, u: Tensor) -> Tensor:
        shown = reach.shift(u)
        return bound(shown, policy.body(shown))

    @property
    def _drawn(self) -> bool:
        return self.start == "random" or (self.start == "auto" and self.goal.needs_start)

    def _first(self, reach: Reach, rng: torch.Generator | None) -> Tensor:
        drawn = self._drawn and rng is not None
        return reach.ball.sample(reach.start(), rng, reach.centre) if drawn and rng else reach.start()

    def _sizes(self, largest: float) -> list[float] | None:
        """Step lengths in observation units, from the largest radius; `None` for rules that set their own."""
        return step_sizes(self.steps, self.step_size or 0.2 * largest, self.decays, self.rate)

    def _rule(self, reach: Reach) -> Rule:
        sizes = self._sizes(reach.largest)
        assert sizes is not None
        if self.budget.norm == "linf":
            return Phases(tuple(sizes))
        return Phases(tuple(size / reach.largest for size in sizes), sign=False)

    def __call__(
        self,
        policy: Policy,
        o: Any,
        *,
        t: int | Sequence[int] | np.ndarray = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Info]:
        """Attack observations; see [`Attack`][jostle.observation.Attack]."""
        found = self._closed_form(policy, o, t, generator)
        return found or super().__call__(policy, o, t=t, generator=generator)

    def _closed_form(
        self, policy: Policy, o: Any, t: Any, generator: torch.Generator | None
    ) -> tuple[Any, Info] | None:
        """The same attack by a gradient written out by hand; `None` where that does not cover it."""
        layers = policy.chain
        if self.budget.norm != "linf" or self.restarts > 1 or layers is None or not Chain.fits(layers):
            return None
        chain = Chain(layers)
        given = o.detach() if isinstance(o, Tensor) else o
        if (isinstance(given, Tensor) and given.device.type != "cpu") or not hasattr(given, "dtype"):
            return None
        array = np.asarray(given) if not isinstance(given, Tensor) or given.dtype in _SINGLE else np.zeros(0)
        e, largest = self.budget.vector(policy, array.dtype)
        sizes = self._sizes(largest) if largest else None
        clean = array[None] if array.ndim == 1 else array
        shaped = array.ndim in (1, 2) and clean.shape[1:] == (policy.features,) and len(clean)
        if sizes is None or not shaped or array.dtype != chain.dtype or not np.isfinite(clean).all():
            return None
        x0, _ = chain.forward(clean)
        slope = self.goal.closed(policy, x0, np.broadcast_to(np.asarray(t, dtype=np.int64), (len(clean),)))
        if slope is None:
            return None
        low = np.minimum(policy.observation_low.numpy(), clean)
        high = np.maximum(policy.observation_high.numpy(), clean)
        u = np.zeros_like(clean)
        if self._drawn:
            tensor = torch.from_numpy(clean)
            reach = Reach.around(self.budget, tensor, policy.observation_low, policy.observation_high)
            u[:, reach.active] = self._first(reach, _need(generator, "a random start")).numpy()
        u, value = climb(
            chain, slope, clean, u, np.maximum(-e, low - clean), np.minimum(e, high - clean), sizes
        )
        shown = np.where(u == 0, clean, np.minimum(np.maximum(clean + u, low), high)).astype(
            clean.dtype, copy=False
        )
        gap = np.abs(shown - clean)
        furthest = gap.max(1)
        info = Info(furthest > 0, furthest, np.sqrt((gap * gap).sum(1)), np.flatnonzero(e), value)
        out = shown.reshape(array.shape)
        return (torch.from_numpy(out) if isinstance(o, Tensor) else out), info


@dataclass(frozen=True, eq=False)
class Bifurcation(PGD):
    """The paper's attack: untargeted in use, strong as a targeted one.

    The bifurcation layer turns an action into the logits of "more" and "less", and a margin loss pushes it to
    the other side, with a gradient that vanishes nowhere. It is not certain that the other half is the harmful
    one: report the return, and try `up` and `down`.

    **Arguments:** as for [`PGD`][jostle.observation.PGD], and `direction`, `dims`, `weights` as for
    [`Bifurcate`][jostle.observation.Bifurcate].

    >>> from gymnasium.spaces import Box
    >>> from jostle.observation import wrap_policy
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.ones_(net.weight)
    >>> policy = wrap_policy(net, head="tanh", observation_space=Box(0, 1, (2,)), action_space=Box(-1, 1, (1,)))
    >>> shown, info = Bifurcation(Budget(0.25))(policy, torch.tensor([0.5, 0.5]))
    >>> shown
    tensor([0.2500, 0.2500])
    """

    direction: Direction = "flip"
    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "goal", Bifurcate(self.direction, self.dims, self.weights))


@dataclass(frozen=True, eq=False)
class FGSM(PGD):
    """One step of the whole radius (Goodfellow et al. 2015); by default on the bifurcation layer.

    Enough for a policy that is nearly linear inside the budget.
    """

    goal: Goal = field(default_factory=Bifurcate)
    steps: int = 1
    decays: int = 0

    def _sizes(self, largest: float) -> list[float] | None:
        return [self.step_size or largest] * self.steps


@dataclass(frozen=True, eq=False)
class APGD(PGD):
    """Auto-PGD (Croce & Hein 2020): momentum and step lengths that halve themselves.

    Unlike other libraries' it does not stop where a class flips, and its starts keep to the mask.
    """

    goal: Goal = field(default_factory=Bifurcate)
    steps: int = 100

    def _sizes(self, largest: float) -> list[float] | None:
        return None

    def _rule(self, reach: Reach) -> Rule:
        return AutoSteps()


@dataclass(frozen=True, eq=False)
class ACG(PGD):
    """Auto conjugate gradient (Yamamura et al. 2022); `step_size` is its first step, default twice the radius."""

    goal: Goal = field(default_factory=Bifurcate)
    steps: int = 100

    def _sizes(self, largest: float) -> list[float] | None:
        return None

    def _rule(self, reach: Reach) -> Rule:
        return ConjugateGradient(2.0 if self.step_size is None else self.step_size / reach.largest)


def Targeted(wanted: Any, budget: Budget | None = None, **settings: Any) -> PGD:
    """The attack toward an action that somebody else wants, such as a policy that was trained to do harm.

    **Arguments:** `wanted`: from observations `(batch, features)` to classes or executed actions. `budget`.
    `settings`: of [`PGD`][jostle.observation.PGD].
    """
    return PGD(budget or Budget(), Toward(wanted), **settings)


def MAD(budget: Budget | None = None, **settings: Any) -> PGD:
    """The maximal action difference, KL between the clean and the perturbed policy (Zhang et al. 2020)."""
    return PGD(budget or Budget(), Diverge(), **settings)


def MinQ(budget: Budget | None = None, **settings: Any) -> PGD:
    """The critic attack: the executed action with the smallest Q at the true observation."""
    return PGD(budget or Budget(), LowestQ(), **settings)


def MinValue(budget: Budget | None = None, **settings: Any) -> PGD:
    """The observation with the smallest V in the eyes of the policy."""
    return PGD(budget or Budget(), LowestValue(), **settings)


def _need(generator: torch.Generator | None, what: str) -> torch.Generator:
    if generator is None:
        raise JostleError(f"generator must be given: the attack draws numbers for {what}")
    return generator
