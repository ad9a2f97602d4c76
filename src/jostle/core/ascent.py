"""The one projected-ascent engine: push a perturbation to where an objective is largest within its budget."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.budgets import Budget
from jostle.core.errors import JostleError, require
from jostle.core.gradients import gradients
from jostle.core.rules import Rule, Steepest
from jostle.core.trees import Tree, leaves_of, like, per_row

Objective = Callable[[Tree], Tensor]
"""From a perturbation to one number, or to one number a sample, shape `(batch,)`.

One that knows its own gradient may have a method `with_gradient` besides: from a perturbation to the values and
the list of the gradients of their sum, one a tensor of the perturbation.
"""

Graded = Callable[[Tree], tuple[Tensor, list[Tensor]]]


class NonFiniteGradient(JostleError, ArithmeticError):
    """The gradient holds NaN or infinity; `step` and `fraction` say when and in how many of its entries."""

    def __init__(self, step: int, fraction: float) -> None:
        super().__init__(
            f"the objective's gradient is not finite at step {step} ({fraction:.1%} of its entries); look for "
            "NaN weights, a logarithm of zero or an overflow in half precision"
        )
        self.step, self.fraction = step, fraction


@dataclass(frozen=True)
class AscentResult:
    """What an ascent found.

    `delta`: the perturbation. `value`: the objective there, one a sample; with `select="last"`, which saves a
    forward pass, it is the objective one step before. `trace`: the objective at each iterate that was stepped
    from, shape `(steps, samples)`, of the last start. `steps`: steps run. `evaluations`: forward passes.
    """

    delta: Tree
    value: Float[Tensor, " samples"]
    trace: Float[Tensor, "steps samples"]
    steps: int
    evaluations: int


class Ascent:
    """An ascent that is taken one step at a time, for loops that do more between steps.

    One forward and one backward pass a step. The best iterate is tracked a sample, from values that are
    computed anyway.

    **Arguments:** `objective`: see [`ascend`][jostle.core.ascent.ascend]. `start`: the first perturbation.
    `budget`, `rule`, `x`, `maximise`: as there. `steps`: how many are planned; some rules scale with it.

    >>> import torch
    >>> from jostle import Linf
    >>> run = Ascent(lambda u: u.sum(), torch.zeros(2), Linf(1.0, scope="tensor"), steps=4)
    >>> for _ in range(4):
    ...     run.step()
    >>> run.u
    tensor([1., 1.])
    """

    def __init__(
        self,
        objective: Objective,
        start: Tree,
        budget: Budget,
        *,
        steps: int,
        rule: Rule | None = None,
        x: Tree | None = None,
        maximise: bool = True,
        track: bool = True,
    ) -> None:
        require(steps >= 1, f"steps must be at least 1, but {steps} came")
        self.objective, self.budget, self.rule = objective, budget, rule or Steepest()
        self.steps, self.maximise, self.track = steps, maximise, track
        with torch.no_grad():
            self._project, self._steepest = budget.projector(start, x), budget.stepper(start, x)
            self.u: Tree = self._project(like(start, [leaf.detach() for leaf in leaves_of(start)]))
        self.t = 0
        self.evaluations = 0
        self.value: Tensor | None = None
        self.best_u: Tree = self.u
        self.best_value: Tensor | None = None
        self.state: dict[str, Any] = self.rule.begin(self)
        self._graded: Graded | None = getattr(objective, "with_gradient", None)
        self._ones: Tensor | None = None
        self._warned = False

    def step(self) -> None:
        """Evaluate the objective at `u`, then move `u` by one step of the rule."""
        value, grads = self._differentiate(self.u) if self._graded is None else self._graded(self.u)
        self.evaluations += 1
        self._check(grads)
        # From here on nothing requires a gradient, so nothing has to switch them off.
        self._score(value)
        self.u = self.rule.step(self, grads if self.maximise else [-grad for grad in grads])
        self.t += 1

    def finish(self) -> None:
        """Score the last iterate too: the steps score each iterate before they move it."""
        with torch.no_grad():
            value = self.objective(self.u).detach()
            self.evaluations += 1
            self._score(value)

    def move(self, u: Tree) -> Tree:
        """Project a perturbation on the budget, around the same `x`."""
        return self._project(u)

    def steepest(self, grad: Tree, at: Tree | None = None) -> Tree:
        """The budget's steepest unit step along a gradient, at the present iterate or another."""
        return self._steepest(grad, self.u if at is None else at)

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same numbers; later steps do not change it."""
        return {
            "t": self.t,
            "evaluations": self.evaluations,
            "u": leaves_of(self.u),
            "best_u": leaves_of(self.best_u),
            "best_value": self.best_value,
            "value": self.value,
            "state": dict(self.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the ascent where `state_dict` was called."""
        self.t, self.evaluations = state["t"], state["evaluations"]
        self.best_u, self.u = like(self.u, state["best_u"]), like(self.u, state["u"])
        self.best_value, self.value, self.state = state["best_value"], state["value"], dict(state["state"])

    def _differentiate(self, u: Tree) -> tuple[Tensor, list[Tensor]]:
        if isinstance(
            u, Tensor
        ):  # without the detour over trees: for a small network it costs as much as a layer
            point = u.detach().requires_grad_()
            leaves: list[Tensor] = [point]
        else:
            leaves = [leaf.detach().requires_grad_() for leaf in leaves_of(u)]
            point = like(u, leaves)
        value = self.objective(point)
        ones = self._ones
        if ones is None or ones.shape != value.shape or ones.dtype != value.dtype:
            # The gradient of the sum, not of the mean: a sample's step must not depend on who else is there.
            self._ones = ones = torch.ones_like(value.detach())
        # Of several tensors the objective may leave some alone.
        return value.detach(), list(gradients(value, leaves, ones, several=len(leaves) > 1))

    def _score(self, value: Tensor) -> None:
        if value.ndim != 1:
            value = value.reshape(-1)
        self.value = value
        if not self.track:
            return
        count = value.shape[0]  # len() of a tensor takes as long as an addition of tensors
        shape = leaves_of(self.u)[0].shape
        if count != 1 and shape[:1] != (count,):
            raise JostleError(
                f"objective must give one number, or one a row of the perturbation's {tuple(shape)}, but "
                f"{count} came"
            )
        score = value if self.maximise else -value
        if self.best_value is None:
            self.best_value, self.best_u = value, self.u
            return
        better = score > (self.best_value if self.maximise else -self.best_value)
        if not bool(better if count == 1 else better.any()):
            return
        if count == 1 or bool(better.all()):
            self.best_value, self.best_u = value, self.u
            return
        self.best_value = torch.where(better, value, self.best_value)
        pairs = zip(leaves_of(self.u), leaves_of(self.best_u), strict=True)
        self.best_u = like(self.u, [torch.where(per_row(better, new), new, old) for new, old in pairs])

    def _check(self, grads: list[Tensor]) -> None:
        # One cheap sum tells whether there is anything to look at: it cannot hide NaN or infinity.
        total = grads[0].sum()
        for grad in grads[1:]:
            total = total + grad.sum()
        size = total.item()
        if size != 0.0 and math.isfinite(size):
            return
        bad = sum(int((~torch.isfinite(grad)).sum()) for grad in grads)
        if bad:
            raise NonFiniteGradient(self.t, bad / sum(grad.numel() for grad in grads))
        if not self._warned and not any(bool(grad.any()) for grad in grads):
            self._warned = True
            warnings.warn(
                f"the objective's gradient is zero everywhere at step {self.t}: dead taps, gradient masking or a "
                "saturated softmax; without one the perturbation stays where it is",
                stacklevel=3,
            )


