"""The paper's claims as rows that a run checks.

Figures are those of the authors' released tables, networks and plot data, or "not stated". A row looks once at the
metrics and gives what was measured, and whether the claim holds; or nothing where the run did not measure it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from jostle.lab.claims import Claim, Scale
from jostle.timescales.probes import NAMED

Metrics = Mapping[str, Any]
Finding = tuple[str, bool] | None

_LEVEL = 0.05
"""Largest p value of a difference that counts as one."""


def _claim(id: str, scale: Scale, text: str, paper: str, found: Callable[[Metrics], Finding]) -> Claim:
    def looked(metrics: Metrics) -> Finding:
        try:
            return found(metrics)
        except (KeyError, IndexError, ValueError):  # this run did not measure it
            return None

    def measured(metrics: Metrics) -> str | None:
        finding = looked(metrics)
        return None if finding is None else finding[0]

    def holds(metrics: Metrics) -> bool:
        finding = looked(metrics)
        return finding is not None and finding[1]

    return Claim(f"TIMESCALES-{id}", text, paper, scale, measured, holds)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _at(metrics: Metrics, name: str, key: str, N: int) -> float:
    """Mean over networks of a figure of the timescales, at N; `KeyError` where it was not measured."""
    values = [row[key] for row in metrics["timescales"][name] if row["N"] == N and row[key] is not None]
    if not values:
        raise KeyError(key)
    return _mean(values)


def _last_taus(metrics: Metrics, names: tuple[str, str], least: int) -> tuple[int, float, float]:
    """Mean tau of two conditions at the largest N that both passed; `ValueError` if that is below `least`."""
    one, other = (metrics["tau"][name] for name in names)
    N = max(int(N) for N in one if N in other and int(N) >= least)
    return N, one[str(N)], other[str(N)]


def _fewer_steps(m: Metrics) -> Finding:
    if m["task"] != "parity":
        return None
    same = m["same_steps"]
    if max(same["multi"], *same["single"]) == 0:  # nobody has learned anything yet
        return None
    text = (
        f"at {same['steps']} steps all multi-head networks passed N = {same['multi']}, "
        f"single-head {', '.join(map(str, same['single']))}"
    )
    return text, same["multi"] > max(same["single"])


def _larger_N(m: Metrics) -> Finding:
    single, multi = m["solved"]["single"], m["solved"]["multi"]
    return f"single {single}, multi {multi}", min(multi) > max(single)


def _fixed_tau(m: Metrics) -> Finding:
    fixed = {name: solved for name, solved in m["controls"].items() if "tau=" in name}
    single = max(max(solved) for name, solved in fixed.items() if name.startswith("single"))
    helped = single < min(m["solved"]["single"])
    same = min(fixed["multi tau=1"]) >= min(m["solved"]["multi"])
    return "; ".join(f"{name}: {solved}" for name, solved in fixed.items()), helped and same


def _slower_neurons(m: Metrics) -> Finding:
    N, single, multi = _last_taus(m, ("single", "multi"), 20)
    return f"N = {N}: single {single:.2f}, multi {multi:.2f}", single > multi


def _slower_networks(m: Metrics) -> Finding:
    spans = {}
    for name in ("single", "multi"):
        last = int(max(row["N"] for row in m["timescales"][name]))
        if last <= 5:  # nothing to compare the first point with
            return None
        spans[name] = _at(m, name, "tau_net_mean", 5), _at(m, name, "tau_net_mean", last), last
    text = "; ".join(f"{n}: {a:.2f} at N = 5, {b:.2f} at N = {N}" for n, (a, b, N) in spans.items())
    return text, all(after > before for before, after, _ in spans.values())


def _slow_tail(m: Metrics) -> Finding:
    single, multi = (_at(m, name, "tau_slowest", 30) for name in ("single", "multi"))
    return f"single {single:.2f}, multi {multi:.2f}", single > 2 * multi


def _who_carries(m: Metrics) -> Finding:
    if m["probe_N"] < 30:
        return None
    cut = {n: [_mean(m["ablation"][n][k]) for k in ("fastest", "slowest")] for n in ("single", "multi")}
    text = "; ".join(f"{n}: {fast:.3f} / {slow:.3f} (relative)" for n, (fast, slow) in cut.items())
    holds = cut["single"][0] > cut["single"][1] and cut["multi"][0] < cut["multi"][1]
    return f"{text} at N = {m['probe_N']}", holds


def _withstands(kind: Literal["weights", "tau_abs"]) -> Callable[[Metrics], Finding]:
    """A difference in sign is no evidence: it must be significant, with networks as samples."""
    size = f"{NAMED[kind]:.3g}"

    def found(m: Metrics) -> Finding:
        at = {name: m["perturbation"][kind][name][size] for name in ("single", "multi")}
        test = m["robustness"][kind]["multi vs single"]
        text = (
            f"relative accuracy at eps = {size}, N = {m['probe_N']}: single {at['single']:.2f}, multi "
            f"{at['multi']:.2f} (Welch, networks as samples: p = {test['p']:.2g})"
        )
        return text, test["difference"] > 0 and test["p"] < _LEVEL

    return found


def _forgets(m: Metrics) -> Finding:
    most, least = m["forgetting"]["single"]["most"], m["forgetting"]["multi"]["least"]
    text = f"earlier N: single at most {most:.3f}, multi at least {least:.3f}"
    # Near chance: within 0.05 of 1/2. Multi-head: the gate of 98 %, less 1 % for the other law of inputs (p = 1/2).
    return text, most < 0.55 and least > 0.97


def _generalises(m: Metrics) -> Finding:
    rows = {name: m["retraining"][name] for name in ("single", "multi")}
    text = "; ".join(
        f"{n}: " + ", ".join(f"N = {N}: {v:.2f}" for N, v in row.items()) for n, row in rows.items()
    )
    return text, _mean(list(rows["multi"].values())) > _mean(list(rows["single"].values()))


def _gated(m: Metrics) -> Finding:
    found = {cell: [m["controls"][f"{n} {cell}"] for n in ("single", "multi")] for cell in ("lstm", "gru")}
    text = "; ".join(f"{cell}: single {single}, multi {multi}" for cell, (single, multi) in found.items())
    return text, all(min(multi) > max(single) for single, multi in found.values())


def _outside(m: Metrics) -> Finding:
    N, single, multi = _last_taus(m, ("single outside", "multi outside"), 20)
    solved = [m["controls"][f"{name} outside"] for name in ("single", "multi")]
    text = f"N = {N}: mean tau single {single:.2f}, multi {multi:.2f}; largest N single {solved[0]}, multi {solved[1]}"
    return text, single > multi and min(solved[1]) > max(solved[0])


def _other_task(m: Metrics) -> Finding:
    if m["task"] != "dms":
        return None
    N, single, multi = _last_taus(m, ("single", "multi"), 51)
    return f"N = {N}: single {single:.2f}, multi {multi:.2f}", single > multi


def _no_curriculum(m: Metrics) -> Finding:
    direct = {name: solved for name, solved in m["controls"].items() if name.startswith("direct")}
    if not direct:
        return None
    text = "; ".join(f"{name}: {solved}" for name, solved in direct.items())
    return text, all(max(solved) == 0 for solved in direct.values())


CLAIMS = (
    _claim(
        "C1",
        "quick",
        "A multi-head curriculum learns N-parity in fewer steps than a single-head one.",
        "multi passes N = 2..12 in 7,200 steps; single needs 24 epochs of 600 steps to N = 12 "
        "(released run, H = 500)",
        _fewer_steps,
    ),
    _claim(
        "C2",
        "paper",
        "A multi-head curriculum reaches a larger N.",
        "single 37, 33, 35, 35; multi 100, 101, 100, 101 (released tables, H = 500)",
        _larger_N,
    ),
    _claim(
        "C3",
        "paper",
        "Training the time constants helps single-head networks, not multi-head ones.",
        "single with tau fixed at 1, 2, 3: 24 to 26; multi with tau fixed at 1: 101 (released tables, H = 500)",
        _fixed_tau,
    ),
    _claim(
        "C4",
        "gpu",
        "Mean tau ends higher in single-head than in multi-head networks (N >= 20).",
        "single about 1.69 at N = 32, multi about 1.18 at N = 100 (released plot data, H = 500)",
        _slower_neurons,
    ),
    _claim(
        "C5",
        "gpu",
        "tau_net grows with N under both curricula.",
        "single about 2.6 to 7.1, multi about 2.5 to 6.5, from N = 5 to 30 (released plot data, H = 500)",
        _slower_networks,
    ),
    _claim(
        "C6",
        "gpu",
        "At N = 30 single-head networks have a tail of slow neurons, multi-head ones have none.",
        "mean tau of the 20 slowest: single 4.86 to 6.08, multi 1.94 to 1.98 (released networks, H = 500, N = 30)",
        _slow_tail,
    ),
    _claim(
        "C7",
        "gpu",
        "Slow neurons carry single-head networks, fast ones carry multi-head networks (N = 30).",
        "accuracy without one fastest / slowest: single .929 / .711, multi .895 / .994 (released, H = 500, N = 30)",
        _who_carries,
    ),
    _claim(
        "C8",
        "quick",
        "Multi-head networks withstand perturbed weights better than single-head ones.",
        "accuracy at eps = 0.464, N = 30: single .57, multi .82 (released plot data, H = 500)",
        _withstands("weights"),
    ),
    _claim(
        "C9",
        "quick",
        "Multi-head networks withstand lengthened time constants better than single-head ones.",
        "accuracy at eps = 0.1, N = 30: single .68, multi .94 (released plot data, H = 500)",
        _withstands("tau_abs"),
    ),
    _claim(
        "C10",
        "quick",
        "A single-head network is near chance on every earlier N; a multi-head one still solves them all.",
        "single near chance, multi above 98 % on all earlier N (abstract)",
        _forgets,
    ),
    _claim(
        "C11",
        "gpu",
        "After a fixed training on one larger N, networks that came from a multi-head curriculum do better.",
        "not stated",
        _generalises,
    ),
    _claim(
        "C12",
        "paper",
        "LSTM and GRU networks, too, reach a larger N under a multi-head curriculum.",
        "not stated",
        _gated,
    ),
    _claim(
        "C13",
        "paper",
        "With the leak outside of phi the picture is the same: single-head networks end with slower neurons, "
        "multi-head ones reach a larger N.",
        "mean tau of single-head networks at N = 32: about 1.69 inside, 1.62 outside (released plot data, H = 500)",
        _outside,
    ),
    _claim(
        "C14",
        "paper",
        "On N-DMS, too, mean tau ends higher in single-head than in multi-head networks (N > 50).",
        "single about 1.4 up to N = 50 and about 2 at N = 90 (released plot data, H = 500)",
        _other_task,
    ),
    _claim(
        "C15",
        "paper",
        "Without a curriculum a moderate N is not learned.",
        "not stated",
        _no_curriculum,
    ),
)
