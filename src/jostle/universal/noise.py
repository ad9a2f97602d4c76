"""Perturbations with nothing crafted in them: what a universal perturbation has to beat."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.budgets import Budget, Linf
from jostle.core.errors import require

Delta = Float[Tensor, "1 channels height width"]


def sign_noise(shape: Sequence[int], budget: Linf, generator: torch.Generator) -> Delta:
    """`xi * s` with independent random signs `s`: the loudest noise that an `Linf` budget allows.

    The fair null for a saturated perturbation: its L2 length is `xi sqrt(n)`, that of uniform noise `xi
    sqrt(n/3)`.

    **Arguments:** `shape`: `(C, H, W)`. `budget`: an `Linf` with one radius. `generator`: on the CPU.

    >>> sign_noise((1, 2, 2), Linf(0.5), torch.Generator().manual_seed(0)).abs().unique()
    tensor([0.5000])
    """
    signs = torch.randint(2, (1, *_image(shape)), generator=generator, dtype=torch.float32) * 2 - 1
    return budget.project(signs * float(budget.radius))


def uniform_noise(shape: Sequence[int], budget: Budget, generator: torch.Generator) -> Delta:
    """Noise drawn uniformly from a budget; for `Linf` it is `U[-xi, xi]`, the paper's "baseline" column.

    **Arguments:** `shape`: `(C, H, W)`. `budget`: any with a finite radius. `generator`: on the CPU.

    >>> bool(uniform_noise((3, 8, 8), Linf(0.1), torch.Generator().manual_seed(0)).abs().max() <= 0.1)
    True
    """
    return budget.sample(torch.zeros(1, *_image(shape)), generator)


def shuffled(delta: Delta, generator: torch.Generator) -> Delta:
    """The pixels of a perturbation in random order: the same colours, no structure.

    A pixel keeps its channels together. The histogram, every norm and the saturation stay as they are.

    **Arguments:** `delta`: `(1, C, H, W)`. `generator`: on the CPU.

    >>> ramp = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> shuffled(ramp, torch.Generator().manual_seed(1)).flatten().sort().values
    tensor([0., 1., 2., 3.])
    """
    _, _, height, width = delta.shape
    order = torch.randperm(height * width, generator=generator).to(delta.device)
    return delta.flatten(2)[..., order].reshape(delta.shape)


def spectral_noise(delta: Delta, generator: torch.Generator, rounds: int = 20) -> Delta:
    """Noise with the spectrum of a perturbation and with its histogram, but with phases of its own.

    The surrogate method of Schreiber & Schmitz (1996), in two dimensions and a channel at a time: give random
    phases to the Fourier amplitudes of `delta` (the same turn in every channel, which keeps the colours'
    coherence at the start), then in turn restore the sorted values and the amplitudes. It ends with the
    values, so every norm and the saturation are exactly those of `delta` and the spectrum is close to it.
    What it fails to do and `delta` does is due to the arrangement alone.

    **Arguments:** `delta`: `(1, C, H, W)`. `generator`: on the CPU. `rounds`: at least 1.
    **Raises:** `JostleError` if `rounds` is below 1.

    >>> pattern = torch.outer(torch.arange(8.0), torch.ones(8))[None, None]
    >>> noise = spectral_noise(pattern, torch.Generator().manual_seed(0))
    >>> bool((noise.flatten().sort().values == pattern.flatten().sort().values).all())
    True
    """
    require(rounds >= 1, f"rounds must be at least 1, but {rounds} came")
    size = delta.shape[-2:]
    wide = delta.double()
    spectrum = torch.fft.rfft2(wide)
    values = wide.flatten(2).sort(dim=2).values
    white = torch.fft.rfft2(torch.randn(1, 1, *size, generator=generator, dtype=torch.float64))
    noise = torch.fft.irfft2(spectrum * torch.exp(1j * white.angle().to(delta.device)), s=size)
    for _ in range(rounds):
        ranks = noise.flatten(2).argsort(dim=2).argsort(dim=2)
        matched = values.gather(2, ranks).reshape(delta.shape)
        noise = torch.fft.irfft2(torch.polar(spectrum.abs(), torch.fft.rfft2(matched).angle()), s=size)
    ranks = noise.flatten(2).argsort(dim=2).argsort(dim=2)
    return values.gather(2, ranks).reshape(delta.shape).to(delta.dtype)


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    require(
        len(shape) == 3 and min(shape) >= 1,
        f"shape must be (channels, height, width), but {tuple(shape)} came",
    )
    channels, height, width = shape
    return channels, height, width
