"""Train memory networks under a curriculum: many replicas side by side, each at a stage of its own."""

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.timescales.curricula import Curriculum, Ns
from jostle.timescales.leaky import LeakyRNN, fold
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.records import CurriculumRun, Learner
from jostle.timescales.scan import scan
from jostle.timescales.starting import Optimiser, seeded, sgd
from jostle.timescales.tasks import MemoryTask

_AT_ONCE = 10  # batches of a test that run side by side on a GPU
_SMALL = 200  # neurons of networks that train side by side on a processor, too


def train_curriculum(
    networks: Sequence[MemoryNetwork],
    task: MemoryTask,
    curriculum: Curriculum | Sequence[Curriculum],
    *,
    optimiser: Optimiser = sgd,
    batch: int = 256,
    steps: int = 600,
    test_batches: int = 50,
    gate: float = 0.98,
    clip: float = 2.0,
    max_N: int | None = None,
    max_steps: int | None = None,
    seconds: float | None = None,
    keep: Collection[int] | None = None,
    seed: int = 0,
    identities: Sequence[int] | None = None,
    resume: Mapping[str, Any] | None = None,
    callback: Callable[[CurriculumRun], None] | None = None,
) -> CurriculumRun:
    """Train networks in place; each goes on to its next stage when it passes the gate.

    The loss is the **sum** over active heads of the mean cross-entropy (arXiv 2309.12927, released code):
    with many heads the clip at `clip` sets the length of a step. Leaky networks of one shape run
    side by side on a GPU. They draw their own data, but share the quantile of the sequence length, so that
    replicas at one N need no padding; a replica alone sees the very stream that it sees in company.

    **Arguments:** `networks`: one or more. `task`. `curriculum`: one for all, or one for each. `optimiser`:
    makes one from parameters. `batch`: sequences a step. `steps`: optimiser steps between tests.
    `test_batches`: batches a test; a test ends early once its outcome is certain, which changes no decision.
    `gate`: to advance, both the mean over active heads and the newest N must be **above** it. `clip`: of the
    global gradient norm. `max_N`: a network that passed it is finished. `max_steps`, `seconds`: budget; a
    budget of seconds cannot be repeated to the step. `keep`: the Ns whose checkpoints are kept, default all.
    `seed`, `identities`: name the streams of random numbers. `resume`: a `state()`; training goes on as if
    never broken off. `callback`: called after tests.
    **Returns:** the record. A network ends as `"finished"`, `"out of heads"`, `"diverged"` (its last good
    checkpoint is restored) or, when the budget is spent, `"learning"`.
    **Raises:** `JostleError` for settings that do not fit.

    >>> from jostle.timescales import MultiHead, NParity, replicas
    >>> nets = replicas(lambda generator: LeakyRNN(10, heads=2, generator=generator), 2)
    >>> run = train_curriculum(nets, NParity(), MultiHead(), batch=8, steps=5, test_batches=1, max_steps=10)
    >>> run.steps, len(run.rows)
    (10, 4)
    """
    require(len(networks) >= 1, "networks must hold at least one network")
    require(0.5 < gate <= 1, f"gate must lie in (0.5, 1], but {gate} came")
    require(min(batch, steps, test_batches) >= 1, "batch, steps and test_batches must be at least 1")
    require(clip > 0, f"clip must be positive, but {clip} came")
    curricula = [curriculum] * len(networks) if isinstance(curriculum, Curriculum) else list(curriculum)
    require(len(curricula) == len(networks), f"{len(networks)} networks need as many curricula")
    names = range(len(networks)) if identities is None else identities
    run = CurriculumRun([], task, lengths=seeded(seed, "lengths"))
    for network, plan, name in zip(networks, curricula, names, strict=True):
        device = network.head_weight.device
        trained = [p for p in network.parameters() if p.requires_grad]
        learner = Learner(
            network, plan, optimiser(trained), seeded(seed, f"draws/{name}", device), plan.first()
        )
        _check_heads(learner, max_N)
        learner.clipped = torch.zeros((), device=device)
        learner.last = learner.weights()
        run.learners.append(learner)
    if resume is not None:
        run.restore(resume)
    started = time.perf_counter() - run.seconds
    while learning := [learner for learner in run.learners if learner.status == "learning"]:
        if max_steps is not None and run.steps >= max_steps:
            break
        _step(run, learning, batch, clip)
        run.steps += 1
        run.seconds = time.perf_counter() - started
        spent = seconds is not None and run.seconds >= seconds
        if run.steps % steps == 0 or spent:
            since = run.steps % steps or steps
            for learner in learning:
                _test(run, learner, batch, test_batches, gate, max_N, keep, since)
            if callback is not None:
                callback(run)
        if spent:
            break
    return run


