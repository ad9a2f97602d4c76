"""What the study of AdvStyle claims, each row judged on what a run measured."""

from collections.abc import Mapping
from typing import Any

from jostle.core.statistics import Interval
from jostle.lab import Claim


def _interval(metrics: Mapping[str, Any], pair: str) -> Interval | None:
    row = metrics["paired"].get(pair)
    return None if row is None else Interval(**row)


def _gap(metrics: Mapping[str, Any], pair: str) -> str | None:
    found = _interval(metrics, pair)
    return (
        None
        if found is None
        else f"{found.mean:+.1f} points [{found.low:+.1f}, {found.high:+.1f}], {found.count} seeds"
    )


def _above(metrics: Mapping[str, Any], pair: str) -> bool:
    found = _interval(metrics, pair)
    return found is not None and found.low > 0


def _steady(metrics: Mapping[str, Any]) -> bool:
    rows = metrics["methods"]
    mine = rows["advstyle"]["macro"]
    others = [row["macro"] for name, row in rows.items() if not name.startswith("advstyle")]
    return all(mine["mean"] > row["mean"] and mine["sd"] < row["sd"] for row in others)


def _table(metrics: Mapping[str, Any]) -> str | None:
    if "advstyle" not in metrics["methods"]:
        return None
    return ", ".join(
        f"{k} {v['macro']['mean']:.1f} ± {v['macro']['sd']:.1f}" for k, v in metrics["methods"].items()
    )


def _single_source(metrics: Mapping[str, Any]) -> str | None:
    rows = metrics["methods"]
    whole = metrics["network"] == "torchvision:resnet50" and "advstyle" in rows
    return (
        f"{rows['erm']['pooled']['mean']:.1f} -> {rows['advstyle']['pooled']['mean']:.1f} %"
        if whole
        else None
    )


CLAIMS = [
    Claim(
        "STY-GAIN",
        "AdvStyle is above plain training, seed by seed, with a 95 % interval above zero",
        "not stated",
        "quick",
        lambda m: _gap(m, "advstyle - erm"),
        lambda m: _above(m, "advstyle - erm"),
    ),
    Claim(
        "STY-ADVERSARY",
        "The adversary helps: lambda = 10 is above lambda = 0 (noise alone), interval above zero",
        "not stated",
        "quick",
        lambda m: _gap(m, "advstyle - advstyle-lambda0"),
        lambda m: _above(m, "advstyle - advstyle-lambda0"),
    ),
    Claim(
        "STY-C2",
        "AdvStyle has a higher mean and a lower fluctuation over seeds than every other method",
        "stated without a figure (abstract)",
        "quick",
        _table,
        _steady,
    ),
    Claim(
        "STY-C1",
        "Single-source PACS with ResNet50: above the best earlier method, mean accuracy",
        "61.2 -> 67.1 %",
        "paper",
        _single_source,
        lambda m: all(
            m["methods"]["advstyle"]["pooled"]["mean"] > row["pooled"]["mean"]
            for name, row in m["methods"].items()
            if not name.startswith("advstyle")
        ),
    ),
    Claim(
        "STY-C3",
        "Re-identification with OSNet, Market to Duke: above DSU in mAP",
        "31.0 -> 33.2 mAP (as a later paper quotes it)",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
]
