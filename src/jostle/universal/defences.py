"""Input transformations as defences: what is left of a perturbation after smoothing, compression or crops.

The set of GD-UAP's table on defences, with its parameters: ten crops, Gaussian, median and bilateral
smoothing, bit depth, JPEG and total-variation minimisation. Image quilting and pixel deflection with a
rectifying network (PRN) are left out: the first needs a patch library, the second trained weights that no
package ships.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require

Images = Float[Tensor, "batch channels height width"]


def _check(images: Tensor) -> None:
    require(
        images.ndim == 4,
        f"images must have shape (batch, channels, height, width), but {tuple(images.shape)} came",
    )


def _odd(size: int) -> None:
    require(size >= 1 and size % 2 == 1, f"a window's side must be odd and at least 1, but {size} came")


Defence = Callable[[Images], Images]
"""An input transformation: images in [0, 1] to images in [0, 1], of the same shape."""


@dataclass(frozen=True)
class JPEG:
    """A round trip through JPEG (Pillow, 4:2:0), one image at a time; the input is rounded to 8 bits.

    **Arguments:** `quality`: 1 to 95.

    >>> JPEG(75)(torch.full((1, 3, 8, 8), 0.5)).shape
    torch.Size([1, 3, 8, 8])
    """

    quality: int = 75

    def __post_init__(self) -> None:
        require(1 <= self.quality <= 95, f"quality must lie in 1..95, but {self.quality} came")

    def __call__(self, images: Images) -> Images:
        from PIL import Image

        _check(images)
        require(
            images.shape[1] in (1, 3),
            f"images must have 1 or 3 channels for JPEG, but {images.shape[1]} came",
        )
        bytes_ = (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        out = []
        for picture in bytes_:
            stream = io.BytesIO()
            grey = picture.shape[-1] == 1
            Image.fromarray(picture[..., 0] if grey else picture).save(stream, "JPEG", quality=self.quality)
            with Image.open(stream) as decoded:
                out.append(np.array(decoded).reshape(picture.shape))
        decoded_all = torch.from_numpy(np.stack(out)).to(images.device)
        return decoded_all.permute(0, 3, 1, 2).to(images.dtype) / 255


@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian smoothing as OpenCV's, with mirrored borders.

    OpenCV's "automatic" sigma (0) is `0.3 ((k - 1)/2 - 1) + 0.8`, but for kernels up to 7 it takes the
    binomial weights instead, (1, 4, 6, 4, 1)/16 for 5, and so does this one.

    **Arguments:** `kernel`: odd side in pixels. `sigma`: standard deviation in pixels; `None` is automatic.

    >>> GaussianBlur().weights() * 16
    tensor([1., 4., 6., 4., 1.], dtype=torch.float64)
    """

    kernel: int = 5
    sigma: float | None = None

    def __post_init__(self) -> None:
        _odd(self.kernel)
        require(self.sigma is None or self.sigma > 0, f"sigma must be above 0, but {self.sigma} came")

    def __call__(self, images: Images) -> Images:
        _check(images)
        weights = self.weights().to(images)
        channels, reach = images.shape[1], self.kernel // 2
        padded = F.pad(images, (reach,) * 4, mode="reflect")
        rows = weights.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
        return F.conv2d(F.conv2d(padded, rows, groups=channels), rows.mT, groups=channels)

    def weights(self) -> Float[Tensor, " kernel"]:
        """The one-dimensional kernel; sums to 1."""
        binomial = {3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (2, 7, 14, 18, 14, 7, 2)}
        if self.sigma is None and self.kernel in binomial:
            weights = torch.tensor(binomial[self.kernel], dtype=torch.float64)
        else:
            sigma = self.sigma or 0.3 * ((self.kernel - 1) * 0.5 - 1) + 0.8
            at = torch.arange(self.kernel, dtype=torch.float64) - self.kernel // 2
            weights = torch.exp(-at.square() / (2 * sigma**2))
        return weights / weights.sum()


