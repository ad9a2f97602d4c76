"""The figures of federated: accuracy by rounds and cost, drift, intervals, limits, flatness, and who holds what."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jostle.lab.style import COLOURS, figure, house_style

LABELS = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedsam": "FedSAM",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "fedspeed": "FedSpeed",
    "printed": "FedSpeed, mean over active",
    "fedcm": "FedCM",
    "mofedsam": "MoFedSAM",
    "fedgamma": "FedGamma",
    "fedadam": "FedAdam",
    "fedsmoo": "FedSMOO",
    "fedadmm": "FedADMM",
}
_INK = {
    "fedavg": ("black", "-"),
    "fedprox": ("black", "--"),
    "fedsam": ("orange", "-."),
    "scaffold": ("green", (0, (5, 1.5))),
    "feddyn": ("sky", "--"),
    "fedspeed": ("vermillion", "-"),
    "printed": ("purple", ":"),
    "fedcm": ("orange", ":"),
    "mofedsam": ("orange", "--"),
    "fedgamma": ("green", ":"),
    "fedadam": ("blue", ":"),
    "fedsmoo": ("blue", "-"),
    "fedadmm": ("sky", ":"),
}

Curves = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""From an algorithm's name to a history a seed."""


def _ink(name: str) -> dict[str, Any]:
    colour, line = _INK.get(name, ("blue", "-"))
    return {"color": COLOURS[colour], "linestyle": line}


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _judged(seeds: Sequence[Sequence[Mapping[str, Any]]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """A quantity and the accuracy at the judged rounds, `(seeds, rounds)` each."""
    rows = [[row for row in one if row.get("accuracy") is not None] for one in seeds]
    at = np.array([[row[key] for row in one] for one in rows], dtype=float)
    return at, np.array([[row["accuracy"] for row in one] for one in rows])


def _lines(axes: Any, curves: Curves, key: str, scale: float, target: float) -> None:
    for name, seeds in curves.items():
        at, scores = _judged(seeds, key)
        x = at.mean(0) * scale
        axes.plot(x, scores.mean(0), label=_label(name), **_ink(name))
        if len(seeds) > 1:
            axes.fill_between(x, scores.min(0), scores.max(0), color=_ink(name)["color"], alpha=0.15, lw=0)
    axes.axhline(target, color="#888888", lw=0.8, ls=":")
    lowest = min(float(_judged(seeds, key)[1].mean(0)[-1]) for seeds in curves.values())
    # Early rounds are near chance for all: what tells them apart is above.
    axes.set_ylim(bottom=max(0.0, min(0.5, lowest - 0.1)))


def accuracy(curves: Curves, target: float) -> Figure:
    """Test accuracy by round, mean and span of the seeds.

    **Arguments:** `curves`: histories. `target`: drawn as a dotted line.
    """
    with house_style():
        made, axes = figure(1, 1, (6.4, 4.0))
        counted = {
            n: [[{**row, "count": row["round"] + 1} for row in one] for one in s] for n, s in curves.items()
        }
        _lines(axes, counted, "count", 1.0, target)
        axes.set_xlabel("communication round")
        axes.set_ylabel("test accuracy")
        made.legend(loc="outside lower center", ncols=3)
    return made


def costs(curves: Curves, target: float) -> Figure:
    """Test accuracy by minibatch gradients and by bytes on the wire, up and down."""
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.6))
        _lines(left, curves, "total_gradients", 1e-3, target)
        _lines(right, curves, "total_bytes", 1e-6, target)
        left.set_xlabel("minibatch gradients of all clients (thousands)")
        right.set_xlabel("bytes up and down (MB)")
        left.set_ylabel("test accuracy")
        handles, names = left.get_legend_handles_labels()
        made.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)))
    return made


def targets(found: Mapping[str, Mapping[str, Sequence[Any]]], target: float) -> Figure:
    """Rounds and gradients to a target accuracy, a dot a seed; a cross at the edge for a seed that never got there.

    **Arguments:** `found`: from a name to `rounds` and `gradients`, `None` for never.
    """
    with house_style():
        made, panels = figure(1, 2, (6.4, 0.9 + 0.34 * len(found)))
        for axes, key, scale, label in zip(
            panels, ("rounds", "gradients"), (1, 1e-3), ("rounds", "gradients (thousands)"), strict=True
        ):
            known = [v * scale for held in found.values() for v in held[key] if v is not None]
            edge = 1.1 * max(known, default=1.0)
            for i, (name, held) in enumerate(found.items()):
                here = [v * scale for v in held[key] if v is not None]
                missing = sum(v is None for v in held[key])
                axes.plot(here, [i] * len(here), "o", color=_ink(name)["color"], ms=5)
                if here and not missing:
                    axes.plot([np.mean(here)], [i], "|", color="black", ms=13)
                axes.plot([edge] * missing, [i] * missing, "x", color="#666666")
            axes.set_yticks(range(len(found)), [_label(name) for name in found])
            axes.set_ylim(len(found) - 0.5, -0.5)
            axes.set_xlim(0, 1.05 * edge)
            axes.set_xlabel(f"{label} to {target:.0%}")
        panels[1].set_yticklabels([])
    return made