def _check_heads(learner: Learner, max_N: int | None) -> None:
    """Refuse at the door a network that lacks a head it will need."""
    active: Ns | None = learner.active
    while active is not None:
        for N in active:
            head = learner.curriculum.head(N, active)
            require(
                head < learner.network.heads,
                f"heads must be at least {head + 1} to ask N = {N}, but {learner.network.heads} came",
            )
        if max_N is None or active[-1] >= max_N:
            return
        active = learner.curriculum.next(active)


def _step(run: CurriculumRun, learners: list[Learner], batch: int, clip: float) -> None:
    u = float(torch.rand((), generator=run.lengths))
    k = float(torch.rand((), generator=run.lengths))
    logits, answers = [], []
    for group in _groups(learners):
        data = [run.task.sample(batch, x.active, x.draws, run.task.length(x.active[-1], u)) for x in group]
        units = _final_units(group, [x for x, _ in data], k)
        for learner, final, (_, labels) in zip(group, units, data, strict=True):
            logits.append(learner.network.readout(final, learner.heads).flatten(0, 1))
            answers.append(labels.flatten())
            for parameter in learner.parameters:
                parameter.grad = None
    # A sum over networks and heads of the mean over the batch.
    (nn.functional.cross_entropy(torch.cat(logits), torch.cat(answers), reduction="sum") / batch).backward()
    for learner in learners:
        norm = nn.utils.clip_grad_norm_(learner.parameters, clip)
        learner.clipped += norm.detach() > clip
        learner.optimiser.step()


def _final_units(group: list[Learner], xs: list[Tensor], k: float) -> Iterator[Tensor]:
    network = group[0].network
    if not isinstance(network, LeakyRNN):
        yield network.final(xs[0], group[0].draws)
        return
    substeps = network.substeps[int(k * len(network.substeps))]
    nets = [learner.network for learner in group if isinstance(learner.network, LeakyRNN)]
    longest, active = xs[0].shape[1], None
    if xs[-1].shape[1] < longest:
        active = [
            sum(one.shape[1] >= longest - t for one in xs) for t in range(longest) for _ in range(substeps)
        ]
        xs = [nn.functional.pad(one, (longest - one.shape[1], 0)) for one in xs]
    start = torch.stack([a.network.initial_state(len(xs[0]), a.draws) * a.network.alive for a in group])
    x = torch.stack(xs).to(start.dtype)
    x = x if substeps == 1 else x.repeat_interleave(substeps, -1)
    yield from scan(fold(nets, substeps), start, x, network.nonlinearity, network.slope, active)


def _side_by_side(network: MemoryNetwork) -> bool:
    """Whether to train several as one: where starting a product takes long beside the product itself.

    On a processor one product of large networks fills the caches by itself.
    """
    return isinstance(network, LeakyRNN) and (_on_gpu(network) or network.hidden <= _SMALL)


def _on_gpu(network: MemoryNetwork) -> bool:
    return network.head_weight.device.type != "cpu"


