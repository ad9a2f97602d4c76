"""The native building against CityLearn 3.0.2, its KPIs at hand-computed points."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.observation import (
    CALENDAR,
    FEATURES,
    BatteryBuilding,
    Building,
    Curves,
    kpis,
    load_district,
    modern_schema,
)
from jostle.observation.kpis import block_peak, one_minus_load_factor, ramping


def test_kpis_at_hand_computed_points():
    e, b = np.array([0.0, 1.0, 0.0, 2.0]), np.array([0.0, 1.0, 0.0, 1.0])
    assert (ramping(e, up_only=True), ramping(e), ramping(b, up_only=True), ramping(b)) == (3, 4, 2, 3)
    days = np.concatenate([np.linspace(0, 3, 24), np.linspace(5, 0, 24)])
    assert block_peak(days) == 4
    day = np.full(24, 20 / 23)
    day[5] = 4.0
    assert one_minus_load_factor(day, 24) == pytest.approx(0.75)
    k = kpis(e, b, [1, 2, 3, 4], [1, 1, 1, 1])
    assert k["cost"] == pytest.approx(10 / 6) and k["peak"] == 2 and k["zero_net_energy"] == 1.5
    assert np.isnan(kpis(e, 0 * b, [1] * 4, [1] * 4)["cost"])
    for bad, words in (((e[:3], b, b, b), "one length"), ((e, b, b, np.full(4, np.nan)), "NaN")):
        with pytest.raises(JostleError, match=words):
            kpis(*bad)


def test_ramping_telescopes():
    e = np.random.default_rng(0).normal(size=1000)
    assert ramping(e) == pytest.approx(2 * ramping(e, up_only=True) - (e[-1] - e[0]))


def test_the_data_are_a_year_of_a_house(district):
    assert district.hours == 8760 and len(FEATURES) == 31 and len(CALENDAR) == 6
    assert (district.capacity, district.power, district.loss) == (6.4, 5.0, 1e-5)
    assert sorted(np.unique(district.price[:, 0]).round(2)) == [0.21, 0.22, 0.4, 0.5, 0.54]
    assert district.solar.min() == 0 and 3 < district.solar.max() < 4
    week = district.window(100, 168)
    assert week.hours == 168 and np.array_equal(week.limits, district.limits)
    with pytest.raises(JostleError, match="at least 2 of the 8760"):
        district.window(8759, 2)
    with pytest.raises(JostleError, match="Building_10, but 'Building_1' came"):
        load_district("Building_1")


# What CityLearn 3.0.2 gives for Building_6, random_seed=0, under the first actions of NumPy's default_rng(0).
ACTIONS = (
    0.2739233746,
    -0.4604265725,
    -0.9180529521,
    -0.9669447289,
    0.6265404784,
    0.8255111546,
    0.2132715516,
)
BALANCE = (1.3696169, -1.1355978, -4.2616e-08, -1.4e-15, 3.1327024, 3.6576908, 0.0)
SOC = (0.19522464, 0.0, 0.0, 0.0, 0.45951432, 0.99999565, 0.9999957)


def test_the_first_hours_are_citylearn_s(district):
    env = BatteryBuilding(district, curves=None)
    o, _ = env.reset(seed=0)
    assert o[0, :6] == pytest.approx([0.0669873, 0.25, 1.0, 0.5, 1.0, 0.5], abs=1e-6)
    assert o[0, 22:] == pytest.approx([0.47462, 0.220085, 0, 0, 0.5091632, *[0.030303] * 4], abs=1e-5)
    for i, a in enumerate(ACTIONS):
        env.step(np.array([[a]]))
        assert env.net[i, 0] - district.base[i] == pytest.approx(BALANCE[i], abs=1e-6)
        assert env.soc[i, 0] == pytest.approx(SOC[i], abs=1e-6)


def test_curves_are_drawn_from_the_seed_as_citylearn_does():
    c = Curves.drawn(0)
    assert np.array(c.efficiency) == pytest.approx(
        np.array(
            [
                [0, 0.31137552, 0.71137552, 0.81137552, 1],
                [0.79261899, 0.83761899, 0.89304759, 0.9, 0.87157139],
            ]
        ).T,
        abs=1e-8,
    )
    assert np.array(c.power) == pytest.approx(
        np.array([[0, 0.81137552, 1], [0.98068776, 0.93068776, 0.26137552]]).T, abs=1e-8
    )
    assert Curves.drawn(42) != c and Curves.drawn(0, "Building_7") != c


def test_many_copies_are_many_single_runs(district):
    data = district.window(4000, 120)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (119, 4, 1))
    env = BatteryBuilding(data, copies=4, curves=None)
    o, _ = env.reset(seed=[3, 1, 4, 1])
    together = [o] + [env.step(a)[0] for a in actions]
    for i, seed in enumerate((3, 1, 4, 1)):
        one = Building(data, curves=None)
        o, _ = one.reset(seed=seed)
        alone = [o] + [one.step(a[i])[0] for a in actions]
        assert np.array_equal(np.stack(together)[:, i], np.stack(alone))
        assert one.kpis()["cost"] == pytest.approx(env.kpis()["cost"][i])


def test_energy_is_kept(district):
    env = BatteryBuilding(district.window(0, 500), copies=8, depth=0.8)
    env.reset()
    rng = np.random.default_rng(1)
    for _ in range(499):
        _, reward, over, cut, _ = env.step(rng.uniform(-1.5, 1.5, (8, 1)))
    assert over.all() and not cut.any() and np.array_equal(reward, -np.maximum(env.net[498], 0))
    assert env.soc.min() >= 0.2 - 1e-6 and env.soc.max() <= 1
    balance = env.net[:499] - district.base[:499, None]
    stored = (env.soc[498] - 0.2) * 6.4
    assert (balance.sum(0) > stored).all()  # what is lost is lost
    with pytest.raises(JostleError, match="the episode is over"):
        env.step(np.zeros((8, 1)))
    with pytest.raises(JostleError, match=r"shape \(8, 1\)"):
        env.reset()
        env.step(np.zeros(8))


COMPARE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from citylearn.citylearn import CityLearnEnv
from citylearn.wrappers import NormalizedObservationWrapper
env = CityLearnEnv(sys.argv[2], central_agent=True, buildings=["Building_6"], random_seed=0)
wrapped = NormalizedObservationWrapper(env)
o, _ = wrapped.reset()
actions = np.random.default_rng(0).uniform(-1, 1, 8759)
seen, rewards = [o[0]], []
for a in actions:
    o, r, *_ = wrapped.step([[a]])
    seen.append(o[0]); rewards.append(r[0])
table = env.evaluate()
rows = table[table.name == "District"]
house = env.buildings[0]
np.savez(sys.argv[3], actions=actions, seen=np.array(seen, dtype=np.float64), rewards=rewards,
         net=np.array(house.net_electricity_consumption), **dict(zip(rows.cost_function, rows.value)))
"""


