"""Satellites: bodies, straight passages with their closed form, and passages on any orbit."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.special import kve

from jostle.core.errors import JostleError, require
from jostle.disk.perturbers import Perturbation
from jostle.disk.profiles import Impulse, Profile
from jostle.disk.units import Array, G, Numbers, number, plain, positive
from jostle.disk.vertical import VerticalActions

Kind = Literal["plummer", "hernquist", "nfw"]


@dataclass(frozen=True)
class Body:
    """A spherical satellite: Plummer, Hernquist, or an NFW profile cut at ten scale radii.

    **Arguments:** `mass`: M_sun (of the NFW: within ten scale radii). `scale`: kpc; Plummer's softening.
    `kind`: the profile.

    >>> body = Body(1e9, 1.0)
    >>> round(float(body.pull(np.array(0.0))), 3)  # G M / eps^3
    4300.917
    """

    mass: Numbers
    scale: Numbers
    kind: Kind = "plummer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mass", positive(self.mass, "Msun", "mass"))
        scale = number(self.scale, "kpc", "scale")
        require(scale >= 0, f"scale must not be negative, but {scale} came")
        require(scale > 0 or self.kind == "plummer", "only a point mass (plummer) may have scale 0")
        require(
            self.kind in ("plummer", "hernquist", "nfw"),
            f"kind must be plummer, hernquist or nfw: {self.kind!r}",
        )
        object.__setattr__(self, "scale", scale)

    def pull(self, r2: Array) -> Array:
        """(dPhi/dr) / r at squared distance `r2` (kpc^2), in (km/s/kpc)^2."""
        if self.kind == "plummer":
            d2 = r2 + self.scale**2
            return G * self.mass / (d2 * np.sqrt(d2))
        r = np.sqrt(np.maximum(r2, 1e-24))
        x = r / self.scale
        if self.kind == "hernquist":
            return G * self.mass / (r * (r + self.scale) ** 2)
        y = np.minimum(x, 10.0)
        inside = np.where(y < 1e-3, y * y / 2 - 2 * y**3 / 3, np.log1p(y) - y / (1 + y))
        return G * self.mass * inside / (np.log(11) - 10 / 11) / r**3

    def value(self, r2: Array) -> Array:
        """Phi at squared distance `r2`, in (km/s)^2 (Plummer and Hernquist)."""
        require(self.kind != "nfw", "the potential of the cut NFW body is not needed; use pull")
        if self.kind == "plummer":
            return -G * self.mass / np.sqrt(r2 + self.scale**2)
        return -G * self.mass / (np.sqrt(r2) + self.scale)


class Passage(Perturbation):
    """A satellite that moves through the galaxy; stars feel its direct force, or its tide."""

    profile: Profile = Impulse()
    body: Body
    indirect: bool = False
    local: bool = True

    @property
    def instant(self) -> bool:
        """Never: its profile is that of the closed form, which sums up the whole passage."""
        return False

    @abstractmethod
    def position(self, t: float) -> Array:
        """Where it is at time t (kpc, galactocentric)."""

    def mass_factor(self, t: float) -> float:
        """Its mass at time t in units of the body's."""
        return 1.0

    def gradient(self, x: Array, y: Array, z: Array, t: float) -> tuple[Array, Array, Array]:
        px, py, pz = self.position(t)
        dx, dy, dz = x - px, y - py, z - pz
        scale = self.mass_factor(t)
        pull = scale * self.body.pull(dx * dx + dy * dy + dz * dz)
        if not self.indirect:
            return pull * dx, pull * dy, pull * dz
        # The frame follows the galaxy's centre, which falls towards the satellite as well.
        centre = scale * float(self.body.pull(np.asarray(px * px + py * py + pz * pz)))
        return pull * dx + centre * px, pull * dy + centre * py, pull * dz + centre * pz


