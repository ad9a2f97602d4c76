"""Small real scenes for dense tasks: handwritten digits before photographs, with masks and depths."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require

CLASSES = 11
"""The background, 0, and the digits 0-9, 1-10."""

FAR, NEAR = 10.0, 2.0
"""Metres: the photograph, and a digit of the largest size."""


class Scenes(NamedTuple):
    """`images` in `[0, 1]`, `masks` with a class a pixel and `depths` in metres."""

    images: Float[Tensor, "count 3 size size"]
    masks: Int[Tensor, "count size size"]
    depths: Float[Tensor, "count size size"]


def make_scenes(
    photographs: Float[Tensor, "photographs 3 height width"],
    digits: Float[Tensor, "digits rows columns"],
    labels: Int[Tensor, " digits"],
    *,
    count: int,
    size: int,
    generator: torch.Generator,
    layers: int = 2,
    heights: tuple[float, float] = (0.5, 0.9),
) -> Scenes:
    """Paste digits on random crops of photographs, the smallest first.

    A digit stands for an object of one real height, so its depth is that of a pinhole camera, inverse to its
    height in the image: `NEAR` at the largest. Near ones hide far ones, and the photograph is a wall at
    `FAR`. Digits are dark on bright scenes and bright on dark ones, in random colours. Everything is drawn
    for all scenes at once.

    **Arguments:** `photographs`: in `[0, 1]`; crops of 60-100 % of the shorter side, mirrored half of the
    time. `digits`: strokes 1 on 0; they are made bolder by a pixel all round. `labels`: 0-9. `count`: scenes.
    `size`: side in pixels. `layers`: digits a scene. `heights`: least and largest height of a digit's frame,
    in shares of the side. `generator`: on the CPU.
    **Raises:** `JostleError` for settings out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> photographs, digits = torch.rand(2, 3, 40, 40), torch.ones(5, 28, 28)
    >>> made = make_scenes(photographs, digits, torch.arange(5), count=4, size=32, generator=g)
    >>> made.images.shape, int(made.masks.max()) <= 5, round(made.depths.min().item()) >= 2
    (torch.Size([4, 3, 32, 32]), True, True)
    """
    low, high = heights
    require(0 < low <= high <= 1, f"heights must satisfy 0 < low <= high <= 1, but {heights} came")
    require(
        count >= 1 and size >= 8 and layers >= 1,
        f"count, size and layers must be at least 1, 8 and 1, but {count}, {size} and {layers} came",
    )
    require(len(digits) == len(labels), f"labels must be one a digit ({len(digits)}), but {len(labels)} came")

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    bold = F.max_pool2d(digits[:, None], 3, stride=1, padding=1)
    which = torch.randint(len(photographs), (count,), generator=generator)
    images = _crops(photographs[which], size, draw)
    masks = torch.zeros(count, size, size, dtype=torch.long)
    depths = torch.full((count, size, size), FAR)
    tall = (low + (high - low) * draw(count, layers)).sort(dim=1).values
    bright = images.mean((1, 2, 3)) > 0.5
    for layer in range(layers):
        share = tall[:, layer]
        pick = torch.randint(len(digits), (count,), generator=generator)
        # A point at p (from -1 to 1) of the scene lies at (p - centre) / share of the digit.
        centre = (draw(count, 2) * 2 - 1) * (1 - share)[:, None]
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / share
        theta[:, :, 2] = -centre / share[:, None]
        grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
        ink = F.grid_sample(bold[pick], grid, align_corners=False)
        shade = draw(count, 3) * 0.4
        colour = torch.where(bright[:, None], shade, 1 - shade)[:, :, None, None]
        images = ink * colour + (1 - ink) * images
        covered = ink[:, 0] > 0.5
        masks = torch.where(covered, labels[pick][:, None, None] + 1, masks)
        depths = torch.where(covered, (NEAR * high / share)[:, None, None], depths)
    return Scenes(images, masks, depths)


def _crops(photographs: Tensor, size: int, draw: Callable[..., Tensor]) -> Tensor:
    count, _, height, width = photographs.shape
    side = 0.6 + 0.4 * draw(count)
    reach = torch.stack([side * min(height, width) / width, side * min(height, width) / height], dim=1)
    centre = (draw(count, 2) * 2 - 1) * (1 - reach)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = reach[:, 0] * torch.where(draw(count) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = reach[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return F.grid_sample(photographs, grid, align_corners=False, padding_mode="border").clamp(0, 1)
