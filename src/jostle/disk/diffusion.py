"""Scattering by giant molecular clouds: diffusion in action, and what it does to a winding mode."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_banded

from jostle.core.errors import require
from jostle.disk.distributions import PseudoIsothermal, as_disk
from jostle.disk.units import GYR, Array, Numbers, plain, positive
from jostle.disk.vertical import VerticalActions


@dataclass(frozen=True)
class GMCDiffusion:
    """Diffusion of vertical actions, D_zz = <dI_z^2>/dt = 2 I_z <I_z> / T_disc.

    A disk born cold and heated at a constant rate keeps f ~ exp(-I / <I>(t)) with <I> linear in t, which
    solves the Fokker-Planck equation exactly for this D. A mode with frequency n Omega_z(I) decays as
    S = exp[-(t / tau_I)^3 - t / tau_w],

        tau_I = [6 / (n^2 Omega_z'^2 D_zz)]^(1/3),   tau_w = 4 I_z T_disc / (n^2 <I_z>).

    D is the full rate of the variance: the Fokker-Planck equation carries a factor 1/2.

    **Arguments:** `T_disc`: age over which the disk was heated (kpc s/km, or a Quantity); 10 Gyr by default.

    >>> from jostle.disk.potentials import IsothermalSlab
    >>> disk = as_disk(IsothermalSlab(0.4, 23.0))
    >>> tau = GMCDiffusion().tau_I(disk, 8.0, 1, 0.4 * 23.0)
    >>> round(float(tau) / GYR, 3)
    0.709
    """

    T_disc: Numbers = 10 * GYR

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_disc", positive(self.T_disc, "kpc s/km", "T_disc"))

    def coefficient(self, disk: PseudoIsothermal, R: float, J: Numbers) -> Array:
        """D_zz(I_z) in (kpc km/s)^2 per kpc s/km."""
        return 2 * plain(J, "kpc km/s", "J") * disk.mean_action(R) / self.T_disc

    def tau_I(self, disk: PseudoIsothermal, R: float, n: int, J: Numbers) -> Array:
        """The time of the cubic decay of mode n (kpc s/km)."""
        J = plain(J, "kpc km/s", "J")
        shear = disk.vertical(R).shear(J)
        return (6 / (n * n * shear**2 * self.coefficient(disk, R, J))) ** (1 / 3)

    def tau_w(self, disk: PseudoIsothermal, R: float, n: int, J: Numbers) -> Array:
        """The time of the exponential decay by diffusion in angle (kpc s/km)."""
        return 4 * plain(J, "kpc km/s", "J") * self.T_disc / (n * n * disk.mean_action(R))

    def survival(self, disk: PseudoIsothermal, R: float, n: Array, s: Array, elapsed: float) -> Array:
        """S_n after `elapsed` on the tori s = sqrt(E_z); `n` and `s` broadcast."""
        va = disk.vertical(R)
        J, mean = va.action_of(s), disk.mean_action(R)
        cubic = elapsed**3 / 6 * (n * va.shear_of(s)) ** 2 * 2 * J * mean / self.T_disc
        linear = elapsed * n**2 * mean / (4 * self.T_disc * np.maximum(J, 1e-300))
        return np.exp(-cubic - linear)

    def survival_at(self, disk: PseudoIsothermal | object, R: float, n: int, J: Numbers, t: Numbers) -> Array:
        """S_n(t) at action `J`: what is left of a mode."""
        disk = as_disk(disk)
        s = disk.vertical(R).radius_of(plain(J, "kpc km/s", "J"))
        return np.array(
            [
                self.survival(disk, R, np.asarray(n), s, float(x))
                for x in np.atleast_1d(plain(t, "kpc s/km", "t"))
            ]
        )


def fokker_planck(
    va: VerticalActions, D: Array, n: int, amplitude: Array, t: float, steps: int = 400
) -> Array:
    """Solve d a/dt = -i n Omega(I) a + (1/2) d/dI (D da/dI) for one mode by finite differences.

    Strang splitting of the exact winding and Crank-Nicolson diffusion with zero flux at both ends; the
    check on the cubic law, not a production path.

    **Arguments:** `va`: the tables give Omega on their grid of actions, resampled uniformly. `D`: diffusion
    coefficient at the uniform actions. `n`: the mode. `amplitude`: a(I) at t = 0 on `len(D)` uniform actions
    from 0 to the end of the tables. `t`: time. `steps`: of the splitting.
    **Returns:** a(I, t).
    """
    J = np.linspace(0, va.J_grid[-1], len(D))
    return diffuse_mode(n * va.frequency(J), D, J[1] - J[0], amplitude, t, steps)


def diffuse_mode(
    omega: Array, D: Array, spacing: float, amplitude: Array, t: float, steps: int = 400
) -> Array:
    """The finite-difference step of [`fokker_planck`][jostle.disk.diffusion.fokker_planck] on any grid.

    >>> a = diffuse_mode(np.zeros(9), np.ones(9), 1.0, np.ones(9), 1.0)
    >>> bool(np.allclose(a, 1.0))
    True
    """
    require(len(omega) == len(D) == len(amplitude), "omega, D and amplitude must have one length")
    dt = t / steps
    faces = 0.25 * (D[1:] + D[:-1]) / spacing**2  # (1/2) D at the cell faces
    lower, upper = np.append(faces, 0.0), np.append(0.0, faces)
    diagonal = -np.append(faces, 0.0) - np.append(0.0, faces)
    banded = np.zeros((3, len(D)))
    banded[0], banded[1], banded[2] = -0.5 * dt * upper, 1 - 0.5 * dt * diagonal, -0.5 * dt * lower
    half = np.exp(-0.5j * omega * dt)
    a = np.asarray(amplitude, complex)
    for _ in range(steps):
        a = a * half
        rhs = (1 + 0.5 * dt * diagonal) * a
        rhs[:-1] += 0.5 * dt * faces * a[1:]
        rhs[1:] += 0.5 * dt * faces * a[:-1]
        a = solve_banded((1, 1), banded, rhs) * half
    return a


def langevin_coherence(
    n: int, shear: float, D: float, t: float, steps: int, stars: int, generator: np.random.Generator
) -> float:
    """|<exp(i n w)>| of stars with dI = sqrt(D) dW and dw = shear I dt: exp(-n^2 shear^2 D t^3 / 6).

    **Arguments:** `n`: the mode. `shear`: dOmega/dI. `D`: full variance rate. `t`: time. `steps`, `stars`: of
    the simulation. `generator`: the randomness.

    >>> c = langevin_coherence(1, 1.0, 1.0, 1.0, 50, 20000, np.random.default_rng(0))
    >>> bool(abs(c - np.exp(-1 / 6)) < 0.01)
    True
    """
    dt = t / steps
    action, angle = np.zeros(stars), np.zeros(stars)
    for _ in range(steps):
        # The exact joint law of the step: position and velocity of integrated Brownian motion.
        first, second = generator.standard_normal((2, stars)) * np.sqrt(D * dt)
        angle += shear * dt * (action + 0.5 * first + second / np.sqrt(12))
        action += first
    return float(abs(np.exp(1j * n * angle).mean()))
