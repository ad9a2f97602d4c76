"""What the command line offers: spirals, satellites and dates in plain numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jostle.core.errors import JostleError, require
from jostle.disk.diffusion import GMCDiffusion
from jostle.disk.distributions import PseudoIsothermal
from jostle.disk.encounters import encounter_table, milky_way_satellites
from jostle.disk.orbits import orbit_integral
from jostle.disk.perturbers import GaussianPulse, Kick, SpiralArms, even_shape, odd_shape
from jostle.disk.potentials import Potential, milky_way
from jostle.disk.profiles import Gaussian
from jostle.disk.response import LinearResponse, SpiralMap
from jostle.disk.spiral import PhaseSpiral
from jostle.disk.stars import read_stars
from jostle.disk.units import GYR, MYR

Model = Literal["milky-way", "no-halo"]


@dataclass(frozen=True)
class Spiral:
    """A map of f1 / f0 that can be kept as `.npz`."""

    map: SpiralMap

    def numbers(self) -> dict[str, object]:
        """What the terminal shows."""
        m = self.map
        return {
            "radius (kpc)": m.R,
            "time (Myr)": m.t / MYR,
            "rms f1/f0": m.strength,
            "largest |f1/f0|": float(np.abs(m.values).max()),
            "assumes": "; ".join(m.labels),
        }

    def save(self, path: Path) -> None:
        """Keep axes, map and labels.

        **Raises:** `JostleError` unless `path` ends in `.npz`.
        """
        from jostle.files import whole

        if path.suffix != ".npz":
            raise JostleError(f"out must end in .npz for a map, but {path.name} came")
        m = self.map
        with whole(path) as draft, draft.open("wb") as handle:
            np.savez(
                handle,
                z_kpc=m.z,
                vz_kms=m.vz,
                f1_over_f0=m.values,
                time_myr=m.t / MYR,
                labels=np.array(m.labels),
            )


def spiral(
    potential: Model = "milky-way",
    perturber: Literal["kick", "pulse", "breathing", "arms", "sagittarius"] = "sagittarius",
    radius: float = 8.0,
    time: float = 500.0,
    phi: float = 0.0,
    kick: float = 1.0,
    duration: float = 50.0,
    clouds: bool = False,
    mass: float = 1e9,
    points: int = 121,
) -> Spiral:
    """The phase spiral at a place, a while after the disk was struck.

    **Arguments:** `potential`: the galaxy. `perturber`: an instant kick, a bending or breathing pulse,
    transient
    two-armed spiral arms, or Sagittarius on its last orbit. `radius`: kpc. `time`: Myr after the blow; for
    sagittarius, after its strongest passage of the past 2 Gyr. `phi`: azimuth from the Sun (rad). `kick`:
    km/s.
    `duration`: tau_P of pulse and arms (Myr). `clouds`: scattering by giant molecular clouds (not for
    sagittarius). `mass`: of Sagittarius (M_sun). `points`: of the map, a side.
    **Raises:** `JostleError` if the map would be too coarse or the response beyond linear.

    >>> spiral(perturber="kick", time=200.0, points=41).map.values.shape
    (41, 41)
    """
    disk = PseudoIsothermal(_model(potential))
    t = time * MYR
    omega0 = np.sqrt(2) / (duration * MYR)
    if perturber == "sagittarius":
        require(not clouds, "clouds act on modes; sagittarius is an orbit integral without them")
        return Spiral(satellite_map(disk, "Sgr", mass, radius, phi, t, points))
    blow = {
        "kick": lambda: Kick(dv=kick),
        "pulse": lambda: GaussianPulse(odd_shape(kick), omega0),
        "breathing": lambda: GaussianPulse(even_shape(kick / 0.3), omega0),
        "arms": lambda: SpiralArms(100.0 * kick, -1.2, 1.5, 25.0, profile=Gaussian(omega0, unit_area=False)),
    }[perturber]()
    response = LinearResponse(disk, blow, GMCDiffusion() if clouds else None)
    return Spiral(response.map(t, radius, phi, points=points))


def satellite_map(
    disk: PseudoIsothermal, name: str, mass: float, R: float, phi: float, t: float, points: int = 121
) -> SpiralMap:
    """f1 / f0 by a satellite `t` after its strongest passage, for stars on circular orbits at (R, phi).

    The orbit integral follows the stars around the galaxy, so that they stand at (R, phi) at the end.

    **Arguments:** as for [`spiral`][jostle.disk.verbs.spiral]; `t` in kpc s/km.
    """
    satellite = milky_way_satellites([name], masses={name: mass})[0]
    table = encounter_table([name], masses={name: mass}, times=(-2.0, 0.0), R=R, phi=phi)
    require(bool(table.rows), f"{name} has not crossed the plane in the past 2 Gyr")
    struck = table.rows[0].time_gyr * GYR
    sat = satellite.passage(1.6)
    now = struck + t
    end = float(sat.times[-1])
    require(now <= end, f"time must end by {end / GYR:.2f} Gyr from today, where the orbit of {name} ends")
    response = LinearResponse(disk, Kick(dv=1.0))
    sigma, va = disk.sigma_z_at(R), disk.vertical(R)
    top = 2.5 * sigma
    high = float(va.inverse(va(0.0, top)[0], np.pi / 2)[0])
    z, v = np.linspace(-high, high, points), np.linspace(-top, top, points)
    Z, V = np.meshgrid(z, v)
    response.check_grid(Z, V, t, R)
    circular = float(disk.potential.frequencies(R)[0]) * R
    # One galactic dynamical time before the crossing the satellite is still far away.
    begin = max(struck - 0.4 * GYR, float(sat.times[0]))
    answer = orbit_integral(
        disk, sat, Z, V, now, R=R, phi=phi, vR=0.0, vphi=circular, begin=begin, step=0.006
    )
    values = (
        answer.f1 - answer.f1.mean()
    )  # the share that is the same for all stars of the place is no spiral
    strength = float(np.sqrt((values**2).mean()))
    labels = (
        *answer.labels,
        "stars on circular orbits",
        "mean over the map removed",
        f"M = {mass:.3g} M_sun",
    )
    return SpiralMap(z, v, values, R, phi, 0.0, t, strength, labels)


def satellites(
    names: tuple[str, ...] = (), since: float = -2.0, until: float = 0.5, radius: float = 8.0
) -> dict:
    """Satellites of the Milky Way, ranked by the response their passages leave near the Sun.

    **Arguments:** `names`: of satellites; nine well-known ones if empty. `since`, `until`: Gyr, 0 is today.
    `radius`: of the stars (kpc).
    **Returns:** a row for the strongest passage of each, and what was assumed.

    >>> next(iter(satellites(("Sgr",), until=0.1)))
    'Sgr'
    """
    table = encounter_table(names or None, times=(since, until), R=radius)
    rows: dict[str, object] = {
        name: f"f1/f0 = {r.bending:.2e} bending, {r.breathing:.1e} breathing, at {r.time_gyr:+.3f} Gyr, "
        f"R = {r.radius:.1f} kpc, {r.per_1e9:.1e} per 1e9 M_sun"
        for name, r in table.best().items()
    }
    return {**rows, "assumes": "; ".join(table.labels)}


def date(
    stars: Path,
    potential: Model = "milky-way",
    radius: float = 8.0,
    per_star: bool = False,
    longest: float = 1500.0,
    seed: int = 0,
    points: int | None = None,
    force: bool = False,
) -> dict:
    """Measure arms and winding time of the phase spiral in a table of stars.

    **Arguments:** `stars`: CSV, FITS or Parquet; see [`read_stars`][jostle.disk.stars.read_stars].
    `radius`: one
    radius for all (kpc). `per_star`: take each star's own guiding radius instead. `longest`: of the search
    (Myr).
    `seed`: of the bootstrap. `points`: of the time grid. `force`: answer even where it is not significant
    or not
    linear.
    **Returns:** the measured figures.
    **Raises:** `JostleError` where the stars cannot tell.
    """
    sample = read_stars(stars)
    model = _model(potential)
    disk = PseudoIsothermal(model)
    keep = disk.vertical(radius).reach(sample.z, sample.vz)
    where: Any = radius
    if per_star:
        grid = np.linspace(0.5, 40, 2000)
        where = np.interp(sample.L_z, model.frequencies(grid)[0] * grid**2, grid)
        keep &= (where > 3) & (where < 20)
        where = where[keep]
    sample = sample.select(keep)
    found = PhaseSpiral.fit(
        sample.z,
        sample.vz,
        where,
        potential=model,
        t_max=longest * MYR,
        generator=np.random.default_rng(seed),
        points=points,
        force=force,
    )
    return {
        "arms": found.arms,
        "winding time (Myr)": found.time / MYR,
        "error (Myr)": found.time_error / MYR,
        "rms f1/f0": found.amplitude,
        "false-alarm chance": found.false_alarm,
        "stars used": found.stars,
        "stars beyond the tables": int((~keep).sum()),
        "rows dropped": sum(sample.dropped.values()),
        "assumes": "; ".join(found.labels),
    }


def _model(name: Model) -> Potential:
    return milky_way(halo=name == "milky-way")
