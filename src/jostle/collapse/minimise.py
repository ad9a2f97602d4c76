"""The exact minimiser of the near-features model: alternation, then Newton's method where it is slow."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor

from jostle.collapse.objective import Objective
from jostle.collapse.schur import Schur
from jostle.core.errors import JostleError, require


@dataclass(frozen=True, eq=False)
class Minimum:
    """A stationary point of the tied model, and how well it was reached.

    `W`, `H`: the classifier and the features. `value`: the objective. `grad_norm`: of its gradient, both
    blocks. `steps`: alternations; `newton_steps`: Newton steps between them. `converged`: whether `grad_norm`
    met the tolerance. `curvature`: the smallest eigenvalue of the Hessian of `K n f` by `H` with `W` solved
    for, where asked for; above 0 at a strict local minimum (which need not be global when beta is small).
    """

    W: Float[Tensor, "K d"]
    H: Float[Tensor, "d N"]
    value: float
    grad_norm: float
    steps: int
    newton_steps: int
    converged: bool
    curvature: float | None = None


def minimise(
    model: Objective,
    H0: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-10,
    max_steps: int = 10_000,
    newton: bool = True,
    curvature: bool = False,
) -> Minimum:
    """Block-alternating exact minimisation, each block in closed form, then Newton steps if it is slow."""
    H0 = model.checked(H0, "H0")
    require(tolerance > 0, f"tolerance must be above 0, but {tolerance} came")
    require(max_steps >= 1, f"max_steps must be at least 1, but {max_steps} came")
    require(
        model.lam_h + model.beta > 0,
        "lam_h + beta must be above 0 to minimise: with both 0 there is no minimum",
    )
    goal = tolerance * max(1.0, float(H0.norm())) / model.N
    H = H0 if start is None else model.checked(start, "start")
    W = model.classifier(H)
    size = best = _size(model, W, H, H0)
    steps = newton_steps = stalled = 0
    lowest = math.inf
    patience, next_try = 10, 10
    while size > goal and steps < max_steps and stalled < 20:
        H = model.tied(W, H0)
        W = model.classifier(H)
        before, size = size, _size(model, W, H, H0)
        steps += 1
        # Alternation converges linearly: where it gains less than a factor of 2 a step, try Newton.
        if newton and steps >= next_try and goal < size and size > 0.5 * before:
            found = _newton(model, W, H, H0, size)
            if found is None:
                patience *= 2
                next_try = steps + patience
            else:
                W, H, size = found
                newton_steps += 1
        if size <= 0.999 * best:
            stalled = 0
        else:
            # Past a saddle the gradient grows while the objective falls; at the floor of rounding neither improves.
            value = model.value(W, H, H0)
            stalled = 0 if value < lowest * (1 - 1e-14) else stalled + 1
            lowest = min(lowest, value)
        best = min(best, size)
    return Minimum(
        W=W,
        H=H,
        value=model.value(W, H, H0),
        grad_norm=size,
        steps=steps,
        newton_steps=newton_steps,
        converged=size <= goal,
        curvature=_curvature(model, W, H) if curvature else None,
    )


def _newton(
    model: Objective, W: Tensor, H: Tensor, H0: Tensor, size: float
) -> tuple[Tensor, Tensor, float] | None:
    """One Newton step of the features with the classifier solved for, if it brings the minimum nearer."""
    try:
        step = Schur(model, W, H).solve(-model.N * model.grad(W, H, H0)[1], rtol=1e-6)
    except JostleError:  # not convex here: too far from the minimum
        return None
    candidate = H + step
    head = model.classifier(candidate)
    reached = _size(model, head, candidate, H0)
    # Against a rise the value decides: Newton's method would also run to a saddle.
    lower = model.value(head, candidate, H0) <= model.value(W, H, H0) * (1 + 1e-12)
    return (head, candidate, reached) if reached < 0.5 * size and lower else None


def _size(model: Objective, W: Tensor, H: Tensor, H0: Tensor) -> float:
    by_w, by_h = model.grad(W, H, H0)
    return float((by_w.square().sum() + by_h.square().sum()).sqrt())


def _curvature(model: Objective, W: Tensor, H: Tensor) -> float:
    schur = Schur(model, W, H)
    if H.numel() <= 200:  # ARPACK needs room
        columns = [schur.matvec(row) for row in np.eye(H.numel())]
        return float(np.linalg.eigvalsh(np.stack(columns)).min())
    start = np.random.default_rng(0).standard_normal(H.numel())
    return float(eigsh(schur.linear_operator(), k=1, which="SA", v0=start, return_eigenvectors=False)[0])
