"""Units: plain numbers are in kpc, km/s and solar masses; astropy Quantities are converted at the door."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jostle.core.errors import JostleError, optional, require

#: Newton's constant in kpc (km/s)^2 / M_sun.
G = 4.30091727e-6
#: One gigayear in the time unit kpc/(km/s), which is 0.977792 Gyr.
GYR = 1.0 / 0.9777922216807893
#: One megayear in the time unit kpc/(km/s).
MYR = GYR / 1000.0

if TYPE_CHECKING:
    Array = Any
else:  # numpy hands back its scalars for 0-dimensional arrays
    Array = np.ndarray | np.generic | float | complex

#: What every public door takes: a number, a list, an array, or an astropy Quantity of these.
Numbers = Any


def plain(value: Numbers, unit: str, name: str) -> np.ndarray:
    """Give `value` as a float64 array in the room's units.

    **Arguments:** `value`: number, array or astropy Quantity. `unit`: the room's unit in astropy's spelling
    (`"kpc"`, `"km/s"`, `"Msun"`, `"kpc s/km"`, `"km/(s kpc)"`, `"rad"`). `name`: the argument's name, for the
    error.
    **Returns:** a new or shared float64 array (0-dimensional for a number); it may hold NaN.
    **Raises:** `JostleError` if a Quantity has another dimension or the value is no number.

    >>> float(plain(2, "kpc", "R"))
    2.0
    """
    if type(value) in (tuple, list) and any(hasattr(part, "to_value") for part in value):
        require(
            all(hasattr(part, "to_value") for part in value),
            f"{name} must have units in all its parts or in none, but {value!r} came",
        )
        return np.stack([plain(part, unit, name) for part in value])
    given: Any = value
    if hasattr(given, "to_value") and hasattr(given, "unit"):
        units = optional("astropy.units", "disk")
        try:
            value = given.to_value(units.Unit(unit), equivalencies=units.dimensionless_angles())
        except units.UnitConversionError:
            raise JostleError(f"{name} must be in units of {unit}, but it came in {given.unit}") from None
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise JostleError(f"{name} must be numbers, but {value!r} came") from None


def number(value: Numbers, unit: str, name: str) -> float:
    """Give one finite float in the room's units; see [`plain`][jostle.disk.units.plain].

    >>> number(8, "kpc", "R")
    8.0
    """
    array = plain(value, unit, name)
    require(array.size == 1, f"{name} must be one number, but an array of shape {array.shape} came")
    require(bool(np.isfinite(array).all()), f"{name} must be finite, but {value!r} came")
    return float(array.reshape(()))


def positive(value: Numbers, unit: str, name: str) -> float:
    """Give one positive float in the room's units.

    >>> positive(0.5, "kpc", "h")
    0.5
    """
    result = number(value, unit, name)
    require(result > 0, f"{name} must be positive, but {value!r} came")
    return result


def gigayears(value: Numbers, name: str) -> float:
    """Give a time in Gyr: plain numbers are in Gyr here, Quantities in any unit of time.

    >>> gigayears(-2, "times")
    -2.0
    """
    return number(value, "Gyr", name)


def angle(value: Numbers, name: str) -> np.ndarray:
    """Give angles in radians; plain numbers beyond one turn are refused, for they are most likely degrees.

    >>> float(angle(0.5, "phi"))
    0.5
    """
    array = plain(value, "rad", name)
    if not hasattr(value, "unit") and array.size and np.nanmax(np.abs(array)) > 2 * np.pi + 1e-9:
        raise JostleError(
            f"{name} must be in radians within one turn, but {np.nanmax(np.abs(array)):g} came; "
            "for degrees give an astropy Quantity"
        )
    return array
