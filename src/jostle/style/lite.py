"""EfficientNet-Lite0 in two parts: a frozen trunk whose features are computed once, and the rest to fine-tune."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.taps import frozen
from jostle.style.domains import Domain, floating
from jostle.zoo import load_model


def layout(device: torch.device | str) -> torch.memory_format:
    """The memory format in which depthwise convolutions are fast: on the CPU channels last, twice as fast."""
    return torch.channels_last if torch.device(device).type == "cpu" else torch.contiguous_format


def cached(domain: Domain, trunk: Callable[[Tensor], Tensor], batch: int = 64) -> Domain:
    """A domain of features: what a frozen trunk makes of each image and of its mirror image.

    >>> cached(Domain(torch.rand(3, 1, 4, 4), torch.arange(3)), nn.Conv2d(1, 2, 3)).images.shape
    torch.Size([3, 2, 2, 2])
    """
    plain, mirrored = [], []
    with torch.no_grad():
        for images in floating(domain.images).split(batch):
            plain.append(trunk(images))
            mirrored.append(trunk(images.flip(-1)))
    keep = layout(domain.images.device)
    features, turned = (torch.cat(part).contiguous(memory_format=keep) for part in (plain, mirrored))
    return Domain(features, domain.labels, turned, domain.parts)


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
            x = ((x - net.mean) / net.std).contiguous(memory_format=layout(x.device))
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

    def forward(self, x: Float[Tensor, "batch 24 h w"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        x = self.features(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.head(x).mean((2, 3)))
