"""Epicyclic and Staeckel actions."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import EpicyclicActions, milky_way, staeckel_actions


@pytest.mark.study
def test_epicyclic_actions_return():
    ea = EpicyclicActions(milky_way(), 7.0, 9.5, radii=10)
    star = (
        np.array([8.1]),
        np.array([0.2]),
        np.array([0.3]),
        np.array([9.0]),
        np.array([221.0]),
        np.array([-5.0]),
    )
    actions = ea(*star)
    back = ea.place(actions)
    for a, b in zip((back[0], back[2], back[3], back[5]), (star[0], star[2], star[3], star[5]), strict=True):
        assert np.allclose(a, b, rtol=2e-4)


@pytest.mark.study
def test_tables_between_radii_agree_with_a_table_at_the_radius():
    from jostle.disk import VerticalActions

    ea = EpicyclicActions(milky_way(), 7.0, 9.5, radii=10)
    J, Omega, w = ea.at_radius(np.array([8.123]), np.array([0.4]), np.array([12.0]))
    exact = VerticalActions(milky_way(), 8.123)(0.4, 12.0)
    assert np.allclose([J[0], Omega[0], w[0]], exact, rtol=1e-5)


@pytest.mark.study
def test_staeckel_and_separable_vertical_actions_agree_for_cool_stars():
    galpy = pytest.importorskip("galpy.potential")
    pot = galpy.MWPotential2014
    cool = staeckel_actions(pot, 8.0, 0.2, 1.0, 219.0, 10.0)
    from jostle.disk import VerticalActions

    assert abs(cool[2] / VerticalActions(pot)(0.2, 10.0)[0] - 1) < 0.02
    assert abs(cool[1] / (8.0 * 219.0) - 1) < 1e-12


def test_refusals():
    ea = EpicyclicActions(milky_way(), 7.0, 9.0, radii=8)
    with pytest.raises(JostleError, match="guiding radii lie outside"):
        ea(12.0, 0.0, 0.0, 0.0, 230.0, 0.0)
    with pytest.raises(JostleError, match="R must be positive"):
        ea(-8.0, 0.0, 0.0, 0.0, 230.0, 0.0)
    with pytest.raises(JostleError, match="radians"):
        ea(8.0, 90.0, 0.0, 0.0, 230.0, 0.0)
    with pytest.raises(JostleError, match="R_min < R_max"):
        EpicyclicActions(milky_way(), 9.0, 7.0)
