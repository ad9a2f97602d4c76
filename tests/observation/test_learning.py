"""Cloning, proxies, learnt adversaries, hardening, and agents in files."""

import tempfile

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import DiscretizeAction
from observation.conftest import box, classes, continuous
from observation.test_policy import Toy

from jostle.core.errors import JostleError
from jostle.observation import FGSM, PGD, Bifurcation, Budget, Regress, evaluate, wrap_policy
from jostle.observation.adversary import AdversaryEnv, LearnedAdversary, learn_adversary
from jostle.observation.fitting import Candidate, clone, fit_proxy
from jostle.observation.harden import harden
from jostle.observation.learning import Agent, learn_agent
from jostle.observation.rules import ScaledPendulum, spaces_of, swing_up

TOY = (Toy.observation_space, Box(-1.0, 1.0, (1,), np.float32))


class Follow(Toy):
    """Rewards an action near the first feature."""

    def __init__(self):
        super().__init__(TOY[1])

    def reset(self, *, seed=None, options=None):
        self.o, info = super().reset(seed=seed)
        return self.o, info

    def step(self, action):
        reward = -abs(float(np.asarray(action).item()) - float(self.o[0]))
        self.o, _, over, cut, info = super().step(action)
        return self.o, reward, over, cut, info


def follow(o):
    return o[:, :1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.study
def test_a_clone_does_what_the_rule_does_and_the_seed_decides_it():
    made = clone(follow, Follow, TOY, seeds=range(20), epochs=80, generator=seeded())
    assert (made.policy.act(made.o) - made.o[:, :1]).abs().mean() < 0.1
    assert len(made.o) == 20 * 10 * 2
    again = clone(follow, Follow, TOY, seeds=range(20), epochs=80, generator=seeded())
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.policy.net.parameters(), again.policy.net.parameters(), strict=True)
    )


@pytest.mark.study
def test_discrete_actions_are_cloned_too():
    spaces = (TOY[0], Discrete(5))

    def rule(o):
        return np.clip((o[:, 0] + 1) / 2 * 5, 0, 4).astype(np.int64)

    made = clone(
        rule, lambda: DiscretizeAction(Follow(), 5), spaces, seeds=range(20), epochs=200, generator=seeded()
    )
    assert made.policy.discrete and made.wanted.dtype == torch.int64
    assert (made.policy.act(made.o) == made.wanted).float().mean() > 0.9
    with pytest.raises(JostleError, match="continuous actions"):
        clone(rule, lambda: DiscretizeAction(Follow(), 5), spaces, guard=(FGSM(), 1.0), generator=seeded())


@pytest.mark.study
def test_the_regulariser_makes_a_clone_that_moves_less():
    budget = Budget(0.3)
    moved = {}
    for kappa in (0.0, 20.0):
        guard = (PGD(budget, Regress(), steps=3), kappa) if kappa else None
        made = clone(
            follow, Follow, TOY, seeds=range(20), rounds=0, epochs=60, guard=guard, generator=seeded()
        )
        row = evaluate(made.policy, Follow, {"bif": Bifurcation(budget, steps=10)}, seeds=range(10)).rows[
            "bif"
        ]
        moved[kappa] = row.action_mae
        assert made.policy.net.training and all(p.requires_grad for p in made.policy.net.parameters())
    assert moved[20.0] < 0.6 * moved[0.0]


@pytest.mark.study
def test_a_proxy_learns_from_a_log_in_order():
    rng = np.random.default_rng(0)
    o = rng.uniform(-1, 1, (800, 4)).astype(np.float32)
    actions = np.tanh(o[:, :1] - o[:, 1:2])
    made = fit_proxy(
        o,
        actions,
        TOY,
        candidates=(Candidate((32,)), Candidate((2,), "relu", 0.5, "mae")),
        generator=seeded(),
    )
    assert made.chosen == "32 tanh mse drop 0" and made.rmse[made.chosen] == min(made.rmse.values()) < 0.1
    assert np.abs(made.policy.act(o) - actions).mean() < 0.05
    with pytest.raises(JostleError, match="at least 8 steps"):
        fit_proxy(o[:5], actions[:5], TOY, generator=seeded())


def test_the_adversary_s_environment_keeps_the_truth():
    victim = clone(follow, Follow, TOY, seeds=range(5), epochs=20, generator=seeded()).policy
    env = AdversaryEnv(Follow(), victim, Budget(0.3), q=3.0)
    true = Follow()
    o, _ = env.reset(seed=3)
    p, _ = true.reset(seed=3)
    for _ in range(10):
        u = np.ones(4, dtype=np.float32)
        shown = np.clip(p + 0.3 * u, np.minimum(-1, p), np.maximum(1, p)).astype(np.float32)
        q, wanted, *_ = true.step(victim.act(shown))
        distance = np.abs(shown - p).max()
        o, reward, *_ = env.step(u)
        assert np.array_equal(o, q)
        assert reward == pytest.approx(-wanted * (1 - distance / 2) ** 3, rel=1e-4)
        p = q


