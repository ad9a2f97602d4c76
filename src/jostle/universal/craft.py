"""Craft one perturbation that excites every layer of a network, with no data at all (GD-UAP)."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jostle.core.ascent import Ascent, NonFiniteGradient
from jostle.core.budgets import Linf
from jostle.core.errors import JostleError, require
from jostle.core.rules import Adam
from jostle.core.taps import frozen
from jostle.universal.doors import check_model, home, image_shape, port_gain, prior_of, radius_of
from jostle.universal.objective import Attached, Objective, inspect_taps
from jostle.universal.perturbation import UniversalPerturbation
from jostle.universal.priors import (
    Prior,
)
from jostle.universal.schedule import Clock, Schedule, ScheduleName, schedule_named
from jostle.universal.score import FoolingScore
from jostle.zoo import Images

PriorName = Literal["none", "range", "smooth"]

BUDGET = Linf(10 / 255)
GDUAP = Objective()

# A share of entries at the bound, to a tolerance: 10/255 is not the same number in float32 and in float64.
AT_BOUND = 1 - 1e-6


class Crafting:
    """A crafting that is taken one step at a time, and that can be kept and taken up again.

    See [`craft`][jostle.universal.craft] for the arguments. Use as a context manager: inside, the model is
    frozen and listened to; afterwards it is as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        budget: Linf,
        prior: Prior,
        objective: Objective,
        schedule: Schedule,
        shape: tuple[int, int, int],
        generator: torch.Generator,
        score: Callable[[Tensor, float | None], float] | None = None,
    ) -> None:
        self.model, self.prior, self.objective, self.schedule = model, prior, objective, schedule
        self.shape, self.generator, self.score = shape, generator, score
        self.radius = radius_of(budget)
        self.device, self.dtype = home(model)
        self.gain = port_gain(model, shape).to(self.device) if schedule.port else None
        self._inner = budget.projector(torch.zeros(1, *shape, device=self.device))
        start = budget.sample(torch.zeros(1, *shape, device=self.device), generator)
        self._seed_state = generator.get_state()
        self.clock = Clock(schedule)
        self.prior_state = prior.begin(shape, generator)
        self._probe = self._fixed_base()
        self.history: list[dict[str, Any]] = []
        self.best = self._inner(start)
        self.done = False
        self._base = torch.empty(0)
        # With the clip inside the objective the coordinate itself is free: GD-UAP lets it drift past the bound.
        bound = Linf(math.inf) if schedule.clip_inside else budget
        # Adam's epsilon is 1e-8 for gradients in 0-255 units; a gradient in [0, 1] units is 255 times as large.
        rule = Adam(schedule.size * self.radius, eps=255e-8)
        self.ascent = Ascent(self._value, start, bound, steps=schedule.steps, rule=rule, track=False)
        self._attached = Attached(objective, model)
        self._frozen = frozen(model)

    def __enter__(self) -> "Crafting":
        self._frozen.__enter__()
        self._attached.__enter__()
        try:
            self._look_at_taps()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._attached.__exit__()
        self._frozen.__exit__(None, None, None)

    @property
    def t(self) -> int:
        """Steps taken."""
        return self.ascent.t

    @property
    def delta(self) -> Tensor:
        """The perturbation as it stands, inside the budget."""
        return self._inner(self.ascent.u)

    def step(self) -> None:
        """One Adam step; then look at the score and halve, where the schedule says so."""
        self._base = self.prior.batch(self.prior_state, self.shape, self.t, self.generator).to(
            self.device, self.dtype
        )
        try:
            self.ascent.step()
        except NonFiniteGradient as error:
            raise JostleError(f"{error}; the tap is {self._broken_tap()}") from error
        delta = self.delta
        saturation = float((delta.abs() >= AT_BOUND * self.radius).float().mean())
        assert self.ascent.value is not None
        value = float(self.ascent.value.sum()) / len(self._base)
        row: dict[str, Any] = {"step": self.t, "objective": value, "saturation": saturation}
        look, halve = self.clock.tick(self.t, saturation, value, len(self._attached.names))
        if look or self.t == self.schedule.steps:
            row["score"], self.done = self._look(delta)
        if halve:
            # The pattern stays, the box opens again; Adam keeps its moments.
            self.ascent.u = self.ascent.u / 2
            row["rescaled"] = True
        self.history.append(row)
        self.done |= self.t >= self.schedule.steps

    def figure(self) -> str:
        """How it stands, in a few words."""
        row = self.history[-1]
        score = "" if self.clock.best is None or self.score is None else f", fools {self.clock.best:.1%}"
        return f"objective {row['objective']:.2f}, saturation {row['saturation']:.0%}{score}"

    def result(self) -> UniversalPerturbation:
        """The perturbation that the schedule keeps, with its record."""
        keep_best = self.schedule.keep == "best" and self.clock.best is not None
        record = {
            "method": self.objective.loss,
            "radius": self.radius,
            "prior": self.prior.name,
            "taps": len(self._attached.names),
            "steps": self.t,
            "selected_by": (
                "fooling of the substitute set" if self.score else "objective on fixed base images"
            )
            if keep_best
            else "last iterate",
            "score": self.clock.best,
            "rescales": sum("rescaled" in row for row in self.history),
        }
        delta = self.best if keep_best else self.delta
        return UniversalPerturbation(delta.detach().clone(), record, list(self.history))

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same numbers."""
        return {
            "ascent": self.ascent.state_dict(),
            "clock": self.clock.state_dict(),
            "best": self.best,
            "history": self.history,
            "prior": self.prior_state,
            "generator": self.generator.get_state(),
            "probe": self._probe,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the crafting where `state_dict` was called."""
        self.ascent.load_state_dict(state["ascent"])
        self.clock.load_state_dict(state["clock"])
        self.best, self.history, self.prior_state = state["best"], state["history"], state["prior"]
        self._probe = state["probe"]
        self.generator.set_state(state["generator"])
        self.done = self.t >= self.schedule.steps or self.clock.strikes >= self.schedule.patience

    def _value(self, u: Tensor) -> Tensor:
        delta = self._inner(u) if self.schedule.clip_inside else u
        if self.gain is not None:
            delta = delta * self.gain
        return self._attached(self._base + delta.to(self.dtype)) / len(self._base)

    def _look(self, delta: Tensor) -> tuple[float, bool]:
        if self.score is not None:
            score = self.score(delta, self.clock.best)
        else:
            with torch.no_grad():
                seen = delta if self.gain is None else delta * self.gain
                score = float(self._attached(self._probe + seen.to(self.dtype)).mean())
        better, enough = self.clock.scored(score)
        if better:
            self.best = delta.detach().clone()
        return score, enough

    def _fixed_base(self) -> Tensor:
        """Base images that stay the same, so that objectives of different steps can be compared."""
        state = self.generator.get_state()
        draws = [self.prior.batch(self.prior_state, self.shape, 0, self.generator)[:1] for _ in range(4)]
        self.generator.set_state(state)
        same = all(torch.equal(draws[0], draw) for draw in draws)
        return torch.cat(draws[:1] if same else draws).to(self.device, self.dtype)

    def _look_at_taps(self) -> None:
        base = self._probe[:1]
        troubles = inspect_taps(
            self._attached, base + self.delta.to(self.dtype), base - self.delta.to(self.dtype)
        )
        names = self._attached.names
        for kind in ("no gradient", "constant", "dead"):
            bad = [name for name, trouble in troubles.items() if trouble == kind]
            if len(bad) < len(names) and kind == "dead":
                if bad:
                    warnings.warn(
                        f"{len(bad)} of {len(names)} taps are dead at the start: {bad[0]} first", stacklevel=4
                    )
                continue
            reason = {
                "no gradient": "is cut off from the input's gradient (a quantised or non-differentiable layer?)",
                "constant": "has a norm that no input changes (a normalisation?); tap 'block' or layers before it",
                "dead": "is dead, and so are all others: every output is zero",
            }[kind]
            require(not bad, f"the tap {bad[0] if bad else ''!r} {reason}")

    def _broken_tap(self) -> str:
        with torch.no_grad():
            terms = self._attached.terms(self._base + self.delta.to(self.dtype))
        for name, term in zip(self._attached.names, terms, strict=True):
            if not bool(torch.isfinite(term).all()):
                return f"{name!r}"
        return "not one by itself: the overflow is in the backward pass"


