"""Certificates as a table: what was certified, at what cost, under which settings; kept in a parquet file."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import JostleError, optional, require
from jostle.core.statistics import wilson
from jostle.files import whole
from jostle.smoothing.bounds import surely_correct


@dataclass(frozen=True)
class Certificate:
    """What is certified of one input.

    `name`: its number. `label`: the true class, -1 if unknown. `prediction`: the class of `g`, -1 for an
    abstention. `radius`: within which `g` does not change (open ball; 0 for an abstention). `p_lower`: what
    `p_A` is certified to exceed. `candidate`: the class that was tested, `hits` of its `draws` estimation draws.
    `used`: all draws, selection included.
    """

    name: int
    label: int
    prediction: int
    radius: float
    p_lower: float
    candidate: int
    hits: int
    draws: int
    used: int


@dataclass(frozen=True, eq=False)
class Certificates:
    """A table of certificates, in the order of the inputs, with the settings under which they hold.

    **Arguments:** one entry an input in each column, as in [`Certificate`][jostle.smoothing.Certificate]. `settings`:
    sigma, alpha, method, grid, draws, seed, and the numerics of the network. `paths`: of image files, or None.
    """

    name: Int[Tensor, " inputs"]
    label: Int[Tensor, " inputs"]
    prediction: Int[Tensor, " inputs"]
    radius: Float[Tensor, " inputs"]
    p_lower: Float[Tensor, " inputs"]
    candidate: Int[Tensor, " inputs"]
    hits: Int[Tensor, " inputs"]
    draws: Int[Tensor, " inputs"]
    used: Int[Tensor, " inputs"]
    settings: dict[str, Any]
    paths: tuple[str, ...] | None = None

    suffix: ClassVar[str] = ".parquet"

    def __len__(self) -> int:
        return len(self.name)

    @property
    def correct(self) -> Tensor:
        """Where the prediction is the label; nowhere without labels."""
        return (self.prediction == self.label) & (self.label >= 0)

    def accuracy(self, radius: float = 0.0) -> float:
        """Certified accuracy: the share that is right with a radius of at least `radius`.

        **Arguments:** `radius`: at least 0.
        """
        return float((self.correct & (self.radius >= radius)).double().mean())

    def certified(self, radius: float = 0.0) -> float:
        """The share with a certificate of at least `radius`, right or wrong: needs no labels."""
        return float(((self.prediction >= 0) & (self.radius >= radius)).double().mean())

    def interval(self, radius: float = 0.0) -> tuple[float, float]:
        """95 % Wilson interval of the certified accuracy over inputs."""
        return wilson(round(self.accuracy(radius) * len(self)), len(self))

    def average_radius(self) -> float:
        """ACR: the mean radius, counting wrong answers and abstentions as 0 (Zhai et al. 2020)."""
        return float(torch.where(self.correct, self.radius, 0.0).mean())

    @property
    def abstained(self) -> float:
        """Share of inputs without any certificate."""
        return float((self.prediction < 0).double().mean())

    def numbers(self) -> dict[str, Any]:
        """The table in a few figures, as the command line shows them."""
        grid = self.settings.get("grid", [0.0])
        labelled = bool((self.label >= 0).any())
        alpha = float(self.settings["alpha"])
        shares = {f"{r:g}": self.accuracy(r) if labelled else self.certified(r) for r in grid}
        return {
            "inputs": len(self),
            "classes among them": int(self.label[self.label >= 0].unique().numel()),
            "sigma": self.settings["sigma"],
            "alpha": alpha,
            "method": self.settings["method"],
            "certified accuracy at radius" if labelled else "certified share at radius": shares,
            **({"average certified radius": self.average_radius()} if labelled else {}),
            "abstained": self.abstained,
            "draws an input": float(self.used.double().mean()),
            "false certificates to expect at most": alpha * len(self),
            **(
                {
                    "accuracy at 0 with 95 % certainty, at least": surely_correct(
                        self.accuracy(), len(self), alpha
                    )
                }
                if labelled
                else {}
            ),
        }

    def save(self, path: str | Path) -> None:
        """Write a parquet file, the settings in its metadata; whole or not at all.

        **Raises:** `MissingExtra` without pyarrow, `JostleError` if the file cannot be written.
        """
        pyarrow, parquet = optional("pyarrow", "smoothing"), optional("pyarrow.parquet", "smoothing")
        columns: dict[str, Any] = {f.name: getattr(self, f.name).numpy() for f in fields(Certificate)}
        columns["correct"] = self.correct.numpy()
        if self.paths is not None:
            columns["path"] = list(self.paths)
        table = pyarrow.table(columns).replace_schema_metadata({"jostle": json.dumps(self.settings)})
        with whole(Path(path)) as draft:
            parquet.write_table(table, draft)

    @classmethod
    def load(cls, path: str | Path) -> "Certificates":
        """Read what `save` wrote.

        **Raises:** `JostleError` if the file is absent or is another kind of table.
        """
        parquet = optional("pyarrow.parquet", "smoothing")
        require(Path(path).is_file(), f"certificates {path} do not exist")
        try:
            table = parquet.read_table(path)
            settings = json.loads(table.schema.metadata[b"jostle"])
            columns = {f.name: table[f.name].to_pylist() for f in fields(Certificate)}
        except Exception as error:
            raise JostleError(f"{path} is not a table of certificates: {type(error).__name__}") from error
        paths = tuple(table["path"].to_pylist()) if "path" in table.column_names else None
        return _table(columns, settings, paths)


class Ledger:
    """Certificates as they come, written to a file every few seconds and taken up from it.

    **Arguments:** `settings`: under which they hold. `inputs`: what shows which inputs are meant. `path`: the file,
    or None.
    **Raises:** `JostleError` if the file is of other settings or inputs.
    """

    every = 2.0

    def __init__(self, settings: dict[str, Any], inputs: str, path: Path | None) -> None:
        self.settings, self.path = {**settings, "inputs": inputs}, path
        self.rows: dict[int, Certificate] = {}
        self.draws = 0  # all of them so far
        self._written = time.monotonic()
        if path is None:
            return
        require(path.suffix == ".parquet", f"keep must end in .parquet, but {path.name!r} came")
        require(
            path.absolute().parent.is_dir(),
            f"keep names a folder that does not exist: {path.absolute().parent}",
        )
        optional("pyarrow.parquet", "smoothing")
        if path.exists():
            earlier = Certificates.load(path)
            ours = json.loads(json.dumps(self.settings))
            for key in sorted(set(ours) | set(earlier.settings)):
                before, now = earlier.settings.get(key), ours.get(key)
                require(
                    before == now,
                    f"{path} holds certificates with {key} {before}, but now it is {now}: choose another file",
                )
            columns = {f.name: getattr(earlier, f.name).tolist() for f in fields(Certificate)}
            for values in zip(*columns.values(), strict=True):
                self._take(Certificate(*values))

    def __len__(self) -> int:
        return len(self.rows)

    def missing(self, names: Sequence[int]) -> list[int]:
        """Positions of the inputs that have no certificate yet."""
        return [at for at, name in enumerate(names) if name not in self.rows]

    def add(self, row: Certificate) -> None:
        """Take in a certificate; the file follows within seconds."""
        self._take(row)
        if self.path is not None and time.monotonic() - self._written > self.every:
            self._written = time.monotonic()
            self._collect(list(self.rows), None).save(self.path)

    def _take(self, row: Certificate) -> None:
        self.rows[row.name] = row
        self.draws += row.used

    def close(self, names: Sequence[int], paths: tuple[str, ...] | None) -> Certificates:
        """All certificates in the order of `names`, and written, if there is a file."""
        table = self._collect(names, paths)
        if self.path is not None:
            table.save(self.path)
        return table

    def _collect(self, names: Sequence[int], paths: tuple[str, ...] | None) -> Certificates:
        rows = [asdict(self.rows[name]) for name in names]
        columns = {f.name: [row[f.name] for row in rows] for f in fields(Certificate)}
        return _table(columns, self.settings, paths)


def _table(
    columns: dict[str, list[Any]], settings: dict[str, Any], paths: tuple[str, ...] | None
) -> Certificates:
    tensors = {
        name: torch.tensor(values, dtype=torch.float64 if name in ("radius", "p_lower") else torch.int64)
        for name, values in columns.items()
    }
    return Certificates(**tensors, settings=settings, paths=paths)
