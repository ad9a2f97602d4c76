"""Potentials of galpy and gala, and any function Phi(R, z), as potentials of this room."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jostle.core.errors import JostleError, optional, require
from jostle.disk.potentials import Potential, milky_way
from jostle.disk.units import Array, Numbers, positive
from jostle.zoo.networks import user_function

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


class FunctionPotential(Potential):
    """A potential known through functions of (R, z) in kpc and (km/s)^2.

    **Arguments:** `value`: Phi(R, z). `gradient`: gives (dPhi/dR, dPhi/dz); a five-point difference of
    `value` if `None` (forces to 1e-8, nu to 1e-5).

    >>> harmonic = FunctionPotential(lambda R, z: 0.5 * (R**2 + 4 * z**2))
    >>> [round(float(f), 6) for f in harmonic.frequencies(1.0)]
    [1.0, 2.0, 2.0]
    """

    def __init__(
        self,
        value: Callable[[Array, Array], Array],
        gradient: Callable[[Array, Array], tuple[Array, Array]] | None = None,
    ) -> None:
        require(callable(value), f"value must be a function of (R, z), but {type(value).__name__} came")
        self._value, self._gradient = value, gradient

    def value(self, R: Array, z: Array) -> Array:
        R, z = np.broadcast_arrays(np.asarray(R, float), np.asarray(z, float))
        return np.asarray(self._value(R, z), float)

    def gradient(self, R: Array, z: Array) -> tuple[Array, Array]:
        R, z = np.broadcast_arrays(np.asarray(R, float), np.asarray(z, float))
        if self._gradient is not None:
            first, second = self._gradient(R, z)
            return np.asarray(first, float), np.asarray(second, float)
        h = 1e-3 * np.maximum(R, 1e-3)
        k = np.full_like(z, 1e-3)

        def slope(dR: Array | float, dz: Array | float, step: Array) -> Array:
            near = self.value(R + dR, z + dz) - self.value(R - dR, z - dz)
            far = self.value(R + 2 * dR, z + 2 * dz) - self.value(R - 2 * dR, z - 2 * dz)
            return (8 * near - far) / (12 * step)

        return slope(h, 0.0, h), slope(0.0, k, k)

    def lift(self, R: Array, z: Array) -> Array:
        R, z = np.broadcast_arrays(np.asarray(R, float), np.asarray(z, float))
        # Far from the plane the difference is harmless; near it the mean of the force along the way is exact.
        low = np.abs(z) < 0.1
        safe = np.where(low, 0.1, z)
        result = np.array((self.value(R, safe) - self.value(R, np.zeros_like(safe))) / safe**2)
        if low.any():
            near = np.where(np.abs(z[low]) < 1e-6, 1e-6, z[low])
            mean = sum(w * self.gradient(R[low], near * t)[1] for t, w in zip(_NODES, _WEIGHTS, strict=True))
            result[low] = mean / near
        return result


def from_galpy(potential: Any, ro: Numbers = 8.0, vo: Numbers = 220.0) -> FunctionPotential:
    """Take a galpy potential, or a list of them.

    **Arguments:** `potential`: axisymmetric galpy potential(s). `ro`, `vo`: galpy's scales (kpc, km/s).
    **Returns:** the potential in kpc and (km/s)^2.
    **Raises:** `MissingExtra` if galpy is not installed; `JostleError` if the potential is not axisymmetric.

    >>> from galpy.potential import MWPotential2014
    >>> omega, kappa, nu = from_galpy(MWPotential2014).frequencies(8.0)
    >>> round(float(omega) * 8, 1)
    220.0
    """
    galpy = optional("galpy.potential", "disk")
    ro, vo = positive(ro, "kpc", "ro"), positive(vo, "km/s", "vo")
    flat = galpy.flatten(potential) if hasattr(galpy, "flatten") else potential
    parts = flat if isinstance(flat, list) else [flat]
    require(not any(getattr(p, "isNonAxi", False) for p in parts), "potential must be axisymmetric")

    def value(R: Array, z: Array) -> Array:
        return vo**2 * sum(p(R / ro, z / ro, use_physical=False) + 0 * R for p in parts)

    def gradient(R: Array, z: Array) -> tuple[Array, Array]:
        scale = -(vo**2) / ro
        return (
            scale * sum(p.Rforce(R / ro, z / ro, use_physical=False) + 0 * R for p in parts),
            scale * sum(p.zforce(R / ro, z / ro, use_physical=False) + 0 * R for p in parts),
        )

    return FunctionPotential(value, gradient)


def from_gala(potential: Any) -> FunctionPotential:
    """Take a gala potential with units.

    **Arguments:** `potential`: axisymmetric gala potential in the galactic unit system.
    **Returns:** the potential in kpc and (km/s)^2.
    **Raises:** `MissingExtra` if gala is not installed; `JostleError` if the potential carries no units.

    >>> from gala.potential import MiyamotoNagaiPotential
    >>> from gala.units import galactic
    >>> mn = from_gala(MiyamotoNagaiPotential(m=6.8e10, a=3.0, b=0.28, units=galactic))
    >>> round(float(mn(8.0, 0.0)))
    -33825
    """
    optional("gala", "disk")
    units = optional("astropy.units", "disk")
    require(
        hasattr(potential, "units"),
        f"potential must be a gala potential, but {type(potential).__name__} came",
    )
    require(
        potential.units.decompose(1 * units.kpc).unit.is_equivalent(units.kpc), "potential must carry units"
    )

    def place(R: Array, z: Array) -> Any:
        return np.stack([R.ravel(), np.zeros(R.size), z.ravel()]) * units.kpc

    def value(R: Array, z: Array) -> Array:
        return potential.energy(place(R, z)).to_value("km2/s2").reshape(R.shape)

    def gradient(R: Array, z: Array) -> tuple[Array, Array]:
        slope = potential.gradient(place(R, z)).to_value("km2/(s2 kpc)")
        return slope[0].reshape(R.shape), slope[2].reshape(R.shape)

    return FunctionPotential(value, gradient)


def named_potential(name: str) -> Potential:
    """The potential that a name on the command line means.

    **Arguments:** `name`: `milky-way`, `no-halo` (without its NFW halo), `galpy:NAME` for a potential of
    `galpy.potential` or `galpy.potential.mwpotentials`, or `FILE.py:FUNCTION`, a function of yours that
    returns a potential.
    **Raises:** `JostleError` if there is none of this name.

    >>> named_potential("no-halo")
    MiyamotoNagai(M=68000000000.0, a=3.0, b=0.28)
    """
    if name in ("milky-way", "no-halo"):
        return milky_way(halo=name == "milky-way")
    package, colon, inner = name.partition(":")
    if package == "galpy" and colon:
        galpy = optional("galpy.potential", "disk")
        # McMillan17 and its like are built when they are asked for, by an object beside the module.
        found = getattr(galpy, inner, None) or getattr(galpy.mwpotentials, inner, None)
        require(found is not None, f"galpy has no potential {inner!r}")
        return as_potential(found() if isinstance(found, type) else found)
    require(
        package.endswith(".py") and bool(colon),
        f"potential must be milky-way, no-halo, galpy:NAME or FILE.py:FUNCTION, but {name!r} came",
    )
    try:
        return as_potential(user_function(name, "potential")())
    except JostleError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise JostleError(f"{name!r} failed with {type(error).__name__}: {error}") from error


def as_potential(thing: Any) -> Potential:
    """Take a potential of this room, of galpy or of gala, or a function Phi(R, z) in kpc and (km/s)^2.

    **Raises:** `JostleError` if it is none of these.

    >>> as_potential(lambda R, z: 0.5 * z**2).lift(1.0, 0.5).round(6).item()
    0.5
    """
    if isinstance(thing, Potential):
        return thing
    owner = thing[0] if isinstance(thing, list) and thing else thing
    package = type(owner).__module__.partition(".")[0]
    if package == "galpy":
        return from_galpy(thing)
    if package == "gala":
        return from_gala(thing)
    require(callable(thing), f"potential must be a potential or a function Phi(R, z), but {thing!r} came")
    return FunctionPotential(thing)  # type: ignore