def prepare(
    model: nn.Module,
    budget: Linf = BUDGET,
    *,
    prior: PriorName | str | Prior = "none",
    objective: Objective = GDUAP,
    schedule: ScheduleName | Schedule = "fast",
    steps: int | None = None,
    substitute: Images | Tensor | None = None,
    shape: tuple[int, int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Crafting:
    """A crafting that is ready to step, for loops of your own; [`craft`][jostle.universal.craft] runs it whole.

    The arguments, and what is raised, are those of `craft`.
    """
    plan = schedule_named(schedule)
    if steps is not None:
        require(steps >= 1, f"steps must be at least 1, but {steps} came")
        plan = replace(plan, steps=steps)
    shape = image_shape(model, shape)
    check_model(model)
    return Crafting(
        model,
        budget=budget,
        prior=prior_of(prior, model, shape),
        objective=objective,
        schedule=plan,
        shape=shape,
        generator=generator or torch.Generator().manual_seed(0),
        score=None if substitute is None else FoolingScore(model, substitute, shape),
    )


def craft(
    model: nn.Module,
    budget: Linf = BUDGET,
    *,
    prior: PriorName | str | Prior = "none",
    objective: Objective = GDUAP,
    schedule: ScheduleName | Schedule = "fast",
    steps: int | None = None,
    substitute: Images | Tensor | None = None,
    shape: tuple[int, int, int] | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> UniversalPerturbation:
    """Craft a universal perturbation without data, from a range of values, or with images.

    Maximises `J(delta) = sum_i log ||l_i(d + delta)||_2` over `||delta||_inf <= radius`, where `l_i` are the
    network's layers and `d` the base images of the prior (Mopuri, Ganeshan & Babu, arXiv 1801.08092, eq. 3;
    section 3 for the priors and the schedule).

    **Arguments:** `model`: takes images in [0, 1], normalisation inside; left as it was. `budget`: how large,
    in units of [0, 1]; default `Linf(10/255)`. `prior`: the base images: `"none"` (one colour), `"range"`
    (noise with the mean and spread of images), `"smooth"` (coarse noise), `"data:FOLDER"` (images of yours),
    or a prior object. `objective`: loss and taps. `schedule`: `"fast"` (150 steps, seconds), `"paper"` or
    `"released"` (at most 40,000), `"port2020"` (at most 10,000), or your own. `steps`: at most so many, at
    least 1, instead of the schedule's. `substitute`: images of another data set than the one that is judged
    on, which select the best iterate, and nothing else; without them the objective selects. `shape`: of an
    image, (channels, height, width); by default the model's `input_shape`. `generator`: on the CPU; seed 0 by
    default. `callback`: `(done, total, figure)` after each step.
    **Returns:** [`UniversalPerturbation`][jostle.universal.UniversalPerturbation].
    **Raises:** `JostleError` for a radius, shape, prior or model that cannot work, in one sentence.

    >>> import torch
    >>> from torch import nn
    >>> from jostle.universal import NoPrior
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    >>> up = craft(net.eval(), Linf(0.1), prior=NoPrior((0.5,)), shape=(1, 8, 8), steps=5)
    >>> tuple(up.delta.shape), up.record["steps"]
    ((1, 1, 8, 8), 5)
    """
    with prepare(
        model,
        budget,
        prior=prior,
        objective=objective,
        schedule=schedule,
        steps=steps,
        substitute=substitute,
        shape=shape,
        generator=generator,
    ) as crafting:
        while not crafting.done:
            crafting.step()
            if callback is not None:
                callback(crafting.t, crafting.schedule.steps, crafting.figure())
    return crafting.result()
