"""The exact nonlinear answer: back-traced distribution functions and forward test particles."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jostle.core.errors import require
from jostle.disk.adapters import as_potential
from jostle.disk.distributions import as_disk
from jostle.disk.integrals import Integrals
from jostle.disk.integrators import cartesian, default_step, follow
from jostle.disk.orbits import OrbitResponse, Question
from jostle.disk.perturbers import Kick, Perturbation
from jostle.disk.potentials import Potential
from jostle.disk.units import Array, Numbers, number, positive


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
    ask = Question.of(disk, perturbation, z, vz, t, R, phi, vR, vphi, begin, step, finer=0.5)
    q, v, q0, v0 = ([c.copy() for c in part] for part in (ask.place, ask.vel, ask.place, ask.vel))
    if ask.t > ask.start:
        acting = None if perturbation.instant else perturbation
        follow(disk.potential, q, v, ask.t, ask.start, ask.h, ask.full, acting)
        if ask.full:
            follow(disk.potential, q0, v0, ask.t, ask.start, ask.h, ask.full)
        if perturbation.instant:
            q, v = strike(perturbation, q, v, sign=-1)
    change = _energies(disk.potential, q, v) - _energies(disk.potential, q0, v0)
    if ask.full:
        stars = Integrals.of(disk, ask.place, ask.vel)
        nudged, calm = (Integrals.of(disk, x, u, like=stars) for x, u in ((q, v), (q0, v0)))
        f1 = np.expm1(nudged.log_f0 - calm.log_f0)
        change[2] = nudged.E_z - calm.E_z
    else:
        f1 = np.expm1(-change[2] / disk.spread(np.hypot(*ask.place[:2]))[1])
    return ask.answer(change, f1, ("nonlinear", "back-traced orbits"), perturbation)


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
        potential: Any,
        R: Numbers,
        phi: Numbers,
        z: Numbers,
        vR: Numbers,
        vphi: Numbers,
        vz: Numbers,
    ) -> "TestParticles":
        """Given stars, on full three-dimensional orbits."""
        place, vel, _ = cartesian(R, phi, z, vR, vphi, vz)
        return cls(tuple(place), tuple(vel), as_potential(potential), full=True)  # type: ignore[arg-type]

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
            positive(step, "kpc s/km", "step")
            if step is not None
            else 0.5 * default_step(self.potential, perturbation, radius)
        )
        if perturbation is not None and perturbation.instant:
            if begin < 0 <= stop:
                follow(self.potential, q, v, begin, 0.0, h, self.full)
                q, v = strike(perturbation, q, v, sign=1)
                begin = 0.0
            perturbation = None
        follow(self.potential, q, v, begin, stop, h, self.full, perturbation)
        return replace(self, place=tuple(q), vel=tuple(v), t=stop)


def strike(p: Perturbation, q: list[Array], v: list[Array], sign: int) -> list[list[Array]]:
    """Positions and velocities after an instant perturbation (`sign` 1), or before it (-1)."""
    if isinstance(p, Kick):
        return [[q[0], q[1], q[2] + sign * p.dz], [v[0], v[1], v[2] + sign * p.dv]]
    push = p.gradient(q[0], q[1], q[2], 0.0)
    return [q, [c - sign * g for c, g in zip(v, push, strict=True)]]


def _energies(potential: Potential, q: list[Array], v: list[Array]) -> Array:
    R = np.hypot(q[0], q[1])
    vertical = 0.5 * v[2] ** 2 + potential.lift(R, q[2]) * q[2] ** 2
    energy = 0.5 * (v[0] ** 2 + v[1] ** 2) + vertical + potential.value(R, 0 * R)
    return np.stack([energy, q[0] * v[1] - q[1] * v[0], vertical])
