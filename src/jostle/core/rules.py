"""Step rules of the ascent engine: hyperparameters and one pure update each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jostle.core.errors import require
from jostle.core.trees import Tree, leaves_of, like, per_row

if TYPE_CHECKING:
    from jostle.core.ascent import Ascent


class Rule(ABC):
    """How an iterate moves along its gradient. Hyperparameters live here, the state in the ascent."""

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        """The state before the first step."""
        return {}

    @abstractmethod
    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        """The next iterate, projected."""


def _length(size: float | None, ascent: "Ascent", factor: float = 2.5) -> float | Tensor:
    """The step's length: as given, or `factor * radius / steps` (2.5, as Madry et al. 2018)."""
    if size is not None:
        require(size > 0, f"size must be above 0, but {size} came")
        return size
    radius = ascent.budget.radius
    if ascent.budget.relative or bool(torch.isinf(torch.as_tensor(radius)).any()):
        require(False, "size must be given to the rule when the budget's radius is relative or infinite")
    return radius * (factor / ascent.steps)


def _add(u: Tree, directions: list[Tensor], length: float | Tensor) -> Tree:
    moved = []
    for leaf, way in zip(leaves_of(u), directions, strict=True):
        if isinstance(length, Tensor) and length.ndim:
            moved.append(leaf + per_row(length.to(leaf.device, leaf.dtype), leaf) * way)
        else:
            moved.append(torch.add(leaf, way.to(leaf.dtype), alpha=float(length)))
    return like(u, moved)


@dataclass(frozen=True)
class Sign(Rule):
    """`u <- P(u + size * sign(g))`, whatever the budget's norm (FGSM, PGD; Madry et al. 2018).

    **Arguments:** `size`: step length, above 0; default `2.5 * radius / steps`.
    """

    size: float | None = None

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        return {"length": _length(self.size, ascent)}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        return ascent.move(_add(ascent.u, [grad.sign() for grad in grads], ascent.state["length"]))


@dataclass(frozen=True)
class Steepest(Rule):
    """`u <- P(u + size * s)`, with `s` the budget's own steepest unit step: PGD in its norm.

    With `steps=1`, a zero start, scope `tree`, an `L2` budget and `size = rho` this is the ascent step of
    sharpness-aware minimisation, `rho g / ||g||` (Foret et al. 2021).

    **Arguments:** `size`: step length, above 0; default `2.5 * radius / steps`.
    """

    size: float | None = None

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        return {"length": _length(self.size, ascent)}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        way = ascent.steepest(like(ascent.u, grads))
        return ascent.move(_add(ascent.u, leaves_of(way), ascent.state["length"]))


@dataclass(frozen=True)
class Momentum(Rule):
    """`m <- decay m + g / mean|g|`, then a steepest step along `m` (MI-FGSM; Dong et al. 2018).

    The gradient is divided by its mean absolute value a row of the budget's scope, so steps with gradients of
    very different size weigh alike.

    **Arguments:** `size`: step length, above 0; default `2.5 * radius / steps`. `decay`: at least 0.
    """

    size: float | None = None
    decay: float = 1.0

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        zeros = [torch.zeros_like(leaf) for leaf in leaves_of(ascent.u)]
        return {"length": _length(self.size, ascent), "momentum": zeros}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        if ascent.budget.scope == "sample":
            means = [grad.abs().flatten(1).mean(1) for grad in grads]
            sizes = [per_row(mean, grad) for mean, grad in zip(means, grads, strict=True)]
        elif ascent.budget.scope == "tensor":
            sizes = [grad.abs().mean() for grad in grads]
        else:
            count = sum(grad.numel() for grad in grads)
            sizes = [torch.stack([grad.abs().sum() for grad in grads]).sum() / count] * len(grads)
        tiny = torch.finfo(torch.float32).tiny
        ascent.state["momentum"] = [
            self.decay * old + grad / size.clamp_min(tiny)
            for old, grad, size in zip(ascent.state["momentum"], grads, sizes, strict=True)
        ]
        way = ascent.steepest(like(ascent.u, ascent.state["momentum"]))
        return ascent.move(_add(ascent.u, leaves_of(way), ascent.state["length"]))