@dataclass(frozen=True)
class MedianFilter:
    """The median of a square window, a channel at a time, with repeated borders (SciPy).

    **Arguments:** `size`: odd side in pixels.

    >>> MedianFilter(3)(torch.eye(3)[None, None])[0, 0, 1]
    tensor([0., 0., 0.])
    """

    size: int = 5

    def __post_init__(self) -> None:
        _odd(self.size)

    def __call__(self, images: Images) -> Images:
        from scipy.ndimage import median_filter

        _check(images)
        out = median_filter(images.detach().cpu().numpy(), size=(1, 1, self.size, self.size), mode="nearest")
        return torch.from_numpy(out).to(images)


@dataclass(frozen=True)
class Bilateral:
    """The bilateral filter as OpenCV defines it (Tomasi & Manduchi 1998).

    Mean over the disk of diameter `d` with weights `exp(-r^2 / 2 sigma_space^2 - c^2 / 2 sigma_colour^2)`,
    `r` the distance in pixels and `c` the sum over channels of absolute differences in units of 0-255.
    Written here because scikit-image's takes a square window and the Euclidean colour distance: it differs
    from OpenCV's result by more than the filter changes the image.

    **Arguments:** `diameter`: odd, in pixels. `sigma_colour`: in 0-255 units. `sigma_space`: in pixels.

    >>> flat = torch.full((1, 3, 12, 12), 0.25)
    >>> torch.allclose(Bilateral()(flat), flat)
    True
    """

    diameter: int = 9
    sigma_colour: float = 75.0
    sigma_space: float = 75.0

    def __post_init__(self) -> None:
        _odd(self.diameter)
        require(
            self.sigma_colour > 0 and self.sigma_space > 0,
            "sigma_colour and sigma_space must be above 0, but "
            f"{self.sigma_colour} and {self.sigma_space} came",
        )

    def __call__(self, images: Images) -> Images:
        _check(images)
        reach = self.diameter // 2
        height, width = images.shape[-2:]
        padded = F.pad(images, (reach,) * 4, mode="reflect")
        total, weight = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        by_colour = -0.5 * (255 / self.sigma_colour) ** 2
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                far = down**2 + right**2
                if far > reach**2:
                    continue
                view = padded[..., reach + down :, reach + right :][..., :height, :width]
                gap = (view - images).abs().sum(1, keepdim=True)
                part = torch.exp(by_colour * gap.square() - far / (2 * self.sigma_space**2))
                total += part * view
                weight += part
        return total / weight


@dataclass(frozen=True)
class BitDepth:
    """Fewer levels a channel: `round(x (2^bits - 1)) / (2^bits - 1)`.

    **Arguments:** `bits`: 1 to 8.

    >>> BitDepth(1)(torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)).flatten()
    tensor([0., 1.])
    """

    bits: int = 3

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 8, f"bits must lie in 1..8, but {self.bits} came")

    def __call__(self, images: Images) -> Images:
        _check(images)
        levels = 2**self.bits - 1
        return (images * levels).round() / levels


@dataclass(frozen=True)
class TVMinimise:
    """Total-variation minimisation from a random half of the pixels (Guo et al. 2018).

    `min_u weight * sum |grad u|_2 + sum_kept (u - x)^2`, a channel at a time; each value is dropped
    independently with probability `drop`. The released code solves it by split Bregman iterations;
    scikit-image's take no gaps, so the same convex problem is solved here by the primal-dual method of
    Chambolle & Pock (2011), for a whole batch at once. The same call always drops the same pixels, so clean
    and perturbed images meet the same gaps.

    **Arguments:** `weight`: of the total variation, above 0. `drop`: share of dropped values, in [0, 1).
    `steps`: at least 1. `seed`: of the pixels that are dropped.

    >>> flat = torch.full((1, 3, 8, 8), 0.5)
    >>> bool((TVMinimise()(flat) - flat).abs().max() < 1e-3)
    True
    """

    weight: float = 0.03
    drop: float = 0.5
    steps: int = 150
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.weight > 0, f"weight must be above 0, but {self.weight} came")
        require(0 <= self.drop < 1, f"drop must lie in [0, 1), but {self.drop} came")
        require(self.steps >= 1, f"steps must be at least 1, but {self.steps} came")

    def __call__(self, images: Images) -> Images:
        _check(images)
        generator = torch.Generator().manual_seed(self.seed)
        kept = (torch.rand(images.shape, generator=generator) >= self.drop).to(images)
        # Both steps' product with the squared norm of the gradient, at most 8, must not exceed 1.
        step = 8**-0.5
        pull = 2 * step * kept
        u = kept * images + (1 - kept) * _local_mean(images, kept)
        ahead, down, right = u, torch.zeros_like(u), torch.zeros_like(u)
        for _ in range(self.steps):
            down = down + step * F.pad(ahead[..., 1:, :] - ahead[..., :-1, :], (0, 0, 0, 1))
            right = right + step * F.pad(ahead[..., 1:] - ahead[..., :-1], (0, 1))
            over = (torch.hypot(down, right) / self.weight).clamp_min(1)
            down, right = down / over, right / over
            divergence = down - F.pad(down, (0, 0, 1, -1)) + right - F.pad(right, (1, -1))
            before, u = u, (u + step * divergence + pull * images) / (1 + pull)
            ahead = 2 * u - before
        return u.clamp(0, 1)


