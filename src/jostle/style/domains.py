"""Domains: labelled images in memory, from a folder or zip of DOMAIN/CLASS/ images; their split and their checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jostle.core.errors import require
from jostle.zoo import Images, load_data

# The official loader skips this picture of PACS.
KNOWN_BAD = "sketch/dog/n02103406_4068-1.png"


@dataclass(frozen=True, eq=False)
class Parts:
    """Which images of a domain are for training, for validation, and to be tested on when it is a target."""

    train: Int[Tensor, " a"]
    held: Int[Tensor, " b"]
    test: Int[Tensor, " c"]


@dataclass(frozen=True, eq=False)
class Domain:
    """The images of one domain in memory.

    **Arguments:** `images`: `(n, channels, height, width)`, what the model takes; 8-bit numbers stand for 0 to
    1 and take a quarter of the memory. `labels`: `(n,)`, on the device of the images. `mirrored`: the same
    images mirrored, for inputs that cannot simply be flipped, such as cached features. `parts`: those of official
    split lists, where there are any.
    """

    images: Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    mirrored: Float[Tensor, "n c h w"] | None = None
    parts: Parts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Int[Tensor, " m"]) -> "Domain":
        """The images at `indices`."""
        mirrored = None if self.mirrored is None else self.mirrored[indices]
        return Domain(self.images[indices], self.labels[indices], mirrored)

    def to(self, device: torch.device | str) -> "Domain":
        """The same images on a device."""
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        return Domain(self.images.to(device), self.labels.to(device), mirrored, self.parts)


def floating(images: Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """What the model is fed: 8-bit images as floats in [0, 1], others as they are.

    >>> floating(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[0., 1.]]]])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def split(labels: Int[Tensor, " n"], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a training and a held-out part, stratified by class.

    >>> train, held = split(torch.tensor([0] * 10 + [1] * 10), 0.1, seed=0)
    >>> len(train), len(held)
    (18, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    labels, held = labels.cpu(), []
    for kind in labels.unique():
        members = (labels == kind).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        held.append(members[order[: round(share * len(members))]])
    out = torch.cat(held).sort().values
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[out] = False
    return mask.nonzero().flatten(), out


def official_parts(paths: Sequence[str], name: str, lists: str) -> Parts:
    """The parts of a domain from text files as PACS has them: `NAME_train_kfold.txt`, `NAME_crossval_kfold.txt` and
    `NAME_test_kfold.txt`, a line an image, `DOMAIN/CLASS/FILE LABEL`.

    Files are found by their names without the suffix, since copies of PACS differ in it; labels are those of the class
    folders. The picture that the official loader skips is skipped. Without a test file every image is tested on.

    **Arguments:** `paths`: of the domain's images. `name`: the domain. `lists`: the folder of the text files.
    **Raises:** `JostleError` if a file is missing, or lists an image that is not there.
    """
    index = {_key(path): i for i, path in enumerate(paths)}

    def part(kind: str) -> Tensor:
        file = Path(lists) / f"{name}_{kind}_kfold.txt"
        require(file.is_file(), f"split list {file} does not exist")
        found = []
        for line in file.read_text(encoding="utf-8").splitlines():
            listed = line.rpartition(" ")[0] or line
            if line.strip() and _key(listed) != _key(KNOWN_BAD):
                require(_key(listed) in index, f"{file.name} lists {listed}, which is not among the images")
                found.append(index[_key(listed)])
        require(bool(found), f"split list {file} names no image")
        return torch.tensor(found).sort().values

    everything = not (Path(lists) / f"{name}_test_kfold.txt").exists()
    return Parts(part("train"), part("crossval"), torch.arange(len(paths)) if everything else part("test"))


def _key(path: str) -> tuple[str, ...]:
    """Domain, class and name of a picture, whatever lies before them and whatever its format."""
    return PurePosixPath(path.rpartition("::")[2].strip().replace("\\", "/")).with_suffix("").parts[-3:]


def joined(parts: Sequence[Domain]) -> Domain:
    """Several domains as one; mirror images are kept where all have them."""
    if len(parts) == 1:
        return parts[0]
    mirrors = [part.mirrored for part in parts if part.mirrored is not None]
    return Domain(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat(mirrors) if len(mirrors) == len(parts) else None,
    )


def check_domains(domains: Mapping[str, Domain], sources: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse a comparison that would mean nothing.

    **Raises:** `JostleError` for an unknown or empty domain, a target that is a source, a single class.
    """
    for name in (*sources, *targets):
        require(name in domains, f"domain must be one of {', '.join(domains)}, but {name!r} came")
        require(len(domains[name]) > 0, f"domain {name!r} is empty")
    require(bool(sources) and bool(targets), "there must be at least one source and one target domain")
    both = sorted(set(sources) & set(targets))
    require(not both, f"domain {', '.join(both)} is both source and target")
    kinds = torch.cat([domains[name].labels for name in sources]).unique()
    require(len(kinds) >= 2, "the sources hold a single class: there is nothing to learn")


def load_domain(
    data: str,
    name: str,
    *,
    size: int,
    limit: int | None = None,
    seed: int = 0,
    eight_bit: bool = False,
    lists: str | None = None,
) -> tuple[Domain, tuple[str, ...]]:
    """One domain in memory, its images brought to a square by averaging boxes (bilinear where it is larger).

    **Arguments:** `data`: a folder or zip with `DOMAIN/CLASS/` inside. `name`: the domain. `size`: side in
    pixels. `limit`: at most so many images, drawn with `seed`; with split lists, of those to be tested on.
    `eight_bit`: keep them so, to save memory. `lists`: a folder of official split lists, see
    [`official_parts`][jostle.style.domains.official_parts].
    **Returns:** the domain, images in [0, 1] or in 8 bits, and its class names.
    **Raises:** `JostleError` if the data or the domain is not there.
    """
    images = load_data(f"{data}::{name}")
    if images.paths is not None:
        keep = [i for i, path in enumerate(images.paths) if not path.endswith(KNOWN_BAD)]
        images = images.subset(keep)
    require(len(images) > 0, f"domain {name!r} of {data} is empty")
    parts = None if lists is None else official_parts(images.paths or (), name, lists)
    if limit is not None and parts is not None:
        images, parts = images.subset(parts.test), None
    if limit is not None and limit < len(images):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        images = images.subset(order[:limit].sort().values)
    domain = as_domain(images, size, eight_bit=eight_bit)
    return Domain(domain.images, domain.labels, parts=parts), images.classes


def load_domains(
    data: str,
    names: Sequence[str],
    *,
    size: int,
    limits: Sequence[int | None] | None = None,
    seed: int = 0,
    eight_bit: bool = False,
    lists: str | None = None,
) -> dict[str, Domain]:
    """Several domains that share their classes; see [`load_domain`][jostle.style.domains.load_domain].

    **Raises:** `JostleError` if two domains do not have the same class folders.
    """
    out: dict[str, Domain] = {}
    first: tuple[str, ...] | None = None
    for name, limit in zip(names, limits or [None] * len(names), strict=True):
        out[name], classes = load_domain(
            data, name, size=size, limit=limit, seed=seed, eight_bit=eight_bit, lists=lists
        )
        if first is None:
            first = classes
        odd = sorted(set(classes) ^ set(first))
        require(not odd, f"domains {names[0]!r} and {name!r} do not share the class {', '.join(odd)}")
    return out


def as_domain(images: Images, size: int | None = None, *, eight_bit: bool = False) -> Domain:
    """Zoo images as a domain in memory.

    >>> from jostle.zoo import load_data
    >>> as_domain(load_data("digits"), 4).images.shape
    torch.Size([1797, 1, 4, 4])
    """
    pixels = []
    for i in range(len(images)):
        image = images[i][0][None]
        if size is not None and image.shape[-2:] != (size, size):
            if size <= min(image.shape[-2:]):
                image = F.interpolate(image, (size, size), mode="area")
            else:
                image = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
        pixels.append((255 * image).round().byte() if eight_bit else image)
    shapes = {tuple(image.shape) for image in pixels}
    require(len(shapes) == 1, f"images of {images.name} differ in shape ({sorted(shapes)[:2]}); give a size")
    return Domain(torch.cat(pixels), images.labels)
