"""Claims get the verdict that the metrics give them."""

from typing import Any

import pytest

from jostle.lab.claims import Claim, judge


def _claim(scale: Any = "quick", key="x"):
    return Claim(
        "C-1",
        "x is large",
        "10",
        scale,
        lambda m: f"{m[key]:.1f}" if key in m else None,
        lambda m: m[key] > 5,
    )


@pytest.mark.parametrize(
    ("scale", "preset", "metrics", "verdict", "measured"),
    [
        ("quick", "quick", {"x": 6.0}, "holds", "6.0"),
        ("quick", "paper", {"x": 6.0}, "holds", "6.0"),
        ("quick", "quick", {"x": 4.0}, "fails", "4.0"),
        ("gpu", "quick", {"x": 4.0}, "not-tested", "4.0"),
        ("gpu", "gpu", {"x": 4.0}, "fails", "4.0"),
        ("paper", "gpu", {"x": 6.0}, "not-tested", "6.0"),
        ("quick", "quick", {}, "not-tested", ""),
        ("quick", "quick", {"x": float("nan")}, "fails", "nan"),
    ],
)
def test_verdicts(scale, preset, metrics, verdict, measured):
    judged = judge([_claim(scale)], metrics, preset)[0]
    assert (judged.verdict, judged.measured) == (verdict, measured)


def test_a_failing_claim_stays_in_its_place_and_its_record_is_whole():
    records = [judged.record() for judged in judge([_claim(), _claim("paper")], {"x": 1.0}, "quick")]
    assert [record["verdict"] for record in records] == ["fails", "not-tested"]
    assert records[0] == {
        "id": "C-1", "text": "x is large", "paper": "10", "measured": "1.0", "scale": "quick",
        "verdict": "fails",
    }  # fmt: skip
