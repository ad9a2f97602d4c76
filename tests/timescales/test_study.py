"""The study on tiny settings: figures, claims, and a run that is cut off and resumed."""

import json
import warnings

import pytest

from jostle import lab
from jostle.lab.claims import judge
from jostle.timescales import LeakyRNN, SingleHead, probes, study, train_curriculum
from jostle.timescales.records import CurriculumRun
from tests.timescales.test_training import Easy

TINY = {
    "hidden": 16,
    "networks": 2,
    "max_N": 3,
    "budget": 150,
    "batch": 32,
    "patience": 25,
    "test_batches": 4,
    "measured": (2, 3),
    "samples": 800,
    "draws": 2,
    "scored": 150,
    "removed": 4,
    "start_N": 2,
    "targets": (4,),
    "epochs": 1,
    "epoch": 10,
    "jobs": 1,
}


@pytest.mark.study
def test_a_run_that_was_cut_off_ends_as_the_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(study.Config, "memory_task", property(lambda config: Easy()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the series has")
        with monkeypatch.context() as quick:  # the figures are drawn once, by the run that is resumed
            quick.setattr("jostle.lab.runs.Run.figure", lambda run, name, figure, caption: None)
            whole = lab.run("timescales", root=tmp_path / "a", **TINY)
        calls = []

        def cut(run: CurriculumRun, real=CurriculumRun.state):
            calls.append(run.steps)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(run)

        with monkeypatch.context() as broken:
            broken.setattr(CurriculumRun, "state", cut)
            broken.setattr("jostle.lab.runs.Stage.save", lambda stage, state: _always(stage, state))
            with pytest.raises(KeyboardInterrupt):
                lab.run("timescales", root=tmp_path / "b", **TINY)
        folder = next((tmp_path / "b" / "timescales").iterdir())
        again = lab.resume(folder)
    results = [json.loads((run.folder / "result.json").read_text())["metrics"] for run in (whole, again)]
    assert results[0] == results[1]
    assert results[0]["probe_N"] >= 2  # it was nudged, too
    assert calls[-1] == 100
    names = [figure["name"] for figure in json.loads((again.folder / "figures" / "figures.json").read_text())]
    assert names[:3] == ["learning", "forgetting", "timescales"]
    verdicts = {
        claim["id"]: claim["verdict"] for claim in json.loads((again.folder / "claims.json").read_text())
    }
    assert verdicts["TIMESCALES-C7"] == "not-tested"


@pytest.mark.study
def test_controls_are_trained_and_named(tmp_path):
    tiny = {**TINY, "hidden": 8, "networks": 1, "budget": 60, "patience": 30, "targets": ()}
    extra = {"fixed_taus": (1.0,), "outside": True, "direct_N": 3, "gated": ("gru",)}
    run = lab.run("timescales", root=tmp_path, **tiny, **extra)
    metrics = json.loads((run.folder / "result.json").read_text())["metrics"]
    leaky = ["multi tau=1", "single tau=1", "multi outside", "single outside", "direct(3)"]
    assert list(metrics["controls"]) == [*leaky, "multi gru", "single gru"]
    assert set(metrics["tau"]) == {"multi", "single", *metrics["controls"]}
    assert metrics["probe_N"] == 0


def _always(stage, state):
    value = state() if callable(state) else state
    stage._write(stage.partial, value)


def judged(metrics, preset="paper"):
    return {row.id.removeprefix("TIMESCALES-"): row for row in judge(study.STUDY.claims, metrics, preset)}


@pytest.mark.parametrize(
    ("difference", "p", "verdict"), [(0.1, 0.01, "holds"), (0.1, 0.2, "fails"), (-0.1, 0.01, "fails")]
)
def test_robustness_must_be_significant(difference, p, verdict):
    curves = {"single": {"0.464": 0.6}, "multi": {"0.464": 0.7}}
    test = {"multi vs single": {"difference": difference, "p": p}}
    found = judged(
        {"probe_N": 12, "perturbation": {"weights": curves}, "robustness": {"weights": test}}, "gpu"
    )
    assert found["C8"].verdict == verdict
    assert f"p = {p}" in found["C8"].measured
    assert found["C9"].verdict == "not-tested"


@pytest.mark.parametrize(
    ("multi", "single", "verdict"), [(8, 6, "holds"), (6, 6, "fails"), (0, 0, "not-tested")]
)
def test_who_learned_nothing_proves_nothing(multi, single, verdict):
    same = {"steps": 900, "multi": multi, "single": [single, 2 if single else 0]}
    assert judged({"task": "parity", "same_steps": same}, "quick")["C1"].verdict == verdict


@pytest.mark.parametrize(
    ("last", "verdict"), [({15: 4.0}, "holds"), ({15: 2.0}, "fails"), ({}, "not-tested")]
)
def test_growth_of_tau_net_needs_a_later_point_of_both(last, verdict):
    def points(means):
        return [{"network": 0.0, "N": float(N), "tau_net_mean": mean} for N, mean in means.items()]

    metrics = {"timescales": {"multi": points({5: 2.2, 15: 4.3}), "single": points({2: 2.0, 5: 2.2, **last})}}
    assert judged(metrics, "gpu")["C5"].verdict == verdict


def test_robustness_is_judged_at_the_size_that_the_claim_names():
    sizes = [0.0, 0.1, 0.46416, 1.0]
    rows = {"single": [[1, 1, 0.6, 0], [1, 1, 0.7, 0], [1, 1, 0.65, 0]], "multi": [[1, 0, 0.9, 0]] * 3}
    part = {name: {"sizes": sizes, "networks": networks} for name, networks in rows.items()}
    found = probes.robustness({"weights": part, "tau_abs": part})
    assert found["weights"]["single vs multi"]["difference"] == pytest.approx(-0.25)
    assert found["weights"]["single vs multi"]["p"] < 0.05
    assert found["tau_abs"]["single vs multi"] == {"difference": 1.0, "p": 0.0}


def test_claims_on_other_cells_and_tasks():
    metrics = {
        "task": "dms",
        "solved": {"single": [60, 61], "multi": [80, 82]},
        "tau": {
            "single": {"40": 1.0, "60": 2.0},
            "multi": {"40": 1.5, "60": 1.2, "80": 1.1},
            "single outside": {"10": 1.4, "25": 1.6},
            "multi outside": {"25": 1.2, "30": 1.1},
        },
        "controls": {
            "single lstm": [20, 21],
            "multi lstm": [30, 31],
            "single gru": [25, 31],
            "multi gru": [30, 31],
            "single outside": [25, 26],
            "multi outside": [40, 41],
        },
    }
    found = judged(metrics)
    assert found["C12"].verdict == "fails"  # one single-head GRU is as far as the multi-head ones
    assert found["C13"].verdict == "holds"
    assert "N = 25" in found["C13"].measured
    assert found["C14"].verdict == "holds"
    assert "N = 60: single 2.00, multi 1.20" in found["C14"].measured
    assert found["C1"].verdict == "not-tested"  # a claim on parity
    assert judged(metrics, "quick")["C12"].verdict == "not-tested"
    early = {**metrics, "tau": {"single": {"40": 2.0}, "multi": {"40": 1.0}}}
    assert judged(early)["C14"].verdict == "not-tested"


def test_every_claim_of_the_paper_has_a_row():
    assert [claim.id for claim in study.STUDY.claims] == [f"TIMESCALES-C{i}" for i in range(1, 16)]


def test_networks_are_probed_where_all_left_a_checkpoint():
    config = study.Config(measured=(2, 30), networks=1)
    assert {16, 18, 40, 100} <= config.kept
    assert 17 not in config.kept

    def trained(*kept):
        run = train_curriculum([LeakyRNN(4)], config.memory_task, SingleHead(), max_steps=0)
        run.learners[0].kept = {N: {} for N in kept}
        return run

    assert probes.common_N(config, {"multi": trained(2, 16, 18), "single": trained(2, 16)}) == 16
    assert probes.common_N(config, {"multi": trained(2), "single": trained()}) == 0


def test_presets_are_of_one_class_and_grow():
    presets = study.STUDY.presets
    assert presets["quick"].hidden < presets["gpu"].hidden <= presets["paper"].hidden
    assert presets["quick"].max_N < presets["gpu"].max_N < presets["paper"].max_N
