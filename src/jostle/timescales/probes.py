"""What the study asks of trained networks: how far, what is forgotten, how slow, how robust."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.timescales.comparing import compare
from jostle.timescales.conditions import PLANS, Config
from jostle.timescales.evaluating import stream_accuracy
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.measuring import NetworkTimescales, network_timescales
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.perturbing import Kind, ablation, choose_neurons, perturbation_sweep
from jostle.timescales.records import CurriculumRun
from jostle.timescales.retraining import retrain_generalisation
from jostle.timescales.tasks import MemoryTask

NAMED = {"weights": 0.464, "tau_abs": 0.1}
"""The relative sizes at which the claims on robustness are judged: those of the paper's figures that they quote."""

Draws = Callable[..., torch.Generator]
"""Gives the generator of a name, on a device."""
Cell = tuple[Any, ...]
"""A question about one network that a worker can answer alone: a function, and what it is given."""
Saved = tuple[MemoryNetwork, dict[str, Tensor]]
"""A network as it was when it passed an N: any of its kind, and the weights of then."""


def cells(
    config: Config,
    seed: Callable[[str], int],
    trained: Mapping[str, CurriculumRun],
    task: MemoryTask,
    probe: int,
) -> dict[str, Cell]:
    """All questions, by name; those that nudge ask the networks that passed the N `probe`."""
    found: dict[str, Cell] = {}
    for name, training in trained.items():
        saved = [
            {N: (learner.network, weights) for N, weights in learner.kept.items()}
            for learner in training.learners
        ]
        common = set.intersection(*map(set, saved))
        if config.targets and config.start_N in common:
            head = PLANS[name].head(config.start_N, active_at(training, config.start_N))
            for i, nets in enumerate(saved):
                found[f"retrain {name} {i}"] = (_retrain, config, nets[config.start_N], task, head, i)
        for i, nets in enumerate(saved):
            for N in (N for N in config.measured if N in nets):
                found[f"timescales {name} {i} {N}"] = (
                    _timescales, config, seed(f"drive/{i}"), nets[N], task, {"network": float(i), "N": float(N)}
                )  # fmt: skip
        if probe >= 2:
            head = PLANS[name].head(probe, active_at(training, probe))
            for i, nets in enumerate(saved):
                given = (config, nets[probe], task, head, probe, i)
                found[f"weights {name} {i}"] = (_sweep, "weights", *given)
                found[f"tau_abs {name} {i}"] = (_sweep, "tau_abs", *given)
                found[f"ablate {name} {i}"] = (_ablate, seed(f"random/{i}"), *given)
        for N in sorted(common):
            group = [nets[N] for nets in saved]
            found[f"forget {name} {N}"] = (_forget, config, seed(f"forget/{N}"), name, group, task, N)
    return found


def asked(answers: Mapping[str, Any], kind: str, name: str) -> list[Any]:
    """The answers to one kind of question about the networks of a condition, in order."""
    return [answer for key, answer in answers.items() if key.startswith(f"{kind} {name} ")]


def _loaded(saved: Saved) -> MemoryNetwork:
    network = copy.deepcopy(saved[0])
    network.load_state_dict(saved[1])
    return network


def part(training: CurriculumRun, first: int, count: int) -> CurriculumRun:
    """The record of some of the networks, as if they had been trained alone."""
    rows = [
        {**row, "network": row["network"] - first}
        for row in training.rows
        if first <= row["network"] < first + count
    ]
    return replace(training, learners=training.learners[first : first + count], rows=rows)


def active_at(training: CurriculumRun, N: int) -> tuple[int, ...]:
    """What was asked of the networks when they passed N."""
    active = training.learners[0].curriculum.first()
    while active[-1] < N:
        following = training.learners[0].curriculum.next(active)
        assert following is not None
        active = following
    return active


def solved(training: CurriculumRun) -> list[int]:
    """The largest N that each network passed."""
    return [training.solved(i) for i in range(len(training.learners))]


def learning(config: Config, trained: dict[str, CurriculumRun]) -> dict[str, Any]:
    """Largest N of each network, and how far the single-head ones were when the last multi-head one passed
    its N."""
    found: dict[str, Any] = {
        "solved": {name: solved(t) for name, t in trained.items()},
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
                max(
                    (
                        r["N"]
                        for r in single.rows
                        if r["network"] == i and r["passed"] and r["steps"] <= max(steps)
                    ),
                    default=0,
                )
                for i in range(config.networks)
            ],
        }
    return found


def _last_radius(training: CurriculumRun, network: int) -> float | None:
    found = [row["radius"] for row in training.rows if row["network"] == network and row["passed"]]
    return found[-1] if found else None


def _forget(
    config: Config, seed: int, name: str, group: list[Saved], task: MemoryTask, N: int
) -> list[float]:
    """N, and the accuracy on every N up to it of the networks that had passed it, averaged over them."""
    nets = [_loaded(saved) for saved in group]
    heads = {M: 0 if name == "single" else M - 2 for M in range(2, N + 1)}
    generator = torch.Generator(config.device).manual_seed(seed)
    found = stream_accuracy(nets, task, heads, generator=generator, steps=4 * config.scored, same_input=False)
    return [float(N), *found.mean((0, 1)).tolist()]


def off_newest(table: list[list[float]]) -> dict[str, float]:
    """Of the last row: accuracy on its own N, and the smallest and largest on earlier ones."""
    if not table or len(table[-1]) < 3:
        return {}
    earlier = table[-1][1:-1]
    return {"N": table[-1][0], "newest": table[-1][-1], "least": min(earlier), "most": max(earlier)}


