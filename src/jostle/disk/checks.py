"""The mode sum beside the orbit integral and the exact back-trace, on stars drawn from f0."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jostle.core.errors import require
from jostle.disk.orbits import orbit_integral
from jostle.disk.particles import TestParticles, liouville
from jostle.disk.units import Array

if TYPE_CHECKING:
    from jostle.disk.response import LinearResponse


@dataclass(frozen=True)
class Check:
    """How well three answers agree.

    **Arguments:** `modes`: largest |mode sum - orbit integral| over the largest |orbit integral|.
    `linearity`: rms of (back-trace - orbit integral) over the rms of the orbit integral. `strength`: that rms.
    `points`: stars. `compared`: on which orbits.
    """

    modes: float
    linearity: float
    strength: float
    points: int
    compared: str

    def numbers(self) -> dict[str, object]:
        """What the terminal shows."""
        return {
            "mode sum against orbit integral (of the maximum)": self.modes,
            "nonlinear against linear (rms)": self.linearity,
            "rms f1/f0": self.strength,
            "stars": self.points,
            "compared on": self.compared,
        }


def compare(
    response: "LinearResponse", t: float, R: float, phi: float, points: int, generator: np.random.Generator
) -> Check:
    """The work of [`LinearResponse.check`][jostle.disk.response.LinearResponse.check]."""
    require(points >= 10, f"n_points must be at least 10, but {points} came")
    answer = _in_the_plane if response.perturbation.planar else _at_a_place
    modes, orbits, exact, compared = answer(response, t, R, phi, points, generator)
    strength = float(np.sqrt((orbits**2).mean()))
    require(strength > 0, "nothing answers: the perturbation leaves f as it is at this time")
    return Check(
        float(np.abs(modes - orbits).max() / np.abs(orbits).max()),
        float(np.sqrt(((exact - orbits) ** 2).mean()) / strength),
        strength,
        orbits.size,
        compared,
    )


def _at_a_place(
    response: "LinearResponse", t: float, R: float, phi: float, points: int, generator: np.random.Generator
) -> tuple[Array, Array, Array, str]:
    stars = TestParticles.sample(response.disk, points, generator, R, phi)
    star = (response.disk, response.perturbation, stars.z, stars.vz, t)
    orbits, exact = (f(*star, R=R, phi=phi).f1 for f in (orbit_integral, liouville))
    return response(stars.z, stars.vz, t, R, phi), orbits, exact, "vertical orbits at a fixed place"


def _in_the_plane(
    response: "LinearResponse", t: float, R: float, phi: float, points: int, generator: np.random.Generator
) -> tuple[Array, Array, Array, str]:
    """Ten tori with stars all around them, all followed on their three-dimensional orbits."""
    disk = response.disk
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(R))
    each = -(-points // 10)
    found, stars = [], []
    actions = TestParticles.sample(disk, 10, generator, R, phi)
    for J in disk.vertical(R)(actions.z, actions.vz)[0]:
        I_R = generator.exponential(disk.sigma_R_at(R) ** 2 / kappa)
        w = generator.uniform(0, 2 * np.pi, (3, each))
        X = np.sqrt(2 * I_R / kappa)
        z, vz = disk.vertical(R).inverse(np.full(each, J), w[0])
        radius = R + X * np.sin(w[1])
        azimuth = w[2] + 2 * omega * X / (kappa * R) * np.cos(w[1])
        azimuth = (azimuth + np.pi) % (2 * np.pi) - np.pi
        stars.append((z, vz, radius, azimuth, kappa * X * np.cos(w[1]), omega * R * R / radius))
        found.append(response.torus(float(J), float(I_R), (w[0], w[1], w[2]), t, R))
    z, vz, *rest = (np.concatenate(part) for part in zip(*stars, strict=True))
    orbit = dict(zip(("R", "phi", "vR", "vphi"), rest, strict=True))
    orbits, exact = (
        f(disk, response.perturbation, z, vz, t, **orbit).f1 for f in (orbit_integral, liouville)
    )
    compared = "three-dimensional orbits, so that the epicyclic approximation shows"
    return np.concatenate(found), orbits, exact, compared
