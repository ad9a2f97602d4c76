"""Lateral streaming in closed form against ballistic stars and quadrature."""

import numpy as np
from scipy.integrate import quad

from jostle.disk import IsothermalSlab, lateral_gaussian, lateral_wave


def test_lateral_gaussian_against_ballistic_stars():
    rng = np.random.default_rng(2)
    x = 0.5 - 1.5 * 0.8 * rng.standard_normal(200000)
    ballistic = np.exp(-(x**2) / 0.9**2)
    assert abs(ballistic.mean() - lateral_gaussian(0.5, 0.9, 1.5, 0.8)) < 4 * ballistic.std() / np.sqrt(
        x.size
    )


def test_a_wave_is_the_integral_over_velocities():
    """f1_nk / f0 = <-i psi (n Omega / s_z^2 + k v / s^2) exp[-i (n Omega + k v) t]> over a Maxwellian in v."""
    n, Omega, s_z, s, k, t = 1, 1.3, 1.0, 1.5, 0.4, 2.0

    def slope(v):
        shape = np.exp(-0.5 * (v / s) ** 2) / np.sqrt(2 * np.pi) / s
        return -1j * (n * Omega / s_z**2 + k * v / s**2) * np.exp(-1j * (n * Omega + k * v) * t) * shape

    parts = [quad(lambda v, p=p: p(slope(v)), -15, 15, epsabs=1e-12)[0] for p in (np.real, np.imag)]
    assert abs(lateral_wave(n, Omega, s_z, s, k, t) - complex(*parts)) < 1e-9


def test_late_streaming_is_a_power_law():
    late = lateral_gaussian(0.0, 1.0, 35.0, [10.0, 20.0])
    assert abs(late[0] / late[1] - 2) < 1e-4


def test_slab_closed_forms():
    slab = IsothermalSlab(0.4, 23.0)
    height = slab.z_max(500.0)
    assert abs(slab(8.0, height) / 500.0 - 1) < 1e-12
    assert slab.z_max(1e-12) > 0  # arcsinh(sqrt(expm1)): nothing cancels
    assert abs(slab.frequencies()[2] - slab.nu) < 1e-12
