"""Common random numbers, true rewards, and regrets with the right sign."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from observation.conftest import continuous, mlp, wrap_policy

from jostle.core.errors import JostleError
from jostle.observation import FGSM, BatteryBuilding, Bifurcation, Budget, Building, Noise, evaluate


class Wander(gym.Env):
    """A noisy walk of random length; the reward is minus the place."""

    observation_space = gym.spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 20))
        self.o = self.np_random.random(5).astype(np.float32)
        return self.o, {}

    def step(self, action):
        self.left -= 1
        self.o = np.clip(self.o + 0.1 * action.item() * self.np_random.random(5), 0, 1).astype(np.float32)
        return self.o, -float(self.o.sum()), self.left == 0, False, {}


def test_the_clean_run_is_the_environment_s_own():
    policy = continuous()
    report = evaluate(policy, Wander, {}, seeds=range(6))
    for i in range(6):
        env = Wander()
        o, _ = env.reset(seed=i)
        total, over = 0.0, False
        while not over:
            o, reward, over, *_ = env.step(policy.act(o))
            total += reward
        assert report.episodes["none"].returns[i] == pytest.approx(total, abs=1e-5)


def test_no_budget_costs_nothing_and_a_little_costs_little():
    policy = continuous()
    attacks = {
        "nothing": Bifurcation(Budget(0.0)),
        "little": Noise(Budget(1e-6)),
        "much": Bifurcation(Budget(0.2), direction="up"),
    }
    report = evaluate(policy, Wander, attacks, seeds=range(8))
    clean = report.rows["none"]
    assert (
        clean.regret == 0 and report.rows["nothing"].regret == 0 and report.rows["nothing"].attack_rate == 0
    )
    assert abs(report.rows["little"].regret) < 1e-3 * abs(clean.attacked_return)
    much = report.rows["much"]
    assert much.regret > 0 and much.attack_rate == 1 and much.linf == pytest.approx(0.2, abs=1e-6)
    assert much.interval[0] < much.regret < much.interval[1]
    assert much.clean_return - much.attacked_return == pytest.approx(much.regret)
    assert much.regret_a_step > 0 and much.action_mae > 0 and much.asr is None


def test_discrete_policies_have_a_success_rate():
    class Choice(Wander):
        action_space = gym.spaces.Discrete(4)

        def step(self, action):
            return super().step(np.array(action / 2 - 0.75))

    net = mlp(5, 16, 4, gain=3.0)
    policy = wrap_policy(net, observation_space=Choice.observation_space, action_space=Choice.action_space)
    row = evaluate(policy, Choice, {"fgsm": FGSM(Budget(0.2))}, seeds=range(4)).rows["fgsm"]
    assert row.action_mae is None and 0 <= row.asr <= 1


def test_sampled_policies_share_their_draws():
    net = mlp(5, 16, 1)
    policy = wrap_policy(
        net, head="clip", observation_space=Wander.observation_space, action_space=Wander.action_space
    )
    object.__setattr__(policy, "spread", lambda o: torch.full((len(o), 1), 0.3))
    report = evaluate(policy, Wander, {"nothing": Bifurcation(Budget(0.0))}, seeds=range(3), stochastic=True)
    assert report.rows["nothing"].regret == 0
    plain = evaluate(policy, Wander, {}, seeds=range(3))
    assert plain.rows["none"].attacked_return != report.rows["none"].attacked_return


@pytest.mark.study
def test_the_building_s_kpis_are_reported(district, tmp_path):
    data = district.window(3000, 200)
    net = mlp(31, 16, 1, gain=3.0)
    space = BatteryBuilding(data)
    policy = wrap_policy(
        net,
        head="tanh",
        observation_space=space.single_observation_space,
        action_space=space.single_action_space,
    )
    attacks = {"bif": Bifurcation(Budget(0.05), steps=10)}
    many = evaluate(policy, lambda: BatteryBuilding(data, copies=3, curves=None), attacks, seeds=[0, 5, 9])
    single = evaluate(policy, lambda: Building(data, curves=None), attacks, seeds=[0, 5, 9])
    assert np.allclose(many.episodes["bif"].returns, single.episodes["bif"].returns, atol=1e-4)
    assert many.rows["bif"].kpi["cost"] == pytest.approx(single.rows["bif"].kpi["cost"], rel=1e-4)
    assert many.rows["bif"].kpi_regret["cost"] == pytest.approx(
        many.rows["bif"].kpi["cost"] - many.rows["none"].kpi["cost"]
    )
    assert many.episodes["bif"].series["net"].shape == (200, 3)
    assert "ramping" in many.table() and "bif" in many.table()
    many.save(tmp_path / "report.json")
    kept = json.loads((tmp_path / "report.json").read_text())
    assert (
        kept["seeds"] == [0, 5, 9] and kept["attacks"]["bif"]["kpi"]["cost"] == many.rows["bif"].kpi["cost"]
    )


def test_what_is_refused(district):
    policy = continuous()
    with pytest.raises(JostleError, match="at least one episode"):
        evaluate(policy, Wander, {}, seeds=())
    with pytest.raises(JostleError, match="not be named 'none'"):
        evaluate(policy, Wander, {"none": FGSM(Budget(0.1))})
    with pytest.raises(JostleError, match="makes 2 copies, but there are 3 seeds"):
        evaluate(policy, lambda: BatteryBuilding(district, copies=2), {}, seeds=range(3))
    with pytest.raises(JostleError, match="within max_steps = 3"):
        evaluate(policy, Wander, {}, seeds=[0], max_steps=3)
