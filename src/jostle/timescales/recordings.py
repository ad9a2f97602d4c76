"""Recordings from files, and their timescales as a table."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np

from jostle.core.errors import JostleError, require
from jostle.files import whole, write_json
from jostle.timescales.autocorrelation import Autocorrelation
from jostle.timescales.fitting import TimescaleFit

_FEW = 12  # units that are listed one by one


@dataclass(frozen=True)
class RecordingTimescales:
    """Timescales of the units of a recording, in the unit of `step`.

    **Arguments:** `fit`, `curves`: in samples. `step`: duration of a sample.
    """

    fit: TimescaleFit
    curves: Autocorrelation
    step: float

    suffix: ClassVar[tuple[str, ...]] = (".csv", ".json")

    def table(self) -> dict[str, np.ndarray]:
        """One column a figure, one row a unit; times in the unit of `step`."""
        fit, step = self.fit, self.step
        return {
            "tau": fit.tau * step,
            "double": fit.double,
            "tau_single": fit.single[:, 0] * step,
            "tau_fast": fit.pair[:, 0] * step,
            "tau_slow": fit.pair[:, 1] * step,
            "slow_weight": fit.slow_weight,
            "rss_single": fit.rss[:, 0],
            "rss_double": fit.rss[:, 1],
            "good": fit.good(),
            "at_bound": fit.at_bound,
            "flat": fit.flat,
            **{name: values * step for name, values in self.curves.measures().items()},
        }

    def numbers(self) -> dict[str, Any]:
        """A summary over the units whose fit is beyond doubt; of a few units, each one's timescale."""
        good, tau = self.fit.good(), self.fit.tau * self.step
        found: dict[str, Any] = {
            "units": len(tau),
            "good": int(good.sum()),
            "median_tau": float(np.median(tau[good])) if good.any() else None,
            "mean_tau": float(tau[good].mean()) if good.any() else None,
            "two_exponentials": int(self.fit.double.sum()),
        }
        if len(tau) <= _FEW:
            found["tau of unit"] = {str(i): float(value) for i, value in enumerate(tau)}
        return found

    def save(self, path: Path) -> None:
        """Write the table as `.csv`, or everything as `.json`."""
        if path.suffix == ".json":
            table = {name: values.tolist() for name, values in self.table().items()}
            write_json(path, {**self.numbers(), "units_table": table})
            return
        require(path.suffix == ".csv", f"out must end in .csv or .json, but {path.name} came")
        table = self.table()
        rows = zip(*table.values(), strict=True)
        lines = [
            ",".join(["unit", *table]),
            *(",".join([str(i), *map(str, row)]) for i, row in enumerate(rows)),
        ]
        with whole(path) as draft:
            draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_recording(path: Path, name: str | None = None) -> np.ndarray:
    """The numbers of an `.npy`, `.npz` (`name`: which of its arrays) or `.csv` file.

    **Raises:** `JostleError` for a file that cannot be read as such.
    """
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                require(
                    name in held or (name is None and len(held.files) == 1),
                    f"name must be one of the arrays in {path.name}: {', '.join(held.files)}",
                )
                found = held[name or held.files[0]]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8") as lines:
                header = any(not _is_number(cell) for cell in lines.readline().strip().split(","))
            require(path.stat().st_size > 0, f"recording is empty: {path}")
            found = _columns(np.genfromtxt(path, delimiter=",", skip_header=int(header)), path)
        else:
            raise JostleError(f"recording must end in .npy, .npz or .csv, but {path} came")
        require(
            not np.iscomplexobj(found),
            f"recording must hold real numbers, but {path.name} holds complex ones",
        )
        return np.asarray(found, dtype=np.float64)
    except OSError as error:
        raise JostleError(f"could not read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, BadZipFile) as error:
        if isinstance(error, JostleError):
            raise
        raise JostleError(f"{path} does not hold a numeric array: {error}") from error


def _columns(found: np.ndarray, path: Path) -> np.ndarray:
    """The units of a table: without a clock in its first column."""
    table = found if found.ndim == 2 else np.atleast_2d(found).T
    empty = np.flatnonzero(np.isnan(table).all(0)).tolist()
    require(not empty, f"columns {empty} of {path.name} hold no number: they must be separated by commas")
    ticks = np.diff(table[:, 0])
    if table.shape[1] > 1 and len(ticks) > 1 and ticks[0] > 0 and np.allclose(ticks, ticks[0], rtol=1e-6):
        warnings.warn(
            f"the first column of {path.name} grows by {ticks[0]:g} in each row: taken for a clock and left out",
            stacklevel=2,
        )
        return table[:, 1:]
    return table


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