@dataclass(frozen=True)
class Adam(Rule):
    """Adam's step on the perturbation, then the projection (Kingma & Ba 2015; as `torch.optim.Adam`).

    **Arguments:** `size`: learning rate, above 0. `betas`: decay rates in [0, 1). `eps`: at least 0.
    """

    size: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        _length(self.size, ascent)
        zeros = [torch.zeros_like(leaf) for leaf in leaves_of(ascent.u)]
        return {"count": 0, "mean": zeros, "square": [zero.clone() for zero in zeros]}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        state, (b1, b2) = ascent.state, self.betas
        state["count"] += 1
        count = state["count"]
        state["mean"] = [torch.lerp(m, g, 1 - b1) for m, g in zip(state["mean"], grads, strict=True)]
        state["square"] = [
            b2 * v + (1 - b2) * g.square() for v, g in zip(state["square"], grads, strict=True)
        ]
        root = (1 - b2**count) ** 0.5
        ways = [m / (v.sqrt() / root + self.eps) for m, v in zip(state["mean"], state["square"], strict=True)]
        return ascent.move(_add(ascent.u, ways, self.size / (1 - b1**count)))


@dataclass(frozen=True)
class APGD(Rule):
    """Auto-PGD: momentum, step sizes that halve themselves, restarts from the best (Croce & Hein 2020).

    `z = P(u + eta s)`, `u <- P(u + alpha (z - u) + (1 - alpha)(u - u_before))`, `s` the steepest unit step.
    At the checkpoints `eta` halves and a sample returns to its best iterate if fewer than `rho` of the steps
    since the last one gained, or neither `eta` nor the best changed there. Needs an objective a sample.

    **Arguments:** `rho`: in (0, 1]. `alpha`: weight of the new step, in (0, 1].
    """

    rho: float = 0.75
    alpha: float = 0.75

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        require(ascent.track, "APGD needs select='best', since it returns to the best iterate")
        return {"before": ascent.u, "checkpoints": checkpoints(ascent.steps), "eta": None}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        state = ascent.state
        score, best = ascent.value, ascent.best_value
        assert score is not None and best is not None
        sign = 1.0 if ascent.maximise else -1.0
        score, best = sign * score, sign * best
        u, before, grad = ascent.u, state["before"], like(ascent.u, grads)
        if state["eta"] is None:
            radius = torch.as_tensor(_length(None, ascent, factor=2.0 * ascent.steps), device=score.device)
            state["eta"] = radius.to(score.dtype).expand_as(score).clone()
            state["gains"] = torch.zeros_like(score)
            state["halved"] = torch.ones_like(score, dtype=torch.bool)  # no second condition at the first
            state["mark"], state["last"] = best, 0
            state["best_grad"] = grads
            before = u
        else:
            state["gains"] += (score > state["previous"]).to(score.dtype)
            at_best = score >= best
            state["best_grad"] = [
                torch.where(per_row(at_best, g), g, old)
                for g, old in zip(grads, state["best_grad"], strict=True)
            ]
            if ascent.t in state["checkpoints"]:
                length = ascent.t - state["last"]
                stuck = ~state["halved"] & (state["mark"] >= best)
                halve = (state["gains"] < self.rho * length) | stuck
                state["eta"] = torch.where(halve, state["eta"] / 2, state["eta"])
                state["gains"] = torch.zeros_like(score)
                state["halved"], state["mark"], state["last"] = halve, best, ascent.t
                u = _choose(halve, ascent.best_u, u)
                before = _choose(halve, ascent.best_u, before)
                grad = like(
                    u,
                    [
                        torch.where(per_row(halve, b), b, g)
                        for b, g in zip(state["best_grad"], grads, strict=True)
                    ],
                )
                score = torch.where(halve, best, score)
        state["previous"] = score
        alpha = 1.0 if ascent.t == 0 else self.alpha
        way = ascent.budget.steepest(grad, u, ascent._x)
        z = ascent.move(_add(u, leaves_of(way), state["eta"]))
        mixed = [
            a + alpha * (b - a) + (1 - alpha) * (a - c)
            for a, b, c in zip(leaves_of(u), leaves_of(z), leaves_of(before), strict=True)
        ]
        state["before"] = u
        return ascent.move(like(u, mixed))


def checkpoints(steps: int) -> list[int]:
    """APGD's checkpoints: `p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)` of `steps`.

    >>> checkpoints(100)
    [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    share = [0.0, 0.22]
    while True:
        following = share[-1] + max(share[-1] - share[-2] - 0.03, 0.06)
        if following > 1 + 1e-12:
            break
        share.append(following)
    # The shares are exact hundredths; the rounding keeps 0.57 * 100 from becoming 58.
    return sorted({-int(-round(p * steps, 9) // 1) for p in share})


def _choose(mask: Tensor, chosen: Tree, other: Tree) -> Tree:
    pairs = zip(leaves_of(chosen), leaves_of(other), strict=True)
    return like(other, [torch.where(per_row(mask, a), a, b) for a, b in pairs])
