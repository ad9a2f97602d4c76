"""The figures of smoothing: what is certified, what it costs, and what pre-training does to the features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import ticker
from matplotlib.figure import Figure
from torch import Tensor

from jostle.core.statistics import wilson
from jostle.lab.style import COLOURS, figure, house_style, picture
from jostle.smoothing.certificates import Certificates
from jostle.smoothing.tallies import Tables, gain

_INK = {
    "gaussian": ("black", ":"),
    "consistency": ("blue", "--"),
    "rrcm": ("vermillion", "-"),
    "contrast": ("green", "-."),
    "path": ("orange", "-."),
    "denoised": ("purple", ":"),
    "macer": ("sky", "--"),
    "smoothadv": ("green", "--"),
    "smoothmix": ("orange", "--"),
    "stability": ("sky", ":"),
}
NAMES = {
    "gaussian": "Gaussian",
    "consistency": "consistency",
    "rrcm": "rRCM",
    "contrast": "contrast only",
    "path": "path only",
    "denoised": "denoised",
    "macer": "MACER",
    "smoothadv": "SmoothAdv",
    "smoothmix": "SmoothMix",
    "stability": "stability",
}


def _parts(tables: Tables) -> tuple[list[str], list[float], list[int]]:
    methods = list(dict.fromkeys(method for method, _, _ in tables))
    sigmas = list(dict.fromkeys(sigma for _, sigma, _ in tables))
    return methods, sigmas, list(dict.fromkeys(seed for _, _, seed in tables))


def curves(tables: Tables) -> Figure:
    """Certified accuracy against radius, a panel a noise level; a band is the 95 % interval over images.

    **Arguments:** `tables`: certificates by (method, sigma, seed); seeds are averaged.
    """
    methods, sigmas, seeds = _parts(tables)
    with house_style():
        made, grid = figure(1, len(sigmas), (2.25 * len(sigmas) + 0.4, 2.9))
        for axes, sigma in zip(np.atleast_1d(grid), sigmas, strict=True):
            for method in methods:
                found = [tables[method, sigma, seed] for seed in seeds]
                radii = [float(r) for r in found[0].settings["grid"]]
                shares = np.array([[table.accuracy(r) for r in radii] for table in found]).mean(0)
                bounds = np.array([wilson(round(s * len(found[0])), len(found[0])) for s in shares])
                # What is not certified on the grid is not certified between its points either.
                edges, steps = [*radii, radii[-1] + radii[-1] - radii[-2]], [*shares, 0.0]
                colour, dash = _INK[method]
                axes.plot(
                    edges, steps, color=COLOURS[colour], ls=dash, marker="o", ms=2.5, label=NAMES[method]
                )
                if method in (methods[0], methods[-1]):
                    axes.fill_between(radii, *bounds.T, color=COLOURS[colour], alpha=0.12, lw=0)
            axes.set_title(f"sigma = {sigma:g}")
            axes.set_xlabel("L2 radius (images in [0, 1])")
            axes.set_ylim(0, 1)
            # As far as anything is certified, and one step beyond.
            some = [
                r
                for r in radii
                if any(tables[m, sigma, s].accuracy(r) > 0.005 for m in methods for s in seeds)
            ]
            axes.set_xlim(0, max(some, default=radii[0]) + 1.2 * (radii[1] - radii[0]))
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
        np.atleast_1d(grid)[0].set_ylabel("certified accuracy")
        np.atleast_1d(grid)[-1].legend(loc="upper right")
    return made


def differences(tables: Tables) -> Figure:
    """ACR a method, noise level and seed, and the gain over the first method with its 95 % interval over images.

    **Arguments:** `tables`: certificates by (method, sigma, seed).
    """
    methods, sigmas, seeds = _parts(tables)
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.0))
        for i, method in enumerate(methods):
            colour = COLOURS[_INK[method][0]]
            where = np.arange(len(sigmas)) + 0.18 * (i - (len(methods) - 1) / 2)
            for seed in seeds:
                heights = [tables[method, sigma, seed].average_radius() for sigma in sigmas]
                left.plot(
                    where, heights, "o", color=colour, label=NAMES[method] if seed == seeds[0] else None
                )
            if i == 0:
                continue
            for x, sigma in zip(where, sigmas, strict=True):
                found = gain(tables, method, methods[0], sigma)
                mean, half = found["mean"], found["high"] - found["mean"]
                right.errorbar(x, mean, half, fmt="o", color=colour)
        right.axhline(0, color="#444444", lw=0.8)
        for axes in (left, right):
            axes.set_xticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
            axes.set_xlabel("sigma")
            axes.grid(axis="x", visible=False)
        left.set_ylim(bottom=0)
        left.set_ylabel("average certified radius")
        left.set_title("Each seed")
        left.legend()
        right.set_ylabel("gain in average radius")
        right.set_title(f"Against {NAMES[methods[0]]}, 95 % intervals")
    return made


def draws(table: Certificates, fixed: int, simulated: Mapping[str, Any]) -> Figure:
    """Draws an image by verdict, and the mean draws of each procedure.

    **Arguments:** `table`: certificates of the sequential test. `fixed`: draws of the fixed test on them.
    `simulated`: by procedure, `draws` at n = 100,000.
    """
    used = table.used.double().numpy()
    kinds = {
        "right": (table.correct.numpy(), "blue"),
        "wrong class": (((table.prediction >= 0) & ~table.correct).numpy(), "vermillion"),
        "abstained": ((table.prediction < 0).numpy(), "orange"),
    }
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.0))
        edges = np.geomspace(used.min() * 0.95, fixed * 1.05, 24)
        rows = [used[mask] for mask, _ in kinds.values()]
        left.hist(
            rows,
            edges,
            stacked=True,
            color=[COLOURS[ink] for _, ink in kinds.values()],
            label=list(kinds),
            edgecolor="white",
            lw=0.4,
        )
        left.axvline(used.mean(), color="#111111", lw=1.0, label=f"mean {used.mean():,.0f}")
        left.axvline(fixed, color="#111111", lw=1.0, ls=":", label=f"fixed {fixed:,}")
        left.set_xscale("log")
        left.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
        left.set_xlabel("draws of an image")
        left.set_ylabel("images")
        left.legend(loc="upper center", bbox_to_anchor=(0.45, 1.0))
        left.set_title("Measured")
        names = list(simulated)
        means = [simulated[name]["draws"] for name in names]
        inks = [COLOURS["vermillion" if name == "sequential" else "blue"] for name in names]
        right.barh(names, means, color=inks, height=0.6)
        for y, mean in enumerate(means):
            right.text(mean + 0.02 * max(means), y, f"{mean:,.0f}", va="center", fontsize=8)
        right.set_xlim(0, max(means) * 1.3)
        right.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
        right.xaxis.set_major_locator(ticker.MaxNLocator(3))
        right.set_xlabel("mean draws of an image")
        right.grid(axis="y", visible=False)
        right.set_title("Simulated, at most 100,000")
    return made


def pretraining(history: Sequence[Sequence[float]], levels: Tensor, before: Tensor, after: Tensor) -> Figure:
    """Losses over the steps, and how alike the features of an image are with noise `t` and without.

    **Arguments:** `history`: contrast, consistency and crowding a step. `levels`: values of `t`. `before`, `after`:
    mean cosines of an untrained and of the trained encoder.
    """
    rows = np.array(history)
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 2.9))
        wide = max(1, len(rows) // 40)
        smooth = np.stack([np.convolve(column, np.ones(wide) / wide, "valid") for column in rows.T])
        for row, label, ink in zip(
            smooth[:2], ("contrast", "consistency"), ("blue", "vermillion"), strict=True
        ):
            left.plot(np.arange(len(row)) + wide, row, color=COLOURS[ink], label=label)
        left.set_xlabel("step")
        left.set_ylabel("InfoNCE (nats)")
        left.set_ylim(bottom=0)
        left.legend()
        left.set_title("Losses, running mean")
        right.plot(levels, before, "o:", color="#888888", label="untrained")
        right.plot(levels, after, "o-", color=COLOURS["vermillion"], label="pre-trained")
        for sigma in (0.25, 0.5, 1.0):
            right.axvline(2 * sigma, color="#BBBBBB", lw=0.8, zorder=0)
            right.text(2 * sigma, 1.01, f"{sigma:g}", ha="center", va="bottom", fontsize=7, rotation=90)
        right.set_xscale("log")
        right.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        right.set_ylim(min(0.0, float(before.min()), float(after.min())), 1.0)
        right.set_xlabel("noise t = 2 sigma (lines: sigma)")
        right.set_title("Along the noise")
        right.set_ylabel("cosine with the clean features")
        right.legend(loc="lower left")
    return made


def noisy(images: Tensor, sigmas: Sequence[float]) -> Figure:
    """A few images without and with the noise of each level, clipped for the eye only.

    **Arguments:** `images`: in [0, 1], of shape `(images, channels, height, width)`. `sigmas`: noise levels.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    with house_style():
        made, grid = figure(
            len(sigmas) + 1, len(images), (0.95 * len(images) + 0.6, 0.95 * (len(sigmas) + 1))
        )
        for i, sigma in enumerate((0.0, *sigmas)):
            for j, image in enumerate(images):
                picture(grid[i, j], (image + sigma * noise[j]).clamp(0, 1))
            grid[i, 0].text(
                -0.12, 0.5, f"{sigma:g}", transform=grid[i, 0].transAxes, ha="right", va="center", fontsize=9
            )
        grid[0, 0].text(-0.12, 1.12, "sigma", transform=grid[0, 0].transAxes, ha="right", fontsize=8)
    return made


def cost(tables: Tables, speed: Mapping[str, float], sigma: float, seed: int) -> Figure:
    """ACR at one noise level against the time that the draws of an image take, one after another.

    **Arguments:** `tables`: certificates by (method, sigma, seed). `speed`: images a second by method.
    """
    marks = dict(zip(speed, "osDv^PX<>h", strict=False))
    with house_style():
        made, axes = figure(1, 1, (4.2, 2.9))
        times, radii = [], []
        for method, rate in speed.items():
            table = tables[method, sigma, seed]
            times.append(1e3 * float(table.used.double().mean()) / rate)
            radii.append(table.average_radius())
            ink = COLOURS[_INK[method][0]]
            axes.plot(times[-1], radii[-1], marks[method], color=ink, ms=6, label=NAMES[method], alpha=0.85)
        axes.set_xlim(0, 1.2 * max(times))
        axes.set_ylim(0, 1.2 * max(radii) or 1.0)
        axes.set_xlabel("milliseconds to certify an image")
        axes.set_ylabel("average certified radius")
        axes.legend(loc="lower left")
    return made
