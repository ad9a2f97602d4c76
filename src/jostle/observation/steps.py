"""Step rules for the core's ascent: the authors' decaying phases, and the auto conjugate gradient."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jostle.core.errors import require
from jostle.core.rules import Rule, checkpoints, halvings
from jostle.core.trees import Tree, leaves_of

if TYPE_CHECKING:
    from jostle.core.ascent import Ascent


@dataclass(frozen=True)
class Phases(Rule):
    """`u <- P(u + a_k s)` with a list of step lengths; `s` is `sign(g)`, or the ball's steepest step.

    **Arguments:** `sizes`: one length a step. `sign`: step along the sign of the gradient, in the units of the
    perturbation, whatever the radius of a feature.
    """

    sizes: tuple[float, ...]
    sign: bool = True

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        (grad,) = grads
        way = grad.sign() if self.sign else ascent.steepest(grad)
        return ascent.move(torch.add(ascent.u, way, alpha=self.sizes[ascent.t]))


@dataclass(frozen=True)
class ConjugateGradient(Rule):
    """Auto conjugate gradient: Hestenes-Stiefel directions with Auto-PGD's step sizes (Yamamura et al. 2022).

    `y = g_before - g`, `beta = -<g, y> / <s_before, y>`, `s = g + beta s_before`, then a steepest step along
    `s`; at Auto-PGD's checkpoints the step halves and a sample returns to its best iterate if fewer than
    `rho` of the steps since the last one gained, or neither the step nor the best changed.

    **Arguments:** `first`: first step length, in units of the ball's radius. `rho`: in (0, 1].
    """

    first: float = 2.0
    rho: float = 0.75

    def __post_init__(self) -> None:
        require(self.first > 0, f"first must be above 0, but {self.first} came")
        require(0 < self.rho <= 1, f"rho must lie in (0, 1], but {self.rho} came")

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        require(ascent.track, "the conjugate gradient returns to the best iterate, so it needs select='best'")
        return {"checkpoints": checkpoints(ascent.steps), "eta": None}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        (grad,) = grads
        state, u = ascent.state, leaves_of(ascent.u)[0]
        score, best = ascent.value, ascent.best_value
        assert score is not None and best is not None
        if state["eta"] is None:
            state.update(
                eta=torch.full_like(score, self.first),
                gains=torch.zeros_like(score),
                halved=torch.ones_like(score, dtype=torch.bool),
                mark=best,
                last=0,
                way=grad,
                before=grad,
                best_way=grad,
                best_before=grad,
            )
            way = grad
        else:
            state["gains"] = state["gains"] + (score > state["previous"])
            rose = (best > state["best"])[:, None]
            state["best_way"] = torch.where(rose, state["way"], state["best_way"])
            state["best_before"] = torch.where(rose, grad, state["best_before"])
            if ascent.t in state["checkpoints"]:
                halve = halvings(state, best, ascent.t, self.rho)
                back = halve[:, None]
                u = torch.where(back, leaves_of(ascent.best_u)[0], u)
                grad = torch.where(back, state["best_before"], grad)
                state["way"] = torch.where(back, state["best_way"], state["way"])
            change = state["before"] - grad
            below = (state["way"] * change).sum(1, keepdim=True)
            beta = -(grad * change).sum(1, keepdim=True) / torch.where(below == 0, 1.0, below)
            way = grad + torch.where(below == 0, 0.0, beta) * state["way"]
        state["previous"], state["best"] = score, best
        state["before"], state["way"] = grad, way
        eta = state["eta"]
        assert isinstance(eta, Tensor)
        return ascent.move(u + eta[:, None] * ascent.steepest(way, u))
