"""Satellites: bodies, straight lines in closed form, tracks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.core.errors import JostleError
from jostle.disk import (
    Body,
    G,
    IsothermalSlab,
    LinearResponse,
    PseudoIsothermal,
    SatelliteOrbit,
    StraightFlyby,
    orbit_integral,
)

SLAB = IsothermalSlab()


def flyby_error(window, indirect=False):
    """Of the closed form against the orbit integral over |t| < window."""
    z, v = np.random.default_rng(0).uniform(-1.3, 1.3, (2, 20))
    fly = StraightFlyby(0.1 / G, 3.0, (3.0, 0.5, 0.0), (0.3, 0.2, 1.0), indirect=indirect)
    modes = LinearResponse(SLAB, fly, n_max=16, tol=0.0)(z, v, window, R=1.0, phi=0.4)
    orbits = orbit_integral(SLAB, fly, z, v, window, R=1.0, phi=0.4, begin=-window, step=0.1).f1
    return np.abs(modes - orbits).max() / np.abs(orbits).max()


@pytest.mark.study
def test_flyby_against_the_orbit_integral():
    long, short = flyby_error(400 / 3), flyby_error(50 / 3)
    assert long < 5e-4 and long < 0.5 * short


@pytest.mark.study
def test_tide_in_closed_form_against_the_orbit_integral():
    assert flyby_error(400 / 3, indirect=True) < 2e-3


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 30), st.floats(0.1, 20), st.floats(-3.1, 3.1))
def test_transform_never_fails_and_falls_with_frequency(omega, R, phi):
    fly = StraightFlyby(1e9, 270.0, (15.0, 0.0, 0.0), (0.1, 0.3, 1.0), softening=0.5)
    z = np.array([0.1])
    low, high = (abs(fly.line_transform(R, phi, z, np.asarray(f * omega))[0][0]) for f in (1.0, 2.0))
    assert np.isfinite(low) and high <= low


def test_far_satellites_underflow_to_zero_with_a_finite_logarithm():
    far = StraightFlyby(1e9, 100.0, (5000.0, 0.0, 0.0))
    assert far.line_transform(8.0, 0.0, np.array([0.0]), np.array(70.0))[0][0] == 0
    assert np.isfinite(far.log_strength(8.0, 0.0, 70.0)) and far.log_strength(8.0, 0.0, 70.0) < -1000


def test_modes_refuse_times_during_the_passage():
    fly = StraightFlyby(1e9, 270.0, (13.0, 0.0, 0.0), softening=1.0)
    with pytest.raises(JostleError, match="within the passage"):
        LinearResponse(PseudoIsothermal(), fly)(0.1, 5.0, 0.01)
    assert StraightFlyby(1e9, 270.0, (8.2, 0.0, 0.0)).penetrates(8.0, 0.0)
    assert not fly.penetrates(8.0, 0.0)


@pytest.mark.parametrize("kind", ["plummer", "hernquist"])
def test_pull_is_the_slope_of_the_potential(kind):
    body, r, h = Body(1e9, 1.3, kind), np.array([0.2, 1.0, 7.0]), 1e-5
    slope = (body.value((r + h) ** 2) - body.value((r - h) ** 2)) / (2 * h)
    assert np.allclose(body.pull(r * r) * r, slope, rtol=1e-7)


def test_nfw_body_holds_its_mass():
    body = Body(1e9, 1.0, "nfw")
    r = np.array([10.0, 50.0])
    assert np.allclose(body.pull(r * r) * r**3 / G, 1e9)
    inside = body.pull(np.array([1e-4]) ** 2) * 1e-4**3 / G
    assert 0 < inside[0] < 10


def test_track_of_a_line_is_the_line():
    t = np.linspace(-1.2, 1.2, 60)
    u = np.array([0.0, 0.6, 0.8])
    fly = StraightFlyby(1e9, 270.0, (15.0, 0.0, 0.0), tuple(u), softening=1.6)
    orbit = SatelliteOrbit(t, np.array([15.0, 0, 0]) + 270 * t[:, None] * u, Body(1e9, 1.6))
    stars = {"R": 8.0, "phi": 0.0, "vR": [5.0, -20.0], "vphi": [220.0, 230.0], "begin": -0.3, "step": 0.004}
    a, b = (
        orbit_integral(PseudoIsothermal(), p, [0.1, 0.4], [5.0, 20.0], 0.2, **stars) for p in (fly, orbit)
    )
    assert np.allclose(a.dE, b.dE, rtol=1e-9)


def test_the_origin_of_time_does_not_matter_and_mass_scales():
    t = np.linspace(-0.6, 0.6, 60)
    track = np.array([15.0, 0, 0]) + 270 * t[:, None] * np.array([0.0, 0.6, 0.8])
    star = {"R": 8.0, "vR": [5.0, -20.0], "vphi": [220.0, 230.0]}
    now, later = (
        orbit_integral(
            PseudoIsothermal(), SatelliteOrbit(t + d, track, Body(1e9, 1.6)), [0.1, 0.4], [5.0, 20.0], 0.2 + d,
            begin=-0.2 + d, **star,
        ).f1
        for d in (0.0, 3.0)
    )  # fmt: skip
    assert np.allclose(now, later, rtol=1e-9)
    half = SatelliteOrbit(t, track, Body(1e9, 1.6), mass_history=lambda _: 0.5)
    halved = orbit_integral(PseudoIsothermal(), half, [0.1, 0.4], [5.0, 20.0], 0.2, begin=-0.2, **star).f1
    assert np.allclose(halved, 0.5 * now, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Body(-1.0, 1.0), "mass must be positive"),
        (lambda: Body(1e9, 0.0, "nfw"), "only a point mass"),
        (lambda: StraightFlyby(1e9, 0.0, (1.0, 0.0, 0.0)), "speed must be positive"),
        (lambda: StraightFlyby(1e9, 1.0, (1.0, 0.0)), "three components"),
        (lambda: StraightFlyby(1e9, 1.0, (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), "must not be zero"),
        (lambda: SatelliteOrbit([0, 1], np.zeros((2, 3)), Body(1e9, 1.0)), "at least six"),
        (lambda: SatelliteOrbit(-np.arange(6.0), np.zeros((6, 3)), Body(1e9, 1.0)), "must increase"),
        (
            lambda: SatelliteOrbit(np.arange(6.0), np.ones((6, 3)), Body(1e9, 1.0)).position(9.0),
            "track covers",
        ),
    ],
)
def test_refusals(make, says):
    with pytest.raises(JostleError, match=says):
        make()
