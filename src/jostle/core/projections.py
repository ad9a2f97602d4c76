"""Exact Euclidean projections on balls cut with boxes, row by row, with no loop over rows or coordinates.

Every function takes `u` (rows, entries), a radius a row (rows, 1), and bounds `lo <= 0 <= hi` on the
perturbation that broadcast with `u`, or `None` where there is no box. Sums run in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.columns import at_least, at_most, cast, holds, larger, length, number

Rows = Float[Tensor, "rows entries"]
Column = Float[Tensor, "#rows 1"]
Bound = Float[Tensor, "#rows #entries"] | None

_TINY = torch.finfo(torch.float64).tiny
_MANY = 512


def linf(u: Rows, radius: Column, lo: Bound, hi: Bound, scale: Bound = None) -> Rows:
    """Project on `{|u_i| <= radius * scale_i} ∩ [lo, hi]`: a clip.

    >>> import torch
    >>> linf(torch.tensor([[3.0, -0.5]]), torch.ones(1, 1), None, None)
    tensor([[ 1.0000, -0.5000]])
    """
    reach = radius if scale is None else radius * scale
    low, high = -reach, reach
    if lo is not None:
        low = torch.maximum(low, lo)
    if hi is not None:
        high = torch.minimum(high, hi)
    return torch.clamp(u, low, high)


def l2(u: Rows, radius: Column, lo: Bound, hi: Bound) -> Rows:
    """Project on `{||u||_2 <= radius} ∩ [lo, hi]`: `clip(s u, lo, hi)` with the `s` that meets the radius.

    In `q = s^2` the squared norm `sum min(q u^2, b^2)` (`b` the bound on the side of `u`) is concave,
    increasing and piecewise linear, so Newton's method from `s = radius / ||u||`, which is on the left of the
    root, climbs to it in finitely many steps: one or two, as a rule. Where entries are many and hardly any rests on
    a bound its first step is along the chord from the origin: also from the left, and without a pass for the slope.

    >>> import torch
    >>> box = torch.tensor([[1.0, 10.0]])
    >>> l2(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]]), -10 * box, box)
    tensor([[1.0000, 1.7321]])
    """
    if u.requires_grad and torch.is_grad_enabled():
        return _l2_in_graph(u, radius, lo, hi)
    boxed = lo is not None or hi is not None
    reach, size = number(radius), length(u)
    if holds(size <= reach):
        return torch.clamp(u, lo, hi) if boxed else u
    scale = at_most(reach / at_least(size, _TINY), 1.0)
    if not boxed:
        return u * cast(scale, u)
    enough = (1 - 8 * torch.finfo(u.dtype).eps) * reach
    v = w = None
    turn = 0
    while True:
        v = torch.mul(u, cast(scale, u), out=v)
        w = torch.clamp(v, lo, hi, out=w)
        size = length(w)
        if holds((size >= enough) | (scale == 1.0)):
            return w
        chord = turn == 0 and u.shape[1] >= _MANY and holds(size > 0.99 * reach)
        held = 0.0 if chord else length(v.sub_(w).sign_().mul_(w))  # of the entries that rest on a bound
        gap, free = reach * reach - held * held, size * size - held * held
        better = at_most(scale * (at_least(gap, 0.0) / at_least(free, _TINY)) ** 0.5, 1.0)
        if holds(better <= scale):
            return w
        scale, turn = larger(better, scale), turn + 1


def _l2_in_graph(u: Rows, radius: Column, lo: Bound, hi: Bound) -> Rows:
    """`l2` with its derivative: what rests on no bound is rescaled so that the whole meets the radius."""
    with torch.no_grad():
        inside = torch.clamp(u, lo, hi) if lo is not None or hi is not None else u
        out = l2(u, radius, lo, hi)
        outside = (inside != out).any(1, keepdim=True)
        free = (out != _full(lo, u, -torch.inf)) & (out != _full(hi, u, torch.inf))
        rest = radius.square() - _sum(torch.where(free, 0.0, out).square())
        rest = torch.where(outside, rest, 1.0)
    norm = _sum(torch.where(free, u, 0.0).square())
    scale = torch.where(outside, (rest / torch.where(outside, norm, 1.0)).sqrt(), 1.0)
    return torch.where(free, u * scale.to(u.dtype), out)


def l2_scaled(u: Rows, radius: Column, lo: Bound, hi: Bound, scale: Float[Tensor, "#rows #entries"]) -> Rows:
    """Project on `{||u / scale||_2 <= radius} ∩ [lo, hi]`, an ellipsoid cut with a box.

    The answer is `clip(u d^2 / (d^2 + lam), lo, hi)` with the `lam >= 0` that meets the radius; there is no
    closed form, so `lam` is bisected in float64 until its bracket cannot shrink. A scale of 0 keeps an entry
    at 0.

    >>> import torch
    >>> l2_scaled(torch.tensor([[3.0, 3.0]]), torch.ones(1, 1), None, None, torch.tensor([[1.0, 0.0]]))
    tensor([[1., 0.]])
    """
    wide = u.to(torch.float64)
    d2 = scale.to(torch.float64).square().expand_as(wide)
    low = torch.full((1, 1), -torch.inf, dtype=torch.float64, device=u.device) if lo is None else lo.double()
    high = torch.full((1, 1), torch.inf, dtype=torch.float64, device=u.device) if hi is None else hi.double()
    target = radius.to(torch.float64).square()

    def at(lam: Tensor) -> Tensor:
        return torch.where(d2 > 0, torch.clamp(wide * (d2 / (d2 + lam).clamp_min(1e-300)), low, high), 0.0)

    def excess(w: Tensor) -> Tensor:
        return _sum(torch.where(d2 > 0, w.square() / d2.clamp_min(1e-300), 0.0)) - target

    left = torch.zeros(len(u), 1, dtype=torch.float64, device=u.device)
    start = at(left)
    outside = excess(start) > 0
    # ||u d / (d^2 + lam)|| <= ||u d|| / lam, so this lam is always large enough.
    right = _sum(wide.square() * d2).sqrt() / target.sqrt().clamp_min(1e-300)
    for _ in range(200):
        middle = 0.5 * (left + right)
        over = excess(at(middle)) > 0
        left, right = torch.where(over, middle, left), torch.where(over, right, middle)
        if bool(((right - left) <= 1e-16 * right).all()):
            break
    return torch.where(outside, at(right), start).to(u.dtype)


def l1(u: Rows, radius: Column, lo: Bound, hi: Bound) -> Rows:
    """Project on `{||u||_1 <= radius} ∩ [lo, hi]`: soft thresholding by the `tau` that meets the radius.

    Without a box, `tau` by Michelot's finite fixed point (J. Optim. Theory Appl. 50, 1986), the same as the
    sorted form of Duchi et al. (ICML 2008); with one, by a sort of the kinks of the piecewise linear norm.

    >>> import torch
    >>> l1(torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[2.0]]), None, None)
    tensor([[ 1.5000, -0.5000,  0.0000,  0.0000]])
    """
    boxed = lo is not None or hi is not None
    inside = torch.clamp(u, lo, hi) if boxed else u
    outside = _sum(inside.abs()) > radius
    if not bool(outside.any()):
        return inside
    size = u.abs().to(torch.float64)
    target = radius.to(torch.float64)
    if boxed:
        tau = _boxed_tau(size, torch.where(u > 0, _full(hi, u, torch.inf), -_full(lo, u, -torch.inf)), target)
    else:
        tau = _michelot_tau(size, target)
    shrunk = (u.sign() * (size - tau).clamp_min(0.0)).to(u.dtype)
    return torch.where(outside, torch.clamp(shrunk, lo, hi) if boxed else shrunk, inside)


def _michelot_tau(size: Tensor, target: Tensor) -> Tensor:
    target = torch.where(torch.isinf(target), 0.0, target)  # such rows are inside; their tau is not used
    tau = ((_sum(size) - target) / size.shape[1]).clamp_min(0.0)
    count = None
    while True:
        above = size > tau
        # The largest entry stays: with a radius of zero nothing lies above tau.
        now = above.sum(1, keepdim=True).clamp_min(1)
        total = torch.where(
            above.any(1, keepdim=True), _sum(torch.where(above, size, 0.0)), size.amax(1, True)
        )
        tau = torch.maximum(tau, (total - target) / now)
        if count is not None and bool((now == count).all()):
            return tau
        count = now


def _boxed_tau(size: Tensor, bound: Tensor, target: Tensor) -> Tensor:
    starts = (size - bound).clamp_min(0.0)  # below this tau the entry rests on its bound
    kinks, order = torch.cat([starts, size], dim=1).sort(dim=1)
    turn = torch.cat([-torch.ones_like(size), torch.ones_like(size)], dim=1).gather(1, order)
    slope = turn.cumsum(1)
    first = _sum(torch.minimum(size, bound))
    drop = torch.cat([kinks[:, :1] * 0, (slope[:, :-1] * kinks.diff(dim=1)).cumsum(1)], dim=1)
    norm = first + drop
    last = ((norm > target).sum(1, keepdim=True) - 1).clamp_min(0)
    down = -slope.gather(1, last)
    step = torch.where(down > 0, (norm.gather(1, last) - target) / down.clamp_min(1.0), 0.0)
    return kinks.gather(1, last) + step


def _sum(rows: Tensor) -> Tensor:
    return rows.sum(1, keepdim=True, dtype=torch.float64)


def _full(bound: Bound, u: Tensor, missing: float) -> Tensor:
    return torch.full_like(u, missing) if bound is None else bound.to(u.dtype).expand_as(u)
