"""Start a study, or take up one that was cut off."""

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch.multiprocessing.spawn import ProcessException

from jostle.core.errors import JostleError
from jostle.files import plain, read_json, write_json, write_text
from jostle.lab.claims import judge
from jostle.lab.processes import ALONE, Processes, member, started_outside
from jostle.lab.report import write_report
from jostle.lab.rooms import load_study, room
from jostle.lab.runs import Run
from jostle.lab.study import changed, rebuild


def run(
    key: str,
    preset: str = "quick",
    *,
    root: Path | None = None,
    processes: Processes = ALONE,
    **changes: Any,
) -> Run:
    """Run a method's study into a fresh run folder, and write its report.

    **Arguments:** `key`: the method. `preset`: `quick`, `gpu` or `paper`. `root`: where runs go; default
    `JOSTLE_RUNS` or `./runs`. `processes`: on which its trainings run; see
    [`Processes`][jostle.lab.processes.Processes]. `changes`: fields of the study's configuration to change.
    **Returns:** the finished [`Run`][jostle.lab.runs.Run]; its `folder` holds all there is.
    **Raises:** `JostleError` for an unknown method, preset or field; whatever the study raises, after the
    folder says so.
    """
    study = load_study(key)
    base = study.config(preset)
    names = [field.name for field in dataclasses.fields(base)]
    for name in changes:
        if name not in names:
            raise JostleError(f"{key} has no setting {name!r}; its settings are {', '.join(names)}")
    return start(key, preset, dataclasses.replace(base, **changes), root, processes)


def start(key: str, preset: str, config: Any, root: Path | None = None, processes: Processes = ALONE) -> Run:
    """Run a study with a whole configuration; see [`run`][jostle.lab.running.run]."""
    base = load_study(key).config(preset)
    config = rebuild(type(base), dataclasses.asdict(config))
    return _go(
        lambda: Run.create(key, preset, config, root, processes, changed(base, config)),
        Run(Path(), key, preset, config),
        processes,
    )


def resume(folder: Path) -> Run:
    """Finish the run in `folder` from its last checkpoint; the numbers are those of an unbroken run.

    **Raises:** `JostleError` if the folder is not a run, is finished, or another process is at work on it.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise JostleError(f"{folder} is not a run folder: it has no config.json")
    record = read_json(folder / "config.json")
    try:
        key, preset, settings = record["study"], record["preset"], dict(record["config"])
        processes = Processes(**record.get("processes", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise JostleError(f"{folder / 'config.json'} is not a run's configuration") from error
    base = load_study(key).config(preset)
    config = rebuild(type(base), settings)
    if (folder / "result.json").exists():
        if (folder / "report.html").exists():
            raise JostleError(f"{folder} is finished: there is nothing to resume")
        # Cut off between the last number and the page.
        return _close(Run.open(folder, config))

    def taken_up() -> Run:
        now = plain(changed(base, config))
        if now != record.get("changed"):  # somebody edited it
            write_json(folder / "config.json", {**record, "changed": now})
        return Run.open(folder, config)

    return _go(taken_up, Run(folder, key, preset, config), processes, seen=folder)


def _go(make: Callable[[], Run], like: Run, processes: Processes, seen: Path | None = None) -> Run:
    """Carry a run out, on one process or several; `like` stands in for it where it is not kept."""
    if processes == ALONE:
        with _mine(make, seen) as run:
            return _carry_out(run)
    if not load_study(like.key).data_parallel:
        raise JostleError(
            f"{like.key} has no training that devices, nodes or precision could serve; use its jobs and engine"
        )
    fabric = processes.fabric(getattr(like.config, "device", "cpu"))
    if started_outside():
        fabric.launch()
        if not fabric.is_global_zero:
            member(fabric, _carry_out, _follow, _about(like), seen)
            return replace(like, kept=False)
    with _mine(make, seen) as run:
        if started_outside():
            member(fabric, _carry_out, _follow, _about(run), seen)
        else:
            _spawn(fabric, run, seen)
    return run


@contextmanager
def _mine(make: Callable[[], Run], seen: Path | None) -> Iterator[Run]:
    # An old folder is locked before it is opened: opening sweeps up drafts, and another process may be writing one.
    with ExitStack() as stack:
        if seen is not None:
            stack.enter_context(_alone(seen))
        run = make()
        if seen is None:
            stack.enter_context(_alone(run.folder))
        yield run


def _spawn(fabric: Any, run: Run, seen: Path | None) -> None:
    try:
        fabric.launch(member, _carry_out, _follow, _about(run), seen)
    except ProcessException as error:
        said = read_json(run.folder / "status.json")
        if said["state"] == "running":  # the first did not come to say so
            _note(run, "failed", str(error).strip().splitlines()[-1], str(error))
            said = read_json(run.folder / "status.json")
        raise JostleError(f"the run stopped: {said['message'].removeprefix('JostleError: ')}") from error


def _about(run: Run) -> tuple[Path, str, str, dict[str, Any]]:
    # Fabric goes through what it sends to its processes, and refuses frozen dataclasses.
    return run.folder, run.key, run.preset, dataclasses.asdict(run.config)


def _follow(run: Run) -> None:
    load_study(run.key).run(run.config, run)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # The system lets go of the lock when the process ends, however it ends.
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise JostleError(f"{folder} is still being worked on by another process") from None
    except OSError as error:
        raise JostleError(f"could not write in the run folder {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _carry_out(run: Run) -> Run:
    study = load_study(run.key)
    try:
        metrics = study.run(run.config, run)
        run._flush()
        claims = [claim.record() for claim in judge(study.claims, metrics, run.preset)]
        write_json(run.folder / "claims.json", claims)
        write_json(run.folder / "result.json", {"study": run.key, "seconds": run.seconds, "metrics": metrics})
    except KeyboardInterrupt:
        _note(run, "interrupted", "stopped by hand")
        raise
    except BaseException as error:
        _note(run, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
        raise
    return _close(run)


def _close(run: Run) -> Run:
    run.status("finished")
    (run.folder / "error.txt").unlink(missing_ok=True)
    write_report(run.folder, room(run.key))
    return run


def _note(run: Run, state: str, sentence: str, trace: str | None = None) -> None:
    # On a full disk this fails as well; the error that brought us here is the one to tell.
    with suppress(JostleError):
        run.status(state, sentence)
        if trace is not None:
            write_text(run.folder / "error.txt", trace)
        write_report(run.folder, room(run.key))
