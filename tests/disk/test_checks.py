"""The check a user can ask of any response."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import Bar, GMCDiffusion, IsothermalSlab, Kick, LinearResponse, PseudoIsothermal


@pytest.mark.study
@pytest.mark.parametrize("clouds", [None, GMCDiffusion()])
def test_a_kick_passes(clouds):
    found = LinearResponse(IsothermalSlab(), Kick(dv=0.01), clouds, n_max=31, tol=0.0).check(3.0)
    assert found.modes < 1e-5 and found.points == 200
    assert 0.3 * found.strength < found.linearity < 1.2 * found.strength


@pytest.mark.study
def test_few_modes_show():
    few = LinearResponse(IsothermalSlab(), Kick(dv=0.01), n_max=1, tol=0.0).check(3.0)
    assert few.modes > 0.005


@pytest.mark.study
def test_waves_in_the_plane_are_compared_on_full_orbits():
    """The epicyclic approximation shows, and the less the cooler the stars are."""
    cool, warm = (
        LinearResponse(PseudoIsothermal(sigma_R=s, sigma_z=s), Bar(1.0, 1.5, 40.0), l_max=6).check(
            0.3, n_points=30
        )
        for s in (3.0, 30.0)
    )
    assert cool.modes < 0.5 * warm.modes and "epicyclic" in cool.numbers()["compared on"]


@pytest.mark.study
def test_refusals():
    with pytest.raises(JostleError, match="at least 10"):
        LinearResponse(IsothermalSlab(), Kick(dv=0.01)).check(3.0, n_points=3)
    with pytest.raises(JostleError, match="nothing answers"):
        LinearResponse(IsothermalSlab(), Kick(dv=0.01)).check(-3.0)
    assert np.isfinite(LinearResponse(IsothermalSlab(), Kick(dv=0.01)).check(1.0).modes)
