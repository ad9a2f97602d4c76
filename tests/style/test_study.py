"""The study end to end on real digits, its claims, and a run that was cut off."""

import json

import pytest

from jostle import lab
from jostle.lab.claims import judge
from jostle.style.study import CLAIMS, PRESETS

SMALL = {
    "seeds": 1,
    "epochs": 1,
    "methods": ("erm", "advstyle"),
    "attacked": 8,
    "attack_steps": 2,
    "retrieval": ("erm", "direction"),
}


@pytest.mark.study
def test_the_study_runs_whole(tmp_path):
    whole = lab.run("style", root=tmp_path, **SMALL)
    wanted = json.loads((whole.folder / "result.json").read_text())["metrics"]
    assert set(wanted["methods"]) == set(SMALL["methods"])
    assert {path.stem for path in (whole.folder / "figures").glob("*.png")} == {
        "accuracy", "paired", "worst-style", "style-space", "scales", "retrieval"
    }  # fmt: skip
    assert set(wanted["retrieval"]) == {"untrained", "erm", "direction"}
    assert set(wanted["retrieval_paired"]) == {"erm - untrained", "direction - erm"}


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


def test_rows_that_belong_to_other_experiments():
    def verdicts(preset, **changes):
        return {item.id: item.verdict for item in judge(CLAIMS, metrics(0.5) | changes, preset)}

    row = metrics(0.5)["methods"]["erm"]
    pairs = {"advstyle - dsu": interval(0.5, -1.0, 2.0), "dsu - erm": interval(5.0, 1.0, 9.0)}
    both = {"methods": {"erm": row, "dsu": row, "advstyle": row}, "network": "torchvision:resnet18"}
    found = verdicts("gpu", paired=pairs, leave_one_out=True, **both)
    assert (found["STY-C4"], found["STY-C6"], found["STY-C1"]) == ("holds", "not-tested", "not-tested")
    found = verdicts("gpu", paired=pairs, leave_one_out=False, **both)
    assert (found["STY-C4"], found["STY-C6"]) == ("not-tested", "holds")
    early = {"advstyle - advstyle-early": interval(1.0, -0.5, 2.5)}
    assert verdicts("paper", paired=early)["STY-C5"] == "fails"
    assert verdicts("gpu", paired=early)["STY-C5"] == "not-tested"
    found = {
        name: {"mean_ap": interval(mean, mean - 1, mean + 1)}
        for name, mean in (("untrained", 40.0), ("dsu", 50.0), ("direction", 53.0))
    }
    gap = {"direction - dsu": interval(3.0, 1.0, 5.0)}
    assert verdicts("quick", retrieval=found, retrieval_paired=gap)["STY-C3"] == "holds"


def test_presets_are_configurations():
    assert set(PRESETS) == {"quick", "gpu", "paper"} and PRESETS["paper"].at == "official"
