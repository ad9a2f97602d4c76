"""What can be wrapped, where its boundary lies, and the sentences for what cannot."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from observation.conftest import box, continuous, mlp
from torch import nn

from jostle.core.errors import JostleError
from jostle.observation import Bifurcation, Budget, wrap_policy


def test_a_tanh_at_the_end_becomes_the_head():
    net = nn.Sequential(mlp(3, 8, 2), nn.Tanh())
    policy = wrap_policy(
        net, observation_space=box(3), action_space=Box(np.float32([0, -2]), np.float32([1, 2]))
    )
    o = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert policy.head == "tanh" and policy.centre.tolist() == [0, 0]
    wanted = torch.tensor([0.5, 0.0]) + net(o) * torch.tensor([0.5, 2.0])
    assert torch.allclose(policy.act(o), wanted, atol=1e-6)
    assert policy.chain is not None and len(policy.chain) == 3


def test_a_clipped_head_divides_at_the_middle():
    policy = wrap_policy(
        mlp(3, 8, 2), observation_space=box(3), action_space=Box(np.float32([0, -2]), np.float32([1, 4]))
    )
    assert policy.head == "clip" and policy.centre.tolist() == [0.5, 1.0]
    assert wrap_policy(
        mlp(3, 8, 1), boundary=0.2, observation_space=box(3), action_space=Box(-np.inf, np.inf, (1,))
    ).centre.tolist() == pytest.approx([0.2])
    o = torch.zeros(1, 3)
    wild = wrap_policy(nn.Linear(3, 1), observation_space=box(3), action_space=Box(0.0, 0.1, (1,)))
    assert 0 <= wild.act(o).item() <= 0.1


def test_a_function_is_a_policy():
    net = mlp(3, 8, 1)
    policy = wrap_policy(
        lambda o: net(o) * 2, head="tanh", observation_space=box(3), action_space=box(1, -1, 1)
    )
    assert policy.chain is None
    shown, info = Bifurcation(Budget(0.1))(policy, np.full((4, 3), 0.5, dtype=np.float32))
    assert info.moved.all() and shown.shape == (4, 3)


def test_sampling_follows_the_softmax_and_the_gaussian():
    policy = wrap_policy(mlp(3, 8, 4, gain=3.0), observation_space=box(3), action_space=Discrete(4))
    o = torch.full((4000, 3), 0.5)
    rng = torch.Generator().manual_seed(0)
    share = torch.bincount(policy.act(o, rng), minlength=4) / 4000
    assert torch.allclose(share, policy.body(o[:1]).softmax(1)[0], atol=0.03)
    with pytest.raises(JostleError, match="no Gaussian to sample from"):
        continuous().act(torch.zeros(1, 5), rng)


@pytest.mark.parametrize(
    ("model", "spaces", "words"),
    [
        (nn.Linear(3, 1), {}, "must be given with a module"),
        (
            nn.Linear(3, 1),
            {"observation_space": box(4), "action_space": box(1)},
            "cannot read an observation of 4",
        ),
        (nn.Linear(3, 2), {"observation_space": box(3), "action_space": box(1)}, r"gives the shape \(1, 2\)"),
        (
            lambda o: o.detach()[:, :1],
            {"observation_space": box(3), "action_space": box(1)},
            "not differentiable",
        ),
        (
            nn.Linear(3, 1),
            {"observation_space": gym.spaces.Dict({"a": box(3)}), "action_space": box(1)},
            "pick one entry",
        ),
        (
            nn.Linear(3, 1),
            {"observation_space": Box(0, 255, (3,), np.uint8), "action_space": box(1)},
            "holds integers",
        ),
        (
            nn.Linear(3, 2),
            {"observation_space": box(3), "action_space": Discrete(2), "head": "tanh"},
            "does not go with",
        ),
        (
            nn.Linear(3, 1),
            {"observation_space": box(3), "action_space": Box(-np.inf, np.inf, (1,))},
            "has no middle",
        ),
        (7, {"observation_space": box(3), "action_space": box(1)}, "a module or a function"),
    ],
)
def test_what_is_refused(model, spaces, words):
    with pytest.raises(JostleError, match=words):
        wrap_policy(model, **spaces)


def test_a_policy_is_held_once_however_deep():
    policy = continuous()
    policy.net.train()
    with policy.held():
        with policy.held():
            assert not policy.net.training
        assert not policy.net.training
    assert policy.net.training and policy.net[0].weight.requires_grad
    assert policy.value_of is None
    with pytest.raises(JostleError, match="no value function"):
        policy.value(torch.zeros(1, 5))


class Toy(gym.Env):
    observation_space = Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, actions):
        self.action_space = actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        return (
            self.np_random.uniform(-1, 1, 4).astype(np.float32),
            float(np.sum(action)),
            self.t == 10,
            False,
            {},
        )


@pytest.mark.study
@pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "TD3", "DDPG", "DQN", "PPO discrete", "PPO sde"])
def test_stable_baselines_models_act_as_their_own_predict(name):
    import stable_baselines3 as sb3

    kind, _, extra = name.partition(" ")
    discrete = kind == "DQN" or extra == "discrete"
    env = Toy(Discrete(4) if discrete else Box(np.float32([-2, 0]), np.float32([2, 1])))
    settings = {"use_sde": True} if extra == "sde" else {}
    model = getattr(sb3, kind)("MlpPolicy", env, seed=0, device="cpu", **settings)
    policy = wrap_policy(model)
    rng = np.random.default_rng(0)
    o = rng.uniform(-1, 1, (20, 4)).astype(np.float32)
    theirs, _ = model.predict(o, deterministic=True)
    assert np.allclose(policy.act(o), theirs, atol=1e-5)
    assert policy.chain is not None
    shown, info = Bifurcation(Budget(0.1), steps=5)(policy, o)
    assert np.abs(shown - o).max() <= 0.1 + 1e-6 and info.moved.any()
    seen = torch.from_numpy(o)
    if kind in ("PPO", "A2C"):
        assert torch.allclose(policy.value(seen), model.policy.predict_values(seen)[:, 0], atol=1e-5)
    if kind in ("SAC", "TD3", "DDPG"):
        a = torch.as_tensor(theirs)
        scaled = torch.as_tensor(model.policy.scale_action(theirs))
        q = torch.cat(model.critic(seen, scaled), 1).amin(1)
        assert torch.allclose(policy.q(seen, a), q, atol=1e-5)
    if not discrete and policy.spread is not None:
        with torch.no_grad():
            spread = policy.spread(seen)
        if kind == "SAC":
            mean, log_std, _ = model.actor.get_action_dist_params(seen)
            assert torch.allclose(spread, log_std.exp(), atol=1e-6)
        else:
            assert torch.allclose(spread, model.policy.get_distribution(seen).distribution.stddev, atol=1e-6)
    assert all(p.grad is None for p in model.policy.parameters())


class Doubled(nn.Sequential):
    """A subclass with a forward of its own."""

    def forward(self, o):
        return 2 * super().forward(o)


def odd_nets():
    pooled = nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.ELU(), nn.Flatten(), nn.Linear(6, 1), nn.Tanh()
    )
    hooked = mlp(5, 8, 1)
    hooked[1].register_forward_hook(lambda module, inputs, out: 3 * out)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 1))
    return {
        "layers": (nn.Sequential(nn.Flatten(), mlp(5, 8, 1), nn.Identity()), True),
        "no bias": (nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)), True),
        "dropout": (nn.Sequential(mlp(5, 8, 8), nn.Dropout(0.5), nn.Linear(8, 1)), True),
        "other layers": (pooled, False),
        "a hook": (hooked, False),
        "a reparametrised weight": (normed, False),
        "a subclass": (Doubled(*mlp(5, 8, 1)), False),
    }


@pytest.mark.parametrize("name", list(odd_nets()))
def test_what_is_no_plain_chain_is_not_taken_for_one(name):
    net, plain = odd_nets()[name]
    policy = wrap_policy(net, head="tanh", observation_space=box(5), action_space=box(1, -1.0, 1.0))
    assert (policy.chain is not None) == plain
    o = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    with policy.held(), torch.no_grad():
        swift, body = policy.swift()(o), policy.body(o)
        clean = net.eval()(o)
    assert torch.allclose(swift, body, atol=1e-6)
    assert torch.allclose(policy.act(o), clean if name == "other layers" else clean.tanh(), atol=1e-6)
    before = policy.body(o).detach() if name != "dropout" else body
    shown, info = Bifurcation(Budget(0.1))(policy, o)
    moved = (policy.act(shown) - policy.act(o))[:, 0]
    assert bool((moved * before[:, 0] <= 0).all()) and info.moved.any()