def tau_by_N(training: CurriculumRun) -> dict[str, float]:
    """Mean time constant over networks as they passed N, for every N that all of them passed."""
    found: dict[int, list[float]] = {}
    for row in training.rows:
        if row["passed"] and row["tau_mean"] is not None:
            found.setdefault(row["N"], []).append(row["tau_mean"])
    count = len(training.learners)
    return {str(N): float(np.mean(taus)) for N, taus in sorted(found.items()) if len(taus) == count}


def common_N(config: Config, trained: dict[str, CurriculumRun]) -> int:
    """The largest N of which every network of every condition left a checkpoint; 0 if there is none."""
    kept = [set(learner.kept) for training in trained.values() for learner in training.learners]
    return max(set.intersection(*kept), default=0)


def _timescales(
    config: Config, seed: int, saved: Saved, task: MemoryTask, about: dict[str, float]
) -> dict[str, float]:
    """Statistics of tau and tau_net of a network."""
    net = _loaded(saved)
    assert isinstance(net, LeakyRNN)
    driven = _driven(config, torch.Generator(config.device).manual_seed(seed), net, task)
    tau, effective = net.tau.detach().double().cpu(), net.effective_tau.detach().double().cpu()
    slow = effective.sort().values[-min(20, len(tau)) :]
    return {
        **about,
        "tau": float(tau.mean()),
        "tau_sd": float(tau.std()),
        "tau_effective": float(effective.mean()),
        "tau_slowest": float(slow.mean()),
        **{f"tau_net_{key}": value for key, value in driven.summary().items()},
    }


def examples(
    config: Config, draws: Draws, nets: dict[str, list[MemoryNetwork]], task: MemoryTask
) -> dict[str, NetworkTimescales]:
    """The timescales of one network of each condition, with all curves."""
    return {
        name: _driven(config, draws("examples", config.device), group[0], task)
        for name, group in nets.items()
    }


def _driven(
    config: Config, generator: torch.Generator, net: MemoryNetwork, task: MemoryTask
) -> NetworkTimescales:
    return network_timescales(net, task, generator=generator, steps=config.samples, trials=config.trials)


def _scoring(config: Config, network: int) -> dict[str, Any]:
    """How the accuracy of a network is scored."""
    return {"draws": config.draws, "steps": config.scored, "seed": config.seed + network}


def _sweep(
    kind: Kind, config: Config, saved: Saved, task: MemoryTask, head: int, N: int, i: int
) -> dict[str, list[float]]:
    """Relative accuracy of a network under perturbed weights or lengthened time constants."""
    swept = perturbation_sweep(_loaded(saved), task, N, kind=kind, head=head, **_scoring(config, i))
    return {"sizes": list(swept.sizes), "relative": swept.relative.mean(1).tolist()}


def swept(answers: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The perturbed networks' relative accuracies by kind and condition: mean, SD, and a row a network."""
    found: dict[str, Any] = {}
    for kind in ("weights", "tau_abs"):
        found[kind] = {}
        for name in names:
            sweeps = asked(answers, kind, name)
            rows = np.stack([sweep["relative"] for sweep in sweeps])
            found[kind][name] = {
                "sizes": sweeps[0]["sizes"],
                "relative": rows.mean(0).tolist(),
                "sd": rows.std(0, ddof=1).tolist() if len(rows) > 1 else [0.0] * rows.shape[1],
                "networks": rows.tolist(),
            }
    return found


def robustness(swept: dict[str, Any]) -> dict[str, Any]:
    """Pairs of conditions under a perturbation of the size that the claim names, by Welch's test with networks as
    samples."""
    found: dict[str, Any] = {}
    for kind, size in NAMED.items():
        at = int(np.abs(np.array(next(iter(swept[kind].values()))["sizes"]) - size).argmin())
        pairs = compare(
            {n: [np.array(row[at : at + 1]) for row in part["networks"]] for n, part in swept[kind].items()}
        )
        found[kind] = {
            " vs ".join(pair.conditions): {"difference": pair.difference, "p": pair.p} for pair in pairs
        }
    return found


def _ablate(
    seed: int, config: Config, saved: Saved, task: MemoryTask, head: int, N: int, i: int
) -> dict[str, float]:
    """Relative accuracy of a network without one of its fastest, its slowest, or some random neurons."""
    net = _loaded(saved)
    assert isinstance(net, LeakyRNN)
    count = min(config.removed, net.hidden)
    sets = {
        "fastest": choose_neurons(net, "fastest", count),
        "slowest": choose_neurons(net, "slowest", count),
        "random": torch.randperm(net.hidden, generator=torch.Generator().manual_seed(seed))[:count].tolist(),
    }
    gone = sorted({n for chosen in sets.values() for n in chosen})
    result = ablation(net, task, N, neurons=gone, head=head, **_scoring(config, i))
    return {label: result.group(chosen) for label, chosen in sets.items()}


def _retrain(config: Config, saved: Saved, task: MemoryTask, head: int, i: int) -> list[float]:
    """Accuracy of a network on each later N after training on it alone."""
    return (
        retrain_generalisation(
            _loaded(saved), task, config.targets, head=head, epochs=config.epochs, steps=config.epoch,
            batch=config.batch, draws=config.draws, seed=config.seed + i,
        ).mean(1).tolist()
    )  # fmt: skip


def retrained(
    config: Config, answers: Mapping[str, Any], names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """The same averaged over networks, by condition."""
    return {
        name: dict(zip(map(str, config.targets), np.mean(rows, 0).tolist(), strict=True))
        for name in names
        if (rows := asked(answers, "retrain", name))
    }
