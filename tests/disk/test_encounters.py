"""Which satellites shake the disk."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import GYR, Satellite, encounter_table, milky_way_satellites

pytest.importorskip("galpy")


@pytest.fixture(scope="module")
def table():
    return encounter_table()


def test_sagittarius_comes_first(table):
    best = table.best()
    order = list(best)
    assert order[0] == "Sgr"
    assert best["Sgr"].bending > 10 * best[order[1]].bending
    assert abs(best["Sgr"].bending / 5.4e-4 - 1) < 0.1
    assert abs(best["Sgr"].time_gyr + 1.469) < 0.01 and abs(best["Sgr"].radius - 18.7) < 0.2
    assert abs(best["LMC"].bending / 3.4e-5 - 1) < 0.1
    assert all(r.bending > 100 * r.breathing for r in table.rows if r.satellite in ("Sgr", "LMC"))
    assert {"linear", "rigid halo", "direct forces", "no self-gravity of the response"} <= set(table.labels)


def test_the_tide_of_far_satellites_is_weaker_than_their_pull(table):
    tide = encounter_table(["LMC"], indirect=True)
    assert "tidal forces" in tide.labels
    assert tide.best()["LMC"].bending < 0.5 * table.best()["LMC"].bending


@pytest.mark.study
def test_response_is_linear_in_the_mass(table):
    heavy = encounter_table(["Sgr"], masses={"Sgr": 3e9}).best()["Sgr"]
    assert abs(heavy.bending / table.best()["Sgr"].bending - 3) < 1e-9
    assert abs(heavy.per_1e9 / table.best()["Sgr"].per_1e9 - 1) < 1e-9


def test_crossing_of_a_line():
    t = np.linspace(-1, 1, 21)
    line = np.stack([15 + 10 * t, 0 * t, 270 * (t - 0.123)], axis=1)
    star = Satellite("a", 1e9, t, line, np.tile([10.0, 0.0, 270.0], (21, 1)))
    (index,) = star.crossings()
    when, where, speed = star.crossing(index)
    assert abs(when - 0.123) < 1e-9 and abs(where[0] - 16.23) < 1e-9 and speed[2] == 270


@pytest.mark.study
def test_refusals():
    with pytest.raises(JostleError, match="no satellite"):
        encounter_table(["Andromeda"])
    with pytest.raises(JostleError, match="has no mass here"):
        milky_way_satellites(["Fornax"])
    with pytest.raises(JostleError, match="must be positive"):
        milky_way_satellites(["Sgr"], masses={"Sgr": -1.0})
    with pytest.raises(JostleError, match="enclose today"):
        milky_way_satellites(["Sgr"], times=(-2, -1))
    assert GYR > 1


def test_a_track_needs_three_numbers_a_time():
    t = np.linspace(0, 1, 21)
    with pytest.raises(
        JostleError, match=r"velocities must be \(len\(times\), 3\) = \(21, 3\), but \(20, 3\) came"
    ):
        Satellite("a", 1e9, t, np.zeros((21, 3)), np.zeros((20, 3)))
