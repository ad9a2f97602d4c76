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


def _retrieval(metrics: Mapping[str, Any]) -> str | None:
    found = metrics.get("retrieval_paired", {}).get("direction - dsu")
    if found is None:
        return None
    gap, rows = Interval(**found), metrics["retrieval"]
    return (
        f"{rows['dsu']['mean_ap']['mean']:.1f} -> {rows['direction']['mean_ap']['mean']:.1f} mAP, "
        f"{gap.mean:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}], {gap.count} seeds (digits as identities; "
        f"untrained {rows['untrained']['mean_ap']['mean']:.1f})"
    )


def _small_network(metrics: Mapping[str, Any]) -> str | None:
    rows = metrics["methods"]
    single = metrics["network"] == "torchvision:resnet18" and not metrics.get("leave_one_out")
    if not single or not {"erm", "dsu"} <= rows.keys():
        return None
    erm, dsu = rows["erm"], rows["dsu"]
    return (
        f"macro {erm['macro']['mean']:.1f} -> {dsu['macro']['mean']:.1f} %, "
        f"pooled {erm['pooled']['mean']:.1f} -> {dsu['pooled']['mean']:.1f} %"
    )


def _single_source(metrics: Mapping[str, Any]) -> str | None:
    rows = metrics["methods"]
    whole = metrics["network"] == "torchvision:resnet50" and {"erm", "advstyle"} <= rows.keys()
    whole = whole and not metrics.get("leave_one_out")
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
        "Finding new identities in another domain, trained with the re-identification variant: above DSU in mAP, "
        "interval above zero",
        "31.0 -> 33.2 mAP (OSNet, Market to Duke, as a later paper quotes it)",
        "quick",
        _retrieval,
        lambda m: m["retrieval_paired"]["direction - dsu"]["low"] > 0,
    ),
    Claim(
        "STY-C4",
        "Leaving one domain of PACS out: about equal to DSU (the interval of the difference holds zero)",
        "stated without a figure (a published review)",
        "gpu",
        lambda m: _gap(m, "advstyle - dsu") if m.get("leave_one_out") else None,
        lambda m: m["paired"]["advstyle - dsu"]["low"] <= 0 <= m["paired"]["advstyle - dsu"]["high"],
    ),
    Claim(
        "STY-C5",
        "Layers behind stages 3 and 4 of a ResNet still help: above AdvStyle without them, interval above zero",
        "stated without a figure (a published review)",
        "paper",
        lambda m: _gap(m, "advstyle - advstyle-early"),
        lambda m: _above(m, "advstyle - advstyle-early"),
    ),
    Claim(
        "STY-C6",
        "Single-source PACS with ResNet18: DSU is above plain training, interval above zero",
        "46.09 -> 53.70 % (another group's protocol, as a later paper quotes it)",
        "gpu",
        _small_network,
        lambda m: _above(m, "dsu - erm"),
    ),
]
