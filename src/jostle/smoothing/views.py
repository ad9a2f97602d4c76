"""Views of an image for self-supervision: one light, two strong; whole batches at once, from one generator."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from jostle.core.errors import require


class Views(ABC):
    """Makes a light view and two strong ones of each image in [0, 1]: `views(x, generator)`."""

    @abstractmethod
    def light(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The view on which representations are kept the same along the noise."""

    @abstractmethod
    def strong(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A view that must still be told from those of other images."""

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The light view, then two strong ones."""
        return self.light(x, generator), self.strong(x, generator), self.strong(x, generator)


@dataclass(frozen=True)
class AffineViews(Views):
    """For digits: strong views are turned, moved, scaled and brightened a little; the light view is the image.

    **Arguments:** `turn`: degrees at most. `move`: share of the side at most. `scale`: at most, up or down.
    `brightness`: at
    most, up or down.

    >>> x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> light, one, two = AffineViews()(x, torch.Generator().manual_seed(0))
    >>> torch.equal(light, x), one.shape == x.shape, torch.equal(one, two)
    (True, True, False)
    """

    turn: float = 15.0
    move: float = 0.12
    scale: float = 0.15
    brightness: float = 0.2

    def light(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def strong(self, x: Tensor, generator: torch.Generator) -> Tensor:
        angle = _signed(len(x), generator, x) * math.radians(self.turn)
        size = 1 + _signed(len(x), generator, x) * self.scale
        shift = 2 * self.move * torch.stack([_signed(len(x), generator, x) for _ in range(2)], 1)
        cos, sin = angle.cos() * size, angle.sin() * size
        rows = torch.stack(
            [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
        )
        moved = _sample(x, rows, x.shape[-2:])
        bright = 1 + _signed(len(x), generator, x) * self.brightness
        return (moved * bright[:, None, None, None]).clamp(0, 1)


@dataclass(frozen=True)
class ColourViews(Views):
    """For photographs: SimCLR's crops, flips, colours, greys, blurs and solarisation; the light view is a flip.

    **Arguments:** `crop`: smallest share of the area (the paper: 0.08). `jitter`: brightness, contrast and saturation
    at most (0.4, 0.4, 0.2), with probability 0.8. `grey`, `blur`, `solarise`: probabilities.

    >>> x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> light, one, two = ColourViews()(x, torch.Generator().manual_seed(0))
    >>> light.shape == one.shape == two.shape == x.shape
    True
    """

    crop: float = 0.2
    jitter: tuple[float, float, float] = (0.4, 0.4, 0.2)
    grey: float = 0.2
    blur: float = 0.0
    solarise: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.crop <= 1, f"crop must lie in (0, 1], but {self.crop} came")

    def light(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(_coin(x, 0.5, generator), x.flip(-1), x)

    def strong(self, x: Tensor, generator: torch.Generator) -> Tensor:
        area = self.crop + (1 - self.crop) * _unit(len(x), generator, x)
        ratio = torch.exp(_signed(len(x), generator, x) * math.log(4 / 3))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        left = (1 - width) * _signed(len(x), generator, x)
        top = (1 - height) * _signed(len(x), generator, x)
        mirror = torch.where(_unit(len(x), generator, x) < 0.5, -1.0, 1.0)
        zero = torch.zeros_like(area)
        rows = torch.stack(
            [torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1
        )
        y = _sample(x, rows, x.shape[-2:])
        y = torch.where(_coin(x, 0.8, generator), self._jittered(y, generator), y)
        y = torch.where(_coin(x, self.grey, generator), _grey(y).expand_as(y), y)
        if self.blur:
            y = torch.where(_coin(x, self.blur, generator), _blurred(y), y)
        return torch.where(_coin(x, self.solarise, generator) & (y > 0.5), 1 - y, y)

    def _jittered(self, x: Tensor, generator: torch.Generator) -> Tensor:
        light, contrast, colour = (
            (1 + most * _signed(len(x), generator, x))[:, None, None, None] for most in self.jitter
        )
        y = (x * light).clamp(0, 1)
        middle = _grey(y).mean((2, 3), keepdim=True)
        y = (middle + contrast * (y - middle)).clamp(0, 1)
        return (_grey(y) + colour * (y - _grey(y))).clamp(0, 1)


def _unit(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device).to(like.device)


def _signed(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return 2 * _unit(count, generator, like) - 1


def _coin(x: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    return (_unit(len(x), generator, x) < chance)[:, None, None, None]


def _sample(x: Tensor, rows: Tensor, size: tuple[int, ...]) -> Tensor:
    grid = functional.affine_grid(rows, [len(x), x.shape[1], *size], align_corners=False)
    return functional.grid_sample(
        x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device, dtype=x.dtype)
    return (x * weights[:, None, None]).sum(1, keepdim=True)


def _blurred(x: Tensor) -> Tensor:
    """A binomial kernel of side 5, close to a Gaussian of standard deviation 1."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device, dtype=x.dtype) / 16
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 5, 5)
    return functional.conv2d(functional.pad(x, (2, 2, 2, 2), "reflect"), kernel, groups=x.shape[1])


def views_for(shape: tuple[int, int, int]) -> Views:
    """Colour views for photographs, affine ones for grey digits."""
    return ColourViews() if shape[0] == 3 else AffineViews()
