"""What the command line offers: train, compare, split, sweep, and time the engines."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.federated.engines import Engine
from jostle.federated.family import Name, by_name
from jostle.federated.federation import Federated, Federation
from jostle.federated.local import Local
from jostle.federated.networks import network
from jostle.federated.partition import Scheme, partition
from jostle.federated.sampling import Sampling
from jostle.federated.server import losing
from jostle.files import write_text
from jostle.zoo import Images

Progress = Callable[[int, int, str], None] | None


@dataclass(frozen=True, eq=False)
class Split:
    """Who holds which samples of a data set.

    `parts`: indices, one tensor a client. `test`: indices that nobody holds.

    >>> Split([torch.tensor([0, 2])], torch.tensor([1])).numbers()["clients"]
    1
    """

    parts: list[Tensor]
    test: Tensor

    suffix: ClassVar[str] = ".npz"

    def numbers(self) -> dict[str, Any]:
        """How many clients, and the sizes."""
        sizes = [len(part) for part in self.parts]
        return {
            "clients": len(sizes),
            "smallest": min(sizes),
            "largest": max(sizes),
            "dealt": sum(sizes),
            "test": len(self.test),
        }

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npz)."""
        from jostle.files import whole

        path = Path(path)
        require(path.suffix == self.suffix, f"path must end in {self.suffix}, but {path.name} came")
        arrays: dict[str, Any] = {f"client_{i}": part.numpy() for i, part in enumerate(self.parts)}
        with whole(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays, test=self.test.numpy())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read what `save` wrote.

        **Raises:** `JostleError` if the file is absent or broken.
        """
        try:
            # numpy leaves a file open that is no archive.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: torch.from_numpy(kept[name].astype(np.int64)) for name in kept.files}
            test = arrays.pop("test")
            return cls([arrays[f"client_{i}"] for i in range(len(arrays))], test)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise JostleError(f"split {path} cannot be read ({type(error).__name__})") from error


def split(
    data: Images,
    *,
    clients: int = 50,
    scheme: Scheme = "dirichlet",
    dirichlet: float = 0.1,
    classes_per_client: int = 3,
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """Deal a data set to clients and keep a share for testing.

    **Arguments:** `data`: labelled images. `clients`, `scheme`, `classes_per_client`: see
    [`partition`][jostle.federated.partition]; `dirichlet` is its concentration. `test_share`: in [0, 1). `seed`.
    **Returns:** a [`Split`][jostle.federated.Split], which saves as .npz.

    >>> from jostle import zoo
    >>> split(zoo.load_data("digits").subset(range(100)), clients=4).numbers()["test"]
    20
    """
    require(0 <= test_share < 1, f"test_share must lie in [0, 1), but {test_share} came")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    cut = len(order) - int(len(order) * test_share)
    held, test = order[:cut], order[cut:]
    parts = partition(
        data.labels[held],
        clients,
        scheme=scheme,
        concentration=dirichlet,
        classes_per_client=classes_per_client,
        seed=seed,
    )
    return Split([held[part] for part in parts], test)


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
    checkpoint: Path | None = None,
    resume: Path | None = None,
    log: Path | None = None,
    callback: Progress = None,
) -> Federated:
    """Train a network over simulated clients.

    **Arguments:** `data`: labelled images, dealt by `clients`, `scheme` and `dirichlet`, or by a `split` of before.
    `model`: on [0, 1] images; a small MLP if left out. `algorithm`: by name. `fraction` to `weight_decay`: see
    [`Federation.run`][jostle.federated.Federation.run]. `prox_mu`, `rho`, `alpha`: of the algorithms that have them.
    `lost`: share of replies that the network loses. `checkpoint`, `resume`: .safetensors files. `log`: a file for
    the history, one JSON object a round.
    **Returns:** a [`Federated`][jostle.federated.Federated]: the network and its history.

    >>> from jostle import zoo
    >>> found = run(zoo.load_data("digits").subset(range(200)), clients=4, fraction=0.5, rounds=2)
    >>> len(found.history)
    2
    """
    dealt = split if split is not None else _split(data, clients, scheme, dirichlet)
    carrier = losing(lost, seed=seed) if lost else None
    fed = _federation(
        model, data, dealt, seed, fraction=fraction, sampling=sampling, engine=engine, transport=carrier
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


def _split(data: Images, clients: int, scheme: Scheme, dirichlet: float) -> Split:
    return split(data, clients=clients, scheme=scheme, dirichlet=dirichlet)


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
    fraction: float = 0.1,
    rounds: int = 60,
    local_epochs: int = 5,
    batch_size: int = 20,
    lr: float = 0.1,
    target: float = 0.88,
    engine: Engine = "auto",
    callback: Progress = None,
) -> dict[str, dict[str, Any]]:
    """Several algorithms on the same clients and seeds: accuracy with its standard error, rounds and gradients.

    **Arguments:** as for `run`; `algorithms`: by name. `seeds`: how many, counted from `seed`; at least 1. `target`:
    accuracy whose first round is looked for.
    **Returns:** for each algorithm the mean over seeds of the last ten rounds (`accuracy`, with `standard_error`),
    `best`, `rounds_to_target` and `gradients_to_target` (`None` if a seed never got there).

    >>> from jostle import zoo
    >>> found = compare(zoo.load_data("digits").subset(range(200)), ("fedavg",), seeds=1, clients=4, rounds=2)
    >>> sorted(found["fedavg"])
    ['accuracy', 'best', 'gradients_to_target', 'rounds_to_target', 'standard_error']
    """
    require(seeds >= 1, f"seeds must be at least 1, but {seeds} came")
    dealt = _split(data, clients, scheme, dirichlet)
    table: dict[str, dict[str, Any]] = {}
    total, done = len(algorithms) * seeds, 0
    for name in algorithms:
        ends, best, first = [], [], []
        for i in range(seeds):
            fed = _federation(model, data, dealt, seed + i, fraction=fraction, engine=engine)
            found = fed.run(
                by_name(name), rounds=rounds, lr=lr, local_epochs=local_epochs, batch_size=batch_size,
                weight_decay=1e-3,
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
    callback: Progress = None,
) -> dict[str, dict[str, float]]:
    """One setting at several values: mean accuracy of the last ten rounds, and the best.

    **Arguments:** `setting`: of `run`. `values`: to try. The others: as for `run`.

    >>> from jostle import zoo
    >>> list(sweep(zoo.load_data("digits").subset(range(200)), "rho", (0.0, 0.1), clients=4, rounds=1))
    ['0.0', '0.1']
    """
    require(len(values) > 0, "values must hold at least one number, but none came")
    out = {}
    for done, value in enumerate(values, start=1):
        given: dict[str, Any] = {setting: int(value) if setting == "local_epochs" else value}
        found = run(
            data, model=model, algorithm=algorithm, clients=clients, rounds=rounds, batch_size=batch_size,
            seed=seed, engine=engine, **given,
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

    **Arguments:** as for `run`; `rounds`: timed in each engine after one that is not; the fastest counts.
    **Returns:** `sequential`, `batched` and their `ratio`.

    >>> from jostle import zoo
    >>> sorted(bench(zoo.load_data("digits").subset(range(100)), clients=4, rounds=1))
    ['batched', 'ratio', 'sequential']
    """
    require(rounds >= 1, f"rounds must be at least 1, but {rounds} came")
    dealt, seconds = _split(data, clients, "iid", 1.0), {}
    for engine in ("sequential", "batched"):
        fed = _federation(model, data, dealt, 0, fraction=fraction, engine=engine, evaluate_every=10**9)
        course = fed.start(by_name(algorithm), Local(epochs=local_epochs, batch_size=batch_size))
        course.advance()
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            course.advance()
            times.append(time.perf_counter() - started)
        seconds[engine] = min(times)
    return {**seconds, "ratio": seconds["sequential"] / seconds["batched"]}


VERBS = (run, compare, split, sweep, bench)
