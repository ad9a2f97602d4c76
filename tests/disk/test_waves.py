"""Waves against height: moments of the response, and the kick that fits them."""

import os
from pathlib import Path

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import GYR, IsothermalSlab, Kick, LinearResponse, fit_kick, read_profile, vertical_waves

SLAB = IsothermalSlab(0.4, 23.0)


@pytest.mark.study
def test_a_kick_is_found_again():
    kick, t = Kick(dv=0.7, dz=0.01), 0.3
    heights = np.linspace(0.05, 1.0, 20)
    waves = vertical_waves(LinearResponse(SLAB, kick, n_max=31, tol=0.0), heights, t, points=601)
    z = np.concatenate([-heights[::-1], heights])
    flow = np.concatenate([waves.mean_vz_below[::-1], waves.mean_vz])
    found = fit_kick(
        (heights, waves.asymmetry, 1e-3 + 0 * heights),
        (z, flow + 0.2, 1e-2 + 0 * z),
        SLAB,
        sigmas=(23.0,),
        shares=(1.0,),
        t_max=0.6,
        times=121,
    )
    assert abs(found.time - t) < 1e-9
    assert abs(found.dv - 0.7) < 0.01 and abs(found.dz - 0.01) < 2e-4 and abs(found.offset - 0.2) < 0.01
    assert found.chi2 < 1 < found.chi2_null and found.numbers()["verdict"] == "one kick fits"


def test_bending_and_breathing_have_their_parity():
    at = vertical_waves(LinearResponse(SLAB, Kick(dv=1.0), n_max=15), [0.1, 0.5], 0.3)
    assert np.allclose(at.mean_vz, at.mean_vz_below, atol=1e-9) and np.abs(at.asymmetry).max() > 1e-3
    assert "linear" in at.labels


@pytest.fixture
def gaia() -> Path:
    """The folder of the Gaia products, or a skip."""
    root = Path(os.environ.get("JOSTLE_SPECS", Path(__file__).parents[2].parent / "shared" / "specs"))
    if not (root / "disk_data").is_dir():
        pytest.skip("the Gaia products are not here: name the folder above disk_data in JOSTLE_SPECS")
    return root / "disk_data"


@pytest.mark.study
def test_gaia_waves_give_the_known_fit(gaia):
    """Gaia DR2 waves of Bennett & Bovy (2019): one kick explains a part of them, not all."""
    folder = gaia
    tables = (read_profile(folder / f"gaia_dr2_{n}.csv") for n in ("number_count_asymmetry", "mean_vz"))
    found = fit_kick(*tables, times=101, t_max=0.528 * GYR)
    assert found.points == 75 and abs(found.chi2 - 482) < 2 and abs(found.time / GYR - 0.264) < 0.006
    assert abs(found.dz - 0.029) < 1e-3 and abs(found.dv + 0.33) < 0.02
    assert "not all" in found.numbers()["verdict"]


def test_ages_of_the_gaia_spirals_are_not_those_of_one_kick(gaia):
    """ESCARGOT's map of ages (Gaia DR3): the age fitted to the waves lies among them, but they grow outwards.

    A single blow leaves spirals of one age at every radius, as `PhaseSpiral.by_radius` finds them in such a disk
    (tests/disk/test_spiral.py).
    """
    with np.load(gaia / "gaia_dr3_escargot_times.npz", allow_pickle=False) as file:
        age, arms = file["time_myr"], file["dominant_mode"]
    momentum = np.broadcast_to(np.linspace(1600, 2400, age.shape[1]), age.shape)
    assert [(arms == n).sum() for n in (1, 2)] == [1444, 316]
    low, middle, high = np.percentile(age[arms == 1], [5, 50, 95])
    assert abs(middle - 356) < 1 and low < 264 < high  # the fit of the test above
    inner, outer = (
        np.median(age[(arms == 1) & (momentum > a) & (momentum < b)]) for a, b in ((1750, 1950), (2150, 2400))
    )
    assert outer > 1.5 * inner


@pytest.mark.study
def test_refusals(tmp_path):
    z = np.linspace(0.1, 1, 9)
    with pytest.raises(JostleError, match="errors of asymmetry"):
        fit_kick((z, 0 * z, 0 * z), None)
    with pytest.raises(JostleError, match="positive z"):
        fit_kick((-z, 0 * z, 1 + z), None)
    with pytest.raises(JostleError, match="at least five"):
        fit_kick((z[:3], z[:3], z[:3]), None)
    with pytest.raises(JostleError, match="must match"):
        fit_kick((z, z, z), None, sigmas=(20.0,))
    with pytest.raises(JostleError, match="no file"):
        read_profile(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("z,a\n1,2\n")
    with pytest.raises(JostleError, match="three columns"):
        read_profile(tmp_path / "a.csv")
    with pytest.raises(JostleError, match="z must be positive"):
        vertical_waves(LinearResponse(SLAB, Kick(dv=1.0)), [-0.1], 0.1)
