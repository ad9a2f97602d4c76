"""The differentiable parts of a Stable-Baselines3 model: actor before its squashing, critics, spread."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require

_LOG_STD = (-20.0, 2.0)  # the limits between which SAC of Stable-Baselines3 clips its log standard deviation


def parts(model: Any) -> dict[str, Any]:
    """What [`Policy`][jostle.observation.Policy] needs of a SAC, TD3, DDPG, PPO, A2C or DQN model.

    **Raises:** `JostleError` if the model is of another kind, recurrent, or reads pictures or dicts.
    """
    policy = model.policy
    require(
        getattr(model, "_vec_normalize_env", None) is None,
        "the model reads observations through VecNormalize: wrap a module that starts with that normalisation, "
        "so that it is plain in which units the budget counts",
    )
    require(
        getattr(policy, "normalize_images", None) is not None and not hasattr(policy, "lstm_actor"),
        f"{type(policy).__name__} is not a policy that can be taken apart (recurrent ones carry a state)",
    )
    if hasattr(policy, "q_net"):
        extract = _extractor(policy.q_net.features_extractor)
        return {"net": nn.Sequential(extract, policy.q_net.q_net), "head": "argmax"}
    if hasattr(policy, "actor") and hasattr(policy.actor, "latent_pi"):
        return _sac(policy)
    if hasattr(policy, "actor"):
        return _td3(policy)
    if hasattr(policy, "mlp_extractor"):
        return _ppo(policy)
    raise JostleError(f"model must be SAC, TD3, DDPG, PPO, A2C or DQN, but {type(model).__name__} came")


def _sac(policy: Any) -> dict[str, Any]:
    actor = policy.actor
    require(not actor.use_sde, "SAC with gSDE is not supported: its mean depends on the exploration state")
    trunk = nn.Sequential(_extractor(actor.features_extractor), actor.latent_pi)

    def spread(o: Tensor) -> Tensor:
        return actor.log_std(trunk(o)).clamp(*_LOG_STD).exp()

    return {
        "net": nn.Sequential(trunk, actor.mu),
        "head": "tanh",
        "spread": spread,
        "q_of": _critic(policy),
        "others": (policy.critic, actor),
    }


def _td3(policy: Any) -> dict[str, Any]:
    layers = list(policy.actor.mu)
    require(isinstance(layers[-1], nn.Tanh), "the actor must end in tanh, as Stable-Baselines3 builds it")
    net = nn.Sequential(_extractor(policy.actor.features_extractor), *layers[:-1])
    return {"net": net, "head": "tanh", "q_of": _critic(policy), "others": (policy.critic,)}


def _critic(policy: Any) -> Callable[[Tensor, Tensor], Tensor]:
    critic, space = policy.critic, policy.action_space
    low = torch.as_tensor(space.low.reshape(-1))
    high = torch.as_tensor(space.high.reshape(-1))

    def q_of(o: Tensor, a: Tensor) -> Tensor:
        # The critics read actions on [-1, 1], as the actor gives them before they are scaled to the space.
        scaled = 2.0 * (a - low.to(a)) / (high - low).to(a) - 1.0
        return torch.cat(critic(o, scaled), dim=1).amin(1)

    return q_of


def _ppo(policy: Any) -> dict[str, Any]:
    require(
        not getattr(policy, "squash_output", False),
        "PPO and A2C with a squashed gSDE output are not supported",
    )
    require(policy.share_features_extractor, "PPO and A2C with two feature extractors are not supported")
    extract = _extractor(policy.features_extractor)
    trunk = nn.Sequential(extract, policy.mlp_extractor.policy_net)
    discrete = hasattr(policy.action_space, "n")
    found: dict[str, Any] = {
        "net": nn.Sequential(trunk, policy.action_net),
        "head": "argmax" if discrete else "clip",
        "value_of": nn.Sequential(extract, policy.mlp_extractor.value_net, policy.value_net),
        "others": (policy.mlp_extractor, policy.value_net),
    }
    if discrete:
        return found

    def spread(o: Tensor) -> Tensor:
        if not policy.use_sde:
            return policy.log_std.exp().expand(len(o), -1)
        latent = trunk(o)
        return (latent.square() @ policy.action_dist.get_std(policy.log_std).square() + 1e-6).sqrt()

    return {**found, "spread": spread}


def _extractor(extractor: nn.Module) -> nn.Module:
    require(
        type(extractor).__name__ == "FlattenExtractor",
        f"the model's features come through {type(extractor).__name__}; only flat vectors are supported: wrap "
        "your actor as a module",
    )
    return nn.Flatten()
