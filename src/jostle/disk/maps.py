"""Maps of the response in the vertical phase plane, and the sum of modes behind them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jostle.disk.units import Array


@dataclass(frozen=True)
class SpiralMap:
    """A map of f1 / f0 in the vertical phase plane, with what was assumed.

    **Arguments:** `z` (kpc), `vz` (km/s): the axes. `values`: f1 / f0, one row a velocity. `R` (kpc), `phi`
    (rad), `window` (kpc), `t` (kpc s/km): where and when. `strength`: rms of f1 / f0. `labels`: assumptions.
    """

    z: Array
    vz: Array
    values: Array
    R: float
    phi: float
    window: float
    t: float
    strength: float
    labels: tuple[str, ...]


def sum_modes(rows: Array, n: Array, w: Array) -> Array:
    """Re sum_n rows_n exp(i n w) by Horner's rule in exp(i w); n is consecutive."""
    turn = np.exp(1j * w)
    total = rows[:, -1].copy()
    for k in range(rows.shape[1] - 2, -1, -1):
        total *= turn
        total += rows[:, k]
    return (total * np.exp(1j * n[0] * w)).real


def turning_height(va: Any, v: float) -> float:
    """The height that a star leaving the plane at `v` reaches."""
    return float(va.inverse(va(0.0, v)[0], np.pi / 2)[0])
