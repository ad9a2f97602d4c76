"""The study's exact part: the theorems on random features, and the response on a network's own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.collapse.geometry import decompose, procrustes_frame
from jostle.collapse.metrics import metrics
from jostle.collapse.objective import Collapsed
from jostle.collapse.probe import tied_to
from jostle.collapse.schur import Schur
from jostle.collapse.tied import TiedModel

SIZES = tuple(float(t) for t in np.logspace(-1, -3, 9))
"""Sizes of nudges at exact collapse, relative to the features."""

REAL_SIZES = tuple(float(t) for t in np.logspace(-2, -4, 5))
"""The same on a network's features, which are far from collapse: there the first order holds for less."""


def theorems(starts: int, draw: torch.Generator) -> dict[str, Any]:
    """Theorem 3.1 and its corollary, from random features of several shapes."""
    shapes = [(3, 6, 5), (4, 5, 8), (3, 10, 3), (5, 4, 30), (10, 3, 12)]
    falls = shrinks = spreads = lower = 0
    for i in range(starts):
        model = TiedModel(*shapes[i % len(shapes)], lam_w=0.1, lam_h=0.1 * (i % 3), beta=100.0)
        H0 = torch.randn(model.d, model.N, generator=draw, dtype=torch.float64)
        found = model.flow(H0, torch.linspace(0, 4, 40))
        falls, shrinks, spreads = falls + found.falls, shrinks + found.shrinks, spreads + found.spreads
        lower += nc1(model, model.minimise(H0).H) < nc1(model, H0)
    return {"starts": starts, "falls": falls, "shrinks": shrinks, "spreads": spreads, "lower": lower}


def response_at_collapse(draw: torch.Generator) -> dict[str, Any]:
    """Theorems 4.1 and 4.2: the prediction against the minimiser, closed forms against dense ones."""
    model = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)
    at = model.collapsed(draw)
    nudge = torch.randn(5, 12, generator=draw, dtype=torch.float64)
    nudge *= at.H.norm() / nudge.norm()
    errors, classifier = [], []
    for t in SIZES:
        found = model.minimise(at.H + t * nudge, tolerance=1e-14)
        answer = model.response(t * nudge, at)
        errors.append(float((found.H - at.H - answer.dH).norm() / at.H.norm()))
        classifier.append(float((found.W - at.W - answer.dW).norm() / at.W.norm()))
    gaps = []
    for beta in (0.5, 2.0, 20.0, 100.0):
        closed, dense = (replace(model, beta=beta).response(nudge, at, m) for m in ("closed", "dense"))
        gaps.append(float(max((closed.dH - dense.dH).abs().max(), (closed.dW - dense.dW).abs().max())))
    stairs, stair_gap = {}, 0.0
    for lam_h in (0.05, 0.1, 0.2, 0.4):
        wide = TiedModel(K=4, n=10, d=10, lam_w=2**0.5, lam_h=lam_h, beta=100.0)
        # The paper's spectrum is that of the expansion in 1/beta, and so is the operator beside it.
        for exact in (False, True):
            F = _own_block(wide, wide.collapsed(draw), exact)
            numeric = sorted(np.linalg.eigvalsh(F).tolist(), reverse=True)
            formula = [lv.value for lv in wide.spectrum("kk", exact=exact) for _ in range(lv.multiplicity)]
            stair_gap = max(stair_gap, float(np.abs(np.array(numeric) - formula).max()))
        stairs[lam_h] = (numeric, formula)
    return {
        "slope": slope(SIZES, errors),
        "slope_classifier": slope(SIZES, classifier),
        "errors": errors,
        "classifier": classifier,
        "dense_gap": max(gaps),
        "stair_gap": stair_gap,
        "stairs": stairs,
    }


def _own_block(model: TiedModel, at: Collapsed, exact: bool) -> np.ndarray:
    """How the first class's features answer a nudge of their own, as a matrix: the theorem's own."""
    size = model.d * model.n
    S = Schur(model, at.W, at.H).dense().numpy()
    F = model.beta * np.linalg.inv(S) if exact else 2 * np.eye(len(S)) - S / model.beta
    return F[:size, :size]


def response_on_features(features: Tensor, labels: Tensor, draw: torch.Generator) -> dict[str, Any]:
    """Nudge the trained network's own features, three ways, and compare the answer with the prediction.

    The features are scaled so that their class means have the size of the tied model's, as its penalties are
    in units of the features.
    """
    model, H0 = tied_to(features, labels, lam_w=0.005, lam_h=0.005, beta=1.0)
    K = model.K
    at = model.minimise(H0, tolerance=1e-13)
    scale = float(H0.abs().max()) / 7  # a 4-bit grid
    nudges = {
        "noise": torch.randn(H0.shape, generator=draw, dtype=torch.float64),
        "4-bit rounding": (H0 / scale).round() * scale - H0,
        "means only": torch.randn(model.d, K, generator=draw, dtype=torch.float64).repeat_interleave(
            model.n, 1
        ),
    }
    errors, parts, share, tiny = {}, {}, {}, {}
    frame, _ = procrustes_frame(at.H, K)
    for name, nudge in nudges.items():
        nudge = nudge * (H0.norm() / nudge.norm())
        answer = model.response(nudge, at)
        row = []
        for t in REAL_SIZES:
            guess = at.H + t * answer.dH
            moved = model.minimise(H0 + t * nudge, start=guess, tolerance=1e-13).H - at.H
            row.append(float((moved - t * answer.dH).norm() / at.H.norm()))
            if abs(t - 0.01) < 1e-6:
                tiny[name] = row[-1] * float(at.H.norm() / moved.norm())
        errors[name] = row
        share[name] = float((answer.dH.norm() / nudge.norm()) ** 2)
        parts[name] = {
            "before": dict(vars(decompose(nudge, frame))),
            "after": dict(vars(decompose(answer.dH, frame))),
        }
    return {
        "errors": errors,
        "slope": {name: slope(REAL_SIZES, row) for name, row in errors.items()},
        "share": share,
        "error_at_one_percent": tiny,
        "parts": parts,
        "nc1_trace": [nc1(model, H0), nc1(model, at.H)],
    }


def nc1(model: TiedModel, H: Tensor) -> float:
    """NC1, trace form, of features that are ordered by class."""
    return metrics(H.T, torch.arange(model.K).repeat_interleave(model.n)).nc1_trace


def slope(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """Of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
