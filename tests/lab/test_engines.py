"""Tasks give the same results on every engine."""

import importlib.util
import math
import sys

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


def test_loky_gives_the_results_of_one_job():
    assert sorted(parallel(math.sqrt, ITEMS, jobs=2)) == ROOTS


def test_a_failing_task_raises_its_own_error():
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(parallel(math.sqrt, [1, -1], jobs=2))


def test_who_has_enough_may_leave():
    for index, root in parallel(math.sqrt, ITEMS * 3, jobs=2):
        assert root == math.sqrt((ITEMS * 3)[index])
        break
    assert sorted(parallel(math.sqrt, ITEMS, jobs=2)) == ROOTS


@pytest.mark.study
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="dask's distributed is not installed"
)
def test_dask_gives_the_same_results():
    assert sorted(parallel(math.sqrt, ITEMS, engine="dask", jobs=2)) == ROOTS


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
