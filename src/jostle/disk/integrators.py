"""Vectorised symplectic orbits: one piece that every answer with orbits uses."""

from collections.abc import Callable

import numpy as np

from jostle.core.errors import require
from jostle.disk.perturbers import Perturbation
from jostle.disk.potentials import Potential
from jostle.disk.units import Array, Numbers, angle, plain

Forces = Callable[[list[Array], float], list[Array]]
#: (slice of the stars, number of the step, positions, velocities, time)
Visitor = Callable[[slice, int, list[Array], list[Array], float], None]
CHUNK = 8192  # stars that stay in the cache together

# Blanes & Moan (2002), SRKN_6^b: fourth order, six forces a step, for separable second-order systems.
_B = (0.0829844064174052, 0.396309801498368, -0.0390563049223486)
_A = (0.245298957184271, 0.604872665711080)
_B = (*_B, 1 - 2 * sum(_B))
_A = (*_A, 0.5 - sum(_A))
_KICKS = (_B[0], _B[1], _B[2], _B[3], _B[2], _B[1], _B[0])
_DRIFTS = (_A[0], _A[1], _A[2], _A[2], _A[1], _A[0])
# Gregory's end corrections make the trapezoid on full steps sixth order.
_GREGORY = np.array([95 / 288, 317 / 240, 23 / 30, 793 / 720, 157 / 160])


def step_orbits(q: list[Array], v: list[Array], forces: Forces, t: float, h: float) -> float:
    """Advance positions `q` and velocities `v` in place by one step `h`; give the new time."""
    for kick, drift in zip(_KICKS, _DRIFTS, strict=False):
        for component, push in zip(v, forces(q, t), strict=True):
            push *= kick * h
            component += push
        for place, component in zip(q, v, strict=True):
            place += (drift * h) * component
        t += drift * h
    for component, push in zip(v, forces(q, t), strict=True):
        push *= _KICKS[-1] * h
        component += push
    return t


def steps_between(t: float, end: float, h: float) -> int:
    """How many equal steps, at most `h` long, lead from `t` to `end`."""
    require(h > 0, f"step must be positive, but {h} came")
    return int(np.ceil(abs(end - t) / h * (1 - 1e-12)))


def follow(
    potential: Potential,
    place: list[Array],
    vel: list[Array],
    t: float,
    end: float,
    h: float,
    full: bool,
    perturbation: Perturbation | None = None,
    visit: Visitor | None = None,
) -> None:
    """Carry stars from `t` to `end` in place, forwards or backwards, a cache-sized share at a time.

    **Arguments:** `place`, `vel`: three flat arrays each, owned by the caller. `h`: the longest step. `full`:
    three-dimensional orbits, or vertical motion at a fixed place in the plane. `perturbation`: acts on the
    stars beside the galaxy. `visit`: sees every share at the start and after every step.
    """
    count = steps_between(t, end, h)
    step = (end - t) / max(count, 1)
    for low in range(0, place[0].size, CHUNK):
        part = slice(low, low + CHUNK)
        q, v = [c[part] for c in place], [c[part] for c in vel]
        forces = _forces(potential, perturbation, q, full)
        moving = (q, v) if full else (q[2:], v[2:])
        now = t
        if visit is not None:
            visit(part, 0, q, v, now)
        for k in range(count):
            now = step_orbits(*moving, forces, now, step)
            if visit is not None:
                visit(part, k + 1, q, v, now)


def quadrature(count: int) -> Array:
    """Weights of `count` + 1 equidistant points, in steps: Gregory's rule from 10 points on.

    >>> float(quadrature(12).sum())
    12.0
    """
    weights = np.ones(count + 1)
    if count >= 10:
        weights[:5] = _GREGORY
        weights[-5:] = _GREGORY[::-1]
    elif count % 2 == 0 and count:
        weights[1::2], weights[2:-1:2] = 4 / 3, 2 / 3
        weights[[0, -1]] = 1 / 3
    else:
        weights[[0, -1]] = 0.5
    return weights


def default_step(potential: Potential, perturbation: Perturbation | None, R: float) -> float:
    """A step that keeps the error of the integrals along an orbit below 1e-4 (measured: benchmarks/disk.py)."""
    omega, kappa, nu = (float(f) for f in potential.frequencies(R))
    h = 0.36 / max(omega, kappa, nu)
    return h if perturbation is None else min(h, 0.9 * perturbation.timescale)


def cartesian(
    R: Numbers, phi: Numbers, z: Numbers, vR: Numbers, vphi: Numbers, vz: Numbers
) -> tuple[list[Array], list[Array], tuple[int, ...]]:
    """Flat Cartesian positions and velocities of stars, and the shape they came in."""
    arrays = np.broadcast_arrays(
        plain(R, "kpc", "R"),
        angle(phi, "phi"),
        plain(z, "kpc", "z"),
        plain(vR, "km/s", "vR"),
        plain(vphi, "km/s", "vphi"),
        plain(vz, "km/s", "vz"),
    )
    require(
        all(bool(np.isfinite(a).all()) for a in arrays), "stars must be finite; drop the rows with NaN first"
    )
    r, p, zz, a, b, c = (np.ravel(x) for x in arrays)
    require(bool(np.all(r > 0)), "R must be positive (kpc)")
    cos, sin = np.cos(p), np.sin(p)
    return [r * cos, r * sin, zz.copy()], [a * cos - b * sin, a * sin + b * cos, c.copy()], arrays[0].shape


def _forces(potential: Potential, perturbation: Perturbation | None, q: list[Array], full: bool) -> Forces:
    free = _galaxy(potential) if full else _column(potential, q)
    if perturbation is None:
        return free

    def forces(moving: list[Array], t: float) -> list[Array]:
        where = moving if full else [q[0], q[1], moving[0]]
        push = perturbation.gradient(where[0], where[1], where[2], t)
        return [a - g for a, g in zip(free(moving, t), push if full else push[2:], strict=True)]

    return forces


def _galaxy(potential: Potential) -> Forces:
    """Accelerations of stars at q = [x, y, z]."""

    def forces(q: list[Array], t: float) -> list[Array]:
        x, y, z = q
        radial, vertical = potential.pull(x * x + y * y, z)
        radial = -radial
        return [radial * x, radial * y, vertical * -z]

    return forces


def _column(potential: Potential, q: list[Array]) -> Forces:
    """Vertical accelerations of stars that stay at their place in the plane, at q = [z]."""
    R2 = q[0] ** 2 + q[1] ** 2

    def forces(moving: list[Array], t: float) -> list[Array]:
        return [potential.pull(R2, moving[0])[1] * -moving[0]]

    return forces
