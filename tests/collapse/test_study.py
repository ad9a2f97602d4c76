"""The study end to end on a few real digits: all claims judged, all figures there."""

import json

import pytest

from jostle import lab
from jostle.collapse import study

TINY = {
    "count": 300,
    "greedy_seeds": 1,
    "greedy_epochs": 3,
    "depth": 3,
    "decay_epochs": 3,
    "every": 1,
    "jobs": 1,
    "bank": 10,
    "starts": 5,
    "width": 32,
}


@pytest.mark.study
def test_the_study_runs_whole(tmp_path) -> None:
    whole = lab.run("collapse", "quick", root=tmp_path / "whole", **TINY)
    claims = json.loads((whole.folder / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [claim.id for claim in study.CLAIMS]
    theory = {claim["id"]: claim["verdict"] for claim in claims if claim["id"] in EXACT}
    assert theory == dict.fromkeys(EXACT, "holds")
    figures = json.loads((whole.folder / "figures" / "figures.json").read_text())
    assert len(figures) == 9 and all((whole.folder / "figures" / f["file"]).exists() for f in figures)


# What does not hang on the size of a training.
EXACT = ("COL-C1", "COL-C2", "COL-C3", "COL-C4", "COL-D1")
