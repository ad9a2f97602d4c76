"""Attacked environments: what is true stays true, and parity starts afresh at each reset."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from observation.conftest import continuous

from jostle.core.errors import JostleError
from jostle.observation import (
    FGSM,
    AttackedEnv,
    AttackedVectorEnv,
    Bifurcation,
    Budget,
    DiscretizedVectorEnv,
    Noise,
)


class Walk(gym.Env):
    """A walk whose observation tells the step; episodes of four steps."""

    observation_space = gym.spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.t = 0.5, 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        self.place = float(np.clip(self.place + 0.1 * np.asarray(action).item(), 0, 1))
        return self._see(), -self.place, self.t == 4, False, {}

    def _see(self):
        return np.array([self.place, 0.3, 0.6, self.t / 10, 0.5], dtype=np.float32)


def test_the_first_observation_is_attacked_and_rewards_are_true():
    policy = continuous()
    attack = FGSM(Budget(0.05))
    env, true = AttackedEnv(Walk(), policy, attack), Walk()
    shown, info = env.reset(seed=0)
    o, _ = true.reset(seed=0)
    assert np.array_equal(info["true_observation"], o) and not np.array_equal(shown, o)
    assert info["attack"].moved.all()
    for _ in range(4):
        action = policy.act(shown)
        shown, reward, over, _, info = env.step(action)
        o, wanted, *_ = true.step(action)
        assert reward == wanted and np.array_equal(info["true_observation"], o)
    assert over
    with pytest.raises(JostleError, match="the episode is over"):
        env.step(action)


def pushes(policy, o, shown):
    return np.sign((policy.body(torch.tensor(shown)) - policy.body(torch.tensor(o))).detach().numpy()[:, 0])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_toggle_restarts_with_each_episode_of_each_copy(mode):
    policy = continuous()
    inner = SyncVectorEnv([Walk] * 3, autoreset_mode=mode)
    env = AttackedVectorEnv(inner, policy, Bifurcation(Budget(0.05), direction="toggle", steps=5))
    shown, info = env.reset(seed=0)
    for _ in range(15):
        o = info["true_observation"]
        step = np.rint(o[:, 3] * 10)  # the environment's own clock
        assert np.array_equal(pushes(policy, o, shown), np.where(step % 2 == 0, -1, 1))
        shown, *_, info = env.step(policy.act(shown))


def test_eight_copies_are_eight_single_runs():
    policy = continuous()
    attack = Bifurcation(Budget(0.05), direction="toggle", steps=8)
    env = AttackedVectorEnv(SyncVectorEnv([Walk] * 8), policy, attack)
    shown, _ = env.reset(seed=list(range(8)))
    actions = []
    for _ in range(4):
        actions.append(policy.act(shown))
        shown, *_ = env.step(actions[-1])
    for i in range(8):
        one = AttackedEnv(Walk(), policy, attack)
        seen, _ = one.reset(seed=i)
        for t in range(4):
            action = policy.act(seen)
            assert np.allclose(action, actions[t][i], atol=1e-6)
            seen, *_ = one.step(action)


def test_no_budget_changes_nothing():
    policy = continuous()
    plain, env = Walk(), AttackedEnv(Walk(), policy, Noise(Budget(0.0)), torch.Generator().manual_seed(0))
    o, _ = plain.reset(seed=0)
    shown, _ = env.reset(seed=0)
    for _ in range(4):
        assert np.array_equal(o, shown)
        o, *_ = plain.step(policy.act(o))
        shown, *_ = env.step(policy.act(shown))


def test_spaces_must_agree():
    with pytest.raises(JostleError, match="Box of 4 numbers"):
        AttackedEnv(Walk(), continuous(features=4), FGSM(Budget(0.1)))


def test_many_copies_are_discretised_as_one_is():
    fleet = DiscretizedVectorEnv(SyncVectorEnv([Walk] * 5), 5)
    ones = [gym.wrappers.DiscretizeAction(Walk(), 5) for _ in range(5)]
    assert fleet.single_action_space == ones[0].action_space and fleet.action_space.shape == (5,)
    fleet.reset(seed=0)
    o, rewards, *_ = fleet.step(np.arange(5))
    for k, one in enumerate(ones):
        one.reset(seed=0)
        wanted, reward, *_ = one.step(k)
        assert np.allclose(o[k], wanted) and rewards[k] == pytest.approx(reward)
    with pytest.raises(JostleError, match="bins must be at least 2"):
        DiscretizedVectorEnv(SyncVectorEnv([Walk]), 1)
    with pytest.raises(JostleError, match="one continuous action"):
        DiscretizedVectorEnv(fleet, 3)
