"""What a perturbation does to a segmenter: confusion, IoU, and agreement with the clean prediction."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import first_tensor, frozen
from jostle.universal.perturbation import perturb

Absent = Literal["skip", "zero"]
Counts = Real[Tensor, "*images classes classes"]


class Confusion:
    """A confusion matrix `h[truth, prediction]` of pixels that grows batch by batch, one an image.

    Pixels of the label `ignore` are left out.

    **Arguments:** `classes`: how many, at least 2. `ignore`: the label to leave out.

    >>> seen = Confusion(2)
    >>> seen.add(truth=torch.tensor([[0, 0, 1, 255]]), prediction=torch.tensor([[0, 1, 1, 1]]))
    >>> seen.counts
    tensor([[1, 1],
            [0, 1]])
    """

    def __init__(self, classes: int, ignore: int = 255) -> None:
        require(classes >= 2, f"classes must be at least 2, but {classes} came")
        self.classes, self.ignore = classes, ignore
        self._images: list[Tensor] = []
        self._sum = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, truth: Int[Tensor, "batch *pixels"], prediction: Int[Tensor, "batch *pixels"]) -> None:
        """Count a batch of label maps.

        **Raises:** `JostleError` if the shapes differ, or a label is neither a class nor `ignore`.
        """
        require(
            truth.shape == prediction.shape,
            f"truth and prediction must have one shape, but {tuple(truth.shape)} and "
            f"{tuple(prediction.shape)} came",
        )
        keep = truth != self.ignore
        for name, labels in (("truth", truth[keep]), ("prediction", prediction[keep])):
            if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= self.classes):
                raise JostleError(
                    f"{name} must hold labels of 0..{self.classes - 1} or {self.ignore} (left out), but "
                    f"{int(labels.min())}..{int(labels.max())} came"
                )
        image = torch.arange(len(truth), device=truth.device).reshape(-1, *[1] * (truth.ndim - 1))
        cell = (image * self.classes + truth.long()) * self.classes + prediction.long()
        size = (len(truth), self.classes, self.classes)
        found = torch.bincount(cell[keep], minlength=size[0] * size[1] * size[2]).reshape(size).cpu()
        self._images.append(found)
        self._sum = self._sum + found.sum(0)

    @property
    def per_image(self) -> Int[Tensor, "images classes classes"]:
        """One matrix an image, in the order of arrival; what a bootstrap over images resamples."""
        require(bool(self._images), "no batch has been counted yet")
        return torch.cat(self._images)

    @property
    def counts(self) -> Int[Tensor, "classes classes"]:
        """The matrix over all images."""
        return self._sum


def pixel_accuracy(counts: Counts) -> Float[Tensor, "*images"]:
    """Share of pixels that are right, `tr h / sum h`.

    >>> pixel_accuracy(torch.tensor([[3, 1], [0, 4]])).item()
    0.875
    """
    h = _matrix(counts)
    return h.diagonal(dim1=-2, dim2=-1).sum(-1) / h.sum((-2, -1))


def class_accuracy(counts: Counts) -> Float[Tensor, "*images"]:
    """Share of a class's pixels that are right, `h_cc / row_c`, averaged over the classes of the truth.

    >>> class_accuracy(torch.tensor([[3, 1], [0, 4]])).item()
    0.875
    """
    h = _matrix(counts)
    return (h.diagonal(dim1=-2, dim2=-1) / h.sum(-1)).nanmean(-1)


def iou(counts: Counts) -> Float[Tensor, "*images classes"]:
    """Intersection over union a class, `h_cc / (row_c + column_c - h_cc)`; NaN where a class is in neither.

    >>> iou(torch.tensor([[3, 1], [0, 4]]))
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    h = _matrix(counts)
    hit = h.diagonal(dim1=-2, dim2=-1)
    return hit / (h.sum(-1) + h.sum(-2) - hit)


