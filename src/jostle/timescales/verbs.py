"""What the command line offers: fit a recording, train a network, and probe it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jostle.core.errors import require
from jostle.timescales import checkpoints
from jostle.timescales.autocorrelation import autocorrelation
from jostle.timescales.conditions import PLANS
from jostle.timescales.curricula import Curriculum, Direct, Ns
from jostle.timescales.fitting import fit_timescales
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.measuring import network_timescales
from jostle.timescales.perturbing import Kind, choose_neurons, perturbation_sweep
from jostle.timescales.perturbing import ablation as run_ablation
from jostle.timescales.recordings import RecordingTimescales, read_recording
from jostle.timescales.records import CurriculumRun
from jostle.timescales.retraining import retrain_generalisation
from jostle.timescales.snapshots import TASKS, Snapshot, TaskName
from jostle.timescales.starting import replicas, seeded
from jostle.timescales.training import train_curriculum


def measure(
    recording: Path,
    *,
    name: str | None = None,
    layout: Literal["time", "time units", "trials time", "trials time units"] | None = None,
    step: float = 1.0,
    max_lag: int = 100,
    fit_lags: int = 30,
    detrend: Literal["mean", "linear"] = "mean",
    missing: Literal["error", "pairwise"] = "error",
) -> RecordingTimescales:
    """Fit the timescales of a recording of your own: rates, spike counts, any evenly sampled series.

    **Arguments:** `recording`: `.npy`, `.npz`, or `.csv` (a header line is skipped; columns are units).
    `name`: of the array in an `.npz` that holds several. `layout`: which axis is which; default by their
    number: time, time units, trials time units. `step`: duration of a sample, in the unit you want the
    timescales in, above 0. `max_lag`: last lag of the autocorrelations, in samples; `fit_lags` where that is
    more. `fit_lags`: last lag of the fits, in samples, at least 4. `detrend`: what is removed from each
    trial, its mean or its linear trend. `missing`: whether NaN is refused (`error`) or left out pair by pair
    (`pairwise`).
    **Returns:** a table with one row a unit.
    **Raises:** `JostleError` for a file that cannot be read as such.

    >>> measure(Path("nowhere.npy"))
    Traceback (most recent call last):
    jostle.core.errors.JostleError: could not read nowhere.npy: No such file or directory
    """
    require(step > 0, f"step must be positive, but {step} came")
    curves = autocorrelation(
        read_recording(recording, name),
        max_lag=max(max_lag, fit_lags),
        layout=layout,
        detrend=detrend,
        missing=missing,
    )
    return RecordingTimescales(fit_timescales(curves, fit_lags=fit_lags), curves, step)


def train(
    *,
    task: TaskName = "parity",
    curriculum: Literal["multi", "single", "sliding", "direct"] = "multi",
    hidden: int = 100,
    max_N: int = 8,
    max_steps: int = 10_000,
    batch: int = 128,
    patience: int = 100,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: Path | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> Snapshot:
    """Train one leaky network on a memory task under a curriculum.

    **Arguments:** `task`: `parity` (the sum of the last N bits, modulo 2) or `dms` (whether the bit N-1 steps
    before the last equals it). `curriculum`: every N so far (`multi`), the newest alone (`single`), a window
    of ten Ns that moves up by five (`sliding`), or `max_N` from scratch (`direct`). `hidden`: neurons.
    `max_N`: where to stop, at least 2 (11 for `sliding`). `max_steps`: budget of optimiser steps, those of a
    resumed training included. `batch`: sequences a step, at least 1. `patience`: steps between tests, at
    least 1. `checkpoint`: a `.pt` file to keep the training in, after each test and at the end. `resume`: a
    `.pt` file of a `checkpoint` to go on from, with the same settings (but for `max_steps`) and the same
    numbers as an unbroken training. `callback`: told how far it is.
    **Returns:** the network as it is at the end, with the largest N that it passed.
    **Raises:** `JostleError` for a checkpoint that cannot be read, or is of other settings.

    >>> train(hidden=8, max_N=2, max_steps=5, batch=4, patience=5).N
    0
    """
    require(max_N >= 2, f"max_N must be at least 2, but {max_N} came")
    require(batch >= 1, f"batch must be at least 1, but {batch} came")
    plan = Direct(max_N) if curriculum == "direct" else PLANS[curriculum]
    stages = _stages(plan, max_N)
    require(
        stages[0][-1] <= max_N,
        f"max_N must be at least {stages[0][-1]}, where {curriculum} begins, but {max_N} came",
    )
    heads = 1 + max(plan.head(N, active) for active in stages for N in active)
    nets = replicas(lambda generator: LeakyRNN(hidden, heads, generator=generator), 1, seed)
    settings = {
        "task": task, "curriculum": curriculum, "hidden": hidden, "max_N": max_N, "batch": batch,
        "patience": patience, "seed": seed,
    }  # fmt: skip

    def report(run: CurriculumRun) -> None:
        if checkpoint is not None:
            checkpoints.write(checkpoint, run, settings)
        if callback is not None:
            callback(run.steps, max_steps, f"N = {run.learners[0].active[-1]}")

    run = train_curriculum(
        nets,
        TASKS[task](),
        plan,
        batch=batch,
        steps=patience,
        test_batches=-(-2048 // batch),
        max_N=max_N,
        max_steps=max_steps,
        seed=seed,
        keep=(),
        resume=None if resume is None else checkpoints.read(resume, settings),
        callback=report,
    )
    if checkpoint is not None:
        checkpoints.write(checkpoint, run, settings)
    N = run.solved()
    network = run.networks[0]
    assert isinstance(network, LeakyRNN)
    record = {"curriculum": curriculum, "steps": run.steps, "status": run.learners[0].status}
    head = max((plan.head(N, active) for active in stages if active[-1] == N), default=0)
    return Snapshot(network, task, N, head, record)


def _stages(plan: Curriculum, max_N: int) -> list[Ns]:
    """The Ns of each stage, up to the one that asks `max_N`."""
    stages, following = [], plan.first()
    while following is not None:
        stages.append(following)
        following = None if following[-1] >= max_N else plan.next(following)
    return stages


def sweep(snapshot: Snapshot, *, kind: Kind = "weights", draws: int = 10, seed: int = 0) -> dict[str, Any]:
    """Relative accuracy of a trained network under perturbations of growing size.

    **Arguments:** `snapshot`: a file that `train` wrote, or `FILE.py:FUNCTION`. `kind`: what is pushed:
    recurrent weights in a random direction (`weights`), each by a random factor (`weights_mult`) or along
    their singular vectors (`weights_subspace`); or time constants, upwards (`tau_abs`), either way
    (`tau_signed`) or by steps instead of relatively (`tau_add`). `draws`: of perturbation and input.
    **Returns:** accuracy of the untouched network, and at each size the mean and SD over draws of the relative
    accuracy.
    **Raises:** `JostleError` for a network that answers at chance.

    >>> knows = train(hidden=30, max_N=2, max_steps=1000, batch=32)
    >>> sweep(knows, draws=2)["relative"]["0"]
    1.0
    """
    N = _known(snapshot)
    found = perturbation_sweep(
        snapshot.network,
        snapshot.memory_task(),
        N,
        kind=kind,
        head=snapshot.head,
        draws=draws,
        seed=seed,
    )
    accuracy = _remembers(float(found.accuracy[0].mean()), N)
    sizes = [f"{size:.3g}" for size in found.sizes]
    return {
        "N": N,
        "accuracy": accuracy,
        "relative": dict(zip(sizes, found.relative.mean(1).tolist(), strict=True)),
        "sd": dict(zip(sizes, found.relative.std(1).tolist(), strict=True)),
    }


def ablation(snapshot: Snapshot, *, count: int = 20, draws: int = 10, seed: int = 0) -> dict[str, float]:
    """Relative accuracy of a trained network without one of its fastest or slowest neurons.

    **Arguments:** `snapshot`: a file that `train` wrote, or `FILE.py:FUNCTION`. `count`: how many neurons of
    either end are removed, one at a time, at least 1. `draws`: of the input.
    **Returns:** accuracy with all neurons, and relative accuracy without one of either kind.

    >>> knows = train(hidden=30, max_N=2, max_steps=1000, batch=32)
    >>> sorted(ablation(knows, count=2, draws=1))
    ['N', 'accuracy', 'without_one_fast', 'without_one_slow']
    """
    N, net = _known(snapshot), snapshot.network
    require(isinstance(net, LeakyRNN), "ablation needs a network with time constants, to know fast from slow")
    assert isinstance(net, LeakyRNN)
    fast, slow = choose_neurons(net, "fastest", count), choose_neurons(net, "slowest", count)
    found = run_ablation(
        net,
        snapshot.memory_task(),
        N,
        neurons=sorted({*fast, *slow}),
        head=snapshot.head,
        draws=draws,
        seed=seed,
    )
    return {
        "N": float(N),
        "accuracy": _remembers(float(found.base.mean()), N),
        "without_one_fast": found.group(fast),
        "without_one_slow": found.group(slow),
    }


def drive(
    snapshot: Snapshot, *, steps: int = 20_000, trials: int = 10, max_lag: int = 100, seed: int = 0
) -> RecordingTimescales:
    """Fit the timescales of a trained network's neurons, driven by the random bits of its task.

    **Arguments:** `snapshot`: a file that `train` wrote, or `FILE.py:FUNCTION`. `steps`: how many are kept of
    each trial, more than `max_lag`. `trials`: streams of bits side by side. `max_lag`: last lag of the
    autocorrelations, in steps, at least 30.
    **Returns:** a table with one row a neuron, in steps.

    >>> len(drive(Snapshot(LeakyRNN(6), "dms", 2, 0), steps=3000, trials=2).fit.tau)
    6
    """
    net = snapshot.network
    found = network_timescales(
        net,
        snapshot.memory_task(),
        generator=seeded(seed, "drive", net.head_weight.device),
        steps=steps,
        trials=trials,
        max_lag=max_lag,
    )
    return RecordingTimescales(found.fit, found.curves, 1.0)


def retrain(
    snapshot: Snapshot,
    *,
    target: int,
    epochs: int = 20,
    steps: int = 600,
    batch: int = 128,
    seed: int = 0,
    callback: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Teach a copy of a trained network one later N, and say how well it does.

    **Arguments:** `snapshot`: a file that `train` wrote, or `FILE.py:FUNCTION`. `target`: the N to learn, at
    least 2. `epochs`: of training, at least 1. `steps`: optimiser steps an epoch. `batch`: sequences a step.
    `callback`: told how far it is.
    **Returns:** mean accuracy on streams of fair bits, and its SD over streams.

    >>> found = retrain(Snapshot(LeakyRNN(6), "parity", 2, 0), target=3, epochs=1, steps=2, batch=4)
    >>> found["N"], found["target"]
    (2, 3)
    """
    N = _known(snapshot)
    require(target >= 2, f"target must be at least 2, but {target} came")

    def report(run: CurriculumRun) -> None:
        if callback is not None:
            callback(run.steps, epochs * steps, f"accuracy {run.rows[-1]['accuracy']:.2f}")

    found = retrain_generalisation(
        snapshot.network,
        snapshot.memory_task(),
        [target],
        head=snapshot.head,
        epochs=epochs,
        steps=steps,
        batch=batch,
        seed=seed,
        callback=report,
    )
    return {"N": N, "target": target, "accuracy": float(found.mean()), "sd": float(found.std(ddof=1))}


def _known(snapshot: Snapshot) -> int:
    require(snapshot.N >= 2, "the network has passed no N: train it for longer")
    return snapshot.N


def _remembers(accuracy: float, N: int) -> float:
    """Relative accuracy is a ratio to what is above chance."""
    require(
        accuracy > 0.55,
        f"the network answers N = {N} at chance ({accuracy:.3f}): it has no memory to perturb",
    )
    return accuracy


VERBS = (measure, train, drive, sweep, ablation, retrain)
