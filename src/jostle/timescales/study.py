"""The paper as a study: train under both curricula, then measure, forget, perturb, ablate, retrain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from jostle.lab.runs import Run, Stage
from jostle.lab.study import Study
from jostle.timescales import figures
from jostle.timescales.claims import CLAIMS
from jostle.timescales.comparing import compare
from jostle.timescales.curricula import Curriculum, Direct, MultiHead, SingleHead, Sliding
from jostle.timescales.evaluating import stream_accuracy
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.measuring import network_timescales
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.perturbing import ablation, choose_neurons, perturbation_sweep
from jostle.timescales.retraining import retrain_generalisation
from jostle.timescales.scan import Nonlinearity
from jostle.timescales.tasks import NDMS, MemoryTask, NParity
from jostle.timescales.training import CurriculumRun, replicas, train_curriculum


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `conditions`: among multi, single, sliding. `measured`: the Ns at which tau_net is measured. `budget`: optimiser
    steps for each network. `patience`: between tests. `trials`, `samples`: of tau_net. `draws`, `scored`: of every
    evaluation. `removed`: neurons of either end of tau that are ablated. `start_N`, `targets`, `epochs`: of
    retraining; no targets, no retraining. `fixed_taus`: controls with frozen time constants. `direct_N`: control
    without a curriculum, 0 for none.
    """

    seed: int = 0
    device: str = "cpu"
    task: Literal["parity", "dms"] = "parity"
    conditions: tuple[str, ...] = ("multi", "single")
    hidden: int = 100
    placement: Literal["inside", "outside"] = "inside"
    nonlinearity: Nonlinearity = "leaky_relu"
    networks: int = 3
    max_N: int = 9
    budget: int = 5000
    batch: int = 128
    patience: int = 100
    test_batches: int = 16
    measured: tuple[int, ...] = (2, 4, 6, 8)
    trials: int = 3
    samples: int = 4000
    draws: int = 5
    scored: int = 500
    removed: int = 20
    start_N: int = 0
    targets: tuple[int, ...] = ()
    epochs: int = 20
    fixed_taus: tuple[float, ...] = ()
    direct_N: int = 0


QUICK = Config()
GPU = Config(
    device="cuda",
    conditions=("multi", "single", "sliding"),
    hidden=500,
    networks=4,
    max_N=40,
    budget=40_000,
    batch=256,
    patience=600,
    test_batches=50,
    measured=(2, 5, 10, 15, 16, 20, 25, 30, 35, 40),
    trials=10,
    samples=20_000,
    draws=10,
    scored=1000,
    start_N=16,
    targets=(18, 22, 26, 30),
)
PAPER = replace(
    GPU,
    networks=4,
    max_N=101,
    budget=600_000,
    samples=100_000,
    measured=(*GPU.measured, 50, 60, 70, 80, 90, 100),
    targets=tuple(range(16, 47, 5)),
    fixed_taus=(1.0, 2.0, 3.0),
    direct_N=20,
)

_PLANS: dict[str, Curriculum] = {"multi": MultiHead(), "single": SingleHead(), "sliding": Sliding(10, 5)}


