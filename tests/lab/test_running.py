"""Studies are started and taken up again; everything wrong is a sentence."""

import json

import pytest

from jostle import lab
from jostle.core.errors import JostleError
from jostle.files import read_json, write_json
from jostle.lab.study import Study


def test_a_run_leaves_all_its_files(toy, tmp_path):
    run = lab.run("toy", root=tmp_path, steps=7, layers=(1, 2, 3))
    assert read_json(run.folder / "status.json") == {"state": "finished", "message": ""}
    assert read_json(run.folder / "config.json")["config"]["layers"] == [1, 2, 3]
    result = read_json(run.folder / "result.json")
    assert result["study"] == "toy" and result["seconds"] > 0
    assert len(result["metrics"]["end"]["x"]) == 3 and result["metrics"]["infinite"] is None
    assert [claim["verdict"] for claim in read_json(run.folder / "claims.json")] == [
        "holds",
        "fails",
        "not-tested",
    ]
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 5 + 1 + 7
    assert "Damped response" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_root_comes_from_the_environment(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("JOSTLE_RUNS", str(tmp_path / "elsewhere"))
    assert lab.run("toy", steps=1).folder.parent == tmp_path / "elsewhere" / "toy"


def test_a_failed_run_says_so_and_goes_on_where_it_stopped(toy, tmp_path, monkeypatch):
    with pytest.raises(ArithmeticError):
        lab.run("toy", root=tmp_path, fail=True)
    folder = next((tmp_path / "toy").iterdir())
    assert read_json(folder / "status.json") == {
        "state": "failed",
        "message": "ArithmeticError: the toy broke",
    }
    assert "the toy broke" in (folder / "error.txt").read_text()
    assert "This run failed: ArithmeticError: the toy broke" in (folder / "report.html").read_text(
        encoding="utf-8"
    )
    record = read_json(folder / "config.json")
    record["config"]["fail"] = False
    write_json(folder / "config.json", record)
    whole = lab.run("toy", root=tmp_path / "whole")
    resumed = lab.resume(folder)
    assert (folder / "metrics.jsonl").read_text() == (whole.folder / "metrics.jsonl").read_text()
    assert resumed.rows == whole.rows
    assert not (folder / "error.txt").exists()
    assert "This run failed" not in (folder / "report.html").read_text(encoding="utf-8")


def _replace(toy, monkeypatch, run):
    import sys

    study = Study("toy", toy.STUDY.presets, run, toy.CLAIMS)
    monkeypatch.setattr(sys.modules["jostle.toy.study"], "STUDY", study)


def test_an_interrupted_run_says_so_and_can_be_resumed(toy, tmp_path, monkeypatch):
    def interrupted(config, run):
        raise KeyboardInterrupt

    _replace(toy, monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.run("toy", root=tmp_path)
    folder = next((tmp_path / "toy").iterdir())
    assert read_json(folder / "status.json") == {"state": "interrupted", "message": "stopped by hand"}
    assert "was interrupted" in (folder / "report.html").read_text(encoding="utf-8")
    _replace(toy, monkeypatch, toy.run)
    assert read_json(lab.resume(folder).folder / "status.json")["state"] == "finished"


def test_a_claim_that_cannot_be_judged_fails_the_run_with_a_word(toy, tmp_path, monkeypatch):
    _replace(toy, monkeypatch, lambda config, run: {})
    with pytest.raises(KeyError):
        lab.run("toy", root=tmp_path)
    folder = next((tmp_path / "toy").iterdir())
    assert read_json(folder / "status.json")["message"] == "KeyError: 'end'"


def test_a_run_cut_off_before_its_page_gets_it(toy, tmp_path):
    folder = lab.run("toy", root=tmp_path, steps=2).folder
    before = (folder / "result.json").read_bytes()
    (folder / "report.html").unlink()
    write_json(folder / "status.json", {"state": "running", "message": ""})
    lab.resume(folder)
    assert (folder / "report.html").exists()
    assert read_json(folder / "status.json")["state"] == "finished"
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda root: lab.run("toi", root=root), "method must be one of .*universal.*, but 'toi' came"),
        (
            lambda root: lab.run("toy", "huge", root=root),
            "preset must be one of quick, paper for toy, but 'huge' came",
        ),
        (
            lambda root: lab.run("toy", root=root, step=3),
            "toy has no setting 'step'; its settings are steps, rate",
        ),
        (lambda root: lab.run("toy", root=root, steps="3"), "config field 'steps' must be int, but '3' came"),
        (lambda root: lab.run("toy", root=root, seed=True), "config field 'seed' must be int, but True came"),
        (
            lambda root: lab.run("toy", root=root, layers=(1, "b")),
            "config field 'layers' must be int, but 'b' came",
        ),
        (
            lambda root: lab.run("toy", root=root, limit=0.5),
            r"config field 'limit' must be int \| None, but 0.5 came",
        ),
        (lambda root: lab.resume(root), "is not a run folder: it has no config.json"),
    ],
)
def test_wrong_requests_are_sentences_and_leave_nothing(toy, tmp_path, call, sentence):
    with pytest.raises(JostleError, match=sentence):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_resumed(toy, tmp_path):
    folder = lab.run("toy", root=tmp_path, steps=1).folder
    with pytest.raises(JostleError, match="is finished: there is nothing to resume"):
        lab.resume(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"study": "toy", ', "is not valid JSON"),
        ("[]", "is not a run's configuration"),
        ('{"study": "toy", "preset": "quick"}', "is not a run's configuration"),
        ('{"study": "toy", "preset": "quick", "config": 3}', "is not a run's configuration"),
        ('{"study": "toi", "preset": "quick", "config": {}}', "method must be one of"),
        ('{"study": "toy", "preset": "quick", "config": {"stepp": 3}}', "config has no field 'stepp'"),
        (
            '{"study": "toy", "preset": "quick", "config": {"nudge": {"radius": "x"}}}',
            "'radius' must be float",
        ),
        ('{"study": "toy", "preset": "quick", "config": {"nudge": [1]}}', "'nudge' must be Nudge"),
    ],
)
def test_a_broken_configuration_is_a_sentence(toy, tmp_path, text, sentence):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JostleError, match=sentence):
        lab.resume(tmp_path)