def ascend(
    objective: Objective,
    start: Tree,
    budget: Budget,
    *,
    steps: int,
    rule: Rule | None = None,
    x: Tree | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    select: Literal["best", "last"] = "best",
    stop: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[Ascent], None] | None = None,
    maximise: bool = True,
) -> AscentResult:
    """Find a perturbation in a budget that makes an objective large (PGD and its relatives).

    `u <- P(u + step)`, with `P` the projection on the budget and the step given by the rule (Madry et al. 2018;
    Croce & Hein 2020 for APGD). With a per-sample objective, the batch of `B` gives the numbers of `B` batches
    of one.

    **Arguments:** `objective`: from a perturbation to one number, or one a sample. `start`: the first
    perturbation, a tensor or a tree of tensors; it is not changed. `budget`: what is allowed. `steps`: at least
    1. `rule`: `Steepest` (default), `Sign`, `Momentum`, `Adam` or `APGD`. `x`: what is perturbed; the
    budget's box needs it. `restarts`: starts in all; all but the first are drawn from the budget with
    `generator`. `select`: the best iterate a sample (one more forward pass) or the last. `stop`: from the values
    a sample to a mask of who is done; the ascent ends when all are. `callback`: called after each step with the
    [`Ascent`][jostle.core.ascent.Ascent]. `maximise`: push up, or down.
    **Returns:** [`AscentResult`][jostle.core.ascent.AscentResult].
    **Raises:** `NonFiniteGradient`; `JostleError` for settings out of range.

    >>> import torch
    >>> from jostle import Linf
    >>> x = torch.tensor([[0.2, 0.9]])
    >>> ascend(lambda u: (x + u).sum(1), torch.zeros(1, 2), Linf(0.3, upper=1.0), steps=5, x=x).delta
    tensor([[0.3000, 0.1000]])
    """
    require(restarts >= 1, f"restarts must be at least 1, but {restarts} came")
    require(restarts == 1 or generator is not None, "generator must be given with more than one restart")
    require(restarts == 1 or select == "best", "select must be 'best' with more than one restart")
    best_u: Tree = None
    best_value: Tensor | None = None
    total = evaluations = 0
    trace: list[Tensor] = []
    for attempt in range(restarts):
        u = start if attempt == 0 or generator is None else budget.sample(start, generator, x)
        run = Ascent(
            objective, u, budget, steps=steps, rule=rule, x=x, maximise=maximise, track=select == "best"
        )
        trace = []
        while run.t < steps:
            run.step()
            assert run.value is not None
            trace.append(run.value)
            if callback is not None:
                callback(run)
            if stop is not None and bool(
                stop(run.best_value if run.best_value is not None else trace[-1]).all()
            ):
                break
        total += run.t
        if select == "best":
            run.finish()
            found, value = run.best_u, run.best_value
        else:
            found, value = run.u, run.value
        evaluations += run.evaluations
        assert value is not None
        if best_value is None:
            best_u, best_value = found, value
        else:
            better = value > best_value if maximise else value < best_value
            pairs = zip(leaves_of(found), leaves_of(best_u), strict=True)
            best_u = like(found, [torch.where(per_row(better, new), new, old) for new, old in pairs])
            best_value = torch.where(better, value, best_value)
        if stop is not None and bool(stop(best_value).all()):
            break
    assert best_value is not None
    return AscentResult(best_u, best_value, torch.stack(trace), total, evaluations)
