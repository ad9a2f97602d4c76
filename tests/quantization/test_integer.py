"""The integer model: equal to the training forward, to a float64 simulation, and saved without loss."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization.nets import Branches, Tiny, pictures, seeded
from torch import nn
from torch.nn import functional as F

from jostle.core.errors import JostleError
from jostle.quantization import IntegerModel, QuantConfig, prepare, quantize, to_integer
from jostle.quantization.fake import straight
from jostle.quantization.integer import reference_step, to_pixels
from jostle.quantization.lowering import check_bound, integer_layer, pooled_grid, sum_ratios
from jostle.quantization.quantisers import Grid

CONFIGS = {
    "default": QuantConfig(),
    "stream of 16 bits": QuantConfig(residual_bits=16),
    "31 bits, half up": QuantConfig(multiplier="dyadic31", rounding="half_up"),
    "truncate": QuantConfig(rounding="truncate"),
    "symmetric": QuantConfig(act_mode="symmetric"),
    "4 bits": QuantConfig(weight_bits=4, act_bits=4),
    "one scale": QuantConfig(per_channel=False),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request: pytest.FixtureRequest) -> QuantConfig:
    return request.param


@pytest.mark.parametrize("build", [Branches, Tiny])
def test_training_forward_and_reference_agree_bit_for_bit(
    build: type[nn.Module], config: QuantConfig
) -> None:
    model = seeded(build)
    images = pictures(8, *model.input_shape)
    network = quantize(model, images, config)
    integers = to_integer(network)
    ours, codes = integers.tensors(to_pixels(images)), network.codes(images)
    assert list(ours) == list(codes)
    for name, tensor in ours.items():
        assert tensor.dtype == torch.int64 and bool((tensor == codes[name].long()).all()), name
        assert bool((codes[name] == codes[name].round()).all())
    assert torch.equal(integers.logits(images), network(images))


def simulated(integers: IntegerModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same integers by float64 arithmetic: real multipliers, `round`, no shift anywhere."""
    values = {"input": pixels.double() + integers.nodes[0].lower}
    for node in integers.nodes[1:]:
        x = [values[name] for name in node.inputs]
        if node.op in ("conv", "linear"):
            w, b = node.weight.double(), node.bias.double()
            if node.op == "conv":
                padded = F.pad(x[0] - node.zeros[0], node.padding)
                acc = F.conv2d(padded, w, b, node.stride, 0, node.dilation, node.groups)
            else:
                acc = F.linear(x[0] - node.zeros[0], w, b)
            if node.b is not None:
                m = (node.b.double() / 2.0 ** node.c.double()).reshape((-1, 1, 1) if acc.ndim == 4 else (-1,))
                acc = (torch.round(acc * m) + node.zero).clamp(node.lower, node.upper)
            values[node.name] = acc
        elif node.op == "add":
            r = node.b.double() / 2.0 ** float(node.c)
            total = (x[0] - node.zeros[0]) * r[0] + (x[1] - node.zeros[1]) * r[1]
            values[node.name] = torch.round(total + node.zero).clamp(node.lower, node.upper)
        elif node.op == "maxpool":
            padded = F.pad(x[0], node.padding, value=float("-inf"))
            values[node.name] = F.max_pool2d(padded, node.kernel, node.stride, 0, node.dilation)
        elif node.op == "concat":
            values[node.name] = torch.cat(x, 1)
        else:
            assert node.op == "flatten"
            values[node.name] = x[0].flatten(1)
    return values


@pytest.mark.parametrize("build", [Branches, Tiny])
def test_reference_equals_a_float64_simulation(build: type[nn.Module]) -> None:
    model = seeded(build)
    pixels = to_pixels(pictures(8, *model.input_shape))
    integers = to_integer(quantize(model, pixels / 255))
    wanted = simulated(integers, pixels)
    for name, tensor in integers.tensors(pixels).items():
        assert bool((tensor.double() == wanted[name]).all()), name


def test_it_is_near_the_network_and_nearer_with_more_bits() -> None:
    model = seeded(Branches)
    images = pictures(32, 3, 16, 16)
    errors = []
    for bits in (8, 6, 4):
        network = quantize(model, images, QuantConfig(weight_bits=bits, act_bits=bits))
        errors.append(
            float((to_integer(network).logits(images) - model(images)).detach().square().mean().sqrt())
        )
    spread = float(model(images).detach().std())
    assert errors[0] < 0.05 * spread and errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("bits, act", [(4, 8), (8, 4)])
