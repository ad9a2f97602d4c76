"""Vertical actions, angles and coefficients, against values to 1e-11, orbits and parity."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.interpolate import make_interp_spline

from jostle.core.errors import JostleError
from jostle.disk import IsothermalSlab, VerticalActions, from_galpy, milky_way

SLAB = VerticalActions(IsothermalSlab())


@pytest.mark.parametrize(
    ("energy", "action", "frequency"),
    [
        (1.0, 0.7520755327081, 1.2536482003545),
        (0.01, 0.00707548814852086, 1.41244745247),
        (8.0, 8.497646914038, 0.720568580816),
    ],
)
def test_slab_values(energy, action, frequency):
    J, Omega, _ = SLAB(0.0, np.sqrt(2 * energy))
    assert abs(J / action - 1) < 1e-11
    assert abs(Omega / frequency - 1) < 1e-11


def test_frequency_is_the_slope_of_energy():
    slope = make_interp_spline(SLAB.J_grid[1:], SLAB.s[1:] ** 2, k=5).derivative()(SLAB.J_grid[40:-40])
    assert np.abs(slope / SLAB.Omega_grid[40:-40] - 1).max() < 1e-6
    assert abs(SLAB(0.0, 1e-5)[1] - np.sqrt(2)) < 1e-8


def test_milky_way_values():
    va = VerticalActions(milky_way())
    J, Omega, w = va(1.0, 0.0)
    assert abs(J / 24.05 - 1) < 1e-3 and abs(Omega / 45.97 - 1) < 1e-3
    assert abs(float(milky_way().frequencies(8.0)[2]) / 74.58 - 1) < 1e-3
    assert abs(w - np.pi / 2) < 1e-12


@pytest.mark.parametrize(("z", "v"), [(0.5, 0.3), (-3.0, 0.5), (2.0, -1.0)])
def test_angle_runs_with_time_on_an_integrated_orbit(z, v):
    J, Omega, w = SLAB(z, v)
    run = solve_ivp(
        lambda _, y: [y[1], -2 * np.tanh(y[0])], (0, 5.0), [z, v], rtol=1e-12, atol=1e-13, method="DOP853"
    )
    J_end, _, w_end = SLAB(*run.y[:, -1])
    assert abs(J_end / J - 1) < 1e-11
    assert abs((w_end - w - 5.0 * Omega + np.pi) % (2 * np.pi) - np.pi) < 1e-11


def test_inverse_returns_the_star_and_the_angle_starts_upwards():
    rng = np.random.default_rng(0)
    z, v = rng.uniform(-3, 3, (2, 500))
    J, _, w = SLAB(z, v)
    back = SLAB.inverse(J, w)
    assert np.abs(back[0] - z).max() < 1e-11 and np.abs(back[1] - v).max() < 1e-11
    assert SLAB(0.0, 1.0)[2] == 0 and 0 < SLAB(0.1, 1.0)[2] < np.pi / 2


def test_parity_of_coefficients():
    J = np.array([0.1, 1.0, 5.0])
    odd, even = SLAB.fourier(np.sin, 8, J), SLAB.fourier(np.cos, 8, J)
    assert max(np.abs(odd[n]).max() for n in (0, 2, 4, 6, 8)) < 1e-12
    assert max(np.abs(even[n]).max() for n in (1, 3, 5, 7)) < 1e-12


@pytest.mark.study
def test_galpy_potential_gives_the_same_tables():
    potential = pytest.importorskip("galpy.potential")
    parts = [
        potential.MiyamotoNagaiPotential(amp=1.0, a=3 / 8, b=0.28 / 8),
    ]
    from jostle.disk import G, MiyamotoNagai

    ours = MiyamotoNagai(220.0**2 * 8 / G)
    a, b = VerticalActions(from_galpy(parts), 8.0)(0.7, 20.0), VerticalActions(ours, 8.0)(0.7, 20.0)
    assert np.allclose(a, b, rtol=1e-9)


def test_quantities_come_through():
    units = pytest.importorskip("astropy.units")
    a = SLAB(500 * units.pc, 0.3 * units.km / units.s)
    assert np.allclose(a, SLAB(0.5, 0.3), rtol=1e-13)
    with pytest.raises(JostleError, match="z must be in units of kpc"):
        SLAB(1 * units.s, 0.3)


def test_refusals():
    with pytest.raises(JostleError, match="rise above z_max"):
        SLAB(9.0, 0.0)
    with pytest.raises(JostleError, match="finite"):
        SLAB(np.nan, 0.0)
    with pytest.raises(JostleError, match="R must be positive"):
        VerticalActions(milky_way(), -1.0)
    assert SLAB.reach([0.1, 9.0, np.nan], 0.0).tolist() == [True, False, False]
