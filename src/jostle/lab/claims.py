"""Claims: sentences of a paper that a run can check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCALES = ("quick", "gpu", "paper")
Scale = Literal["quick", "gpu", "paper"]
Verdict = Literal["holds", "fails", "not-tested"]
Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One checkable row.

    **Arguments:** `id`: short and stable, such as `"UNIV-C1"`. `text`: the claim in our own words.
    `paper`: the paper's own figure as text, or `"not stated"`; never a recalled or inferred number.
    `scale`: the smallest preset at which it must hold. `measured`: what this run found, as text a person
    reads; `None` if the run did not measure it. `holds`: whether the claim holds, from the metrics.

    >>> claim = Claim("X-1", "more is better", "2 x", "quick", lambda m: f"{m['x']} x", lambda m: m["x"] > 1)
    >>> judge([claim], {"x": 3}, "quick")[0].verdict
    'holds'
    """

    id: str
    text: str
    paper: str
    scale: Scale
    measured: Callable[[Metrics], str | None]
    holds: Callable[[Metrics], bool]


@dataclass(frozen=True)
class Judged:
    """A claim with what a run measured and its verdict: one object of `claims.json`."""

    id: str
    text: str
    paper: str
    measured: str
    scale: Scale
    verdict: Verdict

    def record(self) -> dict[str, str]:
        """The claim as a JSON object."""
        return asdict(self)


def judge(claims: Sequence[Claim], metrics: Metrics, preset: str) -> list[Judged]:
    """Give every claim its verdict.

    A claim is `not-tested` when the preset is smaller than its scale or the run did not measure it.
    A failing claim stays in the list as failing.
    """
    judged = []
    for claim in claims:
        measured = claim.measured(metrics)
        too_small = SCALES.index(preset) < SCALES.index(claim.scale) if preset in SCALES else False
        verdict: Verdict = "not-tested"
        if measured is not None and not too_small:
            verdict = "holds" if claim.holds(metrics) else "fails"
        judged.append(Judged(claim.id, claim.text, claim.paper, measured or "", claim.scale, verdict))
    return judged