class TenCrop(nn.Module):
    """A classifier that averages its softmax over ten crops: corners, centre, and their mirror images.

    The crops have `share` of the image's sides (7/8: 224 of 256) and are enlarged to its size again, so that
    the model sees images of the size that it saw without the defence. Returns the logarithm of the mean.

    **Arguments:** `model`: images to logits `(batch, classes)`. `share`: in (0, 1].

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    >>> TenCrop(net)(torch.rand(2, 1, 8, 8)).exp().sum(1).round(decimals=4).tolist()
    [1.0, 1.0]
    """

    def __init__(self, model: nn.Module, share: float = 7 / 8) -> None:
        super().__init__()
        require(0 < share <= 1, f"share must lie in (0, 1], but {share} came")
        self.model, self.share = model, share

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Log-probabilities, averaged over the crops."""
        from torchvision.transforms.v2 import functional as T

        _check(images)
        size = list(images.shape[-2:])
        total: Tensor | None = None
        for crop in T.ten_crop(images, [max(1, round(self.share * side)) for side in size]):
            whole = F.interpolate(crop, size=size, mode="bilinear", align_corners=False)
            part = self.model(whole).softmax(1)
            total = part if total is None else total + part
        assert total is not None
        return (total / 10).log()


DEFENCES: dict[str, Defence | Callable[[nn.Module], nn.Module]] = {
    "ten-crop": TenCrop,
    "gaussian": GaussianBlur(5),
    "median": MedianFilter(5),
    "bilateral": Bilateral(9, 75.0, 75.0),
    "bits-3": BitDepth(3),
    "bits-2": BitDepth(2),
    "jpeg-75": JPEG(75),
    "jpeg-50": JPEG(50),
    "tv-minimise": TVMinimise(0.03, 0.5),
}
"""The paper's defences by name; `TenCrop` wraps the model, the others transform its input."""


def defended(model: nn.Module, name: str) -> nn.Module:
    """A model behind one of `DEFENCES`, to be used in place of the model.

    The transformation acts on the model's input (the perturbed image) and is not differentiated.

    **Raises:** `JostleError` for a name that is not there.

    >>> defended(nn.Flatten(), "bits-2")(torch.full((1, 1, 1, 1), 0.3))
    tensor([[0.3333]])
    """
    require(name in DEFENCES, f"a defence must be one of {', '.join(DEFENCES)}, but {name!r} came")
    defence = DEFENCES[name]
    return TenCrop(model) if defence is TenCrop else Defended(model, defence)  # type: ignore[arg-type]


class Defended(nn.Module):
    """A model whose input passes a defence first."""

    def __init__(self, model: nn.Module, defence: Defence) -> None:
        super().__init__()
        self.model, self.defence = model, defence

    def forward(self, images: Images) -> object:
        """What the model answers to the transformed images."""
        with torch.no_grad():
            clean = self.defence(images)
        return self.model(clean)


def _local_mean(images: Tensor, kept: Tensor) -> Tensor:
    """The mean of the kept neighbours in windows of 5 pixels: where the gaps start from."""
    total = F.avg_pool2d(kept * images, 5, stride=1, padding=2)
    return total / F.avg_pool2d(kept, 5, stride=1, padding=2).clamp_min(1e-6)
