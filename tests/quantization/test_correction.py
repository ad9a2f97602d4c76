"""Bias correction: means are put right, integers stay integers, and a change of bits drops what was made for others."""

import pytest
import torch
from quantization.nets import Branches, Tiny, pictures, seeded
from torch import nn

from jostle.core.errors import JostleError
from jostle.quantization import QAT, QuantConfig, correct_bias, fit_qat, quantize, to_integer
from jostle.quantization.integer import to_pixels


def test_the_mean_of_every_channel_is_put_right_to_half_a_step_of_the_bias() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(384, 4))
    )
    images = pictures(16, 3, 16, 16)
    network = quantize(model, images, QuantConfig(weight_bits=3))
    first = network.program.names[0]
    with torch.no_grad():
        weight, bias = network.layer(first).folded()
        wanted = nn.functional.conv2d(images, weight, bias, 2, 1).mean((0, 2, 3))
        node, source = to_integer(network)[first], network.grids()["input"]
        scale = node.b * 2.0**-16 * network.grids()[first].scale

        def found() -> torch.Tensor:
            node = to_integer(network)[first]
            padded = nn.functional.pad(to_pixels(images).long() - source.zero, (1, 1, 1, 1))
            acc = nn.functional.conv2d(padded, node.weight, node.bias, 2)
            return (acc.double().mean((0, 2, 3)) * scale).float()

        step = float(scale.max())
        before = (found() - wanted).abs().max()
        correct_bias(network, images)
        after = (found() - wanted).abs().max()
    assert float(before) > 20 * step and float(after) <= 0.5 * step + 1e-5


@pytest.mark.parametrize("build", [Branches, Tiny])
def test_few_bits_come_nearer_to_the_network_and_stay_exact(build: type[nn.Module]) -> None:
    model, images = seeded(build), pictures(24, *build.input_shape)
    held = pictures(12, *build.input_shape, seed=1)
    network = quantize(model, images, QuantConfig(weight_bits=3))
    with torch.no_grad():
        real = network.float_forward(held)
        before = (network(held) - real).square().mean()
        correct_bias(network, images, batch=7)
        after = (network(held) - real).square().mean()
        assert float(after) < 0.9 * float(before)
        assert torch.equal(network.float_forward(held), real)  # the floating-point network is as it was
        assert torch.equal(network(held), to_integer(network).logits(held))
        kept = {name: network.layer(name).correction.clone() for name in network.program.names}
        correct_bias(network, images)
    for name, value in kept.items():  # a second time changes nothing
        assert torch.allclose(network.layer(name).correction, value, atol=1e-6), name


def test_other_bits_and_late_folding_drop_it() -> None:
    images = pictures(8, 1, 28, 28)
    network = correct_bias(quantize(seeded(Tiny), images, QuantConfig(weight_bits=4)), images)
    assert bool((network.layer("a").correction != 0).any())
    network.set_bits({"a": 8, "b": 4})
    assert bool((network.layer("a").correction == 0).all()) and bool(
        (network.layer("b").correction != 0).any()
    )
    fit_qat(network, images, torch.arange(8), QAT(epochs=1, batch=4, fold_after=0.5, lr=1e-4))
    assert bool((network.layer("b").correction == 0).all())
    assert torch.equal(network(images), to_integer(network).logits(images))


def test_no_images() -> None:
    with pytest.raises(JostleError, match="bias correction needs at least one image"):
        correct_bias(quantize(seeded(Tiny), pictures(2, 1, 28, 28)), torch.zeros(0, 1, 28, 28))
