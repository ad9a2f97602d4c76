"""The figures of collapse: its geometry, its course over layers and epochs, and how it answers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import ticker
from matplotlib.figure import Figure

from jostle.collapse.flow import Flow
from jostle.collapse.report import NCReport
from jostle.lab.style import COLOURS, DIVERGING, figure, house_style

LABELS = {
    "nc1_trace": "NC1, trace form",
    "nc1": "NC1, pseudo-inverse form",
    "nc2": "NC2, distance from the simplex",
    "nc3": "NC3, distance of head and means",
}
_MARKS = dict(zip(LABELS, ("o", "s", "^", "D"), strict=True))
_INK = dict(zip(LABELS, ("blue", "vermillion", "green", "purple"), strict=True))


def _log(axes: Any) -> None:
    """A log scale whose ticks are plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high < 4 * low
    axes.yaxis.set_major_locator(ticker.MaxNLocator(4) if few else ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def geometry(report: NCReport, names: Sequence[str] | None = None) -> Figure:
    """Class means against the ideal simplex: seen from where the simplex is a regular polygon, and by angles.

    Left: the symmetric square root of the Gram matrix of the centred means is the configuration with these
    means' angles and lengths that lies nearest to the simplex; it is projected on the plane in which the
    simplex is a regular polygon. Right: each pair's angle less the ideal `arccos(-1/(K-1))`, in degrees.

    **Arguments:** `report`: of one layer. `names`: of the classes.
    """
    K = report.K
    gram = report.gram.double()
    values, vectors = torch.linalg.eigh(gram)
    seen = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.T)
    turn = 2 * math.pi * torch.arange(K, dtype=torch.float64) / K
    plane = torch.stack([turn.cos(), turn.sin()])
    ideal = math.sqrt(float(gram.trace()) / (K - 1)) * plane
    found = (plane @ seen).numpy()
    names = names or [str(k) for k in range(K)]
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.2))
        ring = torch.cat([ideal, ideal[:, :1]], 1)
        left.plot(*ring.numpy(), "o--", mfc="none", color="#888888", lw=0.8, ms=7, label="ideal simplex")
        for k in range(K):
            left.plot([0, found[0, k]], [0, found[1, k]], color=COLOURS["sky"], lw=0.8)
            # Which mean belongs to which corner.
            left.plot([found[0, k], ideal[0, k]], [found[1, k], ideal[1, k]], ":", color="#888888", lw=0.8)
        left.plot(*found, "o", color=COLOURS["blue"], label="class means")
        # A name stands outside its corner, and outside a mean that went further.
        radius = float(ideal.norm(dim=0).max())
        where = [radius * 0.22 + max(radius, float(np.linalg.norm(found[:, k]))) for k in range(K)]
        if K <= 20:
            for k in range(K):
                left.annotate(
                    names[k],
                    (float(where[k] * plane[0, k]), float(where[k] * plane[1, k])),
                    ha="center",
                    va="center",
                    fontsize=8,
                )
        reach = 1.15 * max(where)
        left.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        left.set_xticklabels([])
        left.set_yticklabels([])
        left.set_xlabel("first direction of the plane")
        left.set_ylabel("second direction of the plane")
        left.set_title("centred class means", pad=18)
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, borderaxespad=0)
        angles = torch.rad2deg(report.cosines.double().clamp(-1, 1).acos())
        best = math.degrees(math.acos(-1 / (K - 1)))
        gap = (angles - best).fill_diagonal_(float("nan")).numpy()
        top = max(1.0, float(np.nanmax(np.abs(gap))))
        shown = right.imshow(gap, cmap=DIVERGING, vmin=-top, vmax=top)
        right.grid(False)
        right.set_xlabel("class")
        right.set_ylabel("class")
        if K <= 20:
            right.set_xticks(range(K), names)
            right.set_yticks(range(K), names)
        right.set_title(f"angle less the ideal {best:.1f}°", pad=18)
        made.colorbar(shown, ax=right, label="degrees", shrink=0.85)
    return made


def by_layer(layers: Mapping[str, NCReport]) -> Figure:
    """NC1, NC2 and NC3 along the layers of a network."""
    at = np.arange(len(layers))
    with house_style():
        made, axes = figure(1, 1, (6.4, 3.6))
        for name, label in LABELS.items():
            values = [getattr(report, name) for report in layers.values()]
            shown = [math.nan if value is None else value for value in values]
            axes.plot(at, shown, marker=_MARKS[name], color=COLOURS[_INK[name]], label=label)
        _log(axes)
        long = max(len(name) for name in layers) > 3 and len(layers) > 6
        axes.set_xticks(at, list(layers), rotation=40 if long else 0, ha="right" if long else "center")
        axes.set_xlabel("layer, from the input to the head")
        axes.set_ylabel("metric (log scale, no unit)")
        axes.legend()
    return made


def courses(at: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], xlabel: str) -> Figure:
    """Metrics over epochs, or over the layers of several seeds: one line a seed, one panel a metric."""
    with house_style():
        made, axes = figure(1, len(curves), (6.4, 2.9))
        for panel, (name, seeds) in zip(np.atleast_1d(axes), curves.items(), strict=True):
            for i, values in enumerate(seeds):
                mark = ("o", "s", "^", "D")[i % 4]
                label = f"seed {i}" if len(seeds) > 1 else None
                panel.plot(at[: len(values)], values, marker=mark, label=label)
            _log(panel)
            panel.set_title(LABELS[name].replace(", ", ",\n"))
            panel.set_xlabel(xlabel)
            if len(seeds) > 1:
                panel.legend()
        np.atleast_1d(axes)[0].set_ylabel("metric (log scale, no unit)")
    return made


