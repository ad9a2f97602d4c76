"""The mode sum against orbit integrals, back-traced f and quadrature."""

import warnings

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import (
    GYR,
    Bar,
    Body,
    G,
    Gaussian,
    GaussianPulse,
    GMCDiffusion,
    Growing,
    IsothermalSlab,
    Kick,
    LinearityWarning,
    LinearResponse,
    PseudoIsothermal,
    SatelliteOrbit,
    Saturating,
    SpiralArms,
    StraightFlyby,
    TestParticles,
    even_shape,
    liouville,
    odd_shape,
    orbit_integral,
)

SLAB = IsothermalSlab()


def box(count=200, reach=2.5, seed=0):
    return np.random.default_rng(seed).uniform(-reach, reach, (2, count))


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


@pytest.mark.parametrize("shape", [odd_shape(0.01), even_shape(0.01)])
@pytest.mark.parametrize("omega0", [1.0, 5.0])
@pytest.mark.parametrize("t", [0.3, 6.3])
def test_pulses_against_the_orbit_integral(shape, omega0, t):
    z, v = box(100, 1.3)
    pulse = GaussianPulse(shape, omega0)
    modes = LinearResponse(SLAB, pulse, n_max=24, tol=0.0)(z, v, t)
    orbits = orbit_integral(SLAB, pulse, z, v, t, step=0.02).f1
    assert np.abs(modes - orbits).max() < 1e-6 * np.abs(orbits).max()


def test_slow_pulse_is_finite():
    z, v = box(50)
    assert np.isfinite(LinearResponse(SLAB, GaussianPulse(odd_shape(0.01), 0.3), n_max=14)(z, v, 3.0)).all()
    assert np.isfinite(Gaussian(0.01).kernel(np.linspace(-100, 100, 11), -5.0)).all()


def test_flyby_against_the_orbit_integral():
    z, v = box(40, 1.3)
    fly = StraightFlyby(0.1 / G, 3.0, (3.0, 0.0, 0.0), direction=(0.3, 0.2, 1.0))
    modes = LinearResponse(SLAB, fly, n_max=16, tol=0.0)(z, v, 400 / 3, R=1.0, phi=0.4)
    orbits = orbit_integral(SLAB, fly, z, v, 400 / 3, R=1.0, phi=0.4, begin=-400 / 3, step=0.05).f1
    assert np.abs(modes - orbits).max() < 5e-4 * np.abs(orbits).max()


@pytest.mark.parametrize("t", [12.6, 50.3])
def test_linearity_error_has_slope_one(t):
    stars = TestParticles.sample(SLAB, 4000, np.random.default_rng(0))
    errors = []
    for kick in (0.1, 0.05):
        linear = orbit_integral(SLAB, Kick(dv=kick), stars.z, stars.vz, t, step=0.1).f1
        exact = liouville(SLAB, Kick(dv=kick), stars.z, stars.vz, t, step=0.1).f1
        errors.append(np.sqrt(((exact - linear) ** 2).mean() / (linear**2).mean()))
    # For stars drawn from f0: rms of dv^2 (v^2 - 1) / 2 over rms of dv v is dv / sqrt(2).
    assert abs(errors[0] / 0.1 - np.sqrt(0.5)) < 0.05
    assert abs(errors[0] / errors[1] - 2) < 0.02


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


def test_one_arm_for_odd_and_two_for_even():
    for shape, arms in ((odd_shape(0.01), 1), (even_shape(0.01), 2)):
        response = LinearResponse(SLAB, GaussianPulse(shape, 1.0))
        assert response.dominant(10.0) == arms
        assert response.spectrum(10.0)[3 - arms] < 1e-10 * response.spectrum(10.0)[arms]


def test_resonance_grows_linearly():
    kernel = Saturating(1e-3)
    first, second = (abs(kernel.kernel(np.array(0.0), t)) - 1e3 for t in (5.0, 10.0))
    assert abs(second / first - 2) < 1e-9
    assert abs(abs(Saturating(1e-3).kernel(np.array(2.0), 5.0))) < 1.6
    assert np.allclose(Growing(0.5).kernel(np.array(2.0), 1.0), np.exp(0.5) / (0.5 + 2j))


