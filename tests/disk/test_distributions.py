"""The disk's f0: its norm, its slopes and that it stands still."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import IsothermalSlab, PseudoIsothermal


@pytest.mark.study
def test_disk_is_normalised():
    disk = PseudoIsothermal()
    J, weights = disk.vertical_weights(8.0)
    assert abs(weights.sum() - 1) < 1e-12
    va = disk.vertical(8.0)
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    I_R, w = disk.epicycles(8.0, 8)
    dJ = 2 * va.s / va.Omega_grid * (va.s[1] - va.s[0])
    scale = disk.sigma_R_at(8.0) ** 2 / kappa
    total = (
        sum(x * np.exp(a / scale) * (disk.value(8.0, J, a) * dJ).sum() for a, x in zip(I_R, w, strict=True))
        * scale
    )
    # d^3I d^3w at one radius: (2 pi)^3 f0 dL/dR must be 2 pi R Sigma.
    assert (
        abs(total * (2 * np.pi) ** 3 * 8.0 * kappa**2 / (2 * omega) / (2 * np.pi * 8.0 * disk.Sigma) - 1)
        < 1e-6
    )


@pytest.mark.study
def test_gradient_in_angular_momentum_is_the_slope_of_f0():
    disk, h = PseudoIsothermal(), 1e-3
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    s = disk.vertical(8.0).radius_of(np.array([6.0]))
    slope = disk.planar_gradient(8.0, s, 12.0)[1][0]
    up, down = (np.log(disk.value(8.0 + d, np.array([6.0]), 12.0))[0] for d in (h, -h))
    assert abs((up - down) / (2 * h) * 2 * omega / (kappa**2 * 8.0) / slope - 1) < 1e-4


@pytest.mark.study
def test_drift_is_the_slope_of_the_hamiltonian():
    """Omega_phi - Omega = d(kappa I_R + E_z(I_z; R_c))/dL by differences."""
    disk, I_R, h = PseudoIsothermal(), 15.0, 0.05
    J = np.array([6.0])
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    low, high = (
        float(disk.potential.frequencies(R)[1]) * I_R + disk.vertical(R).radius_of(J)[0] ** 2
        for R in (8.0 - h, 8.0 + h)
    )
    slope = (high - low) / (2 * h) * 2 * omega / (kappa**2 * 8.0)
    assert abs(disk.drift(8.0, disk.vertical(8.0).radius_of(J), I_R)[0] / slope - 1) < 1e-3


def test_f0_depends_on_actions_alone():
    """df0/dt along an orbit is zero: its torus-averaged bracket with the perturbation has no mean."""
    disk = PseudoIsothermal()
    va = disk.vertical(8.0)
    w = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    z, v = va.inverse(np.full(60, 7.0), w)
    energy = va.energy(z, v)
    assert (
        np.ptp(disk.value(8.0, va(z, v)[0], np.asarray(3.0)))
        < 1e-12 * disk.value(8.0, np.array([7.0]), np.asarray(3.0))[0]
    )
    assert np.ptp(energy) < 1e-9 * energy[0]


def test_refusals():
    with pytest.raises(JostleError, match="sigma_z must be positive"):
        PseudoIsothermal(sigma_z=-1.0)
    with pytest.raises(JostleError, match="no planar distribution"):
        PseudoIsothermal(IsothermalSlab()).value(8.0, np.array([0.1]), np.asarray(0.1))
