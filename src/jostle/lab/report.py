"""Pages that a person wants to look at: one for a run, and one for all of them."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from jostle import __version__
from jostle.core.errors import JostleError
from jostle.files import read_json, write_text
from jostle.lab.rooms import ROOMS, Room
from jostle.lab.runs import runs_root

VERDICTS = {"holds": "holds", "fails": "fails", "not-tested": "not tested at this scale"}
_STATES = ("finished", "running", "interrupted", "failed")
_MANY = 8
"""Longer lists of numbers are summed up on the page; result.json has them whole."""


def write_report(folder: Path, room: Room) -> Path:
    """Write `report.html` into a run folder: figures, claims, settings and metrics of that run.

    A run that failed or is not finished gets a page too, with a sentence on top that says so.

    **Raises:** `JostleError` if a file of the run cannot be read, or the page cannot be written.
    """
    run = _Record.read(Path(folder), room)
    page = run.folder / "report.html"
    index = run.folder.parent.parent / "index.html"
    figures = [{**f, "png": str(Path(f["file"]).with_suffix(".png"))} for f in run.figures]
    text = (
        _templates()
        .get_template("report.html")
        .render(
            run=run,
            figures=figures,
            index="../../index.html" if index.exists() else None,
            settings=list(flatten(run.config)),
            environment=list(flatten(run.environment)),
            metrics=list(flatten(run.metrics)),
            artifacts=run.listing("artifacts"),
            files=[name for name in _FILES if (run.folder / name).exists()],
        )
    )
    write_text(page, text)
    return page


def write_index(root: Path | None = None) -> Path:
    """Write `index.html` for all runs under `root`, and their pages anew.

    The newest finished run of each method is shown as its card, then comes a table of all runs, also of those
    that failed or were cut off. A method without a finished run is a card with the command to type.

    **Arguments:** `root`: the folder of runs; default `JOSTLE_RUNS` or `./runs`.
    **Raises:** `JostleError` if the index cannot be written. A run that cannot be read has a row
    that says so.
    """
    root = Path(root or runs_root())
    runs = []
    for config in sorted(root.glob("*/*/config.json")):
        key = config.parent.parent.name
        room = ROOMS.get(key) or Room(key, key, "", 0, "", "")
        try:
            runs.append(_Record.read(config.parent, room))
        except JostleError as error:
            runs.append(_Record(config.parent, room, "failed", str(error), readable=False))
    runs.sort(key=lambda run: (run.date, run.folder.name), reverse=True)
    newest = {run.key: run for run in reversed(runs) if run.finished}
    cards = [(room, newest.get(room.key)) for room in ROOMS.values()]
    totals = Counter(claim["verdict"] for _, run in cards if run for claim in run.claims)
    page = root / "index.html"
    write_text(page, _templates().get_template("index.html").render(runs=runs, cards=cards, totals=totals))
    for run in runs:
        # An archive that cannot be written keeps the pages that it has.
        with suppress(JostleError):
            if run.readable:
                write_report(run.folder, run.room)
    return page


_FILES = ("result.json", "claims.json", "config.json", "environment.json", "metrics.jsonl", "error.txt")


@dataclass(frozen=True)
class _Record:
    """What a run folder holds, as the templates ask for it."""

    folder: Path
    room: Room
    state: str
    message: str = ""
    preset: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    changes: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    claims: Sequence[Mapping[str, str]] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    figures: Sequence[Mapping[str, str]] = ()
    readable: bool = True

    @classmethod
    def read(cls, folder: Path, room: Room) -> "_Record":
        def read(name: str, empty: Any) -> Any:
            path = folder / name
            value = read_json(path) if path.exists() else empty
            if type(value) is not type(empty):
                raise JostleError(f"{path} does not hold what a run writes there")
            return value

        config, status, result = read("config.json", {}), read("status.json", {}), read("result.json", {})
        state = status.get("state", "running")
        if state not in _STATES:
            raise JostleError(f"{folder / 'status.json'} has the unknown state {state!r}")
        return cls(
            folder,
            room,
            state,
            status.get("message", ""),
            config.get("preset", ""),
            config.get("config", {}),
            changes(config),
            read("environment.json", {}),
            read("claims.json", []),
            result.get("metrics", {}),
            result.get("seconds"),
            read("figures/figures.json", []),
        )

    @property
    def key(self) -> str:
        return self.room.key

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def href(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def date(self) -> str:
        return str(self.environment.get("time", ""))

    @property
    def counts(self) -> dict[str, int]:
        counted = Counter(claim["verdict"] for claim in self.claims)
        return {verdict: counted[verdict] for verdict in VERDICTS if counted[verdict]}

    @property
    def sentence(self) -> str:
        """How the run stands, for a run that is not finished."""
        if not self.readable:
            return f"This run cannot be read: {self.message}."
        if self.state == "failed":
            return f"This run failed: {self.message}"
        if self.state == "interrupted":
            return f"This run was interrupted ({self.message}); it can be resumed."
        if self.state == "running":
            return "This run is not finished: it is still at work, or was cut off and can be resumed."
        return ""

    @property
    def again(self) -> str:
        return f"jostle run --resume {shlex.quote(str(self.folder))}"

    def listing(self, name: str) -> list[tuple[str, int]]:
        """The files of a sub-folder with their sizes; drafts are not listed."""
        files = sorted(
            p for p in (self.folder / name).rglob("*") if p.is_file() and not p.name.startswith(".")
        )
        return [(p.relative_to(self.folder).as_posix(), p.stat().st_size) for p in files]


def flatten(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested dicts, each with its path; short lists of dicts are opened too.

    >>> list(flatten({"a": {"b": 1}, "c": [2, 3]}))
    [(('a', 'b'), 1), (('c',), [2, 3])]
    """
    nested = isinstance(value, list | tuple) and 0 < len(value) <= _MANY
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, (*path, str(key)))
    elif nested and any(isinstance(item, Mapping | list | tuple) for item in value):
        for number, item in enumerate(value, 1):
            yield from flatten(item, (*path, str(number)))
    else:
        yield path, value


