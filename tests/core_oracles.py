"""Slow, independent solutions that the core's fast ones are held against."""

import math
from typing import Any

import torch
from torch import Tensor


def bisected(u: Tensor, radius: float, lo: Tensor, hi: Tensor, norm: str) -> Tensor:
    """The projection of one vector on ball and box, by bisection of its multiplier in float64."""
    clipped = u.clamp(lo, hi)
    if norm == "Linf":
        return u.clamp(-radius, radius).clamp(lo, hi)

    def size(w: Tensor) -> float:
        return float(w.norm() if norm == "L2" else w.abs().sum())

    def at(multiplier: float) -> Tensor:
        shrunk = u / (1 + multiplier) if norm == "L2" else u.sign() * (u.abs() - multiplier).clamp_min(0)
        return shrunk.clamp(lo, hi)

    if size(clipped) <= radius:
        return clipped
    left, right = (
        0.0,
        float(u.abs().max()) * (1 if norm == "L1" else 1e3 * math.sqrt(len(u)) / max(radius, 1e-9)),
    )
    for _ in range(300):
        middle = (left + right) / 2
        left, right = (middle, right) if size(at(middle)) > radius else (left, middle)
    return at(right)


def published_apgd(
    value: Any, gradient: Any, steepest: Any, project: Any, start: Tensor, radius: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Auto-PGD for one sample as its authors wrote it down: the best point, and the best value after each step.

    Croce & Hein, ICML 2020, algorithm 1, with the checkpoints of its section 4 and, where the text leaves it open,
    the order of their released code (the momentum after a restart points from the iterate before it).
    """
    w, shares = [], [0.0, 0.22]
    while shares[-1] <= 1:
        w.append(math.ceil(round(shares[-2] * steps, 9)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    w.append(math.ceil(round(shares[-2] * steps, 9)))
    eta, old = 2 * radius, start
    x, f = start, value(start)
    best, best_f = x, f
    grad = best_grad = gradient(x)
    trace, since, gains, reduced, mark = [f], 0, 0, True, f
    for k in range(steps):
        before, old = old, x
        z = project(x + eta * steepest(grad))
        alpha = 0.75 if k else 1.0
        x = project(x + alpha * (z - x) + (1 - alpha) * (x - before))
        new = value(x)
        grad = gradient(x)
        gains += int(new > f)
        f, since = new, since + 1
        if f > best_f:
            best, best_f, best_grad = x, f, grad
        trace.append(best_f)
        if k + 1 in w:
            halve = gains < 0.75 * since or (not reduced and mark >= best_f)
            reduced, mark, since, gains = halve, best_f, 0, 0
            if halve:
                eta, x, grad = eta / 2, best, best_grad
    return best, torch.stack(trace)
