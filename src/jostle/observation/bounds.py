"""Certified bounds: an interval that holds the policy's action whatever a budget lets the sensors show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.observation.budget import Budget
from jostle.observation.policy import Policy

Method = Literal["ibp", "crown"]
Rows = Float[Tensor, "batch width"]


@dataclass(frozen=True, eq=False)
class ActionBounds:
    """What no attack in the budget can exceed.

    `low`, `high`: of the executed action, `(batch, actions)`; of each logit for discrete policies. `stable`: for
    these, whether no attack can change the class, `(batch,)`; else `None`.
    """

    low: Tensor
    high: Tensor
    stable: Tensor | None

    def numbers(self) -> dict[str, float]:
        """The mean width of the intervals, and the share of stable decisions."""
        out = {"mean width": float((self.high - self.low).mean())}
        return out if self.stable is None else {**out, "stable share": float(self.stable.double().mean())}


def bounds(policy: Policy, o: Any, budget: Budget, *, method: Method = "crown") -> ActionBounds:
    """The certified interval of the executed action under every perturbation in a budget.

    `ibp`: interval arithmetic, layer by layer (Gowal et al. 2018). `crown`: linear bounds carried back to the
    input, with tangents and chords of tanh and ReLU (Zhang et al. 2018), met with the intervals. An `l2` or
    `l1` budget enters by its dual norm in `crown`; `ibp` takes the box around it.

    **Arguments:** `policy`: linear, tanh and ReLU layers in a row. `o`: observations. `budget`. `method`.
    **Returns:** [`ActionBounds`][jostle.observation.ActionBounds].
    **Raises:** `JostleError` if the policy is built of other layers.

    >>> from gymnasium.spaces import Box
    >>> from jostle.observation import wrap_policy
    >>> net = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(net.weight)
    >>> policy = wrap_policy(net, observation_space=Box(0, 1, (2,)), action_space=Box(0, 2, (1,)))
    >>> found = bounds(policy, torch.tensor([[0.5, 0.5]]), Budget(0.25))
    >>> found.low, found.high
    (tensor([[0.5000]]), tensor([[1.5000]]))
    """
    layers = policy.chain
    require(
        layers is not None,
        "policy must be linear, tanh and ReLU layers in a row to be bounded; its body is something else",
    )
    assert layers is not None
    x, _ = policy.take(o)
    e = budget.radii(policy.features, policy.observation_low, policy.observation_high).to(x)
    box_low = torch.minimum(policy.observation_low.to(x), x)
    box_high = torch.maximum(policy.observation_high.to(x), x)
    ball = _Ball(x, torch.maximum(x - e, box_low), torch.minimum(x + e, box_high), e, budget.norm)
    with policy.held(), torch.no_grad():
        low, high, ranges = _intervals(layers, ball)
        if method == "crown":
            low, high, ranges = _tightened(layers, ball, low, high, ranges)
        if not policy.discrete:
            return ActionBounds(policy.execute(low), policy.execute(high), None)
        margin = _margins(layers, ball, ranges, policy.body(x).argmax(1), method, low, high)
    return ActionBounds(low, high, margin > 0)


@dataclass(frozen=True, eq=False)
class _Ball:
    """The allowed inputs: a box, and for l2 and l1 the ball inside it."""

    centre: Tensor
    low: Tensor
    high: Tensor
    e: Tensor
    norm: str

    def least(self, a: Tensor, c: Tensor) -> Tensor:
        """`min a x + c` over the inputs; `a`: `(batch, outputs, features)`, `c`: `(batch, outputs)`."""
        at_low, at_high = a.clamp_min(0) @ self.low[:, :, None], a.clamp_max(0) @ self.high[:, :, None]
        best = (at_low + at_high)[:, :, 0] + c
        if self.norm == "linf":
            return best
        dual = 2.0 if self.norm == "l2" else torch.inf
        middle = (a @ self.centre[:, :, None])[:, :, 0] + c
        return torch.maximum(best, middle - torch.linalg.vector_norm(a * self.e, ord=dual, dim=2))


Range = tuple[Tensor, Tensor]


def _intervals(layers: Sequence[nn.Module], ball: _Ball) -> tuple[Tensor, Tensor, list[Range]]:
    """Interval arithmetic; also the range before each activation."""
    low, high, ranges = ball.low, ball.high, []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            middle, half = layer((low + high) / 2), ((high - low) / 2) @ layer.weight.abs().T
            low, high = middle - half, middle + half
        else:
            ranges.append((low, high))
            low, high = layer(low), layer(high)
    return low, high, ranges


def _tightened(
    layers: Sequence[nn.Module], ball: _Ball, low: Tensor, high: Tensor, ranges: list[Range]
) -> tuple[Tensor, Tensor, list[Range]]:
    """The ranges before each activation by linear bounds, from the first to the last, then the output's."""
    tight: list[Range] = []
    places = [i for i, layer in enumerate(layers) if not isinstance(layer, nn.Linear)]
    for place, coarse in zip(places, ranges, strict=True):
        tight.append(_met(coarse, _backward(layers[:place], ball, tight, coarse[0].shape[1])))
    lo, hi = _met((low, high), _backward(layers, ball, tight, low.shape[1]))
    return lo, hi, tight


