"""The paper as a study: train under both curricula, then measure, forget, perturb, ablate, retrain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jostle.lab.runs import Partial, Run, Stage
from jostle.lab.study import Study
from jostle.lab.sweeps import call, sweep
from jostle.timescales import figures, probes
from jostle.timescales.claims import CLAIMS
from jostle.timescales.conditions import (
    Condition,
    Config,
    gated_controls,
    leaky_controls,
    main_conditions,
)
from jostle.timescales.records import CurriculumRun
from jostle.timescales.starting import Optimiser, adam, replicas, sgd
from jostle.timescales.tasks import MemoryTask
from jostle.timescales.training import train_curriculum

QUICK = Config()
GPU = Config(
    device="cuda",
    jobs=1,
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
    trained = _train(run, config, task)
    probe = probes.common_N(config, trained)
    metrics: dict[str, Any] = {"hidden": config.hidden, "task": config.task, "probe_N": probe}
    metrics |= probes.learning(config, trained)
    metrics["tau"] = {name: probes.tau_by_N(training) for name, training in trained.items()}
    run.figure(
        "learning", figures.learning(trained), "N learned against optimiser steps; one line a network."
    )
    for row in (row for training in trained.values() for row in training.rows if row["passed"]):
        run.log(**row)

    answers = sweep(
        run,
        "probes",
        call,
        probes.cells(config, run.seed, trained, task, probe),
        engine=config.engine,
        jobs=config.jobs,
    )
    forgotten = {name: probes.asked(answers, "forget", name) for name in trained}
    metrics["forgetting"] = {name: probes.off_newest(table) for name, table in forgotten.items()}
    run.figure(
        "forgetting",
        figures.forgetting(forgotten),
        "Accuracy at p = 1/2 of the networks that had passed N (rows), on every N up to it (columns). "
        "A single head is read for all N.",
    )

    points = {name: probes.asked(answers, "timescales", name) for name in trained}
    metrics["timescales"] = points
    run.figure(
        "timescales",
        figures.timescales(points, trained),
        "Time constants of neurons (tau), and timescales of their activity in the working network (tau_net, "
        "units above 1 step only), by N: mean and SD over neurons, and the slowest; bars are SD over networks. The "
        "two are on one scale only after tau -> -1/ln(1 - 1/tau), about tau - 1/2.",
    )
    if probe >= 2:
        metrics |= _nudge(run, config, task, trained, probe, answers)
    if config.targets:
        metrics["retraining"] = probes.retrained(config, answers, trained)
        if metrics["retraining"]:
            run.figure(
                "retraining",
                figures.retraining(metrics["retraining"]),
                f"Accuracy on a later N after {config.epochs} epochs on it alone.",
            )
    controls = _controls(run, config)
    metrics["controls"] = {name: probes.solved(training) for name, training in controls.items()}
    metrics["tau"] |= {name: probes.tau_by_N(training) for name, training in controls.items()}
    return metrics


def _nudge(
    run: Run,
    config: Config,
    task: MemoryTask,
    trained: dict[str, CurriculumRun],
    probe: int,
    answers: Mapping[str, Any],
) -> dict[str, Any]:
    """What became of the networks that passed the N `probe` when they were perturbed and ablated."""
    metrics: dict[str, Any] = {}
    nets = {
        name: [training.checkpoint(probe, i) for i in range(config.networks)]
        for name, training in trained.items()
    }
    run.figure(
        "distributions",
        figures.distributions(nets, probes.examples(config, run.generator, nets, task)),
        f"Networks that passed N = {probe}: time constants of all neurons; timescales of one network's neurons "
        "(0.1 and 100 hold what lies beyond); and example autocorrelations with fits.",
    )
    swept = probes.swept(answers, list(trained))
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
    lost = {name: probes.asked(answers, "ablate", name) for name in trained}
    cut = {name: {label: [one[label] for one in rows] for label in rows[0]} for name, rows in lost.items()}
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


@dataclass(frozen=True)
class Group:
    """Conditions that are trained side by side, each with the same initial networks and streams of bits."""

    config: Config
    task: MemoryTask
    conditions: Sequence[Condition]
    optimiser: Optimiser = sgd

    def train(
        self, resume: Any, budget: int, callback: Callable[[CurriculumRun], None] | None = None
    ) -> CurriculumRun:
        """All networks as one batch, condition after condition."""
        config, count = self.config, self.config.networks
        made = [net for one in self.conditions for net in replicas(one.maker(config), count, config.seed)]
        return train_curriculum(
            [network.to(config.device) for network in made],
            self.task,
            [one.plan for one in self.conditions for _ in range(count)],
            optimiser=self.optimiser,
            batch=config.batch,
            steps=config.patience,
            test_batches=config.test_batches,
            max_N=config.max_N,
            max_steps=budget,
            seconds=config.seconds or None,
            keep=config.kept,
            seed=config.seed,
            identities=list(range(count)) * len(self.conditions),
            resume=resume,
            callback=callback,
        )

    @property
    def every(self) -> float:
        """Seconds between two savings of the training's state."""
        return 5.0 if self.config.hidden <= 100 else 60.0

    def parts(self, state: Any) -> dict[str, CurriculumRun]:
        """The records of the conditions, from the state of the finished training."""
        everything, count = self.train(state, 0), self.config.networks  # no step is left to take
        return {one.name: probes.part(everything, i * count, count) for i, one in enumerate(self.conditions)}


def _train(run: Run, config: Config, task: MemoryTask) -> dict[str, CurriculumRun]:
    """The conditions that the study compares: one training, on all threads."""
    group = Group(config, task, main_conditions(config))

    def work(stage: Stage) -> Any:
        stage.every = group.every
        title = f"training {len(group.conditions) * config.networks} networks"
        with run.progress(title, config.budget) as advance:

            def report(training: CurriculumRun) -> None:
                stage.save(training.state)
                now = ", ".join(
                    f"N = {learner.active[-1]}" for learner in training.learners[:: config.networks]
                )
                advance(now, done=training.steps)

            return group.train(stage.load(), config.budget, report).state()

    return group.parts(run.stage("train", work))


def _controls(run: Run, config: Config) -> dict[str, CurriculumRun]:
    """Leaky and gated controls: two trainings, side by side."""
    groups: dict[str, Group] = {}
    if wanted := leaky_controls(config):
        groups["leaky"] = Group(config, config.memory_task, wanted)
    if wanted := gated_controls(config):
        # The settings of the released LSTM code.
        gated = replace(config, batch=64, patience=300)
        groups["gated"] = Group(gated, config.gated_task, wanted, adam)
    states = sweep(run, "controls", _control, groups, engine=config.engine, jobs=config.jobs, partial=True)
    found: dict[str, CurriculumRun] = {}
    for name, group in groups.items():
        found |= group.parts(states[name])
    return found


def _control(given: tuple[Group, Partial]) -> dict[str, Any]:
    group, partial = given
    partial.every = group.every
    budget = group.config.budget
    return group.train(partial.load(), budget, lambda training: partial.save(training.state)).state()


STUDY = Study("timescales", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
