"""Clouds: the cubic law in closed form, by Langevin stars and by finite differences."""

import numpy as np
import pytest

from jostle.disk import (
    GYR,
    GMCDiffusion,
    IsothermalSlab,
    Kick,
    LinearResponse,
    PseudoIsothermal,
    diffuse_mode,
    fokker_planck,
    langevin_coherence,
)
from jostle.disk.distributions import as_disk

SLAB = IsothermalSlab(0.4, 23.0)


def test_tau_I():
    disk, cloud = as_disk(SLAB), GMCDiffusion()
    expected = {0.25: 0.91, 0.5: 0.78, 1: 0.705, 2: 0.72, 3: 0.77}
    for x, value in expected.items():
        assert abs(cloud.tau_I(disk, 8.0, 1, x * 9.2) / GYR / value - 1) < 0.01
    # By quadrature and by Monte Carlo; the marginal norm is 2 / sqrt(2 pi) h sigma.
    assert abs(disk.mean_action(8.0) / 9.2 - 0.89872) < 1e-4
    assert abs(disk.vertical_norm(8.0) / 9.2 - 2 / np.sqrt(2 * np.pi)) < 1e-4


def test_cubic_law_against_langevin_and_finite_differences():
    n, shear, D, t, stars = 2, 0.7, 0.3, 1.5, 40000
    law = np.exp(-(n**2) * shear**2 * D * t**3 / 6)
    measured = langevin_coherence(n, shear, D, t, 40, stars, np.random.default_rng(1))
    assert abs(measured - law) < 4 / np.sqrt(2 * stars)
    action = np.linspace(-12, 12, 1201)
    a = diffuse_mode(n * shear * action, np.full(1201, D), action[1] - action[0], np.ones(1201), t)
    assert abs(abs(a[600]) / law - 1) < 1e-3


@pytest.mark.study
def test_fokker_planck_on_the_slab_follows_the_cubic_law():
    disk, cloud = as_disk(SLAB), GMCDiffusion()
    va = disk.vertical(8.0)
    J = np.linspace(0, va.J_grid[-1], 1500)
    D = cloud.coefficient(disk, 8.0, J)
    left = np.abs(fokker_planck(va, D, 1, np.ones(len(J)), 0.5 * GYR, 100))
    for action in (4.6, 9.2, 18.4):
        tau = float(cloud.tau_I(disk, 8.0, 1, action))
        law = np.exp(-((0.5 * GYR / tau) ** 3))
        assert abs(np.interp(action, J, left) / law - 1) < 0.03


@pytest.mark.study
def test_the_heated_disk_solves_the_diffusion_equation():
    """f = exp(-I / m(t)) / m(t) with m linear in t and D = 2 I m': what the coefficient was chosen for."""
    J = 0.01 * (np.arange(4000) + 0.5)  # cells whose first face, at J = 0, carries no flux
    growth, t = 0.1, 2.0
    before, after = (np.exp(-J / m) / m for m in (1.0, 1.0 + growth * t))
    solved = diffuse_mode(np.zeros_like(J), 2 * J * growth, 0.01, before, t, 800)
    assert np.abs(solved.real - after)[:2000].max() < 2e-3 * after.max()


def test_damped_map_is_the_map_times_survival():
    disk = PseudoIsothermal(IsothermalSlab(0.4, 23.0), h_R=1e12)
    free, damped = LinearResponse(disk, Kick(dv=1.0)), LinearResponse(disk, Kick(dv=1.0), GMCDiffusion())
    s = disk.vertical(8.0).radius_of(np.array([9.2]))
    t = 0.6 * GYR
    ratio = damped.amplitudes(s, t, 8.0, 0.0)[0, 0] / free.amplitudes(s, t, 8.0, 0.0)[0, 0]
    assert abs(ratio - GMCDiffusion().survival_at(disk, 8.0, 1, 9.2, t)[0]) < 1e-12


@pytest.mark.study
def test_angle_diffusion_is_slow_and_damps_too():
    disk, cloud = as_disk(SLAB), GMCDiffusion()
    assert float(cloud.tau_w(disk, 8.0, 1, 9.2)) / GYR > 20
    shares = cloud.survival_at(disk, 8.0, 1, 9.2, np.array([0.0, 0.3, 0.7, 1.5]) * GYR)
    assert shares[0] == 1 and np.all(np.diff(shares) < 0)
