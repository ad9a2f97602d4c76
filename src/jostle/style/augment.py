"""What training does to a batch of images before the network sees them."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jostle.style.domains import Domain, floating

ENLARGED = 1.125
"""How much larger an image is made before a random window of its old size is cut out of it."""


def augmented(
    train: Domain,
    chosen: Int[Tensor, " batch"],
    generator: torch.Generator,
    *,
    mirror: bool = True,
    translate: bool = False,
) -> Float[Tensor, "batch c h w"]:
    """The chosen images, each mirrored with odds of a half and, if asked, shifted with odds of a half.

    The draws come from the generator on its own device, so that a seed means the same augmentation anywhere; the
    images stay on theirs.

    **Arguments:** `chosen`: indices into `train`. `generator`: on the CPU. `mirror`, `translate`: what is done.
    """
    x = floating(train.images[chosen])
    if mirror:
        flip = torch.rand(len(chosen), generator=generator) < 0.5
        turned = x.flip(-1) if train.mirrored is None else train.mirrored[chosen]
        x = torch.where(flip.to(x.device)[:, None, None, None], turned, x)
    if translate:
        moved = torch.rand(len(chosen), generator=generator) < 0.5
        spare = [round(ENLARGED * side) - side for side in x.shape[-2:]]
        corner = torch.stack([torch.randint(n + 1, (len(chosen),), generator=generator) for n in spare], 1)
        x = translated(x, moved, corner)
    return x


def translated(
    x: Float[Tensor, "batch c h w"], moved: Bool[Tensor, " batch"], corner: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch c h w"]:
    """Enlarge images by an eighth (bilinear) and cut windows of the old size out of them, in one resampling.

    **Arguments:** `moved`: which images; the others stay as they are. `corner`: the upper left corners (row,
    column) of the windows in the enlarged images, in pixels.

    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> torch.equal(translated(x, torch.tensor([False]), torch.tensor([[0, 0]])), x)
    True
    """
    theta = torch.zeros(len(x), 2, 3, dtype=torch.float64)
    for row, axis in ((0, -1), (1, -2)):  # grid_sample takes columns first
        old = x.shape[axis]
        new = round(ENLARGED * old)
        theta[:, row, row] = old / new
        theta[:, row, 2] = old / new + 2 * corner[:, 1 - row].double() / new - 1
    grid = F.affine_grid(theta.to(x), list(x.shape), align_corners=False)
    there = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return torch.where(moved.to(x.device)[:, None, None, None], there, x)
