"""The linear answer as an integral of the perturbation along unperturbed orbits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jostle.core.errors import require
from jostle.disk.distributions import as_disk
from jostle.disk.integrals import Integrals, VerticalEnergy
from jostle.disk.integrators import cartesian, default_step, follow, quadrature, steps_between
from jostle.disk.perturbers import Perturbation
from jostle.disk.units import Array, Numbers, number, positive


@dataclass(frozen=True)
class OrbitResponse:
    """What a perturbation did to stars, along their orbits.

    Changes are counted backwards: the value before the perturbation minus the value now, which is what f0 is
    asked at.

    **Arguments:** `dE`, `dL`: changes of energy ((km/s)^2) and of L_z (kpc km/s). `dE_z`: change of the
    vertical energy, on three-dimensional orbits carried to the guiding radius (Omega_z dI_z for cool
    stars). `f1`: f1 / f0. `labels`: what was assumed. `step`: of time (kpc s/km).
    """

    dE: Array
    dL: Array
    dE_z: Array
    f1: Array
    labels: tuple[str, ...]
    step: float


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

    f1 = \int dtau [df0/dE v . grad Phi_P + df0/dL_z dPhi_P/dphi + df0/dE_z' dE_z'/dv . grad Phi_P] with the
    integrals of motion of [`Integrals`][jostle.disk.integrals.Integrals]. Without `vR` and `vphi` stars move
    vertically at a fixed place (exact for a slab); with them on full three-dimensional orbits.

    **Arguments:** `disk`: as for [`LinearResponse`][jostle.disk.response.LinearResponse]. `perturbation`:
    any. `z`, `vz`, `R`, `phi`, `vR`, `vphi`: stars at time `t` (kpc, km/s, rad). `begin`: start of the
    integral; the perturbation's own if `None`. `step`: of time (kpc s/km).
    **Returns:** the changes and f1 / f0.

    >>> from jostle.disk import IsothermalSlab, Kick
    >>> answer = orbit_integral(IsothermalSlab(), Kick(dv=0.01), 0.0, 1.0, 1e-6)
    >>> round(float(answer.f1), 6)
    0.01
    """
    disk = as_disk(disk)
    ask = Question.of(disk, perturbation, z, vz, t, R, phi, vR, vphi, begin, step)
    count = max(steps_between(ask.t, ask.start, ask.h), 1)
    weights = quadrature(count) * (ask.t - ask.start) / count
    works = np.zeros((3, ask.place[0].size))
    stars = Integrals.of(disk, ask.place, ask.vel) if ask.full else None

    def visit(part: slice, k: int, q: list[Array], v: list[Array], now: float) -> None:
        mine = stars.of_share(disk.potential, part) if stars is not None else None
        if perturbation.instant:
            if k == count:
                _add_work(works[:, part], 1.0, perturbation, q, v, 0.0, mine)
        else:
            _add_work(works[:, part], weights[k], perturbation, q, v, now, mine)

    if ask.t > ask.start:
        q, v = [c.copy() for c in ask.place], [c.copy() for c in ask.vel]
        h = (ask.t - ask.start) / count
        follow(disk.potential, q, v, ask.t, ask.start, h, ask.full, visit=visit)
    if stars is not None:
        works[2] += stars.bend * stars.guide_change(works[1])
        f1 = stars.change(*works)
    else:
        f1 = -works[2] / disk.spread(np.hypot(*ask.place[:2]))[1]
    return ask.answer(works, f1, ("linear", "orbit integral"), perturbation)


@dataclass(frozen=True)
class Question:
    """Stars and times of a question about orbits, checked; shared with the back-trace."""

    place: list[Array]
    vel: list[Array]
    shape: tuple[int, ...]
    full: bool
    t: float
    start: float
    h: float

    @classmethod
    def of(
        cls,
        disk: Any,
        perturbation: Perturbation,
        z: Numbers,
        vz: Numbers,
        t: Numbers,
        R: Numbers,
        phi: Numbers,
        vR: Numbers | None,
        vphi: Numbers | None,
        begin: Numbers | None,
        step: Numbers | None,
        finer: float = 1.0,
    ) -> "Question":
        """Read the arguments of `orbit_integral` and `liouville`; `finer` multiplies the default step."""
        require(
            isinstance(perturbation, Perturbation), f"perturbation must be one, but {perturbation!r} came"
        )
        time = number(t, "kpc s/km", "t")
        full = vR is not None and vphi is not None
        require((vR is None) == (vphi is None), "vR and vphi must be given together")
        require(not (full and disk.slab), "a slab has no planar orbits; leave vR and vphi out")
        place, vel, shape = cartesian(R, phi, z, vR if full else 0.0, vphi if full else 0.0, vz)
        require(place[0].size > 0, "there must be at least one star")
        if perturbation.instant:
            start = 0.0
        else:
            start = perturbation.begin(time) if begin is None else number(begin, "kpc s/km", "begin")
        if step is not None:
            h = positive(step, "kpc s/km", "step")
        else:
            radius = float(np.median(np.hypot(place[0], place[1])))
            h = finer * default_step(disk.potential, perturbation, radius)
        return cls(place, vel, shape, full, time, start, h)

    def answer(
        self, works: Array, f1: Array, kind: tuple[str, str], perturbation: Perturbation
    ) -> OrbitResponse:
        """The changes in the stars' own shape, with their labels."""
        labels = (
            kind[0],
            "no self-gravity of the response",
            "rigid halo",
            "tidal forces" if getattr(perturbation, "indirect", False) else "direct forces",
            f"{kind[1]}, {'three-dimensional' if self.full else 'vertical motion'}",
            "collisionless",
        )
        dE, dL, dE_z, f1 = (np.reshape(a, self.shape) for a in (*works, f1))
        return OrbitResponse(dE, dL, dE_z, f1, labels, self.h)


def _add_work(
    works: Array,
    weight: float,
    perturbation: Perturbation,
    q: list[Array],
    v: list[Array],
    t: float,
    invariant: VerticalEnergy | None,
) -> None:
    gx, gy, gz = perturbation.gradient(q[0], q[1], q[2], t)
    vertical = v[2] * gz
    dE, dL = v[0] * gx + v[1] * gy + vertical, q[0] * gy - q[1] * gx
    works[0] += weight * dE
    works[1] += weight * dL
    if invariant is None:
        works[2] += weight * vertical
        return
    x, y = q[0], q[1]
    R = np.sqrt(x * x + y * y)
    vR, gR, L = (x * v[0] + y * v[1]) / R, (x * gx + y * gy) / R, x * v[1] - y * v[0]
    works[2] += weight * invariant.work((R, q[2]), (vR, v[2]), (gR, gz), dE, dL, L)