def _groups(learners: list[Learner]) -> list[list[Learner]]:
    """Who runs side by side, longest first: the networks that move at a step are then a slice."""
    groups: dict[Any, list[Learner]] = {}
    for learner in sorted(learners, key=lambda learner: -learner.active[-1]):
        net = learner.network
        shape: Any = id(learner)
        if isinstance(net, LeakyRNN) and _side_by_side(net):
            shape = net.hidden, net.placement, net.nonlinearity, net.slope, net.substeps, net.self_connections
        groups.setdefault(shape, []).append(learner)
    return list(groups.values())


@torch.no_grad()
def _test(
    run: CurriculumRun,
    learner: Learner,
    batch: int,
    batches: int,
    gate: float,
    max_N: int | None,
    keep: Collection[int] | None,
    since: int,
) -> None:
    network, total = learner.network, batch * batches
    finite = all(bool(torch.isfinite(p).all()) for p in network.parameters())
    newest = mean = 0.0
    seen, right = 0, torch.zeros(len(learner.active), device=learner.clipped.device)
    ones = torch.zeros_like(right)
    while finite and seen < total:
        # One batch shows most failures; the rest of a test runs side by side where that is faster.
        count = min(_AT_ONCE, (total - seen) // batch) if seen and _on_gpu(network) else 1
        data = [run.task.sample(batch, learner.active, learner.draws) for _ in range(count)]
        data.sort(key=lambda pair: -pair[0].shape[1])
        units = _final_units([learner] * count, [x for x, _ in data], 0.0)
        for final, (_, labels) in zip(units, data, strict=True):
            right += (network.readout(final, learner.heads).argmax(-1) == labels).sum(0)
            ones += labels.sum(0)
        seen += batch * count
        wrong = seen - right
        newest, mean = 1 - float(wrong[-1]) / seen, 1 - float(wrong.mean()) / seen
        # Even if all that is left were right, the gate could not be passed any more.
        if 1 - max(float(wrong[-1]), float(wrong.mean())) / total <= gate:
            break
    if seen >= 64 and float(ones[-1]) in (0.0, float(seen)):
        warnings.warn(
            f"all {seen} labels of N = {learner.active[-1]} in a test were the same: "
            f"{run.task.name} asks nothing",
            stacklevel=3,
        )
    passed = seen == total and newest > gate and mean > gate
    N = learner.active[-1]
    row = {
        "network": run.learners.index(learner),
        "N": N,
        "steps": run.steps,
        "seconds": run.seconds,
        "accuracy": newest,
        "accuracy_mean": mean,
        "sequences": seen,
        "passed": passed,
        "clipped": float(learner.clipped) / since,
        **_time_constants(network),
        "radius": network.spectral_radius() if passed and isinstance(network, LeakyRNN) else None,
    }
    run.rows.append(row)
    learner.clipped.zero_()
    if not finite:
        network.load_state_dict(learner.last)
        learner.status = "diverged"
    elif passed:
        _advance(learner, N, max_N, keep)


def _advance(learner: Learner, N: int, max_N: int | None, keep: Collection[int] | None) -> None:
    learner.last = learner.weights()
    if keep is None or N in keep:
        learner.kept[N] = learner.last
    following = learner.curriculum.next(learner.active)
    if following is None or (max_N is not None and max_N <= N):
        learner.status = "finished"
    elif max(learner.curriculum.head(M, following) for M in following) >= learner.network.heads:
        learner.status = "out of heads"
    else:
        learner.active = following


def _time_constants(network: MemoryNetwork) -> dict[str, float | None]:
    if not isinstance(network, LeakyRNN):
        return dict.fromkeys(("tau_mean", "tau_sd", "tau_max", "tau_effective", "at_bound"))
    tau, effective = network.tau, network.effective_tau
    return {
        "tau_mean": float(tau.mean()),
        "tau_sd": float(tau.std()),
        "tau_max": float(tau.max()),
        "tau_effective": float(effective.mean()),
        "at_bound": float((network.leak(network.substeps[0]) >= 1).float().mean()),
    }
