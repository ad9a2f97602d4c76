"""From measured features to the theory and back: what a tied layer would do, and which one it was."""

import math
import warnings
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from jostle.collapse.metrics import metrics
from jostle.collapse.report import NCReport
from jostle.collapse.response import Factors, factors
from jostle.core.errors import require

NEAR = 0.1
"""Above this `nc1_trace` the features are not near collapse, and the first order says little."""


@dataclass(frozen=True)
class Prediction:
    """Collapse after one tied layer, to first order in the distance from collapse.

    `nc1_trace`, `nc1`: predicted. `factors`: by what each part is multiplied. `error`: the order of the
    relative error, the relative size of what is left of collapse: `sqrt(Tr S_W / Tr S_B)`.
    """

    nc1_trace: float
    nc1: float
    factors: Factors
    error: float


def predict_nc(report: NCReport, lam_w: float, lam_h: float, beta: float) -> Prediction:
    """What a tied layer would make of measured features, in closed form.

    `nc1_trace = [(beta/(beta+s))^2 Tr S_W,in + (beta/(beta+lam_h))^2 Tr S_W,out] / Tr S_B`: deviations inside
    the span of the class means shrink by `s = sqrt(lam_h/lam_w)`, those outside by `lam_h`. Derived here. It
    depends on the features' scale only through `lam_h` and `lam_w`, which stand for a network's decay by
    analogy.

    **Arguments:** `report`: of the features that go in. `lam_w`, `lam_h`, `beta`: of the tied model.
    **Returns:** [`Prediction`][jostle.collapse.Prediction].
    **Raises:** `JostleError` for values out of range. Warns above `nc1_trace` 0.1.

    >>> import torch
    >>> h = torch.eye(3).repeat(4, 1) + 0.01 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    >>> found = predict_nc(metrics(h, torch.arange(3).repeat(4)), lam_w=0.3, lam_h=0.2, beta=1.0)
    >>> round(found.factors.within_in, 3)
    0.551
    """
    f = factors(lam_w, lam_h, beta)
    if not report.nc1_trace <= NEAR:
        warnings.warn(
            f"the features are not near collapse (nc1_trace {report.nc1_trace:.3g} is above {NEAR}): "
            "the first "
            "order says little here",
            stacklevel=2,
        )
    within = f.within_in**2 * report.within_in + f.within_out**2 * report.within_out
    return Prediction(
        within / report.between, f.within_in**2 * report.nc1, f, math.sqrt(max(report.nc1_trace, 0.0))
    )


@dataclass(frozen=True)
class Fit:
    """The tied model that takes the features of one layer to those of the next, as far as it can be told.

    `within_in`, `within_out`: by what deviations inside and outside the span of the class means are
    multiplied. `s_over_beta`, `lam_h_over_beta`: what these say. `beta`, `lam_w`, `lam_h`: the three numbers,
    `None` unless `identified`. `reason`: why not, or an empty string.
    """

    within_in: float
    within_out: float
    s_over_beta: float
    lam_h_over_beta: float
    beta: float | None
    lam_w: float | None
    lam_h: float | None
    identified: bool
    reason: str


def fit_beta(
    H_in: Float[Tensor, "N d_in"], H_out: Float[Tensor, "N d_out"], labels: Int[Tensor, " N"]
) -> Fit:
    """The effective tie between two layers, from how their within-class energies compare.

    Near collapse the two attenuations are `a = beta/(beta+s)` and `b = beta/(beta+lam_h)`, so
    `s/beta = 1/a - 1`, `lam_h/beta = 1/b - 1` and `c = lam_h/s`; the size of the class means,
    `Tr S_B = rho (K-1)/K` with `rho = (1-c)/s`, gives the scale, and so all three numbers. Derived here.

    **Arguments:** `H_in`, `H_out`: features of consecutive layers, a sample a row. `labels`: of the samples.
    Energies are taken in units of `Tr S_B`, so that layers of different width and scale compare.
    **Returns:** [`Fit`][jostle.collapse.Fit]; its `identified` says whether the three numbers mean anything.
    **Raises:** `JostleError` for features or labels that do not fit together.
    """
    require(
        len(H_in) == len(H_out),
        f"H_in and H_out must hold the same samples, but {len(H_in)} and {len(H_out)} came",
    )
    before, after = metrics(H_in, labels), metrics(H_out, labels)
    inside = _attenuation(before.within_in, before.between, after.within_in, after.between)
    outside = _attenuation(before.within_out, before.between, after.within_out, after.between)
    x, y = 1 / inside - 1 if inside > 0 else math.inf, 1 / outside - 1 if outside > 0 else math.inf
    c = y / x if x > 0 else math.nan
    reason = ""
    if not math.isfinite(inside) or not math.isfinite(outside):
        reason = "one of the layers has no variability inside or outside the span of its class means"
    elif not x > 0:
        reason = "variability inside the span does not shrink: no tied layer does that"
    elif not y > 0:
        reason = "variability outside the span does not shrink: lam_h would be 0 or below"
    elif not c < 1:
        reason = "variability shrinks more outside the span than inside: lam_h lam_w would be 1 or above"
    if reason:
        return Fit(inside, outside, x, y, None, None, None, False, reason)
    s = (1 - c) / (after.between * after.K / (after.K - 1))
    return Fit(inside, outside, x, y, s / x, c / s, c * s, True, "")


def _attenuation(in_part: float, in_between: float, out_part: float, out_between: float) -> float:
    if not (in_part > 1e-14 * in_between > 0 and out_between > 0):
        return math.nan
    return math.sqrt(out_part / out_between * in_between / in_part)
