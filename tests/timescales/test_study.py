"""The study on tiny settings: figures, claims, and a run that is cut off and resumed."""

import json
import warnings

import pytest

from jostle import lab
from jostle.timescales import study
from jostle.timescales.training import CurriculumRun

TINY = {
    "hidden": 24,
    "networks": 2,
    "max_N": 3,
    "budget": 600,
    "batch": 64,
    "patience": 50,
    "test_batches": 4,
    "measured": (2, 3),
    "samples": 1500,
    "draws": 2,
    "scored": 150,
    "removed": 4,
    "start_N": 2,
    "targets": (4,),
    "epochs": 1,
    "direct_N": 3,
}


@pytest.mark.study
def test_a_run_that_was_cut_off_ends_as_the_unbroken_one(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the series has")
        whole = lab.run("timescales", root=tmp_path / "a", **TINY)
        calls = []

        def cut(run: CurriculumRun, real=CurriculumRun.state):
            calls.append(run.steps)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return real(run)

        monkeypatch.setattr(CurriculumRun, "state", cut)
        monkeypatch.setattr("jostle.lab.runs.Stage.save", lambda stage, state: _always(stage, state))
        with pytest.raises(KeyboardInterrupt):
            lab.run("timescales", root=tmp_path / "b", **TINY)
        monkeypatch.undo()
        folder = next((tmp_path / "b" / "timescales").iterdir())
        again = lab.resume(folder)
    results = [json.loads((run.folder / "result.json").read_text())["metrics"] for run in (whole, again)]
    assert results[0] == results[1]
    names = [figure["name"] for figure in json.loads((again.folder / "figures" / "figures.json").read_text())]
    assert names[:3] == ["learning", "forgetting", "timescales"]
    verdicts = {
        claim["id"]: claim["verdict"] for claim in json.loads((again.folder / "claims.json").read_text())
    }
    assert verdicts["TIMESCALES-C7"] == "not-tested"


def _always(stage, state):
    value = state() if callable(state) else state
    stage._write(stage.partial, value)


def test_presets_are_of_one_class_and_grow():
    presets = study.STUDY.presets
    assert presets["quick"].hidden < presets["gpu"].hidden <= presets["paper"].hidden
    assert presets["quick"].max_N < presets["gpu"].max_N < presets["paper"].max_N