def stairs(found: Mapping[float, tuple[Sequence[float], Sequence[float]]], beta: float) -> Figure:
    """The eigenvalues of a diagonal block of the response, by `lam_h`: computed, and by the theorem.

    **Arguments:** `found`: from `lam_h` to the sorted eigenvalues of the dense operator and those of the
    formula.
    """
    with house_style():
        made, axes = figure(1, 1, (6.4, 3.6))
        for i, (lam_h, (numeric, formula)) in enumerate(found.items()):
            ink = list(COLOURS.values())[i]
            index = np.arange(1, len(numeric) + 1)
            axes.step(index, formula, where="mid", color=ink, label=rf"$\lambda_H$ = {lam_h:g}")
            axes.plot(index, numeric, "o", mfc="none", ms=3.5, color=ink)
        axes.plot([], [], "o", mfc="none", color="#444444", label="dense solve")
        axes.set_xlabel("index of the eigenvalue, from the largest")
        axes.set_ylabel(f"eigenvalue of $F_{{kk}}$ (β = {beta:g})")
        axes.legend(ncols=2)
    return made


def slopes(panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]]) -> Figure:
    """How the error of the predicted response falls with the nudge; a line of slope 2 to compare.

    **Arguments:** `panels`: from a title to the sizes of the nudges and the errors, by name.
    """
    inks = ("blue", "vermillion", "green", "purple")
    with house_style():
        made, axes = figure(1, len(panels), (6.4, 3.2))
        for panel, (title, (sizes, lines)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for (label, errors), ink, mark in zip(lines.items(), inks, "os^D", strict=False):
                panel.loglog(sizes, errors, marker=mark, color=COLOURS[ink], label=label)
            first = next(iter(lines.values()))
            guide = np.asarray(sizes) ** 2 * first[0] / sizes[0] ** 2 / 3
            panel.loglog(sizes, guide, "--", color="#888888", lw=1, label="slope 2")
            panel.set_title(title)
            panel.set_xlabel("size of the nudge, relative to the features")
            panel.legend()
        np.atleast_1d(axes)[0].set_ylabel("error of the prediction, relative")
    return made


def flowing(found: Flow, lam_h: float, path: tuple[Sequence[float], Sequence[float]]) -> Figure:
    """The flow: growth of both scatters with decay taken out, and NC1 against the minimisers of the tie."""
    t = found.times.numpy()
    grown = np.exp(2 * lam_h * t)
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.0))
        left.plot(t, grown * found.within.numpy(), color=COLOURS["vermillion"], label="within classes")
        left.plot(t, grown * found.between.numpy(), "--", color=COLOURS["blue"], label="between classes")
        left.set_xlabel("time t")
        left.set_ylabel(r"$e^{2\lambda_H t}$ Tr Σ")
        _log(left)
        left.legend()
        left.set_title("scatter along the flow")
        right.plot(t, found.nc1_trace.numpy(), color=COLOURS["blue"], label="flow at time t")
        right.plot(*path, "o", mfc="none", color=COLOURS["vermillion"], label="minimiser at β = 1/t")
        _log(right)
        right.set_xlabel("time t, or 1/β")
        right.set_ylabel("NC1, trace form")
        right.legend()
        right.set_title("the minimiser follows the flow")
    return made


def decay_bars(shifts: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """How each change of the decay moves NC1 and NC2 from the baseline; a dot a seed.

    **Arguments:** `shifts`: from metric to variant to the change against the baseline, one a seed.
    """
    with house_style():
        made, axes = figure(1, len(shifts), (6.4, 3.0))
        for panel, (metric, variants) in zip(np.atleast_1d(axes), shifts.items(), strict=True):
            at = np.arange(len(variants))
            inks = [COLOURS["blue" if name.startswith("feat") else "orange"] for name in variants]
            panel.bar(at, [float(np.mean(v)) for v in variants.values()], color=inks, width=0.65)
            for i, values in enumerate(variants.values()):
                panel.plot([i] * len(values), values, "o", color="black", ms=2.5)
            panel.axhline(0, color="#444444", lw=0.8)
            panel.set_xticks(at, [name.replace(" ", "\n") for name in variants], fontsize=7)
            panel.grid(False, axis="x")
            panel.set_title(LABELS[metric].replace(", ", ",\n"))
        np.atleast_1d(axes)[0].set_ylabel("change from the baseline")
    return made


def survival(parts: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What of a nudge survives a tied layer: the share of each of the five parts, before and after.

    **Arguments:** `parts`: from the nudge's name to `before` and `after`, each from part to energy.
    """
    kinds = ("within_in", "within_out", "mean_out", "mean_sym", "mean_skew")
    words = (
        "within, in span",
        "within, outside",
        "means, outside",
        "means, stretch",
        "means, rotation",
    )
    with house_style():
        made, axes = figure(1, 1, (6.4, 2.9))
        rows = [f"{name}, {when}" for name in parts for when in ("before", "after")]
        left = np.zeros(len(rows))
        whole = np.array([[sum(part["before"].values())] * 2 for part in parts.values()]).ravel()
        for kind, word, ink in zip(kinds, words, ("blue", "sky", "purple", "orange", "green"), strict=True):
            shares = (
                np.array([part[when][kind] for part in parts.values() for when in ("before", "after")])
                / whole
            )
            axes.barh(rows, shares, left=left, label=word, color=COLOURS[ink], height=0.7)
            left += shares
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("energy, as a share of the nudge's")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=3)
    return made
