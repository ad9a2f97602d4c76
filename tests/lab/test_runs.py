"""A run keeps what it did, and a resumed one goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import load_file

from jostle import lab
from jostle.core.errors import JostleError
from jostle.files import read_json
from jostle.lab import Run
from jostle.lab.style import figure, house_style

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture
def fresh(toy, tmp_path):
    return Run.create("toy", "quick", toy.Config(), tmp_path)


def _again(run: Run) -> Run:
    return Run.open(run.folder, run.config)


def _log(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_folder_says_what_the_run_was_given(fresh):
    config = read_json(fresh.folder / "config.json")
    assert (config["study"], config["preset"]) == ("toy", "quick")
    assert config["config"]["nudge"] == {"radius": 0.0392156862745098, "norm": "Linf"}
    environment = read_json(fresh.folder / "environment.json")
    assert environment["seed"] == 0
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert read_json(fresh.folder / "status.json")["state"] == "running"


def test_runs_of_the_same_second_get_folders_of_their_own(toy, tmp_path):
    folders = {Run.create("toy", "quick", toy.Config(), tmp_path).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_folder_is_there_with_its_configuration_or_not_at_all(toy, tmp_path, monkeypatch):
    place, killed = tmp_path / "toy", tmp_path / "toy" / ".killed.draft"

    def amid(seed):
        assert all(path.name.startswith(".") for path in place.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("jostle.lab.runs.environment", amid)
        Run.create("toy", "quick", toy.Config(), tmp_path)
    assert not list(place.iterdir())
    (killed / "a run").mkdir(parents=True)
    made = Run.create("toy", "quick", toy.Config(), tmp_path)
    assert set(place.iterdir()) == {killed, made.folder}  # somebody may still be at work there
    os.utime(killed, (0, 0))
    more = Run.create("toy", "quick", toy.Config(), tmp_path)
    assert set(place.iterdir()) == {made.folder, more.folder}


def test_a_long_task_goes_on_where_it_was_and_a_torn_state_is_a_sentence(fresh):
    def count(given):
        until, partial = given
        seen.append(partial.load() or 0)
        partial.every = 0.0
        for i in range(seen[-1] + 1, until + 1):
            partial.save(lambda i=i: i)
            if i == stop:
                raise KeyboardInterrupt
        return until

    seen, stop, tasks = [], 3, {"two": 2, "five": 5}
    with pytest.raises(KeyboardInterrupt):
        lab.sweep(fresh, "count", count, tasks, partial=True)
    (left,) = (fresh.folder / "checkpoints").glob("count.*.partial.pt")
    assert "five" in left.name
    whole, stop = left.read_bytes(), 0
    left.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JostleError, match=r"checkpoint .*five.* cannot be read .*; delete it"):
        lab.sweep(_again(fresh), "count", count, tasks, partial=True)
    left.write_bytes(whole)
    again = _again(fresh)
    assert lab.sweep(again, "count", count, tasks, partial=True) == tasks
    assert seen == [0, 0, 3]
    assert [path.name for path in (fresh.folder / "checkpoints").iterdir()] == ["count.pt"]


def test_a_root_that_cannot_be_made_is_a_sentence(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JostleError, match="could not make the run folder"):
        Run.create("toy", "quick", toy.Config(), tmp_path / "file")


def test_a_finished_stage_is_not_done_again_and_its_rows_stay(fresh):
    def work(stage, value):
        fresh.log(stage=stage.name, value=value)
        return {"x": torch.tensor([value]), "t": (1, "a"), "none": None}

    assert fresh.stage("one", lambda s: work(s, 1.0))["x"].item() == 1.0
    fresh.log(stage="between", value=0.5)
    fresh.stage("two", lambda s: work(s, 2.0))
    again = _again(fresh)
    kept = again.stage("one", lambda s: pytest.fail("done again"))
    assert kept == {"x": torch.tensor([1.0]), "t": (1, "a"), "none": None}
    again.log(stage="between", value=0.5)
    again.stage("two", lambda s: pytest.fail("done again"))
    assert again.rows == fresh.rows == _log(fresh)
    assert [row["value"] for row in again.rows] == [1.0, 0.5, 2.0]


def test_rows_beyond_the_checkpoint_are_dropped_and_a_torn_log_does_no_harm(fresh):
    fresh.stage("one", lambda s: fresh.log(value=1))

    def cut(stage):
        stage.every = 0.0
        fresh.log(value=2)
        stage.save(7)
        fresh.log(value=3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh.stage("two", cut)
    fresh._flush()
    (fresh.folder / "metrics.jsonl").write_text('{"value": 1}\n{"val')
    again = _again(fresh)
    again.stage("one", lambda s: pytest.fail("done again"))

    def finish(stage):
        assert stage.load() == 7
        assert [row["value"] for row in again.rows] == [1, 2]
        again.log(value=4)

    again.stage("two", finish)
    assert [row["value"] for row in _log(again)] == [1, 2, 4]


def test_a_kill_before_the_first_checkpoint_does_not_double_rows(fresh):
    fresh.log(value=1)
    fresh._flush()
    again = _again(fresh)
    again.log(value=1)
    again.stage("one", lambda s: None)
    assert _log(again) == [{"value": 1}]


def test_time_taken_counts_the_stages_before_the_resume(fresh):
    fresh.stage("one", lambda s: time.sleep(0.1))
    again = _again(fresh)
    again._started = time.perf_counter()
    assert again.seconds < 0.1
    again.stage("one", lambda s: None)
    assert again.seconds >= 0.1


def test_a_corrupted_checkpoint_is_a_sentence(fresh):
    fresh.stage("one", lambda s: torch.zeros(100))
    path = next((fresh.folder / "checkpoints").iterdir())
    for damaged in (path.read_bytes()[:200], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(JostleError, match=r"one\.pt cannot be read .* delete it to redo that stage"):
            _again(fresh).stage("one", lambda s: None)
    path.unlink()
    assert _again(fresh).stage("one", lambda s: 3) == 3


def test_what_a_checkpoint_cannot_keep_is_a_sentence_and_no_file(fresh):
    with pytest.raises(JostleError, match="stage 'one' can keep tensors, numbers, strings"):
        fresh.stage("one", lambda s: Path("x"))
    assert not list(fresh.folder.glob("checkpoints/*"))


def test_names_of_stages_are_unique(fresh):
    fresh.stage("one stage", lambda s: None)
    with pytest.raises(JostleError, match="must be unique in the run, but 'one-stage' came twice"):
        fresh.stage("one-stage", lambda s: None)


def test_checkpoints_are_kept_at_most_every_so_often(fresh):
    calls = []

    def work(stage):
        stage.save(lambda: calls.append("soon"))
        stage.every = 0.0
        stage.save(lambda: calls.append("due"))

    fresh.stage("one", work)
    assert calls == ["due"]


def test_generators_depend_on_seed_and_name_alone(toy, fresh, tmp_path):
    other = Run.create("toy", "quick", toy.Config(seed=1), tmp_path)

    def draw(run, name):
        return torch.rand(4, generator=run.generator(name)).tolist()

    first = draw(fresh, "a")
    fresh.generator("b").seed()
    torch.rand(3)
    assert draw(fresh, "a") == first == draw(_again(fresh), "a")
    assert draw(fresh, "b") != first
    assert draw(other, "a") != first


def test_figures_are_kept_in_order_and_replaced_in_place(fresh):
    for name, caption in (("first one", "a"), ("second", "b"), ("first one", "c")):
        with house_style():
            made, axes = figure()
            axes.plot([1, 2])
        fresh.figure(name, made, caption)
    listing = read_json(fresh.folder / "figures" / "figures.json")
    assert [(f["file"], f["caption"]) for f in listing] == [("first-one.svg", "c"), ("second.svg", "b")]
    assert sorted(os.listdir(fresh.folder / "figures")) == [
        "figures.json", "first-one.png", "first-one.svg", "second.png", "second.svg"
    ]  # fmt: skip
    assert plt.get_fignums() == []


def test_tensors_are_kept_also_when_they_share_memory(fresh):
    x = torch.arange(6.0, requires_grad=True)
    path = fresh.tensors("delta", {"all": x, "part": x[::2]})
    kept = load_file(path)
    assert kept["all"].equal(x.detach()) and kept["part"].equal(x.detach()[::2])


def test_drafts_that_a_kill_left_are_swept_up(fresh):
    draft = fresh.folder / "figures" / ".x.12.draft.svg"
    draft.parent.mkdir()
    draft.write_text("half")
    _again(fresh)
    assert not draft.exists()


@pytest.mark.study
@pytest.mark.parametrize("rows", [0, 17])
def test_killed_and_resumed_equals_unbroken(toy, tmp_path, rows):
    """SIGKILL once the log has that many rows, then resume."""
    whole = lab.run("toy", root=tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(TOY), str(tmp_path / "cut")], env=environment)
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        logs = list((tmp_path / "cut").glob("toy/*/metrics.jsonl"))
        folders = list((tmp_path / "cut").glob("toy/*/status.json"))
        if folders and (rows == 0 or (logs and len(logs[0].read_text().splitlines()) >= rows)):
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = folders[0].parent
    assert not (folder / "result.json").exists()
    resumed = lab.resume(folder)
    assert read_json(folder / "result.json")["metrics"] == read_json(whole.folder / "result.json")["metrics"]
    assert (folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    assert resumed.config.pause == 0.01
    assert read_json(folder / "status.json")["state"] == "finished"
    assert not list(folder.rglob(".*draft*"))
