"""A set of labelled images, read when they are asked for."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jostle.core.errors import JostleError, require


class Source(ABC):
    """Where images come from: memory, a folder, a zip archive. Picklable, for the workers of a DataLoader."""

    #: One path an image, or None if they are not files.
    paths: tuple[str, ...] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Decode one image, in a mode of 8-bit grey, 8-bit RGB or float grey."""

    @abstractmethod
    def content(self, index: int) -> str:
        """An id of one image's content, the same wherever a copy of it lies."""


class Images(Dataset[tuple[Tensor, int]]):
    """Labelled images as a map-style data set: `images[i]` is a float image in [0, 1] and its class index.

    Made by [`load_data`][jostle.zoo.load_data]. Goes into a `torch.utils.data.DataLoader` as it is, with any
    number of workers; `batches` serves the common case in order and without a loader.

    **Arguments:** `source`: reads the images. `labels`: one class index an image. `classes`: the names of the
    classes. `name`: what to call the set. `size`: side of the square that each image is brought to: the short
    side goes to `int(size / 0.875)` (to `size` where it is not longer than that already), bicubic with
    antialiasing, and the centre is cropped, as is usual for evaluation on ImageNet; None keeps the images'
    own sizes. `groups`: one number an image of what it was cut from. `where`: the indices that belong to the
    set, all by default.
    **Raises:** `JostleError` if `size` is below 1.

    >>> from jostle.zoo import load_data
    >>> digits = load_data("digits")
    >>> image, label = digits[0]
    >>> image.shape, label, len(digits), len(digits.subset(range(10)))
    (torch.Size([1, 8, 8]), 0, 1797, 10)
    """

    def __init__(
        self,
        source: Source,
        labels: Sequence[int],
        classes: Sequence[str],
        name: str,
        *,
        size: int | None = None,
        groups: Sequence[int] | None = None,
        where: Sequence[int] | None = None,
    ):
        require(size is None or size >= 1, f"size must be at least 1 pixel, but {size} came")
        self._source, self._labels, self._groups, self._size = source, tuple(labels), groups, size
        self._where = tuple(range(len(source))) if where is None else tuple(where)
        self.classes = tuple(classes)
        self.name = name

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"Images({self.name!r}, {len(self):,} images, {len(self.classes):,} classes)"

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        at = self._where[index]  # an IndexError beyond the end ends a `for` loop
        image = self._source.read(at)
        return as_tensor(image if self._size is None else fit(image, self._size)), self._labels[at]

    @property
    def labels(self) -> Int[Tensor, " images"]:
        """The class indices of all images, without reading an image."""
        return torch.tensor([self._labels[at] for at in self._where], dtype=torch.int64)

    @property
    def paths(self) -> tuple[str, ...] | None:
        """Where each image lies (`archive.zip::member` in an archive); None if they are not files."""
        paths = self._source.paths
        return None if paths is None else tuple(paths[at] for at in self._where)

    @property
    def groups(self) -> Int[Tensor, " images"] | None:
        """The number of the photograph that each image was cut from, for sets of views; None for others."""
        if self._groups is None:
            return None
        return torch.tensor([self._groups[at] for at in self._where], dtype=torch.int64)

    def batches(
        self, size: int
    ) -> Iterator[tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]]:
        """All images in order, `size` at a time, the last batch with what is left.

        **Arguments:** `size`: images a batch, at least 1.
        **Returns:** an iterator of images and labels.
        **Raises:** `JostleError` if `size` is below 1, or if the images differ in shape.

        >>> from jostle.zoo import load_data
        >>> [len(labels) for images, labels in load_data("digits").subset(range(5)).batches(2)]
        [2, 2, 1]
        """
        require(size >= 1, f"batch size must be at least 1, but {size} came")
        return (
            self._gather(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)
        )

    def tensors(self) -> tuple[Float[Tensor, "images channels height width"], Int[Tensor, " images"]]:
        """All images and labels at once, in memory.

        **Raises:** `JostleError` if the images differ in shape.
        """
        return self._gather(range(len(self)))

    def _gather(self, indices: range) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self[index] for index in indices), strict=True)
        for index, image in zip(indices, images, strict=True):
            require(
                image.shape == images[0].shape,
                f"images of {self.name!r} differ in shape (image {indices[0]} has {tuple(images[0].shape)}, "
                f"image {index} has {tuple(image.shape)}); give size=... to load_data",
            )
        return torch.stack(images), torch.tensor(labels, dtype=torch.int64)

    def subset(self, indices: Iterable[int] | Tensor) -> "Images":
        """The images at `indices`, in that order; nothing is read or copied.

        **Arguments:** `indices`: whole numbers from 0 (or negative, from the end).
        **Raises:** `JostleError` if there is none, or one lies outside of the set.
        """
        chosen = [int(index) for index in (indices.tolist() if isinstance(indices, Tensor) else indices)]
        require(len(chosen) > 0, f"a subset of {self.name!r} needs at least one index, but none came")
        for index in chosen:
            require(
                -len(self) <= index < len(self),
                f"index {index} lies outside of {self.name!r}, which has {len(self)} images",
            )
        return Images(
            self._source,
            self._labels,
            self.classes,
            self.name,
            size=self._size,
            groups=self._groups,
            where=[self._where[index] for index in chosen],
        )

    def fingerprint(self) -> str:
        """A hash of which images these are, to see whether two sets are the same.

        Order, labels, size and place don't count: a folder and a zip archive of it have one fingerprint.
        Files are hashed as they lie there, so the same picture saved anew is another.

        **Returns:** 16 hexadecimal digits.
        """
        contents = sorted(self._source.content(at) for at in self._where)
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16]


