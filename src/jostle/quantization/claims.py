"""The paper's claims and ours, as rows that a run can check."""

from jostle.lab.claims import Claim, Metrics


def _costs(m: Metrics, network: str) -> str | None:
    c = m.get("counts", {}).get(network)
    if c is None:
        return None
    return " / ".join(f"{c[k]['size']:.1f} MB, {c[k]['bops']:.0f} G" for k in ("float", "8", "4"))


def _near(m: Metrics, network: str, wanted: list[tuple[float, float]]) -> bool:
    c = m["counts"][network]
    found = [(c[k]["size"], c[k]["bops"]) for k in ("float", "8", "4")]
    return all(
        abs(a - x) <= 0.01 * x and abs(b - y) <= 0.02 * y
        for (a, b), (x, y) in zip(found, wanted, strict=True)
    )


def _lite(m: Metrics, key: str) -> float | None:
    found = m.get("lite", {}).get(key)
    return None if found is None else float(found)


def _labelled(m: Metrics) -> bool:
    return bool(m.get("lite", {}).get("labelled"))


def _trained(m: Metrics) -> tuple[str, str, str]:
    low = m["digits"]["low"]
    return "float32", low, f"{low}, trained"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} %"


CLAIMS = (
    Claim(
        "QUANT-EXACT",
        "Inference is integer only: the engine equals the 64-bit reference on every element of every tensor.",
        "integer-only inference (no figure)",
        "quick",
        lambda m: (
            f"{m['lite']['mismatches']} of {m['lite']['elements']:,} elements differ (EfficientNet-Lite0), "
            f"{m['digits']['mismatches']} of {m['digits']['elements']:,} (trained network)"
        ),
        lambda m: m["lite"]["mismatches"] == 0 and m["digits"]["mismatches"] == 0,
    ),
    Claim(
        "QUANT-C1",
        "ResNet18's weights and bit operations in float32, W8A8 and W4A4 with 8-bit ends.",
        "44.6 MB, 1858 G / 11.1 MB, 116 G / 5.8 MB, 34 G",
        "quick",
        lambda m: _costs(m, "resnet18"),
        lambda m: _near(m, "resnet18", [(44.6, 1858), (11.1, 116), (5.8, 34.7)]),
    ),
    Claim(
        "QUANT-C2",
        "ResNet50's weights and bit operations in float32, W8A8 and W4A4 with 8-bit ends.",
        "97.8 MB, 3951 G / 24.5 MB, 247 G / 13.1 MB, 67 G",
        "quick",
        lambda m: _costs(m, "resnet50"),
        lambda m: _near(m, "resnet50", [(97.8, 3951), (24.5, 247), (13.1, 67)]),
    ),
    Claim(
        "QUANT-C1-ACC",
        "ResNet18 on ImageNet keeps its accuracy in W8A8 and loses 3 points in W4A4.",
        "71.47 / 71.56 / 68.45 % (float32 / W8A8 / W4A4)",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
    Claim(
        "QUANT-C3",
        "Distillation lifts a mixed ResNet50 on ImageNet (75.39 % without it).",
        "76.73 %",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
    Claim(
        "QUANT-C4",
        "INT4 is faster than INT8 where a processor has 4-bit matrix units; our engines use none and claim nothing.",
        "1.45 x on a T4",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
    Claim(
        "QUANT-C7",
        "Every published allocation is an optimum of the published tables.",
        "18 configurations",
        "quick",
        lambda m: (
            f"{sum(r['optimal'] for r in m['published'])} of {len(m['published'])} are optimal; "
            f"{sum(r['feasible'] for r in m['published'])} meet their limits"
        ),
        lambda m: all(r["optimal"] for r in m["published"]),
    ),
    Claim(
        "QUANT-ILP",
        "The integer program finds an answer at least as good as each published one, ResNet50's in under 0.2 s.",
        "not stated",
        "quick",
        lambda m: (
            f"{sum(r['optimum'] <= r['published'] * (1 + 1e-9) for r in m['published'])} of 18; "
            f"slowest ResNet50 problem {m['ilp_seconds']:.3f} s"
        ),
        lambda m: (
            all(r["optimum"] <= r["published"] * (1 + 1e-9) for r in m["published"])
            and m["ilp_seconds"] < 0.2
        ),
    ),
    Claim(
        "QUANT-QAT",
        "Training with rounding in the loop wins back most of what rounding to few bits lost.",
        "not stated for small networks",
        "quick",
        lambda m: (
            " / ".join(f"{m['digits']['accuracy'][name]:.1f} %" for name in _trained(m))
            + f" (float32, {m['digits']['low']}, trained)"
        ),
        lambda m: m["digits"]["recovered"] > 0.5,
    ),
    Claim(
        "QUANT-FORWARD",
        "What was trained is what is deployed: integer inference equals the training forward bit for bit.",
        "not stated",
        "quick",
        lambda m: f"{m['digits']['forward_mismatches']} elements differ",
        lambda m: m["digits"]["forward_mismatches"] == 0,
    ),
    Claim(
        "QUANT-AGREE",
        "EfficientNet-Lite0 in W8A8, calibrated on 64 images that are held out, answers as in float32 on the others of "
        "1,000 ImageNet images in at least 98.5 %.",
        "not stated (our target)",
        "quick",
        lambda m: _percent(_lite(m, "agreement")) if _labelled(m) else None,
        lambda m: m["lite"]["agreement"] >= 98.5,
    ),
    Claim(
        "QUANT-MIXED",
        "Fisher allocation at a quarter of the way from 4 to 8 bits keeps at least 83 % top-1, 3 points above random, "
        "biases as they are.",
        "not stated (our target)",
        "quick",
        lambda m: (
            f"{m['lite']['at_quarter']['fisher']:.1f} %, random {m['lite']['at_quarter']['random']:.1f} % on average"
            if _labelled(m)
            else None
        ),
        lambda m: (
            m["lite"]["at_quarter"]["fisher"] >= 83
            and m["lite"]["at_quarter"]["fisher"] >= m["lite"]["at_quarter"]["random"] + 3
        ),
    ),
    Claim(
        "QUANT-BIAS",
        "Taking the mean error of rounded weights off the biases brings mixed bits nearer to float32.",
        "not in the paper",
        "quick",
        lambda m: (
            f"{m['lite']['at_quarter']['corrected']:.1f} %, without it {m['lite']['at_quarter']['fisher']:.1f} %"
        ),
        lambda m: m["lite"]["at_quarter"]["corrected"] > m["lite"]["at_quarter"]["fisher"],
    ),
    Claim(
        "QUANT-ORDER",
        "A sensible allocation beats a random one, and a random one the reversed.",
        "not stated",
        "quick",
        lambda m: ", ".join(f"{k} {v:.1f} %" for k, v in m["lite"]["at_quarter"].items()),
        lambda m: (
            m["lite"]["at_quarter"]["fisher"]
            > m["lite"]["at_quarter"]["random"]
            > m["lite"]["at_quarter"]["reversed"]
        ),
    ),
)
