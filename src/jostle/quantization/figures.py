"""The figures of a quantised network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jostle.lab.style import COLOURS, figure, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK = {
    "fisher": ("blue", "o", "Fisher"),
    "hessian": ("vermillion", "s", "Hessian trace"),
    "kl": ("green", "^", "KL of outputs"),
    "corrected": ("sky", "P", "Fisher, biases corrected"),
    "error": ("orange", "D", "rounding error only"),
    "random": ("black", "x", "random (5 draws)"),
    "reversed": ("purple", "v", "Fisher, reversed"),
}


def sensitivities(tables: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Each layer's sensitivity at the fewest bits, by method, with error bars of one standard error.

    **Arguments:** `tables`: by method, `layers`, `omega` and `sem` (a number a layer).
    """
    with house_style():
        made, axes = figure(1, 1, (7.2, 3.8))
        for k, (method, table) in enumerate(tables.items()):
            colour, mark, label = _LOOK[method]
            x = np.arange(len(table["layers"])) + 0.16 * (k - (len(tables) - 1) / 2)
            omega, sem = np.array(table["omega"]), np.array(table["sem"])
            axes.errorbar(
                x, omega, sem, fmt=mark, color=COLOURS[colour], label=label, markersize=4, elinewidth=1
            )
        names = list(next(iter(tables.values()))["layers"])
        positive = [float(v) for table in tables.values() for v in table["omega"] if v > 0]
        axes.set_yscale("symlog", linthresh=max(min(positive, default=1e-9), max(positive, default=1) * 1e-6))
        _layers(axes, names)
        axes.set_ylabel("growth of the loss Ω")
        axes.legend(ncols=3, loc="upper right")
    return made


def bits(plans: Mapping[str, Mapping[str, int]]) -> "Figure":
    """Bits of every layer, a row a plan.

    **Arguments:** `plans`: bits by layer, by the name of the plan.
    """
    from matplotlib.colors import ListedColormap

    names = list(next(iter(plans.values())))
    widths = sorted({b for plan in plans.values() for b in plan.values()})
    rows = np.array([[widths.index(plan[name]) for name in names] for plan in plans.values()])
    with house_style():
        made, axes = figure(1, 1, (7.2, 1.7 + 0.28 * len(plans)))
        shades = [COLOURS[c] for c in ("vermillion", "orange", "sky", "blue")][-len(widths) :]
        if len(widths) == 2:
            shades = [COLOURS["orange"], COLOURS["blue"]]
        axes.imshow(rows, aspect="auto", cmap=ListedColormap(shades), vmin=-0.5, vmax=len(widths) - 0.5)
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                if len(names) <= 24:
                    axes.text(j, i, widths[value], ha="center", va="center", color="white", fontsize=7)
        axes.set_yticks(range(len(plans)), list(plans))
        axes.grid(False)
        _layers(axes, names)
        patches = [_patch(shade, f"{width} bits") for shade, width in zip(shades, widths, strict=True)]
        axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(widths))
    return made


def pareto(points: Mapping[str, Sequence[Mapping[str, float]]], unquantised: float) -> "Figure":
    """Accuracy against size, bit operations and latency, a line a method.

    **Arguments:** `points`: by method, rows of `accuracy` (percent), `size` (MiB), `bops` (G), `latency` (ms).
    `unquantised`: accuracy of the network, percent.
    """
    kinds = {"size": "weights (MiB)", "bops": "bit operations (G)", "latency": "sum of layers' times (ms)"}
    with house_style():
        made, axes = figure(1, 3, (7.4, 3.2))
        for axis, (kind, label) in zip(axes, kinds.items(), strict=True):
            for method, rows in points.items():
                colour, mark, name = _LOOK[method]
                rows = sorted(rows, key=lambda row: row[kind])
                style = "none" if method in ("random",) else "-"
                axis.plot(
                    [row[kind] for row in rows], [row["accuracy"] for row in rows],
                    marker=mark, linestyle=style, color=COLOURS[colour], label=name,
                )  # fmt: skip
            axis.axhline(unquantised, color="#444444", linestyle=":", linewidth=1)
            axis.set_xlabel(label)
        axes[0].set_ylabel("accuracy (%), dotted: float32")
        axes[2].annotate(
            "this engine takes\nthe same time\nfor 4 and 8 bits",
            (0.05, 0.06),
            xycoords="axes fraction",
            fontsize=7,
        )
        handles, labels = axes[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=7)
    return made


def latency(pairs: Sequence[Sequence[float]], engine: str) -> "Figure":
    """Sums of layers' times against measured times of growing parts of the network.

    **Arguments:** `pairs`: (sum, measured) in ms.
    """
    with house_style():
        made, axes = figure(1, 1, (4.6, 3.6))
        total, measured = np.array(pairs).T
        top = float(max(total.max(), measured.max())) * 1.08
        axes.plot([0, top], [0, top], color="#777777", linestyle="--", linewidth=1, label="additive")
        axes.plot(total, measured, "o-", color=COLOURS["blue"], label="measured")
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("sum of the layers' own times (ms)")
        axes.set_ylabel(f"time of the network up to there (ms)\n{engine}, one image, one thread")
        axes.legend(loc="upper left")
    return made


def training(accuracy: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> "Figure":
    """Accuracy of the network: float, rounded, and trained with rounding in the loop.

    **Arguments:** `accuracy`: percent, by name. `intervals`: of 95 %, by name.
    """
    with house_style():
        made, axes = figure(1, 1, (6.4, 3.2))
        names = list(accuracy)
        values = [accuracy[name] for name in names]
        spread = np.array([[accuracy[n] - intervals[n][0], intervals[n][1] - accuracy[n]] for n in names]).T
        tones = [
            COLOURS["black"] if "float" in n else COLOURS["blue"] if "trained" in n else COLOURS["orange"]
            for n in names
        ]
        # Points, since an axis that does not begin at 0 would make bars of any length.
        for place, (value, wide, tone) in enumerate(zip(values, np.maximum(spread, 0).T, tones, strict=True)):
            axes.errorbar(value, place, xerr=wide[:, None], fmt="o", ms=6, color=tone)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(max(0.0, min(values) - 12), 101)
        axes.set_xlabel("accuracy on held-out images (%), 95 % interval")
        axes.grid(axis="y", visible=False)
    return made


def _layers(axes: Any, names: Sequence[str]) -> None:
    """Layers along the x axis, every so many named."""
    step = -(-len(names) // 24)
    axes.set_xticks(
        range(0, len(names), step), [_short(n) for n in names[::step]], rotation=60, ha="right", fontsize=7
    )
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel("layer")


def _short(name: str) -> str:
    name = name.removeprefix("model.").replace("_blocks.", "").replace("._", ".").lstrip("_")
    return (
        name.replace("depthwise_conv", "dw")
        .replace("expand_conv", "expand")
        .replace("project_conv", "project")
    )


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