def mean_iou(counts: Counts, absent: Absent = "skip") -> Float[Tensor, "*images"]:
    """The mean of `iou` over classes.

    **Arguments:** `absent`: a class that is in neither truth nor prediction is left out (`skip`), or counts 0
    (`zero`, as in the code released with GD-UAP).

    >>> one_missing = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    >>> round(mean_iou(one_missing).item(), 4), round(mean_iou(one_missing, absent="zero").item(), 4)
    (0.775, 0.5167)
    """
    require(absent in ("skip", "zero"), f"absent must be skip or zero, but {absent!r} came")
    each = iou(counts)
    return each.nanmean(-1) if absent == "skip" else each.nan_to_num(0.0).mean(-1)


def weighted_iou(counts: Counts) -> Float[Tensor, "*images"]:
    """Frequency-weighted IoU, `sum_c row_c IoU_c / sum h` (the released code prints pixel accuracy for it).

    >>> weighted_iou(torch.tensor([[3, 1], [0, 4]])).item()
    0.775
    """
    h = _matrix(counts)
    return (h.sum(-1) * iou(counts).nan_to_num(0.0)).sum(-1) / h.sum((-2, -1))


def gfr(metric: float, best: float = 1.0) -> float:
    """The generalised fooling rate `(R - M(y_delta, y_clean)) / R` (GD-UAP, section 3.6).

    **Arguments:** `metric`: of the perturbed prediction, with the *clean prediction* as the reference.
    `best`: the metric's best value, above 0: 1 for mIoU, pixel accuracy, top-1 agreement and the depth
    thresholds.
    **Raises:** `JostleError` if `best` is not above 0.

    >>> gfr(0.25)
    0.75
    """
    require(best > 0, f"best must be above 0, but {best} came")
    return (best - metric) / best


@dataclass(frozen=True)
class SegmentationReport:
    """Confusion matrices an image, `(images, classes, classes)`, of what a perturbation did to a segmenter.

    `clean`: clean prediction against truth. `perturbed`: perturbed prediction against truth. `agreement`:
    perturbed against clean prediction, no pixel left out.
    """

    clean: Int[Tensor, "images classes classes"]
    perturbed: Int[Tensor, "images classes classes"]
    agreement: Int[Tensor, "images classes classes"]

    def metrics(self, absent: Absent = "skip") -> dict[str, float]:
        """Pixel accuracy, class accuracy, mIoU and frequency-weighted IoU of each matrix, and generalised
        fooling rates; keys such as `clean.miou`, `agreement.pixel` and `gfr.miou`."""
        out: dict[str, float] = {}
        for name in ("clean", "perturbed", "agreement"):
            counts = getattr(self, name).sum(0)
            out[f"{name}.pixel"] = float(pixel_accuracy(counts))
            out[f"{name}.class"] = float(class_accuracy(counts))
            out[f"{name}.miou"] = float(mean_iou(counts, absent))
            out[f"{name}.weighted"] = float(weighted_iou(counts))
        out["gfr.miou"] = gfr(out["agreement.miou"])
        out["gfr.pixel"] = gfr(out["agreement.pixel"])
        return out


