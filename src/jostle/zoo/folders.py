"""Images in class folders, on disk or within a zip archive that stays packed."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from PIL import Image

from jostle.core.errors import JostleError, require
from jostle.zoo.imagenet import named
from jostle.zoo.images import Images, Source, decoded
from jostle.zoo.words import hint, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class Folder(Source):
    """Image files under a folder, as a `Source`. **Arguments:** `root`, and `files` relative to it."""

    def __init__(self, root: Path, files: list[str]):
        self._files = tuple(str(root / file) for file in files)
        self.paths = self._files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image.Image:
        return _read(self._files[index], self._files[index])

    def content(self, index: int) -> str:
        try:
            data = Path(self._files[index]).read_bytes()
        except OSError as error:
            raise JostleError(f"could not read {self._files[index]}: {reason(error)}") from error
        return f"{zlib.crc32(data):08x}:{len(data)}"


class Archive(Source):
    """Image files within a zip archive, as a `Source`; every process opens the archive for itself.

    **Arguments:** `path` of the archive, and the `members` in it.
    """

    def __init__(self, path: Path, members: list[str]):
        self._path, self._members = path, members
        self.paths = tuple(f"{path}::{member}" for member in members)
        self._opened: tuple[int, ZipFile] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    @property
    def _zip(self) -> ZipFile:
        # A forked worker must not share its parent's handle: they would move one another's position.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_zip(self._path))
        return self._opened[1]

    def __del__(self) -> None:
        opened = getattr(self, "_opened", None)
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def read(self, index: int) -> Image.Image:
        path = f"{self._path}::{self._members[index]}"
        try:
            handle = self._zip.open(self._members[index])
        except (BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
            raise JostleError(f"could not read {path}: {reason(error)}") from error
        with handle:
            return _read(handle, path)

    def content(self, index: int) -> str:
        info = self._zip.getinfo(self._members[index])
        return f"{info.CRC:08x}:{info.file_size}"


def open_zip(path: Path) -> ZipFile:
    """Open a zip archive; a broken one is a sentence.

    **Raises:** `JostleError`.
    """
    try:
        return ZipFile(path)
    except (BadZipFile, OSError) as error:
        raise JostleError(f"{path} is not a readable zip archive: {reason(error)}") from error


def _read(file: Any, path: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return decoded(image, path)
    except JostleError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on broken files
        raise JostleError(f"{path} is not a readable image: {reason(error)}") from error


def image_folder(path: Path, inside: str = "", *, size: int | None = None) -> Images:
    """Images in the ImageFolder layout, `CLASS/any/where.jpg`, in a folder or a .zip archive.

    Sorted names of the class folders give the class indices; the 1,000 WNIDs of ImageNet get their readable
    names. Hidden files and what macOS adds to archives are passed over. A lone folder around the class
    folders, as archives often have it, is entered.

    **Arguments:** `path`: a folder or an archive. `inside`: a folder within it. `size`: see
    [`Images`][jostle.zoo.Images].
    **Raises:** `JostleError` if there are no images, no class folders, an empty class folder, or folders that
    hold class folders themselves (train and test, domains).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         Image.new("RGB", (4, 4)).save(f"{folder}/{name}/0.png")
    ...     image_folder(Path(folder)).classes
    ('cat', 'dog')
    """
    inside = inside.strip("/")
    root, prefix = path / inside, f"{inside}/" if inside else ""
    if path.is_dir():
        require(root.is_dir(), f"{path} holds no folder {inside!r}{hint(inside, _folders_in(path))}")
        files, folders = _walk(root)
    else:
        with open_zip(path) as archive:
            names = archive.namelist()
        within = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        tops = {name.partition("/")[0] for name in names if "/" in name}
        require(bool(within) or not inside, f"{path} holds no folder {inside!r}{hint(inside, tops)}")
        files = [name for name in within if name and not name.endswith("/")]
        folders = [name.rpartition("/")[0] for name in within if "/" in name]
    title = f"{path.name}::{inside}" if inside else path.name
    wrapper, chosen, classes = layout(files, folders, f"{path}::{inside}" if inside else str(path))
    index = {name: k for k, name in enumerate(classes)}
    labels = [index[file.partition("/")[0]] for file in chosen]
    if path.is_dir():
        source = Folder(root / wrapper, chosen)
    else:
        source = Archive(path, [prefix + wrapper + file for file in chosen])
    return Images(source, labels, named(classes), title, size=size)


def layout(
    files: Iterable[str], folders: Iterable[str], where: str
) -> tuple[str, list[str], tuple[str, ...]]:
    """Find the class folders among relative paths with `/`.

    **Arguments:** `files`, `folders`: all that lie there. `where`: for the sentences.
    **Returns:** the lone folder around them ("" or ending in "/"), the image files within it ordered by class
    and name, and the classes.
    **Raises:** `JostleError` as [`image_folder`][jostle.zoo.folders.image_folder] says.

    >>> layout(["set/b/1.jpg", "set/a/2.png", "set/a/note.txt"], ["set", "set/a", "set/b"], "here")
    ('set/', ['a/2.png', 'b/1.jpg'], ('a', 'b'))
    """
    images = sorted(file.split("/") for file in files if file.lower().endswith(SUFFIXES) and _seen(file))
    require(len(images) > 0, f"{where} holds no images ({', '.join(SUFFIXES)})")
    require(
        any(len(parts) > 1 for parts in images),
        f"{where} holds images but no class folders; put them into one folder a class (CLASS/image.jpg)",
    )
    # Pictures beside the class folders, a preview say, belong to no class.
    images = [parts for parts in images if len(parts) > 1]
    wrapper = ""
    while all(len(parts) > 2 for parts in images) and len({parts[0] for parts in images}) == 1:
        wrapper += images[0][0] + "/"
        images = [parts[1:] for parts in images]
    classes = sorted({parts[0] for parts in images})
    require(
        any(len(parts) == 2 for parts in images),
        f"{where} holds {', '.join(classes[:6])}, which hold class folders themselves; "
        f"name one of them, for example {where}{'/' if '::' in where else '::'}{wrapper}{classes[0]}",
    )
    inner = (
        folder.removeprefix(wrapper).partition("/")[0] for folder in folders if folder.startswith(wrapper)
    )
    empty = sorted({name for name in inner if name and _seen(name)} - set(classes))
    require(
        not empty, f"class folder {(empty or [''])[0]!r} of {where} holds no images; fill it or remove it"
    )
    return wrapper, ["/".join(parts) for parts in images], tuple(classes)


def _seen(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _folders_in(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.is_dir()]


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """All files and folders below `root`, relative and with `/`; links to class folders are followed."""
    files, folders = [], []
    for folder, _, names in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        folders += [relative] if prefix else []
        files += [prefix + name for name in names]
    return files, folders
