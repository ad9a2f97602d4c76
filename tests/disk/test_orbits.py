"""The orbit integral: against the exact answer, and its own accuracy."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import (
    GYR,
    Body,
    IsothermalSlab,
    Kick,
    PseudoIsothermal,
    SatelliteOrbit,
    StraightFlyby,
    TestParticles,
    liouville,
    orbit_integral,
)

SLAB = IsothermalSlab()


@pytest.mark.study
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


def test_linearity_error_of_f1_itself():
    """Of f1, not f1 / f0, over the plane: sqrt((3/4) / (4 * 1/2)) = 0.61 of the kick, as <v^2> = 1/2 under f0^2."""
    z, v = np.random.default_rng(0).uniform(-2.5, 2.5, (2, 4000))
    f0 = np.exp(-0.5 * v * v - 2 * np.log(np.cosh(z)))
    linear, exact = (
        f(SLAB, Kick(dv=0.05), z, v, 12.6, step=0.1).f1 * f0 for f in (orbit_integral, liouville)
    )
    assert abs(np.sqrt(((exact - linear) ** 2).mean() / (linear**2).mean()) / 0.05 / 0.612 - 1) < 0.05


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
    for name, most in (("dE", 0.03), ("dL", 0.03)):
        a, b = getattr(linear, name), getattr(exact, name)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) < most
    # The spec's own sample had 2.0 % of rms 223 (km/s)^2 and 1.4 % of 11 kpc km/s.
    assert 150 < exact.dE.std() < 350 and 7 < exact.dL.std() < 16


def test_the_same_passage_for_stars_on_circular_orbits():
    """The spec's changes of energy and L_z (223 and 11.0, to a sixth), and within its errors of 2.0 % and 1.4 %."""
    disk, rng = PseudoIsothermal(), np.random.default_rng(0)
    z, vz = 0.3 * rng.normal(size=150), 20.0 * rng.normal(size=150)
    fly = StraightFlyby(1e9, 270.0, (15.0, 0.0, 0.0), softening=1.6)
    star = {"R": 8.0, "phi": 0.0, "vR": 0.0, "vphi": 225.0, "begin": -0.3}
    linear, exact = (f(disk, fly, z, vz, 0.3, **star) for f in (orbit_integral, liouville))
    for name, size, most in (("dE", 223, 0.020), ("dL", 11.0, 0.014)):
        a, b = getattr(linear, name), getattr(exact, name)
        scale = np.sqrt((b**2).mean())
        assert abs(scale / size - 1) < 1 / 6 and np.sqrt(((a - b) ** 2).mean()) < most * scale


def test_the_default_step_is_good_to_1e_4():
    rng, n = np.random.default_rng(0), 150
    t = np.linspace(-1, 1, 200)
    sat = SatelliteOrbit(t, np.stack([15 + 0 * t, 5 + 100 * t, 270 * t], 1), Body(1e10, 1.6))
    star = {"R": rng.uniform(6, 10, n), "phi": rng.uniform(-3, 3, n), "vR": 35 * rng.normal(size=n)}
    star |= {"vphi": 225 + 20 * rng.normal(size=n), "begin": 0.3 - 0.5 * GYR}
    z, vz = 0.3 * rng.normal(size=n), 20 * rng.normal(size=n)
    plain, fine = (orbit_integral(PseudoIsothermal(), sat, z, vz, 0.3, step=s, **star) for s in (None, 0.002))
    for name in ("dE", "dL", "dE_z"):
        a, b = getattr(plain, name), getattr(fine, name)
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) < 1.5e-4


def test_labels_and_refusals():
    kick = Kick(dv=1.0)
    labels = orbit_integral(PseudoIsothermal(), kick, 0.1, 5.0, 0.1).labels
    assert {"linear", "no self-gravity of the response", "rigid halo", "direct forces"} <= set(labels)
    for options, says in (
        ({"vR": 1.0}, "given together"),
        ({"step": -1.0}, "step must be positive"),
        ({"R": -8.0}, "R must be positive"),
        ({"phi": 90.0}, "radians"),
    ):
        with pytest.raises(JostleError, match=says):
            orbit_integral(PseudoIsothermal(), kick, 0.1, 5.0, 0.1, **options)
    with pytest.raises(JostleError, match="finite"):
        orbit_integral(PseudoIsothermal(), kick, np.nan, 5.0, 0.1)
    with pytest.raises(JostleError, match="no planar orbits"):
        orbit_integral(SLAB, kick, 0.1, 5.0, 0.1, vR=0.0, vphi=1.0)
