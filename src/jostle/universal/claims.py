"""What GD-UAP claims, as rows that a run checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jostle.lab import Claim


def _rate(metrics: Mapping[str, Any], key: str) -> list[float] | None:
    return metrics["fooling"][key]["rates"] if key in metrics["fooling"] else None


def _percent(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:.1f} %" for value in values)


# Rates are compared on this many independent images or more. Fewer, or views of a few photographs, say less than
# their intervals pretend.
ENOUGH = 1000


def _pair(first: str, second: str, images: int = ENOUGH) -> Callable[[Mapping[str, Any]], str | None]:
    def measured(metrics: Mapping[str, Any]) -> str | None:
        a, b = _rate(metrics, first), _rate(metrics, second)
        if metrics["images"] < images:
            return None
        return None if a is None or b is None else f"{second} {_percent(b)}; {first} {_percent(a)}"

    return measured


def _gains(metrics: Mapping[str, Any], first: str, second: str) -> list[float]:
    return [
        b - a
        for a, b in zip(metrics["fooling"][first]["rates"], metrics["fooling"][second]["rates"], strict=True)
    ]


_SMOOTHING = ("gaussian", "median", "jpeg-75")

CLAIMS = [
    Claim(
        "UNIV-C1",
        "Without any data, GD-UAP fools clearly more images than random signs of the same size.",
        "VGG-16: 45.5 % against 8.6 % for random noise",
        "quick",
        _pair("sign noise", "none", images=1),
        lambda m: all(
            low > m["fooling"]["sign noise"]["intervals"][0][1]
            for low, _ in m["fooling"]["none"]["intervals"]
        ),
    ),
    Claim(
        "UNIV-C1a",
        f"On {ENOUGH} images or more: without data at least 2.8 times the fooling of sign noise, in each seed.",
        "six networks: 3.3 to 6.8 times random noise",
        "quick",
        _pair("sign noise", "none"),
        lambda m: all(
            rate >= 2.8 * m["fooling"]["sign noise"]["rates"][0] for rate in m["fooling"]["none"]["rates"]
        ),
    ),
    Claim(
        "UNIV-C1b",
        f"On {ENOUGH} images or more: range prior 5 points above no prior in at least two thirds of the seeds.",
        "VGG-16: 63.1 % against 45.5 %; higher for all six networks",
        "quick",
        _pair("none", "range"),
        lambda m: (
            3 * sum(gain >= 0.05 for gain in _gains(m, "none", "range"))
            >= 2 * len(m["fooling"]["none"]["rates"])
        ),
    ),
    Claim(
        "UNIV-C1c",
        "Data helps more than its range: data prior above range prior on average.",
        "VGG-16: 77.8 % against 63.1 %; higher for all six networks",
        "gpu",
        _pair("range", "data"),
        lambda m: sum(_gains(m, "range", "data")) > 0,
    ),
    Claim(
        "UNIV-C2",
        "Segmentation: the mean IoU without data falls far below that under random noise, for both heads.",
        "FCN-Alex: 15.4 % without data, 45.7 % under noise, 46.2 % clean (Pascal VOC)",
        "gpu",
        lambda m: (
            "; ".join(
                f"head trained under noise {sd}: clean {found['clean']['miou']:.3f}, "
                f"noise {found['sign noise']['miou']:.3f}, without data {found['none']['miou']:.3f}"
                for sd, found in m["segmentation"].items()
            )
            if "segmentation" in m
            else None
        ),
        lambda m: all(
            found["none"]["interval"][1] < found["sign noise"]["interval"][0]
            for found in m["segmentation"].values()
        ),
    ),
    Claim(
        "UNIV-C4",
        "Behind smoothing and JPEG the data-free range prior fools at least as well as the data-driven perturbation.",
        "GoogLeNet: range 35.6 / UAP 32.8 % behind Gaussian blur, 51.2 / 42.6 % behind JPEG 75",
        "gpu",
        lambda m: (
            ", ".join(
                f"{d}: range {_percent([m['defences'][d]['range 0']])}, data {_percent([m['defences'][d]['data 0']])}"
                for d in _SMOOTHING
            )
            if "defences" in m and "data 0" in m["defences"]["gaussian"]
            else None
        ),
        lambda m: all(m["defences"][d]["range 0"] >= m["defences"][d]["data 0"] for d in _SMOOTHING),
    ),
    Claim(
        "UNIV-C6",
        "Data-driven perturbations weaken with fewer images; the data-free one needs none.",
        "not stated as a number",
        "gpu",
        lambda m: (
            ", ".join(f"{n} images {_percent([rate])}" for n, rate in m["sgd by images"].items())
            if "sgd by images" in m
            else None
        ),
        lambda m: next(iter(m["sgd by images"].values())) < list(m["sgd by images"].values())[-1],
    ),
]
