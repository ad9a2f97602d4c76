"""Batch normalisation folded into the layer before it."""

import torch
from jaxtyping import Float
from torch import Tensor


def fold(
    weight: Float[Tensor, "out ..."],
    bias: Float[Tensor, " out"] | None,
    gain: Float[Tensor, " out"],
    shift: Float[Tensor, " out"],
    mean: Float[Tensor, " out"],
    variance: Float[Tensor, " out"],
    eps: float,
) -> tuple[Float[Tensor, "out ..."], Float[Tensor, " out"]]:
    """Weights and bias of one layer that does what a layer and its batch normalisation do.

    `W' = W g / sqrt(v + eps)` and `b' = (b - m) g / sqrt(v + eps) + s` a channel, with the running statistics `m`
    and `v`, the gain `g` and the shift `s`. Differentiable in `W`, `b`, `g` and `s`.

    >>> one = torch.ones(1)
    >>> weight, bias = fold(torch.full((1, 1), 2.0), None, one, one, one, 4 * one, 0.0)
    >>> weight.item(), bias.item()
    (1.0, 0.5)
    """
    factor = gain * torch.rsqrt(variance + eps)
    base = -mean if bias is None else bias - mean
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), base * factor + shift
