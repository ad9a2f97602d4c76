"""Images with labels, from memory, a folder or a zip."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from jostle.core.errors import JostleError, require

# The usual evaluation of ImageNet classifiers: a centre crop of 7/8 of the short side.
CROP = 0.875


@dataclass(frozen=True, eq=False)
class Images(Dataset):
    """A map-style data set of `(image, label)`: float32 images `(C, H, W)` in [0, 1], integer labels.

    **Arguments:** `name`: what it is called in records. `labels`: `(n,)`. `classes`: a name a label. `pixels`:
    8-bit images `(n, C, H, W)`, or `None` when they lie in files. `paths`: the files, relative to `root`.
    `root`: a folder or a zip. `size`: side of the square that images are brought to, `None` for their own.
    `groups`: which images belong together (views of one photograph), `(n,)`.

    >>> tiny = Images("tiny", torch.tensor([0, 1]), ("a", "b"), torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    >>> len(tiny), tiny[1][1]
    (2, 1)
    """

    name: str
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    pixels: Tensor | None = None
    paths: tuple[str, ...] | None = None
    root: Path | None = None
    size: int | None = None
    groups: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        label = int(self.labels[index])
        if self.pixels is not None:
            image = self.pixels[index]
            image = image if self.size is None else _resized(image, self.size)
            return image.float() / 255, label
        assert self.paths is not None
        return self._decode(self.paths[index]).float() / 255, label

    def batches(self, size: int) -> Iterator[tuple[Float[Tensor, "batch c h w"], Int[Tensor, " batch"]]]:
        """All images in order, `size` at a time; the last batch may be smaller.

        **Raises:** `JostleError` if images differ in size, or one cannot be read.
        """
        require(size >= 1, f"size must be at least 1, but {size} came")
        for start in range(0, len(self), size):
            items = [self[i] for i in range(start, min(start + size, len(self)))]
            shapes = {tuple(image.shape) for image, _ in items}
            if len(shapes) > 1:
                raise JostleError(f"images of {self.name} differ in size ({sorted(shapes)[:2]}); give a size")
            yield torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])

    def tensors(self) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
        """All images and labels in memory."""
        return next(self.batches(max(1, len(self))))

    def subset(self, indices: Sequence[int] | Tensor) -> "Images":
        """The images at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return replace(
            self,
            labels=self.labels[chosen],
            pixels=None if self.pixels is None else self.pixels[chosen],
            paths=None if self.paths is None else tuple(self.paths[int(i)] for i in chosen),
            groups=None if self.groups is None else self.groups[chosen],
        )

    def fingerprint(self) -> str:
        """The same for two sets that hold the same images, whatever they are called and in whatever order."""
        prints = []
        for index in range(len(self)):
            if self.pixels is not None:
                content = self.pixels[index].numpy().tobytes()
            else:
                assert self.paths is not None
                content = self._read(self.paths[index])
            prints.append(hashlib.sha256(content).digest())
        return hashlib.sha256(b"".join(sorted(prints))).hexdigest()

    def _read(self, path: str) -> bytes:
        assert self.root is not None
        try:
            if self.root.is_dir():
                return (self.root / path).read_bytes()
            return _archive(self.root).read(path)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise JostleError(f"image {self.root}/{path} cannot be read: {error}") from error

    def _decode(self, path: str) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        content = self._read(path)
        try:
            with Image.open(io.BytesIO(content)) as file:
                picture = file.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise JostleError(f"image {self.root}/{path} is broken: {error}") from error
        if self.size is not None:
            picture = _cropped(picture, self.size)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


# A zip is opened once a process; handles do not travel to workers.
_archives: dict[Path, zipfile.ZipFile] = {}


def _archive(path: Path) -> zipfile.ZipFile:
    if path not in _archives:
        _archives[path] = zipfile.ZipFile(path)
    return _archives[path]


def _cropped(picture: Any, size: int) -> Any:
    """Short side to `size / 0.875`, unless it is there already, then the centre."""
    from PIL import Image

    width, height = picture.size
    target = round(size / CROP)
    short = min(width, height)
    if short != target:
        scale = target / short
        new = (max(size, round(width * scale)), max(size, round(height * scale)))
        picture = picture.resize(new, Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _resized(image: Tensor, size: int) -> Tensor:
    if tuple(image.shape[1:]) == (size, size):
        return image
    from torchvision.transforms.v2 import functional as T

    return T.resize(image, [size, size], antialias=True)
