"""The paper as a study: train under both curricula, then measure, forget, perturb, ablate, retrain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from jostle.lab.claims import Claim
from jostle.lab.runs import Run, Stage
from jostle.lab.study import Study
from jostle.timescales import claims, figures, probes
from jostle.timescales.comparing import compare
from jostle.timescales.curricula import Curriculum, Direct
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.scan import Nonlinearity
from jostle.timescales.starting import replicas
from jostle.timescales.tasks import NDMS, MemoryTask, NParity
from jostle.timescales.training import CurriculumRun, train_curriculum


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `conditions`: among multi, single, sliding. `measured`: the Ns at which tau_net is measured. `budget`:
    optimiser steps for each network. `patience`: between tests. `trials`, `samples`: of tau_net. `draws`,
    `scored`: of every evaluation. `removed`: neurons of either end of tau that are ablated. `start_N`,
    `targets`, `epochs`: of retraining; no targets, no retraining. `fixed_taus`: controls with frozen time
    constants. `direct_N`: control without a curriculum, 0 for none.
    """

    seed: int = 0
    device: str = "cpu"
    task: Literal["parity", "dms"] = "parity"
    conditions: tuple[str, ...] = ("multi", "single")
    hidden: int = 100
    placement: Literal["inside", "outside"] = "inside"
    nonlinearity: Nonlinearity = "leaky_relu"
    networks: int = 3
    max_N: int = 8
    budget: int = 4500
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


def run(config: Config, run: Run) -> dict[str, Any]:
    """The study from top to bottom; returns its metrics."""
    task = NParity() if config.task == "parity" else NDMS()
    trained = _train(
        run, config, "train", task, [(name, probes.PLANS[name], None) for name in config.conditions]
    )
    probe = min(
        (training.solved(i) for training in trained.values() for i in range(config.networks)), default=0
    )
    metrics: dict[str, Any] = {"hidden": config.hidden, "task": config.task, "probe_N": probe}
    metrics |= probes.learning(config, trained)
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
        "units above 1 step only), by N. The two are on one scale only after tau -> -1/ln(1 - 1/tau), "
        "about tau - 1/2.",
    )
    if probe < 2:
        return metrics
    nets = {
        name: [training.checkpoint(probe, i) for i in range(config.networks)]
        for name, training in trained.items()
    }
    heads = {name: probes.PLANS[name].head(probe, probes.active_at(trained[name], probe)) for name in nets}
    run.figure(
        "distributions",
        figures.distributions(nets, probes.examples(config, run.generator, nets, task)),
        f"Networks that passed N = {probe}: time constants of all neurons, and example "
        "autocorrelations with fits.",
    )
    swept = run.stage("perturb", lambda _: probes.sweeps(config, run.generator, nets, heads, task, probe))
    metrics["perturbation"] = {
        kind: {
            name: dict(zip(probes.labels(part["sizes"]), part["relative"], strict=True))
            for name, part in found.items()
        }
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
        f"Relative accuracy at N = {probe} against the relative size of the perturbation; bars are "
        "SD over networks.",
    )
    cut = run.stage("ablate", lambda _: probes.ablations(config, run.generator, nets, heads, task, probe))
    metrics["ablation"] = cut
    run.figure(
        "ablation",
        figures.ablation_bars(cut),
        f"Relative accuracy at N = {probe} without one of the {config.removed} fastest or slowest neurons.",
    )
    if config.targets:
        metrics["retraining"] = run.stage(
            "retrain", lambda _: probes.retrain(config, run.generator, trained, task)
        )
        if metrics["retraining"]:
            figure = figures.retraining(metrics["retraining"])
            run.figure(
                "retraining", figure, f"Accuracy on a later N after {config.epochs} epochs on it alone."
            )
    controls: list[tuple[str, Curriculum, float | None]] = [
        (f"{name} tau={tau:g}", probes.PLANS[name], tau)
        for tau in config.fixed_taus
        for name in ("single", "multi")
    ]
    controls += [(f"direct({config.direct_N})", Direct(config.direct_N), None)] if config.direct_N else []
    if controls:
        found = _train(run, config, "controls", task, controls)
        metrics["controls"] = {n: [t.solved(i) for i in range(config.networks)] for n, t in found.items()}
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
    conditions: Sequence[tuple[str, Curriculum, float | None]],
) -> dict[str, CurriculumRun]:
    """All conditions side by side, each with the same initial networks and the same streams of bits."""

    def networks() -> list[MemoryNetwork]:
        made = []
        for _, plan, tau in conditions:
            made += replicas(_maker(config, tau, plan), config.networks, config.seed)
        return [network.to(config.device) for network in made]

    plans = [plan for _, plan, _ in conditions for _ in range(config.networks)]
    names = list(range(config.networks)) * len(conditions)

    def train(
        resume: Any, budget: int, callback: Callable[[CurriculumRun], None] | None = None
    ) -> CurriculumRun:
        return train_curriculum(
            networks(),
            task,
            plans,
            batch=config.batch,
            steps=config.patience,
            test_batches=config.test_batches,
            max_N=config.max_N,
            max_steps=budget,
            keep=(*config.measured, *range(2, 17), *range(20, 102, 5)),
            seed=config.seed,
            identities=names,
            resume=resume,
            callback=callback,
        )

    def work(stage: Stage) -> Any:
        stage.every = 5.0 if config.hidden <= 100 else 60.0
        with run.progress(f"training {len(plans)} networks", config.budget) as advance:

            def report(training: CurriculumRun) -> None:
                stage.save(training.state)
                now = ", ".join(
                    f"N = {learner.active[-1]}" for learner in training.learners[:: config.networks]
                )
                advance(now, steps=config.patience)

            return train(stage.load(), config.budget, report).state()

    # What a finished stage left is taken up by a training that has no step left to take.
    everything = train(run.stage(stage_name, work), 0)
    return {
        name: probes.part(everything, i * config.networks, config.networks)
        for i, (name, _, _) in enumerate(conditions)
    }


def _maker(config: Config, tau: float | None, plan: Curriculum) -> Callable[[torch.Generator], MemoryNetwork]:
    heads = max(config.max_N, config.direct_N) - 1

    def make(generator: torch.Generator) -> MemoryNetwork:
        return LeakyRNN(
            config.hidden,
            heads,
            tau=(1.0, 2.0) if tau is None else tau,
            train_tau=tau is None,
            placement=config.placement,
            nonlinearity=config.nonlinearity,
            generator=generator,
        )

    return make


STUDY = Study(
    "timescales",
    {"quick": QUICK, "gpu": GPU, "paper": PAPER},
    run,
    tuple(Claim(*row) for row in claims.ROWS),
)
