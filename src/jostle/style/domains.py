"""Domains from a folder or zip of DOMAIN/CLASS/ images, and a trunk whose features are computed once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.style.protocol import Domain
from jostle.zoo import Images, load_data, load_model

# The official loader skips this picture of PACS.
KNOWN_BAD = "sketch/dog/n02103406_4068-1.png"


def load_domain(
    data: str, name: str, *, size: int, limit: int | None = None, seed: int = 0
) -> tuple[Domain, tuple[str, ...]]:
    """One domain in memory, its images brought to a square by averaging boxes.

    **Arguments:** `data`: a folder or zip with `DOMAIN/CLASS/` inside. `name`: the domain. `size`: side in
    pixels. `limit`: at most so many images, drawn with `seed`.
    **Returns:** the domain, images in [0, 1], and its class names.
    **Raises:** `JostleError` if the data or the domain is not there.
    """
    images = load_data(f"{data}::{name}")
    if images.paths is not None:
        keep = [i for i, path in enumerate(images.paths) if not path.endswith(KNOWN_BAD)]
        images = images.subset(keep)
    require(len(images) > 0, f"domain {name!r} of {data} is empty")
    if limit is not None and limit < len(images):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        images = images.subset(order[:limit].sort().values)
    return as_domain(images, size), images.classes


def load_domains(
    data: str, names: Sequence[str], *, size: int, limits: Sequence[int | None] | None = None, seed: int = 0
) -> dict[str, Domain]:
    """Several domains that share their classes; see [`load_domain`][jostle.style.domains.load_domain].

    **Raises:** `JostleError` if two domains do not have the same class folders.
    """
    out: dict[str, Domain] = {}
    first: tuple[str, ...] | None = None
    for name, limit in zip(names, limits or [None] * len(names), strict=True):
        out[name], classes = load_domain(data, name, size=size, limit=limit, seed=seed)
        if first is None:
            first = classes
        odd = sorted(set(classes) ^ set(first))
        require(not odd, f"domains {names[0]!r} and {name!r} do not share the class {', '.join(odd)}")
    return out


def as_domain(images: Images, size: int | None = None) -> Domain:
    """Zoo images as a domain in memory.

    >>> from jostle.zoo import load_data
    >>> as_domain(load_data("digits"), 4).images.shape
    torch.Size([1797, 1, 4, 4])
    """
    pixels = []
    for i in range(len(images)):
        image = images[i][0][None]
        if size is not None and image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode="area")
        pixels.append(image)
    shapes = {tuple(image.shape) for image in pixels}
    require(len(shapes) == 1, f"images of {images.name} differ in shape ({sorted(shapes)[:2]}); give a size")
    return Domain(torch.cat(pixels), images.labels)


def cached(domain: Domain, trunk: Callable[[Tensor], Tensor], batch: int = 64) -> Domain:
    """A domain of features: what a frozen trunk makes of each image and of its mirror image.

    >>> cached(Domain(torch.rand(3, 1, 4, 4), torch.arange(3)), nn.Conv2d(1, 2, 3)).images.shape
    torch.Size([3, 2, 2, 2])
    """
    plain, mirrored = [], []
    with torch.no_grad():
        for images in domain.images.split(batch):
            plain.append(trunk(images))
            mirrored.append(trunk(images.flip(-1)))
    keep = {"memory_format": torch.channels_last}
    return Domain(torch.cat(plain).contiguous(**keep), domain.labels, torch.cat(mirrored).contiguous(**keep))


class LiteTrunk(nn.Module):
    """Normalisation, stem and blocks 0 to 2 of EfficientNet-Lite0 with its ImageNet weights, frozen.

    Images in [0, 1] of 64x64 become features of 24x16x16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = load_model("efficientnet-lite0")

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 24 h w"]:
        """The features, in evaluation mode whatever the module's own."""
        net: Any = self.net
        with frozen(net):
            x = ((x - net.mean) / net.std).contiguous(memory_format=torch.channels_last)
            inner = net.model
            x = inner._swish(inner._bn0(inner._conv_stem(x)))
            for block in inner._blocks[:3]:
                x = block(x)
        return x


class LiteTail(nn.Module):
    """Blocks 3 to 15 and the head of EfficientNet-Lite0 with its ImageNet weights, and a new last layer.

    Style layers go to `features` (the trunk's output), `blocks.1`, `blocks.4` and `blocks.7`: behind the
    blocks 4, 7 and 10 of the whole network, with 24, 40, 80 and 112 channels.
    """

    PLACES = ("features", "blocks.1", "blocks.4", "blocks.7")

    def __init__(self, classes: int) -> None:
        super().__init__()
        inner: Any = load_model("efficientnet-lite0").model
        self.features = nn.Identity()
        self.blocks = nn.ModuleList(inner._blocks[3:])
        self.head = nn.Sequential(inner._conv_head, inner._bn1, inner._swish)
        self.classify = nn.Linear(inner._fc.in_features, classes)
        self.to(memory_format=torch.channels_last)  # depthwise convolutions are twice as fast so

    def forward(self, x: Float[Tensor, "batch 24 h w"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        x = self.features(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.head(x).mean((2, 3)))
