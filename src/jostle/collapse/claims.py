"""The paper's statements, and ours, as rows that can be checked."""

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

from jostle.lab.claims import Claim

Rows = Mapping[str, list[dict[str, float]]]
"""The last features' metrics, by variant of the decay, one a seed."""


def _falls(curves: list[list[float]], layers: int) -> int:
    """In how many seeds a metric strictly falls from layer to layer, up to `layers`."""
    return sum(all(b < a for a, b in pairwise(c[1 : layers + 1])) for c in curves)


def _effects(rows: Rows, part: str, metric: str) -> list[float]:
    """The effect of a part's decay, a seed: half of what lies between doubling it and removing it.

    The baseline, with its noise, drops out.
    """
    pairs = zip(rows[f"{part} x2"], rows[f"{part} x0"], strict=True)
    return [(less[metric] - more[metric]) / 2 for more, less in pairs]


def _ratio(rows: Rows, metric: str) -> float:
    """The effect of the features' decay over the size of the last layer's, each averaged over the seeds.

    Sizes, for effects of either sign would cancel and make the ratio as large as one likes.
    """
    return fmean(_effects(rows, "features", metric)) / fmean(map(abs, _effects(rows, "last", metric)))


def _strict_ratio(rows: Rows, metric: str) -> float:
    """The smaller shift by a feature-layer change over the larger by a last-layer change; worst seed."""

    def shift(variant: str, seed: int) -> float:
        return abs(rows[variant][seed][metric] - rows["baseline"][seed][metric])

    return min(
        min(shift("features x2", i), shift("features x0", i)) / max(shift("last x2", i), shift("last x0", i))
        for i in range(len(rows["baseline"]))
    )


def _ordered(rows: Rows, metric: str) -> bool:
    """Whether doubling the features' decay collapses more, and removing it less, in every seed."""
    trio = zip(rows["features x2"], rows["baseline"], rows["features x0"], strict=True)
    return all(more[metric] < base[metric] < less[metric] for more, base, less in trio)


def _told(rows: Rows, metric: str) -> str:
    """Both effects, averaged over the seeds, with their range."""
    parts = []
    for part in ("features", "last"):
        found = _effects(rows, part, metric)
        parts.append(f"{part} {fmean(found):.2g} ({min(found):.2g} to {max(found):.2g})")
    return f"ratio {_ratio(rows, metric):.1f}: {', '.join(parts)}, {len(rows['baseline'])} seeds"


def _first(m: Mapping[str, Any]) -> Any:
    return next(iter(m["decay"].values()))