def test_bits_of_single_layers(bits: int, act: int) -> None:
    model = seeded(Branches)
    images = pictures(8, 3, 16, 16)
    network = quantize(model, images)
    network.set_bits({"second": (bits, act)})
    integers = to_integer(network)
    node = integers["second"]
    assert int(node.weight.abs().max()) in range(2 ** (bits - 1) - 2, 2 ** (bits - 1) + 1)
    # What feeds the layer is read by the sum too: it keeps 8 bits.
    assert integers[node.inputs[0]].upper == 255
    assert bool((integers.run(to_pixels(images)) == network.codes(images)["head"].long()).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.floats(0.02, 3.0), st.floats(0.01, 5.0), st.integers(0, 10**6))
def test_a_layer_in_integers_is_near_the_layer(bits: int, size: float, spread: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = spread * torch.randn(4, 6, generator=draw, dtype=torch.float64)
    bias = torch.randn(4, generator=draw, dtype=torch.float64)
    source = Grid.affine(-size, 2 * size, 8)
    x = source.quantise(3 * size * torch.rand(50, 6, generator=draw) - size)
    real = source.dequantise(x) @ weight.T + bias
    target = Grid.affine(float(real.min()), float(real.max()), 8)
    made = integer_layer("a layer", weight, bias, source, target, bits)
    assert int(made.weight.abs().max()) <= 2 ** (bits - 1)
    # Snapped: multiplier and scale say the same thing, exactly.
    assert torch.allclose(
        made.b.double() / 2**16, source.scale * made.scale / target.scale, rtol=1e-12, atol=0
    )
    codes = (x - source.zero) @ made.weight.T + made.bias
    back = codes * (source.scale * made.scale)
    reach = (source.dequantise(x).abs().sum(1, keepdim=True) + source.scale) * made.scale / 2
    assert bool(((back - real).abs() <= reach * (1 + 1e-9) + source.scale * made.scale).all())


def test_dead_channels_keep_their_bias() -> None:
    weight = torch.zeros(2, 3, dtype=torch.float64)
    weight[0, 0] = 1.0
    bias = torch.tensor([0.1, -37.0], dtype=torch.float64)
    source, target = Grid.affine(0, 1, 8), Grid.affine(-40, 1, 8)
    made = integer_layer("a layer", weight, bias, source, target, 8)
    assert made.weight[1].tolist() == [0, 0, 0]
    assert float(made.bias[1] * source.scale * made.scale[1]) == pytest.approx(-37.0, abs=target.scale)
    tiny = integer_layer("a layer", 1e-12 * torch.ones(2, 3, dtype=torch.float64), bias, source, target, 8)
    assert int(tiny.bias.abs().max()) < 2**31


def test_bounds_and_ranges_at_the_door() -> None:
    source, narrow = Grid.affine(0, 1, 8), Grid(1e-9, 0, 0, 255)
    ones = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(JostleError, match="multiplier of .*, above 256"):
        integer_layer("a layer", ones, torch.zeros(1, dtype=torch.float64), source, narrow, 8)
    with pytest.raises(JostleError, match="NaN or infinite weights"):
        integer_layer("a layer", ones / 0, torch.zeros(1, dtype=torch.float64), source, source, 8)
    with pytest.raises(JostleError, match="more than 32 bits hold"):
        check_bound("a layer", torch.full((1, 10**5), 127), torch.zeros(1, dtype=torch.int64), source)


@pytest.mark.parametrize("area", [49, 64, 1225])
def test_average_pooling_is_one_dyadic_step(area: int) -> None:
    source = Grid(0.02, 3, 0, 255)
    grid, b, c = pooled_grid(source, Grid(0.02, 3, 0, 255), area, "snapped16")
    assert c == 16 and b / 2**16 * area * grid.scale == pytest.approx(source.scale, rel=1e-12)
    constant = torch.arange(256) - 3
    found = torch.round(constant.double() * area * b / 2**16)
    # A constant input comes back as itself, as near as half a step of the (slightly wider) grid.
    assert bool(((found * grid.scale - constant * source.scale).abs() <= grid.scale / 2 * (1 + 1e-9)).all())
    if area == 49:
        assert bool((found == constant).all())


def test_pooling_in_a_model_is_the_dyadic_formula() -> None:
    net = nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(2, 2))
    net[2].weight.data = torch.eye(2)
    images = torch.full((1, 2, 7, 7), 200 / 255)
    integers = to_integer(quantize(net, images))
    node = integers["avg_pool2d"]
    pooled = integers.tensors(to_pixels(images))["avg_pool2d"]
    assert pooled.flatten().tolist() == [round(200 * 49 * int(node.b[0]) / 2**16)] * 2


