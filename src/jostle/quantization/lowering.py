"""From real weights and grids to integers: the one place where multipliers, biases and bounds are made."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require
from jostle.quantization.dyadic import SNAP, decompose31, ratio, snap
from jostle.quantization.quantisers import Grid, round_weights, weight_scale

INT32 = 2**31 - 1
SUM_SHIFT = 12
"""Shift of the ratios of a sum: float32 engines are exact while codes times ratios stay below 2^24 steps."""


@dataclass(frozen=True)
class IntegerLayer:
    """What a layer computes with: `clamp(DN(b / 2^c) (sum (q_x - z_x) weight + bias) + z_y)`.

    `scale`: of the weights, by output channel; metadata. `b` is None for a last layer, whose output stays 32 bits.
    """

    weight: Int[Tensor, "out ..."]
    bias: Int[Tensor, " out"]
    b: Int[Tensor, " out"] | None
    c: Int[Tensor, " out"] | None
    scale: Float[Tensor, " out"]


def integer_layer(
    name: str,
    weight: Float[Tensor, "out ..."],
    bias: Float[Tensor, " out"],
    source: Grid,
    target: Grid | None,
    bits: int,
    *,
    per_channel: bool = True,
    multiplier: str = "snapped16",
) -> IntegerLayer:
    """Quantise the weights of a layer between two grids (HAWQ-V3, section 3.1).

    The multiplier of a channel is `M = S_x S_w / S_y`. `snapped16` takes `b = max(1, ceil(M 2^16))` and *redefines*
    `S_w = b 2^-16 S_y / S_x`, so that `b / 2^16` is exact; `dyadic31` rounds `M` to 31 bits. The bias has scale
    `S_x S_w`; where a channel's weights are so small that it would not fit 32 bits, `S_w` is widened.

    **Arguments:** `name`: for the sentences. `weight`, `bias`: real. `source`, `target`: grids of input and output;
    no target: the last layer, with one scale for all channels, so that logits can be compared. `bits`: of the weights.
    **Raises:** `JostleError` if values are not finite, a multiplier is out of range, or 32 bits could overflow.
    """
    W, B = weight.detach().double(), bias.detach().double()
    require(
        bool(W.isfinite().all()) and bool(B.isfinite().all()), f"layer {name!r} has NaN or infinite weights"
    )
    scale = weight_scale(W, bits, per_channel=per_channel and target is not None)
    floor = B.abs() / (source.scale * 2.0**30)
    if target is None:
        scale = torch.maximum(scale, floor.max().expand(len(scale)))
        scale = torch.where(scale > 0, scale, 1.0)
        b = c = None
    else:
        # A channel without weights only passes on its bias: one code of the output a step.
        scale = torch.where(scale > 0, torch.maximum(scale, floor), target.scale / source.scale)
        factor = scale * source.scale / target.scale
        require(
            float(factor.max()) < 256,
            f"layer {name!r} needs a multiplier of {float(factor.max()):.3g}, above 256: its output's range "
            f"({target.scale * (target.upper - target.lower):.3g} wide) is too narrow; calibrate on more images",
        )
        if multiplier == "snapped16":
            b = snap(factor)
            c = torch.full_like(b, SNAP)
            scale = b.double() * 2.0**-SNAP * target.scale / source.scale
        else:
            b, c = decompose31(factor)
    codes = round_weights(W, scale, bits)
    shift = torch.round(B / (source.scale * scale)).long()
    check_bound(name, codes, shift, source)
    return IntegerLayer(codes, shift, b, c, scale)


def check_bound(name: str, weight: Tensor, bias: Tensor, source: Grid) -> int:
    """The largest size that the accumulator of a layer can have: `max_c sum|q_w| max|q_x - z_x| + |q_b|`.

    **Raises:** `JostleError` if it does not fit 32 bits.
    """
    reach = max(source.upper - source.zero, source.zero - source.lower)
    bound = int((weight.abs().flatten(1).sum(1) * reach + bias.abs()).max())
    require(
        bound <= INT32,
        f"the accumulator of layer {name!r} could reach {bound:,}, more than 32 bits hold; give it fewer bits",
    )
    return bound


def pooled_grid(source: Grid, target: Grid, area: int, multiplier: str) -> tuple[Grid, int, int]:
    """The multiplier of an average over `area` codes, and the grid that makes it exact.

    `M = S_x / (area S_y)`: one dyadic step, never a division. Snapped, `b = floor(M 2^16)` and `S_y` becomes
    `S_x 2^16 / (area b)`, at most `1/b` wider.

    **Returns:** the output's grid, `b` and `c`.
    """
    factor = source.scale / (area * target.scale)
    if multiplier != "snapped16":
        b, c = decompose31(torch.tensor([factor], dtype=torch.float64))
        return target, int(b), int(c)
    b = math.floor(factor * 2**SNAP * (1 + 2**-45))
    require(
        1 <= b < 2**24,
        f"an average over {area} codes needs a multiplier of {factor:.3g}, which 16 bits cannot hold",
    )
    scale = source.scale * 2**SNAP / (area * b)
    low = (target.lower - target.zero) * target.scale
    zero = min(max(round(target.lower - low / scale), target.lower), target.upper)
    return Grid(scale, zero, target.lower, target.upper), b, SNAP


def sum_ratios(sources: list[Grid], target: Grid) -> tuple[list[int], int]:
    """The numerators of the ratios `S_i / S_y` of a sum, and their common shift.

    Twelve bits, fewer where float32 engines would no longer hold the sum exactly; 20 for streams of more bits.
    """
    wide = target.upper - target.lower > 255
    shift = 20 if wide else SUM_SHIFT
    values = [source.scale / target.scale for source in sources]
    while not wide and shift > 0:
        reach = sum(
            ratio(v, shift) * max(s.upper - s.zero, s.zero - s.lower, s.upper, -s.lower, s.zero)
            for v, s in zip(values, sources, strict=True)
        )
        if 2 * reach + (abs(target.zero) << shift) < 2**24:
            break
        shift -= 1
    return [ratio(v, shift) for v in values], shift
