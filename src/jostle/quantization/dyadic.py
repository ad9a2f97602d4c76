"""Dyadic arithmetic: multiplication by `b / 2^c` with integers only, in every rounding mode."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from jostle.core.errors import require

Rounding = Literal["half_even", "half_up", "truncate"]
"""Ties to even (as IEEE and CPU engines do), ties upward, or toward minus infinity."""

ROUNDINGS = ("half_even", "half_up", "truncate")
SNAP = 16
"""The shift of snapped multipliers; at most 16, or the theorem behind the float engines does not hold."""
WIDEST = 62
"""The largest shift that 64-bit arithmetic allows."""


def dyadic(
    a: Int[Tensor, "..."],
    b: Int[Tensor, "..."],
    c: Int[Tensor, "..."] | int,
    rounding: Rounding = "half_even",
) -> Int[Tensor, "..."]:
    """Multiply by `b / 2^c` and round, in 64-bit integers (HAWQ-V3, arXiv 2011.10680, equation 3).

    With the arithmetic shift `>>`, `t = (a b) >> c` and the rest `r = a b - t 2^c`:
    `truncate` gives `t`; `half_up` gives `(a b + 2^(c-1)) >> c`; `half_even` gives `t + 1` if `r > 2^(c-1)`, or
    `r = 2^(c-1)` and `t` is odd, else `t`. With `c = 0` nothing is rounded.

    **Arguments:** `a`: integers of 32 bits, in a tensor of any integer type. `b`: integers, `0 <= b < 2^31`.
    `c`: shifts, 0 to 62; both broadcast against `a`. `rounding`: which of the three.
    **Returns:** int64.
    **Raises:** `JostleError` if a shift lies outside of 0 to 62 or the rounding is unknown.

    >>> dyadic(torch.tensor([1, 3, 5, -1]), torch.tensor(1), 1)
    tensor([0, 2, 2, 0])
    >>> dyadic(torch.tensor([1, 3, 5, -1]), torch.tensor(1), 1, "half_up")
    tensor([1, 2, 3, 0])
    """
    require(rounding in ROUNDINGS, f"rounding must be one of {', '.join(ROUNDINGS)}, but {rounding!r} came")
    shift = torch.as_tensor(c, device=a.device).long()
    require(
        bool((shift >= 0).all()) and bool((shift <= WIDEST).all()),
        f"shift must lie in 0 to {WIDEST}, but {int(shift.min())} to {int(shift.max())} came",
    )
    # In 64 bits throughout: 1 << (c - 1) in 32 bits would silently overflow beyond c = 31.
    product = a.long() * b.long()
    return shifted(product, shift, rounding)


def shifted(product: Int[Tensor, "..."], shift: Int[Tensor, "..."], rounding: Rounding) -> Int[Tensor, "..."]:
    """`product / 2^shift`, rounded; both int64 and unchecked."""
    low = product >> shift
    if rounding == "truncate":
        return low
    half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp_min(0), 0)
    if rounding == "half_up":
        return (product + half) >> shift
    rest = product - (low << shift)
    up = (rest > half) | ((rest == half) & (low & 1 == 1))
    return low + (up & (shift > 0)).long()


def decompose31(multiplier: Float[Tensor, "..."]) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    """The nearest dyadic number with a 31-bit numerator, as the paper's own code takes it.

    `M = f 2^e` with `f` in [0.5, 1) (frexp) gives `b = floor(f 2^31 + 1/2)` and `c = 31 - e`; a `b` of `2^31` is
    halved with `c - 1`. Then `|b/2^c - M| / M <= 2^-31`. A multiplier so small that `c > 62` is flushed to 0:
    no 32-bit accumulator reaches half a step with it. Large ones (`c < 0`) become a shift to the left, in `b`.

    **Arguments:** `multiplier`: above 0 and below 2^8.
    **Returns:** `b` and `c`, int64.
    **Raises:** `JostleError` if a multiplier is not above 0 and below 256.

    >>> decompose31(torch.tensor([0.3, 1.0], dtype=torch.float64))
    (tensor([1288490189, 1073741824]), tensor([32, 30]))
    """
    exact = multiplier.double()
    _check_multiplier(exact)
    fraction, exponent = torch.frexp(exact)
    b = torch.floor(fraction * 2**31 + 0.5).long()
    c = 31 - exponent.long()
    full = b == 2**31
    b, c = torch.where(full, b >> 1, b), torch.where(full, c - 1, c)
    lost = c > WIDEST
    return torch.where(lost, 0, b), torch.where(lost, WIDEST, c)


def snap(multiplier: Float[Tensor, "..."], shift: int = SNAP) -> Int[Tensor, "..."]:
    """The smallest numerator whose dyadic number is not below the multiplier: `max(1, ceil(M 2^shift))`.

    The weights' scale is then redefined so that the multiplier *is* `b / 2^shift`: no multiplier error is left,
    the weights' grid is wider by at most `1 / (M 2^shift)`. Rounded upward, so that no weight is cut.

    **Arguments:** `multiplier`: above 0 and below 256. `shift`: 0 to 16.
    **Returns:** `b`, int64, in 1 to 2^24.
    **Raises:** `JostleError` if a multiplier is not above 0 and below 256.

    >>> snap(torch.tensor([0.3, 1e-9]))
    tensor([19661,     1])
    """
    require(0 <= shift <= SNAP, f"shift must lie in 0 to {SNAP}, but {shift} came")
    exact = multiplier.double()
    _check_multiplier(exact)
    # A product that is whole but for the rounding of its factors should not be lifted by a whole step.
    return torch.ceil(exact * 2**shift * (1 - 2**-45)).clamp_min(1).long()


def ratio(value: float, shift: int) -> int:
    """The nearest numerator of a ratio of two activations' scales: `rne(value 2^shift)`.

    >>> ratio(0.5, 12)
    2048
    """
    require(
        math.isfinite(value) and value >= 0,
        f"a ratio of scales must be finite and at least 0, but {value} came",
    )
    return round(value * 2**shift)


def round_half_even(value: Shaped[Tensor, "..."], lower: int, upper: int) -> Int[Tensor, "..."]:
    """What float engines do at the end of a layer: round to nearest, ties to even, and clamp.

    >>> round_half_even(torch.tensor([0.5, 1.5, 300.0]), 0, 255)
    tensor([  0,   2, 255])
    """
    return value.round().clamp(lower, upper).long()


def float_exact(b: Int[Tensor, "..."], c: int, upper: int) -> bool:
    """Whether a float32 engine that computes `clamp(rne(float(acc) * float(b/2^c)))` is exact for every accumulator.

    Theorem (ours, tested): if outputs have 8 bits (`upper <= 255`), `c <= 16` and `1 <= b < 2^24`, then for every
    32-bit accumulator this equals the integer `half_even` result. Proof: from `|acc| >= 2^24` follows
    `|acc b / 2^c| >= 2^24 / 2^16 = 256`, saturated either way; below, `acc` is exact in float32, the one
    rounding of the product moves it by at most 2^-17 where it is below 256 in size, while everything that is no
    tie lies at least `2^-c >= 2^-16` from the nearest tie, and ties themselves are representable.

    >>> float_exact(torch.tensor([19661]), 16, 255), float_exact(torch.tensor([1288490189]), 32, 255)
    (True, False)
    """
    return 0 <= c <= SNAP and upper <= 255 and bool((b >= 1).all()) and bool((b < 2**24).all())


def _check_multiplier(exact: Tensor) -> None:
    good = bool((exact > 0).all()) and bool((exact < 256).all())
    require(
        good,
        "a multiplier must be above 0 and below 256, but "
        f"{float(exact.min()):.3g} to {float(exact.max()):.3g} came: the output's range is too narrow for its input's",
    )