def test_a_configuration_comes_back_from_its_json_as_it_was(toy):
    from dataclasses import asdict, replace

    from jostle.lab.study import rebuild

    config = replace(toy.Config(), layers=(7,), limit=4, nudge=toy.Nudge(0.5, "L2"), rate=1)
    assert rebuild(toy.Config, json.loads(json.dumps(asdict(config)))) == config


def test_changed_settings_are_kept_and_said_beside_the_verdicts(toy, tmp_path):
    folder = lab.run("toy", root=tmp_path, steps=7, seed=3, nudge=toy.Nudge(norm="<L2>")).folder
    assert read_json(folder / "config.json")["changed"] == {
        "steps": 7,
        "nudge": {"radius": 0.0392156862745098, "norm": "<L2>"},
    }
    page = (folder / "report.html").read_text(encoding="utf-8")
    said = "Settings changed: steps = 7, nudge.radius = 0.0392156862745098, nudge.norm = &lt;L2&gt;; the verdicts"
    assert said in page
    lab.write_index(tmp_path)
    assert "quick, settings changed" in (tmp_path / "index.html").read_text(encoding="utf-8")
    plain = lab.run("toy", root=tmp_path, seed=3).folder
    assert read_json(plain / "config.json")["changed"] == {}
    assert "ettings changed" not in (plain / "report.html").read_text(encoding="utf-8")


def test_settings_that_were_edited_in_the_folder_are_said_too(toy, tmp_path, monkeypatch):
    _replace(toy, monkeypatch, lambda config, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.run("toy", root=tmp_path)
    (folder,) = (tmp_path / "toy").iterdir()
    record = read_json(folder / "config.json")
    write_json(folder / "config.json", {**record, "config": {**record["config"], "layers": [4]}})
    _replace(toy, monkeypatch, toy.run)
    lab.resume(folder)
    assert read_json(folder / "config.json")["changed"] == {"layers": [4]}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_setting_that_json_cannot_hold_is_refused(toy, tmp_path, value):
    from dataclasses import replace

    for call in (
        lambda: lab.run("toy", root=tmp_path, rate=value),
        lambda: lab.start("toy", "quick", replace(toy.Config(), nudge=toy.Nudge(value)), tmp_path),
    ):
        with pytest.raises(JostleError, match=f"must be a finite number, but {value} came"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_still_at_work_is_not_taken_up(toy, tmp_path, monkeypatch):
    def impatient(config, run):
        draft = run.folder / ".page.1.draft.html"
        draft.write_text("half of")
        with pytest.raises(JostleError, match="is still being worked on by another process"):
            lab.resume(run.folder)
        assert draft.exists()  # of the process that is at work
        raise ArithmeticError("over")

    _replace(toy, monkeypatch, impatient)
    with pytest.raises(ArithmeticError, match="over"):
        lab.run("toy", root=tmp_path)
    _replace(toy, monkeypatch, toy.run)
    (folder,) = (tmp_path / "toy").iterdir()
    assert read_json(lab.resume(folder).folder / "status.json")["state"] == "finished"
