"""The study of the bifurcation attack: a building's year and a pendulum, attacked, audited and hardened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from jostle.lab import Run, Study, sweep
from jostle.lab.engines import Engine
from jostle.observation import figures
from jostle.observation.claims import CLAIMS
from jostle.observation.evaluate import interval
from jostle.observation.tasks import (
    Task,
    certified,
    detect,
    district_of,
    do,
    make_agent,
    proxy_weights,
    quiet_radii,
    years_of,
)


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `agent`: the controller: `clone` of the self-consumption rule, or `sac` or `ppo`, learnt for
    `train_steps`. `train_steps`: steps (hours) that each learnt agent is trained for; at least 1 for `sac`,
    `ppo`, `optimally targeted` and `turns`. `building`: `Building_6` to `Building_10` of CityLearn's 2022
    phase 2. `hours`: the first so many of its year, 0 for all. `batteries`: how many copies of the building,
    each with a battery of its own. `eps`: largest change of every feature but the calendar, as a share of its
    range. `steps`: of the ascent at each observation, at least 1. `attacks`: on the building's year: `uniform
    noise`, `corner noise`, `regression`, `bifurcated`, `toggle`, `up`, `down`, `stealth bifurcated`,
    `black-box toggle` or `optimally targeted`. `hidden`: widths of the hidden layers of the building's
    controllers and of their stand-in. `epochs`: of each imitation of the building's controllers, half as many
    for the stand-in that the black-box attack looks at. `pendulums`: how many clones of a pendulum's swing-up
    are attacked. `pendulum_eps`: largest changes of the pendulum's features (cosine, sine, an eighth of the
    speed), a budget each. `episodes`: of each pendulum under each attack. `harden_hours`: hours of the year
    on which clones with and without smoothing are made and judged; 0: none. `bins`: how many actions a
    second, discretised controller chooses from; 0: no such controller. `turns`: of a third controller's
    alternating training with an adversary; 0: no such controller. `permutations`: of the MMD tests; 0: none.
    `rows`: hours of each log that MMD takes at most. `jobs`: pieces of work at a time.
    """

    seed: int = 0
    agent: str = "clone"
    train_steps: int = 0
    building: str = "Building_6"
    hours: int = 0
    batteries: int = 3
    eps: float = 0.05
    steps: int = 20
    attacks: tuple[str, ...] = (
        "uniform noise",
        "regression",
        "bifurcated",
        "toggle",
        "stealth bifurcated",
        "black-box toggle",
    )
    hidden: tuple[int, ...] = (64, 64)
    epochs: int = 30
    pendulums: int = 3
    pendulum_eps: tuple[float, ...] = (0.02, 0.1)
    episodes: int = 64
    harden_hours: int = 720
    bins: int = 0
    turns: int = 0
    permutations: int = 500
    rows: int = 1500
    jobs: int = 2
    engine: Engine = "loky"


QUICK = Config()
GPU = replace(
    QUICK,
    agent="sac",
    train_steps=100_000,
    batteries=5,
    steps=40,
    attacks=(*QUICK.attacks, "corner noise", "up", "down", "optimally targeted"),
    epochs=60,
    pendulums=5,
    pendulum_eps=(0.02, 0.05, 0.1),
    harden_hours=8760,
    bins=20,
    turns=20,
    permutations=1000,
    rows=8760,
    jobs=8,
)
PAPER = replace(GPU, train_steps=4_380_000, hidden=(256, 256), steps=100, permutations=10_000)