def run(config: Config, run: Run) -> dict[str, Any]:
    """The study from top to bottom; returns its metrics."""
    task = NParity() if config.task == "parity" else NDMS()
    trained = _train(run, config, "train", task, [(name, _PLANS[name], None) for name in config.conditions])
    probe = min((training.solved(i) for training in trained.values() for i in range(config.networks)), default=0)
    metrics: dict[str, Any] = {"hidden": config.hidden, "task": config.task, "probe_N": probe}
    metrics |= _learning(config, trained)
    run.figure("learning", figures.learning(trained), "N learned against optimiser steps; one line a network.")
    for row in (row for training in trained.values() for row in training.rows if row["passed"]):
        run.log(**row)

    forgotten = run.stage("forget", lambda _: {n: _forget(config, run, n, t, task) for n, t in trained.items()})
    metrics["forgetting"] = {name: _off_newest(table) for name, table in forgotten.items()}
    run.figure(
        "forgetting",
        figures.forgetting(forgotten),
        "Accuracy at p = 1/2 of the networks that had passed N (rows), on every N up to it (columns). A single head "
        "is read for all N.",
    )

    points = run.stage("timescales", lambda stage: _timescales(config, run, stage, trained, task))
    metrics["timescales"] = points
    run.figure(
        "timescales",
        figures.timescales(points, trained),
        "Time constants of neurons (tau), and timescales of their activity in the working network (tau_net, units "
        "above 1 step only), by N. The two are on one scale only after tau -> -1/ln(1 - 1/tau), about tau - 1/2.",
    )
    if probe < 2:
        return metrics
    nets = {name: [training.checkpoint(probe, i) for i in range(config.networks)] for name, training in trained.items()}
    heads = {name: _PLANS[name].head(probe, _active(trained[name], probe)) for name in nets}
    run.figure(
        "distributions",
        figures.distributions(nets, _examples(config, run, nets, task)),
        f"Networks that passed N = {probe}: time constants of all neurons, and example autocorrelations with fits.",
    )
    swept = run.stage("perturb", lambda stage: _sweeps(config, run, nets, heads, task, probe))
    metrics["perturbation"] = {
        kind: {name: dict(zip(_labels(part["sizes"]), part["relative"], strict=True)) for name, part in found.items()}
        for kind, found in swept.items()
    }
    for kind in ("weights", "tau_abs"):
        samples = {name: [np.array(row) for row in found["networks"]] for name, found in swept[kind].items()}
        if config.networks > 1:
            metrics.setdefault("p_values", {})[kind] = {
                " vs ".join(pair.conditions): pair.p for pair in compare(samples)
            }
    run.figure(
        "perturbation",
        figures.perturbation(swept),
        f"Relative accuracy at N = {probe} against the relative size of the perturbation; bars are SD over networks.",
    )
    cut = run.stage("ablate", lambda stage: _ablations(config, run, nets, heads, task, probe))
    metrics["ablation"] = cut
    run.figure(
        "ablation",
        figures.ablation_bars(cut),
        f"Relative accuracy at N = {probe} without one of the {config.removed} fastest or slowest neurons.",
    )
    if config.targets:
        metrics["retraining"] = run.stage("retrain", lambda stage: _retrain(config, run, stage, trained, task))
        if metrics["retraining"]:
            figure = figures.retraining(metrics["retraining"])
            run.figure("retraining", figure, f"Accuracy on a later N after {config.epochs} epochs on it alone.")
    controls: list[tuple[str, Curriculum, float | None]] = [
        (f"{name} tau={tau:g}", _PLANS[name], tau) for tau in config.fixed_taus for name in ("single", "multi")
    ]
    controls += [(f"direct({config.direct_N})", Direct(config.direct_N), None)] if config.direct_N else []
    if controls:
        found = _train(run, config, "controls", task, controls)
        metrics["controls"] = {n: [t.solved(i) for i in range(config.networks)] for n, t in found.items()}
    run.tensors(
        "networks",
        {f"{n}.{i}.{k}": v for n, group in nets.items() for i, net in enumerate(group) for k, v in net.state_dict().items()},
    )
    return metrics


def _train(
    run: Run, config: Config, stage_name: str, task: MemoryTask, conditions: Sequence[tuple[str, Curriculum, float | None]]
) -> dict[str, CurriculumRun]:
    """All conditions side by side, each with the same initial networks and the same streams of bits."""

    def networks() -> list[MemoryNetwork]:
        made = []
        for _, plan, tau in conditions:
            made += replicas(_maker(config, tau, plan), config.networks, config.seed)
        return [network.to(config.device) for network in made]

    plans = [plan for _, plan, _ in conditions for _ in range(config.networks)]
    names = list(range(config.networks)) * len(conditions)

    def train(resume: Any, budget: int, callback: Callable[[CurriculumRun], None] | None = None) -> CurriculumRun:
        return train_curriculum(
            networks(), task, plans, batch=config.batch, steps=config.patience, test_batches=config.test_batches,
            max_N=config.max_N, max_steps=budget, keep=(*config.measured, *range(2, 17), *range(20, 102, 5)),
            seed=config.seed, identities=names, resume=resume, callback=callback,
        )  # fmt: skip

    def work(stage: Stage) -> Any:
        stage.every = 5.0 if config.hidden <= 100 else 60.0
        with run.progress(f"training {len(plans)} networks", config.budget) as advance:

            def report(training: CurriculumRun) -> None:
                stage.save(training.state)
                now = ", ".join(f"N = {learner.active[-1]}" for learner in training.learners[:: config.networks])
                advance(now, steps=config.patience)

            return train(stage.load(), config.budget, report).state()

    # What a finished stage left is taken up by a training that has no step left to take.
    everything = train(run.stage(stage_name, work), 0)
    return {name: _part(everything, i * config.networks, config.networks) for i, (name, _, _) in enumerate(conditions)}


