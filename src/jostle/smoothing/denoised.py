"""Denoised smoothing: a denoiser before any classifier, in one step (Salman et al. 2020; Carlini et al. 2023)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.training import Trainer
from jostle.smoothing.bounds import check_sigma
from jostle.smoothing.encoders import Encoder
from jostle.smoothing.rrcm import warm_cosine
from jostle.smoothing.schedule import input_scale


class Denoised(nn.Module):
    """`classifier(denoiser(x))` for noisy images in [0, 1]: two networks, one pass each.

    **Arguments:** `denoiser`: from noisy images in [0, 1] to clean ones. `classifier`: of images in [0, 1].

    >>> Denoised(nn.Identity(), nn.Flatten())(torch.zeros(2, 1, 2, 2)).shape
    torch.Size([2, 4])
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier
        self.input_shape = getattr(classifier, "input_shape", None)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Tensor:
        """Logits of the denoised images."""
        return self.classifier(self.denoiser(x))


def diffusion_level(alphas_bar: Float[Tensor, " times"], sigma: float) -> int:
    """The time of a diffusion model whose noise is that of smoothing: `(1 - a_bar) / a_bar = (2 sigma)^2`.

    **Arguments:** `alphas_bar`: the model's products of `1 - beta`, falling. `sigma`: in units of [0, 1].

    >>> diffusion_level(torch.tensor([0.99, 0.8, 0.5, 0.1]), 0.25)  # 1 / (1 + 0.25) = 0.8
    1
    """
    check_sigma(sigma)
    return int((alphas_bar - 1 / (1 + 4 * sigma**2)).abs().argmin())


class OneStep(nn.Module):
    """A diffusion model as a denoiser of images in [0, 1], in a single call (DDS; Carlini et al. 2023, algorithm 1).

    `z = 2 x - 1`, `z_t = sqrt(a_bar) z` at the time where the noise agrees, and the model's guess of the clean image:
    `(z_t - sqrt(1 - a_bar) e(z_t, t)) / sqrt(a_bar)`.

    **Arguments:** `network`: `network(z_t, t)` gives the noise `e` (more channels, as of learnt variances, are cut).
    `alphas_bar`: its products of `1 - beta`. `sigma`: of the noise in the images.

    >>> silent = OneStep(lambda z, t: torch.zeros_like(z), torch.tensor([0.9, 0.5]), 0.5)
    >>> silent(torch.full((1, 1, 1, 1), 0.75)).item()
    0.75
    """

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], alphas_bar: Tensor, sigma: float) -> None:
        super().__init__()
        self.network = network
        self.time = diffusion_level(alphas_bar, sigma)
        self.kept = float(alphas_bar[self.time])

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Clean images, clipped to [0, 1]."""
        z = math.sqrt(self.kept) * (2 * x - 1)
        times = torch.full((len(x),), self.time, device=x.device, dtype=torch.int64)
        noise = self.network(z, times)[:, : x.shape[1]]
        clean = (z - math.sqrt(1 - self.kept) * noise) / math.sqrt(self.kept)
        return ((clean + 1) / 2).clamp(0, 1)


class EncoderDenoiser(nn.Module):
    """A small denoiser of one step: an encoder's features, read out as an image, on top of a shrunken input.

    Preconditioned as EDM: `c_skip z_t + c_out F(c_in z_t)` (Karras et al. 2022, table 1).

    **Arguments:** `encoder`: any [`Encoder`][jostle.smoothing.Encoder]. `shape`: of the images. `sigma`: of the noise.

    >>> from jostle.smoothing import TimedMLP
    >>> EncoderDenoiser(TimedMLP(64), (1, 8, 8), 0.5)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, encoder: Encoder, shape: tuple[int, int, int], sigma: float) -> None:
        super().__init__()
        self.encoder, self.shape, self.t = encoder, shape, 2 * sigma
        self.read = nn.Linear(encoder.width, math.prod(shape))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Denoised images, not clipped, so that it can be trained."""
        z, t = 2 * x - 1, self.t
        skip, out = 0.25 / (t**2 + 0.25), 0.5 * t * float(input_scale(t))
        clean = skip * z + out * self.read(self.encoder(z, t)).reshape(x.shape)
        return (clean + 1) / 2


def fit_denoiser(
    denoiser: nn.Module,
    images: Float[Tensor, "images channels height width"],
    sigma: float,
    generator: torch.Generator,
    *,
    steps: int = 1000,
    batch: int = 128,
    lr: float = 1e-3,
) -> list[float]:
    """Train a denoiser on the squared error, in place (the MSE objective of Salman et al. 2020); no labels needed.

    **Arguments:** `images`: in [0, 1]. `generator`: of batches and noise. `steps`, `batch`, `lr`: Adam with a cosine.
    **Returns:** the mean squared error at each step.
    """
    check_sigma(sigma)
    require(steps >= 1, f"steps must be at least 1, but {steps} came")

    def loss(network: nn.Module, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
        return (network(x + sigma * noise) - x).square().mean()

    optimiser = torch.optim.Adam(denoiser.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(0, steps))
    trainer, losses = Trainer(denoiser.train(), optimiser, loss, schedule=schedule), []
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
        trainer.run([images[chosen.to(images.device)]])
        losses.append(trainer.last)
    denoiser.eval()
    return losses
