"""The exact nonlinear answer: back-traced distribution functions and forward test particles."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jostle.core.errors import require
from jostle.disk.distributions import as_disk
from jostle.disk.orbits import (
    CHUNK,
    Forces,
    OrbitResponse,
    cartesian,
    column_forces,
    default_step,
    galaxy_forces,
    step_orbits,
)
from jostle.disk.passages import Passage
from jostle.disk.perturbers import Kick, Perturbation
from jostle.disk.planar import PlanarState
from jostle.disk.potentials import Potential
from jostle.disk.profiles import Impulse
from jostle.disk.units import Array, Numbers, number


def liouville(
    disk: Any,
    perturbation: Perturbation,
    z: Numbers,
    vz: Numbers,
    t: Numbers,
    *,
    R: Numbers = 8.0,
    phi: Numbers = 0.0,
    vR: Numbers | None = None,
    vphi: Numbers | None = None,
    begin: Numbers | None = None,
    step: Numbers | None = None,
) -> OrbitResponse:
    """f / f0 - 1 of stars, exactly: f is f0 at the point reached by following the PERTURBED orbit back.

    No order in the perturbation is dropped, and no particle noise enters. Arguments as for
    [`orbit_integral`][jostle.disk.orbits.orbit_integral]; with `vR` and `vphi` f0 is compared with its value
    at the end of the unperturbed orbit.

    **Returns:** f1 = f / f0 - 1 and the changes of the integrals in the argument of f0.

    >>> from jostle.disk.potentials import IsothermalSlab
    >>> f = liouville(IsothermalSlab(), Kick(dv=0.01), 0.0, 1.0, 1e-6).f1
    >>> round(float(f), 6)  # exp(-(0.99^2 - 1) / 2) - 1
    0.01
    """
    disk = as_disk(disk)
    t = number(t, "kpc s/km", "t")
    full = vR is not None and vphi is not None
    require((vR is None) == (vphi is None), "vR and vphi must be given together")
    require(not (full and disk.slab), "a slab has no planar orbits; leave vR and vphi out")
    place, vel, shape = cartesian(R, phi, z, vR if full else 0.0, vphi if full else 0.0, vz)
    instant = _instant(perturbation)
    start = (
        number(begin, "kpc s/km", "begin")
        if begin is not None
        else (0.0 if instant else perturbation.begin(t))
    )
    radius = float(np.median(np.hypot(place[0], place[1])))
    h = (
        number(step, "kpc s/km", "step")
        if step is not None
        else 0.5 * default_step(disk.potential, perturbation, radius)
    )
    then = [c.copy() for c in place], [c.copy() for c in vel]
    plain_end = [c.copy() for c in place], [c.copy() for c in vel]
    if t > start:
        _trace(disk.potential, perturbation, *then, t, start, h, full)
        if full:
            _trace(disk.potential, None, *plain_end, t, start, h, full)
    if instant and t > 0:
        kicked = _instant_kick(perturbation, *then, sign=-1)
        then = kicked
    energy = _energies(disk.potential, *then) - _energies(disk.potential, place, vel)
    if full:
        nudged, free = PlanarState.of(disk, *then), PlanarState.of(disk, *plain_end)
        f1 = np.expm1(nudged.log_f0 - free.log_f0)
        energy[2] = nudged.E_z - free.E_z
    else:
        f1 = np.expm1(-energy[2] / disk.spread(np.hypot(place[0], place[1]))[1])
    labels = (
        "nonlinear",
        "no self-gravity of the response",
        "rigid halo",
        "tidal forces" if getattr(perturbation, "indirect", False) else "direct forces",
        "back-traced orbits, three-dimensional" if full else "back-traced orbits, vertical motion",
        "collisionless",
    )
    return OrbitResponse(*(e.reshape(shape) for e in energy), f1.reshape(shape), labels, abs(h))  # type: ignore


@dataclass(frozen=True)
class TestParticles:
    """Stars that are carried forward through a perturbation.

    **Arguments:** `place` and `vel`: three Cartesian arrays each (kpc, km/s). `potential`: of the galaxy.
    `t`: their time (kpc s/km). `full`: three-dimensional orbits, or vertical motion at a fixed place.

    >>> from jostle.disk.potentials import IsothermalSlab
    >>> stars = TestParticles.sample(IsothermalSlab(), 2000, np.random.default_rng(0))
    >>> after = stars.run(Kick(dv=0.1), -0.1, 0.1)
    >>> round(float(after.vz.mean() - stars.vz.mean()), 1)
    0.1
    """

    __test__ = False  # not a test, whatever its name makes pytest believe

    place: tuple[Array, Array, Array]
    vel: tuple[Array, Array, Array]
    potential: Potential
    t: float = 0.0
    full: bool = False

    @classmethod
    def sample(
        cls, disk: Any, count: int, generator: np.random.Generator, R: Numbers = 8.0, phi: Numbers = 0.0
    ) -> "TestParticles":
        """Stars in equilibrium at one place: actions from f0, angles uniform (vertical motion only)."""
        disk = as_disk(disk)
        radius, azimuth = number(R, "kpc", "R"), number(phi, "rad", "phi")
        require(count >= 1, f"count must be at least 1, but {count} came")
        J, weights = disk.vertical_weights(radius)
        drawn = np.interp(generator.random(count), np.cumsum(weights), J)
        z, v = disk.vertical(radius).inverse(drawn, 2 * np.pi * generator.random(count))
        x, y = np.full(count, radius * np.cos(azimuth)), np.full(count, radius * np.sin(azimuth))
        return cls((x, y, z), (np.zeros(count), np.zeros(count), v), disk.potential)

    @classmethod
    def of_stars(
        cls,
        potential: Potential,
        R: Numbers,
        phi: Numbers,
        z: Numbers,
        vR: Numbers,
        vphi: Numbers,
        vz: Numbers,
    ) -> "TestParticles":
        """Given stars, on full three-dimensional orbits."""
        place, vel, _ = cartesian(R, phi, z, vR, vphi, vz)
        return cls(tuple(place), tuple(vel), potential, full=True)  # type: ignore[arg-type]

    @property
    def z(self) -> Array:
        """Heights (kpc)."""
        return self.place[2]

    @property
    def vz(self) -> Array:
        """Vertical velocities (km/s)."""
        return self.vel[2]

    def run(
        self, perturbation: Perturbation | None, start: Numbers, end: Numbers, step: Numbers | None = None
    ) -> "TestParticles":
        """Follow the stars from `start` to `end` (kpc s/km); an impulse strikes at t = 0 on the way."""
        begin, stop = number(start, "kpc s/km", "start"), number(end, "kpc s/km", "end")
        q, v = [c.copy() for c in self.place], [c.copy() for c in self.vel]
        radius = float(np.median(np.hypot(q[0], q[1])))
        h = (
            number(step, "kpc s/km", "step")
            if step is not None
            else 0.5 * default_step(self.potential, perturbation, radius)
        )
        if perturbation is not None and _instant(perturbation) and begin < 0 <= stop:
            _trace(self.potential, None, q, v, begin, 0.0, h, self.full)
            q, v = _instant_kick(perturbation, q, v, sign=1)
            begin, perturbation = 0.0, None
        _trace(self.potential, perturbation, q, v, begin, stop, h, self.full)
        return replace(self, place=tuple(q), vel=tuple(v), t=stop)


def _instant(perturbation: Perturbation) -> bool:
    return isinstance(perturbation.profile, Impulse) and not isinstance(perturbation, Passage)


def _instant_kick(
    p: Perturbation, q: list[Array], v: list[Array], sign: int
) -> tuple[list[Array], list[Array]]:
    if isinstance(p, Kick):
        return [q[0], q[1], q[2] + sign * p.dz], [v[0], v[1], v[2] + sign * p.dv]
    push = p.gradient(*q, 0.0)  # type: ignore
    return q, [c - sign * g for c, g in zip(v, push, strict=True)]


def _trace(
    potential: Potential,
    perturbation: Perturbation | None,
    place: list[Array],
    vel: list[Array],
    t: float,
    end: float,
    h: float,
    full: bool,
) -> None:
    """Carry the stars from `t` to `end` in place."""
    if perturbation is not None and _instant(perturbation):
        perturbation = None
    count = int(np.ceil(abs(end - t) / abs(h)))
    if count == 0:
        return
    step = (end - t) / count
    for low in range(0, place[0].size, CHUNK):
        part = slice(low, low + CHUNK)
        q, v = [c[part] for c in place], [c[part] for c in vel]
        forces = _perturbed(potential, perturbation, q, full)
        moving = (q, v) if full else (q[2:], v[2:])
        now = t
        for _ in range(count):
            now = step_orbits(*moving, forces, now, step)


def _perturbed(potential: Potential, perturbation: Perturbation | None, q: list[Array], full: bool) -> Forces:
    free = galaxy_forces(potential) if full else column_forces(potential, q)
    if perturbation is None:
        return free

    def forces(moving: list[Array], t: float) -> list[Array]:
        where = moving if full else [q[0], q[1], moving[0]]
        push = perturbation.gradient(where[0], where[1], where[2], t)
        return [a - g for a, g in zip(free(moving, t), push if full else push[2:], strict=True)]

    return forces


def _energies(potential: Potential, q: list[Array], v: list[Array]) -> Array:
    R = np.hypot(q[0], q[1])
    vertical = 0.5 * v[2] ** 2 + potential.lift(R, q[2]) * q[2] ** 2
    energy = 0.5 * (v[0] ** 2 + v[1] ** 2) + vertical + potential.value(R, 0 * R)
    return np.stack([energy, q[0] * v[1] - q[1] * v[0], vertical])
