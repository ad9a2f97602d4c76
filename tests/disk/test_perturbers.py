"""Shapes and waves: gradients against differences, coefficients, refusals."""

import numpy as np
import pytest
from helpers import plain

from jostle.core.errors import JostleError
from jostle.disk import (
    Bar,
    GaussianPulse,
    GrowingWave,
    IsothermalSlab,
    Kick,
    LinearResponse,
    PseudoIsothermal,
    SpiralArms,
    even_shape,
    odd_shape,
    orbit_integral,
    wave_shape,
)


@pytest.mark.parametrize(
    "arms",
    [
        SpiralArms(100.0, -1.2, 1.5, 25.0, alpha_odd=0.7),
        Bar(100.0, 1.5, 40.0),
        SpiralArms(9.0, 0.3, 1.0, 9.0, m=0),
    ],
)
def test_gradient_is_the_slope_of_the_wave(arms):
    def potential(x, y, z):
        R, phi = np.hypot(x, y), np.arctan2(y, x)
        wave = np.cos(arms.k_R * R + arms.m * (phi - arms.Omega_P * 0.02))
        return arms.profile.value(0.02) * arms.shape.value(z) * wave

    place, h = np.array([5.0, 4.0, 0.3]), 1e-5
    slopes = arms.gradient(*(np.array([c]) for c in place), 0.02)
    for k, slope in enumerate(slopes):
        step = h * np.eye(3)[k]
        brute = (potential(*(place + step)) - potential(*(place - step))) / (2 * h)
        assert abs(slope[0] - brute) < 1e-5 * max(1.0, abs(brute))


@pytest.mark.parametrize("shape", [odd_shape(2.0), even_shape(3.0), wave_shape(1.5, 0.4, 2.0)])
def test_slopes_of_shapes(shape):
    z, h = np.array([-0.4, 0.1, 1.0]), 1e-6
    assert np.allclose(shape.slope(z), (shape.value(z + h) - shape.value(z - h)) / (2 * h), rtol=1e-6)


@pytest.mark.study
@pytest.mark.parametrize("saturate", [False, True])
def test_growing_waves_against_the_orbit_integral(saturate):
    slab = IsothermalSlab()
    z, v = np.random.default_rng(1).uniform(-1.2, 1.2, (2, 30))
    wave = GrowingWave(odd_shape(0.01), 0.8, saturate=saturate)
    t = 1.5 if saturate else 0.5
    modes = LinearResponse(slab, wave, n_max=24, tol=0.0)(z, v, t)
    # exp(-0.8 * 24) = 5e-9: earlier growth does not count.
    orbits = orbit_integral(slab, wave, z, v, t, begin=-24.0, step=0.02 if not saturate else 0.005).f1
    assert np.abs(modes - orbits).max() < 1e-5 * np.abs(orbits).max()


def test_kick_with_a_shift_against_the_exact_answer():
    from jostle.disk import liouville

    slab = IsothermalSlab()
    z, v = np.random.default_rng(1).uniform(-1.2, 1.2, (2, 30))
    kick = Kick(dv=1e-4, dz=2e-4)
    modes = LinearResponse(slab, kick, n_max=31, tol=0.0)(z, v, 3.0)
    exact = liouville(slab, kick, z, v, 3.0, step=0.02).f1
    assert np.abs(modes - exact).max() < 1e-3 * np.abs(exact).max()


def test_timescale_is_the_shortest():
    assert (
        SpiralArms(1.0, 0.0, 1.0, 40.0, m=2, profile=GaussianPulse(odd_shape(), 10.0).profile).timescale
        == 1 / 80
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Kick(), "needs dv or dz"),
        (lambda: SpiralArms(1.0, 0.0, 1.0, 1.0, m=-1), "whole number"),
        (lambda: GaussianPulse(odd_shape(), -1.0), "omega0 must be positive"),
        (
            lambda: plain(LinearResponse.__init__)(
                object.__new__(LinearResponse), PseudoIsothermal(), "kick"
            ),
            "perturbation must be one",
        ),
        (lambda: orbit_integral(PseudoIsothermal(), Kick(dz=0.1), 0.1, 0.1, 1.0), "no potential"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(JostleError, match=says):
        make()
