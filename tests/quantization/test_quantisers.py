"""Grids: error bounds, symmetry, noise, ranges; and batch normalisation folded away."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jostle.core.errors import JostleError
from jostle.quantization.folding import fold
from jostle.quantization.quantisers import Grid, Range, round_weights, weight_scale


@settings(max_examples=200, deadline=None)
@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(2, 8), st.lists(st.floats(-20, 20), min_size=1))
def test_rounding_is_within_half_a_step_and_idempotent(
    one: float, two: float, bits: int, values: list[float]
) -> None:
    grid = Grid.affine(min(one, two), max(one, two), bits)
    real = torch.tensor(values, dtype=torch.float64)
    codes = grid.quantise(real)
    back = grid.dequantise(codes)
    ends = grid.dequantise(torch.tensor([grid.lower, grid.upper]))
    inside = (real >= ends[0]) & (real <= ends[1])
    assert bool(((real - back).abs()[inside] <= grid.scale / 2 * (1 + 1e-9)).all())
    assert bool((grid.quantise(back) == codes).all())
    assert grid.dequantise(grid.quantise(torch.zeros(1, dtype=torch.float64))).item() == 0


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 10), st.integers(2, 8), st.lists(st.floats(-0.99, 0.99), min_size=1))
def test_symmetric_codes_are_odd(bound: float, bits: int, shares: list[float]) -> None:
    grid = Grid.symmetric(bound, bits)
    real = bound * torch.tensor(shares, dtype=torch.float64)
    assert bool((grid.quantise(-real) == -grid.quantise(real)).all())


def test_ends_and_zero_points() -> None:
    assert Grid.symmetric(1.0, 4) == Grid(1 / 7, 0, -8, 7)
    assert Grid.symmetric(1.0, 4, narrow=True) == Grid(1 / 7, 0, -7, 7)
    assert Grid.affine(-1.0, 1.0, 8).zero == 128  # 127.5 to even
    assert Grid.affine(2.0, 3.0, 8) == Grid(3 / 255, 0, 0, 255)  # widened to hold 0
    assert Grid.affine(0.0, 0.0, 8).scale == 1e-8 / 255
    assert Grid.around(-1.0, 3.0, 8, "symmetric") == Grid(3 / 127, 0, -128, 127)
    grid = Grid.affine(0.0, 6.0, 8)
    assert grid.code(math.inf) == 255 and grid.code(-math.inf) == 0 and grid.code(3.0) == 128


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_noise_of_rounding_is_a_twelfth_of_a_step_squared(bits: int) -> None:
    real = 2 * torch.rand(1_000_000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64) - 1

    def error(width: int) -> tuple[float, float]:
        n = 2**width - 1
        grid = Grid(2 / n, 2 ** (width - 1), 0, n + 1)  # the ends lie on the grid: no value is cut
        return float((grid.dequantise(grid.quantise(real)) - real).square().mean()), grid.scale

    mse, scale = error(bits)
    assert mse == pytest.approx(scale**2 / 12, rel=0.02)
    gain = 10 * math.log10(mse / error(bits + 1)[0])
    steps = 20 * math.log10((2 ** (bits + 1) - 1) / (2**bits - 1))
    assert gain == pytest.approx(steps, abs=0.1) and steps == pytest.approx(6.02, abs=0.3)


def test_an_extra_bit_is_worth_six_decibels() -> None:
    real = torch.rand(1_000_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    errors = []
    for bits in (8, 9):
        grid = Grid(2.0**-bits, 0, 0, 2**bits)
        errors.append(float((grid.dequantise(grid.quantise(real)) - real).square().mean()))
    assert 10 * math.log10(errors[0] / errors[1]) == pytest.approx(6.02, abs=0.1)


def test_weights_per_channel_and_per_tensor() -> None:
    weight = torch.tensor([[0.7, -0.35], [0.0, 0.0], [7.0, 1.0]])
    scale = weight_scale(weight, 4)
    assert torch.allclose(scale, torch.tensor([0.1, 0.0, 1.0], dtype=torch.float64))
    assert round_weights(weight, scale, 4).tolist() == [[7, -4], [0, 0], [7, 1]]
    assert weight_scale(weight, 4, per_channel=False).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_ranges() -> None:
    batches = [torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 3.0])]

    def seen(*args: object, **kwargs: object) -> tuple[float, float]:
        found = Range(*args, **kwargs)
        for batch in batches:
            found.see(batch)
        return found.low, found.high

    assert seen("minmax") == (-1.0, 3.0)
    assert seen("ema", momentum=0.5) == (-0.5, 2.0)
    long = Range("percentile", keep=99.0)
    long.see(torch.cat([torch.linspace(0, 1, 1000), torch.tensor([50.0])]))
    assert long.low == 0.0 and 0.98 < long.high <= 1.0


def test_the_least_error_cuts_an_outlier() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    found = Range("mse", bits=4)
    found.see(values)
    assert -4 < found.low < -1.5 and 1.5 < found.high < 4
    full = Grid.affine(float(values.min()), float(values.max()), 4)
    ours = Grid.affine(found.low, found.high, 4)

    def error(grid: Grid) -> float:
        return float((grid.dequantise(grid.quantise(values)) - values).square().mean())

    assert error(ours) < 0.8 * error(full)


def test_bad_values_are_sentences() -> None:
    with pytest.raises(JostleError, match="NaN or infinity"):
        Range().see(torch.tensor([float("nan"), 1.0]))
    with pytest.raises(JostleError, match="bits must lie in 2 to 16, but 1 came"):
        Grid.symmetric(1.0, 1)
    with pytest.raises(JostleError, match="momentum must lie in"):
        Range(momentum=1.0)


def test_folding_keeps_the_function() -> None:
    draw = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.data = torch.randn(5, generator=draw)
    norm.running_var = torch.rand(5, generator=draw) + 0.1
    x = torch.randn(2, 3, 8, 8, generator=draw)
    weight, bias = fold(
        conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
    )
    found, wanted = nn.functional.conv2d(x, weight, bias), norm(conv(x)).detach()
    assert float((found.detach() - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    found.sum().backward()
    assert all(p.grad is not None for p in (conv.weight, norm.weight, norm.bias))
