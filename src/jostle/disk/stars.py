"""Stars from CSV, FITS or Parquet, in galactocentric coordinates."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jostle.core.errors import JostleError, optional, require
from jostle.disk.units import Array, Numbers, number, plain

_CYLINDRICAL = {"R": "kpc", "phi": "rad", "z": "kpc", "vR": "km/s", "vphi": "km/s", "vz": "km/s"}
_GAIA = {"ra": "deg", "dec": "deg", "pmra": "mas/yr", "pmdec": "mas/yr", "radial_velocity": "km/s"}


@dataclass(frozen=True)
class Stars:
    """Stars in galactocentric cylinder coordinates: kpc, km/s, rad; the Sun is at phi = 0, vphi > 0 rotates.

    **Arguments:** `R`, `phi`, `z`, `vR`, `vphi`, `vz`: one number a star. `dropped`: how many rows were
    left out,
    by reason.

    >>> one = np.ones(1)
    >>> len(Stars(8 * one, 0 * one, 0 * one, 0 * one, 220 * one, 0 * one, {}))
    1
    """

    R: Array
    phi: Array
    z: Array
    vR: Array
    vphi: Array
    vz: Array
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.R)

    @property
    def L_z(self) -> Array:
        """Angular momentum (kpc km/s)."""
        return self.R * self.vphi

    def select(self, keep: Array) -> "Stars":
        """The stars where `keep` is true."""
        columns = [getattr(self, f.name)[keep] for f in fields(self)[:-1]]
        return Stars(*columns, dict(self.dropped))  # type: ignore


def read_stars(
    path: str | Path,
    R0: Numbers = 8.122,
    z_sun: Numbers = 0.0208,
    v_sun: Numbers = (12.9, 245.6, 7.78),
) -> Stars:
    """Read stars from a `.csv`, `.fits` or `.parquet` file.

    Two layouts are known: galactocentric columns R, phi, z, vR, vphi, vz (kpc, rad, km/s; R to vphi may miss
    if z and vz are there, then R = R0, phi = 0, vphi = v_sun's), or Gaia's ra, dec (deg), parallax (mas) or
    distance (kpc), pmra, pmdec (mas/yr), radial_velocity (km/s). Units written in the file win over these.
    Gaia columns go through astropy's Galactocentric frame; there the Sun is at x = -R0, here at phi = 0.

    **Arguments:** `path`: the file. `R0`, `z_sun`: of the Sun (kpc). `v_sun`: its velocity towards the
    centre, in
    the direction of rotation and upwards (km/s).
    **Returns:** the stars, with the number of rows dropped (not finite, no positive parallax).
    **Raises:** `JostleError` if columns are missing, angles are not radians, or no row is left.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "stars.csv"
    ...     _ = file.write_text("R,phi,z,vR,vphi,vz\\n8,0,0.1,5,220,-3\\n8,0,nan,5,220,-3\\n")
    ...     stars = read_stars(file)
    >>> len(stars), stars.dropped["not finite"]
    (1, 1)
    """
    try:
        columns, names = _table(Path(path))
    except JostleError:
        raise
    except Exception as error:  # csv, pyarrow and astropy have many kinds of errors of their own
        raise JostleError(f"{path} cannot be read as a table: {error}") from error
    sun = number(R0, "kpc", "R0"), number(z_sun, "kpc", "z_sun"), plain(v_sun, "km/s", "v_sun")
    require(sun[2].shape == (3,), "v_sun must have three components")
    if {"z", "vz"} <= names:
        arrays = {key: columns(key, unit) for key, unit in _CYLINDRICAL.items() if key in names}
        fill = {"R": sun[0], "phi": 0.0, "vR": 0.0, "vphi": float(sun[2][1])}
        arrays = {k: arrays[k] if k in arrays else np.full(len(arrays["z"]), fill[k]) for k in _CYLINDRICAL}
        good = np.all([np.isfinite(a) for a in arrays.values()], axis=0)
        if good.any() and np.abs(arrays["phi"][good]).max() > 2 * np.pi + 1e-9:
            raise JostleError(
                f"{path}: phi must be in radians, but {np.abs(arrays['phi'][good]).max():g} came"
            )
        return _finish(arrays, good, {"not finite": int((~good).sum())}, path)
    missing = sorted(set(_GAIA) - names)
    near = {"parallax", "distance"} & names
    if missing or not near:
        need = missing or ["parallax or distance"]
        raise JostleError(f"{path} needs z and vz, or Gaia's columns: it lacks {', '.join(need)}")
    raw = {key: columns(key, unit) for key, unit in _GAIA.items()}
    far = columns("distance", "kpc") if "distance" in near else columns("parallax", "mas")
    finite = np.all([np.isfinite(a) for a in (*raw.values(), far)], axis=0)
    positive = finite & (np.where(finite, far, 1.0) > 0)
    dropped = {"not finite": int((~finite).sum()), "no positive distance": int((finite & ~positive).sum())}
    distance = np.where(positive, far, 1.0)
    distance = distance if "distance" in near else 1.0 / distance
    arrays = _galactocentric(raw, distance, positive, *sun)
    return _finish(arrays, positive, dropped, path)


def _galactocentric(
    raw: dict[str, Array], distance: Array, good: Array, R0: float, z_sun: float, v_sun: Array
) -> Any:
    units, coordinates = optional("astropy.units", "disk"), optional("astropy.coordinates", "disk")
    value = {k: np.where(good, a, 0.0) for k, a in raw.items()}
    sky = coordinates.SkyCoord(
        ra=value["ra"] * units.deg,
        dec=value["dec"] * units.deg,
        distance=distance * units.kpc,
        pm_ra_cosdec=value["pmra"] * units.mas / units.yr,
        pm_dec=value["pmdec"] * units.mas / units.yr,
        radial_velocity=value["radial_velocity"] * units.km / units.s,
        frame="icrs",
    )
    frame = coordinates.Galactocentric(
        galcen_distance=np.hypot(R0, z_sun) * units.kpc,
        z_sun=z_sun * units.kpc,
        galcen_v_sun=coordinates.CartesianDifferential(v_sun * units.km / units.s),
    )
    there = sky.transform_to(frame)
    x, y, z = (c.to_value(units.kpc) for c in (there.x, there.y, there.z))
    vx, vy, vz = (c.to_value(units.km / units.s) for c in (there.v_x, there.v_y, there.v_z))
    # astropy: Sun at (-R0, 0), rotation towards +y. Here: Sun at phi = 0, rotation towards larger phi.
    x, vx = -x, -vx
    R = np.hypot(x, y)
    return {
        "R": R,
        "phi": np.arctan2(y, x),
        "z": z,
        "vR": (x * vx + y * vy) / R,
        "vphi": (x * vy - y * vx) / R,
        "vz": vz,
    }


def _finish(arrays: dict[str, Array], good: Array, dropped: dict[str, int], path: Any) -> Stars:
    lost = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "it is empty"
    require(bool(good.any()), f"{path} has no usable row ({lost})")
    require(bool(np.all(arrays["R"][good] > 0)), f"{path}: R must be positive (kpc)")
    return Stars(*(np.array(arrays[k][good]) for k in _CYLINDRICAL), dropped)  # type: ignore


def _table(path: Path) -> tuple[Any, set[str]]:
    """A function (column, unit) -> float64 array, and the columns' names."""
    require(path.exists(), f"there is no file {path}")
    if path.suffix not in (".csv", ".fits", ".parquet"):
        raise JostleError(f"{path} must end in .csv, .fits or .parquet")
    if path.suffix == ".parquet":
        table = optional("pyarrow.parquet", "disk").read_table(path)
        meta = {f.name: (f.metadata or {}).get(b"unit", b"").decode() for f in table.schema}

        def column(name: str, unit: str) -> Array:
            return _in_unit(table[name].to_numpy(zero_copy_only=False), meta[name], unit, name)

        return column, set(table.column_names)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as handle:
            names = [n.strip() for n in handle.readline().split(",")]
        try:
            data = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=float, ndmin=2)
        except ValueError as error:
            raise JostleError(f"{path} is not a table of numbers with one header line: {error}") from None
        require(data.shape[1] == len(names), f"{path} has {len(names)} names but {data.shape[1]} columns")
        return (lambda name, unit: data[:, names.index(name)]), set(names)
    table = optional("astropy.table", "disk").Table.read(path)

    def from_fits(name: str, unit: str) -> Array:
        values = table[name]
        values = values.filled(np.nan) if hasattr(values, "filled") else values
        return _in_unit(np.asarray(values, float), str(table[name].unit or ""), unit, name)

    return from_fits, set(table.colnames)


def _in_unit(values: Any, have: str, want: str, name: str) -> Array:
    array = np.array(values, dtype=float)
    if not have:
        return array
    units = optional("astropy.units", "disk")
    return plain(array * units.Unit(have), want, name)