def _maker(config: Config, tau: float | None, plan: Curriculum) -> Callable[[torch.Generator], MemoryNetwork]:
    heads = max(config.max_N, config.direct_N) - 1

    def make(generator: torch.Generator) -> MemoryNetwork:
        return LeakyRNN(
            config.hidden, heads, tau=(1.0, 2.0) if tau is None else tau, train_tau=tau is None,
            placement=config.placement, nonlinearity=config.nonlinearity, generator=generator,
        )  # fmt: skip

    return make


def _part(training: CurriculumRun, first: int, count: int) -> CurriculumRun:
    rows = [
        {**row, "network": row["network"] - first} for row in training.rows if first <= row["network"] < first + count
    ]
    return replace(training, learners=training.learners[first : first + count], rows=rows)


def _active(training: CurriculumRun, N: int) -> tuple[int, ...]:
    active = training.learners[0].curriculum.first()
    while active[-1] < N:
        following = training.learners[0].curriculum.next(active)
        assert following is not None
        active = following
    return active


def _learning(config: Config, trained: dict[str, CurriculumRun]) -> dict[str, Any]:
    """Largest N of each network, and how far the single-head ones were when the last multi-head one passed its N."""
    found: dict[str, Any] = {
        "solved": {name: [t.solved(i) for i in range(config.networks)] for name, t in trained.items()},
        "steps": {name: t.rows[-1]["steps"] if t.rows else 0 for name, t in trained.items()},
        "radius": {name: [_last_radius(t, i) for i in range(config.networks)] for name, t in trained.items()},
    }
    if {"multi", "single"} <= set(trained):
        goal = min(found["solved"]["multi"])
        steps = [trained["multi"].steps_to(goal, i) or 0 for i in range(config.networks)]
        single = trained["single"]
        found["same_steps"] = {
            "steps": max(steps),
            "multi": goal,
            "single": [
                max((r["N"] for r in single.rows if r["network"] == i and r["passed"] and r["steps"] <= max(steps)), default=0)
                for i in range(config.networks)
            ],
        }
    return found


def _last_radius(training: CurriculumRun, network: int) -> float | None:
    found = [row["radius"] for row in training.rows if row["network"] == network and row["passed"]]
    return found[-1] if found else None


def _forget(config: Config, run: Run, name: str, training: CurriculumRun, task: MemoryTask) -> list[list[float]]:
    """Accuracy on every N up to a checkpoint's own, averaged over networks: one row a checkpoint."""
    table = []
    for N in sorted(set.intersection(*(set(learner.kept) for learner in training.learners))):
        nets = [training.checkpoint(N, i) for i in range(config.networks)]
        heads = {M: 0 if name == "single" else M - 2 for M in range(2, N + 1)}
        generator = run.generator(f"forget/{N}", config.device)
        found = stream_accuracy(nets, task, heads, generator=generator, steps=4 * config.scored, same_input=False)
        table.append([float(N), *found.mean((0, 1)).tolist()])
    return table


def _off_newest(table: list[list[float]]) -> dict[str, float]:
    """Of the last row: accuracy on its own N, and the smallest and largest on earlier ones."""
    if not table or len(table[-1]) < 3:
        return {}
    earlier = table[-1][1:-1]
    return {"N": table[-1][0], "newest": table[-1][-1], "least": min(earlier), "most": max(earlier)}


