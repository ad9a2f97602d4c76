"""Which satellites of the Milky Way shake the disk: their passages and the response to each."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jostle.core.errors import JostleError, optional, require
from jostle.disk.distributions import PseudoIsothermal, as_disk
from jostle.disk.passages import Body, SatelliteOrbit, StraightFlyby
from jostle.disk.potentials import IsothermalSlab
from jostle.disk.units import GYR, Array, Numbers, gigayears, number, plain, positive

#: Literature-like masses (M_sun) of this package; every response is linear in them. Sagittarius is contested.
MASSES = {
    "Sgr": 1e9,
    "LMC": 1.4e11,
    "SMC": 6.5e9,
    "Draco": 2.2e7,
    "BootesI": 1e7,
    "LeoII": 8.2e6,
    "Hercules": 7.1e6,
    "Segue2": 5.5e5,
    "Willman1": 4e5,
}


@dataclass(frozen=True)
class Satellite:
    """A satellite's orbit around the galaxy.

    **Arguments:** `name`. `mass`: M_sun. `times` (kpc s/km, 0 today), `positions` (kpc) and `velocities`
    (km/s), three a time, galactocentric with the Sun at phi = 0 on the positive x axis.
    """

    name: str
    mass: Numbers
    times: Numbers
    positions: Numbers
    velocities: Numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "mass", positive(self.mass, "Msun", "mass"))
        for name, unit in (("times", "kpc s/km"), ("positions", "kpc"), ("velocities", "km/s")):
            object.__setattr__(self, name, plain(getattr(self, name), unit, name))
        wanted = (np.size(self.times), 3)
        for name in ("positions", "velocities"):
            shape = getattr(self, name).shape
            require(shape == wanted, f"{name} must be (len(times), 3) = {wanted}, but {shape} came")

    def passage(self, scale: Numbers = 1.0, indirect: bool = False) -> SatelliteOrbit:
        """The satellite as a perturbation with a Plummer body of `scale` kpc."""
        return SatelliteOrbit(
            self.times, self.positions, Body(self.mass, number(scale, "kpc", "scale")), None, indirect
        )

    def crossings(self) -> list[int]:
        """Indices of the samples before each crossing of the galactic plane."""
        z = self.positions[:, 2]
        return [int(k) for k in np.nonzero(np.diff(np.sign(z)) != 0)[0]]

    def crossing(self, index: int) -> tuple[float, Array, Array]:
        """(time, position, velocity) where the orbit meets z = 0, to the accuracy of cubic Hermite steps."""
        t0, t1 = self.times[index], self.times[index + 1]
        h, z0, z1 = t1 - t0, self.positions[index, 2], self.positions[index + 1, 2]
        v0, v1 = self.velocities[index], self.velocities[index + 1]
        x = z0 / (z0 - z1)
        for _ in range(6):
            base = _hermite(x, self.positions[index], self.positions[index + 1], h * v0, h * v1)
            x = float(np.clip(x - base[2] / (h * ((1 - x) * v0[2] + x * v1[2])), 0, 1))
        return float(t0 + x * h), base, (1 - x) * v0 + x * v1


@dataclass(frozen=True)
class Encounter:
    """One crossing of the plane and the response it leaves (or would leave) near the Sun.

    **Arguments:** `satellite`. `time_gyr`: 0 today. `radius`: of the impact (kpc). `speed`: km/s. `distance`:
    of the impact from the stars (kpc). `bending`, `breathing`: |f1 / f0| of n = 1 and n = 2. `per_1e9`:
    bending for a mass of 1e9 M_sun. `penetrating`: the track comes within 1 kpc of the stars.
    """

    satellite: str
    time_gyr: float
    radius: float
    speed: float
    distance: float
    bending: float
    breathing: float
    per_1e9: float
    penetrating: bool


@dataclass(frozen=True)
class EncounterTable:
    """Encounters, strongest first, with what was assumed."""

    rows: tuple[Encounter, ...]
    labels: tuple[str, ...]

    def best(self) -> dict[str, Encounter]:
        """The strongest encounter of every satellite, strongest first."""
        found: dict[str, Encounter] = {}
        for row in self.rows:
            found.setdefault(row.satellite, row)
        return found


def milky_way_satellites(
    names: Sequence[str] | None = None,
    potential: Any = None,
    masses: dict[str, Numbers] | None = None,
    times: Numbers = (-2.0, 0.5),
    samples: int = 1001,
) -> list[Satellite]:
    """Orbits of Milky Way satellites from the phase-space points that ship with galpy.

    **Arguments:** `names`: satellites; those of `MASSES` if `None`. Only names of the shipped table are
    taken: nothing is looked up on the network. `potential`: a galpy potential; MWPotential2014 if `None`.
    `masses`: M_sun by name, over the defaults. `times`: from, to in Gyr, 0 is today. `samples`: points of
    each track.
    **Raises:** `MissingExtra` without galpy; `JostleError` for an unknown name or one without a mass.

    >>> [s.name for s in milky_way_satellites(["Sgr"], times=(-0.1, 0.1), samples=21)]
    ['Sgr']
    """
    orbits = optional("galpy.orbit", "disk")
    if potential is None:
        potential = optional("galpy.potential", "disk").MWPotential2014
    units = optional("astropy.units", "disk")
    weigh = {**MASSES, **{k: number(m, "Msun", f"the mass of {k}") for k, m in (masses or {}).items()}}
    wanted = list(MASSES) if names is None else list(names)
    require(len(times) == 2, f"times must be two, from and to, but {times!r} came")
    since, until = (gigayears(x, "times") for x in times)
    require(since <= 0 <= until and since < until, f"times must enclose today (0), but {times} came")
    require(samples >= 21, f"samples must be at least 21, but {samples} came")
    # Names that galpy does not ship it would ask a server for; so they stop here.
    shipped = orbits.Orbit.from_name("MW satellite galaxies")
    order = {str(name): k for k, name in enumerate(np.atleast_1d(shipped.name))}
    for name in wanted:
        if name not in order:
            raise JostleError(f"no satellite {name!r} in galpy's table; it has {', '.join(order)}")
        require(name in weigh, f"satellite {name!r} has no mass here; give masses={{{name!r}: ...}} in M_sun")
        require(weigh[name] > 0, f"the mass of {name!r} must be positive, but {weigh[name]} came")
    picked = shipped[[order[name] for name in wanted]]
    grid = np.linspace(since, until, samples)
    tracks = []
    for side in (grid[grid <= 0][::-1], grid[grid >= 0]):
        # Orbits start today, so that each half begins with t = 0 even if the grid does not hold it.
        start = np.concatenate([[0.0], side[side != 0]])
        run = picked()
        with warnings.catch_warnings():
            # galpy announces through warnings that it uses its C code.
            warnings.simplefilter("ignore")
            run.integrate(start * units.Gyr, potential, method="dop853_c")
        tracks.append((start, _phase(run, start, units)))
    (back, past), (ahead, future) = tracks
    clock = np.concatenate([back[:0:-1], ahead]) * GYR
    both = np.concatenate([past[:, :, :0:-1], future], axis=2)
    return [
        Satellite(name, weigh[name], clock, both[k, :3].T.copy(), both[k, 3:].T.copy())
        for k, name in enumerate(wanted)
    ]


def encounter_table(
    names: Sequence[str] | None = None,
    potential: Any = None,
    masses: dict[str, Numbers] | None = None,
    times: Numbers = (-2.0, 0.5),
    disk: Any = None,
    R: Numbers = 8.0,
    phi: Numbers = 0.0,
    action: Numbers | None = None,
    indirect: bool = False,
) -> EncounterTable:
    """The response near the Sun to every passage of the satellites through the plane, strongest first.

    Each crossing is taken as a straight line at its point and velocity, with the closed form of
    [`StraightFlyby`][jostle.disk.passages.StraightFlyby] at one vertical action; stars stay at the Sun's
    present place (a first estimate; the orbit integral does better). Future passages are listed as well.

    **Arguments:** `names`, `potential`, `masses`, `times` (Gyr): as for
    [`milky_way_satellites`][jostle.disk.encounters.milky_way_satellites]. `disk`: whose stars answer; a slab
    with sigma_z = 23 km/s, h_z = 0.4 kpc if `None`. `R` (kpc), `phi`: where. `action`: I_z; h_z sigma_z if
    `None`. `indirect`: subtract the acceleration of the whole galaxy, which a distant satellite mostly
    causes.

    >>> table = encounter_table(["Sgr", "Willman1"], times=(-2, 0.1))
    >>> table.rows[0].satellite
    'Sgr'
    """
    home = as_disk(IsothermalSlab(0.4, 23.0) if disk is None else disk)
    radius, azimuth = number(R, "kpc", "R"), number(phi, "rad", "phi")
    va = home.vertical(radius)
    J = number(action, "kpc km/s", "action") if action is not None else _typical(home, radius)
    s = va.radius_of(np.array([J]))
    gradient = float(home.vertical_gradient(radius, s)[0])
    sun = np.array([radius * np.cos(azimuth), radius * np.sin(azimuth), 0.0])
    rows = []
    for satellite in milky_way_satellites(names, potential, masses, times):
        for index in satellite.crossings():
            t, place, velocity = satellite.crossing(index)
            speed = float(np.linalg.norm(velocity))
            fly = StraightFlyby(satellite.mass, speed, tuple(place), tuple(velocity), 1e-3, indirect)  # type: ignore
            size = np.abs(fly.vertical(va, s, 2, radius, azimuth)[0])
            # Two real waves exp(+-i n w): the amplitude of the modulation is twice one coefficient's.
            bending, breathing = (float(abs(n * gradient) * size[2 + n]) for n in (1, 2))
            rows.append(
                Encounter(
                    satellite.name,
                    t / GYR,
                    float(np.hypot(place[0], place[1])),
                    speed,
                    float(np.linalg.norm(place - sun)),
                    bending,
                    breathing,
                    bending * 1e9 / satellite.mass,
                    fly.penetrates(radius, azimuth),
                )
            )
    labels = (
        "linear",
        "no self-gravity of the response",
        "rigid halo",
        "tidal forces" if indirect else "direct forces",
        "straight-line passages at the crossing's velocity",
        f"one vertical action, I_z = {J:.3g} kpc km/s",
        "masses are this package's defaults unless given; the response is linear in them",
    )
    return EncounterTable(tuple(sorted(rows, key=lambda r: -r.bending)), labels)


def _typical(disk: PseudoIsothermal, R: float) -> float:
    if isinstance(disk.potential, IsothermalSlab):
        return disk.potential.h_z * disk.potential.sigma_z
    return disk.mean_action(R)


def _phase(run: Any, times: Array, units: Any) -> Array:
    at = times * units.Gyr
    x = [np.atleast_2d(getattr(run, c)(at, quantity=True).to_value(units.kpc)) for c in ("x", "y", "z")]
    v = [
        np.atleast_2d(getattr(run, c)(at, quantity=True).to_value(units.km / units.s))
        for c in ("vx", "vy", "vz")
    ]
    return np.stack([*x, *v], axis=1)


def _hermite(x: float, p0: Array, p1: Array, m0: Array, m1: Array) -> Array:
    y = x * x
    z = y * x
    return (2 * z - 3 * y + 1) * p0 + (z - 2 * y + x) * m0 + (3 * y - 2 * z) * p1 + (z - y) * m1
