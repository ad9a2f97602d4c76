"""Figures of the study, from plain results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jostle.lab.style import COLOURS, SEQUENTIAL, WIDTH, figure, house_style
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.measuring import NetworkTimescales
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.records import CurriculumRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"multi": COLOURS["blue"], "single": COLOURS["vermillion"], "sliding": COLOURS["green"]}
_MARKERS = {"multi": "o", "single": "s", "sliding": "^"}


def learning(trained: Mapping[str, CurriculumRun]) -> "Figure":
    """N passed against optimiser steps, one line a network."""
    with house_style():
        made, axes = figure(1, 1, (WIDTH, 3.2))
        for name, training in trained.items():
            for i in range(len(training.learners)):
                passed = [(r["steps"], r["N"]) for r in training.rows if r["network"] == i and r["passed"]]
                last = max((r["steps"] for r in training.rows if r["network"] == i), default=0)
                steps, Ns = [0, *(s for s, _ in passed), last], [1, *(N for _, N in passed)]
                axes.step(
                    steps,
                    [*Ns, Ns[-1]],
                    where="post",
                    color=_colour(name),
                    alpha=0.85,
                    label=f"{name}-head" if i == 0 else None,
                )
        axes.set(xlabel="optimiser steps", ylabel="largest N passed")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        return made


def forgetting(tables: Mapping[str, Sequence[Sequence[float]]]) -> "Figure":
    """Accuracy of the heads on every N, row by row as the curriculum went on."""
    with house_style():
        made, axes = figure(1, len(tables), (WIDTH, 3.2))
        image = None
        for axis, (name, rows) in zip(np.atleast_1d(axes), tables.items(), strict=True):
            axis.set(title=f"{name}-head", xlabel="N asked", ylabel="N passed")
            axis.grid(False)
            if not rows:
                axis.set(xticks=[], yticks=[])
                axis.text(0.5, 0.5, "no N passed by all networks", ha="center", transform=axis.transAxes)
                continue
            top = int(max(row[0] for row in rows))
            grid = np.full((len(rows), top - 1), np.nan)
            for i, row in enumerate(rows):
                grid[i, : len(row) - 1] = row[1:]
            image = axis.imshow(grid, vmin=0.5, vmax=1, cmap=SEQUENTIAL, origin="lower", aspect="auto")
            axis.set_xticks(_ticks(top - 1), [str(i + 2) for i in _ticks(top - 1)])
            axis.set_yticks(_ticks(len(rows)), [f"{rows[i][0]:.0f}" for i in _ticks(len(rows))])
        if image is not None:
            made.colorbar(image, ax=axes, label="accuracy (chance: 0.5)")
        return made


def timescales(
    points: Mapping[str, Sequence[Mapping[str, float]]], trained: Mapping[str, CurriculumRun]
) -> "Figure":
    """Time constants over the course of training, and timescales of the activity at some N; means over networks."""
    at_gates = {
        "tau_mean": "mean tau (steps)",
        "tau_sd": "SD of tau (steps)",
        "tau_max": "largest tau (steps)",
    }
    at_points = {
        "tau_net_mean": "mean tau_net (steps)",
        "tau_net_sd": "SD of tau_net (steps)",
        "tau_slowest": "mean tau, slowest 20 (steps)",
    }
    with house_style():
        made, axes = figure(2, 3, (WIDTH * 1.25, 5.2))
        for name, training in trained.items():
            style = {"color": _colour(name), "marker": _MARKERS.get(name, "o"), "label": f"{name}-head"}
            passed = [row for row in training.rows if row["passed"]]
            for row, wanted, rows in ((0, at_gates, passed), (1, at_points, points[name])):
                for axis, (key, label) in zip(axes[row], wanted.items(), strict=True):
                    Ns, means, spread = _by_N(rows, key)
                    axis.errorbar(Ns, means, spread, **style)
                    axis.set(xlabel="N passed", ylabel=label)
                    axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].legend()
        return made


def _by_N(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float], list[float]]:
    """The Ns, and mean and SD over networks of one figure at each."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(int(row["N"]), []).append(row[key])
    Ns = sorted(values)
    spread = [float(np.std(values[N], ddof=1)) if len(values[N]) > 1 else 0.0 for N in Ns]
    return Ns, [float(np.mean(values[N])) for N in Ns], spread


