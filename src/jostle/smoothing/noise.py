"""The noise of a smoothed classifier: fixed for each input and piece of its draws, whatever the batches are."""

import hashlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import require

Kind = Literal["gaussian", "discrete"]

# A piece has about so many numbers: enough to hide the cost of a call, and on a CPU few enough for a cache.
_CPU_PIECE, _GPU_PIECE = 2**16, 2**20


def seed_of(seed: int, name: int, piece: int) -> int:
    """The seed of a piece of one input's noise, which depends on the seed, the input's number and the piece alone.

    Generators on the CPU take 32 bits: by steps of an odd number no two pieces of an input have the same.

    >>> seed_of(0, 5, 0) == seed_of(0, 5, 0), seed_of(0, 5, 0) == seed_of(0, 5, 1)
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + piece * 0x9E3779B1) % 2**32


def piece_of(entries: int, device: torch.device | str = "cpu") -> int:
    """Draws a piece: what is made at once, fixed by the size of the input and by where noise is drawn.

    >>> piece_of(64), piece_of(3 * 224 * 224)
    (1024, 1)
    """
    piece = _CPU_PIECE if torch.device(device).type == "cpu" else _GPU_PIECE
    return max(1, piece // entries)


Filler = Callable[[Tensor, Tensor, torch.Generator], None]
"""Writes noisy copies of an image into rows: `fill(rows, image, generator)`."""


def gaussian(sigma: float) -> Filler:
    """Add `N(0, sigma^2)` to each entry, drawn in float32 on the generator's device and made in place."""

    def fill(rows: Tensor, image: Tensor, generator: torch.Generator) -> None:
        if rows.dtype == torch.float32 and rows.device.type == generator.device.type:
            rows.normal_(0.0, sigma, generator=generator).add_(image)
        else:
            noise = torch.empty(rows.shape, dtype=torch.float32, device=generator.device)
            rows.copy_(noise.normal_(0.0, sigma, generator=generator).to(rows.device).add_(image))

    return fill


def discrete(sigma: float, levels: int = 255, reach: int = 1) -> Filler:
    """Rounded Gaussian noise on the lattice of 8-bit images, exact in finite precision (Voracek & Hein 2023).

    Floating-point noise is not Gaussian, and false certificates can be built upon the difference. Here
    `round(levels (x + e))` is drawn by inverting its cumulative distribution, with 62 random bits an entry, and
    clipped to `[-reach levels, (1 + reach) levels]`: the network sees a function of an exactly known distribution.

    **Arguments:** `sigma`: of the Gaussian that is rounded. `levels`: steps between 0 and 1. `reach`: how far beyond
    the images the lattice goes.
    """
    from scipy import special

    lattice = np.arange(-reach * levels, (1 + reach) * levels + 1)
    tables: dict[int, Tensor] = {}

    def table(value: int) -> Tensor:
        """Cumulative probabilities, as whole numbers of 2^62, of an entry whose value is `value / levels`."""
        if value not in tables:
            upper = (lattice[:-1] + 0.5 - value) / (sigma * levels)
            tables[value] = torch.from_numpy(np.round(special.ndtr(upper) * 2.0**62).astype(np.int64))
        return tables[value]

    def fill(rows: Tensor, image: Tensor, generator: torch.Generator) -> None:
        steps = image * levels
        whole = steps.round()
        require(
            bool((steps - whole).abs().max() < 1e-3),
            "noise='discrete' is for 8-bit images (multiples of 1/255), but other values came",
        )
        flat = whole.reshape(-1).to(torch.int64)
        # Two halves of 31 bits: torch's integers of 63 bits are drawn with a remainder, these are uniform.
        bits = torch.randint(
            0, 2**31, (2, len(rows), len(flat)), generator=generator, device=generator.device
        )
        uniform = (bits[0] << 31) + bits[1]
        out = rows.reshape(len(rows), -1)
        for value in flat.unique().tolist():
            at = (flat == value).nonzero()[:, 0].to(generator.device)
            chosen = torch.searchsorted(table(int(value)).to(generator.device), uniform[:, at], right=True)
            drawn = (chosen + int(lattice[0])).to(torch.float64) / levels
            out[:, at.to(out.device)] = drawn.to(out.device, out.dtype)

    return fill


def filler(kind: Kind, sigma: float) -> Filler:
    """The filler of a kind of noise.

    **Raises:** `JostleError` for an unknown kind.
    """
    require(kind in ("gaussian", "discrete"), f"noise must be 'gaussian' or 'discrete', but {kind!r} came")
    return gaussian(sigma) if kind == "gaussian" else discrete(sigma)


def entries_of(image: Tensor) -> int:
    """How many numbers an image has."""
    return math.prod(image.shape)
