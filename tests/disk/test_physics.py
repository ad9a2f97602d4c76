"""Diffusion, lateral streaming, satellites, stars from files, and dating."""

import os
from pathlib import Path

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import (
    GYR,
    EpicyclicActions,
    GMCDiffusion,
    IsothermalSlab,
    Kick,
    PhaseSpiral,
    PseudoIsothermal,
    TestParticles,
    diffuse_mode,
    encounter_table,
    langevin_coherence,
    lateral_gaussian,
    milky_way,
    read_stars,
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


def test_lateral_gaussian_against_ballistic_stars():
    rng = np.random.default_rng(2)
    x = 0.5 - 1.5 * 0.8 * rng.standard_normal(200000)
    ballistic = np.exp(-(x**2) / 0.9**2)
    assert abs(ballistic.mean() - lateral_gaussian(0.5, 0.9, 1.5, 0.8)) < 4 * ballistic.std() / np.sqrt(
        x.size
    )


def test_winding_rate_with_and_without_halo():
    expected = {4: (7.62, 7.83), 8: (3.12, 3.27), 12: (1.70, 1.83), 16: (1.09, 1.20)}
    from jostle.disk import VerticalActions

    for R, values in expected.items():
        for halo, value in zip((True, False), values, strict=True):
            _, Omega, _ = VerticalActions(milky_way(halo), float(R))([0.3, 1.0], [0.0, 0.0])
            assert abs((Omega[0] - Omega[1]) / (2 * np.pi) * GYR / value - 1) < 0.01


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


def test_gradient_in_angular_momentum_is_the_slope_of_f0():
    disk, h = PseudoIsothermal(), 1e-3
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(8.0))
    s = disk.vertical(8.0).radius_of(np.array([6.0]))
    slope = disk.planar_gradient(8.0, s, 12.0)[1][0]
    up, down = (np.log(disk.value(8.0 + d, np.array([6.0]), 12.0))[0] for d in (h, -h))
    assert abs((up - down) / (2 * h) * 2 * omega / (kappa**2 * 8.0) / slope - 1) < 1e-4


def test_epicyclic_actions_return():
    ea = EpicyclicActions(milky_way(), 7.0, 9.5, radii=10)
    star = (
        np.array([8.1]),
        np.array([0.2]),
        np.array([0.3]),
        np.array([9.0]),
        np.array([221.0]),
        np.array([-5.0]),
    )
    actions = ea(*star)
    back = ea.place(actions)
    for a, b in zip((back[0], back[2], back[3], back[5]), (star[0], star[2], star[3], star[5]), strict=True):
        assert np.allclose(a, b, rtol=2e-4)


def test_sagittarius_comes_first():
    pytest.importorskip("galpy")
    table = encounter_table()
    best = table.best()
    order = list(best)
    assert order[0] == "Sgr"
    assert best["Sgr"].bending > 10 * best[order[1]].bending
    assert abs(best["Sgr"].bending / 5.4e-4 - 1) < 0.1
    assert all(r.bending > 100 * r.breathing for r in table.rows if r.satellite in ("Sgr", "LMC"))
    with pytest.raises(JostleError, match="no satellite"):
        encounter_table(["Andromeda"])


def test_dating_recovers_the_time():
    rng = np.random.default_rng(5)
    stars = TestParticles.sample(SLAB, 8000, rng).run(Kick(dv=3.0), -0.01, 0.4)
    spiral = PhaseSpiral.fit(stars.z, stars.vz, potential=SLAB, generator=rng, bootstraps=30)
    assert spiral.arms == 1 and abs(spiral.time - 0.4) < 3.5 * spiral.time_error
    assert spiral.time_error < 0.03


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


def test_gaia_columns_land_where_they_belong(tmp_path):
    pytest.importorskip("astropy")
    # The galactic centre as seen from the Sun: 1 kpc towards it lies at R = R0 - 1.
    (tmp_path / "gaia.csv").write_text(
        "ra,dec,parallax,pmra,pmdec,radial_velocity\n266.4051,-28.936175,1,0,0,0\n266.4,-28.9,-1,0,0,0\n1,1,nan,0,0,0\n"
    )
    stars = read_stars(tmp_path / "gaia.csv")
    assert stars.dropped == {"not finite": 1, "no positive distance": 1}
    assert abs(stars.R[0] - 7.122) < 2e-3 and abs(stars.phi[0]) < 2e-3 and stars.vphi[0] > 200


def test_fits_and_parquet_with_units(tmp_path):
    table = pytest.importorskip("astropy.table")
    units = pytest.importorskip("astropy.units")
    rows = table.Table({"z": [100.0, 200.0] * units.pc, "vz": [5.0, -3.0] * units.km / units.s})
    rows.write(tmp_path / "s.fits")
    assert np.allclose(read_stars(tmp_path / "s.fits").z, [0.1, 0.2])
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"z": [0.1], "vz": [2.0], "phi": [0.1]}), tmp_path / "s.parquet")
    assert read_stars(tmp_path / "s.parquet").vz[0] == 2.0
    (tmp_path / "bad.csv").write_text("z,vz,phi\n0.1,2,90\n")
    with pytest.raises(JostleError, match="radians"):
        read_stars(tmp_path / "bad.csv")


def test_real_asymmetry_tables_are_readable():
    root = Path(os.environ.get("JOSTLE_SPECS", Path(__file__).parents[2].parent / "shared" / "specs"))
    file = root / "disk_data" / "gaia_dr2_mean_vz.csv"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    assert np.loadtxt(file, delimiter=",", skiprows=1).shape == (50, 3)
