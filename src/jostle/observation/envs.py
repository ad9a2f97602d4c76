"""Gymnasium environments whose observations pass through an attacker; everything else stays true."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorActionWrapper, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from jostle.core.errors import require
from jostle.observation.attack import Attack
from jostle.observation.policy import Policy


class AttackedEnv(gym.Wrapper):
    """An environment whose agent sees attacked observations, from the first one after a reset on.

    The environment is stepped with the agent's action; rewards and the next observation are the true ones.
    `info` holds the `true_observation` and the `attack` ([`Info`][jostle.observation.Info]). Time steps count
    from 0 at each reset, so a `toggle` starts afresh.

    **Arguments:** `env`: with a `Box` of observations. `policy`: what the attack looks into. `attack`.
    `generator`: for attacks that draw numbers.
    """

    def __init__(
        self, env: gym.Env, policy: Policy, attack: Attack, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(env)
        _fits(env.observation_space, policy)
        self.policy, self.attack, self.generator = policy, attack, generator
        self.t, self._over = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Reset the environment; the first observation is attacked too."""
        o, info = self.env.reset(seed=seed, options=options)
        self.t, self._over = 0, False
        return self._show(o, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Step the true environment."""
        require(not self._over, "the episode is over: reset the environment before the next step")
        o, reward, terminated, truncated, info = self.env.step(action)
        self.t += 1
        self._over = bool(terminated or truncated)
        shown, info = self._show(o, info)
        return shown, reward, terminated, truncated, info

    def _show(self, o: Any, info: dict) -> tuple[Any, dict]:
        shown, what = self.attack(self.policy, o, t=self.t, generator=self.generator)
        return shown, {**info, "true_observation": o, "attack": what}


class AttackedVectorEnv(VectorWrapper):
    """A vector environment whose agents see attacked observations; see
    [`AttackedEnv`][jostle.observation.AttackedEnv].

    One ascent serves all copies. Each copy counts its own time steps, from 0 after each of its resets,
    automatic ones included.
    """

    def __init__(
        self, env: VectorEnv, policy: Policy, attack: Attack, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(env)
        _fits(env.single_observation_space, policy)
        self.policy, self.attack, self.generator = policy, attack, generator
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.t = np.zeros(env.num_envs, dtype=np.int64)
        self._ended = np.zeros(env.num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        """Reset all copies, or those of `options["reset_mask"]`."""
        o, info = self.env.reset(seed=seed, options=options)  # pyright: ignore[reportArgumentType]
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self.t = np.where(mask, 0, self.t)
        self._ended = np.where(mask, False, self._ended)
        return self._show(o, info)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        """Step all true copies."""
        o, rewards, terminated, truncated, info = self.env.step(actions)
        over = np.logical_or(terminated, truncated)
        # The next step resets a copy that has ended (or, with SAME_STEP, this one has done so already).
        fresh = over if self.mode == AutoresetMode.SAME_STEP else self._ended
        self.t = np.where(fresh, 0, self.t + 1)
        self._ended = over if self.mode == AutoresetMode.NEXT_STEP else np.zeros_like(over)
        shown, info = self._show(o, info)
        return shown, rewards, terminated, truncated, info

    def _show(self, o: Any, info: dict) -> tuple[Any, dict]:
        shown, what = self.attack(self.policy, o, t=self.t, generator=self.generator)
        return shown, {**info, "true_observation": o, "attack": what}


class DiscretizedVectorEnv(VectorActionWrapper):
    """A vector environment whose one action is one of `bins` evenly spaced ones, the middles of the bins.

    Gymnasium's `DiscretizeAction` for many copies at a time.

    **Arguments:** `env`: with one bounded action. `bins`: at least 2.
    """

    def __init__(self, env: VectorEnv, bins: int) -> None:
        super().__init__(env)
        space = env.single_action_space
        require(
            getattr(space, "shape", None) == (1,) and hasattr(space, "low"),
            f"env must have one continuous action to be discretised, but {space} came",
        )
        require(bins >= 2, f"bins must be at least 2, but {bins} came")
        low, high = float(space.low[0]), float(space.high[0])  # type: ignore[attr-defined]
        require(math.isfinite(high - low), f"env must have a bounded action, but {space} came")
        self.levels = low + (np.arange(bins) + 0.5) * (high - low) / bins
        self.single_action_space = gym.spaces.Discrete(bins)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: Any) -> Any:
        """The continuous actions of bins, `(copies,)`."""
        return self.levels[np.asarray(actions)][:, None]


def _fits(space: Any, policy: Policy) -> None:
    shape = getattr(space, "shape", None)
    require(
        hasattr(space, "low") and shape == (policy.features,),
        f"env must have a Box of {policy.features} numbers as observations, as the policy reads them, but "
        f"{space} came",
    )