def evaluate_segmentation(
    model: nn.Module,
    delta: Float[Tensor, "1 channels height width"],
    batches: Iterable[tuple[Float[Tensor, "batch channels height width"], Int[Tensor, "batch height width"]]],
    *,
    ignore: int = 255,
    clamp: bool = True,
    callback: Callable[[int, int, str], None] | None = None,
) -> SegmentationReport:
    """Run a segmenter on clean and perturbed images and count both against truth and against each other.

    **Arguments:** `model`: images to logits `(batch, classes, height, width)`, or to a mapping that holds
    them under `out`, as torchvision's segmenters. `delta`: the perturbation, in the images' unit. `batches`:
    pairs of images in `[0, 1]` and masks, with `len` for the callback's total. `ignore`: the mask's label to
    leave out. `clamp`: keep the perturbed images in `[0, 1]` (the released code does not). `callback`:
    `(done, total, figure)` after each batch.
    **Raises:** `JostleError` if the output is not a map of classes, a mask holds labels beyond its classes,
    sizes differ, or no batch came.

    >>> class Threshold(nn.Module):
    ...     def forward(self, x):
    ...         return torch.cat([0.5 - x, x - 0.5], 1)
    >>> images = torch.tensor([0.2, 0.4, 0.7, 0.9]).reshape(1, 1, 2, 2)
    >>> batch = (images, (images[:, 0] > 0.5).long())
    >>> report = evaluate_segmentation(Threshold(), torch.full((1, 1, 2, 2), 0.2), [batch])
    >>> report.metrics()["clean.miou"], report.metrics()["agreement.pixel"]
    (1.0, 0.75)
    """
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    tallies: list[Confusion] = []
    with frozen(model), torch.inference_mode():
        for done, (images, masks) in enumerate(batches, start=1):
            check_delta(images, delta)
            before = _logits(model, images)
            after = _logits(model, perturb(images, delta, clamp=clamp))
            require(
                before.shape[-2:] == masks.shape[-2:],
                f"masks must have the prediction's size {tuple(before.shape[-2:])}, but "
                f"{tuple(masks.shape[-2:])} came",
            )
            if not tallies:
                tallies = [Confusion(before.shape[1], ignore) for _ in range(2)]
                tallies.append(Confusion(before.shape[1], ignore=-1))
            clean, perturbed, truth = before.argmax(1), after.argmax(1), masks.to(before.device)
            tallies[0].add(truth, clean)
            tallies[1].add(truth, perturbed)
            tallies[2].add(clean, perturbed)
            if callback is not None:
                callback(done, total, f"mIoU {float(mean_iou(tallies[1].counts)):.3f}")
    require(bool(tallies), "batches must hold at least one pair of images and masks, but none came")
    return SegmentationReport(*(tally.per_image for tally in tallies))


def bootstrap(
    counts: Int[Tensor, "images classes classes"],
    generator: torch.Generator,
    *,
    metric: Callable[[Tensor], Tensor] = mean_iou,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """A percentile interval of a metric of the summed confusion matrix, resampling images.

    **Arguments:** `counts`: one matrix an image. `generator`: on the CPU. `metric`: from matrices to numbers.
    `draws`: at least 100. `level`: in (0, 1).

    >>> same = torch.tensor([[3, 1], [0, 4]]).expand(5, 2, 2)
    >>> low, high = bootstrap(same, torch.Generator().manual_seed(0), draws=100)
    >>> round(low, 3), round(high, 3)
    (0.775, 0.775)
    """
    require(draws >= 100, f"draws must be at least 100, but {draws} came")
    require(0 < level < 1, f"level must lie in (0, 1), but {level} came")
    images = len(counts)
    picks = torch.randint(images, (draws, images), generator=generator)
    times = torch.zeros(draws, images, dtype=torch.float64).scatter_add_(
        1, picks, torch.ones(draws, images, dtype=torch.float64)
    )
    values = metric((times @ counts.double().flatten(1)).reshape(draws, *counts.shape[1:]))
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.double().quantile(edges).tolist()
    return low, high


def check_delta(images: Tensor, delta: Tensor) -> None:
    """Raise one sentence if a perturbation does not fit the images."""
    require(
        images.ndim == 4 and delta.ndim == 4 and delta.shape == (1, *images.shape[1:]),
        f"delta must have shape {(1, *images.shape[1:])} to fit the images, but {tuple(delta.shape)} came",
    )


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    output = model(images)
    logits = (
        output["out"] if isinstance(output, Mapping) and "out" in output else first_tensor(output, "output")
    )
    require(
        logits.ndim == 4 and logits.shape[1] >= 2,
        "a segmenter's output must have shape (batch, classes, height, width) with at least 2 classes, but "
        f"{tuple(logits.shape)} came" + ("; is this a classifier?" if logits.ndim == 2 else ""),
    )
    require(bool(torch.isfinite(logits).all()), "the segmenter's output holds NaN or infinite entries")
    return logits


def _matrix(counts: Tensor) -> Tensor:
    require(
        counts.ndim >= 2 and counts.shape[-1] == counts.shape[-2],
        f"counts must be square in the last two axes, but shape {tuple(counts.shape)} came",
    )
    return counts.double()
