"""Bias correction: what rounding a layer's weights adds to the mean of a channel is taken off its bias."""

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.quantization.fake import convolve
from jostle.quantization.network import Quantised
from jostle.quantization.program import LAYERS
from jostle.quantization.sensitivities import rounding_errors


@torch.no_grad()
def correct_bias(
    network: Quantised, images: Float[Tensor, "images channels height width"], *, batch: int = 16
) -> Quantised:
    """Take the mean error that rounded weights make off each layer's bias (Nagel et al., arXiv 1906.04721, 4.2).

    Rounding gives channel `c` the error `sum dW_c x`, whose mean over images and places is not 0, and which moves
    everything behind it. `b'_c = b_c - E[sum dW_c x]`, from the activations `x` of the floating-point network. It
    costs nothing at inference: the bias is an integer before and after. The fewer the bits, the more it helps.

    **Arguments:** `network`: calibrated; corrected in place for the bits that it has now: `set_bits` drops the
    corrections of the layers that it changes, so correct again after it. `images`: in [0, 1], such as it was
    calibrated on. `batch`: how many at a time.
    **Returns:** the network.
    **Raises:** `JostleError` if there are no images, or the network was not calibrated.

    >>> from torch import nn
    >>> from jostle.quantization import QuantConfig, quantize, to_integer
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> images = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> network = quantize(net, images, QuantConfig(weight_bits=2))
    >>> before = (to_integer(network).logits(images) - net(images)).mean(0).abs().max()
    >>> after = (to_integer(correct_bias(network, images)).logits(images) - net(images)).mean(0).abs().max()
    >>> bool(before > 0.05), bool(after < 0.01)
    (True, True)
    """
    require(len(images) > 0, "bias correction needs at least one image, but none came")
    errors = rounding_errors(network, sorted(set(network.weight_bits.values())))
    layers = [step for step in network.program.steps if step.op in LAYERS]
    total = {step.name: torch.zeros_like(network.layer(step.name).correction) for step in layers}
    for part in images.split(batch):
        values = network.activations(part)
        for step in layers:
            error = convolve(
                step, values[step.inputs[0]], errors[step.name, network.weight_bits[step.name]], None
            )
            total[step.name] += error.flatten(2).mean(2).sum(0) if error.ndim == 4 else error.sum(0)
    for name, value in total.items():
        network.layer(name).correction.copy_(-value / len(images))
    return network
