"""Exact Euclidean projections on balls cut with boxes, row by row, with no loop over rows or coordinates.

Every function takes `u` (rows, entries), a radius a row (rows, 1), and bounds `lo <= 0 <= hi` on the
perturbation that broadcast with `u`, or `None` where there is no box. Sums run in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "rows entries"]
Column = Float[Tensor, "#rows 1"]
Bound = Float[Tensor, "#rows #entries"] | None


def linf(u: Rows, radius: Column, lo: Bound, hi: Bound, scale: Bound = None) -> Rows:
    """Project on `{|u_i| <= radius * scale_i} ∩ [lo, hi]`: a clip.

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
    """Project on `{||u||_2 <= radius} ∩ [lo, hi]`.

    With `w(q) = clip(u sqrt(q), lo, hi)` the norm `F(q) = sum min(q u^2, b^2)` (`b` the bound on the side of
    `u`) is concave, increasing and piecewise linear in `q`, so Newton's method from the left ends on the exact
    root after finitely many steps.

    >>> box = torch.tensor([[1.0, 10.0]])
    >>> l2(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]]), -10 * box, box)
    tensor([[1.0000, 1.7321]])
    """
    boxed = lo is not None or hi is not None
    inside = torch.clamp(u, lo, hi) if boxed else u
    norm = _norm(inside)
    if bool((norm <= radius).all()):
        return inside
    if not boxed:
        factor = torch.where(norm > radius, radius / norm.clamp_min(torch.finfo(norm.dtype).tiny), 1.0)
        return u * factor.to(u.dtype)
    bound = torch.where(u > 0, _full(hi, u, torch.inf), _full(lo, u, -torch.inf))
    square, bound = u.square(), bound.square()
    target = radius.to(torch.float64).square()
    q = target / _sum(square).clamp_min(torch.finfo(torch.float64).tiny)
    while True:
        clamped = square * q.to(u.dtype) > bound
        rest = (target - _sum(torch.where(clamped, bound, 0.0))).clamp_min(0.0)
        free = _sum(torch.where(clamped, 0.0, square))
        better = torch.where(free > 0, rest / free.clamp_min(torch.finfo(torch.float64).tiny), q)
        if bool((better <= q * (1 + 1e-15)).all()):
            break
        q = torch.maximum(better, q)
    # Only rows beyond the ball move: within it the clip alone is the projection.
    return torch.where(norm > radius, torch.clamp(u * q.sqrt().to(u.dtype), lo, hi), inside)


def l2_scaled(u: Rows, radius: Column, lo: Bound, hi: Bound, scale: Float[Tensor, "#rows #entries"]) -> Rows:
    """Project on `{||u / scale||_2 <= radius} ∩ [lo, hi]`, an ellipsoid cut with a box.

    The answer is `clip(u d^2 / (d^2 + lam), lo, hi)` with the `lam >= 0` that meets the radius; there is no
    closed form, so `lam` is bisected in float64 until its bracket cannot shrink. A scale of 0 keeps an entry
    at 0.

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


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)


def _full(bound: Bound, u: Tensor, missing: float) -> Tensor:
    return torch.full_like(u, missing) if bound is None else bound.to(u.dtype).expand_as(u)
