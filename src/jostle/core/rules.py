"""Step rules of the ascent engine: hyperparameters and one pure update each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jostle.core.errors import require
from jostle.core.trees import Tree, from_rows, groups, leaves_of, like, per_row, to_rows

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
    if isinstance(radius, Tensor) and radius.ndim == 0:
        radius = radius.item()
    if ascent.budget.relative or bool(torch.isinf(torch.as_tensor(radius)).any()):
        require(False, "size must be given to the rule when the budget's radius is relative or infinite")
    return radius * (factor / ascent.steps)


def _add(u: Tree, directions: list[Tensor], length: float | Tensor) -> Tree:
    """`u + length * directions`, written into the directions: fresh memory costs more than the sum."""
    return like(u, [_moved(leaf, way, length) for leaf, way in zip(leaves_of(u), directions, strict=True)])


def _moved(leaf: Tensor, way: Tensor, length: float | Tensor) -> Tensor:
    if way.dtype != leaf.dtype:
        way = way.to(leaf.dtype)
    if isinstance(length, Tensor):
        return torch.addcmul(leaf, way, per_row(length.to(leaf.device, leaf.dtype), leaf), out=way)
    return torch.add(leaf, way, alpha=length, out=way)


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
        u = ascent.u
        if isinstance(u, Tensor):
            return ascent.move(_moved(u, ascent.steepest(grads[0]), ascent.state["length"]))
        way = ascent.steepest(like(u, grads))
        return ascent.move(_add(u, leaves_of(way), ascent.state["length"]))


@dataclass(frozen=True)
class Momentum(Rule):
    """`m <- decay m + g / mean|g|`, then a steepest step along `m` (MI-FGSM; Dong et al. 2018).

    The gradient is divided by its mean absolute value a row of the budget's scope, so steps with gradients of
    very different size weigh alike.

    **Arguments:** `size`: step length, above 0; default `2.5 * radius / steps`. `decay`: at least 0.
    """

    size: float | None = None
    decay: float = 1.0

    def __post_init__(self) -> None:
        require(self.decay >= 0, f"decay must be at least 0, but {self.decay} came")

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        zeros = [torch.zeros_like(leaf) for leaf in leaves_of(ascent.u)]
        return {"length": _length(self.size, ascent), "momentum": zeros}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        scope, tiny = ascent.budget.scope, torch.finfo(torch.float32).tiny
        scaled: list[Tensor] = []
        for group in groups(grads, scope):
            rows = to_rows(group, scope)
            scaled += from_rows(rows / rows.abs().mean(1, keepdim=True).clamp_min(tiny), group, scope)
        ascent.state["momentum"] = [
            torch.add(new, old, alpha=self.decay)
            for old, new in zip(ascent.state["momentum"], scaled, strict=True)
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

    def __post_init__(self) -> None:
        require(all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), but {self.betas} came")
        require(self.eps >= 0, f"eps must be at least 0, but {self.eps} came")

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

    def __post_init__(self) -> None:
        require(0 < self.rho <= 1, f"rho must lie in (0, 1], but {self.rho} came")
        require(0 < self.alpha <= 1, f"alpha must lie in (0, 1], but {self.alpha} came")

    def begin(self, ascent: "Ascent") -> dict[str, Any]:
        require(ascent.track, "APGD needs select='best', since it returns to the best iterate")
        return {"before": leaves_of(ascent.u), "checkpoints": checkpoints(ascent.steps), "eta": None}

    def step(self, ascent: "Ascent", grads: list[Tensor]) -> Tree:
        state = ascent.state
        score, best = ascent.value, ascent.best_value
        assert score is not None and best is not None
        if not ascent.maximise:
            score, best = -score, -best
        u, before, grad = ascent.u, state["before"], grads
        if state["eta"] is None:
            radius = _length(None, ascent, factor=2.0 * ascent.steps)
            kind = torch.promote_types(score.dtype, torch.float32)
            state["eta"] = torch.as_tensor(radius, dtype=kind, device=score.device).expand_as(score)
            state["gains"] = torch.zeros_like(score)
            state["halved"] = torch.ones_like(score, dtype=torch.bool)  # no second condition at the first
            state["mark"], state["last"] = best, 0
            state["best_grad"] = grads
        else:
            state["gains"] = state["gains"] + (score > state["previous"])
            state["best_grad"] = _choose(best > state["best"], grads, state["best_grad"])
            if ascent.t in state["checkpoints"]:
                halve = halvings(state, best, ascent.t, self.rho)
                u = like(u, _choose(halve, leaves_of(ascent.best_u), leaves_of(u)))
                grad = _choose(halve, state["best_grad"], grads)
        state["previous"], state["best"] = score, best
        alpha = 1.0 if ascent.t == 0 else self.alpha
        way = ascent.steepest(like(u, grad), u)
        z = ascent.move(_add(u, leaves_of(way), state["eta"]))
        mixed = [
            a + alpha * (b - a) + (1 - alpha) * (a - c)
            for a, b, c in zip(leaves_of(u), leaves_of(z), before, strict=True)
        ]
        state["before"] = leaves_of(u)
        return ascent.move(like(u, mixed))


def halvings(state: dict[str, Any], best: Tensor, t: int, rho: float) -> Tensor:
    """APGD at a checkpoint: which samples halve their step `eta`, as is done in `state`.

    Those of which fewer than `rho` of the steps since the last checkpoint gained, or neither `eta` nor the best
    changed there.
    """
    stuck = ~state["halved"] & (state["mark"] >= best)
    halve = (state["gains"] < rho * (t - state["last"])) | stuck
    state["eta"] = torch.where(halve, state["eta"] / 2, state["eta"])
    state["gains"] = torch.zeros_like(best)
    state["halved"], state["mark"], state["last"] = halve, best, t
    return halve


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


def _choose(mask: Tensor, chosen: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [torch.where(per_row(mask, a), a, b) for a, b in zip(chosen, other, strict=True)]