class Arrays(Source):
    """Images in memory, as a `Source`.

    **Arguments:** `pixels`: (images, height, width) grey or (images, height, width, 3) colour, as 8-bit
    numbers, or grey as float32 in [0, 1].

    >>> Arrays(np.zeros((2, 4, 5), dtype=np.uint8)).read(0).size
    (5, 4)
    """

    def __init__(self, pixels: np.ndarray):
        self._pixels = np.ascontiguousarray(pixels)

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])

    def content(self, index: int) -> str:
        pixels = self._pixels[index]
        return f"{pixels.shape}{hashlib.sha256(pixels.tobytes()).hexdigest()}"


def decoded(image: Image.Image, path: str) -> Image.Image:
    """Read an opened image file as 8-bit RGB as torchvision's loader does, without the file's rotation.

    **Raises:** `JostleError` if it has more than 8 bits a channel, which would not survive.
    """
    if image.mode[0] in "IF":
        raise JostleError(f"{path} has more than 8 bits a channel; save it as 8-bit")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns on its way to RGB
    return image.convert("RGB")


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side and crop the centre, the standard evaluation on ImageNet.

    >>> fit(Image.new("RGB", (500, 375)), 224).size
    (224, 224)
    """
    short, long = sorted(image.size)
    # A small image is not blown up further than it needs, and one of the right size stays as it is.
    side = size if short <= size else int(size / 0.875)
    if short != side:
        longer = int(side * long / short)
        shape = (side, longer) if image.width <= image.height else (longer, side)
        image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def as_tensor(image: Image.Image) -> Float[Tensor, "channels height width"]:
    """A float32 tensor in [0, 1] of an image in 8-bit grey, 8-bit RGB or float grey.

    >>> as_tensor(Image.new("L", (2, 1), 255))
    tensor([[[1., 1.]]])
    """
    pixels = np.array(image)
    tensor = torch.from_numpy(
        pixels[None] if pixels.ndim == 2 else cast(np.ndarray, pixels.transpose(2, 0, 1))
    )
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return tensor.to(torch.float32).clamp(0, 1)  # bicubic resampling overshoots
