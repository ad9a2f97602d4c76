"""The study end to end on ten real days, its claims, and a run that was cut off."""

import json

import pytest

from jostle import lab
from jostle.lab.claims import judge
from jostle.observation.study import CLAIMS, PRESETS

SMALL = {
    "hidden": (16, 16),
    "attacks": ("bifurcated", "stealth bifurcated"),
    "hours": 240,
    "batteries": 2,
    "epochs": 4,
    "pendulums": 0,
    "harden_hours": 0,
    "permutations": 19,
    "rows": 200,
    "steps": 5,
    "jobs": 1,
}
LEARNT = {
    **SMALL,
    "agent": "sac",
    "train_steps": 128,
    "attacks": PRESETS["gpu"].attacks,
    "hours": 120,
    "batteries": 1,
    "harden_hours": 60,
    "bins": 4,
    "turns": 1,
}


@pytest.mark.study
def test_every_piece_of_the_large_preset_runs(tmp_path, district):
    done = lab.run("observation", root=tmp_path, **LEARNT)
    assert {path.stem for path in (done.folder / "figures").glob("*.png")} == {
        "week", "kpis", "difference", "stealth", "certified"
    }  # fmt: skip
    found = json.loads((done.folder / "result.json").read_text())["metrics"]
    assert found["certified"]["inside"] and found["certified"]["one attack"]
    verdicts = {item.id: item.verdict for item in judge(CLAIMS, found, "gpu")}
    assert {k for k, verdict in verdicts.items() if verdict == "not-tested"} == {"OBS-P1", "OBS-P2"}


def row(cost, ramping, linf=0.05):
    return {"kpi regret": {"cost": [cost] * 3, "ramping": [ramping] * 3}, "linf": linf}


def turns(plain, after):
    return {
        name: {"regret": {"ramping": ramping}, "clean": {"cost": 0.8}}
        for name, ramping in (("plain", plain), ("alternated", after))
    }


def metrics(**changes):
    attacks = {
        "uniform noise": row(0.03, 0.1),
        "regression": row(0.1, 0.3),
        "bifurcated": row(0.13, 0.1),
        "toggle": row(0.1, 0.7),
        "black-box toggle": row(0.1, 0.5),
    }
    caught = {"mmd": False, "ks": True}
    base = {
        "agent": "clone",
        "attacks": attacks,
        "detected": {
            "stealth bifurcated": {"p": 0.4, "caught": caught},
            "bifurcated": {"p": 0.002, "caught": caught},
        },
        "pendulum": [
            {"regret": {"0.1": {}, "0.02": {"bifurcated": 300.0, "regression": 2.0, "uniform noise": 0.3}}}
        ],
        "certified": {"attacked": 0.2, "crown": 0.3, "ibp": 2.0, "inside": True, "one attack": True},
        "hardened": {
            "plain": {"cost regret": 0.2, "clean cost": 0.7},
            "smooth": {"cost regret": 0.05, "clean cost": 0.72},
        },
        "discretised": {"bins": 20, "cost regret": [0.05] * 3},
        "alternated": turns(0.4, 0.01),
    }
    return base | changes


def verdicts(m, preset="quick"):
    return {item.id: item.verdict for item in judge(CLAIMS, m, preset)}


def test_all_claims_can_hold():
    found = verdicts(metrics())
    assert {found.pop(f"OBS-C{i}") for i in (4, 5, 6, 7)} == {"not-tested"}
    assert set(found.values()) == {"holds"}
    at_scale = verdicts(metrics(), "gpu")
    assert {at_scale[f"OBS-C{i}"] for i in (5, 6, 7)} == {"holds"}
    more = metrics()["attacks"] | {"optimally targeted": row(0.5, 0.1, 0.5)}
    assert verdicts(metrics(attacks=more), "gpu")["OBS-C4"] == "holds"


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("OBS-C1", {"attacks": metrics()["attacks"] | {"regression": row(0.14, 0.3)}}),
        ("OBS-C2", {"attacks": metrics()["attacks"] | {"toggle": row(0.1, 0.2)}}),
        ("OBS-C3", {"attacks": metrics()["attacks"] | {"uniform noise": row(0.05, 0.1)}}),
        ("OBS-C5", {"discretised": {"bins": 20, "cost regret": [0.05, 0.2, 0.05]}}),
        ("OBS-C6", {"alternated": turns(0.4, 0.3)}),
        ("OBS-C7", {"detected": {n: {"p": 0.2, "caught": {}} for n in ("bifurcated", "stealth bifurcated")}}),
        ("OBS-D1", {"detected": {"stealth bifurcated": {"p": 0.2, "caught": {"ks": False}}}}),
        ("OBS-C8", {"attacks": metrics()["attacks"] | {"black-box toggle": row(0.1, 0.05)}}),
        ("OBS-C9", {"certified": metrics()["certified"] | {"one attack": False}}),
        (
            "OBS-P1",
            {
                "pendulum": [
                    {"regret": {"0.02": {"bifurcated": 9.0, "regression": 2.0, "uniform noise": 0.3}}}
                ]
            },
        ),
        (
            "OBS-P2",
            {
                "pendulum": [
                    {"regret": {"0.02": {"bifurcated": 9.0, "regression": 1.0, "uniform noise": 0.5}}}
                ]
            },
        ),
        ("OBS-D2", {"certified": metrics()["certified"] | {"crown": 0.5}}),
        ("OBS-D3", {"hardened": {n: {"cost regret": 0.2, "clean cost": 0.7} for n in ("plain", "smooth")}}),
    ],
)
def test_every_claim_can_fail(claim, changes):
    assert verdicts(metrics(**changes), "gpu")[claim] == "fails"


def test_what_was_not_measured_is_not_tested():
    found = verdicts(
        metrics(pendulum=[], hardened=None, detected={}, attacks={}, discretised=None, alternated=None)
    )
    assert {k for k, v in found.items() if v == "not-tested"} == {
        "OBS-C1", "OBS-C2", "OBS-C3", "OBS-C4", "OBS-C5", "OBS-C6", "OBS-C7", "OBS-C8", "OBS-D1", "OBS-D3", "OBS-P1", "OBS-P2"
    }  # fmt: skip


def test_presets_are_configurations():
    assert set(PRESETS) == {"quick", "gpu", "paper"} and PRESETS["gpu"].agent == "sac"
    assert PRESETS["paper"].hidden == (256, 256) and PRESETS["quick"].batteries == 3
