"""A dense network on a pretrained classifier: its frozen trunk, and a small head that is trained here."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import Taps, frozen
from jostle.core.training import Trainer, minibatches
from jostle.universal.stochastic import Callback

STRIDES = (4, 8, 16, 32)

Features = Sequence[Float[Tensor, "batch _ _ _"]]


def stride_layers(trunk: nn.Module, image: Float[Tensor, "1 channels height width"]) -> list[str]:
    """The last building block of a trunk at each of the strides 4, 8, 16 and 32.

    **Arguments:** `trunk`: a convolutional network. `image`: any input of the size to be used.
    **Raises:** `JostleError` if a stride is missing.
    """
    with frozen(trunk), Taps(trunk, "block", reduce=lambda a: a.shape) as taps, torch.no_grad():
        trunk(image)
    last = {
        round(image.shape[-1] / shape[-1]): name
        for name, shape in zip(taps.names, taps.values, strict=True)
        if len(shape) == 4
    }
    missing = [stride for stride in STRIDES if stride not in last]
    require(not missing, f"the trunk must have blocks at the strides 4, 8, 16 and 32, but {missing} are missing")
    return [last[stride] for stride in STRIDES]


class PyramidHead(nn.Module):
    """A small feature pyramid (Lin et al. 2017): from four strides to a map at stride 4.

    Each stride is brought to `width` channels and added to the coarser one, enlarged; 3x3 convolutions, most of
    them at stride 8 where they see whole objects at little cost, and a 1x1 one give the answer.

    **Arguments:** `channels`: of the features, fine to coarse. `outputs`: channels of the answer. `width`: inner.
    """

    def __init__(self, channels: Sequence[int], outputs: int, width: int = 64) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)) for inner in channels
        )
        self.smooth = nn.ModuleList(
            nn.Sequential(*(_Residual(width) for _ in range(depth))) for depth in (1, 2, 3)
        )
        self.refine = _Residual(width)
        self.answer = nn.Conv2d(width, outputs, 1)

    def forward(self, features: Features) -> Float[Tensor, "batch outputs height width"]:
        """The answer at the finest features' size."""
        maps = [layer(feature) for layer, feature in zip(self.lateral, features, strict=True)]
        top = maps[-1]
        for finer, smooth in zip(reversed(maps[:-1]), self.smooth, strict=True):
            top = finer + F.interpolate(smooth(top), size=finer.shape[-2:], mode="bilinear", align_corners=False)
        return self.answer(self.refine(top))


class _Residual(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.inner(x))