def distributions(
    nets: Mapping[str, Sequence[MemoryNetwork]], examples: Mapping[str, NetworkTimescales]
) -> "Figure":
    """Histograms of tau and tau_net, and autocorrelations of a few units with fits on a logarithmic axis."""
    with house_style():
        made, axes = figure(2, max(2, len(examples)), (WIDTH, 5.0))
        taus = {
            name: np.concatenate(
                [net.tau.detach().cpu().numpy() for net in group if isinstance(net, LeakyRNN)]
            )
            for name, group in nets.items()
        }
        every = np.concatenate(list(taus.values()))
        bins = np.linspace(every.min(), every.max() + 1e-6, 30)
        scales = np.geomspace(0.1, 100, 31)
        for name, tau in taus.items():
            style = {"histtype": "step", "color": _colour(name), "label": f"{name}-head", "linewidth": 1.5}
            axes[0, 0].hist(tau, bins, **style)
            seen = examples[name].fit.tau
            axes[0, 1].hist(np.clip(seen[np.isfinite(seen)], 0.1, 100), scales, **style)
        axes[0, 0].set(xlabel="tau (steps), all networks", ylabel="neurons")
        axes[0, 1].set(xlabel="tau_net (steps), one network", ylabel="neurons", xscale="log")
        for axis in axes[0, :2]:
            axis.axvline(1, color="#444444", linestyle=":", linewidth=1)
        for axis in [*axes[0, 2:], *axes[1, len(examples) :]]:
            axis.set_axis_off()
        axes[0, 0].legend()
        for axis, (name, found) in zip(axes[1], examples.items(), strict=False):
            tau = np.nan_to_num(found.fit.tau)
            ranked = [i for i in np.argsort(tau) if tau[i] > 1]
            shown = [ranked[int(q * (len(ranked) - 1))] for q in (0.25, 0.6, 0.9)] if ranked else []
            fitted = found.fit.curves(np.arange(31.0))
            for unit, colour in zip(
                shown, (COLOURS["sky"], COLOURS["green"], COLOURS["purple"]), strict=False
            ):
                values = found.curves.values[unit, :31]
                lags = np.arange(len(values))
                axis.plot(lags[values > 0], values[values > 0], "o", color=colour, markersize=3)
                axis.plot(lags, fitted[unit], color=colour, label=f"tau_net = {tau[unit]:.1f}")
            axis.set_yscale("log")
            axis.set_ylim(3e-3, 1.3)
            axis.set(title=f"{name}-head", xlabel="lag (steps)", ylabel="autocorrelation")
            if shown:
                axis.legend(handlelength=1.2)
        return made


def perturbation(swept: Mapping[str, Mapping[str, Mapping[str, Sequence[Any]]]]) -> "Figure":
    """Relative accuracy against the size of the perturbation."""
    titles = {"weights": "recurrent weights", "tau_abs": "time constants, lengthened"}
    with house_style():
        made, axes = figure(1, len(swept), (WIDTH, 2.9))
        for axis, (kind, found) in zip(np.atleast_1d(axes), swept.items(), strict=True):
            for name, curve in found.items():
                sizes, mean, sd = (np.asarray(curve[key]) for key in ("sizes", "relative", "sd"))
                axis.errorbar(
                    sizes[1:],
                    mean[1:],
                    sd[1:],
                    color=_colour(name),
                    marker=_MARKERS.get(name, "o"),
                    label=f"{name}-head",
                )
            axis.set_xscale("log")
            axis.axhline(0, color="#444444", linestyle=":", linewidth=1)
            axis.set(
                title=titles.get(kind, kind),
                xlabel="relative size of the perturbation",
                ylabel="relative accuracy",
            )
        np.atleast_1d(axes)[0].legend()
        return made


def ablation(cut: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Relative accuracy without one neuron of a kind; a dot is a network."""
    with house_style():
        made, axis = figure(1, 1, (WIDTH * 0.75, 2.9))
        width = 0.8 / len(cut)
        kinds = list(next(iter(cut.values())))
        for i, (name, found) in enumerate(cut.items()):
            place = np.arange(len(kinds)) + (i - (len(cut) - 1) / 2) * width
            heights = [np.mean(found[kind]) for kind in kinds]
            # Marks, not bars: the axis does not begin at zero.
            axis.plot(
                place,
                heights,
                _MARKERS.get(name, "o"),
                color=_colour(name),
                markersize=8,
                label=f"{name}-head",
            )
            for x, kind in zip(place, kinds, strict=True):
                axis.plot([x + width / 4] * len(found[kind]), found[kind], ".", color="black", markersize=4)
        every = [value for found in cut.values() for values in found.values() for value in values]
        axis.set_ylim(min(0.9, min(every) - 0.05), max(1.02, max(every) + 0.01))
        axis.set_xticks(range(len(kinds)), [f"{kind} neuron" for kind in kinds])
        axis.set(ylabel="relative accuracy without it")
        axis.grid(axis="x", visible=False)
        made.legend(loc="outside upper center", ncols=len(cut))
        return made


def retraining(found: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Accuracy on a later N after training on it alone."""
    with house_style():
        made, axis = figure(1, 1, (WIDTH * 0.75, 2.9))
        for name, curve in found.items():
            axis.plot(
                [int(N) for N in curve],
                list(curve.values()),
                color=_colour(name),
                marker=_MARKERS.get(name, "o"),
                label=f"{name}-head",
            )
        axis.axhline(0.5, color="#444444", linestyle=":", linewidth=1)
        axis.set(xlabel="N retrained on", ylabel="accuracy (chance: 0.5)")
        axis.legend()
        return made


def _colour(name: str) -> str:
    return _COLOURS.get(name, COLOURS["black"])


def _ticks(count: int) -> list[int]:
    return list(range(0, count, max(1, count // 8)))
