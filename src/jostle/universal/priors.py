"""Base inputs for crafting: nothing, the range of the data, or data; each the network sees under delta."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require

# ImageNet statistics in units of [0, 1], RGB, as the released code of GD-UAP states them in 0-255 units.
IMAGENET_MEAN = (123.68 / 255, 116.78 / 255, 103.94 / 255)
IMAGENET_SD = (62 / 255, 58 / 255, 52 / 255)

Shape = tuple[int, int, int]


class Prior(ABC):
    """A source of base images `d`; the objective is evaluated at `d + delta`."""

    name: ClassVar[str]

    @abstractmethod
    def begin(self, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
        """What is drawn once, before the first step: tensors and numbers only, so that it can be kept."""

    @abstractmethod
    def batch(self, state: dict[str, Any], shape: Shape, t: int, generator: torch.Generator) -> Tensor:
        """The base images of step `t`, `(batch, C, H, W)` in [0, 1]."""


@dataclass(frozen=True)
class NoPrior(Prior):
    """One base image of a single colour: the image that is 0 in network units (GD-UAP, section 3.1).

    **Arguments:** `mean`: that colour, one value a channel in [0, 1]; the network's own normalisation mean.

    >>> import torch
    >>> NoPrior((0.5,)).batch({}, (1, 2, 2), 0, torch.Generator()).shape
    torch.Size([1, 1, 2, 2])
    """

    mean: tuple[float, ...] = IMAGENET_MEAN

    name: ClassVar[str] = "none"

    def begin(self, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
        _colour(self.mean, shape)
        return {}

    def batch(self, state: dict[str, Any], shape: Shape, t: int, generator: torch.Generator) -> Tensor:
        return _colour(self.mean, shape).expand(1, *shape)


@dataclass(frozen=True)
class RangePrior(Prior):
    """Gaussian noise with the data's mean and spread, resampled as the released code does it (section 3.2).

    One large 8-bit noise image is drawn; each step sees a random augmentation of it: resized so that the short
    side is the target times 1 or U(.75, 1.5), mirrored, rotated, blurred, cropped, resized up by 8/7 and
    centre-cropped. The resampling low-passes the noise, so the network sees a spread of about 0.10 and not the
    nominal 0.20-0.24; independent pixel noise of the nominal spread drowns delta (`resampled=False`, for
    comparison).

    **Arguments:** `mean`, `sd`: one a channel, in [0, 1] units. `size`: side of the noise image in pixels.
    `batch_size`: images a step. `resampled`: as released, or white noise drawn anew each step. `smooth`: resize
    with an anti-aliasing filter, which low-passes the noise further (ours). `strength`: a factor on each view's
    distance from the mean, at least 0 (1 in the paper).
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    sd: tuple[float, ...] = IMAGENET_SD
    size: int = 500
    batch_size: int = 1
    resampled: bool = True
    smooth: bool = False
    strength: float = 1.0

    name: ClassVar[str] = "range"

    def begin(self, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
        require(self.strength >= 0, f"strength must be at least 0, but {self.strength} came")
        if not self.resampled:
            return {}
        return {"noise": self._noise((shape[0], self.size, self.size), generator)}

    def batch(self, state: dict[str, Any], shape: Shape, t: int, generator: torch.Generator) -> Tensor:
        if not self.resampled:
            return torch.stack([self._noise(shape, generator) for _ in range(self.batch_size)])
        noise = state["noise"]
        views = torch.stack(
            [augment(noise, shape, self.mean, generator, smooth=self.smooth) for _ in range(self.batch_size)]
        )
        if self.strength == 1:
            return views
        mean = _colour(self.mean, shape)
        return (mean + self.strength * (views - mean)).clamp(0, 1)

    def _noise(self, shape: Shape, generator: torch.Generator) -> Tensor:
        mean, sd = _colour(self.mean, shape), _colour(self.sd, shape)
        noise = mean + sd * torch.randn(shape, generator=generator)
        return (noise.clamp(0, 1) * 255).round() / 255


@dataclass(frozen=True)
class SmoothPrior(Prior):
    """Low-pass Gaussian noise of reduced strength: coarse noise, enlarged (ours, not the paper's).

    **Arguments:** `mean`, `sd`: one a channel, in [0, 1] units. `cells`: noise cells along a side; fewer is
    smoother. `strength`: the factor on `sd`, at least 0; with `ramp` it grows linearly from 0 over so many steps.
    `batch_size`: images a step.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    sd: tuple[float, ...] = IMAGENET_SD
    cells: int = 28
    strength: float = 0.5
    ramp: int = 0
    batch_size: int = 1

    name: ClassVar[str] = "smooth"

    def begin(self, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
        require(self.cells >= 1, f"cells must be at least 1, but {self.cells} came")
        require(self.strength >= 0, f"strength must be at least 0, but {self.strength} came")
        return {}

    def batch(self, state: dict[str, Any], shape: Shape, t: int, generator: torch.Generator) -> Tensor:
        channels, height, width = shape
        coarse = torch.randn(self.batch_size, channels, self.cells, self.cells, generator=generator)
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
        strength = self.strength * (min(1.0, (t + 1) / self.ramp) if self.ramp else 1.0)
        return (_colour(self.mean, shape) + strength * _colour(self.sd, shape) * fine).clamp(0, 1)


@dataclass(frozen=True)
class DataPrior(Prior):
    """Real images, augmented as in the released code (section 3.3); a subset of them is "less data".

    **Arguments:** `images`: `(n, C, H, W)` in [0, 1]. `batch_size`: images a step. `augmented`: augment, or take
    them as they are.
    """

    images: Float[Tensor, "n channels height width"]
    batch_size: int = 8
    augmented: bool = True

    name: ClassVar[str] = "data"

    @classmethod
    def less_background(
        cls,
        images: Float[Tensor, "n channels height width"],
        masks: Int[Tensor, "n rows columns"],
        *,
        background: int = 0,
        most: float = 0.5,
        batch_size: int = 8,
    ) -> "DataPrior":
        """The images of little background: it is the easy majority class and resists flipping.

        **Arguments:** `images`: as above. `masks`: the class of each pixel; 255 is ignored. `background`: its class.
        `most`: an image stays if its share of background is at most this, in [0, 1]; a half is inferred
        from the released list.
        **Raises:** `JostleError` if no image stays.

        >>> import torch
        >>> masks = torch.tensor([[[0, 0]], [[0, 3]], [[255, 7]]])
        >>> len(DataPrior.less_background(torch.rand(3, 3, 4, 4), masks).images)
        2
        """
        require(
            len(images) == len(masks),
            f"masks must be one an image, but {len(masks)} came for {len(images)} images",
        )
        require(0 <= most <= 1, f"most must lie in [0, 1], but {most} came")
        judged = (masks != 255).flatten(1)
        share = ((masks == background).flatten(1) & judged).sum(1) / judged.sum(1).clamp_min(1)
        keep = share <= most
        require(bool(keep.any()), f"no image has a share of background of at most {most}")
        return cls(images[keep.to(images.device)], batch_size)

    def begin(self, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
        require(len(self.images) > 0, "images must hold at least one image, but none came")
        require(
            self.images.shape[1] == shape[0],
            f"images must have {shape[0]} channels like the model's input, but {self.images.shape[1]} came",
        )
        return {"order": torch.randperm(len(self.images), generator=generator)}

    def batch(self, state: dict[str, Any], shape: Shape, t: int, generator: torch.Generator) -> Tensor:
        count = len(self.images)
        places = torch.arange(t * self.batch_size, (t + 1) * self.batch_size) % count
        chosen = self.images[state["order"][places]].cpu()
        if self.augmented:
            mean = tuple(chosen.mean((0, 2, 3)).tolist())
            return torch.stack([augment(image, shape, mean, generator) for image in chosen])
        require(
            tuple(chosen.shape[1:]) == tuple(shape),
            f"images must be {tuple(shape)} like the model's input, but {tuple(chosen.shape[1:])} came",
        )
        return chosen


def augment(
    image: Float[Tensor, "channels height width"],
    shape: Shape,
    fill: Sequence[float],
    generator: torch.Generator,
    *,
    smooth: bool = False,
) -> Float[Tensor, "channels h w"]:
    """One random view, as the released code of GD-UAP augments: resize, mirror, rotate, blur, crop, resize, crop.

    Short side to `target * s` with `s = 1` or, half of the time, U(.75, 1.5); mirrored half of the time; rotated
    half of the time by ±3, 5, 7 or 10 degrees; blurred half of the time by a Gaussian of sd 1 px and kernel 3, 5,
    7 or 9; a random crop of `target` pixels, padded with `fill`; short side to `8/7 target`; the centre crop.
    The released mirror reverses columns, and so does this one.

    **Arguments:** `image`: in [0, 1]. `shape`: (C, H, W) of the view. `fill`: padding colour, one a channel.
    `smooth`: resize with an anti-aliasing filter; plain bilinear, as released, otherwise.
    """
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as T

    _, height, width = shape
    target = min(height, width)

    def chance() -> bool:
        return float(torch.rand((), generator=generator)) < 0.5

    def pick(options: Sequence[int]) -> int:
        return options[int(torch.randint(len(options), (), generator=generator))]

    scale = 0.75 + 0.75 * float(torch.rand((), generator=generator)) if chance() else 1.0
    view = T.resize(
        image, [round(target * scale)], interpolation=v2.InterpolationMode.BILINEAR, antialias=smooth
    )
    if chance():
        view = T.horizontal_flip(view)
    if chance():
        angle = pick((3, 5, 7, 10)) * (1 if chance() else -1)
        view = T.rotate(view, angle, interpolation=v2.InterpolationMode.BILINEAR, fill=list(fill))
    if chance():
        kernel = pick((3, 5, 7, 9))
        view = T.gaussian_blur(view, [kernel, kernel], [1.0, 1.0])
    short_h, short_w = max(0, height - view.shape[1]), max(0, width - view.shape[2])
    if short_h or short_w:
        edges = [short_w // 2, short_h // 2, short_w - short_w // 2, short_h - short_h // 2]
        view = T.pad(view, edges, fill=list(fill))
    top = int(torch.randint(view.shape[1] - height + 1, (), generator=generator))
    left = int(torch.randint(view.shape[2] - width + 1, (), generator=generator))
    view = view[:, top : top + height, left : left + width]
    view = T.resize(
        view, [round(target * 8 / 7)], interpolation=v2.InterpolationMode.BILINEAR, antialias=smooth
    )
    return T.center_crop(view, [height, width])


def _colour(values: Sequence[float], shape: Shape) -> Tensor:
    require(
        len(values) in (1, shape[0]),
        f"mean must hold one value or one a channel ({shape[0]}), but {len(values)} came",
    )
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1).expand(shape[0], 1, 1)
