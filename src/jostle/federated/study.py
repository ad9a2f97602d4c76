"""The study of "FedSpeed: Larger Local Interval, Less Communication Round, and Higher Generalization Accuracy"."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from jostle.core.errors import require
from jostle.federated import exact, figures
from jostle.federated.claims import CLAIMS
from jostle.federated.engines import Engine as Simulation
from jostle.federated.experiments import RADII, Task, dealt, train_task
from jostle.federated.networks import Network
from jostle.federated.partition import Scheme
from jostle.federated.sampling import Sampling
from jostle.lab.engines import Engine
from jostle.lab.runs import Run
from jostle.lab.study import Study
from jostle.lab.sweeps import sweep


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `seed`: of the first training of each algorithm; the data are dealt alike for every seed. `seeds`:
    trainings of each algorithm, with seeds counted from `seed`. `algorithms`: which to compare, of fedavg,
    fedprox, fedsam, scaffold, feddyn, fedspeed, fedcm, mofedsam, fedgamma, fedadam, fedsmoo and fedadmm.
    `data`: labelled images by name or path, for training. `test_data`: labelled images by name or path, for
    testing; if empty, a fifth of `data` is kept for it. `count`: how many images of `data` are used, drawn at
    random, 0 for all. `size`: side in pixels that images are brought to, 0 for their own. `network`: a small
    MLP (`mlp`), two convolutions (`cnn`) or `resnet18`, with group normalisation.

    `clients`: how many hold the data, at least 1. `scheme`: how images are dealt: `dirichlet` gives equal
    sizes and uneven classes, `official` lets images repeat, as FedSpeed's program does, `ragged` makes sizes
    uneven too, `pathological` gives three classes each, `iid` shuffles. `concentration`: of the Dirichlet
    shares (`dirichlet`, `official`, `ragged`), above 0; small is uneven. `fraction`: share of the clients
    that take part in a round, in (0, 1]. `sampling`: who takes part in a round: `fixed` draws the same number
    every time, `bernoulli` each client by itself. `rounds`: of each training, at least 1. `epochs`: passes of
    a client over its data in a round, at least 1. `batch`: samples a local step, at least 1. `lr`: learning
    rate of the local steps in the first round, above 0. `lr_decay`: factor on the learning rate from round to
    round, in (0, 1]. `weight_decay`: of the local steps, at least 0. `prox_mu`: strength of the pull to the
    server's model, above 0; of fedprox, feddyn, fedspeed, fedsmoo and fedadmm. `rho`: radius of the ascent,
    at least 0; of fedsam, fedspeed, mofedsam, fedgamma and fedsmoo. `target`: test accuracy, in [0, 1], whose
    first round is looked for.

    `intervals`: numbers of local epochs at which fedavg and fedspeed are trained beside `epochs`; none for no
    sweep. `interval_seeds`: trainings at each of the `intervals`, at most `seeds`. `printed`: also train
    fedspeed with corrections averaged over active clients alone, as the paper prints it. `limit_rounds`:
    rounds of the exact runs on quadratics, at least 1. `curvature`: training samples over which the ends are
    judged for flatness, 0 for none. `simulation`: how a round is computed: clients one after another
    (`sequential`), in one pass (`batched`), or as is faster (`auto`). `augment`: mirror training images and
    shift them by up to 4 pixels, at random. `evaluate_every`: rounds between tests, at least 1. `jobs`:
    trainings at a time, through `engine`.
    """

    seed: int = 20
    seeds: int = 3
    algorithms: tuple[str, ...] = ("fedavg", "fedsam", "scaffold", "feddyn", "fedspeed")
    data: str = "mnist5k"
    test_data: str = ""
    count: int = 0
    size: int = 0
    network: Network = "mlp"
    clients: int = 50
    scheme: Scheme = "dirichlet"
    concentration: float = 0.1
    fraction: float = 0.1
    sampling: Sampling = "bernoulli"
    rounds: int = 60
    epochs: int = 5
    batch: int = 20
    lr: float = 0.1
    lr_decay: float = 0.998
    weight_decay: float = 1e-3
    prox_mu: float = 0.1
    rho: float = 0.1
    target: float = 0.88
    intervals: tuple[int, ...] = (1, 10)
    interval_seeds: int = 1
    printed: bool = True
    limit_rounds: int = 400
    curvature: int = 800
    simulation: Simulation = "batched"
    device: str = "cpu"
    augment: bool = False
    evaluate_every: int = 1
    jobs: int = 2
    engine: Engine = "loky"


