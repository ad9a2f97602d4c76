"""The figures of a universal perturbation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.lab.style import COLOURS, SEQUENTIAL, figure, house_style, picture
from jostle.universal.perturbation import UniversalPerturbation, spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(perturbation: UniversalPerturbation) -> "Figure":
    """The perturbation, stretched to the full range of colours, beside its power spectrum.

    **Arguments:** `perturbation`: as `craft` made it.
    **Returns:** a matplotlib figure.
    """
    delta = perturbation.delta
    radius = float(delta.abs().max())
    with house_style():
        fig, (left, right) = figure(1, 2, (6.4, 3.2))
        stretched = 0.5 + delta[0] / (2 * max(radius, 1e-12))
        picture(left, stretched, f"±{radius * 255:.0f}/255, stretched to full contrast")
        height, width = delta.shape[2:]
        power = spectrum(delta).clamp_min(1e-12).log10()
        extent = (-0.5, 0.5, -0.5, 0.5)
        seen = right.imshow(
            power.numpy(), cmap=SEQUENTIAL, extent=extent, origin="lower", aspect=height / width
        )
        right.set_title("power spectrum")
        right.set_xlabel("horizontal frequency (cycles/pixel)")
        right.set_ylabel("vertical frequency (cycles/pixel)")
        right.grid(False)
        fig.colorbar(seen, ax=right, label="log10 power", shrink=0.8)
    return fig


def before_after(
    images: Float[Tensor, "n channels height width"],
    perturbed: Float[Tensor, "n channels height width"],
    before: Sequence[str],
    after: Sequence[str],
) -> "Figure":
    """Clean images above, perturbed ones below, each with what the network takes it for."""
    with house_style():
        fig, axes = figure(2, len(images), (1.6 * len(images), 4.0))
        for column in range(len(images)):
            for row, (shown, label) in enumerate(((images, before), (perturbed, after))):
                axis = axes[row][column]
                picture(axis, shown[column].clamp(0, 1))
                axis.set_title(_wrap(label[column]), color=COLOURS["blue" if row == 0 else "vermillion"])
        fig.suptitle("what the network sees: clean (above) and perturbed (below)")
    return fig


def fooling_bars(
    rates: Mapping[str, Sequence[float]], intervals: Mapping[str, Sequence[tuple[float, float]]]
) -> "Figure":
    """Fooling rates by method, a bar a seed, with Wilson 95 % intervals."""
    colours = [COLOURS[name] for name in ("black", "sky", "blue", "orange", "green", "vermillion", "purple")]
    with house_style():
        fig, axis = figure(1, 1, (6.4, 3.2))
        place = 0.0
        ticks = []
        for index, (name, values) in enumerate(rates.items()):
            spots = [place + i for i in range(len(values))]
            low = [100 * (v - lo) for v, (lo, _) in zip(values, intervals[name], strict=True)]
            high = [100 * (hi - v) for v, (_, hi) in zip(values, intervals[name], strict=True)]
            axis.bar(spots, [100 * v for v in values], width=0.85, color=colours[index % len(colours)])
            axis.errorbar(
                spots, [100 * v for v in values], yerr=[low, high], fmt="none", ecolor="0.25", capsize=2, lw=1
            )
            ticks.append((sum(spots) / len(spots), name))
            place = spots[-1] + 1.8
        axis.set_xticks([spot for spot, _ in ticks], [_wrap(name, 12) for _, name in ticks])
        axis.set_ylabel("images fooled (%)")
        axis.set_title("fooling rate; one bar a seed, 95 % intervals")
        axis.grid(False, axis="x")
    return fig


def progress(
    history: Sequence[Mapping[str, Any]],
    looks: Mapping[int, float],
    intervals: Mapping[int, tuple[float, float]],
) -> "Figure":
    """Fooling, saturation and objective against the iteration, with the halvings marked."""
    steps = [row["step"] for row in history]
    with house_style():
        fig, (top, bottom) = figure(2, 1, (6.4, 4.2))
        spots = sorted(looks)
        values = [100 * looks[t] for t in spots]
        errors = [
            [100 * (looks[t] - intervals[t][0]) for t in spots],
            [100 * (intervals[t][1] - looks[t]) for t in spots],
        ]
        top.errorbar(
            spots, values, yerr=errors, marker="o", color=COLOURS["blue"], capsize=2, label="images fooled"
        )
        top.plot(
            steps,
            [100 * row["saturation"] for row in history],
            color=COLOURS["orange"],
            label="entries at the bound",
        )
        top.set_ylabel("share (%)")
        top.set_ylim(0, 100)
        top.legend(loc="lower right")
        bottom.plot(steps, [row["objective"] for row in history], color=COLOURS["green"])
        bottom.set_ylabel("objective (sum of log norms)")
        bottom.set_xlabel("iteration")
        for axis in (top, bottom):
            for row in history:
                if row.get("rescaled"):
                    axis.axvline(row["step"], color="0.6", ls=":", lw=1)
        top.set_title("crafting: fooling, saturation and objective")
    return fig


def growth(names: Sequence[str], ratios: Mapping[str, Sequence[float]]) -> "Figure":
    """How much louder each tapped layer answers, perturbed against clean."""
    with house_style():
        fig, axis = figure(1, 1, (6.4, 2.8))
        for (name, values), colour in zip(ratios.items(), ("blue", "orange", "green"), strict=False):
            axis.plot(range(1, len(names) + 1), values, marker=".", color=COLOURS[colour], label=name)
        axis.axhline(1, color="0.5", lw=0.8)
        axis.set_xlabel("tapped layer, from input to output")
        axis.set_ylabel("norm, perturbed / clean")
        axis.set_title("how much louder each layer answers")
        axis.legend()
    return fig


def labels_histogram(perturbed: Tensor, classes: Sequence[str] | None, top: int = 12) -> "Figure":
    """The classes that perturbed images are taken for most often."""
    kinds, sizes = perturbed.unique(return_counts=True)
    order = sizes.argsort(descending=True)[:top]
    names = [classes[int(k)] if classes else f"class {int(k)}" for k in kinds[order]]
    with house_style():
        fig, axis = figure(1, 1, (6.4, 3.2))
        shares = (100 * sizes[order] / len(perturbed)).tolist()
        axis.barh(range(len(names)), shares, color=COLOURS["blue"])
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlabel("perturbed images taken for it (%)")
        axis.set_title(f"dominant labels ({len(kinds)} distinct in all)")
        axis.grid(False, axis="y")
    return fig


def defence_bars(found: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Fooling behind each defence, a bar a perturbation, with the accuracy left to clean images as dots."""
    names = [name for name in next(iter(found.values())) if name != "clean top-1"]
    width = 0.8 / len(names)
    with house_style():
        fig, axis = figure(1, 1, (6.4, 3.4))
        for i, (name, colour) in enumerate(zip(names, COLOURS.values(), strict=False)):
            spots = [k + (i - (len(names) - 1) / 2) * width for k in range(len(found))]
            axis.bar(
                spots,
                [100 * row[name] for row in found.values()],
                width,
                color=colour,
                label=name.rpartition(" ")[0],
            )
        top1 = [100 * row["clean top-1"] for row in found.values()]
        axis.plot(range(len(found)), top1, "D", color="black", label="clean top-1")
        axis.set_xticks(range(len(found)), [_wrap(name, 9) for name in found])
        axis.set_ylabel("images (%)")
        axis.set_title("images fooled behind each defence")
        axis.grid(False, axis="x")
        axis.legend(ncols=len(names) + 1, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return fig


def curve(
    points: Mapping[str, Mapping[float, float]], xlabel: str, title: str, log: bool = False
) -> "Figure":
    """Fooling against a number, a line a method (budget, images given, ...)."""
    with house_style():
        fig, axis = figure(1, 1, (6.4, 3.0))
        for (name, line), colour in zip(
            points.items(), ("blue", "vermillion", "green", "orange", "purple"), strict=False
        ):
            axis.plot(
                list(line), [100 * v for v in line.values()], marker="o", color=COLOURS[colour], label=name
            )
        if log:
            axis.set_xscale("log")
        axis.set_xlabel(xlabel)
        axis.set_ylabel("images fooled (%)")
        axis.set_title(title)
        axis.legend()
    return fig


def transfer_map(matrix: Mapping[str, Mapping[str, float]]) -> "Figure":
    """The cross-model matrix: perturbations along, models down, fooling in per cent."""
    models, perturbations = list(matrix), list(next(iter(matrix.values())))
    grid = torch.tensor([[100 * matrix[m][p] for p in perturbations] for m in models])
    with house_style():
        fig, axis = figure(1, 1, (1.6 + 1.1 * len(perturbations), 1.4 + 0.6 * len(models)))
        axis.imshow(grid.numpy(), cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
        for i in range(len(models)):
            for j in range(len(perturbations)):
                value = float(grid[i, j])
                axis.text(
                    j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 55 else "black"
                )
        axis.set_xticks(range(len(perturbations)), [_wrap(p, 12) for p in perturbations])
        axis.set_yticks(range(len(models)), models)
        axis.set_xlabel("perturbation")
        axis.set_ylabel("model")
        axis.set_title("images fooled (%)")
        axis.grid(False)
    return fig


def _wrap(text: str, width: int = 16) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:3])
