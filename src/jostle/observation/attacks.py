"""The attacks inside a budget: small classes of settings, called with a policy and its observations."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.ascent import ascend
from jostle.core.errors import require
from jostle.core.rules import APGD as AutoSteps
from jostle.core.rules import Rule
from jostle.observation.aim import Aim
from jostle.observation.attack import Attack, Shown, needed
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
)
from jostle.observation.policy import Policy
from jostle.observation.steps import ConjugateGradient, Phases


@dataclass(frozen=True, eq=False)
class Noise(Attack):
    """Random noise of the budget's size, the baseline: no policy is asked.

    **Arguments:** `kind`: `uniform` in the ball, `normal` (standard deviation a third of the radius, projected)
    or `corner` (every feature at its bound: the largest noise, with the norms of a sign attack).
    """

    budget: Budget = field(default_factory=Budget)
    kind: Literal["uniform", "normal", "corner"] = "uniform"

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """Observations with noise; see [`Attack`][jostle.observation.Attack]."""
        reach = Reach.around(self.budget, clean, policy.observation_low, policy.observation_high)
        rng = needed(generator, "noise")
        return reach.shown(self._draw(reach, rng)) if len(reach.active) else Shown(clean, reach.active)

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
class PGD(Attack):
    """Projected gradient ascent on an objective, with the authors' step phases and the best iterate kept.

    **Arguments:** `budget`. `goal`: what to maximise: [`Regress`][jostle.observation.Regress] (default),
    `Bifurcate`, `Classify`, `Diverge`, `LowestQ`, `LowestValue` or `Toward`. `steps`: ascent steps. `step_size`:
    first length in observation units; default 0.2 of the largest radius, more for under 20 steps (which
    would not get as far as the radius). `decays`, `rate`: the length is
    multiplied by `rate` after each of `decays + 1` equal phases. `restarts`: starts in all, the best kept.
    `start`: at the `clean` observation or at a `random` one of the ball; `auto`: random where the gradient
    vanishes at the clean point. `select`: what is shown, the `best` iterate a sample or the `last` (as other
    libraries do; with `decays=0` this is the attack of Madry et al. 2018).
    """

    budget: Budget = field(default_factory=Budget)
    goal: Goal = field(default_factory=Regress)
    steps: int = 40
    step_size: float | None = None
    decays: int = 4
    rate: float = 0.5
    restarts: int = 1
    start: Literal["auto", "clean", "random"] = "auto"
    select: Literal["best", "last"] = "best"

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
        require(
            self.select == "best" or (self.select == "last" and self.restarts == 1),
            f"select must be best, or last with one start, but {self.select!r} came with {self.restarts}",
        )

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """The observations that the ascent finds; see [`Attack`][jostle.observation.Attack]."""
        by_hand = self._by_hand(policy, clean, t, generator)
        return self._by_autograd(policy, clean, t, generator) if by_hand is None else by_hand

    def _by_autograd(
        self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None
    ) -> Shown:
        reach = Reach.around(self.budget, clean, policy.observation_low, policy.observation_high)
        if not len(reach.active):
            return Shown(clean, reach.active)
        rng = needed(generator, "a random start") if self._drawn or self.restarts > 1 else None
        # The layers of a chain have no modes, and its loop reads their weights alone: nothing is to be held.
        alone = self.goal.reads_output_only and policy.chain is not None
        with nullcontext() if alone else policy.held():
            aim = Aim(policy, self.goal, reach, t)
            found = ascend(
                aim,
                self._first(reach, rng),
                reach.ball,
                steps=self.steps,
                rule=self._rule(reach),
                x=reach.centre,
                restarts=self.restarts,
                generator=rng,
                select=self.select,
            )
            if self.select == "best":
                return reach.shown(found.delta, found.value)
            with torch.no_grad():
                return reach.shown(found.delta, aim(found.delta))

    def _by_hand(
        self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None
    ) -> Shown | None:
        """The same attack by a gradient written out by hand; `None` where that does not cover it."""
        if self.budget.norm != "linf" or self.restarts > 1:
            return None
        layers = policy.chain
        chain = None if layers is None else Chain.of(layers, clean.dtype)
        if chain is None:
            return None
        radii, active, largest = self.budget.vector(policy, clean.dtype)
        sizes = self._sizes(largest) if largest else None
        if sizes is None:
            return None
        o = clean.numpy()
        slope = self.goal.slope(policy, chain.forward(o)[0], t)
        if slope is None:
            return None
        low, high = policy.observation_low.numpy(), policy.observation_high.numpy()
        down, up = np.minimum(low - o, 0), np.maximum(high - o, 0)
        u = np.zeros_like(o)
        if self._drawn:
            reach = Reach.around(self.budget, clean, policy.observation_low, policy.observation_high)
            u[:, active] = self._first(reach, needed(generator, "a random start")).numpy()
        last = self.select == "last"
        u, value = climb(chain, slope, o, u, np.maximum(-radii, down), np.minimum(radii, up), sizes, last)
        moved = np.minimum(np.maximum(o + u, np.minimum(low, o)), np.maximum(high, o))
        shown = np.where(u == 0, o, moved).astype(o.dtype, copy=False)
        return Shown(torch.from_numpy(shown), active, value)

    @property
    def _drawn(self) -> bool:
        return self.start == "random" or (self.start == "auto" and self.goal.needs_start)

    def _first(self, reach: Reach, rng: torch.Generator | None) -> Tensor:
        drawn = self._drawn and rng is not None
        return reach.ball.sample(reach.start(), rng, reach.centre) if drawn and rng else reach.start()

    def _sizes(self, largest: float) -> list[float] | None:
        """Step lengths in observation units, from the largest radius; `None` for rules that set their own."""
        first = self.step_size or largest * max(0.2, 4 / self.steps)
        return step_sizes(self.steps, first, self.decays, self.rate)

    def _rule(self, reach: Reach) -> Rule:
        sizes = self._sizes(reach.largest)
        assert sizes is not None
        if self.budget.norm == "linf":
            return Phases(tuple(sizes))
        return Phases(tuple(size / reach.largest for size in sizes), sign=False)


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