@pytest.mark.slow
def test_a_whole_year_equals_citylearn(district, tmp_path):
    """Installs CityLearn 3.0.2, without its pins, into a folder of its own."""
    home = tmp_path / "city"
    names = ["citylearn==3.0.2", "simplejson", "pyyaml", "pandas"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", home, *names[:3]], check=True
    )
    schema = modern_schema(tmp_path / "data")
    assert "predicted_1" in json.dumps(json.loads(schema.read_text()))
    out = tmp_path / "year.npz"
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPARE, home, schema, out], check=True)
    theirs = np.load(out)
    env = BatteryBuilding(district, curves=None)
    o, _ = env.reset(seed=0)
    seen, rewards = [o[0]], []
    for a in theirs["actions"]:
        o, reward, *_ = env.step(np.array([[a]]))
        seen.append(o[0])
        rewards.append(reward[0])
    assert np.abs(env.net[:8759, 0] - theirs["net"]).max() < 2e-5  # kWh
    assert np.abs(np.array(rewards) - theirs["rewards"]).max() < 2e-5
    # The last observation of CityLearn is the one before, once more.
    assert np.abs(np.array(seen[:-1]) - theirs["seen"][:-1]).max() < 5e-6
    ours = env.kpis()
    for mine, his in (
        ("cost", "cost_total"),
        ("consumption", "electricity_consumption_total"),
        ("carbon", "carbon_emissions_total"),
        ("zero_net_energy", "zero_net_energy"),
        ("ramping_up", "ramping_average"),
        ("daily_peak", "daily_peak_average"),
        ("peak", "all_time_peak_average"),
        ("load_factor_daily", "daily_one_minus_load_factor_average"),
        ("load_factor_monthly", "monthly_one_minus_load_factor_average"),
    ):
        assert ours[mine][0] == pytest.approx(float(theirs[his]), rel=1e-6), mine
