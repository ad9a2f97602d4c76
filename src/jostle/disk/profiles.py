"""Time profiles T(t) of a perturbation and their memory kernels in closed form."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.special import wofz

from jostle.disk.units import Array, Numbers, positive

# The nodes cost an eigenvalue problem, and every mode asks for them.
_legendre = lru_cache(np.polynomial.legendre.leggauss)


class Profile(ABC):
    """T(t) and K(omega, t) = int_{-inf}^{t} T(tau) exp[-i omega (t - tau)] dtau."""

    #: Times where T is not smooth; a quadrature must not step over them.
    breaks: ClassVar[tuple[float, ...]] = ()

    @abstractmethod
    def value(self, t: float) -> float:
        """T(t)."""

    @abstractmethod
    def kernel(self, omega: Array, t: float) -> Array:
        """K(omega, t), finite for any frequency and time."""

    @abstractmethod
    def window(self, t: float) -> tuple[float, float]:
        """The span of tau up to `t` outside of which T is below 1e-16 of its size."""

    def damped_kernel(self, omega: Array, t: float, survival, nodes: int = 400) -> Array:
        """K with the collisional factor S(t - tau) under the integral, by Gauss-Legendre quadrature.

        **Arguments:** `omega`: frequencies (km/s/kpc). `t`: time. `survival`: function of the elapsed time,
        returns an array of the shape of `omega`. `nodes`: of the quadrature.
        """
        low, high = self.window(t)
        if high <= low:
            return np.zeros(np.shape(omega), complex)
        x, weights = _legendre(nodes)
        result = np.zeros(np.shape(omega), complex)
        edges = [low, *(b for b in self.breaks if low < b < high), high]
        for start, end in itertools.pairwise(edges):
            half = (end - start) / 2
            for node, weight in zip((end + start) / 2 + half * x, half * weights, strict=True):
                amplitude = weight * self.value(float(node))
                result += amplitude * survival(t - node) * np.exp(-1j * omega * (t - node))
        return result


@dataclass(frozen=True)
class Impulse(Profile):
    """T = delta(t), K = exp(-i omega t) for t > 0.

    >>> complex(Impulse().kernel(np.array(0.0), 1.0))
    (1+0j)
    """

    def value(self, t: float) -> float:
        return np.inf if t == 0 else 0.0

    def kernel(self, omega: Array, t: float) -> Array:
        return np.exp(-1j * omega * t) if t > 0 else np.zeros(np.shape(omega), complex)

    def window(self, t: float) -> tuple[float, float]:
        return 0.0, 0.0

    def damped_kernel(self, omega: Array, t: float, survival, nodes: int = 0) -> Array:
        return self.kernel(omega, t) * survival(t) if t > 0 else self.kernel(omega, t)


@dataclass(frozen=True)
class Gaussian(Profile):
    """T = (omega0 / sqrt(pi)) exp(-omega0^2 t^2), a pulse of unit area (or of height 1/sqrt(pi)).

    K = exp(-i omega t) exp(-x^2) (1/2) [1 + erf(u - i x)] with u = omega0 t, x = omega / 2 omega0, written with
    the Faddeeva function so that neither slow pulses nor high modes overflow.

    **Arguments:** `omega0`: inverse duration (km/s/kpc); the pulse time is tau_P = sqrt(2) / omega0.
    `unit_area`: whether T integrates to 1 (else it peaks at 1 / sqrt(pi) whatever its duration).

    >>> bool(np.isfinite(Gaussian(0.3).kernel(np.array(20.0), -3.0)))
    True
    """

    omega0: Numbers
    unit_area: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "omega0", positive(self.omega0, "km/(s kpc)", "omega0"))

    @property
    def _scale(self) -> float:
        return 1.0 if self.unit_area else 1.0 / self.omega0

    def value(self, t: float) -> float:
        return float(self._scale * self.omega0 / np.sqrt(np.pi) * np.exp(-((self.omega0 * t) ** 2)))

    def kernel(self, omega: Array, t: float) -> Array:
        u, x = self.omega0 * t, np.asarray(omega) / (2 * self.omega0)
        if u > 6.5:  # the rest is below 1e-18 of the pulse
            return self._scale * np.exp(-1j * omega * t) * np.exp(-x * x)
        if u >= 0:
            after = np.exp(-1j * omega * t - x * x)
            return self._scale * (after - 0.5 * np.exp(-u * u) * wofz(x + 1j * u))
        return self._scale * 0.5 * np.exp(-u * u) * wofz(-x - 1j * u)

    def window(self, t: float) -> tuple[float, float]:
        edge = 6.2 / self.omega0
        return -edge, min(t, edge)


@dataclass(frozen=True)
class Growing(Profile):
    """T = exp(gamma t), K = exp(gamma t) / (gamma + i omega).

    **Arguments:** `gamma`: growth rate (km/s/kpc).
    """

    gamma: Numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", positive(self.gamma, "km/(s kpc)", "gamma"))

    def value(self, t: float) -> float:
        return float(np.exp(self.gamma * t))

    def kernel(self, omega: Array, t: float) -> Array:
        return np.exp(self.gamma * t) / (self.gamma + 1j * np.asarray(omega))

    def window(self, t: float) -> tuple[float, float]:
        return t - 37.0 / self.gamma, t


@dataclass(frozen=True)
class Saturating(Growing):
    """T = exp(gamma t) until t = 0 and 1 from then on; on resonance the response then grows linearly in t.

    >>> complex(Saturating(2.0).kernel(np.array(0.0), 3.0))
    (3.5+0j)
    """

    breaks: ClassVar[tuple[float, ...]] = (0.0,)

    def value(self, t: float) -> float:
        return float(np.exp(self.gamma * min(t, 0.0)))

    def kernel(self, omega: Array, t: float) -> Array:
        if t <= 0:
            return super().kernel(omega, t)
        omega = np.asarray(omega)
        half = 0.5 * omega * t
        since = t * np.exp(-1j * half) * np.sinc(half / np.pi)  # (1 - exp(-i omega t)) / (i omega)
        return np.exp(-1j * omega * t) / (self.gamma + 1j * omega) + since

    def window(self, t: float) -> tuple[float, float]:
        return min(t, 0.0) - 37.0 / self.gamma, t
