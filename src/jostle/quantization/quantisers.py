"""Uniform quantisers: grids of integers for real numbers, and how their ranges are found."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require

Mode = Literal["unsigned", "symmetric", "affine"]
"""What activations get: `unsigned`: all codes for positive tensors, a zero point for signed ones. `affine`: always
a zero point, from 0 up. `symmetric`: signed codes around 0, also after a ReLU, as the paper's 8-bit models do."""

Calibration = Literal["minmax", "ema", "percentile", "mse"]
"""How a range is found: the extremes, their moving averages, a percentile, or the least rounding error."""

NARROWEST = 1e-8


@dataclass(frozen=True)
class Grid:
    """The numbers `scale (q - zero)` for whole `q` in `lower` to `upper` (HAWQ-V3, section 3).

    >>> Grid.symmetric(1.27, 8)
    Grid(scale=0.01, zero=0, lower=-128, upper=127)
    >>> Grid.affine(0.0, 255.0, 8)
    Grid(scale=1.0, zero=0, lower=0, upper=255)
    """

    scale: float
    zero: int
    lower: int
    upper: int

    @classmethod
    def symmetric(cls, bound: float, bits: int, *, narrow: bool = False) -> "Grid":
        """`S = max(bound, 1e-8) / n` with `n = 2^(bits-1) - 1`, codes `-n-1` (`narrow`: `-n`) to `n`."""
        n = 2 ** (_bits(bits) - 1) - 1
        return cls(max(float(bound), NARROWEST) / n, 0, -n if narrow else -n - 1, n)

    @classmethod
    def affine(cls, low: float, high: float, bits: int) -> "Grid":
        """`S = max(high - low, 1e-8) / n` with `n = 2^bits - 1`, `z = rne(-low / S)`, codes 0 to `n`.

        The range is widened to hold 0, so that padding with zero is exact.
        """
        n = 2 ** _bits(bits) - 1
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = max(high - low, NARROWEST) / n
        return cls(scale, min(max(round(-low / scale), 0), n), 0, n)

    @classmethod
    def around(cls, low: float, high: float, bits: int, mode: Mode) -> "Grid":
        """The grid of a tensor that was seen between `low` and `high`."""
        if mode == "symmetric":
            return cls.symmetric(max(abs(low), abs(high)), bits)
        require(
            mode in ("unsigned", "affine"),
            f"act_mode must be unsigned, symmetric or affine, but {mode!r} came",
        )
        return cls.affine(low, high, bits)

    def quantise(self, real: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """`clamp(rne(r / S) + z)`."""
        return (torch.round(real.double() / self.scale) + self.zero).clamp(self.lower, self.upper).long()

    def dequantise(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`S (q - z)`, in float64."""
        return self.scale * (codes - self.zero).double()

    def code(self, real: float) -> int:
        """The code of one number, clamped; infinities give the ends."""
        if real in (float("inf"), float("-inf")):
            return self.upper if real > 0 else self.lower
        return min(max(round(real / self.scale) + self.zero, self.lower), self.upper)


def weight_scale(
    weight: Float[Tensor, "out ..."], bits: int, *, per_channel: bool = True
) -> Float[Tensor, " out"]:
    """Symmetric scales `max|W_c| / (2^(bits-1) - 1)` of a layer's weights, one an output channel, in float64.

    A channel without weights gets 0: the caller chooses a scale that suits its bias.

    >>> weight_scale(torch.tensor([[1.27, 0.0], [0.0, 0.0]]), 8)
    tensor([0.0100, 0.0000], dtype=torch.float64)
    """
    n = 2 ** (_bits(bits) - 1) - 1
    bound = weight.detach().double().flatten(1).abs().amax(1)
    if not per_channel:
        bound = bound.max().expand(len(bound))
    return bound / n


def round_weights(
    weight: Float[Tensor, "out ..."], scale: Float[Tensor, " out"], bits: int
) -> Int[Tensor, "out ..."]:
    """`clamp(rne(W / S))` within the codes of `bits`; all 0 where the scale is 0."""
    n = 2 ** (_bits(bits) - 1) - 1
    wide = scale.reshape(-1, *[1] * (weight.ndim - 1))
    codes = torch.where(
        wide > 0, weight.detach().double() / wide.clamp_min(torch.finfo(torch.float64).tiny), 0
    )
    return torch.round(codes).clamp(-n - 1, n).long()


class Range:
    """The range of one activation, gathered over batches.

    `minmax` keeps the extremes; `ema` averages each batch's, `new = m old + (1 - m) batch`, the first batch
    starting it; `percentile` cuts the top (and, of signed tensors, the bottom) 0.1 % of each batch and averages;
    `mse` scans 40 shrunken ranges of each batch's histogram for the least squared error of `bits`, and averages.

    >>> seen = Range("ema", momentum=0.9)
    >>> for top in (1.0, 2.0):
    ...     seen.see(torch.tensor([0.0, top]))
    >>> seen.low, round(seen.high, 3)
    (0.0, 1.1)
    """

    def __init__(
        self, method: Calibration = "minmax", *, bits: int = 8, momentum: float = 0.99, keep: float = 99.9
    ):
        known = ("minmax", "ema", "percentile", "mse")
        require(method in known, f"calibration must be one of {', '.join(known)}, but {method!r} came")
        require(0 <= momentum < 1, f"momentum must lie in [0, 1), but {momentum} came")
        self.method, self.bits, self.momentum, self.keep = method, bits, momentum, keep
        self.low = self.high = float("nan")
        self.batches = 0

    def see(self, tensor: Float[Tensor, "..."]) -> None:
        """Take a batch into account.

        **Raises:** `JostleError` if it holds NaN or infinite values.
        """
        low, high = (float(value) for value in torch.aminmax(tensor.detach()))
        require(
            abs(low) < float("inf") and abs(high) < float("inf"),
            "the values hold NaN or infinity; look at the model's weights and at the images",
        )
        if self.method == "percentile":
            low, high = _percentile(tensor.detach(), low, self.keep)
        elif self.method == "mse":
            low, high = _least_error(tensor.detach(), low, high, self.bits)
        self.batches += 1
        if self.batches == 1:
            self.low, self.high = low, high
        elif self.method == "minmax":
            self.low, self.high = min(self.low, low), max(self.high, high)
        else:
            m = self.momentum if self.method == "ema" else 1 - 1 / self.batches
            self.low, self.high = m * self.low + (1 - m) * low, m * self.high + (1 - m) * high


def _percentile(tensor: Tensor, low: float, keep: float) -> tuple[float, float]:
    flat = tensor.flatten().float()
    share = (100 - keep) / 100
    top = max(1, round(share * flat.numel()))
    high = float(torch.topk(flat, top).values[-1])
    if low < 0:
        low = float(torch.topk(flat, top, largest=False).values[-1])
    return min(low, 0.0), max(high, 0.0)


def _least_error(tensor: Tensor, low: float, high: float, bits: int) -> tuple[float, float]:
    """Of shrunken ranges, that of the least squared error of rounding and cutting, on a histogram of the values."""
    if high <= low:
        return low, high
    counts = torch.histc(tensor.float(), bins=2048, min=low, max=high).double()
    width = (high - low) / len(counts)
    centres = low + width * (torch.arange(len(counts), dtype=torch.float64, device=tensor.device) + 0.5)
    best, chosen = float("inf"), (low, high)
    for step in range(40):
        share = 1 - step / 50
        grid = Grid.affine(low * share, high * share, bits)
        error = float((counts * (grid.dequantise(grid.quantise(centres)) - centres) ** 2).sum())
        if error < best:
            best, chosen = error, (low * share, high * share)
    return chosen


def _bits(bits: int) -> int:
    require(2 <= bits <= 16, f"bits must lie in 2 to 16, but {bits} came")
    return bits
