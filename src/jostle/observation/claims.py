"""The claims of the bifurcation paper, and what else the study must show.

The paper's figures were read in its authors' published result files (CityLearn 2.0.0, one building).
"""

from collections.abc import Callable, Mapping
from typing import Any

from jostle.lab.claims import Claim

Metrics = Mapping[str, Any]


def kpi(m: Metrics, attack: str, name: str) -> list[float]:
    """The regret of a KPI under an attack, one a battery."""
    return m["attacks"][attack]["kpi regret"][name]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _times(a: float, b: float) -> str:
    return f"{a / b:.2f} times" if b else "the other costs nothing"


def _with(*attacks: str) -> Callable[[Metrics], bool]:
    return lambda m: all(a in m["attacks"] for a in attacks)


def _said(
    there: Callable[[Metrics], bool], text: Callable[[Metrics], str]
) -> Callable[[Metrics], str | None]:
    return lambda m: text(m) if there(m) else None


def _every(m: Metrics, worse: str, better: str, name: str) -> bool:
    return all(a > b for a, b in zip(kpi(m, worse, name), kpi(m, better, name), strict=True))


def _pendulum(m: Metrics, attack: str) -> list[float]:
    return [row["regret"][min(row["regret"], key=float)][attack] for row in m["pendulum"]]


def _trio(m: Metrics) -> list[list[float]]:
    return [_pendulum(m, name) for name in ("bifurcated", "regression", "uniform noise")]


