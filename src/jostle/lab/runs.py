"""A run: one folder that holds everything a study was given, did and found, and that can be resumed."""

import io
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from jostle import __version__
from jostle.core.errors import JostleError
from jostle.files import plain, read_json, whole, write_json, write_state, write_tensors
from jostle.lab.progress import Advance, track
from jostle.lab.style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PACKAGES = ("torch", "torchvision", "numpy", "scipy")


def runs_root() -> Path:
    """Where run folders go: `JOSTLE_RUNS`, or `runs` under the current folder."""
    return Path(os.environ.get("JOSTLE_RUNS", "runs"))


@dataclass
class Run:
    """One run of a study and its folder.

    A study is a sequence of *stages*. A finished stage is kept in the folder, and a resumed run takes it from
    there; a long stage also keeps checkpoints of its own. Randomness comes from `generator(name)`, which
    depends on the seed and the name alone, so a resumed run draws the numbers of an unbroken one. `kept` is false on
    the processes that only help the one that keeps the folder.
    """

    folder: Path
    key: str
    preset: str
    config: Any
    console: Console = field(default_factory=lambda: Console(stderr=True))
    kept: bool = True
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _earlier: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    @classmethod
    def create(
        cls,
        key: str,
        preset: str,
        config: Any,
        root: Path | None = None,
        processes: Any = None,
        changed: Mapping[str, Any] | None = None,
    ) -> "Run":
        """Make a fresh folder `ROOT/KEY/<utc time>-PRESET/` with its configuration and environment.

        `changed`: the settings in which the configuration is no longer the preset.

        **Raises:** `JostleError` if the folder cannot be made.
        """
        parent = (root or runs_root()) / key
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{preset}"
        record = {"study": key, "preset": preset, "changed": changed or {}, "config": asdict(config)}
        if processes is not None:
            record["processes"] = asdict(processes)
        with _aside(parent, name) as draft:
            run = cls(draft, key, preset, config)
            write_json(draft / "environment.json", environment(config.seed))
            write_json(draft / "config.json", record)
            run.status("running")
            run.folder = _settled(draft, parent, name)
        return run

    @classmethod
    def open(cls, folder: Path, config: Any) -> "Run":
        """Open the folder of an earlier run, to resume it."""
        record = read_json(folder / "config.json")
        run = cls(folder, record["study"], record["preset"], config)
        for draft in folder.rglob(".*.draft*"):  # what a kill left in the middle of a write
            draft.unlink(missing_ok=True)
        run.status("running")
        return run

    def status(self, state: str, sentence: str = "") -> None:
        """Say in the folder how the run stands: running, finished, failed or interrupted."""
        write_json(self.folder / "status.json", {"state": state, "message": sentence})

    def generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator whose stream depends on the run's seed and on `name` only."""
        return torch.Generator(device).manual_seed(self.seed(name))

    def seed(self, name: str) -> int:
        """The seed of [`generator`][jostle.lab.runs.Run.generator], for a task that another process carries out."""
        return zlib.crc32(f"{self.config.seed}/{name}".encode())

    def log(self, **row: Any) -> None:
        """Add a row to `metrics.jsonl`; it is written when the stage next saves.

        Tensors and arrays become lists, and what is not finite becomes `None`, as in the file.
        """
        self._rows.append(plain(row))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows logged so far."""
        return list(self._rows)

    def stage(self, name: str, work: Callable[["Stage"], Any]) -> Any:
        """Do a piece of work once in the life of the run, and keep its result.

        **Arguments:** `name`: unique in the run. `work`: takes the [`Stage`][jostle.lab.runs.Stage]; returns
        tensors, numbers, strings, and lists, tuples and dicts of these.
        **Returns:** what `work` returned: now, or in the run that this one resumes.
        **Raises:** `JostleError` if the name is taken, if a checkpoint cannot be read, or if the result is of
        another kind than those above.
        """
        if _slug(name) in self._names:
            raise JostleError(f"the name of a stage must be unique in the run, but {name!r} came twice")
        self._names.add(_slug(name))
        stage = Stage(self, name, self.folder / "checkpoints" / f"{_slug(name)}.pt", first=len(self._rows))
        kept = stage._read(stage.path)
        if kept is None:
            result = work(stage)
            kept = stage._write(stage.path, result)
        stage.partial.unlink(missing_ok=True)  # also one that a kill left just after the stage was done
        return kept["value"]

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with the stages done before it was resumed."""
        return time.perf_counter() - self._started + self._earlier

    @contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """A progress bar on the terminal of this run; see [`track`][jostle.lab.progress.track]."""
        with track(title, total, self.console) as advance:
            yield advance

    def say(self, sentence: str) -> None:
        """Print one line for the person who waits; silent when the output is not a terminal."""
        if self.console.is_terminal:
            self.console.print(sentence, markup=False)

    def figure(self, name: str, figure: "Figure", caption: str) -> None:
        """Keep a matplotlib figure as SVG and PNG, in the order of the report.

        One of the same name is replaced.
        """
        listing = self.folder / "figures" / "figures.json"
        for suffix, extra in (("svg", {"Date": None}), ("png", {})):
            # In the house style here too: some of its settings count when a figure is saved.
            with house_style(), whole(self.folder / "figures" / f"{_slug(name)}.{suffix}") as draft:
                figure.savefig(draft, dpi=200, bbox_inches="tight", metadata=extra)
        figures = {f["name"]: f for f in (read_json(listing) if listing.exists() else [])}
        figures[name] = {"name": name, "file": f"{_slug(name)}.svg", "caption": caption}
        write_json(listing, list(figures.values()))

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Keep tensors as `artifacts/NAME.safetensors`."""
        path = self.folder / "artifacts" / f"{name}.safetensors"
        write_tensors(path, tensors)
        return path

    def _flush(self) -> None:
        with whole(self.folder / "metrics.jsonl") as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")


@dataclass
class Stage:
    """A piece of a run that may be long: it can keep its own state and find it again after a kill.

    A checkpoint holds the rows that the stage has logged, so the rows of a resumed run never come twice and
    are never lost, whatever became of `metrics.jsonl`.
    """

    run: Run
    name: str
    path: Path
    first: int = 0
    every: float = 5.0
    seconds: float = 0.0
    _saved: float = field(default_factory=time.perf_counter)
    _begun: float = field(default_factory=time.perf_counter)

    @property
    def partial(self) -> Path:
        """Where the stage's own checkpoint lies until the stage is finished."""
        return self.path.with_suffix(".partial.pt")

    def load(self) -> Any:
        """The state of the last checkpoint of this stage, or `None` if there is none."""
        kept = self._read(self.partial)
        return None if kept is None else kept["value"]

    def save(self, state: Callable[[], Any] | Any) -> None:
        """Keep the stage's state, at most every `every` seconds (a callable is only called when due)."""
        now = time.perf_counter()
        if now - self._saved < self.every:
            return
        self._saved = now
        self._write(self.partial, state() if callable(state) else state)

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        with _legible(path):
            kept = torch.load(path, weights_only=True)
            value, rows, seconds = kept["value"], kept["rows"], float(kept["seconds"])
            rows = [json.loads(row) for row in rows]
        self.run._rows[self.first :] = rows
        self.run._earlier += seconds
        self.seconds = seconds
        return {"value": value}

    def _write(self, path: Path, value: Any) -> dict[str, Any]:
        seconds = time.perf_counter() - self._begun + self.seconds
        rows = [json.dumps(row) for row in self.run._rows[self.first :]]
        buffer = io.BytesIO()
        try:
            torch.save({"value": value, "rows": rows, "seconds": seconds}, buffer)
            # What is handed on is what a resumed run would read: the two can never differ.
            buffer.seek(0)
            kept = torch.load(buffer, weights_only=True)
        except Exception as error:
            raise JostleError(
                f"stage {self.name!r} can keep tensors, numbers, strings, and lists, tuples and dicts of "
                f"these, but its value was refused: {error}"
            ) from error
        with whole(path) as draft:
            draft.write_bytes(buffer.getvalue())
        self.run._flush()
        return kept


