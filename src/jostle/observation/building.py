"""A building with a battery, many copies at a time: CityLearn's dynamics without CityLearn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from jostle.core.errors import require
from jostle.observation.district import FEATURES, District, load_district
from jostle.observation.kpis import kpis

Series = NDArray[np.float64]
_KIND = ("citylearn.citylearn.Building", "electrical_storage", "citylearn.energy_model.Battery")

Points = tuple[tuple[float, float], ...]

EFFICIENCY: Points = ((0, 0.83), (0.3, 0.83), (0.7, 0.9), (0.8, 0.9), (1, 0.85))
"""Efficiency against power, both as a share of nominal: the constants of CityLearn 1.8 to 2.1.2."""

POWER: Points = ((0, 1), (0.8, 1), (1, 0.2))
"""The power that the battery takes or gives against its charge, both as shares: likewise."""


@dataclass(frozen=True)
class Curves:
    """The curves of one battery: `efficiency` against power, `power` against charge, piecewise linear."""

    efficiency: Points = EFFICIENCY
    power: Points = POWER

    @classmethod
    def drawn(cls, seed: int, building: str = "Building_6", nominal: float = 0.9) -> "Curves":
        """The curves that CityLearn 3 draws for a building from its seed, where the schema gives none.

        One uniform number, from a seed hashed with the building's name, sets them all. So an agent that is
        evaluated under another seed meets another battery.

        **Arguments:** `seed`: CityLearn's `random_seed`, at least 0. `building`: its name. `nominal`: efficiency.

        >>> [round(value, 6) for value in Curves.drawn(0).power[1]]
        [0.811376, 0.930688]
        """
        require(seed >= 0, f"seed must be at least 0, but {seed} came")
        digest, total = hashlib.md5(usedforsecurity=False), 0
        for word in (building, *_KIND):
            digest.update(word.encode())
            total += int(digest.hexdigest(), 16)
        share = np.random.RandomState(int(str(total * (seed + 1))[:9])).uniform()

        def u(low: float, high: float) -> float:
            return low + (high - low) * share

        efficiency = (
            (0.0, u(nominal * 0.85, nominal * 0.90)),
            (u(0.25, 0.35), u(nominal * 0.90, nominal * 0.95)),
            (u(0.65, 0.75), u(nominal * 0.98, nominal * 1.0)),
            (u(0.75, 0.85), nominal),
            (1.0, u(nominal * 0.95, nominal * 0.98)),
        )
        power = ((0.0, u(0.95, 1.0)), (u(0.75, 0.85), u(0.90, 0.95)), (1.0, u(0.20, 0.30)))
        return cls(efficiency, power)


class BatteryBuilding(VectorEnv):
    """Copies of a building whose agent charges (+) and discharges (-) the battery each hour.

    The dynamics are CityLearn 3.0.2's for one hour, in double precision; a test holds a whole year against it.
    With `r = a P_nom`, power limit `M = P_nom g(E/C)`, and `eta = sqrt(h(|q|/P_nom))`: charging takes
    `q = min(r, M, (C_d - E)/eta)`, discharging gives `q = min(-r, M, (E - (1 - DoD) C) eta)`, each found in
    two rounds; then `E <- E + q eta` or `E - q/eta`, and the capacity `C_d` wears a little. Net consumption
    is load less solar generation plus what the battery took. The reward is `-max(net, 0)`, the action a share
    of nominal power in [-1, 1].

    Observations are the 31 features of [`FEATURES`][jostle.observation.FEATURES] scaled to [0, 1] in single
    precision, as CityLearn's normalising wrapper gives them. An episode has one decision fewer than hours of
    data, and all copies end together; there is no automatic reset.

    **Arguments:** `district`: the building's data; by default CityLearn's Building_6. `copies`: how many.
    `curves`: of the battery, one for all or one a copy; `None`: drawn from the seed at each reset, as
    CityLearn 3 does. `depth`: of discharge, in [0, 1].

    >>> import numpy as np
    >>> from jostle.observation import District
    >>> flat = np.ones(3)
    >>> data = District("flat", flat, 0 * flat, np.ones((3, 4)), flat, np.ones((3, 16)), np.ones((3, 3)))
    >>> env = BatteryBuilding(data, copies=2)
    >>> _ = env.reset()
    >>> o, reward, *_ = env.step(np.array([[1.0], [0.0]]))
    >>> reward.round(3)
    array([-6., -1.])
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  (Gymnasium's own convention)

    def __init__(
        self,
        district: District | None = None,
        *,
        copies: int = 1,
        curves: Curves | Sequence[Curves] | None = Curves(),
        depth: float = 1.0,
    ) -> None:
        require(copies >= 1, f"copies must be at least 1, but {copies} came")
        require(0 <= depth <= 1, f"depth must lie in [0, 1], but {depth} came")
        self.district = load_district() if district is None else district
        self.num_envs, self.depth = copies, depth
        self._given = [curves] * copies if isinstance(curves, Curves) else curves
        require(
            self._given is None or len(self._given) == copies,
            f"curves must be one, or one for each of the {copies} copies",
        )
        self.single_observation_space = Box(0.0, 1.0, (len(FEATURES),), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, copies)
        self.action_space = batch_space(self.single_action_space, copies)
        self._known, self._soc_scale, self._net_scale = _scaled(self.district)
        self.net = np.zeros((self.district.hours, copies))
        self.soc = np.zeros((self.district.hours, copies))
        self.t = self.district.hours

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict]:
        """Start all copies at the first hour with an empty battery.

        **Arguments:** `seed`: of the drawn curves, one a copy or the first of consecutive ones.
        """
        if self._given is None:
            if seed is None or isinstance(seed, int):
                seeds = [(seed or 0) + i for i in range(self.num_envs)]
            else:
                seeds = [int(one or 0) for one in seed]
            require(len(seeds) == self.num_envs, f"seed must be {self.num_envs} numbers, one a copy")
            chosen = [Curves.drawn(s, self.district.name, self.district.efficiency) for s in seeds]
        else:
            chosen = list(self._given)
        self._efficiency = _Line([c.efficiency for c in chosen])
        self._power = _Line([c.power for c in chosen])
        self.t = 0
        self.energy = np.full(self.num_envs, (1 - self.depth) * self.district.capacity)
        self.worn = np.full(self.num_envs, self.district.capacity)
        self.net[:], self.soc[:] = self.district.base[:, None], self.energy / self.district.capacity
        return self._observe(self.soc[0], self.net[0]), {}

    def step(self, actions: Any) -> tuple[NDArray[np.float32], Series, NDArray, NDArray, dict]:
        """Take one hour's decisions, `(copies, 1)`."""
        require(
            self.t < self.district.hours - 1,
            "the episode is over (or was not begun): reset the environment before the next step",
        )
        a = np.asarray(actions, dtype=np.float64)
        require(
            a.shape == (self.num_envs, 1),
            f"actions must have the shape ({self.num_envs}, 1), but {a.shape} came",
        )
        t = self.t
        self.net[t] += self._charge(np.minimum(np.maximum(a[:, 0], -1.0), 1.0) * self.district.power)
        self.soc[t] = self._soc
        self.t = t + 1
        over = np.full(self.num_envs, self.t == self.district.hours - 1)
        reward = -np.maximum(self.net[t], 0.0)
        o = self._observe(self.soc[t], self.net[t])
        return o, reward, over, np.zeros_like(over), {}

    def _charge(self, request: Series) -> Series:
        """Charge or discharge by `request` kWh as far as the battery can; what it took from the grid side."""
        d = self.district
        energy, up = self.energy, request >= 0
        floor = (1 - self.depth) * d.capacity
        limit = d.power * self._power(energy / d.capacity)
        room = np.where(up, np.maximum(self.worn - energy, 0.0), np.maximum(energy - floor, 0.0))
        most = np.minimum(np.abs(request), limit)
        q = most
        for _ in range(2):
            eta = np.sqrt(self._efficiency(np.minimum(q / d.power, 1.0)))
            q = np.minimum(most, np.where(up, room / eta, room * eta))
        after = _single(
            np.where(up, np.minimum(energy + q * eta, d.capacity), np.maximum(floor, energy - q / eta))
        )
        change = after - energy
        balance = np.where(change >= 0, change / eta, change * eta)
        wear = d.loss * d.capacity * np.abs(balance) / (2 * self.worn)
        self.worn = np.maximum(_single(_single(self.worn) - _single(wear)), 0.0)
        self._soc = _single(after / d.capacity)
        self.energy = _single(self._soc * d.capacity)
        return balance

    def _observe(self, soc: Series, net: Series) -> NDArray[np.float32]:
        o = np.empty((self.num_envs, len(FEATURES)), dtype=np.float32)
        o[:] = self._known[self.t]
        o[:, _SOC] = (soc - self._soc_scale[0]) * self._soc_scale[1]
        o[:, _NET] = (net - self._net_scale[0]) * self._net_scale[1]
        return o

    def kpis(self) -> dict[str, Series]:
        """The KPIs of the hours decided so far, one a copy; see [`kpis`][jostle.observation.kpis]."""
        d, t = self.district, self.t
        rows = [kpis(self.net[:t, i], d.base[:t], d.price[:t, 0], d.carbon[:t]) for i in range(self.num_envs)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}


