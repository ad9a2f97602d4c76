"""The tied model asked about somebody's own features: its flow, what of a nudge survives, a sweep of its penalties."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.collapse.flow import Flow
from jostle.collapse.geometry import Energies, bank, class_means, decompose, procrustes_frame
from jostle.collapse.layers import FEATURES, collect
from jostle.collapse.metrics import metrics
from jostle.collapse.networks import standardise
from jostle.collapse.report import NCReport
from jostle.collapse.tied import TiedModel
from jostle.core.errors import require
from jostle.files import write_json
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
Data = Images | tuple[Tensor, Tensor]
FAR = 0.2
"""From this relative error on a prediction is none."""
PARTS = ("within_in", "within_out", "mean_out", "mean_sym", "mean_skew")


def tied_to(
    features: Float[Tensor, "N d"],
    labels: Int[Tensor, " N"],
    *,
    lam_w: float = 5e-3,
    lam_h: float = 5e-3,
    beta: float = 1.0,
    per_class: int | None = None,
) -> tuple[TiedModel, Float[Tensor, "d Kn"]]:
    """A tied model for measured features, and these features as it wants them.

    The penalties are in units of the features, so the features are scaled until `Tr S_B` is that of exact
    collapse, `rho (K-1)/K`; no metric of collapse but `within` and `between` depends on it.

    **Arguments:** `features`, `labels`: a sample a row. `lam_w`, `lam_h`, `beta`: of the
    [`TiedModel`][jostle.collapse.TiedModel]. `per_class`: samples a class, the first ones; by default, and at
    most, as many as the smallest class has.
    **Returns:** `(model, H0)`.
    **Raises:** `JostleError` for penalties without exact collapse, an empty class, class means that are equal.

    >>> h = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    >>> model, H0 = tied_to(h, torch.arange(9) % 3, per_class=2)
    >>> (model.K, model.n, model.d), tuple(H0.shape)
    ((3, 2, 4), (4, 6))
    """
    require(per_class is None or per_class >= 1, f"per_class must be at least 1, but {per_class} came")
    require(
        len(features) == len(labels) > 0,
        f"features and labels must be equally long and not empty, but {len(features)} and {len(labels)} came",
    )
    counts = labels.bincount()
    n = int(counts.min()) if per_class is None else min(int(counts.min()), per_class)
    require(n > 0, f"every class must have a sample, but the counts are {counts.tolist()[:20]}")
    kept = torch.cat([(labels == k).nonzero().flatten()[:n] for k in range(len(counts))])
    H0 = bank(features[kept], labels[kept])
    model = TiedModel(len(counts), n, len(H0), lam_w, lam_h, beta)
    means = class_means(H0, model.K)
    between = float((means - means.mean(1, keepdim=True)).square().sum()) / model.K
    require(between > 0, "the class means must differ, but all are equal")
    return model, H0 * (model.rho * (model.K - 1) / model.K / between) ** 0.5


def flow(
    data: Images | tuple[Tensor, Tensor],
    model: nn.Module | None = None,
    *,
    layer: str = FEATURES,
    per_class: int = 20,
    lam_w: float = 5e-3,
    lam_h: float = 5e-3,
    until: float = 3.0,
    points: int = 31,
) -> Flow:
    """How features collapse along the central path: the flow that a stack of ever weaker ties follows.

    Theorem 3.1 of Tirer, Huang & Niles-Weed (2023), on features of your own; see
    [`TiedModel.flow`][jostle.collapse.TiedModel.flow].

    **Arguments:** `data`: labelled images. `model`: whose features; without it the pixels, each channel
    brought to mean 0 and deviation 1. `layer`: of the model, by name; by default the input of its head.
    `per_class`: samples a class, the first ones, at most as many as the rarest has. `lam_w`: regularisation
    of the classifier, above 0; its product with `lam_h` is below 1. `lam_h`: regularisation of the features,
    above 0; its product with `lam_w` is below 1. `until`: the last time of the flow, above 0. `points`: how
    many times, at least 2, evenly spaced from 0.
    **Returns:** [`Flow`][jostle.collapse.Flow].

    >>> images = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> flow((images, torch.arange(30) % 3)).falls
    True
    """
    require(0 < until < float("inf"), f"until must be above 0 and finite, but {until} came")
    require(points >= 2, f"points must be at least 2, but {points} came")
    tied, H0 = tied_to(*_features(data, model, layer), lam_w=lam_w, lam_h=lam_h, per_class=per_class)
    return tied.flow(H0, torch.linspace(0, until, points, dtype=torch.float64, device="cpu"))


@dataclass(frozen=True, eq=False)
class Survival:
    """What of a nudge comes through a tied layer.

    `size`: of the nudge, relative to the features. `before`, `after`: its energy and that of the layer's
    answer, in the five parts of [`Energies`][jostle.collapse.Energies] about the nearest collapsed
    configuration. `share`: of the energy that survives, `||dH||^2 / ||dH0||^2`. `error`: of the predicted
    answer against the minimiser that was found, relative to the latter. `given`, `tied`: `nc1_trace` of the
    features, and of the layer's.
    """

    size: float
    before: Energies
    after: Energies
    share: float
    error: float
    given: float
    tied: float

    def numbers(self) -> dict[str, Any]:
        """The surviving share of the whole and of each part that the nudge has."""
        parts = {
            name: getattr(self.after, name) / value
            for name in PARTS
            if (value := getattr(self.before, name)) > 1e-12 * self.before.total
        }
        rest = {"size": self.size, "error": self.error, "nc1_given": self.given, "nc1_tied": self.tied}
        return {"share": self.share, **{f"share.{name}": value for name, value in parts.items()}, **rest}

    def save(self, path: Path) -> None:
        """Write everything as JSON, whole or not at all."""
        write_json(path, asdict(self))


def response(
    data: Images | tuple[Tensor, Tensor],
    model: nn.Module | None = None,
    *,
    layer: str = FEATURES,
    per_class: int = 20,
    lam_w: float = 5e-3,
    lam_h: float = 5e-3,
    beta: float = 10.0,
    size: float = 0.01,
    bits: int | None = None,
    generator: torch.Generator,
) -> Survival:
    """Nudge features by noise or by rounding, and see what of it a tied layer lets through.

    Predicted by Theorem 4.1 of Tirer, Huang & Niles-Weed (2023) at the minimiser for these features, and
    compared with the minimiser for the nudged ones.

    **Arguments:** `data`: labelled images. `model`: whose features; without it the pixels, each channel
    brought to mean 0 and deviation 1. `layer`: of the model, by name; by default the input of its head.
    `per_class`: samples a class, the first ones, at most as many as the rarest has. `lam_w`: regularisation
    of the classifier, above 0; its product with `lam_h` is below 1. `lam_h`: regularisation of the features,
    above 0; its product with `lam_w` is below 1. `beta`: strength of the tie to the given features, above 0.
    `size`: of Gaussian noise, relative to the features, above 0. `bits`: round the features to so many, 2 to
    32, symmetrically, instead; None adds noise. `generator`: draws the noise, on the CPU.
    **Returns:** [`Survival`][jostle.collapse.Survival]; its `error` says whether the nudge was small enough. Warns
    where it is above 0.2.
    **Raises:** `JostleError` for values out of range, fewer dimensions than classes, or a `beta` for which the
    minimiser was not reached.

    >>> images = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> found = response((images, torch.arange(30) % 3), beta=5.0, generator=torch.Generator().manual_seed(1))
    >>> 0 < found.share < 1, found.error < 0.05
    (True, True)
    """
    require(0 < size < float("inf"), f"size must be above 0 and finite, but {size} came")
    require(bits is None or 2 <= bits <= 32, f"bits must be 2 to 32, but {bits} came")
    require(
        beta > 0, f"beta must be above 0: without a tie the given features do not matter, but {beta} came"
    )
    tied, H0 = tied_to(
        *_features(data, model, layer), lam_w=lam_w, lam_h=lam_h, beta=beta, per_class=per_class
    )
    if bits is None:
        nudge = torch.randn(H0.shape, generator=generator, dtype=torch.float64, device="cpu").to(H0.device)
        nudge *= size * H0.norm() / nudge.norm()
    else:
        step = H0.abs().max() / (2 ** (bits - 1) - 1)
        nudge = (H0 / step).round() * step - H0
    # To the floor of rounding, which lies below what is required.
    at = tied.minimise(H0, tolerance=1e-13)
    goal = 1e-10 * max(1.0, float(H0.norm())) / tied.N
    require(at.grad_norm <= goal, f"the minimiser was not reached for beta = {beta:g}: raise beta or lam_w")
    answer = tied.response(nudge, at)
    moved = tied.minimise(H0 + nudge, start=at.H + answer.dH, tolerance=1e-13).H - at.H
    error = float((moved - answer.dH).norm() / moved.norm())
    if error > FAR:
        warnings.warn(
            f"the prediction is off by {error:.0%}: the nudge is too large for the first order here; "
            "make it smaller, or raise beta",
            stacklevel=2,
        )
    frame, _ = procrustes_frame(at.H, tied.K)
    return Survival(
        size=float(nudge.norm() / H0.norm()),
        before=decompose(nudge, frame),
        after=decompose(answer.dH, frame),
        share=float((answer.dH.norm() / nudge.norm()) ** 2),
        error=error,
        given=_report(tied, H0).nc1_trace,
        tied=_report(tied, at.H).nc1_trace,
    )


@dataclass(frozen=True, eq=False)
class Sweep:
    """Collapse of a tied layer's features for each choice of penalties.

    `given`: the features that go in. `settings`: `(lam_w, lam_h, beta)`, a row each. `reports`: of the
    minimisers. `converged`: whether each was reached.
    """

    given: NCReport
    settings: list[tuple[float, float, float]]
    reports: list[NCReport]
    converged: list[bool]

    def rows(self) -> list[dict[str, Any]]:
        """A row a choice: its penalties and the metrics."""
        shown = ("nc1_trace", "nc1", "nc2", "nc3", "within", "between")
        return [
            {
                **dict(zip(("lam_w", "lam_h", "beta"), chosen, strict=True)),
                **{name: getattr(report, name) for name in shown},
                "converged": done,
            }
            for chosen, report, done in zip(self.settings, self.reports, self.converged, strict=True)
        ]

    def numbers(self) -> dict[str, Any]:
        """`nc1_trace` of the features, and of the minimiser for each choice, by the penalties."""
        names = [
            f"lam_w={w:g} lam_h={h:g} beta={b:g}" + ("" if done else " (not reached)")
            for (w, h, b), done in zip(self.settings, self.converged, strict=True)
        ]
        values = [report.nc1_trace for report in self.reports]
        return {"given": self.given.nc1_trace, **dict(zip(names, values, strict=True))}

    def save(self, path: Path) -> None:
        """Write the rows as JSON, whole or not at all."""
        write_json(path, {"given": self.given.record(), "rows": self.rows()})


def sweep(
    data: Images | tuple[Tensor, Tensor],
    model: nn.Module | None = None,
    *,
    layer: str = FEATURES,
    per_class: int = 20,
    lam_w: tuple[float, ...] = (5e-3,),
    lam_h: tuple[float, ...] = (5e-3,),
    beta: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0),
    callback: Progress | None = None,
) -> Sweep:
    """Which penalty drives collapse: the exact minimiser of the tied model for every choice of the three.

    The features are scaled once, for the first `lam_w` and `lam_h`, so that all choices see the same.

    **Arguments:** `data`: labelled images. `model`: whose features; without it the pixels, each channel
    brought to mean 0 and deviation 1. `layer`: of the model, by name; by default the input of its head.
    `per_class`: samples a class, the first ones, at most as many as the rarest has. `lam_w`: regularisations
    of the classifier, above 0, to combine. `lam_h`: regularisations of the features, at least 0 and the first
    above, to combine. `beta`: strengths of the tie to the given features, at least 0, to combine. `callback`:
    `(done, choices, figure)` after each.
    **Returns:** [`Sweep`][jostle.collapse.Sweep].
    **Raises:** `JostleError` for values out of range.

    >>> images = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> found = sweep((images, torch.arange(30) % 3), beta=(1.0, 10.0))
    >>> near, far = (report.nc1_trace for report in found.reports)
    >>> near < far < found.given.nc1_trace
    True
    """
    choices = list(product(lam_w, lam_h, beta))
    require(len(choices) > 0, "lam_w, lam_h and beta must each hold at least one value")
    features, labels = _features(data, model, layer)
    tied, H0 = tied_to(features, labels, lam_w=lam_w[0], lam_h=lam_h[0], per_class=per_class)
    models = [replace(tied, lam_w=w, lam_h=h, beta=b) for w, h, b in choices]
    found = Sweep(_report(tied, H0), choices, [], [])
    for i, each in enumerate(models):
        at = each.minimise(H0)
        found.reports.append(_report(each, at.H, at.W))
        found.converged.append(at.converged)
        if callback is not None:
            callback(i + 1, len(models), f"NC1 {found.reports[-1].nc1_trace:.3g}")
    return found


def _features(data: Data, model: nn.Module | None, layer: str) -> tuple[Tensor, Tensor]:
    if model is not None:
        return collect(model, data, layer)
    require(layer == FEATURES, f"layer needs a model to belong to, but only {layer!r} came")
    images, labels = data.tensors() if isinstance(data, Images) else data
    return standardise(images.float()).flatten(1), labels


def _report(model: TiedModel, H: Tensor, W: Tensor | None = None) -> NCReport:
    labels = torch.arange(model.K, device=H.device).repeat_interleave(model.n)
    return metrics(H.T, labels, W)
