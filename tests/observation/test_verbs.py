"""The command line on an agent in a file."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from observation.conftest import box, mlp

from jostle.cli import main
from jostle.observation import Agent, verbs, wrap_policy

SHORT = "ShortPendulum-v0"
if SHORT not in gym.registry:  # 30 steps tell what 200 do
    gym.register(
        SHORT, entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=30
    )

MINE = """from torch import nn

def make():
    return nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1), nn.Tanh())

def no():
    return 3
"""


@pytest.fixture
def pendulum(tmp_path):
    policy = wrap_policy(
        mlp(3, 16, 1, gain=2.0), head="tanh", observation_space=box(3), action_space=Box(-2.0, 2.0, (1,))
    )
    Agent.of(policy).save(tmp_path / "agent.safetensors")
    return tmp_path / "agent.safetensors"


@pytest.fixture
def house(tmp_path):
    policy = wrap_policy(
        mlp(31, 8, 1), head="tanh", observation_space=box(31), action_space=box(1, -1.0, 1.0)
    )
    Agent.of(policy).save(tmp_path / "house.safetensors")
    return tmp_path / "house.safetensors"


def run(*words):
    return main(["observation", *map(str, words)])


@pytest.mark.study
def test_attack_and_sweep(pendulum, tmp_path, capsys):
    out = tmp_path / "report.json"
    common = ("--agent", pendulum, "--env", SHORT, "--steps", 5, "--episodes", 2)
    assert (
        run("attack", *common, "--kinds", "uniform", "fgsm", "acg", "regression", "--still", 2, "--out", out)
        == 0
    )
    kept = json.loads(out.read_text())
    assert set(kept["attacks"]) == {"none", "uniform", "fgsm", "acg", "regression"} and kept["seeds"] == [
        0,
        1,
    ]
    assert kept["attacks"]["fgsm"]["linf"] == pytest.approx(0.05, abs=1e-6)
    assert run("sweep", *common, "--eps", 0.01, 0.1) == 0
    assert "bifurcated 0.1" in capsys.readouterr().out


@pytest.mark.study
def test_certify_and_stealth(pendulum, tmp_path, capsys):
    assert run("certify", "--agent", pendulum, "--env", "Pendulum-v1", "--eps", 0.02) == 0
    assert "mean width" in capsys.readouterr().out
    out = tmp_path / "s.json"
    words = ("--agent", pendulum, "--env", SHORT, "--hide", 1.0, "--block", 5, "--permutations", 19)
    assert run("stealth", *words, "--out", out) == 0
    assert len(json.loads(out.read_text())["by feature"]["p"]["ks"]) == 3


@pytest.mark.study
def test_a_building_by_name(house, district, tmp_path, monkeypatch):
    monkeypatch.setattr(verbs, "load_district", lambda name: district.window(0, 96))
    out = tmp_path / "r.json"
    words = ("--agent", house, "--env", "Building_6", "--kinds", "fgsm", "--episodes", 1)
    assert run("attack", *words, "--out", out) == 0
    assert json.loads(out.read_text())["attacks"]["fgsm"]["kpi"]["cost"] > 0


@pytest.mark.study
def test_train_and_harden(tmp_path):
    out = tmp_path / "a.safetensors"
    words = ("--env", SHORT, "--algorithm", "ppo", "--steps", 256, "--hidden", 8, "--resist", "adv")
    assert run("train", *words, "--out", out) == 0
    assert Agent.load(out).numbers()["widths"] == [8, 1]


def test_a_module_of_one_s_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    words = ("--env", SHORT, "--kinds", "bifurcated", "--episodes", 1, "--steps", 3)
    assert run("attack", "--agent", f"{tmp_path}/mine.py:make", *words) == 0
    assert "bifurcated" in capsys.readouterr().out
    assert run("attack", "--agent", f"{tmp_path}/mine.py:no", *words) == 2
    assert "must make a torch module" in " ".join(capsys.readouterr().err.split())
    assert run("certify", "--agent", f"{tmp_path}/mine.py:make", "--env", SHORT) == 2
    assert "linear, tanh and ReLU layers" in " ".join(capsys.readouterr().err.split())


def test_logs_of_one_s_own_are_audited(tmp_path, capsys):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(200, 3))
    shown = clean + np.array([0.0, 0.0, 1.5])
    np.savez(tmp_path / "clean.npz", o=clean)
    np.save(tmp_path / "shown.npy", shown)
    words = ("--clean", tmp_path / "clean.npz", "--block", 5, "--permutations", 99)
    out = tmp_path / "s.json"
    assert run("audit", *words, "--shown", tmp_path / "shown.npy", "--out", out) == 0
    p = json.loads(out.read_text())["by feature"]["p"]["ks"]
    assert p[2] < 1e-6 and p[0] == pytest.approx(1.0)
    np.savez(tmp_path / "two.npz", a=clean, b=clean)
    assert run("audit", *words, "--shown", tmp_path / "two.npz") == 2
    assert "must hold one array" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "text.npy").write_text("no numbers")
    assert run("audit", *words, "--shown", tmp_path / "text.npy") == 2
    assert "must be a .npy or .npz file of numbers" in " ".join(capsys.readouterr().err.split())
    np.save(tmp_path / "wide.npy", rng.normal(size=(200, 4)))
    assert run("audit", *words, "--shown", tmp_path / "wide.npy") == 2
    assert "the features differ: 3 and 4" in " ".join(capsys.readouterr().err.split())


def test_mistakes_are_one_sentence(pendulum, tmp_path, capsys):
    assert run("attack", "--agent", tmp_path / "no.zip", "--env", "Pendulum-v1") == 2
    assert "does not exist" in " ".join(capsys.readouterr().err.split())
    assert run("attack", "--agent", pendulum, "--env", "Nowhere-v1") == 2
    assert "env must be a Gymnasium id" in " ".join(capsys.readouterr().err.split())
    assert run("attack", "--agent", pendulum, "--env", "Pendulum-v1", "--still", 9) == 2
    assert "features from 0 to 2" in " ".join(capsys.readouterr().err.split())
    assert run("attack", "--agent", pendulum, "--env", "CartPole-v1") == 2
    assert "argmax is for Discrete" in " ".join(capsys.readouterr().err.split())
