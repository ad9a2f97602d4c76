"""The group-sequential test: its boundaries to the integer, its level against a draw-by-draw recursion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from jostle.core.errors import JostleError
from jostle.smoothing import Boundary, boundary, lower_bound
from jostle.smoothing.boundary import looks


def per_draw(table: Boundary) -> np.ndarray:
    """Probability of a rejection by each look, one draw at a time."""
    p, at = table.p0, dict(zip(table.looks.tolist(), table.critical.tolist(), strict=True))
    chance, lost, spent = np.array([1.0]), 0.0, []
    for n in range(1, int(table.looks[-1]) + 1):
        chance = np.append(chance * (1 - p), 0.0) + np.append(0.0, chance * p)
        if n in at:
            lost += float(chance[at[n] :].sum())
            chance[at[n] :] = 0.0
            spent.append(lost)
    return np.array(spent)


@pytest.mark.parametrize(
    ("radius", "critical", "level"),
    [
        (0.0, 50582, 0.000998630),
        (0.5, 69683, 0.000998599),
        (1.0, 84558, 0.000999074),
        (2.0, 97897, 0.000996936),
        (3.0, 99906, 0.000996965),
    ],
)
def test_the_default_boundaries_to_the_integer(radius, critical, level):
    table = boundary(float(ndtr(radius)), 100_000, 1e-3)
    assert len(table.looks) == 80
    assert int(table.critical[-1]) == critical
    assert float(table.spent[-1]) == pytest.approx(level, abs=1e-8)


def test_few_looks_come_near_to_the_fixed_test():
    p0 = float(ndtr(0.5))
    assert int(boundary(p0, 100_000, 1e-3, first=100, ratio=2.0).critical[-1]) == 69644
    hits = np.arange(69_000, 70_000)
    assert int(hits[lower_bound(hits, 100_000, 1e-3) > p0][0]) == 69598
    alone = boundary(p0, 100_000, 1e-3, first=100_000)
    assert alone.looks.tolist() == [100_000] and int(alone.critical[0]) == 69598


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0.3, 0.995),
    st.integers(60, 900),
    st.sampled_from([1e-3, 0.01, 0.2]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([1.1, 1.5]),
)
def test_the_level_is_that_of_the_recursion_draw_by_draw(p0, n_max, alpha, rho, ratio):
    table = boundary(p0, n_max, alpha, rho=rho, ratio=ratio)
    assert np.allclose(per_draw(table), table.spent, atol=1e-9)
    assert (table.spent <= alpha * (table.looks / n_max) ** rho + 1e-15).all()


@pytest.mark.parametrize("p0", [0.5, 0.9, 0.999])
def test_no_smaller_boundary_would_keep_the_level(p0):
    n_max, alpha = 700, 0.01
    table = boundary(p0, n_max, alpha)
    for k in range(len(table.looks)):
        tighter = table.critical.copy()
        tighter[k] -= 1
        spent = per_draw(Boundary(p0, table.looks[: k + 1], tighter[: k + 1], table.spent[: k + 1]))
        assert spent[k] > alpha * (table.looks[k] / n_max) ** 0.5


def test_below_the_hypothesis_rejections_are_rarer():
    table = boundary(0.6, 400, 0.05)
    below = per_draw(Boundary(0.55, table.looks, table.critical, table.spent))
    assert below[-1] < table.spent[-1] / 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"p0": 1.0}, "p0 must lie"),
        ({"n_max": 0}, "n_max must be at least 1"),
        ({"alpha": 0.0}, "alpha must lie"),
        ({"rho": 0.0}, "rho must be above 0"),
        ({"ratio": 1.0}, "ratio must be above 1"),
        ({"first": 0}, "first must be at least 1"),
    ],
)
def test_settings_out_of_range(arguments, says):
    with pytest.raises(JostleError, match=says):
        boundary(**{"p0": 0.5, "n_max": 100, "alpha": 0.01, **arguments})


def test_looks_end_at_the_last_draw():
    for n_max in (1, 7, 50, 51, 999):
        found = looks(n_max)
        assert found[-1] == n_max and (np.diff(found) > 0).all()
