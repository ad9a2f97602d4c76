"""What the command line offers: spirals, satellites and dates in plain numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jostle.core.errors import require
from jostle.disk.adapters import named_potential
from jostle.disk.diffusion import GMCDiffusion
from jostle.disk.distributions import PseudoIsothermal, as_disk
from jostle.disk.encounters import encounter_table, milky_way_satellites
from jostle.disk.maps import SpiralMap, turning_height
from jostle.disk.orbits import orbit_integral
from jostle.disk.passages import StraightFlyby
from jostle.disk.perturbers import Bar, GaussianPulse, Kick, Perturbation, SpiralArms, even_shape, odd_shape
from jostle.disk.profiles import Gaussian
from jostle.disk.response import LinearResponse
from jostle.disk.spiral import PhaseSpiral
from jostle.disk.stars import read_stars
from jostle.disk.units import GYR, MYR, Numbers, angle, number, positive
from jostle.disk.waves import fit_kick, read_profile


@dataclass(frozen=True)
class Spiral:
    """A map of f1 / f0 that can be kept as `.npz`, or drawn as `.png` or `.pdf`."""

    suffix: ClassVar[tuple[str, ...]] = (".npz", ".png", ".pdf")  # what the command line's --out must end in
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
        """Keep axes, map and labels, or draw the map.

        **Raises:** `JostleError` unless `path` ends in `.npz`, `.png` or `.pdf`.
        """
        from jostle.files import whole

        require(
            path.suffix in self.suffix,
            f"out must end in {' or '.join(self.suffix)} for a map, but {path.name} came",
        )
        m = self.map
        if path.suffix != ".npz":
            from jostle.disk.figures import spiral_maps

            title = f"$R$ = {m.R:g} kpc, {m.t / MYR:.0f} Myr"
            with whole(path) as draft:
                drawn = spiral_maps([(title, {"z": m.z, "vz": m.vz, "values": m.values})], 1)
                drawn.savefig(draft, dpi=160, format=path.suffix[1:])
            return
        with whole(path) as draft, draft.open("wb") as handle:
            np.savez(
                handle,
                z_kpc=m.z,
                vz_kms=m.vz,
                f1_over_f0=m.values,
                time_myr=m.t / MYR,
                labels=np.array(m.labels),
            )


Blow = Literal["kick", "pulse", "breathing", "arms", "bar", "flyby", "sagittarius"]


def spiral(
    potential: str = "milky-way",
    perturber: Blow = "sagittarius",
    radius: float = 8.0,
    time: float = 500.0,
    phi: float = 0.0,
    kick: float = 1.0,
    duration: float = 50.0,
    distance: float = 5.0,
    speed: float = 270.0,
    mass: float = 1e9,
    clouds: bool = False,
    points: int | None = None,
) -> Spiral:
    """The phase spiral at a place, a while after the disk was struck.

    **Arguments:** `potential`: milky-way, no-halo, galpy:NAME, or FILE.py:FUNCTION. `perturber`: an instant
    kick, a bending or breathing pulse, transient two-armed spiral arms or a bar, a satellite that crosses the
    plane outside of the stars on a straight line, or Sagittarius on its orbit. `radius`: of the stars (kpc).
    `time`: Myr after the blow; for sagittarius, after its strongest passage of the past 2 Gyr. `phi`: azimuth
    of the stars from the Sun (rad). `kick`: push of a kick or pulse (km/s; of a breathing pulse at 0.3 kpc);
    arms and bars have an amplitude of 100 (km/s)^2 times it. `duration`: pulse time tau_P of pulses, arms and
    bar (Myr), above 0. `distance`: of the fly-by's crossing from the stars, outwards (kpc), above 0. `speed`:
    of the fly-by (km/s), above 0. `mass`: of the fly-by or of Sagittarius (M_sun). `clouds`: scattering by
    giant molecular clouds (not for sagittarius). `points`: of the map, a side; as many as the spiral needs if
    not given.
    **Raises:** `JostleError` if the map would be too coarse or the response beyond linear.

    >>> spiral(perturber="kick", time=200.0, points=41).map.values.shape
    (41, 41)
    """
    disk = PseudoIsothermal(named_potential(potential))
    t = time * MYR
    if perturber == "sagittarius":
        require(not clouds, "clouds act on modes; sagittarius is an orbit integral without them")
        return Spiral(satellite_map(disk, "Sgr", mass, radius, phi, t, points))
    blow = _blow(perturber, kick, duration, radius, phi, distance, speed, mass)
    response = LinearResponse(disk, blow, GMCDiffusion() if clouds else None)
    found = response.map(t, radius, phi, points=points)
    require(found.strength > 0, f"nothing has answered yet at time = {time:g} Myr: the blow falls at 0")
    return Spiral(found)


def _blow(
    name: str,
    kick: float,
    duration: float,
    radius: float,
    phi: float,
    distance: float,
    speed: float,
    mass: float,
) -> Perturbation:
    require(duration > 0, f"duration must be positive, but {duration} came")
    omega0 = float(np.sqrt(2) / (duration * MYR))
    if name == "kick":
        return Kick(dv=kick)
    if name == "pulse":
        return GaussianPulse(odd_shape(kick), omega0)
    if name == "breathing":
        return GaussianPulse(even_shape(kick / 0.3), omega0)
    if name == "flyby":
        require(distance > 0, f"distance must be positive, but {distance} came")
        far = radius + distance
        impact = (far * np.cos(phi), far * np.sin(phi), 0.0)
        return StraightFlyby(mass, speed, impact, softening=1.0)
    pulse = Gaussian(omega0, unit_area=False)
    if name == "bar":
        return Bar(100.0 * kick, 1.5, 40.0, profile=pulse)
    return SpiralArms(100.0 * kick, -1.2, 1.5, 25.0, profile=pulse)


def satellite_map(
    disk: Any, name: str, mass: Numbers, R: Numbers, phi: Numbers, t: Numbers, points: int | None = None
) -> SpiralMap:
    """f1 / f0 by a satellite `t` after its strongest passage, for stars on circular orbits at (R, phi).

    The orbit integral follows the stars around the galaxy, so that they stand at (R, phi) at the end.

    **Arguments:** as for [`spiral`][jostle.disk.verbs.spiral]; `disk`: any, `t` in kpc s/km.
    """
    disk = as_disk(disk)
    mass, R = positive(mass, "Msun", "mass"), positive(R, "kpc", "R")
    phi, t = float(angle(phi, "phi")), number(t, "kpc s/km", "t")
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
    high = turning_height(va, top)
    if points is None:
        points = response.points_needed(high, top, t, R)
    z, v = np.linspace(-high, high, points), np.linspace(-top, top, points)
    Z, V = np.meshgrid(z, v)
    response.check_grid(Z, V, t, R)
    circular = float(disk.potential.frequencies(R)[0]) * R
    # One galactic dynamical time before the crossing the satellite is still far away.
    begin = max(struck - 0.4 * GYR, float(sat.times[0]))
    answer = orbit_integral(disk, sat, Z, V, now, R=R, phi=phi, vR=0.0, vphi=circular, begin=begin)
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
    names: tuple[str, ...] = (),
    since: float = -2.0,
    until: float = 0.5,
    radius: float = 8.0,
    indirect: bool = False,
) -> dict:
    """Satellites of the Milky Way, ranked by the response their passages leave near the Sun.

    **Arguments:** `names`: of Sgr, LMC, SMC, Draco, BootesI, LeoII, Hercules, Segue2 and Willman1; all of
    them if empty. `since`: start of the search (Gyr, 0 is today), at most 0. `until`: end of the search (Gyr,
    0 is today), at least 0. `radius`: of the stars (kpc). `indirect`: take the tide, without what moves the
    whole galaxy.
    **Returns:** a row for the strongest passage of each, and what was assumed.

    >>> next(iter(satellites(("Sgr",), until=0.1)))
    'Sgr'
    """
    table = encounter_table(names or None, times=(since, until), R=radius, indirect=indirect)
    rows: dict[str, object] = {
        name: f"f1/f0 = {r.bending:.2e} bending, {r.breathing:.1e} breathing, at {r.time_gyr:+.3f} Gyr, "
        f"R = {r.radius:.1f} kpc, {r.per_1e9:.1e} per 1e9 M_sun"
        for name, r in table.best().items()
    }
    return {**rows, "assumes": "; ".join(table.labels)}


def date(
    stars: Path,
    potential: str = "milky-way",
    radius: float = 8.0,
    per_star: bool = False,
    longest: float = 1500.0,
    seed: int = 0,
    points: int | None = None,
    force: bool = False,
) -> dict:
    """Measure arms and winding time of the phase spiral in a table of stars.

    **Arguments:** `stars`: CSV, FITS or Parquet with z (kpc) and vz (km/s), for `per_star` also R and vphi,
    or with Gaia's columns; see [`read_stars`][jostle.disk.stars.read_stars]. `potential`: milky-way, no-halo,
    galpy:NAME, or FILE.py:FUNCTION. `radius`: one radius for all stars (kpc). `per_star`: take each star's
    own guiding radius instead; stars with one outside of 3 to 20 kpc are left out. `longest`: winding time
    that is searched (Myr). `seed`: of the bootstrap. `points`: of the time grid; as many as the stars need if
    not given. `force`: answer even where it is not significant or not linear.
    **Returns:** the measured figures.
    **Raises:** `JostleError` where the stars cannot tell.
    """
    sample = read_stars(stars)
    model = named_potential(potential)
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
        potential=disk,
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


def fit(
    asymmetry: Path,
    velocities: Path,
    potential: str = "milky-way",
    radius: float = 8.1,
    longest: float = 1200.0,
    z_max: float = 1.3,
) -> dict:
    """Fit one kick of the disk to the asymmetry of star counts and the mean vertical velocity against height.

    **Arguments:** `asymmetry`: CSV of z (kpc), A(z) and its error. `velocities`: CSV of z (kpc), <v_z> (km/s)
    and its error. `potential`: milky-way, no-halo, galpy:NAME, or FILE.py:FUNCTION. `radius`: of the stars
    (kpc). `longest`: time since the kick that is searched (Myr). `z_max`: data beyond are left out (kpc).
    **Returns:** the kick, its time and how well it fits.
    """
    found = fit_kick(
        read_profile(asymmetry),
        read_profile(velocities),
        named_potential(potential),
        radius,
        t_max=longest * MYR,
        z_max=z_max,
    )
    return found.numbers()


def check(
    potential: str = "milky-way",
    perturber: Literal["kick", "pulse", "breathing", "arms", "bar", "flyby"] = "kick",
    radius: float = 8.0,
    time: float = 300.0,
    kick: float = 1.0,
    duration: float = 50.0,
    distance: float = 5.0,
    speed: float = 270.0,
    mass: float = 1e9,
    modes: int = 24,
    stars: int = 200,
    seed: int = 0,
) -> dict:
    """Compare the mode sum with the orbit integral and with the exact back-trace, on stars drawn from f0.

    **Arguments:** `potential`: milky-way, no-halo, galpy:NAME, or FILE.py:FUNCTION. `perturber`: an instant
    kick, a bending or breathing pulse, transient two-armed spiral arms or a bar, or a satellite that crosses
    the plane outside of the stars on a straight line. `radius`: of the stars (kpc). `time`: Myr after the
    blow. `kick`: push of a kick or pulse (km/s; of a breathing pulse at 0.3 kpc); arms and bars have an
    amplitude of 100 (km/s)^2 times it. `duration`: pulse time tau_P of pulses, arms and bar (Myr), above 0.
    `distance`: of the fly-by's crossing from the stars, outwards (kpc), above 0. `speed`: of the fly-by
    (km/s), above 0. `mass`: of the fly-by (M_sun). `modes`: the largest |n| of the mode sum. `stars`: how
    many are compared. `seed`: of the stars.
    **Returns:** the residuals.

    >>> check(time=100.0, stars=20)["mode sum against orbit integral (of the maximum)"] < 1e-4
    True
    """
    disk = PseudoIsothermal(named_potential(potential))
    blow = _blow(perturber, kick, duration, radius, 0.0, distance, speed, mass)
    response = LinearResponse(disk, blow, n_max=modes, l_max=8, tol=0.0)
    return response.check(time * MYR, radius, n_points=stars, generator=np.random.default_rng(seed)).numbers()