QUICK = Config()
GPU = replace(
    QUICK,
    seeds=1,
    data="cifar10-jpeg.zip::train",
    test_data="cifar10-jpeg.zip::test",
    network="resnet18",
    clients=100,
    concentration=0.3,
    sampling="fixed",
    rounds=200,
    batch=50,
    target=0.6,
    intervals=(),
    device="cuda",
    augment=True,
    evaluate_every=5,
    jobs=1,
)
PAPER = replace(
    GPU,
    sampling="bernoulli",
    rounds=1000,
    target=0.75,
    evaluate_every=1,
    intervals=(1, 2, 10, 20),
    algorithms=(
        *QUICK.algorithms,
        "fedprox",
        "fedadam",
        "fedcm",
        "mofedsam",
        "fedgamma",
        "fedsmoo",
    ),
)


def run(config: Config, run: Run) -> dict[str, Any]:
    """The exact checks, the trainings, and what they add up to."""
    require(
        config.interval_seeds <= config.seeds,
        f"interval_seeds must be at most seeds, {config.seeds}, but {config.interval_seeds} came",
    )
    with _on_purpose():
        limits = run.stage("limits", lambda stage: exact.quadratics(config.limit_rounds))
    engines = run.stage("engines", lambda stage: exact.engines())
    found = _trainings(config, run)
    table = run.stage("partition", lambda stage: dealt(_task(config, run, "fedavg", 0)).table)
    ends = {name: [found[f"{name}/{i}"] for i in range(config.seeds)] for name in config.algorithms}
    curves = {name: [end["rows"] for end in held] for name, held in ends.items()}
    if config.printed:
        curves["printed"] = [found["printed/0"]["rows"]]
    metrics: dict[str, Any] = {
        "target": config.target,
        "limits": {k: v for k, v in limits.items() if k != "curves"}
        | {name: values[-1] for name, values in limits["curves"].items()},
        "printed_band": max(limits["curves"]["over active clients only, as printed"][-50:]),
        "engines": engines,
        **{name: summary(rows, config.target) for name, rows in curves.items()},
        "interval": _intervals(config, found),
        "sharpness": {name: [end["sharpness"] for end in held] for name, held in ends.items()}
        if config.curvature
        else {},
    }
    _figures(config, run, curves, limits["curves"], table, metrics)
    if config.curvature:
        along = {name: [end["along"] for end in held] for name, held in ends.items()}
        run.figure(
            "flatness",
            figures.flatness(metrics["sharpness"], along, RADII),
            "How sharp the training loss is where each training ended, a dot a seed; and the loss along its sharpest "
            "direction.",
        )
    return metrics


def summary(seeds: Sequence[Sequence[Mapping[str, Any]]], target: float) -> dict[str, Any]:
    """What the claims look at, one number a seed: last-ten mean, best, at round 20, and the first at the target."""
    out: dict[str, list[Any]] = {
        k: [] for k in ("last_ten", "best", "at_20", "rounds", "gradients", "bytes", "total_gradients")
    }
    for rows in seeds:
        judged = [row for row in rows if row.get("accuracy") is not None]
        scores = [row["accuracy"] for row in judged]
        first = next((row for row in judged if row["accuracy"] >= target), None)
        at_20 = next((row["accuracy"] for row in judged if row["round"] >= 19), scores[-1])
        out["last_ten"].append(sum(scores[-10:]) / len(scores[-10:]))
        out["best"].append(max(scores))
        out["at_20"].append(at_20)
        out["rounds"].append(None if first is None else first["round"] + 1)
        out["gradients"].append(None if first is None else first["total_gradients"])
        out["bytes"].append(None if first is None else first["total_bytes"])
        out["total_gradients"].append(rows[-1]["total_gradients"])
    return out


