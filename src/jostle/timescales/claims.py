"""The paper's claims as rows that a run checks.

Figures are those of the authors' released tables, networks and plot data, or "not stated".
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Metrics = Mapping[str, Any]


class Row(NamedTuple):
    """What the lab makes a claim of: see `jostle.lab.Claim`."""

    id: str
    text: str
    paper: str
    scale: Literal["quick", "gpu", "paper"]
    measured: Callable[[Metrics], str | None]
    holds: Callable[[Metrics], bool]


def _maybe(text: Callable[[Metrics], str | None]) -> Callable[[Metrics], str | None]:
    """The text, or `None` where the run did not measure what it needs."""

    def measured(metrics: Metrics) -> str | None:
        try:
            return text(metrics)
        except (KeyError, IndexError, StopIteration):
            return None

    return measured


def _at(metrics: Metrics, name: str, key: str, N: int) -> float:
    """Mean over networks of a figure of the timescales, at N."""
    values = [row[key] for row in metrics["timescales"][name] if row["N"] == N and row[key] is not None]
    return sum(values) / len(values) if values else _absent()


def _absent() -> float:
    raise KeyError("not measured")


def _largest(metrics: Metrics) -> int:
    """The largest N at which both conditions were measured."""
    common = set.intersection(
        *({row["N"] for row in metrics["timescales"][name]} for name in ("multi", "single"))
    )
    return int(max(common)) if common else int(_absent())


def _pushed(metrics: Metrics, kind: str, size: str) -> dict[str, float]:
    return {name: metrics["perturbation"][kind][name][size] for name in ("single", "multi")}


def _p(metrics: Metrics, kind: str) -> str:
    """Welch's p value of the whole curve, with networks as samples; a sign alone is no evidence."""
    p = metrics.get("p_values", {}).get(kind, {}).get("multi vs single")
    return "" if p is None else f" (Welch, whole curve, networks as samples: p = {p:.2g})"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _cut(metrics: Metrics, name: str) -> tuple[float, float]:
    found = metrics["ablation"][name]
    return _mean(found["fastest"]), _mean(found["slowest"])


def _span(metrics: Metrics, name: str, key: str) -> tuple[float, float, int]:
    N = _largest(metrics)
    return _at(metrics, name, key, 5), _at(metrics, name, key, N), N


