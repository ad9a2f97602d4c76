"""What comes in: images to certify, whatever form they have, and the device by its name."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from jostle.core.errors import require

Device = Literal["auto", "cpu", "cuda"]


def device_of(name: Device) -> torch.device:
    """The device by its name; `auto` is a GPU where there is one.

    **Raises:** `JostleError` for `cuda` where there is none.
    """
    there = torch.cuda.is_available()
    require(name != "cuda" or there, "device is 'cuda', but there is none")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


class Inputs:
    """Images, labels and numbers, whatever form they came in."""

    def __init__(self, images: Any, labels: Any, names: Sequence[int] | None) -> None:
        require(
            not (isinstance(images, Tensor) and images.ndim < 2), "images must have a first axis of images"
        )
        if not isinstance(images, Tensor) and not (
            hasattr(images, "__getitem__") and hasattr(images, "__len__")
        ):
            images = list(images)
        self.images = images
        require(len(images) >= 1, "there must be at least one image to certify, but none came")
        self.names = list(range(len(images))) if names is None else [int(name) for name in names]
        require(
            len(self.names) == len(images) and len(set(self.names)) == len(images),
            f"names must be {len(images)} different numbers, one an image",
        )
        given = labels if labels is not None else getattr(images, "labels", None)
        require(
            given is None or len(given) == len(images),
            f"labels must be one an image, but {0 if given is None else len(given)} came for {len(images)} images",
        )
        self.labels = None if given is None else [int(label) for label in given]
        self.labelled = self.labels is not None or (not isinstance(images, Tensor) and _paired(images[0]))
        self.paths: tuple[str, ...] | None = getattr(images, "paths", None)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, at: int) -> Tensor:
        item = self.images[at]
        image = item[0] if _paired(item) else item
        image = torch.as_tensor(image)
        if not image.is_floating_point():
            require(
                image.dtype == torch.uint8,
                f"images must be floats in [0, 1] or 8-bit, but {image.dtype} came",
            )
            image = image.to(torch.float32) / 255
        return image.to(torch.float32)

    def label(self, at: int) -> int:
        if self.labels is not None:
            return self.labels[at]
        item = self.images[at]
        return int(item[1]) if _paired(item) else -1

    def fingerprint(self) -> str:
        """What shows that a file of certificates belongs to these images."""
        first, last = self.image(0).double(), self.image(len(self) - 1).double()
        return f"{len(self)} images, {first.sum():.6f}, {last.square().sum():.6f}"


def _paired(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2