CLAIMS = [
    Claim(
        "OBS-C1",
        "At the same budget the bifurcation attack costs more than the regression loss with a random start, for "
        "every battery.",
        "cost regret .635 against .201 for SAC at .05: 3.2 times",
        "quick",
        _said(
            _with("bifurcated", "regression"),
            lambda m: (
                f"cost regret {_mean(kpi(m, 'bifurcated', 'cost')):.3f} against "
                f"{_mean(kpi(m, 'regression', 'cost')):.3f}: "
                f"{_times(_mean(kpi(m, 'bifurcated', 'cost')), _mean(kpi(m, 'regression', 'cost')))} ({m['agent']})"
            ),
        ),
        lambda m: _every(m, "bifurcated", "regression", "cost"),
    ),
    Claim(
        "OBS-C2",
        "Toggling the direction every hour gives the largest ramping of the attacks with this budget, for every "
        "battery.",
        "ramping regret 7.59 against .97 for bifurcated (SAC, .05)",
        "quick",
        _said(
            _with("toggle", "bifurcated", "regression", "uniform noise"),
            lambda m: ", ".join(
                f"{n} {_mean(kpi(m, n, 'ramping')):.2f}"
                for n in ("toggle", "regression", "bifurcated", "uniform noise")
            ),
        ),
        lambda m: all(
            _every(m, "toggle", n, "ramping") for n in ("bifurcated", "regression", "uniform noise")
        ),
    ),
    Claim(
        "OBS-C3",
        "Random noise of the same budget costs the least: less than a third of the bifurcation attack, for every "
        "battery.",
        "noise .05: cost .786, clean .788 (PPO with 20 actions)",
        "quick",
        _said(
            _with("uniform noise", "bifurcated", "regression"),
            lambda m: (
                f"cost regret {_mean(kpi(m, 'uniform noise', 'cost')):.3f}, bifurcated "
                f"{_mean(kpi(m, 'bifurcated', 'cost')):.3f}"
            ),
        ),
        lambda m: (
            _every(m, "regression", "uniform noise", "cost")
            and all(
                3 * a < b
                for a, b in zip(kpi(m, "uniform noise", "cost"), kpi(m, "bifurcated", "cost"), strict=True)
            )
        ),
    ),
    Claim(
        "OBS-C4",
        "An attack toward the actions of an agent that was paid for harm, without a budget, does far more harm (twice "
        "the cost), with the largest distortion.",
        "optimally targeted without a budget: cost 3.04 against .92 for bifurcated .05 (PPO with 20 actions)",
        "gpu",
        _said(
            _with("optimally targeted", "bifurcated"),
            lambda m: (
                f"cost regret {_mean(kpi(m, 'optimally targeted', 'cost')):.2f} against "
                f"{_mean(kpi(m, 'bifurcated', 'cost')):.2f}, distance "
                f"{m['attacks']['optimally targeted']['linf']:.2f} against {m['attacks']['bifurcated']['linf']:.2f}"
            ),
        ),
        lambda m: (
            _mean(kpi(m, "optimally targeted", "cost")) > 2 * _mean(kpi(m, "bifurcated", "cost"))
            and m["attacks"]["optimally targeted"]["linf"] > m["attacks"]["bifurcated"]["linf"]
        ),
    ),
    Claim(
        "OBS-C5",
        "Discretised actions cut the cost regret of the same attack, for every battery.",
        "cost regret .127 (PPO with 20 actions) against .635 (SAC), bifurcated .05",
        "gpu",
        lambda m: (
            f"cost regret {_mean(m['discretised']['cost regret']):.3f} with {m['discretised']['bins']} actions, "
            f"{_mean(kpi(m, 'bifurcated', 'cost')):.3f} continuous"
            if m["discretised"] and "bifurcated" in m["attacks"]
            else None
        ),
        lambda m: all(
            a < b for a, b in zip(m["discretised"]["cost regret"], kpi(m, "bifurcated", "cost"), strict=True)
        ),
    ),
    Claim(
        "OBS-C6",
        "Training in turns with an adversary (ATLA) removes most of the ramping that a learnt adversary adds.",
        "ramping regret .36 to .006 (PPO)",
        "gpu",
        lambda m: (
            "ramping regret {:.3f} to {:.3f}; clean cost {:.3f} to {:.3f}".format(
                *(m["alternated"][n]["regret"]["ramping"] for n in ("plain", "alternated")),
                *(m["alternated"][n]["clean"]["cost"] for n in ("plain", "alternated")),
            )
            if m["alternated"]
            else None
        ),
        lambda m: (
            m["alternated"]["alternated"]["regret"]["ramping"]
            < 0.5 * m["alternated"]["plain"]["regret"]["ramping"]
        ),
    ),
    Claim(
        "OBS-C7",
        "With budgets scaled to each sensor's normal change MMD sees nothing; at .05 on every sensor it does "
        "(on a whole year; with fewer hours MMD sees less).",
        "p between .39 and 1.0 for stealth budgets, .0048 for .05 (SAC, calendar masked)",
        "gpu",
        lambda m: (
            ", ".join(f"{n}: p = {m['detected'][n]['p']:.3f}" for n in ("stealth bifurcated", "bifurcated"))
            if {"stealth bifurcated", "bifurcated"} <= set(m["detected"])
            else None
        ),
        lambda m: m["detected"]["stealth bifurcated"]["p"] > 0.05 >= m["detected"]["bifurcated"]["p"],
    ),
    Claim(
        "OBS-D1",
        "Derived here: what MMD misses other tests catch: the stealth attack is seen by a test a feature or by a "
        "rule of physics.",
        "not in the paper, which relies on MMD",
        "quick",
        lambda m: (
            ", ".join(name for name, hit in m["detected"]["stealth bifurcated"]["caught"].items() if hit)
            or "nothing"
            if "stealth bifurcated" in m["detected"]
            else None
        ),
        lambda m: any(m["detected"]["stealth bifurcated"]["caught"].values()),
    ),
    Claim(
        "OBS-C8",
        "A stand-in fitted to a log alone is enough: its attack (FGSM, toggled, .10) raises the ramping.",
        "ramping 2.84, clean 1.09 (SAC, FGSM .10)",
        "quick",
        _said(
            _with("black-box toggle"),
            lambda m: f"ramping regret {_mean(kpi(m, 'black-box toggle', 'ramping')):.2f}",
        ),
        lambda m: min(kpi(m, "black-box toggle", "ramping")) > 0.1,
    ),
    Claim(
        "OBS-C9",
        "Squared, absolute and Huber errors give the same attack, bit for bit, under sign steps with one action.",
        "identical KPIs in the result files",
        "quick",
        lambda m: "the same" if m["certified"]["one attack"] else "different",
        lambda m: m["certified"]["one attack"],
    ),
    Claim(
        "OBS-P1",
        "Pendulum at the smallest budget: bifurcation costs at least 5 times what regression does, for every cloned "
        "controller.",
        "not in the paper",
        "quick",
        lambda m: (
            "; ".join(f"{b:.0f} / {r:.1f}" for b, r, _ in zip(*_trio(m), strict=True))
            + " (bifurcated / regression)"
            if m["pendulum"]
            else None
        ),
        lambda m: all(b > 5 * max(r, 0) and b > 0 for b, r, _ in zip(*_trio(m), strict=True)),
    ),
    Claim(
        "OBS-P2",
        "Pendulum at the smallest budget: uniform noise costs under 5 % of what bifurcation does, in the mean over "
        "controllers.",
        "not in the paper",
        "quick",
        lambda m: f"{_mean(_trio(m)[2]):.1f} of {_mean(_trio(m)[0]):.0f}" if m["pendulum"] else None,
        lambda m: _mean(_trio(m)[2]) < 0.05 * _mean(_trio(m)[0]),
    ),
    Claim(
        "OBS-D2",
        "Derived here: the certified intervals hold every attack, and the linear ones are within twice its reach.",
        "not in the paper",
        "quick",
        lambda m: (
            f"attacked {m['certified']['attacked']:.3f}, linear bounds {m['certified']['crown']:.3f}, intervals "
            f"{m['certified']['ibp']:.2f}"
        ),
        lambda m: m["certified"]["inside"] and m["certified"]["crown"] < 2 * m["certified"]["attacked"],
    ),
    Claim(
        "OBS-D3",
        "Derived here: the smoothness regulariser removes at least a third of the bifurcation attack's cost from "
        "the clone.",
        "not in the paper, which hardens by alternating training",
        "quick",
        lambda m: (
            "cost regret {:.3f} to {:.3f}; clean cost {:.3f} to {:.3f}".format(
                *(m["hardened"][n][k] for k in ("cost regret", "clean cost") for n in ("plain", "smooth"))
            )
            if m["hardened"]
            else None
        ),
        lambda m: m["hardened"]["smooth"]["cost regret"] < 2 / 3 * m["hardened"]["plain"]["cost regret"],
    ),
]
