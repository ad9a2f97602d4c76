"""The figures of a domain generalisation study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jostle.core.statistics import t_interval
from jostle.lab.style import COLOURS, figure, house_style
from jostle.style.attack import StyleCurve
from jostle.style.evaluate import Summary, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {
    "erm": "ERM",
    "dsu": "DSU",
    "mixstyle": "MixStyle",
    "efdmix": "EFDMix",
    "padain": "pAdaIN",
    "mixup": "mixup",
    "advstyle": "AdvStyle",
    "advstyle-lambda0": "AdvStyle, λ = 0",
    "advstyle-lambda1": "AdvStyle, λ = 1",
    "advstyle-early": "AdvStyle, early places",
    "untrained": "untrained",
    "direction": "AdvStyle, direction",
    "intensity": "AdvStyle, intensity",
    "jitter": "colour jitter",
    "grayscale": "random grayscale",
}
_ORDER = ("black", "sky", "green", "vermillion", "orange", "blue", "purple")
_MARKS = "osD^vP*"


def _look(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """A label, a colour and a mark for each method."""
    return {
        name: (_NAMES.get(name, name), COLOURS[_ORDER[i % len(_ORDER)]], _MARKS[i % len(_MARKS)])
        for i, name in enumerate(names)
    }


def accuracies(trials: Sequence[Trial], table: Mapping[str, Summary]) -> "Figure":
    """Accuracy of each method on each target: every seed a dot, mean and 95 % interval beside them.

    **Arguments:** `trials`, `table`: the runs and their summary.
    """
    look = _look(list(table))
    targets = list(next(iter(table.values())).targets)
    with house_style():
        fig, axis = figure(1, 1, (7.0, 3.6))
        width = 0.8 / len(look)
        for j, (name, (label, colour, mark)) in enumerate(look.items()):
            spots = np.arange(len(targets) + 1) + (j - (len(look) - 1) / 2) * width
            rows = [*table[name].targets.values(), table[name].macro]
            means = [row.mean for row in rows]
            errors = np.nan_to_num([row.high - row.mean for row in rows])
            for spot, target in zip(spots, targets, strict=False):
                seeds = [t.accuracy[target] for t in trials if t.method == name and target in t.total]
                axis.plot(
                    [spot + 0.3 * width] * len(seeds), seeds, ".", color=colour, alpha=0.4, markersize=5
                )
            axis.errorbar(
                spots, means, yerr=errors, fmt=mark, color=colour, capsize=2.5, markersize=5, label=label
            )
        axis.set_xticks(
            range(len(targets) + 1), [name.replace("_", " ") for name in targets] + ["macro mean"]
        )
        axis.set_xlabel("target domain")
        axis.set_ylabel("accuracy (%)")
        axis.axvline(len(targets) - 0.5, color="0.7", linewidth=0.8)
        axis.legend(ncols=min(len(look), 5), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return fig


def differences(trials: Sequence[Trial], table: Mapping[str, Summary], baseline: str) -> "Figure":
    """Each method minus the baseline, seed by seed, with the mean's 95 % interval."""
    look = _look(list(table))
    others = [name for name in table if name != baseline]
    seeds = sorted({trial.seed for trial in trials})

    def macro(name: str, seed: int) -> float:
        return float(np.mean([t.macro for t in trials if t.method == name and t.seed == seed]))

    with house_style():
        fig, axis = figure(1, 1, (6.0, 0.6 * len(others) + 1.4))
        axis.axvline(0, color="0.4", linewidth=0.9)
        for row, name in enumerate(reversed(others)):
            _, colour, mark = look[name]
            gaps = [macro(name, seed) - macro(baseline, seed) for seed in seeds]
            axis.plot(gaps, [row - 0.22] * len(gaps), ".", color=colour, alpha=0.45, markersize=6)
            mean = table[name].difference
            error = np.nan_to_num([[mean.mean - mean.low], [mean.high - mean.mean]])
            axis.errorbar([mean.mean], [row], xerr=error, fmt=mark, color=colour, capsize=3, markersize=6)
            axis.annotate(
                f"{mean.mean:+.1f}; above in {table[name].wins} of {mean.count}",
                (mean.mean, row),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(others)), [look[name][0] for name in reversed(others)])
        axis.set_ylim(-0.6, len(others) - 0.35)
        axis.set_xlabel(f"macro accuracy minus that of {_NAMES.get(baseline, baseline)}, same seed (points)")
    return fig