@dataclass
class Partial:
    """The state of a long task of a [`sweep`][jostle.lab.sweeps.sweep], which a killed run goes on from.

    `path`: of its file, in the run's folder. `every`: seconds between two savings.
    """

    path: Path
    every: float = 5.0
    _saved: float = field(default_factory=time.perf_counter)

    def load(self) -> Any:
        """What was saved last, or `None`."""
        if not self.path.exists():
            return None
        with _legible(self.path):
            return torch.load(self.path, weights_only=True)

    def save(self, state: Callable[[], Any]) -> None:
        """Keep what `state` gives, if it is time to."""
        if time.perf_counter() - self._saved < self.every:
            return
        write_state(self.path, state())
        self._saved = time.perf_counter()


@contextmanager
def _legible(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise JostleError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it to redo that stage"
        ) from error


_DRAFT = ".draft"


@contextmanager
def _aside(parent: Path, name: str) -> Iterator[Path]:
    """A folder beside the place of a new run: a kill leaves no run without a configuration."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f".*{_DRAFT}"):  # by a kill, long ago: others may be at work
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        outer = tempfile.TemporaryDirectory(prefix=".", suffix=_DRAFT, dir=parent)
        draft = Path(outer.name) / name
        draft.mkdir()
    except OSError as error:
        raise JostleError(f"could not make the run folder {parent / name}: {error.strerror}") from error
    with outer:
        yield draft


def _settled(draft: Path, parent: Path, name: str) -> Path:
    """Move a whole folder to its place, under the first name that is free."""
    for suffix in ("", *(f".{i}" for i in range(2, 1000))):
        folder = parent / f"{name}{suffix}"
        try:
            return draft.rename(folder)
        except OSError as error:  # a folder that holds something is not replaced
            if not folder.exists():
                raise JostleError(f"could not make the run folder {folder}: {error.strerror}") from error
    raise JostleError(f"could not find a free name for a run under {parent}")


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware, seed and git revision: what somebody needs to repeat a run."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "python": platform.python_version(),
        "packages": {"jostle": __version__, **_versions()},
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "revision": _revision(),
    }


def _versions() -> dict[str, str]:
    """Of what is installed: a study of tensors alone runs without torchvision."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _revision() -> str | None:
    import subprocess

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()

    here = Path(__file__).parent
    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else it is somebody else's repository
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
