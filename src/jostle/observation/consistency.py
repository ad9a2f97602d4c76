"""Rules that true sensors keep: tariff levels, forecasts that come true, energy that adds up."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jostle.core.errors import require
from jostle.observation.district import FEATURES, District

Array = NDArray[np.float64]
Rule = Callable[[Array], NDArray[np.bool_]]
"""From observations in time order, `(steps, features)`, to whether each step breaks the rule."""


def rules_for(clean: Any, district: District | None = None, *, margin: float = 1e-6) -> dict[str, Rule]:
    """Physical checks of a log, calibrated so that the clean log breaks none.

    `levels`: a feature that takes at most 12 values (a tariff) takes one of these. With a `district` also
    `forecasts`: what is forecast for 6, 12 and 24 h agrees with what is then seen, and `energy`: the battery's
    charge changes as net consumption less load plus generation says.

    **Arguments:** `clean`: `(steps, features)`, in time order. `district`: for the building's observations, with
    the scaling of its features. `margin`: added to the largest deviation of the clean log.

    >>> rules = rules_for([[0.2, 0.1], [0.5, 0.7], [0.2, 0.3]] * 9)
    >>> rules["levels"](np.array([[0.2, 0.7], [0.3, 0.1]]))
    array([False,  True])
    """
    x = np.asarray(clean, dtype=np.float64)
    require(
        x.ndim == 2 and len(x) >= 25,
        f"clean must be (steps, features), at least 25 steps, but {x.shape} came",
    )
    rules: dict[str, Rule] = {}
    tariffs = {j: values for j in range(x.shape[1]) if len(values := np.unique(x[:, j])) <= 12}
    if tariffs:
        rules["levels"] = lambda shown: _off_levels(np.asarray(shown, dtype=np.float64), tariffs, margin)
    if district is not None:
        require(
            x.shape[1] == len(FEATURES),
            f"clean must hold the building's {len(FEATURES)} features, not {x.shape[1]}",
        )
        for name, gap in (("forecasts", _forecast_gap), ("energy", _energy_gap(district))):
            rules[name] = _within(gap, gap(x).max(0, initial=0.0) + margin)
    return rules


def _within(gap: Callable[[Array], Array], most: Array) -> Rule:
    return lambda shown: np.any(gap(np.asarray(shown, dtype=np.float64)) > most, axis=1, keepdims=True)[:, 0]


def _off_levels(shown: Array, tariffs: Mapping[int, Array], margin: float) -> NDArray[np.bool_]:
    off = np.zeros(len(shown), dtype=bool)
    for j, values in tariffs.items():
        off |= np.abs(shown[:, j, None] - values).min(1) > margin
    return off


_FORECASTS = tuple(
    (FEATURES.index(name.removesuffix(f"_{hours}h")), j, hours)
    for j, name in enumerate(FEATURES)
    for hours in (6, 12, 24)
    if name.endswith(f"_{hours}h")
)


def _forecast_gap(shown: Array) -> Array:
    """How far each forecast is from what is seen when its hour comes; 0 where the log ends before."""
    gap = np.zeros((len(shown), len(_FORECASTS)))
    for i, (now, ahead, hours) in enumerate(_FORECASTS):
        if len(shown) > hours:
            gap[:-hours, i] = np.abs(shown[:-hours, ahead] - shown[hours:, now])
    return gap


def _energy_gap(district: District) -> Callable[[Array], Array]:
    """How far the change of charge lies outside what the energy that flowed allows, in kWh."""
    assert district.limits is not None
    low, high = district.limits
    load, solar, soc, net = (
        FEATURES.index(n) for n in ("load", "solar_generation", "soc", "net_consumption")
    )
    worst = np.sqrt(0.75)  # one way; no battery of these data loses more

    def gap(shown: Array) -> Array:
        raw = low + shown * (high - low)
        flow = raw[1:, net] - (raw[:-1, load] - raw[:-1, solar])
        change = np.diff(raw[:, soc]) * district.capacity
        least, most = np.where(flow >= 0, worst * flow, flow / worst), flow
        out = np.zeros((len(shown), 1))
        out[1:, 0] = np.maximum(np.maximum(least - change, change - most), 0.0)
        return out

    return gap