def _met(one: Range, other: Range) -> Range:
    return torch.maximum(one[0], other[0]), torch.minimum(one[1], other[1])


def _backward(layers: Sequence[nn.Module], ball: _Ball, ranges: Sequence[Range], width: int) -> Range:
    eye = torch.eye(width, dtype=ball.centre.dtype, device=ball.centre.device)
    a = eye.expand(len(ball.centre), width, width)
    return _least(layers, ball, ranges, a), -_least(layers, ball, ranges, -a)


def _least(layers: Sequence[nn.Module], ball: _Ball, ranges: Sequence[Range], a: Tensor) -> Tensor:
    """A lower bound of `a` times the layers' output, `a`: `(batch, outputs, width)`."""
    c = a.new_zeros(a.shape[:2])
    left = list(ranges)
    for layer in reversed(layers):
        if isinstance(layer, nn.Linear):
            if layer.bias is not None:
                c = c + a @ layer.bias
            a = a @ layer.weight
            continue
        relax = _tanh_lines if isinstance(layer, nn.Tanh) else _relu_lines
        (low_slope, low_at), (high_slope, high_at) = relax(*left.pop())
        up, down = a.clamp_min(0), a.clamp_max(0)
        c = c + (up @ low_at[:, :, None] + down @ high_at[:, :, None])[:, :, 0]
        a = up * low_slope[:, None, :] + down * high_slope[:, None, :]
    return ball.least(a, c)


def _margins(
    layers: Sequence[nn.Module],
    ball: _Ball,
    ranges: Sequence[Range],
    y: Tensor,
    method: Method,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """The least that the clean class leads any other by."""
    classes = low.shape[1]
    own = nn.functional.one_hot(y, classes).bool()
    lead = low.gather(1, y[:, None])[:, 0] - high.masked_fill(own, -torch.inf).amax(1)
    if method == "ibp":
        return lead
    eye = torch.eye(classes, dtype=low.dtype, device=low.device)
    pairs = _least(layers, ball, ranges, eye[y][:, None, :] - eye[None])
    return torch.maximum(lead, pairs.masked_fill(own, torch.inf).amin(1))


Line = tuple[Tensor, Tensor]
"""Slope and intercept."""


def _relu_lines(low: Tensor, high: Tensor) -> tuple[Line, Line]:
    gap = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    slope = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / gap))
    at = torch.where((low < 0) & (high > 0), -slope * low, 0.0)
    under = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, (high > -low).to(low)))
    return (under, torch.zeros_like(low)), (slope, at)


def _tanh_lines(low: Tensor, high: Tensor) -> tuple[Line, Line]:
    upper = _tanh_above(low, high)
    slope, at = _tanh_above(-high, -low)  # tanh is odd: the line below is the mirrored line above
    return (slope, -at), upper


def _tanh_above(low: Tensor, high: Tensor) -> Line:
    """A line above tanh on `[low, high]`: a chord where it is convex, a tangent where concave or mixed."""
    gap = high - low
    flat = gap < 1e-6
    chord = torch.where(flat, _slope(low), (torch.tanh(high) - torch.tanh(low)) / torch.where(flat, 1.0, gap))
    # On a mixed piece the tangent from (low, tanh low) touches at the d > 0 with the chord's slope.
    left, right = torch.zeros_like(low), high.clamp_min(0.0)
    for _ in range(60 if low.dtype == torch.float64 else 30):
        middle = (left + right) / 2
        below = _slope(middle) * (middle - low) > torch.tanh(middle) - torch.tanh(low)
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    touch = torch.where(low >= 0, (low + high) / 2, right)
    meets = _slope(high.clamp_min(0.0)) * (high - low) > torch.tanh(high) - torch.tanh(low)
    use_chord = (low < 0) & ((high <= 0) | meets) & ~flat
    slope = torch.where(use_chord, chord, _slope(torch.where(flat, high, touch)))
    point = torch.where(use_chord, low, torch.where(flat, high, touch))
    at = torch.tanh(point) - slope * point
    # Rounding, and pieces too short for their own slope: lift the line until it covers both ends.
    ends = torch.maximum(torch.tanh(low) - slope * low, torch.tanh(high) - slope * high)
    return slope, torch.maximum(at, ends)


def _slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()
