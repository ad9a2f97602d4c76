"""The mode sum against orbit integrals, closed forms and quadrature."""

import warnings

import numpy as np
import pytest
from scipy.special import jv

from jostle.core.errors import JostleError
from jostle.disk import (
    GYR,
    Bar,
    G,
    Gaussian,
    GaussianPulse,
    GMCDiffusion,
    IsothermalSlab,
    Kick,
    LinearityWarning,
    LinearResponse,
    PseudoIsothermal,
    SpiralArms,
    StraightFlyby,
    even_shape,
    odd_shape,
    orbit_integral,
)

SLAB = IsothermalSlab()


def box(count=200, reach=2.5, seed=0):
    return np.random.default_rng(seed).uniform(-reach, reach, (2, count))


@pytest.mark.study
@pytest.mark.parametrize("t", [12.6, 50.3])
def test_uniform_kick_is_the_velocity_at_the_kick(t):
    z, v = box()
    response = LinearResponse(SLAB, Kick(dv=0.01), n_max=31, tol=0.0)
    va = response.disk.vertical(8.0)
    J, Omega, w = va(z, v)
    exact = 0.01 * va.inverse(J, w - Omega * t)[1]
    assert np.abs(response(z, v, t) - exact).max() < 5e-6 * np.abs(exact).max()
    # With fifteen modes the same holds up to E = 3; in the box's corners (E = 6.7) it cannot.
    low = va.energy(z, v) < 3
    fifteen = LinearResponse(SLAB, Kick(dv=0.01), n_max=15, tol=0.0)(z[low], v[low], t)
    assert np.abs(fifteen - exact[low]).max() < 5e-6 * np.abs(exact).max()


@pytest.mark.study
@pytest.mark.parametrize("shape", [odd_shape(0.01), even_shape(0.01)])
@pytest.mark.parametrize("omega0", [1.0, 5.0])
@pytest.mark.parametrize("t", [0.3, 6.3])
def test_pulses_against_the_orbit_integral(shape, omega0, t):
    z, v = box(100, 1.3)
    pulse = GaussianPulse(shape, omega0)
    modes = LinearResponse(SLAB, pulse, n_max=24, tol=0.0)(z, v, t)
    orbits = orbit_integral(SLAB, pulse, z, v, t, step=0.02).f1
    assert np.abs(modes - orbits).max() < 1e-6 * np.abs(orbits).max()


@pytest.mark.study
def test_slow_pulse_is_finite():
    z, v = box(50)
    assert np.isfinite(LinearResponse(SLAB, GaussianPulse(odd_shape(0.01), 0.3), n_max=14)(z, v, 3.0)).all()
    assert np.isfinite(Gaussian(0.01).kernel(np.linspace(-100, 100, 11), -5.0)).all()


def test_orbit_average_and_phase_mixing():
    response = LinearResponse(SLAB, GaussianPulse(even_shape(0.01), 1.0), n_max=8, tol=0.0)
    w = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    z, v = response.disk.vertical(8.0).inverse(np.full(64, 0.7), w)
    assert abs(response(z, v, 9.0).mean()) < 1e-12
    assert np.abs(response(z, v, 9.0)).max() > 1e-4


def test_suppression_of_slow_pulses():
    table = {
        0.2: (1.0e-4, 1.2e-16),
        0.5: (0.231, 2.8e-3),
        1.0: (0.693, 0.231),
        2.0: (0.912, 0.693),
        5.0: (0.985, 0.943),
    }
    va = LinearResponse(SLAB, Kick(dv=0.01)).disk.vertical(8.0)
    Omega = float(va.frequency(1.0))
    for omega0, values in table.items():
        for n, value in zip((1, 2), values, strict=True):
            size = abs(Gaussian(omega0).kernel(np.array(n * Omega), 100.0))
            assert abs(size / value - 1) < 0.05


@pytest.mark.study
def test_one_arm_for_odd_and_two_for_even():
    for shape, arms in ((odd_shape(0.01), 1), (even_shape(0.01), 2)):
        response = LinearResponse(SLAB, GaussianPulse(shape, 1.0))
        assert response.dominant(10.0) == arms
        assert response.spectrum(10.0)[3 - arms] < 1e-10 * response.spectrum(10.0)[arms]


