"""Budgets: how large a perturbation may be, measured in a norm, cut with the box of valid values."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from jostle.core import projections
from jostle.core.budget import LOW, Box, Budget
from jostle.core.columns import at_least, cast, length
from jostle.core.errors import require
from jostle.core.trees import Tree, leaves_of, like, to_rows

__all__ = ["L1", "L2", "Budget", "Linf"]


@dataclass(frozen=True, eq=False)
class Linf(Budget):
    """No entry moves by more than `radius`; see [`Budget`][jostle.core.budget.Budget].

    >>> import torch
    >>> Linf(0.5).steepest(torch.tensor([[2.0, -0.1, 0.0]]))
    tensor([[ 1., -1.,  0.]])
    """

    name: ClassVar[str] = "Linf"
    _order: ClassVar[float] = math.inf

    def projector(self, u: Tree, x: Tree | None = None) -> Callable[[Tree], Tree]:
        """As for every budget; a single tensor is clipped between bounds that are made once."""
        if not isinstance(u, Tensor) or u.dtype in LOW:
            return super().projector(u, x)
        ((lo, hi),) = self._boxes([u], x)
        (scale,) = self._scale_rows([u])
        if not self.relative and not isinstance(self.radius, Tensor):
            number = float(self.radius)
            if scale is not None:
                full = scale * number
                top = (full if hi is None else torch.minimum(full, hi)).reshape(u.shape)
                bottom = (-full if lo is None else torch.maximum(-full, lo)).reshape(u.shape)
                return lambda tree: torch.clamp(tree, bottom, top)
            if lo is None and hi is None:
                return lambda tree: torch.clamp(tree, -number, number)
            # The distances to the box were made for this projector: it may keep its bounds in them.
            high = torch.full_like(u, number) if hi is None else hi.clamp_max_(number).reshape(u.shape)
            low = torch.full_like(u, -number) if lo is None else lo.clamp_min_(-number).reshape(u.shape)
            return lambda tree: torch.clamp(tree, low, high)
        reach = self._radius_column([u], x, (lo, hi)).to(u.dtype)
        full = (reach if scale is None else reach * scale).expand(to_rows([u], self.scope).shape)
        high = (full if hi is None else torch.minimum(full, hi)).reshape(u.shape)
        low = (-full if lo is None else torch.maximum(-full, lo)).reshape(u.shape)
        return lambda tree: torch.clamp(tree, low, high)

    def _stepper(self, leaves: list[Tensor], boxes: list[Box] | None) -> Callable[[Tree, Tree | None], Tree]:
        if self.scale is not None:
            return super()._stepper(leaves, boxes)
        return lambda g, u: (
            g.sign() if isinstance(g, Tensor) else like(g, [leaf.sign() for leaf in leaves_of(g)])
        )

    def _project(
        self, u: Tensor, radius: Tensor, lo: Tensor | None, hi: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        return projections.linf(u, radius.to(u.dtype), lo, hi, scale)

    def _steepest(self, g: Tensor, scale: Tensor | None, u: Tensor | None, box: Box | None) -> Tensor:
        return g.sign() if scale is None else g.sign() * scale

    def _unit_sample(self, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype, device=generator.device) * 2 - 1


@dataclass(frozen=True, eq=False)
class L2(Budget):
    """The Euclidean length is at most `radius`; see [`Budget`][jostle.core.budget.Budget].

    >>> import torch
    >>> L2(2.5).project(torch.tensor([[3.0, 4.0]]))
    tensor([[1.5000, 2.0000]])
    """

    name: ClassVar[str] = "L2"
    _order: ClassVar[float] = 2.0

    def _project(
        self, u: Tensor, radius: Tensor, lo: Tensor | None, hi: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        if scale is None:
            return projections.l2(u, radius, lo, hi)
        return projections.l2_scaled(u, radius, lo, hi, scale)

    def _stepper(self, leaves: list[Tensor], boxes: list[Box] | None) -> Callable[[Tree, Tree | None], Tree]:
        step = super()._stepper(leaves, boxes)
        rows = to_rows(leaves[:1], self.scope).shape[0]
        if self.scale is not None or len(leaves) > 1 or rows != 1 or leaves[0].dtype in LOW:
            return step
        tiny = torch.finfo(leaves[0].dtype).tiny
        # A lone row needs no view as rows, and no way back.
        return lambda g, u: g / max(length(g.reshape(1, -1)), tiny) if isinstance(g, Tensor) else step(g, u)

    def _steepest(self, g: Tensor, scale: Tensor | None, u: Tensor | None, box: Box | None) -> Tensor:
        g = g if scale is None else g * scale
        unit = g / cast(at_least(length(g), torch.finfo(g.dtype).tiny), g)
        return unit if scale is None else unit * scale

    def _unit_sample(self, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        way = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        way = way / torch.linalg.vector_norm(way, dim=1, keepdim=True)
        depth = torch.rand((shape[0], 1), generator=generator, dtype=dtype, device=device)
        return way * depth ** (1.0 / shape[1])


@dataclass(frozen=True, eq=False)
class L1(Budget):
    """The absolute values sum to at most `radius`; see [`Budget`][jostle.core.budget.Budget].

    **Arguments:** `topk`: how many of the largest gradients a steepest step moves, equally (1: the exact
    steepest step, ties shared; more: the sparse step of SLIDE, Tramèr & Boneh 2019).

    >>> import torch
    >>> L1(1.0).steepest(torch.tensor([[0.2, -3.0, 1.0]]))
    tensor([[ 0., -1.,  0.]])
    """

    topk: int = 1

    name: ClassVar[str] = "L1"
    _order: ClassVar[float] = 1.0
    _step_reads_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale is None, "scale is for Linf and L2; with L1 leave it out")
        require(self.topk >= 1, f"topk must be at least 1, but {self.topk} came")

    def _project(
        self, u: Tensor, radius: Tensor, lo: Tensor | None, hi: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        return projections.l1(u, radius, lo, hi)

    def _steepest(self, g: Tensor, scale: Tensor | None, u: Tensor | None, box: Box | None) -> Tensor:
        size = g.abs()
        if u is not None and box is not None:
            lo, hi = box
            held = torch.zeros_like(size, dtype=torch.bool)
            if hi is not None:
                held |= (g > 0) & (u >= hi)
            if lo is not None:
                held |= (g < 0) & (u <= lo)
            size = torch.where(held, 0.0, size)
        k = min(self.topk, size.shape[1])
        edge = size.topk(k, dim=1).values[:, -1:]
        chosen = (size >= edge) & (size > 0)
        count = chosen.sum(1, keepdim=True).clamp_min(1).to(g.dtype)
        return torch.where(chosen, g.sign() / count, 0.0)

    def _unit_sample(self, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        # n of n + 1 exponentials over their sum are uniform in the simplex and its inside.
        device = generator.device
        draws = torch.empty((shape[0], shape[1] + 1), dtype=dtype, device=device).exponential_(
            generator=generator
        )
        size = draws[:, :-1] / draws.sum(1, keepdim=True)
        return size * (torch.rand(shape, generator=generator, dtype=dtype, device=device) - 0.5).sign()
