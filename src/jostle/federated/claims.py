"""The paper's claims, and ours, as rows that a run checks."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from jostle.lab.claims import Claim


def _gain(m: Mapping[str, Any], key: str, one: str = "fedspeed", other: str = "fedavg") -> float:
    """The mean difference of two algorithms over the seeds, which they share."""
    return fmean(a - b for a, b in zip(m[one][key], m[other][key], strict=True))


def _have(m: Mapping[str, Any], *names: str) -> bool:
    return all(name in m for name in names)


def _reached(m: Mapping[str, Any], name: str, key: str) -> float:
    """The mean over seeds of what the target took; infinite if a seed did not get there."""
    return fmean(float("inf") if value is None else value for value in m[name][key])


def _race(m: Mapping[str, Any], key: str, names: tuple[str, ...]) -> str:
    found = {name: _reached(m, name, key) for name in names if name in m}
    return f"{m['target']:.0%} after " + ", ".join(
        f"{name} {'never' if value == float('inf') else format(value, '.0f')}"
        for name, value in found.items()
    )


def _widening(m: Mapping[str, Any], name: str) -> float:
    """What the longest interval gains over the shortest."""
    by_epochs = list(m["interval"][name].values())
    return fmean(by_epochs[-1]) - fmean(by_epochs[0])


_FOUR = ("fedspeed", "feddyn", "fedsam", "fedavg")
_TABLE = "official program's table, CIFAR-10, 10 % of 100 clients, T = 1000"

CLAIMS = [
    Claim(
        "FED-C1",
        "FedSpeed beats FedAvg by 4 points of best test accuracy or more (CIFAR-10, ResNet-18 with GroupNorm).",
        f"4.8 to 5.7 points over four splits ({_TABLE})",
        "paper",
        lambda m: f"{100 * _gain(m, 'best'):+.1f} points" if _have(m, "fedspeed", "fedavg") else None,
        lambda m: _gain(m, "best") >= 0.04,
    ),
    Claim(
        "FED-C2",
        "FedSpeed is better than FedDyn, and FedDyn than FedAvg, in best test accuracy.",
        f"Dirichlet 0.3: 85.39, 83.22 and 79.75 % ({_TABLE})",
        "paper",
        lambda m: (
            " / ".join(f"{100 * fmean(m[name]['best']):.1f}" for name in ("fedspeed", "feddyn", "fedavg"))
            if _have(m, "fedspeed", "feddyn", "fedavg")
            else None
        ),
        lambda m: _gain(m, "best", "fedspeed", "feddyn") > 0 and _gain(m, "best", "feddyn", "fedavg") > 0,
    ),
    Claim(
        "FED-C3",
        "FedSpeed reaches the target accuracy in fewer rounds than FedDyn, FedSAM and FedAvg (mean over seeds).",
        "fewer rounds (title)",
        "quick",
        lambda m: _race(m, "rounds", _FOUR) + " rounds" if _have(m, *_FOUR) else None,
        lambda m: all(_reached(m, "fedspeed", "rounds") < _reached(m, name, "rounds") for name in _FOUR[1:]),
    ),
    Claim(
        "FED-C4",
        "A longer local interval raises FedSpeed's accuracy at equal rounds, and by more than FedAvg's.",
        "a larger local interval helps (title)",
        "quick",
        lambda m: (
            f"FedSpeed {_widening(m, 'fedspeed'):+.3f}, FedAvg {_widening(m, 'fedavg'):+.3f}"
            if _have(m["interval"], "fedspeed", "fedavg")
            else None
        ),
        lambda m: _widening(m, "fedspeed") > max(0.0, _widening(m, "fedavg")),
    ),
    Claim(
        "FED-C5",
        "With the ascent (alpha = 1) FedSpeed's last-ten mean is at least that without it (FedDyn).",
        "alpha = 1 is used throughout",
        "quick",
        lambda m: (
            f"{_gain(m, 'last_ten', 'fedspeed', 'feddyn'):+.3f}" if _have(m, "fedspeed", "feddyn") else None
        ),
        lambda m: _gain(m, "last_ten", "fedspeed", "feddyn") >= 0,
    ),
    Claim(
        "FED-C6",
        "At the fixed point with alpha = 0 the corrections sum to 0 and are the clients' gradients there.",
        "not stated; derived here",
        "quick",
        lambda m: f"{m['limits']['sum_g']:.0e} and {m['limits']['gap_g']:.0e}",
        lambda m: m["limits"]["sum_g"] < 1e-12 and m["limits"]["gap_g"] < 1e-11,
    ),
    Claim(
        "FED-C7",
        "The batched engine gives the sequential engine's model, for every algorithm (float64, ragged clients).",
        "not in the paper",
        "quick",
        lambda m: f"largest difference {max(m['engines'].values()):.0e}",
        lambda m: max(m["engines"].values()) < 1e-13,
    ),
    Claim(
        "FED-S1",
        "FedSpeed's last-ten mean is at least 0.03 above FedAvg's (MNIST-5k, Dirichlet 0.1, 50 clients, 10 %).",
        "not in the paper: our small setting",
        "quick",
        lambda m: f"{_gain(m, 'last_ten'):+.3f}" if _have(m, "fedspeed", "fedavg") else None,
        lambda m: _gain(m, "last_ten") >= 0.03,
    ),
    Claim(
        "FED-S2",
        "At round 20 FedSpeed is at least 0.04 above FedAvg.",
        "not in the paper: our small setting",
        "quick",
        lambda m: f"{_gain(m, 'at_20'):+.3f}" if _have(m, "fedspeed", "fedavg") else None,
        lambda m: _gain(m, "at_20") >= 0.04,
    ),
    Claim(
        "FED-S3",
        "SCAFFOLD reaches the target with fewer gradients than FedSpeed, which takes two a step.",
        "not in the paper: its cost, shown as it is",
        "quick",
        lambda m: (
            _race(m, "gradients", ("scaffold", "fedspeed")) + " minibatch gradients"
            if _have(m, "scaffold", "fedspeed")
            else None
        ),
        lambda m: _reached(m, "scaffold", "gradients") < _reached(m, "fedspeed", "gradients"),
    ),
    Claim(
        "FED-S4",
        "FedSpeed ends in a flatter place than FedAvg: the largest Hessian eigenvalue of its training loss is "
        "smaller in every seed.",
        "no figure read there",
        "quick",
        lambda m: (
            " / ".join(
                f"{a:.1f} against {b:.1f}"
                for a, b in zip(m["sharpness"]["fedspeed"], m["sharpness"]["fedavg"], strict=True)
            )
            if _have(m["sharpness"], "fedspeed", "fedavg")
            else None
        ),
        lambda m: all(
            a < b for a, b in zip(m["sharpness"]["fedspeed"], m["sharpness"]["fedavg"], strict=True)
        ),
    ),
    Claim(
        "FED-D1",
        "Averaging the corrections over the active clients only, as the algorithm is printed, fails when some are "
        "absent: it ends at least 0.15 lower, and does not converge on quadratics.",
        "printed so; the official program averages over all",
        "quick",
        lambda m: (
            f"{m['printed']['last_ten'][0] - m['fedspeed']['last_ten'][0]:+.3f}; error on quadratics "
            f"{m['printed_band']:.1f}"
            if _have(m, "printed", "fedspeed")
            else None
        ),
        lambda m: (
            m["fedspeed"]["last_ten"][0] - m["printed"]["last_ten"][0] >= 0.15 and m["printed_band"] > 0.1
        ),
    ),
    Claim(
        "FED-D2",
        "With clients that settle their state in two phases, 10 % of lost replies do not move the limit; with clients "
        "that commit at once they do.",
        "not in the paper",
        "quick",
        lambda m: (
            f"error {m['limits']['10 % of replies lost']:.0e} and "
            f"{m['limits']['10 % lost, clients commit at once']:.0e}"
        ),
        lambda m: (
            m["limits"]["10 % of replies lost"] < 1e-12
            and m["limits"]["10 % lost, clients commit at once"] > 1e-3
        ),
    ),
]