ROWS = (
    Row(
        "TIMESCALES-C1",
        "A multi-head curriculum learns N-parity in fewer steps than a single-head one.",
        "multi passes N = 2..12 in 7,200 steps; single needs 24 epochs of 600 steps to N = 12 "
        "(released run, H = 500)",
        "quick",
        _maybe(
            lambda m: (
                (
                    f"at {m['same_steps']['steps']} steps all multi-head networks passed "
                    f"N = {m['same_steps']['multi']}, "
                    f"single-head {', '.join(map(str, m['same_steps']['single']))}"
                )
                if m["task"] == "parity"
                else None
            )
        ),
        lambda m: m["same_steps"]["multi"] > max(m["same_steps"]["single"]),
    ),
    Row(
        "TIMESCALES-C2",
        "A multi-head curriculum reaches a larger N.",
        "single 37, 33, 35, 35; multi 100, 101, 100, 101 (released tables, H = 500)",
        "paper",
        _maybe(lambda m: f"single {m['solved']['single']}, multi {m['solved']['multi']}"),
        lambda m: min(m["solved"]["multi"]) > max(m["solved"]["single"]),
    ),
    Row(
        "TIMESCALES-C3",
        "Training the time constants helps single-head networks, not multi-head ones.",
        "single with tau fixed at 1, 2, 3: 24 to 26; multi with tau fixed at 1: 101 "
        "(released tables, H = 500)",
        "paper",
        _maybe(lambda m: "; ".join(f"{n}: {v}" for n, v in m["controls"].items() if "tau=" in n) or None),
        lambda m: (
            max(max(v) for n, v in m["controls"].items() if n.startswith("single tau"))
            < min(m["solved"]["single"])
            and min(m["controls"]["multi tau=1"]) >= min(m["solved"]["multi"])
        ),
    ),
    Row(
        "TIMESCALES-C4",
        "Mean tau ends higher in single-head than in multi-head networks (N >= 20).",
        "single about 1.69 at N = 32, multi about 1.18 at N = 100 (released plot data, H = 500)",
        "gpu",
        _maybe(
            lambda m: (
                f"N = {_largest(m)}: single {_at(m, 'single', 'tau', _largest(m)):.2f}, "
                f"multi {_at(m, 'multi', 'tau', _largest(m)):.2f}"
            )
        ),
        lambda m: (
            _largest(m) >= 20 and _at(m, "single", "tau", _largest(m)) > _at(m, "multi", "tau", _largest(m))
        ),
    ),
    Row(
        "TIMESCALES-C5",
        "tau_net grows with N under both curricula.",
        "single about 2.6 to 7.1, multi about 2.5 to 6.5, from N = 5 to 30 (released plot data, H = 500)",
        "gpu",
        _maybe(
            lambda m: "; ".join(
                "{}: {:.2f} at N = 5, {:.2f} at N = {}".format(n, *_span(m, n, "tau_net_mean"))
                for n in ("single", "multi")
            )
        ),
        lambda m: all(
            _span(m, n, "tau_net_mean")[1] > _span(m, n, "tau_net_mean")[0] for n in ("single", "multi")
        ),
    ),
    Row(
        "TIMESCALES-C6",
        "At N = 30 single-head networks have a tail of slow neurons, multi-head ones have none.",
        "mean tau of the 20 slowest: single 4.86 to 6.08, multi 1.94 to 1.98 "
        "(released networks, H = 500, N = 30)",
        "gpu",
        _maybe(
            lambda m: (
                f"single {_at(m, 'single', 'tau_slowest', 30):.2f}, "
                f"multi {_at(m, 'multi', 'tau_slowest', 30):.2f}"
            )
        ),
        lambda m: _at(m, "single", "tau_slowest", 30) > 2 * _at(m, "multi", "tau_slowest", 30),
    ),
    Row(
        "TIMESCALES-C7",
        "Slow neurons carry single-head networks, fast ones carry multi-head networks (N = 30).",
        "accuracy without one fastest / slowest: single .929 / .711, multi .895 / .994 "
        "(released, H = 500, N = 30)",
        "gpu",
        _maybe(
            lambda m: (
                (
                    "; ".join(
                        "{}: {:.3f} / {:.3f} (relative)".format(n, *_cut(m, n)) for n in ("single", "multi")
                    )
                    + f" at N = {m['probe_N']}"
                )
                if m["probe_N"] >= 30
                else None
            )
        ),
        lambda m: _cut(m, "single")[0] > _cut(m, "single")[1] and _cut(m, "multi")[0] < _cut(m, "multi")[1],
    ),
    Row(
        "TIMESCALES-C8",
        "Multi-head networks withstand perturbed weights better than single-head ones.",
        "accuracy at eps = 0.464, N = 30: single .57, multi .82 (released plot data, H = 500)",
        "quick",
        _maybe(
            lambda m: (
                "relative accuracy at eps = 0.464, N = {}: single {:.2f}, multi {:.2f}".format(
                    m["probe_N"], *_pushed(m, "weights", "0.464").values()
                )
                + _p(m, "weights")
            )
        ),
        lambda m: _pushed(m, "weights", "0.464")["multi"] > _pushed(m, "weights", "0.464")["single"],
    ),
    Row(
        "TIMESCALES-C9",
        "Multi-head networks withstand lengthened time constants better than single-head ones.",
        "accuracy at eps = 0.1, N = 30: single .68, multi .94 (released plot data, H = 500)",
        "quick",
        _maybe(
            lambda m: (
                "relative accuracy at eps = 0.1, N = {}: single {:.2f}, multi {:.2f}".format(
                    m["probe_N"], *_pushed(m, "tau_abs", "0.1").values()
                )
                + _p(m, "tau_abs")
            )
        ),
        lambda m: _pushed(m, "tau_abs", "0.1")["multi"] > _pushed(m, "tau_abs", "0.1")["single"],
    ),
    Row(
        "TIMESCALES-C10",
        "A single-head network is near chance on every earlier N; a multi-head one still solves them all.",
        "single near chance, multi above 98 % on all earlier N (abstract)",
        "quick",
        _maybe(
            lambda m: "earlier N: single at most {:.3f}, multi at least {:.3f}".format(
                m["forgetting"]["single"]["most"], m["forgetting"]["multi"]["least"]
            )
        ),
        # Near chance: within 0.05 of 1/2; multi-head: the gate of 98 %, less 1 % for the other law of inputs
        # (p = 1/2).
        lambda m: m["forgetting"]["single"]["most"] < 0.55 and m["forgetting"]["multi"]["least"] > 0.97,
    ),
    Row(
        "TIMESCALES-C11",
        "After 20 epochs on one larger N, networks that came from a multi-head curriculum do better.",
        "not stated",
        "gpu",
        _maybe(
            lambda m: "; ".join(
                f"{n}: " + ", ".join(f"N = {N}: {v:.2f}" for N, v in m["retraining"][n].items())
                for n in ("single", "multi")
            )
        ),
        lambda m: (
            _mean(list(m["retraining"]["multi"].values())) > _mean(list(m["retraining"]["single"].values()))
        ),
    ),
    Row(
        "TIMESCALES-C15",
        "Without a curriculum a moderate N is not learned.",
        "not stated",
        "paper",
        _maybe(
            lambda m: (
                "; ".join(f"{n}: {v}" for n, v in m["controls"].items() if n.startswith("direct")) or None
            )
        ),
        lambda m: all(max(v) == 0 for n, v in m["controls"].items() if n.startswith("direct")),
    ),
)
