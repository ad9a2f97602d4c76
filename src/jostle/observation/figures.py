"""The figures of the study, and of a user's own evaluation."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from jostle.lab.style import COLOURS, DIVERGING, WIDTH, figure, house_style
from jostle.observation.district import FEATURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HUES = {
    "none": COLOURS["black"],
    "uniform noise": COLOURS["sky"],
    "corner noise": COLOURS["purple"],
    "regression": COLOURS["orange"],
    "bifurcated": COLOURS["vermillion"],
    "FGSM bifurcated": COLOURS["purple"],
    "toggle": COLOURS["blue"],
    "stealth bifurcated": COLOURS["green"],
    "black-box toggle": COLOURS["purple"],
}


def week(
    base: Any, years: Mapping[str, Mapping[str, Any]], names: Sequence[str], first: int, hours: int = 168
) -> "Figure":
    """Net load and charge of one week, clean and attacked."""
    with house_style():
        made, axes = figure(1 + len(names), 1, (WIDTH, 1.9 + 1.35 * len(names)))
        span = slice(first, first + hours)
        days = np.arange(len(np.asarray(base)[span])) / 24
        for axis, name in zip(axes[:-1], names, strict=True):
            clean, hit = (np.asarray(years[n]["net"])[span] for n in ("none", name))
            axis.fill_between(
                days, clean, hit, where=hit > clean, color=_HUES[name], alpha=0.25, lw=0, step="mid"
            )
            axis.step(days, clean, where="mid", color=COLOURS["black"], lw=1.1, label="clean")
            axis.step(days, hit, where="mid", color=_HUES[name], lw=1.1, label=name)
            axis.set_ylabel("net load (kWh/h)")
            axis.set_title(f"{name}: what the building draws")
        for name in ("none", *names):
            axes[-1].plot(
                days, 100 * np.asarray(years[name]["soc"])[span], color=_HUES[name],
                label="clean" if name == "none" else name, lw=1.3,
            )  # fmt: skip
        axes[-1].set_ylabel("charge (%)")
        axes[-1].set_xlabel(f"day (from hour {first} of the year)")
        for axis in axes:
            axis.set_xlim(0, hours / 24)
            axis.legend(loc="upper right", ncols=3)
            low, high = axis.get_ylim()
            axis.set_ylim(low, high + 0.36 * (high - low))
    return made


def kpi_bars(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> "Figure":
    """What each attack adds to some KPIs; bars are means, dots single runs."""
    with house_style():
        made, axes = figure(1, len(names), (WIDTH, 1.1 + 0.3 * len(rows)))
        places = np.arange(len(rows))[::-1]
        for axis, name in zip(axes, names, strict=True):
            for place, (attack, row) in zip(places, rows.items(), strict=True):
                values = np.asarray(row["kpi regret"][name])
                axis.barh(place, values.mean(), color=_HUES.get(attack, "#888888"), height=0.66)
                axis.plot(values, np.full(len(values), place), "o", color="black", ms=2.5)
            axis.axvline(0, color="#444444", lw=0.8)
            axis.set_title(name)
            axis.set_xlabel("added (ratio)")
            axis.set_yticks(places, list(rows) if axis is axes[0] else [""] * len(rows))
            axis.grid(axis="y", visible=False)
    return made


def regret_by_eps(runs: Sequence[Mapping[str, Any]]) -> "Figure":
    """Regret against the budget: means over controllers with the range as a band."""
    with house_style():
        made, axis = figure()
        budgets = sorted(runs[0]["regret"], key=float)
        x = [float(b) for b in budgets]
        for name in runs[0]["regret"][budgets[0]]:
            values = np.array([[run["regret"][b][name] for b in budgets] for run in runs])
            hue = _HUES.get(name, "#888888")
            axis.plot(x, values.mean(0), "o-", color=hue, label=name)
            axis.fill_between(x, values.min(0), values.max(0), color=hue, alpha=0.1, lw=0)
        axis.set_xlabel("budget eps (scaled observation units)")
        axis.set_ylabel("return lost")
        axis.legend()
    return made


def heat(year: Mapping[str, Any], first: int, hours: int = 168) -> "Figure":
    """Shown less true observation: features down, hours across."""
    with house_style():
        made, axis = figure(size=(WIDTH, 4.6))
        change = (np.asarray(year["shown"]) - np.asarray(year["true"]))[first : first + hours].T
        most = float(np.abs(change).max()) or 1.0
        extent = (0.0, change.shape[1] / 24, len(FEATURES) - 0.5, -0.5)
        drawn = axis.imshow(change, aspect="auto", cmap=DIVERGING, vmin=-most, vmax=most, extent=extent)
        axis.set_yticks(range(len(FEATURES)), [name.replace("_", " ") for name in FEATURES], fontsize=6.5)
        axis.set_xlabel(f"day (from hour {first} of the year)")
        axis.grid(visible=False)
        made.colorbar(drawn, ax=axis, label="shown less true (share of the sensor's range)")
    return made


def stealth_panel(detected: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """MMD against its permutations, the distances a feature, and who catches what."""
    with house_style():
        made, axes = figure(2, 1, (WIDTH, 5.6))
        names = list(detected)
        null = np.asarray(detected[names[-1]]["null"])
        axes[0].hist(1e3 * null, bins=40, color="#BBBBBB", label=f"{len(null)} permutations of days")
        for name, dashes in zip(names, cycle(("-", "--", ":")), strict=False):
            row = detected[name]
            axes[0].axvline(
                1e3 * row["mmd"],
                color=_HUES.get(name, "#888888"),
                lw=1.8,
                ls=dashes,
                label=f"{name} (p = {row['p']:.3f})",
            )
        axes[0].set_xlabel("squared MMD (1e-3, unbiased)")
        axes[0].set_ylabel("permutations")
        axes[0].set_title("All 31 sensors at once: the detector of the paper")
        axes[0].legend(loc="upper right")
        x, width = np.arange(len(FEATURES)), 0.8 / len(names)
        for i, name in enumerate(names):
            axes[1].bar(
                x + (i - (len(names) - 1) / 2) * width, np.asarray(detected[name]["ks"]), width,
                color=_HUES.get(name, "#888888"), label=f"{name}: caught by {_caught(detected[name])}",
            )  # fmt: skip
        axes[1].set_xticks(x, [name.replace("_", " ") for name in FEATURES], rotation=90, fontsize=6.5)
        axes[1].set_ylabel("Kolmogorov-Smirnov distance")
        axes[1].set_title("Sensor by sensor, and by the rules of physics")
        top = axes[1].get_ylim()[1]
        axes[1].set_ylim(0, top * 1.35)
        axes[1].legend(loc="upper left", fontsize=7)
        axes[1].grid(axis="x", visible=False)
    return made


def _caught(row: Mapping[str, Any]) -> str:
    short = [name.removeprefix("consistency: ") for name, hit in row["caught"].items() if hit]
    return ", ".join(short) or "nothing"


def band(found: Mapping[str, Any]) -> "Figure":
    """Clean action, the attacks' reach and the certified intervals, sorted by the clean action."""
    with house_style():
        made, axis = figure()
        clean = np.asarray(found["clean"])
        order = np.argsort(clean)
        x = np.arange(len(order))
        for method, hue, label in (
            ("ibp", "#DDDDDD", "certified by intervals"),
            ("crown", COLOURS["sky"], "certified by linear bounds"),
        ):
            low, high = np.asarray(found[method])
            axis.fill_between(x, low[order], high[order], color=hue, lw=0, label=label)
        for way, hue in (("up", COLOURS["vermillion"]), ("down", COLOURS["blue"])):
            axis.plot(x, np.asarray(found[way])[order], ".", ms=1.6, color=hue, label=f"attacked {way}")
        axis.plot(x, clean[order], color="black", lw=1.0, label="clean")
        axis.set_xlabel("observations, sorted by the clean action")
        axis.set_ylabel("action (share of the battery's power)")
        axis.set_ylim(-1.05, 1.6)
        axis.legend(loc="upper left", ncols=2, markerscale=4)
    return made


def attack_bars(report: Any) -> "Figure":
    """Regret of each attack of an [`evaluate`][jostle.observation.evaluate] report, with its interval."""
    with house_style():
        rows = {name: row for name, row in report.rows.items() if name != "none"}
        made, axis = figure(size=(WIDTH, 1.2 + 0.35 * len(rows)))
        for place, (name, row) in enumerate(reversed(rows.items())):
            axis.barh(place, row.regret, color=_HUES.get(name, COLOURS["vermillion"]), height=0.66)
            if row.interval is not None:
                axis.plot(row.interval, [place, place], color="black", lw=1.2)
        axis.set_yticks(range(len(rows)), list(reversed(rows)))
        axis.axvline(0, color="#444444", lw=0.8)
        axis.set_xlabel("return lost (positive is worse; line: 95 % interval over seeds)")
        axis.grid(axis="y", visible=False)
    return made
