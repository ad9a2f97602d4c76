"""The study end to end on real digits, its claims, and a run that was cut off."""

import json

import pytest

from jostle import lab
from jostle.lab import Stage
from jostle.lab.claims import judge
from jostle.style.study import CLAIMS, PRESETS

SMALL = {"seeds": 1, "epochs": 1, "methods": ("erm", "advstyle"), "attacked": 8, "attack_steps": 2}


@pytest.mark.study
def test_a_cut_off_run_gives_the_numbers_of_an_unbroken_one(tmp_path, monkeypatch):
    whole = lab.run("style", root=tmp_path, **SMALL)
    wanted = json.loads((whole.folder / "result.json").read_text())["metrics"]
    assert set(wanted["methods"]) == set(SMALL["methods"])
    assert {path.stem for path in (whole.folder / "figures").glob("*.png")} == {
        "accuracy", "paired", "worst-style", "style-space", "scales"
    }  # fmt: skip
    written = Stage._write
    count = 0

    def cut(*arguments, **settings):
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        return written(*arguments, **settings)

    monkeypatch.setattr(Stage, "_write", cut)
    with pytest.raises(KeyboardInterrupt):
        lab.run("style", root=tmp_path / "cut", **SMALL)
    monkeypatch.undo()
    (folder,) = (tmp_path / "cut" / "style").iterdir()
    again = lab.resume(folder)
    assert json.loads((again.folder / "result.json").read_text())["metrics"] == wanted


def interval(mean, low, high):
    return {"mean": mean, "sd": 1.0, "low": low, "high": high, "count": 5}


def metrics(low):
    row = {"macro": interval(50.0, 49.0, 51.0), "pooled": interval(50.0, 49.0, 51.0)}
    pairs = {"advstyle - erm": interval(3.0, low, 6.0)}
    return {"network": "small", "methods": {"erm": row, "advstyle": row}, "paired": pairs}


@pytest.mark.parametrize(("low", "verdict"), [(0.5, "holds"), (-0.5, "fails")])
def test_the_gain_holds_when_its_interval_is_above_zero(low, verdict):
    verdicts = {item.id: item.verdict for item in judge(CLAIMS, metrics(low), "quick")}
    assert verdicts["STY-GAIN"] == verdict
    assert verdicts["STY-ADVERSARY"] == verdicts["STY-C1"] == verdicts["STY-C3"] == "not-tested"
    assert verdicts["STY-C2"] == "fails"  # not above ERM


def test_presets_are_configurations():
    assert set(PRESETS) == {"quick", "gpu", "paper"} and PRESETS["paper"].at == "official"