@dataclass(frozen=True)
class StraightFlyby(Passage):
    r"""A satellite on a straight line that crosses the point `impact` at t = 0.

    For a star held at its place in the plane, with X(w) its position relative to the impact point,
    s = X . u and b^2 = X^2 - s^2 + eps^2,

        \int dt Phi_P exp(i omega t) = -(2 G M / V) exp(i omega s / V) K_0(|omega| b / V),

    so that after the passage every vertical mode is known in closed form. During the passage (t < 2 b / V) the
    mode sum refuses: use the orbit integral.

    **Arguments:** `mass` (M_sun). `speed`: V (km/s). `impact`: (x, y, z) of the crossing (kpc). `direction`:
    of the motion, normalised here. `softening`: Plummer's eps (kpc). `indirect`: subtract the acceleration
    of the galaxy's centre.

    >>> fly = StraightFlyby(1e9, 270.0, (15.0, 0.0, 0.0))
    >>> fly.position(0.01)
    array([15. ,  0. ,  2.7])
    """

    mass: Numbers
    speed: Numbers
    impact: Numbers
    direction: Numbers = (0.0, 0.0, 1.0)
    softening: Numbers = 0.0
    indirect: bool = False
    body: Body = field(init=False)
    local: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "speed", positive(self.speed, "km/s", "speed"))
        object.__setattr__(self, "body", Body(self.mass, self.softening))
        impact, direction = plain(self.impact, "kpc", "impact"), plain(self.direction, "", "direction")
        require(
            impact.shape == (3,) and direction.shape == (3,),
            "impact and direction must have three components",
        )
        length = float(np.linalg.norm(direction))
        require(length > 0, "direction must not be zero")
        object.__setattr__(self, "_impact", impact)
        object.__setattr__(self, "_u", direction / length)

    def position(self, t: float) -> Array:
        return self._impact + self.speed * t * self._u  # type: ignore[attr-defined]

    @property
    def timescale(self) -> float:
        """Softening over speed, or a hundredth of the impact's distance for a point mass."""
        return max(self.body.scale, 0.3) / self.speed

    def begin(self, t: float) -> float:
        return -200.0 / self.speed

    def vertical(self, va: VerticalActions, s: Array, n_max: int, R: float, phi: float) -> Array:
        """The time-integrated coefficients; with the kernel of an impulse they give f1 after the passage."""
        out = np.zeros((len(s), 2 * n_max + 1), complex)
        z, _, g, w = va.torus(s, 256)
        Omega = va.frequency_of(s)[:, None]
        for n in range(1, n_max + 1):
            line, _ = self.line_transform(R, phi, z, n * Omega)
            if self.indirect:
                line = line - z * self.centre_slope(n * Omega)
            out[:, n_max + n] = (line * g * np.exp(-1j * n * w)).mean(axis=1)
            # Phi_P is real, so the transforms of omega and -omega are conjugate.
            out[:, n_max - n] = out[:, n_max + n].conj()
        return out

    def line_transform(self, R: float, phi: float, z: Array, omega: Array) -> tuple[Array, Array]:
        """(int dt Phi_P exp(i omega t), b) for stars held at (R, phi, z); zero where it underflows.

        **Raises:** `JostleError` if a star lies on the track of a point mass.
        """
        x, y = R * np.cos(phi) - self._impact[0], R * np.sin(phi) - self._impact[1]  # type: ignore[attr-defined]
        height = z - self._impact[2]  # type: ignore[attr-defined]
        u = self._u  # type: ignore[attr-defined]
        along = x * u[0] + y * u[1] + height * u[2]
        b2 = x * x + y * y + height * height - along**2 + self.body.scale**2
        b = np.sqrt(np.maximum(b2, 0.0))
        if not np.all(b > 1e-9):
            raise JostleError("a star lies on the track of the satellite; give it a softening")
        q = np.abs(omega) * b / self.speed
        bessel = kve(0, np.maximum(q, 1e-300)) * np.exp(-q)  # exp underflows to 0, never NaN
        return -2 * G * self.body.mass / self.speed * np.exp(1j * omega * along / self.speed) * bessel, b

    def centre_slope(self, omega: Array) -> Array:
        """d/dz of the transform at the galaxy's centre: the part of the force that all stars share."""
        X, u, V = -self._impact, self._u, self.speed  # type: ignore[attr-defined]
        along = float(X @ u)
        b = float(np.sqrt(max(X @ X - along**2, 0.0) + self.body.scale**2))
        require(b > 1e-9, "the satellite runs through the galaxy's centre; give it a softening")
        q = np.abs(omega) * b / V
        fall = np.exp(-q)
        slope = 1j * omega * u[2] * kve(0, q) - kve(1, q) * np.abs(omega) * (X[2] - along * u[2]) / b
        return -2 * G * self.body.mass / V**2 * np.exp(1j * omega * along / V) * slope * fall

    def settled(self, R: float, phi: float) -> float:
        """After the passage: the closed form does not hold before."""
        _, b = self.line_transform(R, phi, np.asarray(0.0), np.asarray(1.0))
        return 2 * float(b) / self.speed

    def penetrates(self, R: float, phi: float, height: float = 1.0) -> bool:
        """Whether the track comes closer to the stars than their own height: the line form is delicate."""
        _, b = self.line_transform(R, phi, np.linspace(-height, height, 41), np.asarray(1.0))
        return bool(np.sqrt(np.maximum(b**2 - self.body.scale**2, 0)).min() < height)

    def log_strength(self, R: float, phi: float, omega: float) -> float:
        """ln |int dt Phi_P exp(i omega t)| at z = 0: finite also where the transform underflows."""
        _, b = self.line_transform(R, phi, np.asarray(0.0), np.asarray(omega))
        q = abs(omega) * float(b) / self.speed
        return float(np.log(2 * G * self.body.mass / self.speed) + np.log(kve(0, q)) - q)