def test_bessel_coefficient_against_fft():
    disk = PseudoIsothermal()
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    response = LinearResponse(disk, SpiralArms(1.0, -1.2, 1.5, 25.0))
    X = 1.5
    a, b = response._epicycle(8.0, kappa * X * X / 2)
    w = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    wave = np.exp(1j * (-1.2 * X * np.sin(w) + 2 * 2 * omega * X / (kappa * 8.0) * np.cos(w)))
    brute = np.fft.fft(wave) / 128
    for l in range(-6, 7):  # noqa: E741
        assert abs(jv(l, np.hypot(a, b)) * np.exp(1j * l * np.arctan2(b, a)) - brute[l]) < 1e-12


@pytest.mark.study
def test_coarse_grids_and_strong_kicks_are_refused():
    weak = LinearResponse(PseudoIsothermal(), Kick(dv=1.0))
    with pytest.raises(JostleError, match="too coarse"):
        weak.map(3 * GYR, points=60)
    with pytest.raises(JostleError, match="beyond linear"):
        LinearResponse(SLAB, Kick(dv=0.5))(0.0, 1.0, 1.0)
    with pytest.warns(LinearityWarning):
        LinearResponse(SLAB, Kick(dv=0.2))(0.0, 1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(LinearResponse(SLAB, Kick(dv=0.5), force=True)(0.0, 1.0, 1.0))
    with pytest.raises(JostleError, match="no plane"):
        LinearResponse(SLAB, Bar(1.0, 1.0, 40.0))
    with pytest.raises(JostleError, match="on the track"):
        LinearResponse(SLAB, StraightFlyby(1e3, 3.0, (1.0, 0.0, 0.0)))(0.1, 0.1, 9.0, R=1.0)


def arms_on_a_torus(n_max, l_max, J=3.0, X=1.5, t=0.07):
    """Error of the mode sum against quadrature in tau of df0/dI . dPhi_P/dw, of the largest f1."""
    disk = PseudoIsothermal()
    arms = SpiralArms(100.0, -1.2, 1.5, 25.0, alpha_odd=0.7, profile=Gaussian(20.0))
    response = LinearResponse(disk, arms, n_max=n_max, l_max=l_max, tol=0.0)
    R = 8.0
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(R))
    I_R = kappa * X * X / 2
    rng = np.random.default_rng(3)
    w = tuple(rng.uniform(0, 2 * np.pi, (3, 6)))
    f1 = response.torus(J, I_R, w, t, R)
    va = disk.vertical(R)
    Omega = float(va.frequency(J))
    s = va.radius_of(np.array([J]))
    gz = float(disk.vertical_gradient(R, s)[0])
    gR, gL = disk.planar_gradient(R, s, I_R)
    x, weights = np.polynomial.legendre.leggauss(700)
    low, high = -0.32, t
    turn = omega + float(disk.drift(R, s, I_R)[0])
    lag = 2 * omega * X / (kappa * R)
    node = ((high + low) / 2 + (high - low) / 2 * x)[:, None]
    a, b, c = w[0] - Omega * (t - node), w[1] - kappa * (t - node), w[2] - turn * (t - node)
    z, vz = va.inverse(J, a)
    phase = -1.2 * (R + X * np.sin(b)) + 2 * (c + lag * np.cos(b) - 25.0 * node)
    F, dF = 0.7 * np.sin(1.5 * z) + np.cos(1.5 * z), 1.5 * (0.7 * np.cos(1.5 * z) - np.sin(1.5 * z))
    along_z = -100 * dF * vz / Omega * np.cos(phase)
    along_R = 100 * F * np.sin(phase) * (-1.2 * X * np.cos(b) - 2 * lag * np.sin(b))
    along_phi = 100 * F * np.sin(phase) * 2
    pulse = weights * (high - low) / 2 * [arms.profile.value(float(x)) for x in node.ravel()]
    total = pulse @ (gz * along_z + gR * along_R + gL[0] * along_phi)
    return np.abs(f1 - total).max() / np.abs(total).max()


