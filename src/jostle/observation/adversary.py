"""Adversaries that learn: a policy over perturbations, trained by reinforcement on the victim's loss."""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from jostle.core.errors import optional, require
from jostle.observation.attack import Attack, Shown
from jostle.observation.budget import Budget, Reach
from jostle.observation.policy import Policy, wrap_policy

Map = Literal["scaled", "replace"]


@dataclass(frozen=True, eq=False)
class LearnedAdversary(Attack):
    """The optimal attack inside a budget, learnt: `o' = P(o + u e)` with `u` the adversary's action in [-1, 1]^d.

    Training needs the environment, not the victim's gradient (Zhang et al. 2021). What is shown always lies in
    the budget: an `linf` one moves each feature by `u_j e_j`.

    **Arguments:** `net`: the adversary, from observations to `u` before a tanh. `budget`.
    """

    net: Policy
    budget: Budget

    def show(self, policy: Policy, clean: Tensor, t: np.ndarray, generator: torch.Generator | None) -> Shown:
        """What the adversary wants; see [`Attack`][jostle.observation.Attack]."""
        return perturb(policy, self.budget, clean, self.net.act(clean))


def perturb(policy: Policy, budget: Budget, clean: Tensor, u: Tensor) -> Shown:
    """`o + u e` within the budget and the space; `u`: `(batch, features)` in [-1, 1]."""
    reach = Reach.around(budget, clean, policy.observation_low, policy.observation_high)
    move = reach.ball.project(u[:, reach.active].to(clean) * reach.e / reach.unit, reach.centre)
    return reach.shown(move)


class AdversaryEnv(gym.Wrapper):
    """The environment in the adversary's eyes: its action is a perturbation, the victim acts on what it shows.

    The reward is `-r (1 - min(1, ||o - o'||_inf / ||h - l||_inf))^q` with the victim's reward `r`; `q = 0`: `-r`.
    The true observation is kept as it is, and the first one after a reset is attacked too.

    **Arguments:** `env`: with boxes. `victim`: the policy. `budget`. `q`: at least 0.
    """

    def __init__(self, env: gym.Env, victim: Policy, budget: Budget, q: float = 0.0) -> None:
        super().__init__(env)
        require(q >= 0, f"q must be at least 0, but {q} came")
        self.victim, self.budget, self.q = victim, budget, q
        self.action_space = Box(-1.0, 1.0, (victim.features,), np.float32)
        span = (victim.observation_high - victim.observation_low).abs().max().item()
        require(q == 0 or bool(np.isfinite(span)), "q above 0 needs an observation space with finite bounds")
        self._span, self._o = span, np.zeros(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Reset the environment."""
        o, info = self.env.reset(seed=seed, options=options)
        self._o = np.array(o)
        return o, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Show the perturbed observation to the victim and carry out what it does."""
        clean, _ = self.victim.take(self._o)
        shown = perturb(self.victim, self.budget, clean, torch.as_tensor(np.asarray(action))[None]).o
        distance = float((shown - clean).abs().max())
        o, reward, over, cut, info = self.env.step(self.victim.act(shown)[0].numpy())
        self._o = np.array(o)
        weight = (1 - min(1.0, distance / self._span)) ** self.q if self.q else 1.0
        return o, -float(reward) * weight, over, cut, info


def learn_adversary(
    env: gym.Env,
    victim: Policy,
    budget: Budget,
    *,
    steps: int = 20_000,
    q: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
    **settings: Any,
) -> LearnedAdversary:
    """Train an adversary with Stable-Baselines3's PPO on the victim's negated reward.

    **Arguments:** `env`: a Gymnasium environment. `victim`. `budget`. `steps`: of the environment. `q`: see
    `AdversaryEnv`. `seed`: of PPO (torch's global state is left as it was). `device`: of PPO, which is fastest on
    the CPU with networks as small as these. `settings`: of PPO.
    """
    from jostle.observation.learning import rollout, silent

    sb3 = optional("stable_baselines3", "observation")
    around = AdversaryEnv(env, victim, budget, q)
    with torch.random.fork_rng(devices=[]), victim.held():
        settings = {"n_steps": rollout(steps), **settings}
        model = silent(sb3.PPO("MlpPolicy", around, seed=seed, device=device, **settings))
        model.learn(steps)
    return LearnedAdversary(wrap_policy(model), budget)