class Building(gym.Env):
    """One copy of [`BatteryBuilding`][jostle.observation.BatteryBuilding] as a plain environment, for training.

    **Arguments:** as for `BatteryBuilding`.
    """

    def __init__(self, district: District | None = None, *, curves: Curves | None = Curves()) -> None:
        self.inner = BatteryBuilding(district, curves=curves)
        self.observation_space = self.inner.single_observation_space
        self.action_space = self.inner.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start at the first hour."""
        o, info = self.inner.reset(seed=seed)
        return o[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take one hour's decision."""
        o, reward, over, cut, info = self.inner.step(np.asarray(action, dtype=np.float64).reshape(1, 1))
        return o[0], float(reward[0]), bool(over[0]), bool(cut[0]), info

    def kpis(self) -> dict[str, float]:
        """The KPIs so far."""
        return {name: float(value[0]) for name, value in self.inner.kpis().items()}


_SOC, _NET = FEATURES.index("soc"), FEATURES.index("net_consumption")


def _single(x: Series) -> Series:
    """Rounded to single precision, in which CityLearn keeps charge and wear: an hour's wear is a few last places."""
    return x.astype(np.float32).astype(np.float64)


class _Line:
    """Piecewise linear curves, one a copy, by the clipped lengths of their pieces."""

    def __init__(self, curves: Sequence[Points]) -> None:
        points = np.array(curves, dtype=np.float64)
        self.left, self.right = points[:, :-1, 0], points[:, 1:, 0]
        self.start = points[:, 0, 1]
        self.slope = np.diff(points[:, :, 1], axis=1) / np.diff(points[:, :, 0], axis=1)

    def __call__(self, x: Series) -> Series:
        along = np.minimum(np.maximum(x[:, None], self.left), self.right) - self.left
        return self.start + (along * self.slope).sum(1)


def _scaled(d: District) -> tuple[Series, Series, Series]:
    """What is known beforehand of all observations, scaled; how SOC and net consumption are scaled."""
    assert d.limits is not None
    turns = 2 * np.pi * d.calendar / np.array([12.0, 7.0, 24.0])
    cycles = np.stack([np.cos(turns), np.sin(turns)], axis=2).reshape(d.hours, 6)
    blank = np.zeros((d.hours, 2))
    raw = np.concatenate(
        [cycles, d.weather, d.carbon[:, None], d.load[:, None], d.solar[:, None], blank, d.price], axis=1
    )
    low, high = d.limits
    width = np.where(high > low, high - low, 1.0)
    scale = np.stack([low, 1.0 / width])
    return (raw - low) / width, scale[:, _SOC], scale[:, _NET]
