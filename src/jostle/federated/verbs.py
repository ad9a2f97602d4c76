"""What the command line offers: train, compare, split, sweep, and time the engines."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from torch import nn

from jostle.core.errors import require
from jostle.federated.buffers import Buffers
from jostle.federated.engines import Engine
from jostle.federated.family import Name, by_name
from jostle.federated.federation import Federated, Federation
from jostle.federated.flat import RECORD_AFTER
from jostle.federated.local import Local
from jostle.federated.networks import network
from jostle.federated.partition import Scheme
from jostle.federated.sampling import Sampling
from jostle.federated.server import losing
from jostle.federated.splits import Split, split
from jostle.files import write_text
from jostle.zoo import Images

Progress = Callable[[int, int, str], None] | None


def _federation(
    model: nn.Module | None, data: Images, dealt: Split, seed: int, **settings: Any
) -> Federation:
    most = max([int(part.max()) for part in (*dealt.parts, dealt.test) if len(part)], default=0)
    require(
        most < len(data),
        f"split points to image {most}, but {data.name!r} has {len(data)}: it is of another set",
    )
    x, y = data.tensors()
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    net = network("mlp", shape, len(data.classes), seed=seed) if model is None else model
    place = next(net.parameters()).device
    x, y = x.to(place), y.to(place)
    test = (x[dealt.test], y[dealt.test]) if len(dealt.test) else None
    clients = [(x[part], y[part]) for part in dealt.parts]
    return Federation(net, nn.functional.cross_entropy, clients, test=test, seed=seed, **settings)


def run(
    data: Images,
    *,
    model: nn.Module | None = None,
    algorithm: Name = "fedspeed",
    clients: int = 50,
    dirichlet: float = 0.1,
    scheme: Scheme = "dirichlet",
    split: Split | None = None,
    fraction: float = 0.1,
    sampling: Sampling = "fixed",
    rounds: int = 60,
    local_epochs: int = 5,
    batch_size: int = 20,
    lr: float = 0.1,
    lr_decay: float = 0.998,
    weight_decay: float = 1e-3,
    prox_mu: float = 0.1,
    rho: float = 0.1,
    alpha: float = 1.0,
    lost: float = 0.0,
    seed: int = 20,
    engine: Engine = "auto",
    buffers: Buffers = "error",
    state_dir: Path | None = None,
    checkpoint: Path | None = None,
    resume: Path | None = None,
    log: Path | None = None,
    callback: Progress = None,
) -> Federated:
    """Train a network over simulated clients.

    **Arguments:** `data`: labelled images, a fifth of them kept for testing, or parted by a `split`. `model`:
    network of [0, 1] images, a small MLP if left out. `algorithm`: by which clients train and the server
    averages. `clients`: how many hold the data, at least 1; a `split` has its own. `dirichlet`: concentration
    of the Dirichlet shares (`dirichlet`, `official`, `ragged`), above 0; small is uneven. `scheme`: how
    images are dealt: `dirichlet` gives equal sizes and uneven classes, `official` lets images repeat, as
    FedSpeed's program does, `ragged` makes sizes uneven too, `pathological` gives three classes each, `iid`
    shuffles. `split`: an .npz file that the verb `split` wrote; None deals anew. `fraction`: share of the
    clients that take part in a round, in (0, 1]. `sampling`: who takes part in a round: `fixed` draws the
    same number every time, `bernoulli` each client by itself. `rounds`: in all, at least 1, those of a
    resumed training included. `local_epochs`: passes of a client over its data in a round, at least 1.
    `batch_size`: samples a local step, at least 1. `lr`: learning rate of the local steps in the first round,
    above 0. `lr_decay`: factor on the learning rate from round to round, in (0, 1]. `weight_decay`: of the
    local steps, at least 0. `prox_mu`: strength of the pull to the server's model, above 0; of fedprox,
    feddyn, fedspeed, fedsmoo and fedadmm. `rho`: radius of the ascent, at least 0; of fedsam, fedspeed,
    mofedsam, fedgamma and fedsmoo. `alpha`: share of the gradient at the ascent's end, in [0, 1]; of
    fedspeed. `lost`: share of replies that the network loses, in [0, 1). `seed`: of the MLP's weights, of who
    takes part, of batches and of lost replies, at least 0; the data are dealt alike for every seed. `engine`:
    how a round is computed: clients one after another (`sequential`), in one pass (`batched`), or as is
    faster (`auto`). `buffers`: what becomes of running statistics (batch normalisation): `error` refuses
    them, `average` lets the server average them, `local` leaves each client its own. `state_dir`: an empty
    folder for the clients' vectors, where they are too many for main memory; None keeps them there.
    `checkpoint`: a .safetensors file to keep the training in, every ten rounds (with a `state_dir` every
    round) and at the end. `resume`: a .safetensors file of a `checkpoint` to go on from, with the numbers of
    an unbroken training. `log`: a file for the history, one JSON object a round.
    **Returns:** a [`Federated`][jostle.federated.Federated]: the network and its history.

    >>> from jostle import zoo
    >>> found = run(zoo.load_data("digits").subset(range(200)), clients=4, fraction=0.5, rounds=2)
    >>> len(found.history)
    2
    """
    dealt = _dealt(data, split, clients, scheme, dirichlet)
    carrier = losing(lost, seed=seed) if lost else None
    fed = _federation(
        model,
        data,
        dealt,
        seed,
        fraction=fraction,
        sampling=sampling,
        engine=engine,
        transport=carrier,
        buffers=buffers,
        state_dir=state_dir,
    )
    found = fed.run(
        by_name(algorithm, prox_mu=prox_mu, rho=rho, alpha=alpha),
        rounds=rounds,
        lr=lr,
        lr_decay=lr_decay,
        local_epochs=local_epochs,
        batch_size=batch_size,
        weight_decay=weight_decay,
        checkpoint=checkpoint,
        resume=resume,
        callback=callback,
    )
    if log is not None:
        write_text(log, "".join(json.dumps(row) + "\n" for row in found.history))
    return found


def _dealt(data: Images, given: Split | None, clients: int, scheme: Scheme, dirichlet: float) -> Split:
    """The split that was given, or a new one."""
    return given or split(data, clients=clients, scheme=scheme, dirichlet=dirichlet)


def compare(
    data: Images,
    algorithms: tuple[Name, ...] = ("fedavg", "scaffold", "feddyn", "fedspeed"),
    *,
    model: nn.Module | None = None,
    seeds: int = 3,
    seed: int = 20,
    clients: int = 50,
    dirichlet: float = 0.1,
    scheme: Scheme = "dirichlet",
    split: Split | None = None,
    fraction: float = 0.1,
    rounds: int = 60,
    local_epochs: int = 5,
    batch_size: int = 20,
    lr: float = 0.1,
    target: float = 0.88,
    engine: Engine = "auto",
    buffers: Buffers = "error",
    callback: Progress = None,
) -> dict[str, dict[str, Any]]:
    """Several algorithms on the same clients and seeds: accuracy with its standard error, rounds and gradients.

    **Arguments:** `data`: labelled images, a fifth of them kept for testing, or parted by a `split`.
    `algorithms`: which to compare. `model`: network of [0, 1] images, a small MLP if left out. `seeds`:
    trainings of each algorithm, with seeds counted from `seed`; at least 1. `seed`: the first of the seeds,
    at least 0; the data are dealt alike for every one. `clients`: how many hold the data, at least 1; a
    `split` has its own. `dirichlet`: concentration of the Dirichlet shares (`dirichlet`, `official`,
    `ragged`), above 0; small is uneven. `scheme`: how images are dealt: `dirichlet` gives equal sizes and
    uneven classes, `official` lets images repeat, as FedSpeed's program does, `ragged` makes sizes uneven
    too, `pathological` gives three classes each, `iid` shuffles. `split`: an .npz file that the verb `split`
    wrote; None deals anew. `fraction`: share of the clients that take part in a round, in (0, 1]. `rounds`:
    of each training, at least 1. `local_epochs`: passes of a client over its data in a round, at least 1.
    `batch_size`: samples a local step, at least 1. `lr`: learning rate of the local steps in the first round,
    above 0. `target`: test accuracy, in [0, 1], whose first round is looked for. `engine`: how a round is
    computed: clients one after another (`sequential`), in one pass (`batched`), or as is faster (`auto`).
    `buffers`: what becomes of running statistics (batch normalisation): `error` refuses them, `average` lets
    the server average them, `local` leaves each client its own.
    **Returns:** for each algorithm the mean over seeds of the last ten rounds (`accuracy`, with `standard_error`),
    `best`, `rounds_to_target` and `gradients_to_target` (`None` if a seed never got there).

    >>> from jostle import zoo
    >>> found = compare(zoo.load_data("digits").subset(range(200)), ("fedavg",), seeds=1, clients=4, rounds=2)
    >>> sorted(found["fedavg"])
    ['accuracy', 'best', 'gradients_to_target', 'rounds_to_target', 'standard_error']
    """
    require(seeds >= 1, f"seeds must be at least 1, but {seeds} came")
    dealt = _dealt(data, split, clients, scheme, dirichlet)
    table: dict[str, dict[str, Any]] = {}
    total, done = len(algorithms) * seeds, 0
    for name in algorithms:
        ends, best, first = [], [], []
        for i in range(seeds):
            found = run(
                data, model=model, algorithm=name, split=dealt, fraction=fraction, rounds=rounds,
                local_epochs=local_epochs, batch_size=batch_size, lr=lr, seed=seed + i, engine=engine, buffers=buffers,
            )  # fmt: skip
            numbers = found.numbers()
            ends.append(numbers["last_ten"])
            best.append(numbers["best"])
            first.append(next((row for row in found.history if row["accuracy"] >= target), None))
            done += 1
            if callback is not None:
                callback(done, total, f"{name}: {ends[-1]:.1%}")
        there = None not in first
        table[name] = {
            "accuracy": fmean(ends),
            "standard_error": stdev(ends) / len(ends) ** 0.5 if len(ends) > 1 else None,
            "best": fmean(best),
            "rounds_to_target": fmean(row["round"] + 1 for row in first if row) if there else None,
            "gradients_to_target": fmean(row["total_gradients"] for row in first if row) if there else None,
        }
    return table


def sweep(
    data: Images,
    setting: Literal["prox_mu", "rho", "alpha", "local_epochs", "fraction", "dirichlet", "lost", "lr"],
    values: tuple[float, ...],
    *,
    model: nn.Module | None = None,
    algorithm: Name = "fedspeed",
    clients: int = 50,
    rounds: int = 60,
    batch_size: int = 20,
    seed: int = 20,
    engine: Engine = "auto",
    buffers: Buffers = "error",
    callback: Progress = None,
) -> dict[str, dict[str, float]]:
    """One setting at several values: mean accuracy of the last ten rounds, and the best.

    **Arguments:** `data`: labelled images, a fifth of them kept for testing. `setting`: which setting of
    `run` to vary. `values`: what the setting is in turn, one training each; whole numbers for local_epochs.
    `model`: network of [0, 1] images, a small MLP if left out. `algorithm`: by which clients train and the
    server averages. `clients`: how many hold the data, at least 1. `rounds`: of each training, at least 1.
    `batch_size`: samples a local step, at least 1. `seed`: of the MLP's weights, of who takes part, of
    batches and of lost replies, at least 0; the same at each value. `engine`: how a round is computed:
    clients one after another (`sequential`), in one pass (`batched`), or as is faster (`auto`). `buffers`:
    what becomes of running statistics (batch normalisation): `error` refuses them, `average` lets the server
    average them, `local` leaves each client its own.

    >>> from jostle import zoo
    >>> list(sweep(zoo.load_data("digits").subset(range(200)), "rho", (0.0, 0.1), clients=4, rounds=1))
    ['0.0', '0.1']
    """
    require(len(values) > 0, "values must hold at least one number, but none came")
    broken = [value for value in values if setting == "local_epochs" and value != int(value)]
    require(not broken, f"values of local_epochs must be whole numbers, but {broken[:1]} came")
    out = {}
    for done, value in enumerate(values, start=1):
        given: dict[str, Any] = {setting: int(value) if setting == "local_epochs" else value}
        found = run(
            data, model=model, algorithm=algorithm, clients=clients, rounds=rounds, batch_size=batch_size,
            seed=seed, engine=engine, buffers=buffers, **given,
        ).numbers()  # fmt: skip
        out[str(value)] = {"accuracy": found["last_ten"], "best": found["best"]}
        if callback is not None:
            callback(done, len(values), f"{setting} = {value:g}: {found['last_ten']:.1%}")
    return out


def bench(
    data: Images,
    *,
    model: nn.Module | None = None,
    algorithm: Name = "fedspeed",
    clients: int = 50,
    fraction: float = 0.2,
    local_epochs: int = 5,
    batch_size: int = 20,
    rounds: int = 5,
) -> dict[str, float]:
    """Seconds a round in the sequential and in the batched engine, for a model and data of yours.

    **Arguments:** `data`: labelled images, dealt at random and evenly. `model`: network of [0, 1] images, a
    small MLP if left out. `algorithm`: by which clients train and the server averages. `clients`: how many
    hold the data, at least 1. `fraction`: share of the clients that take part in a round, in (0, 1].
    `local_epochs`: passes of a client over its data in a round, at least 1. `batch_size`: samples a local
    step, at least 1. `rounds`: timed in each engine after some that are not, at least 1; the fastest counts.
    **Returns:** `sequential`, `batched` and their `ratio`.

    >>> from jostle import zoo
    >>> sorted(bench(zoo.load_data("digits").subset(range(100)), clients=4, rounds=1))
    ['batched', 'ratio', 'sequential']
    """
    require(rounds >= 1, f"rounds must be at least 1, but {rounds} came")
    dealt, seconds = split(data, clients=clients, scheme="iid"), {}
    for engine in ("sequential", "batched"):
        fed = _federation(model, data, dealt, 0, fraction=fraction, engine=engine, evaluate_every=10**9)
        course = fed.start(by_name(algorithm), Local(epochs=local_epochs, batch_size=batch_size))
        calls = 0.0
        while calls <= RECORD_AFTER:  # until the batched engine replays what it has recorded
            row = course.advance()
            calls += row["gradients"] / row["active"]
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            course.advance()
            times.append(time.perf_counter() - started)
        seconds[engine] = min(times)
    return {**seconds, "ratio": seconds["sequential"] / seconds["batched"]}


VERBS = (run, compare, split, sweep, bench)
