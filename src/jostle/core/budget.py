"""What every budget does, whatever its norm: radii, scopes, boxes and precision as rows of numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.core.trees import Scope, Tree, from_rows, groups, leaves_of, like, to_rows

LOW = (torch.float16, torch.bfloat16)
Box = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False)
class Budget(ABC):
    """The set `{ ||u / scale||_p <= radius and lower <= x + u <= upper }` of allowed perturbations `u` of `x`.

    Use `Linf`, `L2` or `L1`. Every method works on a tensor or on a tree of tensors, in a batch, on its device
    and in its precision (half precision is computed in float32 and rounded inwards, so that what comes back
    is inside the budget). No method changes its arguments. Without `x` the box bounds `u` itself.

    **Arguments:** `radius`: at least 0 (infinite: the box alone), or one a sample, shape `(batch,)`.
    `lower`, `upper`: bounds on the *perturbed* value, numbers or tensors that broadcast to it. `scale`: radii a
    feature in units of `radius`, at least 0, that broadcast to one sample (0 keeps a feature as it is).
    `scope`: what one radius holds for: `sample` (the first axis), `tensor` or `tree`. `relative`: the radius
    is `radius * ||x||`.
    **Raises:** `JostleError` if the radius or the scale is negative or NaN, or the box is empty.

    >>> import torch
    >>> from jostle import Linf
    >>> Linf(0.1, lower=0.0, upper=1.0).project(torch.tensor([[0.5, -0.5]]), x=torch.tensor([[0.95, 0.02]]))
    tensor([[ 0.0500, -0.0200]])
    """

    radius: float | Float[Tensor, " batch"]
    lower: float | Tensor | None = None
    upper: float | Tensor | None = None
    scale: Tensor | None = None
    scope: Scope = "sample"
    relative: bool = False

    name: ClassVar[str]

    def __post_init__(self) -> None:
        radius = torch.as_tensor(self.radius)
        require(
            bool((radius >= 0).all()), f"radius must be at least 0 and not NaN, but {_show(self.radius)} came"
        )
        require(
            radius.ndim == 0 or (radius.ndim == 1 and self.scope == "sample"),
            f"radius must be a number, or one a sample with scope 'sample', but a tensor of shape "
            f"{tuple(radius.shape)} came with scope {self.scope!r}",
        )
        if self.scale is not None:
            smallest, largest = torch.aminmax(self.scale) if self.scale.numel() else (0.0, 0.0)
            good = float(smallest) >= 0 and float(largest) < math.inf  # neither holds where one entry is NaN
            require(good, "scale must be finite and at least 0 everywhere, but it is not")
        if self.lower is not None and self.upper is not None:
            box = bool((torch.as_tensor(self.lower) <= torch.as_tensor(self.upper)).all())
            require(
                box, f"lower must not be above upper, but {_show(self.lower)} and {_show(self.upper)} came"
            )

    def project(self, u: Tree, x: Tree | None = None) -> Tree:
        """The allowed perturbation that is nearest to `u` in the Euclidean sense.

        **Arguments:** `u`: the perturbation. `x`: what it perturbs, of the same shape.
        **Raises:** `JostleError` if the box does not contain `x`.
        """
        return self.projector(u, x)(u)

    def projector(self, u: Tree, x: Tree | None = None) -> Callable[[Tree], Tree]:
        """A function that projects perturbations shaped like `u`, with all that depends on `x` done once."""
        leaves = leaves_of(u)
        scale = self._scale_rows(leaves)
        parts = []
        for group, bounds, factor in zip(
            groups(leaves, self.scope), self._boxes(leaves, x), scale, strict=True
        ):
            parts.append((self._radius_column(group, x, bounds), bounds, factor))
        if isinstance(u, Tensor) and u.dtype not in LOW:
            ((radius, (lo, hi), factor),) = parts
            return lambda tree: self._project(to_rows([tree], self.scope), radius, lo, hi, factor).reshape(
                tree.shape
            )

        def project(tree: Tree) -> Tree:
            out: list[Tensor] = []
            for group, (radius, (lo, hi), factor) in zip(
                groups(leaves_of(tree), self.scope), parts, strict=True
            ):
                rows = _wide(to_rows(group, self.scope))
                new = self._project(rows, radius, lo, hi, factor)
                if group[0].dtype in LOW:
                    new = _round_inwards(new, group[0].dtype)
                out += from_rows(new, group, self.scope)
            return like(tree, out)

        return project

    def steepest(self, g: Tree, u: Tree | None = None, x: Tree | None = None) -> Tree:
        """The unit step that gains most along the gradient `g`: `argmax <g, s>` over `||s / scale||_p <= 1`.

        **Arguments:** `g`: the gradient. `u`, `x`: where it was taken; only `L1` uses them, to pass over
        coordinates that the box holds.
        """
        if u is None:
            return self._stepper(leaves_of(g), None)(g, None)
        return self.stepper(u, x)(g, u)

    def stepper(self, u: Tree, x: Tree | None = None) -> Callable[[Tree, Tree | None], Tree]:
        """A function `(g, u) -> steepest(g, u, x)`, with all that depends on `x` done once."""
        leaves = leaves_of(u)
        return self._stepper(leaves, self._boxes(leaves, x) if self._step_reads_box else None)

    def _stepper(self, leaves: list[Tensor], boxes: list[Box] | None) -> Callable[[Tree, Tree | None], Tree]:
        factors = self._scale_rows(leaves)
        if len(leaves) == 1 and boxes is None and leaves[0].dtype not in LOW:
            (factor,) = factors

            def step_alone(g: Tree, u: Tree | None) -> Tree:
                (leaf,) = leaves_of(g)
                rows = self._steepest(to_rows([leaf], self.scope), factor, None, None)
                return like(g, [rows.reshape(leaf.shape)])

            return step_alone

        def step(g: Tree, u: Tree | None) -> Tree:
            split = groups(leaves_of(g), self.scope)
            places = split if u is None else groups(leaves_of(u), self.scope)
            out: list[Tensor] = []
            for group, place, box, factor in zip(
                split, places, boxes or [None] * len(split), factors, strict=True
            ):
                rows = _wide(to_rows(group, self.scope))
                at = None if box is None or u is None else _wide(to_rows(place, self.scope))
                out += from_rows(self._steepest(rows, factor, at, box), group, self.scope)
            return like(g, out)

        return step

    def sample(self, template: Tree, generator: torch.Generator, x: Tree | None = None) -> Tree:
        """A perturbation drawn uniformly from the ball, then projected on the box.

        **Arguments:** `template`: shape, precision and device of what is drawn. `generator`: where the numbers
        come from; one on the CPU gives the same numbers for every device.
        **Raises:** `JostleError` if the radius is infinite.
        """
        require(
            bool(torch.isfinite(torch.as_tensor(self.radius)).all()),
            "radius must be finite to sample from the ball, but inf came",
        )
        leaves = leaves_of(template)
        out: list[Tensor] = []
        for group, box, factor in zip(
            groups(leaves, self.scope), self._boxes(leaves, x), self._scale_rows(leaves), strict=True
        ):
            rows = to_rows(group, self.scope)
            kind = rows.dtype if rows.dtype not in LOW else torch.float32
            unit = self._unit_sample(rows.shape, generator, kind).to(rows.device)
            drawn = unit * self._radius_column(group, x, box).to(kind)
            out += from_rows(drawn if factor is None else drawn * factor, group, self.scope)
        return self.project(like(template, out), x)

    def norm(self, u: Tree) -> Float[Tensor, " rows"]:
        """`||u / scale||_p`, one a row of the scope, in float64; infinite where a feature of scale 0 moved."""
        leaves = leaves_of(u)
        out = []
        for group, factor in zip(groups(leaves, self.scope), self._scale_rows(leaves), strict=True):
            rows = to_rows(group, self.scope).to(torch.float64)
            if factor is not None:
                ratio = rows / factor.to(torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
                rows = torch.where(rows == 0, 0.0, torch.where(factor > 0, ratio, torch.inf))
            out.append(torch.linalg.vector_norm(rows, ord=self._order, dim=1))
        return torch.cat(out)

    def contains(self, u: Tree, x: Tree | None = None, rtol: float = 1e-6) -> bool:
        """Whether every row of `u` is allowed, to a relative tolerance of the radius."""
        leaves = leaves_of(u)
        boxes = self._boxes(leaves, x)
        split = groups(leaves, self.scope)
        radius = torch.cat(
            [
                self._radius_column(g, x, b).expand(len(to_rows(g, self.scope)), 1)
                for g, b in zip(split, boxes, strict=True)
            ]
        ).reshape(-1)
        inside = bool((self.norm(u) <= radius * (1 + rtol) + 1e-300).all())
        for group, (lo, hi) in zip(split, boxes, strict=True):
            rows = to_rows(group, self.scope)
            slack = rtol * (1 + rows.abs())
            inside &= lo is None or bool((rows >= lo - slack).all())
            inside &= hi is None or bool((rows <= hi + slack).all())
        return inside

    # What a norm has to say -------------------------------------------------------------------------------

    _order: ClassVar[float]
    _step_reads_box: ClassVar[bool] = False

    @abstractmethod
    def _project(
        self, u: Tensor, radius: Tensor, lo: Tensor | None, hi: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        """Project the rows of `u`."""

    @abstractmethod
    def _steepest(self, g: Tensor, scale: Tensor | None, u: Tensor | None, box: Box | None) -> Tensor:
        """The steepest unit step for the rows of `g`."""

    @abstractmethod
    def _unit_sample(self, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Rows drawn uniformly from the unit ball, on the generator's device."""

    # Radii, scales and boxes as rows -----------------------------------------------------------------------

    def _radius_column(self, group: list[Tensor], x: Tree | None, box: Box) -> Tensor:
        rows = to_rows(group, self.scope)
        radius = torch.as_tensor(self.radius, dtype=torch.float64, device=rows.device).reshape(-1, 1)
        require(
            len(radius) in (1, len(rows)),
            f"radius must be one number or one a sample, but {len(radius)} came for {len(rows)} samples",
        )
        if self.relative:
            require(x is not None, "x must be given with a relative radius, but None came")
            require(
                self.scope != "tensor" or isinstance(x, Tensor), "a relative radius a tensor takes one tensor"
            )
            base = to_rows(leaves_of(x), self.scope).to(torch.float64)
            radius = radius * torch.linalg.vector_norm(base, ord=self._order, dim=1, keepdim=True)
        return radius

    def _scale_rows(self, leaves: list[Tensor]) -> list[Tensor | None]:
        split = groups(leaves, self.scope)
        if self.scale is None:
            return [None] * len(split)
        require(len(leaves) == 1, "scale takes a single tensor as perturbation, but a tree came")
        leaf = leaves[0]
        kind = leaf.dtype if leaf.dtype not in LOW else torch.float32
        try:
            full = self.scale.to(leaf.device, kind).expand(leaf.shape)
        except RuntimeError:
            raise JostleError(
                f"scale of shape {tuple(self.scale.shape)} must broadcast to the perturbation's {tuple(leaf.shape)}"
            ) from None
        return [to_rows([full], self.scope)]

    def _boxes(self, leaves: list[Tensor], x: Tree | None) -> list[Box]:
        split = groups(leaves, self.scope)
        if self.lower is None and self.upper is None:
            return [(None, None)] * len(split)
        base = [torch.zeros_like(leaf) for leaf in leaves] if x is None else leaves_of(x)
        require(
            len(base) == len(leaves),
            f"x must hold as many tensors as the perturbation's {len(leaves)}, but {len(base)} came",
        )
        lo = self._bound(self.lower, base, leaves, -1.0)
        hi = self._bound(self.upper, base, leaves, 1.0)
        empty: list[Tensor | None] = [None] * len(split)
        lows = [to_rows(g, self.scope) for g in groups(lo, self.scope)] if lo else empty
        highs = [to_rows(g, self.scope) for g in groups(hi, self.scope)] if hi else empty
        return list(zip(lows, highs, strict=True))

    def _bound(
        self, bound: float | Tensor | None, base: list[Tensor], leaves: list[Tensor], side: float
    ) -> list[Tensor]:
        if bound is None:
            return []
        out = []
        for value, leaf in zip(base, leaves, strict=True):
            if value.shape != leaf.shape:
                raise JostleError(
                    f"x must have the perturbation's shape {tuple(leaf.shape)}, but {tuple(value.shape)} came"
                )
            value = _wide(value)
            gap = bound - value if not isinstance(bound, Tensor) else _minus(bound, value, leaf.shape)
            # One pass without a mask; NaN anywhere makes the extreme NaN, which is refused as well.
            slack = float(gap.amin() if side > 0 else -gap.amax()) if gap.numel() else 0.0
            if not slack >= 0:
                raise JostleError(
                    f"x must lie inside the box [{_show(self.lower)}, {_show(self.upper)}] (without x the box "
                    f"must hold 0), but it goes beyond it by {-slack:.3g}"
                )
            out.append(gap)
        return out


def _minus(bound: Tensor, value: Tensor, shape: torch.Size) -> Tensor:
    try:
        return bound.to(value.device, value.dtype).expand(shape) - value
    except RuntimeError:
        raise JostleError(
            f"bounds must broadcast to the perturbation's {tuple(shape)}, but a tensor of shape "
            f"{tuple(bound.shape)} came"
        ) from None


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.float32) if rows.dtype in LOW else rows


def _round_inwards(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to a short format towards zero, so that what was inside stays inside."""
    short = rows.to(dtype)
    over = short.to(rows.dtype).abs() > rows.abs()
    return torch.where(over, torch.nextafter(short, torch.zeros_like(short)), short)


def _show(value: float | Tensor | None) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" if value.ndim else f"{value.item():g}"
    return str(value)
