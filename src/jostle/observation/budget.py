"""How far an attacker may move each sensor: per-feature budgets in the norms of the core."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.budgets import L1, L2, Linf
from jostle.core.budgets import Budget as Ball
from jostle.core.errors import JostleError, require
from jostle.observation.attack import Shown

Norm = Literal["linf", "l2", "l1"]
Units = Literal["observation", "range", "std"]


@dataclass(frozen=True, eq=False)
class Budget:
    """The observations that an attacker may show: `||(o' - o) / e||_p <= 1` and `o'` inside the space's box.

    `e_j` is `eps` (one number, or one a feature), 0 where `mask` is false. With `linf` it is the largest
    change of feature `j`; with `l2` and `l1` and one number it is the radius of the ball. Features with
    `e_j = 0` keep their bits.

    **Arguments:** `eps`: at least 0, a number or one a feature. `norm`: `linf`, `l2` or `l1`. `mask`: which
    features can be touched, booleans or 0/1, one a feature; `None`: all. `units`: what `eps` counts in:
    `observation` (as the policy reads it), `range` (of the observation space's box) or `std` (`scale`).
    `scale`: with `units="std"` the standard deviation of each feature.
    **Raises:** `JostleError` if `eps` is negative or NaN, the mask holds other than 0 and 1, or a shape differs.

    >>> Budget(0.05, mask=[True, False]).radii(2)
    tensor([0.0500, 0.0000], dtype=torch.float64)
    """

    eps: float | Any = 0.05
    norm: Norm = "linf"
    mask: Any = None
    units: Units = "observation"
    scale: Any = None
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        eps = torch.as_tensor(self.eps, dtype=torch.float64)
        require(
            bool((eps >= 0).all()) and bool(torch.isfinite(eps).all()),
            f"eps must be finite and at least 0, but {self.eps} came",
        )
        require(eps.ndim <= 1, f"eps must be a number or one a feature, but shape {tuple(eps.shape)} came")
        require(self.norm in ("linf", "l2", "l1"), f"norm must be linf, l2 or l1, but {self.norm!r} came")
        require(
            self.units in ("observation", "range", "std"),
            f"units must be observation, range or std, but {self.units!r} came",
        )
        require(
            (self.units == "std") == (self.scale is not None),
            "scale, the standard deviation of each feature, goes with units='std' and with nothing else",
        )
        if self.mask is not None:
            mask = torch.as_tensor(self.mask)
            good = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
            require(good, "mask must hold booleans or 0 and 1, one a feature, but other values came")

    def radii(self, features: int, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        """`e`, one number a feature in observation units, float64.

        **Arguments:** `features`: how many. `low`, `high`: the observation space's box, for `units="range"`.
        """
        e = _vector("eps", self.eps, features)
        if self.mask is not None:
            e = e * _vector("mask", self.mask, features)
        if self.units == "range":
            require(
                low is not None and high is not None and bool(torch.isfinite(high - low).all()),
                "units='range' needs an observation space with finite bounds",
            )
            assert low is not None and high is not None
            e = e * (high - low).to(e)
        if self.units == "std":
            e = e * _vector("scale", self.scale, features)
        return e

    def vector(self, policy: Any, dtype: torch.dtype) -> tuple[np.ndarray, Tensor, float]:
        """`e` for a policy's observations as an array, where it is above 0, and its largest entry; once."""
        key = (id(policy.observation_low), dtype)
        if key not in self._memo:
            e = self.radii(policy.features, policy.observation_low, policy.observation_high)
            kept = (e.to(dtype).numpy(), e.nonzero()[:, 0], float(e.max()))
            self._memo[key] = policy.observation_low, kept
        return self._memo[key][1]

    def times(self, factor: float) -> "Budget":
        """The same budget with every radius multiplied by `factor`."""
        eps = self.eps * factor if isinstance(self.eps, int | float) else torch.as_tensor(self.eps) * factor
        return Budget(eps, self.norm, self.mask, self.units, self.scale)


class _Sides(Linf):
    """`Linf` of a reach, whose parts were checked when they were made: a loop over environment steps makes many."""

    def __post_init__(self) -> None:
        pass

    def projector(self, u: Tensor, x: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Clip between the budget's sides and the box's."""
        assert x is not None and self.scale is not None and isinstance(self.lower, Tensor)
        assert isinstance(self.upper, Tensor)
        low, high = torch.maximum(self.lower - x, -self.scale), torch.minimum(self.upper - x, self.scale)
        return lambda move: torch.clamp(move, low, high)

    def sample(self, template: Tensor, generator: torch.Generator, x: Tensor | None = None) -> Tensor:
        """Uniform between the budget's sides, then clipped by the box's."""
        unit = self._unit_sample(template.shape, generator, template.dtype).to(template.device)
        assert self.scale is not None
        return self.projector(template, x)(unit * self.scale)


@dataclass(frozen=True, eq=False)
class Reach:
    """A budget around given observations: the core's ball for the features that can move, and back.

    The ball lives on the movable features alone. With `linf` its coordinates are those of the observation,
    with `l2` and `l1` the scaled ones `(o' - o) / e`. `whole`: whether every feature can move.
    """

    clean: Tensor
    norm: Norm
    active: Tensor
    e: Tensor
    low: Tensor
    high: Tensor
    largest: float
    whole: bool

    @classmethod
    def around(cls, budget: Budget, o: Tensor, low: Tensor, high: Tensor) -> "Reach":
        """The reach of `budget` around observations `(batch, features)` in a space with this box."""
        key = (id(low), id(high), o.dtype, o.device)
        if key not in budget._memo:  # an environment loop asks for the same at every step
            e = budget.radii(o.shape[1], low, high).to(o)
            active = e.nonzero().reshape(-1)
            largest = float(e.max())
            box = low.to(o)[active], high.to(o)[active]
            budget._memo[key] = (low, high), active, e[active], *box, largest, len(active) == len(e)
        _, active, e, lo, hi, largest, whole = budget._memo[key]
        some = o if whole else o[:, active]
        # Where the clean value lies outside the space already, it may stay there.
        return cls(
            o, budget.norm, active, e, torch.minimum(lo, some), torch.maximum(hi, some), largest, whole
        )

    @cached_property
    def some(self) -> Tensor:
        """The clean values of the movable features."""
        return self.clean if self.whole else self.clean[:, self.active]

    @property
    def unit(self) -> Tensor | float:
        """What one unit of the ball's coordinates is in the observation."""
        return 1.0 if self.norm == "linf" else self.e

    @property
    def centre(self) -> Tensor:
        """The clean observation in the ball's coordinates."""
        return self.some / self.unit

    @cached_property
    def ball(self) -> Ball:
        """The core's budget for perturbations of `centre`."""
        if self.norm == "linf":
            return _Sides(1.0, lower=self.low, upper=self.high, scale=self.e)
        centre = self.centre
        kind = L2 if self.norm == "l2" else L1
        return kind(
            1.0,
            lower=torch.minimum(self.low / self.e, centre),
            upper=torch.maximum(self.high / self.e, centre),
        )

    def start(self) -> Tensor:
        """The perturbation that changes nothing."""
        return torch.zeros_like(self.some)

    def shift(self, u: Tensor) -> Tensor:
        """The observations under perturbation `u`, differentiable in `u`."""
        move = u if self.norm == "linf" else u * self.e
        if self.whole:
            return self.clean + move
        return self.clean.index_add(1, self.active, move)

    def inward(self, grad: Tensor) -> Tensor:
        """The gradient in `u`, from that in the observations."""
        some = grad if self.whole else grad[:, self.active]
        return some if self.norm == "linf" else some * self.e

    def shown(self, u: Tensor, value: Tensor | None = None) -> Shown:
        """The observations under perturbation `u`, exactly inside the box; what did not move keeps its bits."""
        move = u if self.norm == "linf" else u * self.e
        out = torch.where(u == 0, self.some, torch.clamp(self.some + move, self.low, self.high))
        if not self.whole:
            full = self.clean.clone()
            full[:, self.active] = out
            out = full
        return Shown(out, self.active, None if value is None else value.cpu().numpy())


def suggest_budget(log: Any, *, quantile: float = 0.5, factor: float = 1.0) -> Budget:
    """A budget a feature that hides in its normal change from one step to the next.

    `e_j = factor * quantile_q(|o_t,j - o_t-1,j|)` over a log of clean observations (the authors scaled their
    stealth budgets so, by hand).

    **Arguments:** `log`: clean observations in time order, `(steps, features)`, at least 2 steps. `quantile`:
    in [0, 1]. `factor`: at least 0.
    **Returns:** an `linf` [`Budget`][jostle.observation.Budget] in observation units.

    >>> suggest_budget([[0.0, 5.0], [0.1, 5.0], [0.3, 5.0]], quantile=1.0).eps
    tensor([0.2000, 0.0000], dtype=torch.float64)
    """
    values = np.asarray(log, dtype=np.float64)
    require(
        values.ndim == 2 and len(values) >= 2,
        f"log must have the shape (steps, features) with at least 2 steps, but {values.shape} came",
    )
    require(bool(np.isfinite(values).all()), "log must be finite, but it holds NaN or infinity")
    require(0 <= quantile <= 1, f"quantile must lie in [0, 1], but {quantile} came")
    require(factor >= 0, f"factor must be at least 0, but {factor} came")
    change = np.quantile(np.abs(np.diff(values, axis=0)), quantile, axis=0)
    return Budget(torch.from_numpy(factor * change))


def _vector(name: str, value: Any, features: int) -> Tensor:
    vector = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if vector.ndim == 0:
        return vector.expand(features).clone()
    if tuple(vector.shape) != (features,):
        raise JostleError(
            f"{name} must be one number or have one entry for each of the {features} features, but shape "
            f"{tuple(vector.shape)} came"
        )
    return vector


def step_sizes(steps: int, first: float, decays: int, rate: float) -> list[float]:
    """The step lengths of the attack: `a_k = a_0 r^floor(k / (K / (n_d + 1)))`, in equal phases.

    >>> [f"{a:g}" for a in step_sizes(6, 0.4, 2, 0.5)]
    ['0.4', '0.4', '0.2', '0.2', '0.1', '0.1']
    """
    require(steps >= 1, f"steps must be at least 1, but {steps} came")
    require(first > 0, f"step_size must be above 0, but {first} came")
    require(decays >= 0, f"decays must be at least 0, but {decays} came")
    require(0 < rate <= 1, f"rate must lie in (0, 1], but {rate} came")
    return [first * rate ** math.floor(k * (decays + 1) / steps) for k in range(steps)]