def _timescales(
    config: Config, run: Run, stage: Stage, trained: dict[str, CurriculumRun], task: MemoryTask
) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trained}
    for name, training in trained.items():
        for i, learner in enumerate(training.learners):
            for N in (N for N in config.measured if N in learner.kept):
                net = training.checkpoint(N, i)
                assert isinstance(net, LeakyRNN)
                measured = network_timescales(
                    net, task, generator=run.generator(f"drive/{i}", config.device), steps=config.samples,
                    trials=config.trials,
                )  # fmt: skip
                tau, effective = net.tau.detach().double().cpu(), net.effective_tau.detach().double().cpu()
                slow = effective.sort().values[-min(20, len(tau)) :]
                found[name].append(
                    {
                        "network": float(i), "N": float(N), "tau": float(tau.mean()), "tau_sd": float(tau.std()),
                        "tau_effective": float(effective.mean()), "tau_slowest": float(slow.mean()),
                        **{f"tau_net_{key}": value for key, value in measured.summary().items()},
                    }
                )  # fmt: skip
    return found


def _examples(config: Config, run: Run, nets: dict[str, list[MemoryNetwork]], task: MemoryTask) -> dict[str, Any]:
    return {
        name: network_timescales(
            group[0], task, generator=run.generator("examples", config.device), steps=config.samples, trials=config.trials
        )
        for name, group in nets.items()
    }


def _sweeps(
    config: Config, run: Run, nets: dict[str, list[MemoryNetwork]], heads: dict[str, int], task: MemoryTask, N: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("weights", "tau_abs"):
        found[kind] = {}
        for name, group in nets.items():
            sweeps = [
                perturbation_sweep(
                    net, task, N, kind=kind, head=heads[name], draws=config.draws, steps=config.scored,
                    warmup=max(100, N), seed=config.seed + i,
                )
                for i, net in enumerate(group)
            ]  # fmt: skip
            rows = np.stack([sweep.relative.mean(1) for sweep in sweeps])
            found[kind][name] = {
                "sizes": list(sweeps[0].sizes),
                "relative": rows.mean(0).tolist(),
                "sd": rows.std(0, ddof=1).tolist() if len(rows) > 1 else [0.0] * rows.shape[1],
                "networks": rows.tolist(),
            }
    return found


def _ablations(
    config: Config, run: Run, nets: dict[str, list[MemoryNetwork]], heads: dict[str, int], task: MemoryTask, N: int
) -> dict[str, dict[str, list[float]]]:
    """Relative accuracy of each network without one of its fastest, its slowest, or some random neurons."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, group in nets.items():
        found[name] = {"fastest": [], "slowest": [], "random": []}
        for i, net in enumerate(group):
            assert isinstance(net, LeakyRNN)
            count = min(config.removed, net.hidden)
            sets = {
                "fastest": choose_neurons(net, "fastest", count),
                "slowest": choose_neurons(net, "slowest", count),
                "random": torch.randperm(net.hidden, generator=run.generator(f"random/{i}"))[:count].tolist(),
            }
            result = ablation(
                net, task, N, neurons=sorted({n for chosen in sets.values() for n in chosen}), head=heads[name],
                draws=config.draws, steps=config.scored, warmup=max(100, N), seed=config.seed + i,
            )  # fmt: skip
            for label, chosen in sets.items():
                found[name][label].append(result.group(chosen))
    return found


def _retrain(
    config: Config, run: Run, stage: Stage, trained: dict[str, CurriculumRun], task: MemoryTask
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, training in trained.items():
        if not all(config.start_N in learner.kept for learner in training.learners):
            continue
        head = _PLANS[name].head(config.start_N, _active(training, config.start_N))
        rows = [
            retrain_generalisation(
                training.checkpoint(config.start_N, i), task, config.targets, head=head, epochs=config.epochs,
                steps=config.patience, batch=config.batch, draws=config.draws, seed=config.seed + i,
            ).mean(1)
            for i in range(config.networks)
        ]  # fmt: skip
        found[name] = dict(zip(map(str, config.targets), np.mean(rows, 0).tolist(), strict=True))
    return found


def _labels(sizes: Sequence[float]) -> list[str]:
    return [f"{size:.3g}" for size in sizes]


STUDY = Study("timescales", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
