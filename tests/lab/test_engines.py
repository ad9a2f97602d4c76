"""Tasks give the same results on every engine."""

import importlib.util
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import plain

from jostle.core.errors import JostleError, MissingExtra
from jostle.lab import parallel

ITEMS = [16, 25, 36, 49]
ROOTS = [(0, 4.0), (1, 5.0), (2, 6.0), (3, 7.0)]


def test_one_job_here():
    assert list(parallel(math.sqrt, ITEMS)) == ROOTS


def test_every_task_has_one_thread_and_the_setting_comes_back():
    before = torch.get_num_threads()
    assert list(parallel(lambda _: torch.get_num_threads(), [0, 0])) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == before


def test_no_more_processes_than_the_environment_allows(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert {pid for _, pid in parallel(lambda _: os.getpid(), [0, 0], jobs=2)} == {os.getpid()}


@pytest.mark.study
def test_a_failing_task_raises_its_own_error():
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(parallel(math.sqrt, [1, -1], jobs=2))


@pytest.mark.study
def test_loky_gives_the_results_of_one_job_also_after_somebody_left():
    for index, root in parallel(math.sqrt, ITEMS * 3, jobs=2):
        assert root == math.sqrt((ITEMS * 3)[index])
        break
    assert sorted(parallel(math.sqrt, ITEMS, jobs=2)) == ROOTS


@pytest.mark.study
def test_workers_end_with_the_process_that_they_work_for(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom jostle.lab import parallel\n"
        "def work(name):\n    Path(name).write_text(str(os.getpid()))\n    time.sleep(300)\n"
        "list(parallel(work, [f'{sys.argv[1]}/{i}.pid' for i in range(2)], jobs=2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    boss = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
    )
    workers = _wait_for(
        lambda: [p.read_text() for p in tmp_path.glob("*.pid")], lambda found: all(found) and len(found) == 2
    )
    boss.kill()
    boss.wait()
    left = _wait_for(lambda: [pid for pid in map(int, workers) if _alive(pid)], lambda alive: not alive)
    assert left == []


def _wait_for(look, enough):
    until = time.monotonic() + 120
    while not enough(found := look()):
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # whoever inherited it may not have buried it yet
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.study
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="dask's distributed is not installed"
)
def test_dask_gives_the_same_results_also_on_a_cluster_that_runs():
    import dask
    from distributed import LocalCluster

    assert sorted(parallel(math.sqrt, ITEMS, engine="dask", jobs=2)) == ROOTS
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        dask.config.set({"scheduler-address": cluster.scheduler_address}),
    ):
        assert sorted(parallel(math.sqrt, ITEMS, engine="dask", jobs=1)) == ROOTS


# Ray's own: a tip about a later version, and /dev/null left open.
@pytest.mark.study
@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")
@pytest.mark.filterwarnings("ignore:unclosed file.*/dev/null:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_results():
    import ray

    try:
        assert sorted(parallel(math.sqrt, ITEMS, engine="ray", jobs=2)) == ROOTS
        with pytest.raises(JostleError, match=r"jobs must be at most the \d+ CPUs of the Ray cluster"):
            list(parallel(math.sqrt, ITEMS, engine="ray", jobs=10_000))
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"engine": "slurm"}, "engine must be loky, ray or dask, but 'slurm' came"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_wrong_settings_are_a_sentence(wrong, sentence):
    with pytest.raises(JostleError, match=sentence):
        list(plain(parallel)(abs, [1], **wrong))


def test_a_missing_engine_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"jostle\[ray\]"):
        list(parallel(abs, [1], engine="ray"))
