"""Vectorised symplectic orbits, and the linear answer as an integral along them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jostle.core.errors import require
from jostle.disk.distributions import PseudoIsothermal, as_disk
from jostle.disk.perturbers import Perturbation
from jostle.disk.planar import PlanarState
from jostle.disk.potentials import Potential
from jostle.disk.profiles import Impulse
from jostle.disk.units import Array, Numbers, angle, number, plain

Forces = Callable[[list[Array], float], list[Array]]
CHUNK = 2048  # stars that stay in the cache together

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
            component += (kick * h) * push
        for place, component in zip(q, v, strict=True):
            place += (drift * h) * component
        t += drift * h
    for component, push in zip(v, forces(q, t), strict=True):
        component += (_KICKS[-1] * h) * push
    return t


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


@dataclass(frozen=True)
class OrbitResponse:
    """What a perturbation did to stars to first order, along their unperturbed orbits.

    **Arguments:** `dE`, `dL`: changes of energy and of L_z. `dI_z`: change of the vertical action times
    Omega_z at the guiding radius (an energy). `f1`: f1 / f0. `labels`: what was assumed. `step`: of time.
    """

    dE: Array
    dL: Array
    dI_z: Array
    f1: Array
    labels: tuple[str, ...]
    step: float


def default_step(potential: Potential, perturbation: Perturbation | None, R: float) -> float:
    """A step that keeps the integral along an orbit below 1e-4: nu h = 0.5, and one a perturber's time."""
    omega, kappa, nu = (float(f) for f in potential.frequencies(R))
    h = 0.5 / max(omega, kappa, nu)
    return h if perturbation is None else min(h, perturbation.timescale)


def orbit_integral(
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
    r"""f1 / f0 of stars from the integral of the perturbation along their unperturbed orbits; no modes.

    f1 = \int dtau [df0/dE v . grad Phi_P + df0/dL_z dPhi_P/dphi], for a disk of actions written with the
    changes of the three actions. Without `vR` and `vphi` stars move vertically at a fixed place (exact for
    a slab); with them on full three-dimensional orbits, where I_z is taken adiabatic (E_z scaled by nu(R)).

    **Arguments:** `disk`: as for [`LinearResponse`][jostle.disk.response.LinearResponse]. `perturbation`:
    any.
    `z`, `vz`, `R`, `phi`, `vR`, `vphi`: stars at time `t` (kpc, km/s, rad). `begin`: start of the integral;
    the
    perturbation's own if `None`. `step`: of time (kpc s/km).
    **Returns:** the changes and f1 / f0.

    >>> from jostle.disk import IsothermalSlab, Kick
    >>> answer = orbit_integral(IsothermalSlab(), Kick(dv=0.01), 0.0, 1.0, 1e-6)
    >>> round(float(answer.f1), 6)
    0.01
    """
    disk = as_disk(disk)
    t = number(t, "kpc s/km", "t")
    full = vR is not None and vphi is not None
    require((vR is None) == (vphi is None), "vR and vphi must be given together")
    require(not (full and disk.slab), "a slab has no planar orbits; leave vR and vphi out")
    place, vel, shape = cartesian(R, phi, z, vR if full else 0.0, vphi if full else 0.0, vz)
    instant = isinstance(perturbation.profile, Impulse) and not hasattr(perturbation, "body")
    start = (
        number(begin, "kpc s/km", "begin")
        if begin is not None
        else (0.0 if instant else perturbation.begin(t))
    )
    radius = float(np.median(np.hypot(place[0], place[1])))
    h = (
        number(step, "kpc s/km", "step")
        if step is not None
        else default_step(disk.potential, perturbation, radius)
    )
    count = max(int(np.ceil(abs(t - start) / h)), 1)
    h = (start - t) / count  # backwards
    weights = quadrature(count) * -h
    works = np.zeros((3, place[0].size))
    if t > start:
        for low in range(0, place[0].size, CHUNK):
            part = slice(low, low + CHUNK)
            q, v = [c[part].copy() for c in place], [c[part].copy() for c in vel]
            forces = galaxy_forces(disk.potential) if full else column_forces(disk.potential, q)
            scale = _adiabatic(disk.potential, q, v) if full else None
            moving = (q, v) if full else (q[2:], v[2:])
            now = t
            for k in range(count + 1):
                if not instant:
                    _add_work(works[:, part], weights[k], perturbation, q, v, now, scale)
                if k < count:
                    now = step_orbits(*moving, forces, now, h)
            if instant:
                _add_work(works[:, part], 1.0, perturbation, q, v, 0.0, scale)
    f1 = _contract(disk, works, place, vel, full)
    labels = (
        "linear",
        "no self-gravity of the response",
        "rigid halo",
        "tidal forces" if getattr(perturbation, "indirect", False) else "direct forces",
        "orbit integral, three-dimensional" if full else "orbit integral, vertical motion",
        "collisionless",
    )
    return OrbitResponse(*(w.reshape(shape) for w in works), f1.reshape(shape), labels, abs(h))  # type: ignore


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


def galaxy_forces(potential: Potential) -> Forces:
    """Accelerations of stars at q = [x, y, z]."""

    def forces(q: list[Array], t: float) -> list[Array]:
        x, y, z = q
        radial, vertical = potential.pull(x * x + y * y, z)
        np.negative(radial, out=radial)
        if vertical is radial or np.shares_memory(vertical, radial):
            return [radial * x, radial * y, radial * z]
        return [radial * x, radial * y, -vertical * z]

    return forces


def column_forces(potential: Potential, q: list[Array]) -> Forces:
    """Vertical accelerations of stars that stay at their place in the plane, at q = [z]."""
    R2 = q[0] ** 2 + q[1] ** 2

    def forces(moving: list[Array], t: float) -> list[Array]:
        return [-potential.pull(R2, moving[0])[1] * moving[0]]

    return forces


def _add_work(
    works: Array,
    weight: float,
    perturbation: Perturbation,
    q: list[Array],
    v: list[Array],
    t: float,
    scale: Any,
) -> None:
    gx, gy, gz = perturbation.gradient(q[0], q[1], q[2], t)
    vertical = v[2] * gz
    works[0] += weight * (v[0] * gx + v[1] * gy + vertical)
    works[1] += weight * (q[0] * gy - q[1] * gx)
    works[2] += weight * (vertical if scale is None else vertical * scale(q))


def _adiabatic(potential: Potential, q: list[Array], v: list[Array]) -> Callable[[list[Array]], Array]:
    """nu(R_c) / nu(R): it turns a change of vertical energy at R into one at the guiding radius."""
    R = np.hypot(q[0], q[1])
    grid = np.linspace(0.5 * R.min(), 2.0 * R.max(), 256)
    omega, _, nu = potential.frequencies(grid)
    guide = np.interp(np.abs(q[0] * v[1] - q[1] * v[0]), omega * grid**2, nu)

    def scale(now: list[Array]) -> Array:
        return guide / np.interp(np.sqrt(now[0] ** 2 + now[1] ** 2), grid, nu)

    return scale


def _contract(
    disk: PseudoIsothermal, works: Array, place: list[Array], vel: list[Array], full: bool
) -> Array:
    """f1 / f0 from the changes of energy, L_z and vertical energy."""
    R = np.hypot(place[0], place[1])
    if not full:
        return -works[2] / disk.spread(R)[1]
    stars = PlanarState.of(disk, place, vel)
    radial = works[0] - stars.omega * works[1] - works[2]
    slope = stars.slope * 2 * stars.omega / (stars.kappa**2 * stars.guide)
    return -works[2] / stars.sz2 - radial / stars.sR2 + slope * works[1]
