"""Two controllers written by hand, to be cloned: solar self-consumption, and the pendulum's swing-up."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from jostle.observation.district import FEATURES, District
from jostle.observation.fitting import Rule

_LOAD, _SOLAR = FEATURES.index("load"), FEATURES.index("solar_generation")


def self_consumption(district: District) -> Rule:
    """Store the sun's surplus, give it back when there is a lack: `a = clip((PV - load) / P_nom, -1, 1)`."""
    assert district.limits is not None
    low, high = district.limits

    def rule(o: NDArray[Any]) -> NDArray[Any]:
        load = low[_LOAD] + o[:, _LOAD] * (high - low)[_LOAD]
        solar = low[_SOLAR] + o[:, _SOLAR] * (high - low)[_SOLAR]
        return np.clip((solar - load) / district.power, -1, 1)[:, None]

    return rule


class ScaledPendulum(gym.ObservationWrapper):
    """Gymnasium's Pendulum-v1 with its observation divided by (1, 1, 8), so that one budget suits all three."""

    SCALE = np.array([1.0, 1.0, 8.0], dtype=np.float32)

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def observation(self, observation: Any) -> Any:
        """The scaled observation."""
        return observation / self.SCALE


def swing_up(o: NDArray[Any]) -> NDArray[Any]:
    """Pump energy up to the upright rest's, then hold the pendulum with a gentle PD law (torque within 2).

    `u = clip(-3 E sign(speed), -2, 2)` with the energy `E` (0 upright and at rest), and within 26 degrees of
    upright `u = clip(-6.5 angle - 2 speed, -2, 2)`, a stiffness little above gravity's 5.
    """
    cos, sin, speed = (o * ScaledPendulum.SCALE).T
    angle = np.arctan2(sin, cos)
    energy = speed**2 / 6 + 5 * (cos - 1)  # a rod of mass and length 1 under g = 10
    pump = -3 * energy * np.where(speed >= 0, 1.0, -1.0)
    return np.clip(np.where(cos > 0.9, -6.5 * angle - 2 * speed, pump), -2, 2)[:, None]


def spaces_of(env: Any) -> tuple[Any, Any]:
    """The spaces of one copy of an environment."""
    if isinstance(env, VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space
