"""Noise levels, schedules and conditioning, against the values of the released code."""

import math

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.smoothing import (
    input_scale,
    levels_at,
    noise_grid,
    snapped,
    target_rate,
    time_condition,
    time_embedding,
)


def test_the_grid_of_81_levels():
    grid = noise_grid(81)
    assert float(grid[0]) == pytest.approx(80, abs=1e-6) and float(grid[80]) == pytest.approx(0.002, abs=1e-6)
    assert bool((grid.diff() < 0).all())
    for t, index, value in ((0.5, 53, 0.492707), (1.0, 48, 0.965417), (2.0, 42, 2.003647)):
        assert int((grid - t).abs().argmin()) == index
        assert float(grid[index]) == pytest.approx(value, abs=1e-6)
        assert snapped(t / 2) == float(grid[index])
    with pytest.raises(JostleError, match="count"):
        noise_grid(1)


def test_the_number_of_levels_over_time():
    assert [levels_at(k, 600_000) for k in (0, 1, 258_370, 258_406, 258_407, 300_000, 600_000)] == [
        21, 41, 41, 41, 81, 81, 81
    ]  # fmt: skip
    ict = [levels_at(k, 600, "ict") for k in (0, 199, 200, 399, 400, 600)]
    assert ict == [21, 21, 41, 41, 81, 81]
    with pytest.raises(JostleError, match="step"):
        levels_at(11, 10)


def test_the_rate_of_the_target():
    for step, rate in ((0, 0.99), (100_000, 0.99677269), (300_000, 0.99976911), (600_000, 0.99989910)):
        assert target_rate(step, 600_000) == pytest.approx(rate, abs=5e-9)


def test_conditioning():
    assert float(input_scale(torch.tensor(0.5, dtype=torch.float64))) == pytest.approx(1.41421356, abs=1e-8)
    assert float(time_condition(torch.tensor(0.002, dtype=torch.float64))) == pytest.approx(
        -1553.652, abs=1e-3
    )
    assert math.isfinite(float(time_condition(torch.tensor(0.0, dtype=torch.float64))))


def test_the_time_embedding_has_the_cosines_first():
    found = time_embedding(torch.tensor([2.0]), 8)[0].double()
    rates = [10_000 ** (-i / 4) for i in range(4)]
    wanted = [math.cos(2 * r) for r in rates] + [math.sin(2 * r) for r in rates]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-6)
