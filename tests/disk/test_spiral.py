"""Dating: many synthetic samples for bias and coverage, and what it refuses."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import (
    GYR,
    IsothermalSlab,
    Kick,
    LinearResponse,
    PhaseSpiral,
    PseudoIsothermal,
    TestParticles,
)
from jostle.disk.distributions import as_disk

SLAB = as_disk(IsothermalSlab(0.4, 23.0))  # its tables are built once
TABLE = SLAB.vertical(8.0)


def kicked(rng, count, dv, time, even=False):
    """Stars of the slab a while after a kick, wound up in closed form: no orbit is integrated."""
    stars = TestParticles.sample(SLAB, count, rng)
    vz = stars.vz + (dv * np.sign(stars.z) * np.minimum(np.abs(stars.z) / 0.3, 2) if even else dv)
    keep = TABLE.reach(stars.z, vz)
    J, Omega, w = TABLE(stars.z[keep], vz[keep])
    return TABLE.inverse(J, w + Omega * time)


@pytest.mark.study
def test_errors_cover_the_truth():
    """Over thirty samples the pulls have mean 0 and width 1: neither biased nor too sure."""
    pulls = []
    for k in range(30):
        rng = np.random.default_rng(1000 + k)
        time = rng.uniform(0.25, 0.4)
        z, vz = kicked(rng, 4000, 4.0, time)
        found = PhaseSpiral.fit(z, vz, potential=SLAB, generator=rng, bootstraps=40, t_max=0.5)
        assert found.arms == 1
        pulls.append((found.time - time) / found.time_error)
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(30)
    assert 0.7 < np.std(pulls) < 1.4
    assert np.mean(np.abs(pulls) < 2) > 0.85


@pytest.mark.study
def test_a_disk_is_as_good_as_its_potential():
    z, vz = kicked(np.random.default_rng(2), 2000, 4.0, 0.3)
    one, two = (
        PhaseSpiral.fit(z, vz, R, potential=p, bootstraps=3, t_max=0.5)
        for p, R in ((SLAB, 8.0), (SLAB.potential, 8.0))
    )
    assert (one.time, one.power) == (two.time, two.power)


@pytest.mark.study
def test_two_arms_are_dated_too():
    rng = np.random.default_rng(3)
    z, vz = kicked(rng, 20000, 4.0, 0.35, even=True)
    found = PhaseSpiral.fit(z, vz, potential=SLAB, generator=rng, bootstraps=30, t_max=0.6)
    assert found.arms == 2 and abs(found.time - 0.35) < 4 * found.time_error


@pytest.mark.study
def test_amplitude_is_the_rms_of_the_response():
    rng = np.random.default_rng(4)
    z, vz = kicked(rng, 40000, 2.0, 0.35)
    found = PhaseSpiral.fit(z, vz, potential=SLAB, generator=rng, bootstraps=0, t_max=0.6)
    expected = LinearResponse(SLAB, Kick(dv=2.0)).strength(0.35)[0]
    assert abs(found.amplitude / expected - 1) < 0.15 and np.isnan(found.time_error)


@pytest.mark.study
def test_integrated_orbits_give_the_same_date():
    rng = np.random.default_rng(5)
    stars = TestParticles.sample(SLAB, 8000, rng).run(Kick(dv=3.0), -0.01, 0.4)
    spiral = PhaseSpiral.fit(stars.z, stars.vz, potential=SLAB, generator=rng, bootstraps=30)
    assert spiral.arms == 1 and abs(spiral.time - 0.4) < 3 * spiral.time_error
    assert spiral.time_error < 0.03 and spiral.time_gyr == spiral.time / GYR


@pytest.mark.study
def test_bins_of_radius():
    rng = np.random.default_rng(7)
    disk = PseudoIsothermal()
    parts = [TestParticles.sample(disk, 8000, rng, R=R).run(Kick(dv=3.0), -0.01, 0.4) for R in (7.5, 8.5)]
    z, vz = (np.concatenate([getattr(p, name) for p in parts]) for name in ("z", "vz"))
    R = np.repeat([7.5, 8.5], 8000)
    found = PhaseSpiral.by_radius(
        z, vz, R, [7.0, 8.0, 9.0, 10.0], potential=disk.potential, generator=rng, bootstraps=20, t_max=0.6
    )
    assert [round(f.R, 1) for f in found] == [7.5, 8.5]
    assert all(abs(f.time - 0.4) < 4 * f.time_error for f in found)


def test_dating_refuses():
    rng = np.random.default_rng(6)
    calm = TestParticles.sample(SLAB, 3000, rng)
    with pytest.raises(JostleError, match="no significant spiral"):
        PhaseSpiral.fit(calm.z, calm.vz, potential=SLAB, generator=rng)
    with pytest.raises(JostleError, match="too coarse"):
        PhaseSpiral.fit(calm.z, calm.vz, potential=SLAB, points=10)
    hit = calm.run(Kick(dv=15.0), -0.01, 0.3)
    with pytest.raises(JostleError, match="beyond linear"):
        PhaseSpiral.fit(hit.z, hit.vz, potential=SLAB, generator=rng)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": -np.ones(200)}, "not be negative"),
        ({"weights": np.ones(3)}, "one number a star"),
        ({"t_max": -1.0}, "t_max must be positive"),
        ({"t_max": 1e-3}, "before which nothing has wound up"),
    ],
)
def test_bad_input(options, says):
    calm = TestParticles.sample(SLAB, 200, np.random.default_rng(6))
    with pytest.raises(JostleError, match=says):
        PhaseSpiral.fit(calm.z, calm.vz, potential=SLAB, **options)
    with pytest.raises(JostleError, match="must differ in vertical frequency"):
        PhaseSpiral.fit(np.full(200, 0.1), np.full(200, 5.0), potential=SLAB)
    with pytest.raises(JostleError, match="at least 100"):
        PhaseSpiral.fit(calm.z[:50], calm.vz[:50], potential=SLAB)