def drift(curves: Curves) -> Figure:
    """How far clients move in a round, and how long the corrections are, by round (mean of the seeds)."""
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 3.4))
        for name, seeds in curves.items():
            rounds = np.array([row["round"] + 1 for row in seeds[0]])
            moved = np.array([[row["divergence"] for row in one] for one in seeds]).mean(0)
            left.plot(rounds, moved, label=_label(name), **_ink(name))
            held = np.array([[row["norm_client"] for row in one] for one in seeds]).mean(0)
            if held.max() > 0:
                right.plot(rounds, held, **_ink(name))
        left.set_yscale("log")
        left.set_xlabel("communication round")
        left.set_ylabel(r"mean $\|v_i - x\|^2$ of the active clients")
        right.set_xlabel("communication round")
        right.set_ylabel(r"mean $\|h_i\|$ or $\|c_i\|$ of the active clients")
        handles, names = left.get_legend_handles_labels()
        made.legend(handles, names, loc="outside lower center", ncols=3)
    return made


def interval(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Final accuracy by local epochs.

    **Arguments:** `found`: from a name to local epochs to a number a seed.
    """
    with house_style():
        made, axes = figure(1, 1, (6.4, 3.2))
        for name, held in found.items():
            epochs = np.array([int(e) for e in held])
            axes.plot(
                epochs, [np.mean(v) for v in held.values()], marker="o", label=_label(name), **_ink(name)
            )
            for e, values in zip(epochs, held.values(), strict=True):
                axes.plot([e] * len(values), values, ".", color=_ink(name)["color"], alpha=0.5)
        axes.set_xscale("log")
        axes.set_xticks(epochs, [str(e) for e in epochs])
        axes.minorticks_off()
        axes.set_xlabel("local epochs a round (log scale)")
        axes.set_ylabel("test accuracy, last-ten mean")
        axes.legend()
    return made


def limits(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Distance from the minimiser of quadratics by round.

    **Arguments:** `curves`: from a name to the largest error of a coordinate, by round.
    """
    styles = (("vermillion", "-"), ("purple", ":"), ("blue", "--"), ("black", "-."))
    with house_style():
        made, axes = figure(1, 1, (6.4, 3.6))
        for (name, errors), (ink, line) in zip(curves.items(), styles, strict=False):
            at = np.arange(1, len(errors) + 1)
            axes.semilogy(at, np.maximum(errors, 1e-17), color=COLOURS[ink], ls=line, label=name)
        axes.set_xlabel("communication round")
        axes.set_ylabel(r"largest error of a coordinate, $|x - x^*|_\infty$")
        axes.set_yticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
        made.legend(loc="outside lower center", ncols=2)
    return made


def flatness(
    found: Mapping[str, Sequence[float]],
    along: Mapping[str, Sequence[Sequence[float]]],
    radii: Sequence[float],
) -> Figure:
    """The largest Hessian eigenvalue, a dot a seed; and the loss along its direction, mean and span of the seeds.

    **Arguments:** `found`: from a name to an eigenvalue a seed. `along`: from a name to losses at `radii`, a row a
    seed.
    """
    with house_style():
        made, (left, right) = figure(1, 2, (6.4, 1.6 + 0.34 * len(found)))
        for i, (name, values) in enumerate(found.items()):
            left.plot(values, [i] * len(values), "o", color=_ink(name)["color"], ms=5)
            left.plot([np.mean(values)], [i], "|", color="black", ms=13)
            rows = np.asarray(along[name])
            right.plot(radii, rows.mean(0), label=_label(name), **_ink(name))
            if len(rows) > 1:
                right.fill_between(
                    radii, rows.min(0), rows.max(0), color=_ink(name)["color"], alpha=0.15, lw=0
                )
        left.set_yticks(range(len(found)), [_label(name) for name in found])
        left.set_ylim(len(found) - 0.5, -0.5)
        left.set_xlim(left=0)
        left.set_xlabel("largest Hessian eigenvalue")
        right.set_ylim(bottom=0)
        right.set_xlabel("distance along its eigenvector")
        right.set_ylabel("training loss")
        handles, names = right.get_legend_handles_labels()
        made.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)))
    return made


def bubbles(table: Sequence[Sequence[int]]) -> Figure:
    """Samples by client and class: the area of a dot is the number.

    **Arguments:** `table`: one row a client, one number a class.
    """
    counts = np.asarray(table)
    with house_style():
        made, axes = figure(1, 1, (6.4, 2.8))
        client, kind = np.nonzero(counts)
        size = counts[client, kind]
        axes.scatter(client, kind, s=90 * size / counts.max(), color=COLOURS["blue"], alpha=0.8, lw=0)
        axes.scatter([], [], s=90, color=COLOURS["blue"], alpha=0.8, lw=0, label=f"{counts.max()} samples")
        axes.set_yticks(range(counts.shape[1]))
        axes.set_xlabel("client")
        axes.set_ylabel("class")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return made
