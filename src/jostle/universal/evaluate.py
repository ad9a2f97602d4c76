"""How many images a perturbation fools: rates with intervals, dominant labels, transfer between models."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.statistics import wilson
from jostle.core.taps import frozen
from jostle.universal.perturbation import UniversalPerturbation, perturb
from jostle.universal.score import BATCH, image_batches, predict
from jostle.zoo import Images

Perturbations = Mapping[str, UniversalPerturbation | Tensor]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Fooling:
    """What a perturbation does to a classifier on a set of images.

    `rate`: share of images whose predicted class changes, against the model's *own clean prediction*, with a
    Wilson 95 % `interval`. `clean_top1`, `perturbed_top1`: accuracy, where labels are known. `dominant_label`:
    the class that most perturbed images are taken for, `dominant_share` of them; `distinct_labels` in all.
    `clean`, `perturbed`: the predictions, `(count,)`.
    """

    count: int
    rate: float
    interval: tuple[float, float]
    clean_top1: float | None
    perturbed_top1: float | None
    dominant_label: int
    dominant_share: float
    distinct_labels: int
    clean: Int[Tensor, " count"]
    perturbed: Int[Tensor, " count"]

    @classmethod
    def of(cls, clean: Tensor, perturbed: Tensor, labels: Tensor | None = None) -> "Fooling":
        """From predictions without and with the perturbation.

        >>> import torch
        >>> Fooling.of(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 5, 5, 3])).rate
        0.5
        """
        count = len(clean)
        fooled = int((clean != perturbed).sum())
        kinds, sizes = perturbed.unique(return_counts=True)
        return cls(
            count=count,
            rate=fooled / count,
            interval=wilson(fooled, count),
            clean_top1=None if labels is None else float((clean == labels).double().mean()),
            perturbed_top1=None if labels is None else float((perturbed == labels).double().mean()),
            dominant_label=int(kinds[sizes.argmax()]),
            dominant_share=float(sizes.max()) / count,
            distinct_labels=len(kinds),
            clean=clean,
            perturbed=perturbed,
        )

    def numbers(self) -> dict[str, Any]:
        """The figures without the predictions, for a record."""
        skip = ("clean", "perturbed")
        return {name: value for name, value in self.__dict__.items() if name not in skip}


def evaluate(
    model: nn.Module,
    perturbations: UniversalPerturbation | Tensor | Perturbations,
    data: Images | Tensor | Iterable[Any],
    *,
    clamp: bool = True,
    bits: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    callback: Progress | None = None,
) -> dict[str, Fooling]:
    """Fooling rates of one or many perturbations, each image decoded and predicted clean once.

    `FR = mean_x [argmax f(x + delta) != argmax f(x)]` (Moosavi-Dezfooli et al. 2017).

    **Arguments:** `model`: on [0, 1] images. `perturbations`: one as `craft` made it, or several by name.
    `data`: what is judged on: zoo images, a tensor `(n, C, H, W)`, or batches of images or of `(images,
    labels)`. `clamp`: cut `x + delta` to [0, 1]. `bits`: round `x + delta` to so many bits a channel, 1 to
    16; `None`: not at all. `transform`: a defence, applied to clean and perturbed images alike. `callback`:
    `(done, total or 0, figure)` after each batch.
    **Returns:** a [`Fooling`][jostle.universal.Fooling] a name (`"delta"` for a single one).
    **Raises:** `JostleError` for an empty set, a wrong shape or range, NaN.
    """
    named = _named(perturbations)
    clean, labels = [], []
    perturbed: dict[str, list[Tensor]] = {name: [] for name in named}
    total = len(data) if isinstance(data, Sized) else 0
    done = 0
    with frozen(model):
        for images, truth in image_batches(data, BATCH):
            device = next(iter(model.parameters()), images).device
            images = images.to(device)
            clean.append(predict(model, images if transform is None else transform(images)).cpu())
            if truth is not None:
                labels.append(truth.cpu())
            for name, delta in named.items():
                seen = perturb(images, delta, clamp=clamp, bits=bits)
                perturbed[name].append(predict(model, seen if transform is None else transform(seen)).cpu())
            done += len(images)
            if callback is not None:
                first = next(iter(named))
                rate = (torch.cat(perturbed[first]) != torch.cat(clean)).double().mean()
                callback(done, total, f"{first} fools {rate:.1%}")
    before = torch.cat(clean)
    if len(before.unique()) == 1:
        warnings.warn(
            "the model gives every clean image the same class: fooling says little here", stacklevel=2
        )
    truth = torch.cat(labels) if labels else None
    return {name: Fooling.of(before, torch.cat(after), truth) for name, after in perturbed.items()}


def fooling_rate(model: nn.Module, data: Any, delta: Tensor | UniversalPerturbation) -> float:
    """The fooling rate of one perturbation; see [`evaluate`][jostle.universal.evaluate]."""
    return next(iter(evaluate(model, delta, data).values())).rate


def transfer(
    models: Mapping[str, nn.Module],
    perturbations: Mapping[str, UniversalPerturbation],
    data: Images | Tensor | Iterable[Any],
    callback: Progress | None = None,
) -> dict[str, dict[str, Fooling]]:
    """The cross-model matrix: how each perturbation fools each model.

    **Arguments:** `models`: on [0, 1] images of one size, by name. `perturbations`: as
    `craft` made them, by name. `data`: what is judged on: zoo images, a tensor `(n, C, H, W)`, or batches.
    `callback`: `(done, total or 0, figure)` after each batch of a model.
    **Returns:** by model, then by perturbation.
    """
    images = list(image_batches(data))
    return {name: evaluate(model, perturbations, images, callback=callback) for name, model in models.items()}


def data_curve(
    craft_from: Callable[[Tensor], Tensor | UniversalPerturbation],
    model: nn.Module,
    pool: Tensor,
    counts: Sequence[int],
    data: Any,
) -> dict[int, Fooling]:
    """Fooling against the number of images a method was given (GD-UAP, claim C6).

    **Arguments:** `craft_from`: from `(n, C, H, W)` images to a perturbation. `pool`: images to take the first
    `n` of. `counts`: the values of n. `data`: what is judged on; none of it may be in the pool.
    """
    require(
        max(counts) <= len(pool),
        f"counts must not exceed the pool's {len(pool)} images, but {max(counts)} came",
    )
    found = {str(n): craft_from(pool[:n]) for n in counts}
    return {int(n): fooling for n, fooling in evaluate(model, found, data).items()}


def same_images(first: Any, second: Any) -> bool:
    """Whether two sets hold the same images: selection and judgement must not share them."""
    prints = []
    for data in (first, second):
        digest = hashlib.sha256()
        for images, _ in image_batches(data):
            digest.update(images.contiguous().numpy().tobytes())
        prints.append(digest.digest())
    return prints[0] == prints[1]


def _named(perturbations: UniversalPerturbation | Tensor | Perturbations) -> dict[str, Tensor]:
    if not isinstance(perturbations, Mapping):
        perturbations = {"delta": perturbations}
    require(len(perturbations) > 0, "perturbations must hold at least one, but none came")
    return {
        name: item.delta if isinstance(item, UniversalPerturbation) else item
        for name, item in perturbations.items()
    }
