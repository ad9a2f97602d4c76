"""The paper as a study: train under both curricula, then measure, forget, perturb, ablate, retrain."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jostle.lab.runs import Run, Stage
from jostle.lab.study import Study
from jostle.timescales import figures, probes
from jostle.timescales.claims import CLAIMS
from jostle.timescales.conditions import (
    PLANS,
    Condition,
    Config,
    gated_controls,
    leaky_controls,
    main_conditions,
)
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.records import CurriculumRun
from jostle.timescales.starting import Optimiser, adam, replicas, sgd
from jostle.timescales.tasks import MemoryTask
from jostle.timescales.training import train_curriculum

QUICK = Config()
GPU = Config(
    device="cuda",
    conditions=("multi", "single", "sliding"),
    hidden=500,
    networks=4,
    max_N=40,
    budget=40_000,
    batch=256,
    seconds=2400.0,
    patience=200,
    test_batches=50,
    measured=(2, 5, 10, 15, 16, 20, 25, 30, 35, 40),
    trials=10,
    samples=20_000,
    start_N=16,
    targets=(18, 22, 26, 30),
)
PAPER = replace(
    GPU,
    networks=4,
    max_N=101,
    budget=600_000,
    seconds=0.0,
    patience=600,
    samples=100_000,
    measured=(*GPU.measured, 50, 60, 70, 80, 90, 100),
    targets=tuple(range(16, 47, 5)),
    fixed_taus=(1.0, 2.0, 3.0),
    direct_N=20,
    outside=True,
    gated=("lstm", "gru"),
)


def run(config: Config, run: Run) -> dict[str, Any]:
    """The study from top to bottom; returns its metrics."""
    task = config.memory_task
    trained = _train(run, config, "train", task, main_conditions(config))
    probe = probes.common_N(config, trained)
    metrics: dict[str, Any] = {"hidden": config.hidden, "task": config.task, "probe_N": probe}
    metrics |= probes.learning(config, trained)
    metrics["tau"] = {name: probes.tau_by_N(training) for name, training in trained.items()}
    run.figure(
        "learning", figures.learning(trained), "N learned against optimiser steps; one line a network."
    )
    for row in (row for training in trained.values() for row in training.rows if row["passed"]):
        run.log(**row)

    forgotten = run.stage(
        "forget", lambda _: {n: probes.forget(config, run.generator, n, t, task) for n, t in trained.items()}
    )
    metrics["forgetting"] = {name: probes.off_newest(table) for name, table in forgotten.items()}
    run.figure(
        "forgetting",
        figures.forgetting(forgotten),
        "Accuracy at p = 1/2 of the networks that had passed N (rows), on every N up to it (columns). "
        "A single head is read for all N.",
    )

    points = run.stage("timescales", lambda _: probes.timescales_by_N(config, run.generator, trained, task))
    metrics["timescales"] = points
    run.figure(
        "timescales",
        figures.timescales(points, trained),
        "Time constants of neurons (tau), and timescales of their activity in the working network (tau_net, "
        "units above 1 step only), by N: mean and SD over neurons, and the slowest; bars are SD over networks. The "
        "two are on one scale only after tau -> -1/ln(1 - 1/tau), about tau - 1/2.",
    )
    if probe >= 2:
        metrics |= _nudge(run, config, task, trained, probe)
    if config.targets:
        metrics["retraining"] = run.stage("retrain", lambda _: probes.retrain(config, trained, task))
        if metrics["retraining"]:
            run.figure(
                "retraining",
                figures.retraining(metrics["retraining"]),
                f"Accuracy on a later N after {config.epochs} epochs on it alone.",
            )
    controls = {}
    if wanted := leaky_controls(config):
        controls |= _train(run, config, "controls", task, wanted)
    if wanted := gated_controls(config):
        # The settings of the released LSTM code.
        gated = replace(config, batch=64, patience=300)
        controls |= _train(run, gated, "gated", config.gated_task, wanted, adam)
    metrics["controls"] = {name: probes.solved(training) for name, training in controls.items()}
    metrics["tau"] |= {name: probes.tau_by_N(training) for name, training in controls.items()}
    return metrics


def _nudge(
    run: Run, config: Config, task: MemoryTask, trained: dict[str, CurriculumRun], probe: int
) -> dict[str, Any]:
    """Perturb and ablate the networks that passed the N `probe`."""
    metrics: dict[str, Any] = {}
    nets = {
        name: [training.checkpoint(probe, i) for i in range(config.networks)]
        for name, training in trained.items()
    }
    heads = {name: PLANS[name].head(probe, probes.active_at(trained[name], probe)) for name in nets}
    run.figure(
        "distributions",
        figures.distributions(nets, probes.examples(config, run.generator, nets, task)),
        f"Networks that passed N = {probe}: time constants of all neurons; timescales of one network's neurons "
        "(0.1 and 100 hold what lies beyond); and example autocorrelations with fits.",
    )
    swept = run.stage("perturb", lambda _: probes.sweeps(config, nets, heads, task, probe))
    metrics["perturbation"] = {
        kind: {
            name: dict(zip((f"{size:.3g}" for size in part["sizes"]), part["relative"], strict=True))
            for name, part in found.items()
        }
        for kind, found in swept.items()
    }
    if config.networks > 1:
        metrics["robustness"] = probes.robustness(swept)
    run.figure(
        "perturbation",
        figures.perturbation(swept),
        f"Relative accuracy at N = {probe} against the relative size of the perturbation; bars are "
        "SD over networks.",
    )
    cut = run.stage("ablate", lambda _: probes.ablations(config, run.generator, nets, heads, task, probe))
    metrics["ablation"] = cut
    run.figure(
        "ablation",
        figures.ablation(cut),
        f"Relative accuracy at N = {probe} without one of the {config.removed} fastest or slowest neurons.",
    )
    run.tensors(
        "networks",
        {
            f"{n}.{i}.{k}": v
            for n, group in nets.items()
            for i, net in enumerate(group)
            for k, v in net.state_dict().items()
        },
    )
    return metrics


def _train(
    run: Run,
    config: Config,
    stage_name: str,
    task: MemoryTask,
    conditions: Sequence[Condition],
    optimiser: Optimiser = sgd,
) -> dict[str, CurriculumRun]:
    """All conditions side by side, each with the same initial networks and the same streams of bits."""

    def networks() -> list[MemoryNetwork]:
        made = [
            net for one in conditions for net in replicas(one.maker(config), config.networks, config.seed)
        ]
        return [network.to(config.device) for network in made]

    def train(
        resume: Any, budget: int, callback: Callable[[CurriculumRun], None] | None = None
    ) -> CurriculumRun:
        return train_curriculum(
            networks(),
            task,
            [one.plan for one in conditions for _ in range(config.networks)],
            optimiser=optimiser,
            batch=config.batch,
            steps=config.patience,
            test_batches=config.test_batches,
            max_N=config.max_N,
            max_steps=budget,
            seconds=config.seconds or None,
            keep=config.kept,
            seed=config.seed,
            identities=list(range(config.networks)) * len(conditions),
            resume=resume,
            callback=callback,
        )

    def work(stage: Stage) -> Any:
        stage.every = 5.0 if config.hidden <= 100 else 60.0
        title = f"training {len(conditions) * config.networks} networks"
        with run.progress(title, config.budget) as advance:

            def report(training: CurriculumRun) -> None:
                stage.save(training.state)
                now = ", ".join(
                    f"N = {learner.active[-1]}" for learner in training.learners[:: config.networks]
                )
                advance(now, done=training.steps)

            return train(stage.load(), config.budget, report).state()

    # What a finished stage left is taken up by a training that has no step left to take.
    everything = train(run.stage(stage_name, work), 0)
    return {
        one.name: probes.part(everything, i * config.networks, config.networks)
        for i, one in enumerate(conditions)
    }


STUDY = Study("timescales", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