@pytest.mark.study
@pytest.mark.parametrize(("J", "X"), [(1.0, 0.5), (3.0, 1.5), (10.0, 1.0), (20.0, 1.5)])
def test_spiral_arms_on_a_torus_against_quadrature(J, X):
    """After the pulse twelve modes a side suffice for 1e-9 on every torus, cool or warm, low or high."""
    assert arms_on_a_torus(12, 12, J, X, t=0.31) < 1e-9


@pytest.mark.study
def test_spiral_arms_in_the_middle_of_the_pulse():
    """While the pulse lasts high vertical modes answer at once, as 1 / omega: more of them are needed."""
    assert arms_on_a_torus(24, 16) < 1e-12
    assert 1e-10 < arms_on_a_torus(12, 12) < 1e-8
    assert arms_on_a_torus(6, 6) < 1e-3


@pytest.mark.study
def test_one_mode_by_its_numbers():
    disk = PseudoIsothermal()
    arms = SpiralArms(100.0, -1.2, 1.5, 25.0, alpha_odd=0.7, profile=Gaussian(20.0))
    response = LinearResponse(disk, arms, n_max=4, l_max=4, tol=0.0)
    w = np.array([[0.3, 2.0], [1.0, 4.0], [0.2, 5.0]])
    total = np.zeros(2)
    for n in range(-4, 5):
        for l in range(-4, 5):  # noqa: E741
            A = response.amplitude(n, l, 2, 5.0, 0.3, I_R=10.0)[0]
            total += (A * np.exp(1j * (n * w[0] + l * w[1] + 2 * w[2]))).real
    assert np.allclose(total, response.torus(5.0, 10.0, (w[0], w[1], w[2]), 0.3), rtol=1e-12)
    assert response.amplitude(1, 0, 3, 5.0, 0.3)[0] == 0


@pytest.mark.study
def test_a_window_averages_over_guiding_radii():
    response = LinearResponse(PseudoIsothermal(), Kick(dv=1.0), n_max=3)
    z, v = np.array([0.1, 0.4]), np.array([10.0, -5.0])
    narrow = response(z, v, 0.4, window=1e-3)
    assert np.allclose(narrow, response(z, v, 0.4), atol=1e-6)
    wide, late = response(z, v, 0.6, window=0.5), response(z, v, 0.6)
    assert np.abs(wide).max() < np.abs(late).max()  # different radii wind at different rates


@pytest.mark.study
def test_linear_in_mass_and_mirror_symmetric():
    z, v = box(20, 1.0)
    one, ten = (
        LinearResponse(SLAB, StraightFlyby(m / G, 3.0, (3.0, 0.0, 0.0), softening=0.1), n_max=4, tol=0.0)(
            z, v, 30.0, R=1.0
        )
        for m in (0.01, 0.1)
    )
    assert np.allclose(10 * one, ten, rtol=1e-12)
    bend = LinearResponse(SLAB, Kick(dv=0.01), tol=0.0)
    assert np.allclose(bend(z, v, 9.0), -bend(-z, -v, 9.0), atol=1e-12)
    breathe = LinearResponse(SLAB, GaussianPulse(even_shape(0.01), 1.0), tol=0.0)
    assert np.allclose(breathe(z, v, 9.0), breathe(-z, -v, 9.0), atol=1e-12)


@pytest.mark.study
def test_shells_below_tol_are_left_out_and_cost_less_than_tol():
    pulse = GaussianPulse(odd_shape(0.01), 1.0)
    z, v = box(50, 1.0)
    full, cut = (LinearResponse(SLAB, pulse, n_max=16, tol=tol) for tol in (0.0, 1e-3))
    assert cut.strength(9.0)[1] < 16
    assert np.abs(full(z, v, 9.0) - cut(z, v, 9.0)).max() < 1e-2 * np.abs(full(z, v, 9.0)).max()


@pytest.mark.study
def test_maps_are_as_fine_as_the_spiral_needs():
    response = LinearResponse(PseudoIsothermal(), Kick(dv=1.0))
    small, fine = response.map(0.1, points=None), response.map(1.5, points=None)
    assert small.values.shape == (121, 121) and 121 < len(fine.z) == len(fine.vz) <= 1001
    assert {"linear", "rigid halo", "direct forces", "no self-gravity of the response"} <= set(fine.labels)
    assert any("cloud scattering" in x for x in LinearResponse(SLAB, Kick(dv=0.01), GMCDiffusion()).labels)
