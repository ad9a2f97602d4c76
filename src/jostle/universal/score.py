"""How a perturbation fools a set of images: counted once for the clean images, many times for deltas."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.statistics import wilson
from jostle.core.taps import first_tensor, frozen
from jostle.universal.perturbation import perturb

# Small batches stay in the processor's cache; on a GPU, hand over batches of your own.
BATCH = 8


def image_batches(data: Any, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches `(images, labels or None)` from a tensor, zoo images, a loader or any iterable of batches.

    **Raises:** `JostleError` if there is nothing in it, or images are not `(n, C, H, W)` floats in [0, 1].

    >>> import torch
    >>> [len(images) for images, _ in image_batches(torch.zeros(5, 1, 2, 2), size=2)]
    [2, 2, 1]
    """
    seen = 0
    for item in _source(data, size):
        images, labels = (item[0], item[1]) if isinstance(item, tuple | list) else (item, None)
        if seen == 0:
            check_images(images)
        seen += len(images)
        yield images, labels
    require(seen > 0, "data must hold at least one image, but it is empty")


def _source(data: Any, size: int) -> Iterable[Any]:
    if isinstance(data, Tensor):
        return data.split(size) if len(data) else ()
    if hasattr(data, "batches"):
        return data.batches(size)
    if isinstance(data, Iterable):
        return data
    raise JostleError(
        f"data must be a tensor of images, zoo images or batches, but {type(data).__name__} came"
    )


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images in [0, 1].

    **Raises:** `JostleError`, one sentence.
    """
    shape = tuple(images.shape)
    require(images.ndim == 4, f"images must be (n, channels, height, width), but {shape} came")
    require(
        not (shape[3] <= 4 < min(shape[1], shape[2])),
        f"images must be (n, channels, height, width), but {shape} came, which looks like channels last",
    )
    require(
        images.is_floating_point(), f"images must be floats in [0, 1], but {images.dtype} came; divide by 255"
    )
    require(bool(torch.isfinite(images).all()), "images must be finite, but NaN or infinity came")
    low, high = float(images.min()), float(images.max())
    require(
        low >= -1e-6 and high <= 1 + 1e-6,
        f"images must lie in [0, 1], but [{low:.3g}, {high:.3g}] came; is there a normalisation outside the model?",
    )


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The most likely class of each image, shape `(n,)`, or of each pixel, `(n, h, w)`.

    **Raises:** `JostleError` if the logits hold NaN.
    """
    # Channels last: convolutions on a CPU take a fifth to a half less time.
    logits = first_tensor(model(images.contiguous(memory_format=torch.channels_last)), "model")
    require(not bool(torch.isnan(logits).any()), "the model's output holds NaN")
    require(logits.ndim >= 2, f"the model must return (n, classes), but {tuple(logits.shape)} came")
    return logits.argmax(1)


class FoolingScore:
    """The share of a substitute set whose prediction changes (pixels, for a segmenter).

    The clean predictions are made once. A look stops early when even the upper end of the Wilson interval of
    what was counted so far is below the score to beat.

    **Arguments:** `model`: on [0, 1] images. `images`: of another data set than the one that is judged on.
    `shape`: (C, H, W) of the perturbation.
    """

    def __init__(self, model: nn.Module, images: Any, shape: tuple[int, int, int]) -> None:
        self.model = model
        self.clean: list[tuple[Tensor, Tensor]] = []
        with frozen(model):
            for batch, _ in image_batches(images):
                require(
                    tuple(batch.shape[1:]) == tuple(shape),
                    f"substitute images must be {tuple(shape)} like delta, but {tuple(batch.shape[1:])} came",
                )
                device = next(iter(model.parameters()), batch).device
                self.clean.append((batch.to(device), predict(model, batch.to(device))))
        self.count = sum(clean.numel() for _, clean in self.clean)

    def __call__(self, delta: Tensor, beat: float | None = None) -> float:
        """The fooling score of `delta`; early, and then below `beat`, if it cannot reach it."""
        changed = seen = 0
        for images, clean in self.clean:
            changed += int((predict(self.model, perturb(images, delta)) != clean).sum())
            seen += clean.numel()
            if beat is not None and clean.ndim == 1 and wilson(changed, seen)[1] < beat:
                break
        return changed / seen
