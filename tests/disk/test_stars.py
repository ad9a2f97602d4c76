"""Stars from files: columns, frames, units, and what is dropped."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import read_stars


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


def test_gaia_columns_in_fits_with_their_own_units(tmp_path):
    table = pytest.importorskip("astropy.table")
    units = pytest.importorskip("astropy.units")
    mas = units.mas / units.yr
    rows = table.Table(
        {
            "ra": [266.4051, 30.0] * units.deg,
            "dec": [-1736.1705, 600.0] * units.arcmin,
            "distance": [1000.0, 500.0] * units.pc,
            "pmra": [0.0, 1.0] * mas,
            "pmdec": [0.0, 2.0] * mas,
            "radial_velocity": [0.0, 10.0] * units.km / units.s,
        }
    )
    rows.write(tmp_path / "g.fits")
    stars = read_stars(tmp_path / "g.fits", R0=8122 * units.pc)
    assert abs(stars.R[0] - 7.122) < 3e-3 and len(stars) == 2


def test_rotation_and_velocities_of_the_sun(tmp_path):
    """A star beside the Sun at rest with respect to it moves as the Sun does."""
    pytest.importorskip("astropy")
    (tmp_path / "sun.csv").write_text("ra,dec,distance,pmra,pmdec,radial_velocity\n10,20,0.0001,0,0,0\n")
    star = read_stars(tmp_path / "sun.csv")
    assert abs(star.vR[0] + 12.9) < 0.2 and abs(star.vphi[0] - 245.6) < 0.2 and abs(star.vz[0] - 7.78) < 0.2
    assert abs(star.R[0] - 8.122) < 1e-3 and abs(star.z[0] - 0.0208) < 1e-3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "lacks"),
        ("z,vz\nnan,1\nup,2\n", r"no usable row \(2 not finite\)"),
        ("z,vz,R\n0.1,1,-8\n", "R must be positive"),
        ("z,vz\n0.1\n", "2 names but 1 columns"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, says):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(JostleError, match=says):
        read_stars(tmp_path / "bad.csv")


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(JostleError, match="no file"):
        read_stars(tmp_path / "none.csv")
    (tmp_path / "stars.txt").write_text("z,vz\n")
    with pytest.raises(JostleError, match="must end in"):
        read_stars(tmp_path / "stars.txt")