def _trainings(config: Config, run: Run) -> dict[str, Any]:
    """All trainings, side by side; a killed run keeps those that are done and the rounds of those that are not."""
    tasks = {
        f"{name}/{i}": _task(config, run, name, i, f"{name}-{i}")
        for name in config.algorithms
        for i in range(config.seeds)
    }
    if config.printed:
        settings = {"prox_mu": config.prox_mu, "rho": config.rho, "aggregation": "active"}
        tasks["printed/0"] = replace(
            _task(config, run, "fedspeed", 0, "printed-0"), settings=settings, curvature=0
        )
    for epochs in config.intervals:
        for name in _swept(config):
            for i in range(config.interval_seeds):
                tasks[f"{name}/{i}/{epochs}"] = replace(
                    _task(config, run, name, i, f"{name}-{i}-{epochs}"), epochs=epochs, curvature=0
                )
    return sweep(
        run,
        "trainings",
        _quietly,
        tasks,
        engine=config.engine,
        jobs=config.jobs,
        rows=lambda name, made: ({"training": name, **row} for row in made["rows"]),
    )


def _swept(config: Config) -> list[str]:
    """The algorithms whose local epochs are swept."""
    return [name for name in ("fedavg", "fedspeed") if config.intervals and name in config.algorithms]


def _quietly(task: Task) -> dict[str, Any]:
    with _on_purpose():
        return train_task(task)


@contextmanager
def _on_purpose() -> Iterator[None]:
    """Without the warnings about the printed aggregation and its long corrections, which the study shows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "aggregation='active' does not converge")
        warnings.filterwarnings("ignore", "the mean correction is longer than the model")
        yield


def _task(config: Config, run: Run, algorithm: str, i: int, checkpoint: str = "") -> Task:
    kept = run.folder / "checkpoints" / f"training-{checkpoint}.safetensors"
    shared = {f.name: getattr(config, f.name) for f in fields(Task) if hasattr(config, f.name)}
    own = {
        "algorithm": algorithm,
        "seed": config.seed + i,
        "settings": {"prox_mu": config.prox_mu, "rho": config.rho},
        "checkpoint": str(kept) if checkpoint else "",
    }
    return Task(**{**shared, **own})


def _intervals(config: Config, found: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Last-ten mean by local epochs, one a seed."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in _swept(config):
        names = {epochs: f"{{}}/{{}}/{epochs}" for epochs in config.intervals} | {config.epochs: "{}/{}"}
        by_epochs = {
            epochs: [found[called.format(name, i)]["rows"] for i in range(config.interval_seeds)]
            for epochs, called in names.items()
        }
        out[name] = {str(e): summary(by_epochs[e], config.target)["last_ten"] for e in sorted(by_epochs)}
    return out


def _figures(
    config: Config,
    run: Run,
    curves: Mapping[str, Any],
    limits: Mapping[str, Sequence[float]],
    table: Sequence[Sequence[int]],
    metrics: Mapping[str, Any],
) -> None:
    band = "; bands span the seeds" if config.seeds > 1 else ""
    run.figure("accuracy", figures.accuracy(curves, config.target), f"Test accuracy by round{band}.")
    run.figure(
        "cost",
        figures.costs({k: v for k, v in curves.items() if k != "printed"}, config.target),
        "The same by what it costs: FedSpeed takes two gradients a step, SCAFFOLD sends two vectors down.",
    )
    run.figure(
        "target",
        figures.targets({name: metrics[name] for name in config.algorithms}, config.target),
        f"Rounds and gradients until {config.target:.0%} is first reached; a dot a seed.",
    )
    run.figure(
        "drift", figures.drift(curves), "How far clients move apart in a round, and their corrections."
    )
    if metrics["interval"]:
        run.figure(
            "interval",
            figures.interval(metrics["interval"]),
            "Mean accuracy of the last ten judged rounds by local epochs, at equal rounds.",
        )
    run.figure(
        "limits",
        figures.limits(limits),
        "Distance from the minimiser on five quadratics, two of five clients a round.",
    )
    run.figure("partition", figures.bubbles(table), "Who holds what: samples by client and class.")


STUDY = Study("federated", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
