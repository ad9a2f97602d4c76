"""Independent tasks (seeds, sweeps, shards) on one machine or on an existing cluster, through joblib."""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

import joblib

from jostle.core.errors import JostleError, optional
from jostle.core.training import fabric_here

Engine = Literal["loky", "ray", "dask"]
Item = TypeVar("Item")


def parallel(
    function: Callable[[Item], Any], items: Sequence[Item], *, engine: Engine = "loky", jobs: int = 1
) -> Iterator[tuple[int, Any]]:
    """Run `function` on every item and yield `(index, result)` as the results come (with Ray: at the end).

    Every task runs on one thread, so that results depend neither on the number of jobs nor on the engine.

    **Arguments:** `function`: importable by name (a worker imports it). `items`: one argument a task.
    `engine`: `"loky"` (processes here, at most `LOKY_MAX_CPU_COUNT` of them where that is set), `"ray"` (the
    running or a local Ray), `"dask"` (the current or a local Dask cluster). `jobs`: tasks at a time; 1 runs them
    here, one after another.
    **Raises:** `JostleError` if `engine` is unknown, `MissingExtra` if it is not installed.

    >>> sorted(parallel(abs, [-2, 3]))
    [(0, 2), (1, 3)]
    """
    if engine not in ("loky", "ray", "dask"):
        raise JostleError(f"engine must be loky, ray or dask, but {engine!r} came")
    if jobs < 1:
        raise JostleError(f"jobs must be at least 1, but {jobs} came")
    if engine == "loky":  # what starts several studies side by side sets this limit
        jobs = min(jobs, max(1, int(os.environ.get("LOKY_MAX_CPU_COUNT") or jobs)))
    # Processes that train together go through the tasks together.
    if (engine == "loky" and jobs == 1) or fabric_here() is not None:
        for index, item in enumerate(items):
            yield _task(function, index, item)
        return
    with _backend(engine, jobs):
        # Ray's joblib backend hands all results over at the end.
        pool = joblib.Parallel(n_jobs=jobs, return_as="list" if engine == "ray" else "generator_unordered")
        # Ray and Dask look after their workers themselves.
        boss = os.getpid() if engine == "loky" else None
        results: Any = pool(joblib.delayed(_task)(function, i, item, boss) for i, item in enumerate(items))
        try:
            for result in results:  # noqa: UP028 - `yield from` would close the results itself, with joblib's warning
                yield result
        finally:
            _close(results)


def _close(results: Any) -> None:
    """Give up what has not been fetched, without joblib's word that it is given up."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ tasks which were still being processed", UserWarning)
        getattr(results, "close", lambda: None)()


def _task(
    function: Callable[[Item], Any], index: int, item: Item, boss: int | None = None
) -> tuple[int, Any]:
    import torch

    if boss is not None:
        _leave_with(boss)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return index, function(item)
    finally:
        torch.set_num_threads(threads)


@cache
def _leave_with(boss: int) -> None:
    """End this worker when the process that it works for is gone: after a kill it would work on for nobody."""

    def watch() -> None:
        while os.getppid() == boss:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _backend(engine: Engine, jobs: int) -> Iterator[None]:
    if engine == "loky":
        with joblib.parallel_config("loky", n_jobs=jobs):
            yield
    elif engine == "ray":
        ray = optional("ray", "ray")
        register = optional("ray.util.joblib", "ray").register_ray
        register()
        if not ray.is_initialized():
            ray.init()  # the cluster of RAY_ADDRESS, or one on this machine
        if (there := int(ray.cluster_resources().get("CPU", 0))) < jobs:
            raise JostleError(f"jobs must be at most the {there} CPUs of the Ray cluster, but {jobs} came")
        with joblib.parallel_config("ray", n_jobs=jobs):
            yield
    else:
        distributed = optional("distributed", "dask")
        try:
            client, ours = distributed.get_client(), False
        except ValueError:
            # Dask's own setting names a cluster that runs already: DASK_SCHEDULER_ADDRESS.
            there = optional("dask", "dask").config.get("scheduler-address", None)
            local = {} if there else {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
            client, ours = distributed.Client(**local), True
        try:
            with joblib.parallel_config("dask", n_jobs=jobs):
                yield
        finally:
            if ours:
                client.close()
