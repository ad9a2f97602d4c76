"""Closed forms of the slab with structure in the plane: stars that stream sideways damp a local spiral."""

import numpy as np

from jostle.disk.units import Array, Numbers, plain, positive


def lateral_wave(
    n: int, Omega: Numbers, sigma_z: Numbers, sigma: Numbers, k: Numbers, t: Numbers, psi_n: complex = 1.0
) -> Array:
    r"""f1_nk / f0 of a slab after an impulse psi(z) exp(i k x), integrated over the velocities in the plane.

        f1_nk = -i psi_n [n Omega_z / sigma_z^2 - i k^2 t] exp(-i n Omega_z t) exp(-k^2 sigma^2 t^2 / 2).

    **Arguments:** `n`: vertical mode. `Omega`: Omega_z(I) (km/s/kpc). `sigma_z`, `sigma`: dispersions
    (km/s). `k`: rad/kpc. `t`: after the impulse (kpc s/km). `psi_n`: the coefficient of psi.

    >>> complex(lateral_wave(1, 1.0, 1.0, 1.5, 0.0, 0.0))
    -1j
    """
    Omega, k, t = plain(Omega, "km/(s kpc)", "Omega"), plain(k, "rad/kpc", "k"), plain(t, "kpc s/km", "t")
    s_z, s = positive(sigma_z, "km/s", "sigma_z"), positive(sigma, "km/s", "sigma")
    bracket = n * Omega / s_z**2 - 1j * k**2 * t
    return -1j * psi_n * bracket * np.exp(-1j * n * Omega * t - 0.5 * (k * s * t) ** 2)


def lateral_gaussian(x: Numbers, width: Numbers, sigma: Numbers, t: Numbers) -> Array:
    """What streaming leaves of a perturbation exp(-x^2 / width^2): its share of the n Omega_z term.

    width / sqrt(width^2 + 2 sigma^2 t^2) exp[-x^2 / (width^2 + 2 sigma^2 t^2)]: a power law in one dimension.

    **Arguments:** `x`, `width`: kpc. `sigma`: dispersion in the plane (km/s). `t`: time (kpc s/km).

    >>> float(lateral_gaussian(0.0, 1.0, 1.0, 0.0))
    1.0
    """
    x, t = plain(x, "kpc", "x"), plain(t, "kpc s/km", "t")
    w2 = positive(width, "kpc", "width") ** 2
    spread = w2 + 2 * (positive(sigma, "km/s", "sigma") * t) ** 2
    return np.sqrt(w2 / spread) * np.exp(-x * x / spread)