def test_sums_stay_exact_in_float32() -> None:
    for one, two in [(1.0, 1.0), (14.0, 3.0), (0.001, 200.0)]:
        grids = [Grid(one, 7, 0, 255), Grid(two, 250, 0, 255)]
        factors, shift = sum_ratios(grids, Grid(1.0, 128, 0, 255))
        assert sum(f * 255 for f in factors) + (128 << shift) < 2**24
        assert factors[1] / 2**shift == pytest.approx(two, abs=2.0 ** -(shift + 1))


def test_saved_and_loaded_byte_for_byte(tmp_path: Path) -> None:
    model = seeded(Branches)
    pixels = to_pixels(pictures(2, 3, 16, 16))
    integers = to_integer(quantize(model, pixels / 255))
    integers.save(tmp_path / "one.npz")
    again = IntegerModel.load(tmp_path / "one.npz")
    again.save(tmp_path / "two.npz")
    assert torch.equal(again.run(pixels), integers.run(pixels))
    assert again.real(again.run(pixels)).equal(integers.real(integers.run(pixels)))
    for ours, theirs in zip(integers.nodes, again.nodes, strict=True):
        for key in ("weight", "bias", "b", "c"):
            a, b = getattr(ours, key), getattr(theirs, key)
            assert (a is None and b is None) or torch.equal(a, b)
        assert (ours.name, ours.inputs, ours.padding, ours.scale) == (
            theirs.name, theirs.inputs, theirs.padding, theirs.scale,
        )  # fmt: skip
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(JostleError, match="is not an integer model .* no .npz archive"):
        IntegerModel.load(tmp_path / "bad.npz")


def test_the_reference_refuses_real_numbers() -> None:
    model = seeded(Branches)
    integers = to_integer(quantize(model, pictures(2, 3, 16, 16)))
    node = integers["second"]
    with pytest.raises(JostleError, match="the reference computes in int64 only"):
        reference_step(integers, node, [torch.zeros(1, 8, 16, 16)])
    with pytest.raises(JostleError, match="pixels must be uint8"):
        integers.run(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(JostleError, match=r"images must lie in \[0, 1\]"):
        integers.logits(255 * torch.ones(1, 3, 16, 16))


def test_nothing_of_the_users_changes() -> None:
    model = seeded(Branches).train()
    model.first.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = quantize(model, pictures(4, 3, 16, 16))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert model.training and not model.first.weight.requires_grad and model.second.weight.requires_grad
    assert all(bool((value == before[name]).all()) for name, value in model.state_dict().items())


def test_calibration_at_the_door() -> None:
    model = seeded(Branches)
    with pytest.raises(JostleError, match="at least one image, but none came"):
        quantize(model, torch.zeros(0, 3, 16, 16))
    with pytest.raises(JostleError, match="call calibrate"):
        to_integer(prepare(model, torch.zeros(1, 3, 16, 16)))
    with pytest.raises(JostleError, match="act_bits must lie in 2 to 8"):
        QuantConfig(act_bits=9)
    with pytest.raises(JostleError, match="no layer 'fourth'"):
        prepare(model, torch.zeros(1, 3, 16, 16)).set_bits({"fourth": 4})
    dead = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    dead[0].bias.data.fill_(-100.0)
    with pytest.warns(UserWarning, match="1 activations are 0"):
        quantize(dead, torch.ones(2, 3, 1, 1))


@pytest.mark.parametrize("ste", ["identity", "clipped"])
def test_straight_through_gradients(ste: str) -> None:
    from jostle.quantization.fake import rounded

    x = torch.linspace(-2, 2, 9, requires_grad=True)
    grid = Grid.symmetric(1.0, 4)
    c = torch.arange(1.0, 10.0)
    coded = x / grid.scale
    exact = coded.detach().round().clamp(grid.lower, grid.upper)
    (c * grid.scale * rounded(coded, exact, (grid.lower, grid.upper), ste)).sum().backward()
    inside = (coded >= grid.lower) & (coded <= grid.upper)
    wanted = c if ste == "identity" else c * inside
    assert torch.allclose(x.grad, wanted, atol=1e-6)
    value = torch.tensor([2**24 + 1.0], dtype=torch.float64)
    assert straight(torch.tensor([0.3], dtype=torch.float64), value).item() == 2**24 + 1
