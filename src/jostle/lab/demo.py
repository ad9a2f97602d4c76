"""All studies in one go: each in a process of its own, with one display of how they stand."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jostle.core.errors import JostleError
from jostle.files import read_json
from jostle.lab.progress import SINK
from jostle.lab.report import VERDICTS, duration
from jostle.lab.rooms import ROOMS, room
from jostle.lab.runs import runs_root

_LOOK = 0.2  # seconds between two looks at the processes
_GRACE = 20.0  # seconds that a study gets to say in its folder that it was stopped


@dataclass
class Outcome:
    """How one study of the tour ended."""

    key: str
    state: str
    seconds: float
    claims: dict[str, int]
    message: str = ""

    @property
    def sentence(self) -> str:
        """One line for the person who waits."""
        if self.state != "finished":
            return f"{self.key}: {self.state} after {duration(self.seconds)}: {self.message}"
        counted = ", ".join(f"{self.claims[v]} {said}" for v, said in VERDICTS.items() if self.claims.get(v))
        return f"{self.key}: {duration(self.seconds)}; claims: {counted or 'none'}"


def tour(
    keys: Sequence[str] | None = None,
    preset: str = "quick",
    *,
    root: Path | None = None,
    jobs: int | None = None,
    console: Console | None = None,
) -> list[Outcome]:
    """Run the studies of several methods side by side, and show how they stand.

    **Arguments:** `keys`: the methods; all by default. `preset`: of each study. `root`: where runs go; default
    `JOSTLE_RUNS` or `./runs`. `jobs`: studies at a time, at least 1; by default as many as there are cores, which
    they share. `console`: where to show it.
    **Returns:** how each ended, in the order of `keys`. A study that fails does not stop the others.
    **Raises:** `JostleError` for an unknown method or if a method's packages are missing.
    """
    chosen = [room(key) for key in (keys or list(ROOMS))]
    for entry in chosen:
        if entry.missing:
            raise JostleError(
                f"{entry.key} needs {', '.join(entry.missing)}; type: pip install 'jostle[all]'"
            )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = cores if jobs is None else jobs
    if jobs < 1:
        raise JostleError(f"jobs must be at least 1, but {jobs} came")
    jobs = min(jobs, len(chosen))
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figure]}", markup=False),
    )
    with (
        tempfile.TemporaryDirectory(prefix="jostle-") as scratch,
        Progress(*columns, console=console, disable=not console.is_terminal) as bars,
    ):
        shared = _Tour(preset, Path(root or runs_root()), max(1, cores // jobs), Path(scratch), console, bars)
        return shared.run([entry.key for entry in chosen], jobs)


class _Tour:
    def __init__(
        self, preset: str, root: Path, threads: int, scratch: Path, console: Console, bars: Progress
    ) -> None:
        self.preset, self.root, self.threads = preset, root, threads
        self.scratch, self.console, self.bars = scratch, console, bars

    def run(self, keys: list[str], jobs: int) -> list[Outcome]:
        tasks = {key: self.bars.add_task(key, total=None, start=False, figure="waiting") for key in keys}
        waiting, busy, done = list(keys), {}, {}
        try:
            while waiting or busy:
                while waiting and len(busy) < jobs:
                    key = waiting.pop(0)
                    busy[key] = (self._start(key), time.perf_counter())
                    self.bars.start_task(tasks[key])
                time.sleep(_LOOK)
                for key, (process, since) in list(busy.items()):
                    if process.poll() is None:
                        self._show(tasks[key], key)
                        continue
                    del busy[key]
                    done[key] = outcome = self._outcome(key, process.returncode, time.perf_counter() - since)
                    self.bars.update(tasks[key], total=1, completed=1, figure=outcome.sentence)
                    self.bars.stop_task(tasks[key])
                    if not self.console.is_terminal:
                        self.console.print(outcome.sentence, highlight=False, markup=False, soft_wrap=True)
        finally:
            _stop([process for process, _ in busy.values()])
        return [done[key] for key in keys]

    def _start(self, key: str) -> "subprocess.Popen[bytes]":
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        given = {
            SINK: str(self.scratch / f"{key}.json"),
            "JOSTLE_RUNS": str(self.root.absolute()),
            "OPENBLAS_NUM_THREADS": str(self.threads),
            "LOKY_MAX_CPU_COUNT": str(self.threads),
            "MPLBACKEND": "agg",
        }
        with (self.scratch / f"{key}.log").open("wb") as log:
            return subprocess.Popen(
                _command(key, self.preset),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads, **given},
            )

    def _show(self, task: TaskID, key: str) -> None:
        with suppress(JostleError):  # nothing said so far
            now = read_json(self.scratch / f"{key}.json")
            self.bars.update(
                task,
                total=now["total"],
                completed=now["done"],
                figure=f"{now['title']}: {now['figure']}" if now["figure"] else now["title"],
            )

    def _outcome(self, key: str, code: int, seconds: float) -> Outcome:
        log = (self.scratch / f"{key}.log").read_text(encoding="utf-8", errors="replace")
        newest = max((self.root / key).glob("*/status.json"), key=lambda p: p.stat().st_mtime, default=None)
        status: dict[str, Any] = read_json(newest) if newest else {}
        if code == 0 and newest is not None and status.get("state") == "finished":
            verdicts = [claim["verdict"] for claim in read_json(newest.parent / "claims.json")]
            return Outcome(key, "finished", seconds, {v: verdicts.count(v) for v in set(verdicts)})
        last = status.get("message") or " ".join(log.split("\n")[-3:]).strip() or f"it ended with code {code}"
        return Outcome(key, "failed", seconds, {}, last)


def _command(key: str, preset: str) -> list[str]:
    return [sys.executable, "-m", "jostle", "run", key, "--preset", preset]


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
