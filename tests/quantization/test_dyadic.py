"""Dyadic arithmetic against exact fractions, and the theorem that lets float engines be exact."""

from fractions import Fraction

import pytest
import torch
from helpers import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.core.errors import JostleError
from jostle.quantization.dyadic import (
    ROUNDINGS,
    decompose31,
    dyadic,
    float_exact,
    ratio,
    round_half_even,
    snap,
)


def by_fractions(a: int, b: int, c: int, rounding: str) -> int:
    exact = Fraction(a * b, 2**c)
    floor = exact.numerator // exact.denominator
    if rounding == "truncate" or c == 0:
        return floor
    if rounding == "half_up":
        shifted = exact + Fraction(1, 2)
        return shifted.numerator // shifted.denominator
    return round(exact)  # Python rounds fractions half to even


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_agrees_with_fractions_on_random_numbers_and_on_forced_ties(rounding: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-(2**31), 2**31, (33_000,), generator=draw)
    b = torch.randint(0, 2**31, (33_000,), generator=draw)
    c = torch.randint(0, 63, (33_000,), generator=draw)
    # Ties: a b / 2^c = k + 1/2 with a odd and b = 2^(c-1).
    tie_c = torch.randint(1, 32, (1_000,), generator=draw)
    tie_a = torch.randint(-(2**30), 2**30, (1_000,), generator=draw) * 2 + 1
    a, b, c = torch.cat([a, tie_a]), torch.cat([b, 1 << (tie_c - 1)]), torch.cat([c, tie_c])
    found = dyadic(a, b, c, rounding)
    wanted = [by_fractions(*row, rounding) for row in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]
    assert found.dtype == torch.int64 and found.tolist() == wanted


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 62),
    st.sampled_from(ROUNDINGS),
)
def test_agrees_with_fractions_anywhere(a: int, b: int, c: int, rounding: str) -> None:
    assert dyadic(torch.tensor(a), torch.tensor(b), c, rounding).item() == by_fractions(a, b, c, rounding)


def test_the_three_roundings_differ_on_ties_and_the_shift_is_wide() -> None:
    ties = torch.tensor([1, 3, -1, -3])
    assert dyadic(ties, torch.tensor(1), 1, "half_even").tolist() == [0, 2, 0, -2]
    assert dyadic(ties, torch.tensor(1), 1, "half_up").tolist() == [1, 2, 0, -1]
    assert dyadic(ties, torch.tensor(1), 1, "truncate").tolist() == [0, 1, -1, -2]
    # The half of a 32-bit shift does not fit 32 bits; int32 inputs must not drag the sum down.
    wide = dyadic(torch.tensor([10**9], dtype=torch.int32), torch.tensor([2**31 - 1], dtype=torch.int32), 40)
    assert wide.item() == by_fractions(10**9, 2**31 - 1, 40, "half_even")


@pytest.mark.parametrize(
    "multiplier, b, c",
    [
        (0.3, 1288490189, 32),
        (0.001, 1099511628, 40),
        (1.7, 1825361101, 30),
        (2**-20, 1073741824, 50),
        (1.0, 1073741824, 30),
    ],
)
def test_31_bit_examples(multiplier: float, b: int, c: int) -> None:
    found = decompose31(torch.tensor([multiplier], dtype=torch.float64))
    assert [part.item() for part in found] == [b, c]


@settings(max_examples=300, deadline=None)
@given(st.floats(2**-31, 255.9))
def test_31_bits_are_near_and_snapping_is_never_below(multiplier: float) -> None:
    exact = torch.tensor([multiplier], dtype=torch.float64)
    b, c = (int(part) for part in decompose31(exact))
    assert 2**30 <= b < 2**31
    assert abs(Fraction(b) / Fraction(2) ** c - Fraction(multiplier)) <= Fraction(multiplier) / 2**31
    snapped = int(snap(exact))
    assert snapped >= multiplier * 2**16 * (1 - 2**-40) and snapped <= multiplier * 2**16 + 1


def test_the_carry_of_rounding_and_the_flush_of_tiny_multipliers() -> None:
    just_below = torch.tensor([1 - 2**-40, 2.0**-40], dtype=torch.float64)
    b, c = decompose31(just_below)
    assert b.tolist() == [2**30, 0] and c.tolist() == [30, 62]


def test_a_whole_product_is_not_lifted_by_a_whole_step() -> None:
    for b in (1, 3, 19661, 2**16 + 1):
        assert int(snap(torch.tensor([b / 2**16], dtype=torch.float64))) == b


@pytest.mark.parametrize("bad", [0.0, -1.0, 256.0, float("nan")])
def test_multipliers_outside_of_the_range_are_a_sentence(bad: float) -> None:
    with pytest.raises(JostleError, match="a multiplier must be above 0 and below 256"):
        snap(torch.tensor([bad], dtype=torch.float64))


def test_bad_shifts_and_roundings_are_sentences() -> None:
    one = torch.tensor([1])
    with pytest.raises(JostleError, match="shift must lie in 0 to 62, but 63 to 63 came"):
        dyadic(one, one, 63)
    with pytest.raises(JostleError, match="rounding must be one of"):
        plain(dyadic)(one, one, 1, "stochastic")
    with pytest.raises(JostleError, match="ratio of scales"):
        ratio(float("inf"), 12)


def float_engine(acc: torch.Tensor, b: int, c: int, zero: int) -> torch.Tensor:
    """As a float32 engine does it: one product in float32, nearest-even, zero point, clamp."""
    scale = torch.tensor(b / 2**c, dtype=torch.float32)
    return round_half_even(acc.float() * scale, -zero, 255 - zero) + zero


def integer(acc: torch.Tensor, b: int, c: int, zero: int) -> torch.Tensor:
    return (dyadic(acc, torch.tensor(b), c) + zero).clamp(0, 255)


@pytest.mark.study
def test_float_engines_are_exact_with_snapped_multipliers() -> None:
    draw = torch.Generator().manual_seed(1)
    every = torch.arange(-(2**20), 2**20 + 1)
    far = torch.randint(-(2**31), 2**31, (1_000_000,), generator=draw)
    for b in [1, 2**16 - 1, 2**15, *torch.randint(1, 2**16, (5,), generator=draw).tolist(), 2**24 - 1]:
        assert float_exact(torch.tensor([b]), 16, 255)
        for acc in (every, far):
            assert bool((float_engine(acc, b, 16, 0) == integer(acc, b, 16, 0)).all()), b
    # With a zero point the clamp moves by at most 255 steps: values up to 511 in size still round exactly where
    # they are not saturated, since |v| < 256 is what the clamp lets through.
    for zero in (3, 128, 255):
        assert bool((float_engine(every, 777, 16, zero) == integer(every, 777, 16, zero)).all())


def test_with_a_shift_of_24_a_float_engine_errs() -> None:
    """So the test above has power."""
    every = torch.arange(-(2**20), 2**20 + 1)
    odd = torch.randint(2**14, 2**16, (40,), generator=torch.Generator().manual_seed(2)) * 2 + 1
    assert any(bool((float_engine(every, int(b), 24, 0) != integer(every, int(b), 24, 0)).any()) for b in odd)
    assert not float_exact(odd, 24, 255)
