"""What training does to a batch of images before the network sees them."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jostle.core.errors import require
from jostle.style.domains import Domain, floating

ENLARGED = 1.125
"""How much larger an image is made before a random window of its old size is cut out of it."""
STRENGTH, HUE, GREY_ODDS = 0.3, 0.1, 0.1
"""Of colour jitter (brightness, contrast and saturation; hue), and of random grayscale."""
RECOLOURED = ("jitter", "grayscale")


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


def recoloured(
    x: Float[Tensor, "batch c h w"], kind: str, generator: torch.Generator
) -> Float[Tensor, "batch c h w"]:
    """The baselines that change colours instead of styles: colour jitter, or now and then no colour.

    `"jitter"`: brightness, contrast and saturation times a factor of 0.7 to 1.3 each, then the hue turned by up to a
    tenth of the circle, every image by its own draws. `"grayscale"`: grey with odds of a tenth.

    **Arguments:** `x`: images in [0, 1] with three channels. `kind`: see above. `generator`: on the CPU.
    **Raises:** `JostleError` for inputs without colours, such as grey images or cached features.

    >>> x = torch.rand(2, 3, 4, 4)
    >>> recoloured(x, "jitter", torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 4, 4])
    """
    require(kind in RECOLOURED, f"kind must be one of {', '.join(RECOLOURED)}, but {kind!r} came")
    require(
        x.shape[1] == 3, f"{kind} changes colours, which needs three channels, but the input has {x.shape[1]}"
    )
    from torchvision.transforms.v2.functional import adjust_hue, rgb_to_grayscale

    if kind == "grayscale":
        grey = torch.rand(len(x), generator=generator) < GREY_ODDS
        return torch.where(grey.to(x.device)[:, None, None, None], rgb_to_grayscale(x, 3), x)
    draws = 2 * torch.rand(4, len(x), 1, 1, 1, generator=generator) - 1
    brightness, contrast, saturation = (1 + STRENGTH * draws[:3]).to(x)
    x = (brightness * x).clamp(0, 1)
    middle = rgb_to_grayscale(x).mean((2, 3), keepdim=True)
    x = (contrast * x + (1 - contrast) * middle).clamp(0, 1)
    x = (saturation * x + (1 - saturation) * rgb_to_grayscale(x)).clamp(0, 1)
    turns = (HUE * draws[3]).flatten().tolist()
    return torch.stack([adjust_hue(image, turn) for image, turn in zip(x, turns, strict=True)])
