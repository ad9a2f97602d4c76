"""Agents that resist: adversarial training, smoothness regularisation, and alternating training."""

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

from jostle.core.errors import optional, require
from jostle.observation.adversary import learn_adversary
from jostle.observation.attack import Attack
from jostle.observation.attacks import PGD, Bifurcation
from jostle.observation.budget import Budget
from jostle.observation.envs import AttackedEnv
from jostle.observation.learning import silent
from jostle.observation.policy import wrap_policy
from jostle.observation.wrapped import Timed

Method = Literal["adv", "sa", "atla"]
Progress = Callable[[int, int, str], None]


def harden(
    model: Any,
    make_env: Callable[[], gym.Env],
    budget: Budget,
    *,
    method: Method = "adv",
    steps: int = 20_000,
    turns: int = 5,
    ratio: float = 0.5,
    kappa: float = 1.0,
    attack: Attack | None = None,
    seed: int = 0,
    callback: Progress | None = None,
) -> Any:
    """Train a Stable-Baselines3 agent further so that it resists attacks on its sensors, in place.

    `adv`: a share of its observations is attacked while it learns. `sa`: after each rollout (on-policy) or
    every 64 steps (off-policy) the actor also takes a step down `kappa max_o' ||mean(o') - mean(o)||^2`, the
    state-adversarial regulariser of Zhang et al. (2020) with an inner maximisation by gradient ascent; it
    alternates with the algorithm's own steps. `atla`: agent and a learnt adversary train in turns (Zhang et
    al. 2021). A hardened agent can be worse without an attack: compare both.

    **Arguments:** `model`: PPO, A2C, SAC, TD3 or DDPG with continuous actions (`adv`: any that wraps).
    `make_env`: makes its environment. `budget`. `steps`: of the environment, in all (`atla`: of the agent;
    the adversary takes as many). `turns`: of `atla`. `ratio`: attacked share for `adv`. `kappa`: of `sa`.
    `attack`: of `adv` and `sa`; default the bifurcation attack for `adv`, a random-start ascent for `sa`.
    `seed`: of draws.
    **Returns:** the model.
    """
    optional("stable_baselines3", "observation")
    require(0 <= ratio <= 1, f"ratio must lie in [0, 1], but {ratio} came")
    require(turns >= 1, f"turns must be at least 1, but {turns} came")
    rng = torch.Generator().manual_seed(seed)
    silent(model)
    with torch.random.fork_rng(devices=[]):
        if method == "adv":
            strong = attack or Bifurcation(budget, steps=10)
            env = AttackedEnv(make_env(), wrap_policy(model), Timed(strong, rate=ratio), rng)
            model.set_env(_monitored(env))
            model.learn(steps, callback=_counted(steps, callback), reset_num_timesteps=False)
        elif method == "sa":
            model.set_env(_monitored(make_env()))
            inner = attack or PGD(budget, steps=5)
            hook = _smoothing(model, inner, kappa, rng, _counted(steps, callback))
            model.learn(steps, callback=hook, reset_num_timesteps=False)
        else:
            require(method == "atla", f"method must be adv, sa or atla, but {method!r} came")
            for turn in range(turns):
                adversary = learn_adversary(
                    make_env(), wrap_policy(model), budget, steps=steps // turns, seed=seed + turn
                )
                model.set_env(_monitored(AttackedEnv(make_env(), wrap_policy(model), adversary, rng)))
                model.learn(steps // turns, reset_num_timesteps=False)
                if callback is not None:
                    callback(turn + 1, turns, f"turn {turn + 1} of {turns}")
    return model


def _monitored(env: gym.Env) -> Any:
    return optional("stable_baselines3.common.monitor", "observation").Monitor(env)


def _counted(steps: int, callback: Progress | None) -> Any:
    base = optional("stable_baselines3.common.callbacks", "observation").BaseCallback

    class Counted(base):
        def _on_training_start(self) -> None:
            self.first = self.num_timesteps

        def _on_step(self) -> bool:
            if callback is not None and self.n_calls % 500 == 0:
                callback(self.num_timesteps - self.first, steps, "training")
            return True

    return Counted()


def _smoothing(model: Any, attack: Attack, kappa: float, rng: torch.Generator, counted: Any) -> Any:
    callbacks = optional("stable_baselines3.common.callbacks", "observation")
    policy = wrap_policy(model)
    require(not policy.discrete, "sa is for continuous actions, but this agent's are discrete")
    actor = list(policy.net.parameters())
    learning = torch.optim.Adam(actor, model.lr_schedule(1.0))

    def smooth(o: Any) -> None:
        seen = torch.as_tensor(np.asarray(o), dtype=torch.float32).reshape(-1, policy.features)
        chosen = seen[torch.randperm(len(seen), generator=rng)[:256]].to(policy.like.device)
        shown, _ = attack(policy, chosen, generator=rng)
        with torch.no_grad():
            clean = policy.execute(policy.body(chosen))
        loss = kappa * (policy.execute(policy.body(shown)) - clean).square().sum(1).mean()
        learning.zero_grad(set_to_none=True)
        loss.backward()
        learning.step()

    class Smoothing(callbacks.BaseCallback):
        def _on_step(self) -> bool:
            buffer = getattr(self.model, "replay_buffer", None)
            if buffer is not None and self.n_calls % 64 == 0 and buffer.size() > 256:
                smooth(buffer.observations[: buffer.size()])
            return True

        def _on_rollout_end(self) -> None:
            if hasattr(self.model, "rollout_buffer"):
                smooth(self.model.rollout_buffer.observations)

    return callbacks.CallbackList([counted, Smoothing()])
