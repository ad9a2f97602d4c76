"""Forward particles and back-traced f are one another's inverse."""

import numpy as np
import pytest

from jostle.disk import (
    Body,
    GaussianPulse,
    IsothermalSlab,
    Kick,
    PseudoIsothermal,
    SatelliteOrbit,
    TestParticles,
    liouville,
    odd_shape,
)

SLAB = IsothermalSlab()


@pytest.mark.study
def test_particles_follow_the_back_traced_density():
    """<g> over particles run forwards is <g f/f0> over particles in equilibrium."""
    rng = np.random.default_rng(0)
    pulse = GaussianPulse(odd_shape(0.3), 1.0)
    before = TestParticles.sample(SLAB, 40000, rng)
    after = before.run(pulse, -6.0, 3.0, step=0.1)
    weight = 1 + liouville(SLAB, pulse, before.z, before.vz, 3.0, begin=-6.0, step=0.1).f1
    for g in (lambda z, v: np.tanh(z), lambda z, v: np.tanh(v), lambda z, v: np.cos(z)):
        forwards, backwards = g(after.z, after.vz), g(before.z, before.vz) * weight
        noise = np.sqrt((forwards.var() + backwards.var()) / 40000)
        assert abs(forwards.mean() - backwards.mean()) < 4 * noise


@pytest.mark.study
def test_the_sample_is_in_equilibrium():
    stars = TestParticles.sample(SLAB, 40000, np.random.default_rng(1))
    assert abs(stars.vz.std() - 1) < 0.02 and abs(stars.vz.mean()) < 0.02
    assert abs(np.mean(np.abs(stars.z)) - np.log(2)) < 0.02  # sech^2
    calm = stars.run(None, 0.0, 5.0, step=0.1)
    assert abs(calm.vz.std() - stars.vz.std()) < 0.02 and calm.t == 5.0


def test_a_kick_strikes_on_the_way_only():
    stars = TestParticles.sample(SLAB, 50, np.random.default_rng(2))
    hit = stars.run(Kick(dv=0.2, dz=0.1), -1e-9, 1e-9)
    assert np.allclose(hit.vz - stars.vz, 0.2, atol=1e-6) and np.allclose(hit.z - stars.z, 0.1, atol=1e-6)
    assert np.allclose(stars.run(Kick(dv=0.2), 0.5, 0.5 + 1e-9).vz, stars.vz, atol=1e-6)


@pytest.mark.study
def test_full_orbits_forwards_undo_the_back_trace():
    t = np.linspace(-1, 1, 50)
    sat = SatelliteOrbit(t, np.stack([15 + 0 * t, 5 + 100 * t, 270 * t], 1), Body(1e10, 1.6))
    disk = PseudoIsothermal()
    star = TestParticles.of_stars(disk.potential, 8.0, 0.1, 0.2, 10.0, 220.0, 5.0)
    back = star.run(sat, 0.3, -0.3)
    forth = back.run(sat, -0.3, 0.3)
    assert np.allclose(np.stack(forth.place), np.stack(star.place), atol=1e-8)
    moved = np.abs(np.stack(back.place) - np.stack(star.run(None, 0.3, -0.3).place)).max()
    assert moved > 0.01


def test_users_arrays_stay():
    z, v = np.array([0.1]), np.array([5.0])
    liouville(PseudoIsothermal(), Kick(dv=1.0), z, v, 0.2)
    assert z[0] == 0.1 and v[0] == 5.0