def worst_styles(curves: Mapping[str, StyleCurve]) -> "Figure":
    """Accuracy against the style budget, a line a method."""
    look = _look(list(curves))
    with house_style():
        fig, axis = figure(1, 1, (5.6, 3.6))
        for name, curve in curves.items():
            label, colour, mark = look[name]
            axis.plot(curve.radii, curve.accuracy, marker=mark, color=colour, label=label, markersize=5)
        norm = next(iter(curves.values())).norm
        axis.set_xlabel(f"style budget, {'ℓ2' if norm == 'L2' else 'ℓ∞'} norm (s.d. of the source's styles)")
        axis.set_ylabel("accuracy under attack (%)")
        axis.set_ylim(-3, 103)
        axis.legend()
    return fig


def style_space(space: Mapping[str, Tensor]) -> "Figure":
    """Styles of the domains before and after AdvStyle, on the first two principal components of all.

    **Arguments:** `space`: rows of `(mu, sigma)` by domain, the source first; `styled`: the source's,
    changed.
    """
    names = list(space)
    source = space[names[0]]
    centre, width = source.mean(0), source.std(0).clamp_min(1e-6)
    rows = {name: (value - centre) / width for name, value in space.items()}
    _, _, basis = torch.pca_lowrank(
        torch.cat([value for name, value in rows.items() if name != "styled"]), 2, niter=8
    )
    flat = {name: (value @ basis).numpy() for name, value in rows.items()}
    colours = dict(
        zip([n for n in names if n != "styled"], ("black", "sky", "green", "orange", "purple"), strict=False)
    )
    with house_style():
        fig, axes = figure(1, 2, (8.0, 3.8))
        for axis, title in zip(np.ravel(axes), ("before", "after"), strict=True):
            for i, name in enumerate(colours):
                points = flat["styled"] if i == 0 and title == "after" and "styled" in flat else flat[name]
                label = name.replace("_", " ") + (" (source)" if i == 0 else "")
                axis.scatter(
                    *points.T,
                    s=10 if i else 16,
                    color=COLOURS[colours[name]],
                    marker=_MARKS[i],
                    alpha=0.55,
                    label=label,
                    linewidths=0,
                )
            axis.set_title(f"{title} AdvStyle")
            axis.set_xlabel("first component (source s.d.)")
        first, second = np.ravel(axes)
        everything = np.concatenate(list(flat.values()))
        low, high = np.percentile(everything, [0.5, 99.5], axis=0)
        for axis in (first, second):
            axis.set_xlim(low[0] - 1, high[0] + 1)
            axis.set_ylim(low[1] - 1, high[1] + 1)
        first.set_ylabel("second component (source s.d.)")
        first.legend(markerscale=1.5)
    return fig


def scale_history(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Mean size of the learnt scales of each layer over the epochs."""
    layers = list(history[-1]["scales"])
    epochs = [row["epoch"] for row in history]
    with house_style():
        fig, axes = figure(1, 2, (7.6, 3.2))
        for axis, key, symbol in zip(np.ravel(axes), ("mean_mu", "mean_sigma"), ("μ", "σ"), strict=True):
            for i, layer in enumerate(layers):
                values = [row["scales"][layer][key] for row in history]
                axis.plot(
                    epochs, values, marker=_MARKS[i], markersize=5, color=COLOURS[_ORDER[i % 7]], label=layer
                )
            axis.set_xticks(epochs if len(epochs) < 12 else epochs[:: len(epochs) // 10])
            axis.set_xlabel("epoch")
            axis.set_ylabel(f"mean |Σ{symbol}| (feature units)")
        np.ravel(axes)[0].legend(title="behind")
    return fig


def retrievals(table: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Mean average precision and first ranks of each method: every seed a dot, mean and 95 % interval beside them.

    **Arguments:** `table`: for each method `mean_ap` and `rank1` in percent, a value a seed.
    """
    # ERM and DSU keep the colours that they have in the other figures.
    look = _look(sorted(table, key=lambda name: name == "untrained"))
    with house_style():
        fig, axes = figure(1, 2, (7.0, 3.0))
        labels = (("mean_ap", "mean average precision (%)"), ("rank1", "queries whose first is a match (%)"))
        for axis, (key, label) in zip(np.ravel(axes), labels, strict=True):
            for i, (name, (_, colour, mark)) in enumerate(look.items()):
                values, mean = table[name][key], t_interval(table[name][key])
                axis.plot([i + 0.15] * len(values), values, ".", color=colour, alpha=0.45, markersize=6)
                error = np.nan_to_num([mean.high - mean.mean])
                axis.errorbar([i], [mean.mean], yerr=error, fmt=mark, color=colour, capsize=3, markersize=6)
            axis.set_xticks(range(len(look)), [words.replace(", ", ",\n") for words, _, _ in look.values()])
            axis.set_xlim(-0.5, len(look) - 0.5)
            axis.set_ylabel(label)
    return fig