class SatelliteOrbit(Passage):
    """A satellite on any track, with any spherical profile and mass history.

    **Arguments:** `times` (kpc s/km, increasing), `positions` (`(len(times), 3)`, kpc): the track, joined by
    a quintic spline. `body`: the satellite. `mass_history`: factor on the mass as a function of time.
    `indirect`: subtract the acceleration of the galaxy's centre.

    >>> t = np.linspace(-1, 1, 9)
    >>> track = np.stack([15 + 0 * t, 0 * t, 270 * t], axis=1)
    >>> SatelliteOrbit(t, track, Body(1e9, 1.0)).position(0.5).round(6)
    array([ 15.,   0., 135.])
    """

    def __init__(
        self,
        times: Numbers,
        positions: Numbers,
        body: Body,
        mass_history: Callable[[float], float] | None = None,
        indirect: bool = False,
    ) -> None:
        self.times = plain(times, "kpc s/km", "times")
        track = plain(positions, "kpc", "positions")
        require(self.times.ndim == 1 and len(self.times) >= 6, "times must be at least six, in one row")
        require(bool(np.all(np.diff(self.times) > 0)), "times must increase")
        require(
            track.shape == (len(self.times), 3), f"positions must be (len(times), 3), but {track.shape} came"
        )
        require(bool(np.isfinite(track).all()), "positions must be finite")
        self.body, self.indirect, self._history = body, indirect, mass_history
        self._track: Any = make_interp_spline(self.times, track, k=5)
        speed = np.linalg.norm(self._track.derivative()(self.times), axis=1)
        self._timescale = max(body.scale, 0.3) / float(speed.max())

    def position(self, t: float) -> Array:
        if not self.times[0] - 1e-9 <= t <= self.times[-1] + 1e-9:
            raise JostleError(
                f"the satellite's track covers {self.times[0]:.4g} to {self.times[-1]:.4g} kpc s/km, but {t:.4g} was asked"  # noqa: E501
            )
        return self._track(t)

    def velocity(self, t: float) -> Array:
        """Its velocity at time t (km/s)."""
        return self._track(t, 1)

    def mass_factor(self, t: float) -> float:
        return 1.0 if self._history is None else float(self._history(t))

    @property
    def timescale(self) -> float:
        """Size over the largest speed."""
        return self._timescale

    def begin(self, t: float) -> float:
        return float(self.times[0])

    def vertical(self, va: VerticalActions, s: Array, n_max: int, R: float, phi: float) -> Array:
        raise JostleError(
            "a satellite on a curved orbit has no closed mode form; use orbit_integral, "
            "or its straight line at a crossing"
        )
