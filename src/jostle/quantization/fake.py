"""Steps of training: integers forward, straight-through gradients backward (HAWQ-V3, section 3)."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jostle.quantization.dyadic import dyadic, shifted
from jostle.quantization.lowering import SNAP, check_bound, integer_layer, pooled_grid, sum_ratios
from jostle.quantization.program import INF, Layer, Step
from jostle.quantization.quantisers import Grid, round_weights, weight_scale

if TYPE_CHECKING:
    from jostle.quantization.network import QuantConfig

FLOAT32 = 2**24
"""Whole numbers up to this are exact in float32."""


class _Straight(torch.autograd.Function):
    """The value of `exact` with the gradient of `surrogate`; `surrogate + (exact - surrogate)` would round."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, exact: Tensor) -> Tensor:
        return exact.to(surrogate.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight(surrogate: Tensor, exact: Tensor) -> Tensor:
    """`exact` forward, `surrogate` backward.

    >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
    >>> straight(3 * x, (3 * x).round()).sum().backward()
    >>> x.grad
    tensor([3., 3.])
    """
    return _Straight.apply(surrogate, exact)  # type: ignore[return-value]


def rounded(real: Tensor, exact: Tensor, ends: tuple[int, int], ste: str) -> Tensor:
    """Codes `exact` of the real-valued codes `real`; `clipped`: no gradient where they lie beyond `ends`."""
    if ste == "clipped":
        inside = (real >= ends[0]) & (real <= ends[1])  # the ends themselves are inside
        real = torch.where(inside, real, real.detach())
    return straight(real, exact)


def ends_of(step: Step, grid: Grid) -> tuple[int, int]:
    """The activation of a step as a clamp of codes."""
    return (
        grid.lower if step.clamp[0] == -INF else grid.code(step.clamp[0]),
        grid.upper if step.clamp[1] == INF else grid.code(step.clamp[1]),
    )


def fake_layer(
    step: Step,
    x: Tensor,
    layer: Layer | None,
    source: Grid,
    target: Grid | None,
    bits: int,
    config: "QuantConfig",
) -> tuple[Tensor, float]:
    """A convolution, linear layer, average or rescaling on codes, in the numbers of the integer model.

    **Returns:** codes, or the accumulator of a last layer and its scale.
    """
    if layer is None:
        assert target is not None
        return _ones(step, x, source, target, config), 0.0
    weight, bias = layer.folded()
    bias = bias + layer.correction
    made = integer_layer(
        step.name, weight, bias, source, target, bits,
        per_channel=config.per_channel, multiplier=config.multiplier,
    )  # fmt: skip
    bound = check_bound(step.name, made.weight, made.bias, source)
    dtype = torch.float32 if bound < FLOAT32 and x.device.type == "cpu" else torch.float64
    scale = made.scale.to(dtype)
    q_w = straight(weight.to(dtype) / scale.reshape(-1, *[1] * (weight.ndim - 1)), made.weight)
    q_b = straight(bias.to(dtype) / (source.scale * scale), made.bias)
    acc = convolve(step, x.to(dtype) - source.zero, q_w, q_b)
    if x.device.type != "cpu":
        # Other devices may multiply by transforms, which leave whole numbers almost whole.
        acc = straight(acc, acc.detach().round())
    if target is None or made.b is None or made.c is None:
        return acc, float(source.scale * made.scale[0])
    shape = (-1, 1, 1) if acc.ndim == 4 else (-1,)
    b, c = made.b.reshape(shape), made.c.reshape(shape)
    ends = ends_of(step, target)
    exact = (dyadic(acc.detach().long(), b, c, config.rounding) + target.zero).clamp(*ends)
    real = acc * (b.double() * torch.exp2(-c.double())).to(dtype) + target.zero
    return rounded(real, exact, ends, config.ste).to(torch.float32), 0.0


def _ones(step: Step, x: Tensor, source: Grid, target: Grid, config: "QuantConfig") -> Tensor:
    if step.op == "avgpool":
        _, b, c = pooled_grid(source, target, step.kernel[0] * step.kernel[1], config.multiplier)
        padded = F.pad(x.double() - source.zero, step.padding)
        acc = window_sum(padded, step)
    else:
        acc = x.double() - source.zero
        b, c = rescaling(source, target)
    ends = ends_of(step, target)
    exact = (
        dyadic(acc.detach().long(), torch.tensor(b, device=x.device), c, config.rounding) + target.zero
    ).clamp(*ends)
    real = acc * (b / 2**c) + target.zero
    return rounded(real, exact, ends, config.ste).to(torch.float32)


def rescaling(source: Grid, target: Grid) -> tuple[int, int]:
    """The multiplier from one grid to another: `rne(S_x / S_y 2^16)`."""
    return max(1, round(source.scale / target.scale * 2**SNAP)), SNAP


def fake_sum(
    step: Step, inputs: list[Tensor], sources: list[Grid], target: Grid, config: "QuantConfig"
) -> Tensor:
    """A residual sum on codes: both terms brought to the output's scale, rounded once."""
    factors, shift = sum_ratios(sources, target)
    ends = ends_of(step, target)
    total = sum(
        f * (x.detach().double() - s.zero).long() for f, x, s in zip(factors, inputs, sources, strict=True)
    )
    assert isinstance(total, Tensor)
    moved = shifted(total + (target.zero << shift), torch.tensor(shift, device=total.device), config.rounding)
    exact = moved.clamp(*ends)
    real: Any = sum(f / 2**shift * (x - s.zero) for f, x, s in zip(factors, inputs, sources, strict=True))
    return rounded(real + target.zero, exact, ends, config.ste)


def unfolded_layer(
    step: Step, x: Tensor, layer: Layer, source: Grid, target: Grid, bits: int, config: "QuantConfig"
) -> Tensor:
    """Phase 1 of training: raw weights rounded, batch normalisation on the batch's own statistics."""
    assert layer.norm is not None
    scale = weight_scale(layer.weight, bits, per_channel=config.per_channel).clamp_min(1e-12)
    wide = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    codes = straight(layer.weight.double() / wide, round_weights(layer.weight, scale, bits))
    weight = (codes * wide).float()
    real = convolve(step, (source.scale * (x - source.zero)).float(), weight, layer.bias)
    out = layer.norm(real).clamp(*step.clamp) if step.clamp != (-INF, INF) else layer.norm(real)
    ends = ends_of(step, target)
    coded = out / target.scale + target.zero
    return rounded(coded, coded.detach().round().clamp(*ends), ends, config.ste)


def convolve(step: Step, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The accumulator of a layer, on whole numbers in floating point."""
    if step.op == "linear":
        return F.linear(x, weight, bias)
    padded = F.pad(x, step.padding) if any(step.padding) else x
    return F.conv2d(padded, weight, bias, step.stride, 0, step.dilation, step.groups)


def window_sum(padded: Tensor, step: Step) -> Tensor:
    """Sums over the windows of a pooling step."""
    return F.avg_pool2d(padded, step.kernel, step.stride, divisor_override=1)