@pytest.mark.study
def test_a_learnt_adversary_stays_in_the_budget_and_does_harm():
    victim = clone(follow, Follow, TOY, seeds=range(20), epochs=60, generator=seeded()).policy
    before = torch.random.get_rng_state()
    found = learn_adversary(Follow(), victim, Budget([0.4, 0, 0, 0]), steps=4096, n_steps=512, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
    o = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    shown, info = found(victim, o)
    assert np.abs(shown - o)[:, 0].max() <= 0.4 + 1e-6 and np.array_equal(shown[:, 1:], o[:, 1:])
    assert info.active.tolist() == [0] and isinstance(found, LearnedAdversary)
    rows = evaluate(victim, Follow, {"learnt": found}, seeds=range(30)).rows
    assert rows["learnt"].interval[0] > 0.5


@pytest.mark.study
@pytest.mark.parametrize("method", ["adv", "sa", "atla"])
def test_hardening_trains_the_agent_further(method):
    model = learn_agent(Follow(), "ppo", steps=512, hidden=(16,), n_steps=256, device="cpu")
    old = [p.detach().clone() for p in model.policy.parameters()]
    seen = []
    made = harden(
        model, Follow, Budget(0.2), method=method, steps=512, turns=1, callback=lambda *a: seen.append(a)
    )
    assert made is model and model.num_timesteps > 512
    assert any(not torch.equal(a, b) for a, b in zip(old, model.policy.parameters(), strict=True))
    assert all(p.requires_grad for p in model.policy.parameters())
    assert seen


@pytest.mark.study
def test_smoothing_also_reaches_an_off_policy_actor(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = learn_agent(Follow(), "sac", steps=300, hidden=(16,), learning_starts=100, device="cpu")
    policy = wrap_policy(model)
    o = torch.rand(100, 4, generator=seeded()) * 2 - 1
    attack = Bifurcation(Budget(0.3), steps=5)

    def width():
        return (policy.act(attack(policy, o)[0]) - policy.act(o)).abs().mean().item()

    before = width()
    harden(model, Follow, Budget(0.3), method="sa", steps=1200, kappa=50.0)
    assert width() < before
    assert not list(
        tmp_path.glob("SB3-*")
    )  # Stable-Baselines3 makes a folder of logs wherever it is not told


@pytest.mark.parametrize("policy", [continuous(), classes()])
def test_an_agent_survives_its_file(policy, tmp_path):
    agent = Agent.of(policy)
    agent.save(tmp_path / "a.safetensors")
    again = Agent.load(tmp_path / "a.safetensors")
    assert again.head == policy.head and again.numbers() == agent.numbers()
    o = torch.rand(9, 5, generator=seeded())
    space = Discrete(6) if policy.discrete else box(1, -1.0, 1.0)
    assert torch.equal(again.policy(box(5), space).act(o), policy.act(o))


@pytest.mark.study
@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN", "PPO discrete"])
def test_stable_baselines_files_are_read_without_unpickling(name, tmp_path):
    import stable_baselines3 as sb3

    kind, _, extra = name.partition(" ")
    actions = Discrete(3) if kind == "DQN" or extra else Box(np.float32([-2, 0]), np.float32([2, 1]))
    env = Toy(actions)
    model = getattr(sb3, kind)("MlpPolicy", env, seed=1, device="cpu")
    model.save(tmp_path / "m.zip")
    o = np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32)
    policy = Agent.load(tmp_path / "m.zip").policy(env.observation_space, actions)
    assert np.allclose(policy.act(o), model.predict(o, deterministic=True)[0], atol=1e-6)


def test_what_is_no_agent(tmp_path):
    with pytest.raises(JostleError, match="does not exist"):
        Agent.load(tmp_path / "none.zip")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(JostleError, match="could not read an agent"):
        Agent.load(tmp_path / "x.safetensors")


@pytest.mark.study
def test_the_pendulum_falls_to_bifurcation_and_shrugs_off_regression():
    env = ScaledPendulum()
    o = env.reset(seed=0)[0]
    assert env.observation_space.shape == (3,) and np.abs(o).max() <= 1
    for seed in range(3):
        made = clone(
            swing_up, ScaledPendulum, spaces_of(env), seeds=range(10_000 + 100 * seed, 10_016 + 100 * seed), rounds=3, epochs=40,
            generator=seeded(seed),
        )  # fmt: skip
        attacks = {
            "regression": PGD(Budget(0.02), Regress(), steps=20),
            "bifurcated": Bifurcation(Budget(0.02), steps=20),
        }
        rows = evaluate(made.policy, ScaledPendulum, attacks, seeds=range(24)).rows
        assert rows["none"].clean_return > -260
        assert (
            rows["bifurcated"].regret > 5 * max(rows["regression"].regret, 0)
            and rows["bifurcated"].regret > 50
        )
