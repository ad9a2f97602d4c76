"""How the tied model's minimiser answers a nudge of the features that it is tied to."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.collapse.minimise import Minimum
from jostle.collapse.objective import Collapsed, Objective
from jostle.collapse.schur import Schur, unstack
from jostle.core.errors import require

Method = Literal["closed", "cg", "dense", "large-beta"]


@dataclass(frozen=True, eq=False)
class Response:
    """The first-order answer of features and classifier to `H0 -> H0 + dH0`; error `O(||dH0||^2)`."""

    dH: Float[Tensor, "d N"]
    dW: Float[Tensor, "K d"]


@dataclass(frozen=True)
class Factors:
    """By what each part of a nudge is multiplied on its way through a collapsed tied layer.

    `within_in = beta/(beta+s)`, `within_out = beta/(beta+lam_h)`: deviations from the class means, inside and
    outside the span of the means. `mean_sym = beta/(beta+2g)`: means that stretch the frame. `mean_skew` and
    `mean_out` are 1: means that rotate it. `s = sqrt(lam_h/lam_w)`, `g = 2 lam_h (1-c)`,
    `c = sqrt(lam_h lam_w)`, `rho = (1-c)/s`: the squared norm of a class mean.
    """

    within_in: float
    within_out: float
    mean_sym: float
    mean_skew: float
    mean_out: float
    c: float
    s: float
    g: float
    rho: float


def factors(lam_w: float = 5e-3, lam_h: float = 5e-3, beta: float = 1.0) -> Factors:
    """By what a collapsed layer multiplies each part of a nudge, exactly, for every beta.

    `s` grows with `lam_h` and falls with `lam_w`: regularising features drives collapse, regularising the
    classifier does not. Derived here; to first order in `1/beta` it is Theorem 4.2 of Tirer, Huang &
    Niles-Weed (2023).

    **Arguments:** `lam_w`: regularisation of the classifier, above 0; its product with `lam_h` is below 1.
    `lam_h`: regularisation of the features, above 0; its product with `lam_w` is below 1. `beta`: strength of
    the tie to the given features, above 0.
    **Returns:** [`Factors`][jostle.collapse.Factors].
    **Raises:** `JostleError` for values out of range.

    >>> round(factors(lam_w=0.3, lam_h=0.2, beta=20.0).within_in, 7)
    0.9607765
    """
    model = Objective(2, 1, 2, lam_w, lam_h, beta)
    rho, (c, s, g) = model.rho, (model.c, model.s, model.g)
    require(beta > 0, f"beta must be above 0: it ties the features to given ones, but {beta} came")
    return Factors(beta / (beta + s), beta / (beta + lam_h), beta / (beta + 2 * g), 1.0, 1.0, c, s, g, rho)


def respond(model: Objective, dH0: Tensor, at: Collapsed | Minimum, method: Method | None = None) -> Response:
    """The first-order response; see `TiedModel.response`."""
    dH0 = model.checked(dH0, "dH0")
    require(model.beta > 0, "beta must be above 0: without a tie the given features do not matter")
    if method is None:
        method = "closed" if isinstance(at, Collapsed) else "cg"
    if method == "closed":
        require(
            isinstance(at, Collapsed), "method 'closed' is for exact collapse; at another minimum use 'cg'"
        )
        assert isinstance(at, Collapsed)
        return closed(model, dH0, at.R)
    require(
        method in ("cg", "dense", "large-beta"),
        f"method must be closed, cg, dense or large-beta, but {method!r} came",
    )
    schur = Schur(model, at.W, at.H)
    if method == "cg":
        dH = model.beta * schur.solve(dH0)
    elif method == "dense":
        answer = torch.linalg.solve(schur.dense(), dH0.T.reshape(-1))
        dH = model.beta * unstack(answer, dH0)
    else:
        # (S/beta)^-1 = I - (S - beta I)/beta + O(beta^-2).
        dH = 2 * dH0 - schur(dH0) / model.beta
    return Response(dH, schur.classifier_change(dH))


def closed(model: Objective, dH0: Float[Tensor, "d N"], R: Float[Tensor, "d K"]) -> Response:
    """The exact response at collapse: five factors, two products with the frame, `O(d N K)`.

    Everything but these two products is of the size of the class means, or one pass over `dH0`.
    """
    f = factors(model.lam_w, model.lam_h, model.beta)
    K, n = model.K, model.n
    R, dH0 = R.to(dH0.device), dH0.contiguous()
    # A product with ones: several times faster than a mean over short rows.
    means = (dH0.reshape(-1, n) @ dH0.new_full((n,), 1 / n)).reshape(model.d, K)
    a = R.T @ means
    outside = means - R @ a
    answer = f.mean_sym * (a + a.T) / 2 + (a - a.T) / 2
    # All of dH0 by the factor outside the span, and the means put right; then what is inside, by rank K.
    right = R @ (answer - f.within_in * a) + (1 - f.within_out) * outside
    dH = torch.add(right[:, :, None], dH0.reshape(model.d, K, n), alpha=f.within_out).reshape(model.d, -1)
    dH.addmm_(R, R.T @ dH0, alpha=f.within_in - f.within_out)
    dW = -f.s * ((1 - f.c) * answer - f.c * answer.T) @ R.T + f.s * outside.T
    return Response(dH, dW)
