"""Start a study, or take up one that was cut off."""

import dataclasses
import time
import traceback
from pathlib import Path
from typing import Any

from jostle.core.errors import JostleError
from jostle.lab.claims import judge
from jostle.files import read_json, write_json, write_text
from jostle.lab.report import write_report
from jostle.lab.rooms import load_study, room
from jostle.lab.runs import Run
from jostle.lab.study import rebuild


def run(key: str, preset: str = "quick", *, root: Path | None = None, **changes: Any) -> Run:
    """Run a method's study into a fresh run folder, and write its report.

    **Arguments:** `key`: the method. `preset`: `quick`, `gpu` or `paper`. `root`: where runs go; default
    `JOSTLE_RUNS` or `./runs`. `changes`: fields of the study's configuration to change.
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
    return start(key, preset, dataclasses.replace(base, **changes), root)


def start(key: str, preset: str, config: Any, root: Path | None = None) -> Run:
    """Run a study with a whole configuration; see [`run`][jostle.lab.running.run]."""
    return _carry_out(Run.create(key, preset, config, root))


def resume(folder: Path) -> Run:
    """Finish the run in `folder` from its last checkpoint; the numbers are those of an unbroken run.

    **Raises:** `JostleError` if the folder is not a run, or is finished.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise JostleError(f"{folder} is not a run folder: it has no config.json")
    record = read_json(folder / "config.json")
    try:
        study = load_study(record["study"])
        config = rebuild(type(study.config(record["preset"])), record["config"])
    except (KeyError, TypeError, AttributeError) as error:
        raise JostleError(f"{folder / 'config.json'} is not a run's configuration") from error
    if (folder / "result.json").exists():
        raise JostleError(f"{folder} is finished: there is nothing to resume")
    return _carry_out(Run.open(folder, config))


def _carry_out(run: Run) -> Run:
    study = load_study(run.key)
    started = time.perf_counter()
    try:
        metrics = study.run(run.config, run)
    except KeyboardInterrupt:
        run.status("interrupted", "stopped by hand")
        raise
    except BaseException as error:
        write_text(run.folder / "error.txt", traceback.format_exc())
        run.status("failed", f"{type(error).__name__}: {error}")
        raise
    run._flush()
    claims = [claim.record() for claim in judge(study.claims, metrics, run.preset)]
    write_json(run.folder / "claims.json", claims)
    seconds = time.perf_counter() - started
    write_json(run.folder / "result.json", {"study": run.key, "seconds": seconds, "metrics": metrics})
    run.status("finished")
    (run.folder / "error.txt").unlink(missing_ok=True)
    write_report(run.folder, room(run.key))
    return run