def arms_on_a_torus(n_max, l_max, J=3.0):
    disk = PseudoIsothermal()
    arms = SpiralArms(100.0, -1.2, 1.5, 25.0, alpha_odd=0.7, profile=Gaussian(20.0))
    response = LinearResponse(disk, arms, n_max=n_max, l_max=l_max, tol=0.0)
    R, t = 8.0, 0.07
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(R))
    X = 1.5
    I_R = kappa * X * X / 2
    rng = np.random.default_rng(3)
    w = tuple(rng.uniform(0, 2 * np.pi, (3, 6)))
    f1 = response.torus(J, I_R, w, t, R)
    va = disk.vertical(R)
    Omega = float(va.frequency(J))
    s = va.radius_of(np.array([J]))
    gz = float(disk.vertical_gradient(R, s)[0])
    gR, gL = disk.planar_gradient(R, s, I_R)
    x, weights = np.polynomial.legendre.leggauss(240)
    low, high = -0.32, t
    lag = 2 * omega * X / (kappa * R)
    total = np.zeros(6)
    for node, weight in zip((high + low) / 2 + (high - low) / 2 * x, weights * (high - low) / 2, strict=True):
        a, b, c = w[0] - Omega * (t - node), w[1] - kappa * (t - node), w[2] - omega * (t - node)
        z, vz = va.inverse(np.full(6, J), a)
        phase = -1.2 * (R + X * np.sin(b)) + 2 * (c + lag * np.cos(b) - 25.0 * node)
        F, dF = 0.7 * np.sin(1.5 * z) + np.cos(1.5 * z), 1.5 * (0.7 * np.cos(1.5 * z) - np.sin(1.5 * z))
        along_z = -100 * dF * vz / Omega * np.cos(phase)
        along_R = 100 * F * np.sin(phase) * (-1.2 * X * np.cos(b) - 2 * lag * np.sin(b))
        along_phi = 100 * F * np.sin(phase) * 2
        total += weight * arms.profile.value(node) * (gz * along_z + gR * along_R + gL[0] * along_phi)
    return np.abs(f1 - total).max() / np.abs(total).max()


def test_spiral_arms_on_a_torus_against_quadrature():
    assert arms_on_a_torus(24, 16) < 1e-12
    assert arms_on_a_torus(12, 12) < 1e-8
    assert arms_on_a_torus(6, 6) < 1e-3


def test_bessel_coefficient_against_fft():
    disk = PseudoIsothermal()
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    response = LinearResponse(disk, SpiralArms(1.0, -1.2, 1.5, 25.0))
    X = 1.5
    a, b = response._epicycle(8.0, kappa * X * X / 2)
    w = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    wave = np.exp(1j * (-1.2 * X * np.sin(w) + 2 * 2 * omega * X / (kappa * 8.0) * np.cos(w)))
    brute = np.fft.fft(wave) / 128
    from scipy.special import jv

    for l in range(-6, 7):  # noqa: E741
        assert abs(jv(l, np.hypot(a, b)) * np.exp(1j * l * np.arctan2(b, a)) - brute[l]) < 1e-12


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


def test_three_dimensional_passage_against_the_nonlinear_answer():
    disk, rng, count = PseudoIsothermal(), np.random.default_rng(0), 600
    R, phi = rng.uniform(7.5, 8.5, count), rng.uniform(-0.1, 0.1, count)
    z, vz, vR, vphi = (s * rng.normal(size=count) for s in (0.3, 20.0, 35.0, 20.0))
    fly = StraightFlyby(1e9, 270.0, (15.0, 0.0, 0.0), softening=1.6)
    options = {"R": R, "phi": phi, "vR": vR, "vphi": 225 + vphi, "begin": -0.3}
    linear, exact = (
        orbit_integral(disk, fly, z, vz, 0.3, **options),
        liouville(disk, fly, z, vz, 0.3, **options),
    )
    for name, most in (("dE", 0.04), ("dL", 0.04)):
        a, b = getattr(linear, name), getattr(exact, name)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) < most
    assert 150 < exact.dE.std() < 350


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


def test_damped_map_is_the_map_times_survival():
    disk = PseudoIsothermal(IsothermalSlab(0.4, 23.0), h_R=1e12)
    free, damped = LinearResponse(disk, Kick(dv=1.0)), LinearResponse(disk, Kick(dv=1.0), GMCDiffusion())
    s = disk.vertical(8.0).radius_of(np.array([9.2]))
    t = 0.6 * GYR
    ratio = damped.amplitudes(s, t, 8.0, 0.0)[0, 0] / free.amplitudes(s, t, 8.0, 0.0)[0, 0]
    assert abs(ratio - GMCDiffusion().survival_at(disk, 8.0, 1, 9.2, t)[0]) < 1e-12