CLAIMS = [
    Claim(
        "COL-C1",
        "Along the gradient flow of the features NC1 (trace form) strictly falls, the scatter within "
        "classes falls "
        "and that between them rises, decay taken out, at 40 times from random starts.",
        "for all starts (Theorem 3.1)",
        "quick",
        lambda m: "{falls}, {shrinks}, {spreads} of {starts} starts".format(**m["theory"]),
        lambda m: (
            m["theory"]["falls"] == m["theory"]["shrinks"] == m["theory"]["spreads"] == m["theory"]["starts"]
        ),
    ),
    Claim(
        "COL-C2",
        "Tied strongly to given features (beta = 100), the optimal features have a smaller NC1 than these.",
        "for all beta above some C (Corollary 3.2)",
        "quick",
        lambda m: "{lower} of {starts} starts".format(**m["theory"]),
        lambda m: m["theory"]["lower"] == m["theory"]["starts"],
    ),
    Claim(
        "COL-C3",
        "The predicted response of features and classifier is right to second order in the nudge.",
        "error of second order (Theorem 4.1)",
        "quick",
        lambda m: f"slopes {m['response']['slope']:.3f} and {m['response']['slope_classifier']:.3f}",
        lambda m: max(abs(m["response"][k] - 2) for k in ("slope", "slope_classifier")) <= 0.02,
    ),
    Claim(
        "COL-C4",
        "At collapse the response's diagonal block has the stair of eigenvalues of the theorem (K = "
        "4, d = 10, n = 10, "
        "lam_W = sqrt 2, beta = 100).",
        "Theorem 4.2 and figure 1",
        "quick",
        lambda m: f"largest difference {m['response']['stair_gap']:.1e}",
        lambda m: m["response"]["stair_gap"] < 1e-12,
    ),
    Claim(
        "COL-C5",
        "In layer-wise training both forms of NC1 strictly fall over layers 1 to 6, in every seed "
        "(the paper: "
        "CIFAR-10; the quick preset: 5,000 digits of MNIST).",
        "NC1 falls as layers are added (figure 2, curves only)",
        "quick",
        lambda m: (
            f"{_falls(m['greedy']['nc1_trace'], 6)} and {_falls(m['greedy']['nc1'], 6)} of "
            f"{len(m['greedy']['nc1'])} seeds; NC1 {m['greedy']['nc1_trace'][0][1]:.3g} to "
            f"{m['greedy']['nc1_trace'][0][-1]:.3g}"
        ),
        lambda m: (
            _falls(m["greedy"]["nc1_trace"], 6) == _falls(m["greedy"]["nc1"], 6) == len(m["greedy"]["nc1"])
        ),
    ),
    Claim(
        "COL-C6",
        "Doubling the weight decay of the feature layers collapses more (NC1, trace form), removing it less, "
        "and each moves NC1 further than either change of the last layer's decay, in every seed.",
        "feature layers move NC more than the last layer (figure 3, curves only)",
        "quick",
        lambda m: (
            f"smallest ratio {_strict_ratio(_first(m), 'nc1_trace'):.1f}, "
            f"ordered: {_ordered(_first(m), 'nc1_trace')}"
        ),
        lambda m: _strict_ratio(_first(m), "nc1_trace") > 1 and _ordered(_first(m), "nc1_trace"),
    ),
    Claim(
        "COL-C6b",
        "The same for the pseudo-inverse form of NC1.",
        "feature layers move NC more than the last layer (figure 3, curves only)",
        "quick",
        lambda m: (
            f"smallest ratio {_strict_ratio(_first(m), 'nc1'):.1f}, ordered: {_ordered(_first(m), 'nc1')}"
        ),
        lambda m: _strict_ratio(_first(m), "nc1") > 1 and _ordered(_first(m), "nc1"),
    ),
    Claim(
        "COL-C6c",
        "The effect of the feature layers' decay on NC1 (trace form: half the distance between doubled and "
        "removed, averaged over the seeds) is at least 4 times the size of the last layer's.",
        "not in the paper, which has no numbers",
        "quick",
        lambda m: _told(_first(m), "nc1_trace"),
        lambda m: _ratio(_first(m), "nc1_trace") >= 4,
    ),
    Claim(
        "COL-C6d",
        "The strict form: in every single seed, each change of the feature layers' decay moves NC1 (trace form) "
        "at least 4 times as far as either change of the last layer's. It asks more than one seed can tell: "
        "the order of the batches alone moves these differences by more than the last layer's effect.",
        "not in the paper, which has no numbers",
        "quick",
        lambda m: f"smallest ratio {_strict_ratio(_first(m), 'nc1_trace'):.1f}",
        lambda m: _strict_ratio(_first(m), "nc1_trace") >= 4,
    ),
    Claim(
        "COL-D1",
        "Derived here: at collapse the response is five factors, exactly, for every beta from 0.5 to 100.",
        "not in the paper, which has the first order in 1/beta",
        "quick",
        lambda m: f"largest difference from a dense solve {m['response']['dense_gap']:.1e}",
        lambda m: m["response"]["dense_gap"] < 1e-12,
    ),
    Claim(
        "COL-D2",
        "The response of a trained network's own features (noise, rounding, moved means) is "
        "predicted to second order.",
        "not in the paper",
        "quick",
        lambda m: ", ".join(f"{k}: slope {v:.2f}" for k, v in m["real"]["slope"].items()),
        lambda m: all(abs(v - 2) <= 0.05 for v in m["real"]["slope"].values()),
    ),
]
