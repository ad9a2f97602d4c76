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


class DenseNet(nn.Module):
    """A network that answers each pixel: a classifier's trunk, tapped at four strides, and a pyramid on it.

    The trunk stays as it is, so a perturbation that was crafted for the classifier can be tried on the dense
    task unchanged, and the other way round.

    **Arguments:** `trunk`: a convolutional network that takes images in `[0, 1]`. `outputs`: channels of the
    answer. `shape`: `(C, H, W)` of an image. `generator`: seeds the head's weights; on the CPU. `width`: the
    head's channels.
    **Raises:** `JostleError` if the trunk has no blocks at one of the strides 4, 8, 16 and 32.
    """

    def __init__(
        self,
        trunk: nn.Module,
        outputs: int,
        shape: tuple[int, int, int],
        *,
        generator: torch.Generator,
        width: int = 64,
    ) -> None:
        super().__init__()
        require(
            outputs >= 1 and width >= 1,
            f"outputs and width must be at least 1, but {outputs} and {width} came",
        )
        self.trunk, self.input_shape = trunk, shape
        self.layers, channels = _strided(trunk, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.head = PyramidHead(channels, outputs, width)

    def forward(
        self, images: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """The answer at the images' size."""
        return self.answer(self.features(images), (images.shape[-2], images.shape[-1]))

    def features(self, images: Float[Tensor, "batch _ height width"]) -> list[Tensor]:
        """What the head sees, fine to coarse."""
        with Taps(self.trunk, self.layers) as taps:
            self.trunk(images)
        return list(taps.values)

    def answer(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The head's answer to features, enlarged to `size`."""
        return F.interpolate(self.head(features), size=size, mode="bilinear", align_corners=False)


class PyramidHead(nn.Module):
    """A small feature pyramid (Lin et al. 2017): from features at four strides to a map at stride 4.

    Each stride is brought to `width` channels and added to the coarser one, enlarged; 3x3 convolutions, most
    of them at stride 8 where they see whole objects at little cost, and a 1x1 one give the answer.

    **Arguments:** `channels`: of the features, fine to coarse. `outputs`: channels of the answer. `width`:
    inner.

    >>> sizes = [(8, 16), (8, 8), (8, 4), (8, 2)]
    >>> PyramidHead([8] * 4, 3, width=4)([torch.rand(2, c, s, s) for c, s in sizes]).shape
    torch.Size([2, 3, 16, 16])
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

    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "batch outputs height width"]:
        """The answer at the finest features' size."""
        maps = [layer(feature) for layer, feature in zip(self.lateral, features, strict=True)]
        top = maps[-1]
        for finer, smooth in zip(reversed(maps[:-1]), self.smooth, strict=True):
            top = finer + F.interpolate(
                smooth(top), size=finer.shape[-2:], mode="bilinear", align_corners=False
            )
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


def train_head(
    net: DenseNet,
    images: Float[Tensor, "n channels height width"],
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    generator: torch.Generator,
    epochs: int = 5,
    batch_size: int = 32,
    rate: float = 4e-3,
    noise: float = 0.05,
    callback: Callback | None = None,
) -> None:
    """Train the head of a dense network on features that the frozen trunk computes once.

    AdamW under a one-cycle schedule. Each image gets Gaussian noise of a strength of its own, from 0 to
    `noise`: a head that has only seen clean features is lost under any noise, and then says nothing about
    what a crafted perturbation adds to it. The features are kept in half precision: 53 KB an image of 96
    pixels with EfficientNet-Lite0.

    **Arguments:** `net`: its head is changed, and left in evaluation mode. `targets`: what the loss compares
    with, one an image. `loss`: from the net's answer and targets to one number, such as
    [`segmentation_loss`][jostle.universal.dense.segmentation_loss]. `generator`: draws noise and shuffles; on
    the CPU. `epochs`, `batch_size`: at least 1. `rate`: the largest learning rate. `noise`: largest standard
    deviation, in `[0, 1]` units, at least 0. `callback`: `(done, total, figure)` after each batch.
    **Raises:** `JostleError` for settings out of range or a loss that is not finite.
    """
    require(
        epochs >= 1 and batch_size >= 1,
        f"epochs and batch_size must be at least 1, but {epochs} and {batch_size} came",
    )
    require(noise >= 0, f"noise must be at least 0, but {noise} came")
    require(len(images) > 0, "images must hold at least one image, but none came")
    size = (images.shape[-2], images.shape[-1])
    spread = noise * torch.rand(len(images), 1, 1, 1, generator=generator)
    grain = torch.randn(images.shape, generator=generator)
    features = cached_features(net, (images + (spread * grain).to(images)).clamp(0, 1))
    steps = epochs * -(-len(images) // batch_size)
    optimiser = torch.optim.AdamW(net.head.parameters(), rate / 2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)

    def batch_loss(head: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return loss(net.answer([part.float() for part in batch[:-1]], size), batch[-1])

    fit = Trainer(net.head, optimiser, batch_loss, schedule=schedule)
    net.head.train()
    fit.run(
        minibatches(*features, targets, size=batch_size, epochs=epochs, generator=generator),
        None if callback is None else lambda now: callback(now.step, steps, f"loss {now.last:.3f}"),
    )
    net.eval()


def cached_features(net: DenseNet, images: Float[Tensor, "n channels height width"]) -> list[Tensor]:
    """The trunk's features of many images, in half precision, fine to coarse."""
    parts = []
    with frozen(net.trunk), torch.no_grad():
        for batch in images.split(32):
            parts.append([value.half() for value in net.features(batch)])
    return [torch.cat(stride) for stride in zip(*parts, strict=True)]


def segmentation_loss(background: float = 0.5) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy a pixel that counts class 0 less, since it covers most pixels.

    **Arguments:** `background`: weight of class 0, above 0.

    >>> segmentation_loss()(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)).exp().round()
    tensor(4.)
    """
    require(background > 0, f"background must be above 0, but {background} came")

    def loss(
        answer: Float[Tensor, "batch classes height width"], masks: Int[Tensor, "batch height width"]
    ) -> Tensor:
        weight = torch.ones(answer.shape[1], device=answer.device)
        weight[0] = background
        return F.cross_entropy(answer, masks, weight=weight)

    return loss


def depth_loss(
    answer: Float[Tensor, "batch 1 height width"], depths: Float[Tensor, "batch height width"]
) -> Tensor:
    """Mean absolute error of the inverse depth, `1 / answer_to_depth`."""
    return (1 / answer_to_depth(answer)[:, 0] - 1 / depths).abs().mean()


def answer_to_depth(answer: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Metres from the head's answer, `1 / log(1 + e^a)`: always positive.

    >>> round(answer_to_depth(torch.zeros(1, 1, 1, 1)).item(), 4)
    1.4427
    """
    return 1 / F.softplus(answer).clamp_min(1e-6)


def _strided(trunk: nn.Module, shape: tuple[int, int, int]) -> tuple[list[str], list[int]]:
    """The last building block at each stride, and its channels."""
    with frozen(trunk), Taps(trunk, "block", reduce=lambda a: tuple(a.shape)) as taps, torch.no_grad():
        trunk(torch.zeros(1, *shape))
    last = {
        round(shape[-1] / found[-1]): (name, found[1])
        for name, found in zip(taps.names, taps.values, strict=True)
        if len(found) == 4
    }
    missing = [stride for stride in STRIDES if stride not in last]
    require(
        not missing, f"the trunk must have blocks at the strides 4, 8, 16 and 32, but {missing} are missing"
    )
    return [last[stride][0] for stride in STRIDES], [last[stride][1] for stride in STRIDES]
