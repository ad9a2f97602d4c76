import pytest

from jostle.core.errors import JostleError
from jostle.universal.schedule import SCHEDULES, Clock, Schedule, schedule_named


def script(clock: Clock, steps: int, level: float, period: int) -> tuple[list[int], list[int]]:
    """Saturation climbs to `level` in `period` steps after each halving and stands there."""
    looks, halvings, since = [], [], 0
    for t in range(1, steps):
        since += 1
        look, halve = clock.tick(t, level * min(since, period) / period, 0.0, 1)
        if look:
            looks.append(t)
        if halve:
            halvings.append(t)
            since = -1  # the next step counts as 0: the box is open again
    return looks, halvings


@pytest.mark.parametrize("name", ["paper", "released"])
def test_saturation_at_its_level_looks_and_halves_at_once(name):
    looks, halvings = script(Clock(SCHEDULES[name]), 1100, 0.8, 350)
    assert looks[:3] == [351, 703, 1055] and halvings[:3] == [351, 703, 1055]


@pytest.mark.parametrize("name", ["paper", "released"])
def test_below_the_level_it_only_looks_on_time(name):
    looks, halvings = script(Clock(SCHEDULES[name]), 1300, 0.49, 350)
    assert looks == [400, 800, 1200] and halvings == []


def test_frequent_halvings_starve_the_released_schedule_and_not_ours():
    looks, halvings = script(Clock(SCHEDULES["released"]), 4000, 0.8, 100)
    assert looks == [] and len(halvings) > 30
    looks, halvings = script(Clock(SCHEDULES["paper"]), 4000, 0.8, 100)
    assert len(looks) >= 10 and len(halvings) > 30


def test_patience_restarts_on_improvement_but_not_in_the_port():
    ours, port = Clock(SCHEDULES["paper"]), Clock(SCHEDULES["port2020"])
    for score in (0.1, 0.1, 0.1, 0.2, 0.2):
        ours.scored(score)
        port.scored(score)
    assert ours.strikes == 1 and port.strikes == 3


def test_patience_ends_the_run():
    clock = Clock(SCHEDULES["paper"])
    ends = [clock.scored(0.5)[1] for _ in range(11)]
    assert ends == [False] * 10 + [True]


def test_a_plateau_of_the_objective_halves_in_the_fast_schedule():
    clock = Clock(SCHEDULES["fast"])
    halved = [t for t in range(1, 120) if clock.tick(t, 0.7, 5.0, 33)[1]]
    assert halved == [51, 102]
    rising = Clock(SCHEDULES["fast"])
    assert not any(rising.tick(t, 0.7, float(t), 33)[1] for t in range(1, 120))


def test_state_goes_round():
    clock = Clock(SCHEDULES["fast"])
    for t in range(1, 40):
        clock.tick(t, 0.7, 5.0, 33)
    clock.scored(0.3)
    again = Clock(SCHEDULES["fast"])
    again.load_state_dict(clock.state_dict())
    assert again == clock


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(JostleError, match="schedule must be one of fast, paper"):
        schedule_named("slow")
    with pytest.raises(JostleError, match="size must be above 0"):
        Schedule(size=0.0, steps=1)
