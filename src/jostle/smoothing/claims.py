"""The paper's claims, Cohen's, and ours, as rows that a run checks."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from jostle.lab import Claim


def _gap(metrics: Mapping[str, Any], pair: str) -> str | None:
    rows = {name: row for name, row in metrics["paired"].items() if name.startswith(f"{pair} sigma")}
    if not rows:
        return None
    return ", ".join(
        f"{name.rpartition('sigma ')[2]}: {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        for name, row in rows.items()
    )


def _above(metrics: Mapping[str, Any], pair: str, every: bool) -> bool:
    """Whether the gain is above zero at every noise level, or at some, the interval then wide enough for several."""
    rows = [row for name, row in metrics["paired"].items() if name.startswith(f"{pair} sigma")]
    if not rows or every:
        return bool(rows) and all(row["low"] > 0 for row in rows)
    wider = NormalDist().inv_cdf(1 - 0.025 / len(rows)) / NormalDist().inv_cdf(0.975)
    return any(row["mean"] > wider * (row["mean"] - row["low"]) for row in rows)


def _simulated(metrics: Mapping[str, Any]) -> tuple[float, float]:
    rows = metrics["saved"]["simulated"]
    ours, fixed = rows["sequential"], rows["fixed"]
    gap = max(abs(ours["certified"][r] - share) for r, share in fixed["certified"].items())
    return fixed["draws"] / ours["draws"], gap


def _saving(metrics: Mapping[str, Any]) -> str:
    times, gap = _simulated(metrics)
    return f"{times:.1f} times fewer draws, certified shares within {gap:.3f}"


def _order(metrics: Mapping[str, Any]) -> str:
    rows = metrics["saved"]["simulated"]
    return ", ".join(f"{name} {row['draws']:,.0f}" for name, row in rows.items())


def _measured(metrics: Mapping[str, Any]) -> str | None:
    saved = metrics["saved"]
    if "fixed draws" not in saved:
        return None
    times = saved["fixed draws"] / saved["draws"]
    against = f"{saved['draws']:,.0f} draws against {saved['fixed draws']:,.0f}"
    return f"{against} ({times:.1f} times), gap {saved['largest gap']:.3f}"


def _falls(metrics: Mapping[str, Any]) -> bool:
    curves = [list(row["accuracy"].values()) for row in metrics["methods"].values()]
    return all(curve == sorted(curve, reverse=True) for curve in curves)


CLAIMS = [
    Claim(
        "SMO-RRCM",
        "rRCM certifies more than the same network and loss without pre-training, at every noise level (ACR, 95 %)",
        "not stated as such: the paper compares with other methods",
        "quick",
        lambda m: _gap(m, "rrcm - consistency"),
        lambda m: _above(m, "rrcm - consistency", every=True),
    ),
    Claim(
        "SMO-RRCM-SOME",
        "rRCM certifies more than the same network and loss without pre-training at some noise level "
        "(ACR, 95 %, corrected for several)",
        "not stated as such",
        "quick",
        lambda m: _gap(m, "rrcm - consistency"),
        lambda m: _above(m, "rrcm - consistency", every=False),
    ),
    Claim(
        "SMO-CONS",
        "Consistency regularisation certifies more than Gaussian training at some noise level "
        "(ACR, 95 %, corrected for several)",
        "not read here",
        "quick",
        lambda m: _gap(m, "consistency - gaussian"),
        lambda m: _above(m, "consistency - gaussian", every=False),
    ),
    Claim(
        "SMO-C7",
        "The exact sequential test certifies as the fixed one with 5 times fewer draws or better (n = 100,000, "
        "simulated on measured p_A), certified shares within 0.03",
        "ours",
        "quick",
        _saving,
        lambda m: _simulated(m)[0] >= 5 and _simulated(m)[1] <= 0.03,
    ),
    Claim(
        "SMO-ORDER",
        "It needs fewer draws than the union bound, the betting test and staged tests (mean draws an image)",
        "ours",
        "quick",
        _order,
        lambda m: (
            min(m["saved"]["simulated"], key=lambda k: m["saved"]["simulated"][k]["draws"]) == "sequential"
        ),
    ),
    Claim(
        "SMO-SAVED",
        "Run on the network itself, it certifies what all draws certify, to 0.03, with at most half of them",
        "ours",
        "quick",
        _measured,
        lambda m: (
            m["saved"]["largest gap"] <= 0.03 and m["saved"]["draws"] <= 0.5 * m["saved"]["fixed draws"]
        ),
    ),
    Claim(
        "SMO-FALL",
        "Certified accuracy never rises with the radius",
        "by definition",
        "quick",
        lambda m: f"{len(m['methods'])} curves",
        _falls,
    ),
    Claim(
        "SMO-C1",
        "On ImageNet rRCM is above diffusion-based methods at every radius",
        "+5.3 points on average, up to +11.6 (abstract)",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
    Claim(
        "SMO-C2",
        "Inference costs less than with a diffusion model before the classifier (here: a denoiser of one step)",
        "85 times on average (abstract; against methods of many steps)",
        "paper",
        lambda m: (
            f"{m['speed']['rrcm'] / m['speed']['denoised']:.1f} times"
            if {"rrcm", "denoised"} <= set(m["speed"])
            else None
        ),
        lambda m: m["speed"]["rrcm"] > m["speed"]["denoised"],
    ),
]
