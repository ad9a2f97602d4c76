"""The study end to end, small: every claim judged, every figure there."""

import json

import pytest

from jostle import lab
from jostle.disk import study

TINY = {"points": 60, "stars": 6000, "times_myr": (100.0, 150.0), "radii": (4.0, 8.0, 16.0), "pulses": 40}


@pytest.mark.study
def test_the_study_runs_whole(tmp_path) -> None:
    pytest.importorskip("galpy")
    whole = lab.run("disk", "quick", root=tmp_path / "whole", **TINY)
    wanted = json.loads((whole.folder / "result.json").read_text())["metrics"]
    claims = json.loads((whole.folder / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [claim.id for claim in study.CLAIMS]
    assert {claim["verdict"] for claim in claims} == {"holds"}, claims
    figures = json.loads((whole.folder / "figures" / "figures.json").read_text())
    assert len(figures) == 7 and all((whole.folder / "figures" / f["file"]).exists() for f in figures)
    assert abs(wanted["dated_myr"] - 400) < 4 * wanted["dated_error_myr"]


def test_presets() -> None:
    assert set(study.STUDY.presets) == {"quick", "gpu", "paper"}
    assert len({claim.id for claim in study.CLAIMS}) == 8
