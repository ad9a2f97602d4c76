"""One number a row: a Python float for a single row, a float64 column for several.

A tensor operation on one number costs as much as one on thousands, so a batch of one, which is what a universal
perturbation is, does its arithmetic in floats. Every function takes both.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Number = Any
"""A float, or a tensor of shape `(rows, 1)` in float64."""

_BLOCK = 64
_LARGE = 1 << 16
_SHORT = 512


def length(rows: Float[Tensor, "rows entries"]) -> Number:
    """The Euclidean length of each row, accurate to the rows' precision however long they are.

    >>> import torch
    >>> length(torch.tensor([[3.0, 4.0]]))
    5.0
    """
    if rows.numel() >= _LARGE and rows.shape[1] >= _BLOCK:
        # One float32 sum over 10^5 squares is wrong by 1e-4, one in float64 is slow: blocks are right and fast.
        cut = rows.shape[1] // _BLOCK * _BLOCK
        parts = torch.linalg.vector_norm(rows[:, :cut].unflatten(1, (-1, _BLOCK)), dim=2)
        if cut < rows.shape[1]:
            rest = torch.linalg.vector_norm(rows[:, cut:], dim=1, keepdim=True)
            parts = torch.cat([parts, rest], dim=1)
        out = torch.linalg.vector_norm(parts, dim=1, keepdim=True, dtype=torch.float64)
        if bool(((out > 1e-15) & (out < 1e15)).all()):  # else the squares may be beyond float32
            return number(out)
    if len(rows) == 1:
        if rows.numel() <= _SHORT and rows.dtype == torch.float32:
            # A third of the time of the sum in float64, and as right where the terms are so few.
            line = rows.reshape(-1)
            square = torch.dot(line, line).item()
            if 1e-30 < square < 1e30:  # else the squares may be beyond float32
                return square**0.5
        return torch.linalg.vector_norm(rows, dtype=torch.float64).item()
    return number(torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64))


def number(column: Tensor) -> Number:
    """A column as this module's numbers."""
    return column.item() if column.numel() == 1 else column.to(torch.float64)


def cast(value: Number, rows: Tensor) -> Number:
    """A number that multiplies rows without a change of their precision."""
    return value.to(rows.dtype) if isinstance(value, Tensor) else value


def holds(condition: Any) -> bool:
    """Whether a condition on numbers holds in every row."""
    return bool(condition.all()) if isinstance(condition, Tensor) else bool(condition)


def at_least(value: Number, bound: float) -> Number:
    """`max(value, bound)`."""
    return value.clamp_min(bound) if isinstance(value, Tensor) else max(value, bound)


def at_most(value: Number, bound: float) -> Number:
    """`min(value, bound)`."""
    return value.clamp_max(bound) if isinstance(value, Tensor) else min(value, bound)


def larger(one: Number, other: Number) -> Number:
    """`max(one, other)` of two numbers of one kind."""
    return torch.maximum(one, other) if isinstance(one, Tensor) else max(one, other)
