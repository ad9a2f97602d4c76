"""Data sets by name or by path."""

import os
from collections.abc import Callable
from pathlib import Path

from jostle.core.errors import JostleError, require
from jostle.zoo.folders import image_folder
from jostle.zoo.images import Images
from jostle.zoo.shipped import digits, mnist5k, photographs
from jostle.zoo.words import hint

REGISTERED: dict[str, Callable[[int | None], Images]] = {
    "digits": digits,
    "mnist5k": mnist5k,
    "photographs": photographs,
}


def load_data(spec: str | Path, *, size: int | None = None) -> Images:
    """Load labelled images by name or from a folder or a zip archive of yours.

    A name is `digits`, `mnist5k` or `photographs`; they come with packages and need no network. A path leads
    to class folders (`CLASS/image.jpg`, the ImageFolder layout) on disk or in a .zip archive, which is read
    as it lies, without unpacking. `::` names a folder within: `pacs-128.zip::photo`,
    `cifar10-jpeg.zip::test`. A relative path is looked for here, then under the folder that the environment
    variable JOSTLE_DATA names.

    **Arguments:** `spec`: name or path; a name wins over a folder that is called the same (write `./digits`).
    `size`: side in pixels of the squares that the images are brought to (short side to `int(size / 0.875)`,
    bicubic, centre crop); None keeps their own sizes.
    **Returns:** an [`Images`][jostle.zoo.Images].
    **Raises:** `JostleError` with one sentence if there is no such name or path, a package is missing, or the
    folder is not laid out so.

    >>> load_data("digits")
    Images('digits', 1,797 images, 10 classes)
    >>> load_data("photographs", size=224)[0][0].shape
    torch.Size([3, 224, 224])
    """
    text = str(spec)
    if text in REGISTERED:
        return REGISTERED[text](size)
    place, _, inside = text.partition("::")
    require(bool(place), f"data must be a name or a path, but {text!r} came")
    path = _find(place)
    require(
        path.is_dir() or path.suffix.lower() == ".zip",
        f"data must be a folder or a .zip archive, but {place!r} is a file of another kind",
    )
    return image_folder(path, inside, size=size)


def _find(place: str) -> Path:
    path = Path(place).expanduser()
    if path.exists():
        return path
    home = os.environ.get("JOSTLE_DATA", "")
    shelf = Path(home).expanduser() if home else None
    if shelf is not None and not path.is_absolute() and (shelf / path).exists():
        return shelf / path
    beside = [entry.name for entry in shelf.iterdir()] if shelf is not None and shelf.is_dir() else []
    also = f" nor {shelf / path}" if shelf is not None and not path.is_absolute() else ""
    raise JostleError(
        f"data {place!r} is none of {', '.join(REGISTERED)} and no such path exists{also}"
        f"{hint(place, [*REGISTERED, *beside])}"
    )