def changes(config: Mapping[str, Any]) -> str:
    """What a run's `config.json` says of settings that are not its preset's, as a sentence; or nothing.

    >>> changes({"preset": "quick", "changed": {"steps": 3, "nudge": {"norm": "L2"}}})
    'settings changed: steps = 3, nudge.norm = L2; the verdicts are about this run, not about preset quick'
    """
    precision = config.get("processes", {}).get("precision", "32-true")
    leaves = flatten(config.get("changed", {}) | ({} if precision == "32-true" else {"precision": precision}))
    named = ", ".join(f"{'.'.join(path)} = {readable(value, exact=True)}" for path, value in leaves if path)
    about = f"the verdicts are about this run, not about preset {config.get('preset')}"
    return f"settings changed: {named}; {about}" if named else ""


def readable(value: Any, exact: bool = False) -> str:
    """A value as a person reads it: four significant digits unless `exact`, words for booleans.

    >>> [readable(v) for v in (0.123456, 12345, True, None, [0.5] * 9)]
    ['0.1235', '12,345', 'yes', '—', '9 values from 0.5 to 0.5']
    """
    if value is None or value == "" or value == {} or value == [] or value == ():
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if exact or abs(value) < 10_000 else f"{value:,}"
    if isinstance(value, float):
        if exact:
            return repr(value)
        # An exponent only where the plain digits would not be read.
        if value == 0 or 1e-4 <= abs(value) < 1e4:
            return f"{value:.4g}"
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.3e}"
    if isinstance(value, list | tuple):
        numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(value) > _MANY and not exact:
            known = [v for v in value if v is not None]
            if numbers and len(numbers) == len(known):
                low, high = readable(min(numbers)), readable(max(numbers))
                return f"{len(value):,} values from {low} to {high}"
            return f"{len(value):,} entries"
        return ", ".join(readable(item, exact) for item in value)
    if isinstance(value, Mapping):
        return f"{len(value):,} entries"
    return str(value)


def duration(seconds: float | None) -> str:
    """A time taken, in the units a person would use.

    >>> [duration(s) for s in (None, 0.34, 72.2, 7384)]
    ['—', '0.3 s', '1 min 12 s', '2 h 3 min']
    """
    if seconds is None:
        return "—"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int) -> str:
    """A number of bytes, as a person reads it.

    >>> size(312), size(2_500_000)
    ('312 B', '2.5 MB')
    """
    if count < 1000:
        return f"{count} B"
    power = 1 if count < 1e6 else 2 if count < 1e9 else 3
    return f"{count / 1000**power:.3g} {' kMG'[power]}B"


def day(stamp: str) -> str:
    """An ISO time as a date and time that a person reads, in UTC; an unreadable one as it is.

    >>> day("2026-03-04T15:06:07+00:00")
    '4 March 2026, 15:06 UTC'
    """
    try:
        moment = datetime.fromisoformat(stamp).astimezone(UTC)
    except ValueError:
        return stamp
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("jostle.lab"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(readable=readable, duration=duration, size=size, day=day)
    made.globals.update(version=__version__, verdicts=VERDICTS)
    return made
