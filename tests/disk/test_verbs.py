"""What the command line offers, through the command line."""

import warnings

import numpy as np
import pytest
from PIL import Image

from jostle.cli import main
from jostle.core.errors import JostleError
from jostle.disk import (
    G,
    Kick,
    PseudoIsothermal,
    TestParticles,
    check,
    date,
    encounter_table,
    liouville,
    milky_way,
    milky_way_satellites,
    orbit_integral,
    satellite_map,
    spiral,
)
from jostle.disk.units import GYR, MYR


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A table of stars 400 Myr after a kick, with rows that must be dropped."""
    stars = TestParticles.sample(PseudoIsothermal(), 8000, np.random.default_rng(11))
    after = stars.run(Kick(dv=3.0), -0.005, 400 * MYR)
    path = tmp_path_factory.mktemp("stars") / "stars.csv"
    rows = np.column_stack([after.z, after.vz])
    path.write_text("z,vz\n" + "\n".join(f"{z:.6f},{v:.4f}" for z, v in rows) + "\nnan,1\n99,1\n")
    return path


@pytest.mark.study
def test_date_recovers_the_time(sample):
    found = date(sample)
    assert found["arms"] == 1 and found["rows dropped"] == 1 and found["stars beyond the tables"] == 1
    assert abs(found["winding time (Myr)"] - 400) < 3 * found["error (Myr)"]


@pytest.mark.study
def test_date_from_the_command_line(sample, capsys):
    assert main(["disk", "date", str(sample)]) == 0
    assert "winding time" in capsys.readouterr().out
    assert main(["disk", "date", str(sample), "--points", "20"]) == 2
    assert "too coarse" in capsys.readouterr().err
    assert main(["disk", "date", "missing.csv"]) == 2
    assert "no file" in capsys.readouterr().err


@pytest.mark.study
@pytest.mark.parametrize("perturber", ["kick", "pulse", "breathing", "arms", "bar", "flyby"])
def test_every_perturber_makes_a_map(perturber):
    m = spiral(perturber=perturber, time=200.0, mass=1e8, points=60).map
    assert np.isfinite(m.values).all() and np.abs(m.values).max() > 1e-6


@pytest.mark.study
def test_spiral_is_kept(tmp_path, capsys):
    out = tmp_path / "map.npz"
    assert (
        main(["disk", "spiral", "--perturber", "kick", "--time", "100", "--clouds", "--out", str(out)]) == 0
    )
    with np.load(out, allow_pickle=False) as kept:
        assert kept["f1_over_f0"].shape == (121, 121) and "linear" in kept["labels"].tolist()
    made = spiral(perturber="kick", time=100.0, points=41)
    made.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as drawn:
        assert min(drawn.size) > 300
    with pytest.raises(JostleError, match="npz"):
        made.save(tmp_path / "map.csv")


@pytest.mark.study
def test_check_and_fit_from_the_command_line(tmp_path, capsys):
    assert main(["disk", "check", "--time", "100", "--stars", "20"]) == 0
    z = np.linspace(0.1, 1.2, 12)
    (tmp_path / "a.csv").write_text("z,a,e\n" + "\n".join(f"{x},{0.01 * np.sin(4 * x)},0.01" for x in z))
    (tmp_path / "v.csv").write_text("z,v,e\n" + "\n".join(f"{x},0.3,0.2" for x in z))
    assert main(["disk", "fit", str(tmp_path / "a.csv"), str(tmp_path / "v.csv")]) == 0
    assert "chi2" in capsys.readouterr().out
    assert (
        check(perturber="flyby", time=150.0, mass=1e8, stars=20)[
            "mode sum against orbit integral (of the maximum)"
        ]
        < 0.05
    )


@pytest.mark.study
def test_refusals():
    with pytest.raises(JostleError, match="clouds act on modes"):
        spiral(clouds=True)
    with pytest.raises(JostleError, match="too coarse"):
        spiral(perturber="kick", time=3000.0, points=50)
    with pytest.raises(JostleError, match="distance must be positive"):
        spiral(perturber="flyby", distance=-1.0)
    with pytest.raises(JostleError, match="nothing has answered yet at time = -5 Myr"):
        spiral(perturber="kick", time=-5.0)


@pytest.mark.study
def test_sagittarius_map_against_the_exact_answer():
    """The whole map of `spiral --perturber sagittarius` beside the nonlinear back-trace of the same stars."""
    pytest.importorskip("galpy")
    disk = PseudoIsothermal()
    t = 300 * MYR
    m = satellite_map(disk, "Sgr", 1e8, 8.0, 0.0, t, points=61)
    struck = encounter_table(["Sgr"], times=(-2.0, 0.0)).rows[0].time_gyr * GYR
    sat = milky_way_satellites(["Sgr"], masses={"Sgr": 1e8})[0].passage(1.6)
    Z, V = np.meshgrid(m.z[::6], m.vz[::6])
    circular = 8 * float(disk.potential.frequencies(8.0)[0])
    star = {"R": 8.0, "vR": 0.0, "vphi": circular, "begin": struck - 0.4 * GYR}
    exact = liouville(disk, sat, Z, V, struck + t, **star).f1
    linear = orbit_integral(disk, sat, Z, V, struck + t, **star).f1
    assert np.allclose(m.values[::6, ::6] - m.values[::6, ::6].mean(), linear - linear.mean(), atol=1e-7)
    spread = exact - exact.mean()
    assert np.sqrt(((linear - linear.mean() - spread) ** 2).mean() / (spread**2).mean()) < 0.05


@pytest.mark.study
def test_sagittarius_against_galpys_orbits():
    """Energies that stars gain from Sagittarius, with galpy's integrator, potentials and moving satellite."""
    galpy = pytest.importorskip("galpy.potential")
    from astropy import units
    from galpy.orbit import Orbit

    sat = milky_way_satellites(["Sgr"], masses={"Sgr": 1e9})[0].passage(1.6)
    begin, now = -1.8 * GYR, -1.2 * GYR
    z, vz = np.array([0.1, -0.3, 0.5, 0.0]), np.array([10.0, 5.0, -20.0, 25.0])
    star = {"R": 8.0, "vR": [0.0, 20.0, -15.0, 5.0], "vphi": 225.0}
    ours = liouville(PseudoIsothermal(), sat, z, vz, now, begin=begin, **star)

    shipped = Orbit.from_name("MW satellite galaxies")
    track = shipped[[str(n) for n in np.atleast_1d(shipped.name)].index("Sgr")]()
    warnings.simplefilter("ignore")  # galpy says in warnings that it uses its C code
    track.integrate(np.linspace(0, -1.9, 2000) * units.Gyr, galpy.MWPotential2014, method="dop853_c")
    disk, halo = milky_way().parts
    scale = 8 * 220**2
    galaxy = [
        galpy.MiyamotoNagaiPotential(amp=G * disk.M / scale, a=3 / 8, b=0.28 / 8),
        galpy.NFWPotential(amp=halo._amplitude / scale, a=halo.r_s / 8),
    ]
    moving = galpy.MovingObjectPotential(track, pot=galpy.PlummerPotential(amp=G * 1e9 / scale, b=0.2))
    flat = np.column_stack(
        [np.ones(4), np.array(star["vR"]) / 220, np.full(4, 225 / 220), z / 8, vz / 220, np.zeros(4)]
    )
    clock = np.linspace(-1.2, -1.8, 601) * units.Gyr
    theirs = Orbit(flat, ro=8, vo=220)
    theirs.integrate(clock, [*galaxy, moving], method="dop853_c")
    end = clock[-1]
    kinetic = 0.5 * sum(np.asarray(getattr(theirs, v)(end)) ** 2 for v in ("vR", "vT", "vz"))
    R, height = np.asarray(theirs.R(end)), np.asarray(theirs.z(end))
    before = kinetic + milky_way().value(R, height)
    after = 0.5 * (np.array(star["vR"]) ** 2 + 225.0**2 + vz**2) + milky_way().value(np.full(4, 8.0), z)
    assert np.allclose(ours.dE, before - after, rtol=5e-3, atol=0.05 + 5e-3 * np.abs(ours.dE).max())