def run(config: Config, run: Run) -> dict[str, Any]:
    """Make the controller, attack its year, look for the attack, bound it, harden it; then the pendulum."""
    task = Task(
        config.building,
        config.hours,
        tuple(config.seed + i for i in range(config.batteries)),
        config.eps,
        config.steps,
        config.hidden,
        config.epochs,
        config.seed,
        agent=config.agent,
        train_steps=config.train_steps,
        pendulum_eps=config.pendulum_eps,
        episodes=config.episodes,
    )
    run.say("making the controller")
    task = replace(task, weights=run.stage("controller", lambda stage: make_agent(task)))
    run.tensors("controller", task.weights)
    years = run.stage("clean year", lambda stage: {"none": do(("year", replace(task, name="none")))})
    clean = years["none"]
    made = run.stage("proxy", lambda stage: proxy_weights(task, clean["true"], clean["actions"]))
    task = replace(task, proxy=made[0], stealth_eps=tuple(quiet_radii(clean["true"])))
    if "optimally targeted" in config.attacks:
        paid = replace(task, agent="ppo", harmful=True, train_steps=config.train_steps)
        task = replace(task, worst=run.stage("harmful agent", lambda stage: make_agent(paid)))
    found = _side_by_side(config, run, task)
    years |= {year["name"]: year for year in found["years"]}
    seen = {
        k: v for k, v in years.items() if k in ("none", "uniform noise", "bifurcated", "stealth bifurcated")
    }
    detected = run.stage("detectors", lambda stage: detect(task, seen, config.permutations, config.rows))
    some = clean["true"][:: max(len(clean["true"]) // 500, 1)]
    band = run.stage("certified", lambda stage: certified(task, some))
    metrics = {
        "agent": config.agent,
        "attacks": {name: _row(clean, year) for name, year in years.items()},
        "pendulum": found["pendulum"],
        **{kind: found[kind] for kind in ("hardened", "discretised", "alternated")},
        "detected": {
            name: {k: row[k] for k in ("mmd", "p", "caught", "broken")} for name, row in detected.items()
        },
        "certified": _widths(band),
        "proxy": made[1],
    }
    _draw(config, run, task, years, detected, band, metrics)
    return metrics


def _side_by_side(config: Config, run: Run, task: Task) -> dict[str, Any]:
    """Independent pieces, longest first; a killed run keeps those that are done."""
    pieces = [("alternated", replace(task, turns=config.turns))] if config.turns else []
    if config.bins:
        pieces.append(("discretised", replace(task, bins=config.bins)))
    pieces += [("pendulum", replace(task, seed=config.seed + i)) for i in range(config.pendulums)]
    pieces += years_of(config.attacks, task)
    if config.harden_hours:
        pieces.append(("hardened", replace(task, hours=config.harden_hours)))
    tasks = {f"{i} {task.name or kind}": (kind, task) for i, (kind, task) in enumerate(pieces)}
    found = sweep(run, "attacks", do, tasks, engine=config.engine, jobs=config.jobs)
    results = list(found.values())
    kinds = [kind for kind, _ in pieces]
    by = {kind: [r for r, k in zip(results, kinds, strict=True) if k == kind] for kind in set(kinds)}
    return {
        "years": by.get("year", []),
        "pendulum": by.get("pendulum", []),
        **{kind: by.get(kind, [None])[0] for kind in ("hardened", "discretised", "alternated")},
    }


def _row(clean: Mapping[str, Any], year: Mapping[str, Any]) -> dict[str, Any]:
    """An attack summed up over batteries; regrets are paired, positive is worse."""
    regret = (clean["returns"] - year["returns"]).tolist()
    kpi = {name: values.tolist() for name, values in year["kpi"].items()}
    loss = {name: (values - clean["kpi"][name]).tolist() for name, values in year["kpi"].items()}
    return {
        "return": year["returns"].tolist(),
        "regret": regret,
        "interval": interval(regret),
        "kpi": kpi,
        "kpi regret": loss,
        "action_mae": year["action_mae"],
        "linf": year["linf"],
    }


def _widths(band: Mapping[str, Any]) -> dict[str, Any]:
    reach = float((band["up"] - band["down"]).mean())
    widths = {m: float((band[m][1] - band[m][0]).mean()) for m in ("ibp", "crown")}
    inside = all(
        bool(((band[w] >= band["crown"][0] - 1e-5) & (band[w] <= band["crown"][1] + 1e-5)).all())
        for w in ("up", "down")
    )
    return {"attacked": reach, **widths, "inside": inside, "one attack": band["one attack"]}


def _draw(
    config: Config,
    run: Run,
    task: Task,
    years: Mapping[str, Mapping[str, Any]],
    detected: Mapping[str, Any],
    band: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    data = district_of(task)
    loudest = [name for name in ("bifurcated", "toggle") if name in years]
    first = _loud_week(years, loudest)
    run.figure(
        "week",
        figures.week(data.base, years, loudest, first),
        f"A week of {config.building}: what it draws from the grid and its battery's charge, clean and under "
        f"sensor attacks of {config.eps:g} of each sensor's range (calendar untouched). The sensors lie, the meter "
        "does not.",
    )
    run.figure(
        "kpis",
        figures.kpi_bars(
            {n: r for n, r in metrics["attacks"].items() if n != "none"}, ("cost", "consumption", "ramping")
        ),
        f"What each attack adds to the KPIs over the year (ratio to no battery); dots are {config.batteries} "
        "batteries. 'black-box' looks at a stand-in only, with twice the budget.",
    )
    if metrics["pendulum"]:
        run.figure(
            "pendulum",
            figures.regret_by_eps(metrics["pendulum"]),
            "Pendulum: the return lost at each budget (scaled units); lines are means, bands the range over "
            f"{config.pendulums} cloned controllers.",
        )
    if "bifurcated" in years:
        run.figure(
            "difference",
            figures.heat(years["bifurcated"], first),
            "What the attacker changes in that week: shown less true observation, feature by feature.",
        )
    if "bifurcated" in detected:
        run.figure(
            "stealth",
            figures.stealth_panel(detected),
            "Would anybody notice? Above: MMD under permutations of days, and what was observed. Below: the largest "
            "distance between shown and clean distribution of single features; its legend says which detectors "
            "reject at 5 %.",
        )
    run.figure(
        "certified",
        figures.band(band),
        "The action under no attack, the two attacks' reach, and the certified intervals that no attack can leave.",
    )


def _loud_week(years: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> int:
    """The first hour of the week in which the attacks change the net load most."""
    if not names:
        return 0
    gap = sum((years[n]["net"] - years["none"]["net"]).abs() for n in names)
    assert isinstance(gap, torch.Tensor)
    weeks = gap[: len(gap) // 168 * 168].reshape(-1, 168).sum(1)
    return int(weeks.argmax()) * 168 if len(weeks) else 0


PRESETS = {"quick": QUICK, "gpu": GPU, "paper": PAPER}
STUDY = Study("observation", PRESETS, run, CLAIMS)
