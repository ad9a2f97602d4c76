"""The local steps of a round, for one client or for many in step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.federated.algorithm import Algorithm, Round
from jostle.federated.clients import Plan, Pool
from jostle.federated.dropout import Noise

ClipMode = Literal["loss", "official"] | None
Gradient = Callable[[Tensor, Tensor, Tensor, Noise], tuple[Tensor, Tensor]]
"""From models `(s, D)`, inputs and targets `(s, b, ...)` and masks to gradients `(s, D)` and losses `(s,)`."""


@dataclass(frozen=True)
class Local:
    """What a client does in a round.

    **Arguments:** `lr`: learning rate of the first round, above 0. `lr_decay`: its factor a round, in (0, 1].
    `epochs`: passes over the client's data, at least 1. `batch_size`: at least 1. `weight_decay`: at least 0.
    `max_norm`: longest gradient. `clip_mode`: `"loss"` clips the gradient of the loss alone and adds the exact
    other terms; `"official"` clips it together with the algorithm's constant term, before the pull, as the
    official program does, which shrinks large models when it bites; `None` does not clip.
    **Raises:** `JostleError` for values out of range.

    >>> Local(lr=0.1, lr_decay=0.5).rate(2)
    0.025
    """

    lr: float = 0.1
    lr_decay: float = 1.0
    epochs: int = 5
    batch_size: int = 50
    weight_decay: float = 0.0
    max_norm: float = 10.0
    clip_mode: ClipMode = "loss"

    def __post_init__(self) -> None:
        require(0 < self.lr < float("inf"), f"lr must be above 0, but {self.lr} came")
        require(0 < self.lr_decay <= 1, f"lr_decay must lie in (0, 1], but {self.lr_decay} came")
        require(self.epochs >= 1, f"epochs must be at least 1, but {self.epochs} came")
        require(self.batch_size >= 1, f"batch_size must be at least 1, but {self.batch_size} came")
        require(self.weight_decay >= 0, f"weight_decay must be at least 0, but {self.weight_decay} came")
        require(self.max_norm > 0, f"max_norm must be above 0, but {self.max_norm} came")
        require(
            self.clip_mode in ("loss", "official", None),
            f"clip_mode must be 'loss', 'official' or None, but {self.clip_mode!r} came",
        )

    def rate(self, t: int) -> float:
        """The learning rate of round `t`."""
        return self.lr * self.lr_decay**t


def train(
    algorithm: Algorithm,
    gradient: Gradient,
    data: Sequence[tuple[Tensor, Tensor]],
    plans: Sequence[Plan],
    round: Round,
    local: Local,
    noise: Callable[[int, int], Noise] | None = None,
    augment: Callable[[int, int, Tensor], Tensor] | None = None,
    ascent: Gradient | None = None,
) -> tuple[Float[Tensor, "s D"], Float[Tensor, " s"]]:
    """Take all local steps of a round.

    Clients whose batches differ in size at a step, or which have no steps left, are taken apart there: every
    batch keeps its own mean, whatever the loss is.

    **Arguments:** `gradient`: of the loss. `data`, `plans`: of each client. `round`: the
    [`Round`][jostle.federated.Round]; its `client` vectors move. `noise`: masks of the client at a position
    and step. `augment`: from position, step and inputs to new inputs. `ascent`: the gradient at the ascent's end,
    where it must be taken otherwise.
    **Returns:** the clients' models and their mean losses over the round.
    """
    gradients = gradient, ascent or gradient
    rows, D = len(plans), len(round.start)
    v = round.start.expand(rows, D).clone()
    offset = algorithm.offset(round)
    offset = None if offset is None else offset.expand(rows, D)
    losses = torch.zeros(rows, dtype=v.dtype, device=v.device)
    pool = Pool(data, plans)
    for k in range(max(map(len, plans))):
        for same in _alike(plans, k):
            x, y = pool.batch(same, k)
            if augment is not None:
                x = torch.stack([augment(i, k, one) for i, one in zip(same, x, strict=True)])
            drop: Noise = ()
            if noise is not None:
                drop = tuple(torch.stack(one) for one in zip(*(noise(i, k) for i in same), strict=True))
            if len(same) == rows:
                losses += _step(algorithm, gradients, v, x, y, drop, offset, round, local)
                continue
            part, inner = _rows(round, same), v[same]
            shift = None if offset is None else offset[same]
            losses[same] += _step(algorithm, gradients, inner, x, y, drop, shift, part, local)
            v[same] = inner
            for name, value in part.client.items():
                moved = round.client[name].clone()
                moved[same] = value
                round.client[name] = moved
    return v, losses / round.steps[:, 0].to(losses)


def _alike(plans: Sequence[Plan], k: int) -> list[list[int]]:
    """Positions of the clients that take step `k`, those with equally large batches together."""
    widths: dict[int, list[int]] = {}
    for i, plan in enumerate(plans):
        if k < len(plan):
            widths.setdefault(plan.width(k), []).append(i)
    return list(widths.values())


def _rows(round: Round, same: list[int]) -> Round:
    """The round as some of its clients see it."""
    client = {name: value[same] for name, value in round.client.items()}
    return replace(round, client=client, steps=round.steps[same])


def _step(
    algorithm: Algorithm,
    gradients: tuple[Gradient, Gradient],
    v: Tensor,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    offset: Tensor | None,
    round: Round,
    local: Local,
) -> Tensor:
    """One local step, in place on `v`; returns the losses before it."""
    first, second = gradients
    g1, loss = first(v, x, y, noise)
    g2 = None
    if algorithm.needs_ascent:
        g2, _ = second(v + algorithm.perturb(v, g1, round), x, y, noise)
    d = algorithm.direction(v, g1, g2, round)
    if local.clip_mode == "official" and offset is not None:
        d = d + offset
    if d.data_ptr() == v.data_ptr():  # an algorithm may hand back the model itself, which is about to move
        d = d.clone()
    v.mul_(1 - round.lr * (algorithm.pull + local.weight_decay))
    if local.clip_mode is None:
        v.sub_(d, alpha=round.lr)
    else:
        norm = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        # The clipped gradient is never formed: a pass over all parameters is what a small step costs.
        v.addcmul_(d, (local.max_norm / (norm + 1e-6)).clamp_max(1.0), value=-round.lr)
    if local.clip_mode != "official" and offset is not None:
        v.sub_(offset, alpha=round.lr)
    return loss
