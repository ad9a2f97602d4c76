"""Agents learnt by Stable-Baselines3, and policies read from files without unpickling."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require
from jostle.files import whole
from jostle.observation.policy import Policy, wrap_policy
from jostle.zoo.networks import user_function
from jostle.zoo.weights import require_finite

Progress = Callable[[int, int, str], None]
Algorithm = Literal["sac", "ppo"]


def learn_agent(
    env: gym.Env,
    algorithm: str = "sac",
    *,
    steps: int = 50_000,
    hidden: tuple[int, ...] = (64, 64),
    seed: int = 0,
    device: str = "auto",
    callback: Progress | None = None,
    **settings: Any,
) -> Any:
    """Train SAC or PPO of Stable-Baselines3; torch's global random state is left as it was.

    **Arguments:** `env`. `algorithm`: `sac` or `ppo`. `steps`: of the environment. `hidden`: widths of actor and
    critics. `seed`. `device`: of torch. `settings`: of the algorithm; SAC takes one gradient step per 2 steps.
    **Returns:** the Stable-Baselines3 model.
    """
    sb3 = optional("stable_baselines3", "observation")
    require(algorithm in ("sac", "ppo"), f"algorithm must be sac or ppo, but {algorithm!r} came")
    require(steps >= 1, f"steps must be at least 1, but {steps} came")
    chosen: dict[str, Any] = {"policy_kwargs": {"net_arch": list(hidden)}, "seed": seed, "device": device}
    if algorithm == "sac":
        chosen |= {"train_freq": 2, "gradient_steps": 1, "learning_starts": min(1000, steps // 2)}
    else:
        chosen["n_steps"] = rollout(steps)
    hook = _watch(steps, callback)
    with torch.random.fork_rng(devices=[]):
        model = silent(getattr(sb3, algorithm.upper())("MlpPolicy", env, **{**chosen, **settings}))
        model.learn(steps, callback=hook)
    return model


def rollout(steps: int) -> int:
    """Steps of one of PPO's rollouts: 2,048 as by default, but not more than there are, in batches of 64.

    >>> rollout(10_000), rollout(200)
    (2048, 192)
    """
    return max(64, min(2048, steps // 64 * 64))


def silent(model: Any) -> Any:
    """A model that would log nothing leaves no folder of logs behind; one that logs is as it was."""
    if not model.verbose and model.tensorboard_log is None and not getattr(model, "_custom_logger", False):
        model.set_logger(optional("stable_baselines3.common.logger", "observation").Logger(None, []))
    return model


def _watch(steps: int, callback: Progress | None) -> Any:
    base = optional("stable_baselines3.common.callbacks", "observation").BaseCallback

    class Watch(base):
        def _on_step(self) -> bool:
            if callback is not None and self.n_calls % 500 == 0:
                callback(self.num_timesteps, steps, "training")
            return True

    return Watch()


@dataclass(frozen=True, eq=False)
class Agent:
    """A policy network in a file: linear layers and activations, and the head that makes an action of its output.

    `load` reads what `save` wrote, models that Stable-Baselines3 saved (`.zip`: PPO, A2C, SAC, TD3, DDPG, DQN with
    flat observations), whose weights are read without unpickling anything, and `FILE.py:FUNCTION`, a function of
    yours that makes a module from observations to the output before squashing (a last tanh is the head).
    """

    suffix: ClassVar[str] = ".safetensors"

    net: nn.Module
    head: Literal["auto", "tanh", "clip", "argmax"]

    @classmethod
    def of(cls, policy: Policy) -> "Agent":
        """The agent of a policy whose body is linear, tanh and ReLU layers in a row."""
        layers = policy.chain
        require(layers is not None, "only linear, tanh and ReLU layers in a row can be kept in a file")
        assert layers is not None
        return cls(nn.Sequential(*layers), policy.head)

    def policy(self, observation_space: Any, action_space: Any) -> Policy:
        """The policy in an environment with these spaces."""
        return wrap_policy(
            self.net, head=self.head, observation_space=observation_space, action_space=action_space
        )

    def numbers(self) -> dict[str, Any]:
        """What the network is."""
        widths = [layer.out_features for layer in self.net.modules() if isinstance(layer, nn.Linear)]
        return {
            "head": self.head,
            "widths": widths,
            "parameters": sum(p.numel() for p in self.net.parameters()),
        }

    def save(self, path: Path) -> None:
        """Write the network as safetensors."""
        from safetensors.torch import save

        kinds = [
            "linear" if isinstance(layer, nn.Linear) else type(layer).__name__.lower()
            for layer in self.net.children()
        ]
        state = {key: value.detach().cpu().contiguous() for key, value in self.net.state_dict().items()}
        with whole(Path(path)) as draft:
            draft.write_bytes(save(state, {"head": self.head, "layers": json.dumps(kinds)}))

    @classmethod
    def load(cls, path: Path) -> "Agent":
        """Read an agent.

        **Raises:** `JostleError` if the file is neither of the two kinds, or broken.
        """
        if ".py:" in str(path):
            made = user_function(str(path), "agent")()
            require(
                isinstance(made, nn.Module),
                f"{path} must make a torch module, but {type(made).__name__} came",
            )
            return cls(made, "auto")
        path = Path(path)
        require(path.is_file(), f"agent file {path} does not exist")
        require(path.suffix != ".py", f"an agent of your own is named FILE.py:FUNCTION, but {path} came")
        try:
            found = cls._zip(path) if zipfile.is_zipfile(path) else cls._tensors(path)
            require_finite(found.net, str(path))
            return found
        except JostleError:
            raise
        except Exception as error:
            raise JostleError(f"could not read an agent from {path}: {error}") from error

    @classmethod
    def _tensors(cls, path: Path) -> "Agent":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        require(
            "layers" in about and about.get("head") in ("tanh", "clip", "argmax"),
            f"{path} holds no agent: its metadata name no layers and head",
        )
        layers = [
            _linear(state[f"{i}.weight"], state.get(f"{i}.bias")) if kind == "linear" else _ACTS[kind]()
            for i, kind in enumerate(json.loads(about["layers"]))
        ]
        return cls(nn.Sequential(*layers), about["head"])  # type: ignore[arg-type]

    @classmethod
    def _zip(cls, path: Path) -> "Agent":
        with zipfile.ZipFile(path) as archive:
            require(
                "policy.pth" in archive.namelist(), f"{path} holds no policy.pth: not of Stable-Baselines3"
            )
            with archive.open("policy.pth") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
            about = json.loads(archive.read("data").decode()) if "data" in archive.namelist() else {}
        for trunk, last, head, usual in _LAYOUTS:
            if last is not None and f"{last}.weight" not in state:
                continue
            stem = [key for key in state if key.startswith(trunk + ".") and key.endswith(".weight")]
            if not stem:
                continue
            said = str(about.get("policy_kwargs", ""))
            kind = next((name for name in _ACTS if f"activation.{name}" in said.lower()), usual)
            discrete = "Discrete" in str(about.get("action_space", {}).get(":type:", ""))
            return cls(_stack(state, trunk, last, kind), "argmax" if discrete or head == "argmax" else head)
        raise JostleError(f"{path} is not PPO, A2C, SAC, TD3, DDPG or DQN with flat observations")


_ACTS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
_LAYOUTS: tuple[tuple[str, str | None, Literal["tanh", "clip", "argmax"], str], ...] = (
    ("actor.latent_pi", "actor.mu", "tanh", "relu"),
    ("mlp_extractor.policy_net", "action_net", "clip", "tanh"),
    ("actor.mu", None, "tanh", "relu"),
    ("q_net.q_net", None, "argmax", "relu"),
)


def _stack(state: dict[str, Tensor], trunk: str, last: str | None, kind: str) -> nn.Sequential:
    numbers = sorted(
        {int(key.split(".")[len(trunk.split("."))]) for key in state if key.startswith(trunk + ".")}
    )
    names = [f"{trunk}.{i}" for i in numbers] + ([] if last is None else [last])
    layers: list[nn.Module] = []
    for name in names:
        layers += [_linear(state[f"{name}.weight"], state.get(f"{name}.bias")), _ACTS[kind]()]
    return nn.Sequential(*layers[:-1])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
