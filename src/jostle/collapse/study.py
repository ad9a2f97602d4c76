"""The study of "Perturbation Analysis of Neural Collapse": the theorems exactly, the experiments at scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from jostle.collapse import figures
from jostle.collapse.checks import (
    REAL_SIZES,
    SIZES,
    nc1,
    response_at_collapse,
    response_on_features,
    theorems,
)
from jostle.collapse.claims import CLAIMS
from jostle.collapse.decay import VARIANTS
from jostle.collapse.experiments import Task, train_task
from jostle.collapse.report import NCReport
from jostle.collapse.tied import TiedModel
from jostle.core.errors import require
from jostle.lab.engines import Engine
from jostle.lab.runs import Run
from jostle.lab.study import Study
from jostle.lab.sweeps import sweep


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `data`: labelled images by name or path. `count`: how many images of `data` are used, spread evenly, 0 for
    all. `jobs`: trainings at a time, through `engine`. `greedy_seeds`: networks that are trained layer by
    layer. `depth`: layers of a network that is trained layer by layer. `width`: units of each layer, in
    networks trained layer by layer and in the `mlp`. `greedy_epochs`: epochs that each layer is trained by
    itself, at least 3. `network`: of the decay study: `mlp` (three hidden layers) or `resnet18`. `losses`: of
    the decay study: `mse`, and with `resnet18` also `ce`; figures show the first. `decay_seeds`: networks of
    each variant of the decay. `decay_epochs`: epochs of each training in the decay study, at least 3.
    `every`: epochs between measurements of collapse in trainings with unchanged decay. `starts`: random
    starts that the theorems are checked from. `bank`: samples a class of the real feature bank, at most as
    many as the rarest class has.
    """

    seed: int = 0
    data: str = "mnist5k"
    count: int = 0
    device: str = "cpu"
    jobs: int = 2
    engine: Engine = "loky"
    greedy_seeds: int = 3
    depth: int = 6
    width: int = 256
    greedy_epochs: int = 15
    network: str = "mlp"
    losses: tuple[str, ...] = ("mse",)
    decay_seeds: int = 2
    decay_epochs: int = 45
    every: int = 5
    starts: int = 10
    bank: int = 60


QUICK = Config()
GPU = replace(
    QUICK,
    data="cifar10-jpeg.zip::train",
    device="cuda",
    jobs=1,
    greedy_seeds=1,
    depth=10,
    width=512,
    greedy_epochs=100,
    network="resnet18",
    losses=("mse", "ce"),
    decay_seeds=1,
    decay_epochs=120,
    every=10,
)
PAPER = replace(GPU, greedy_seeds=3, decay_seeds=3, decay_epochs=350)


def run(config: Config, run: Run) -> dict[str, Any]:
    """The theorems on random features, the trainings, and the response on the trained network's features."""
    for name in ("greedy_epochs", "decay_epochs"):
        epochs = getattr(config, name)
        require(epochs >= 3, f"{name} must be at least 3, but {epochs} came")  # now, not after the theorems
    theory = run.stage("theorems", lambda stage: theorems(config.starts, run.generator("theorems")))
    answer = run.stage("response at collapse", lambda stage: response_at_collapse(run.generator("response")))
    trained = _trainings(config, run)
    real = run.stage("response on real features", lambda stage: _real(config, run, trained))
    _figures(config, run, answer, trained, real)
    return {
        "theory": theory,
        "response": {key: answer[key] for key in ("slope", "slope_classifier", "dense_gap", "stair_gap")},
        "greedy": {name: _greedy_curves(config, trained, name) for name in ("nc1_trace", "nc1", "nc2")},
        "layers": {name: _numbers(row) for name, row in _baseline(config, trained)["layers"].items()},
        "accuracy": {key: found["accuracy"] for key, found in trained.items() if key.startswith("decay")},
        "decay": {loss: _decay_rows(config, trained, loss) for loss in config.losses},
        "real": {key: real[key] for key in ("slope", "share", "error_at_one_percent", "nc1_trace")},
    }


def _trainings(config: Config, run: Run) -> dict[str, Any]:
    """The networks of both experiments, side by side; a killed run keeps those that are done."""
    tasks = {
        f"decay/{loss}/{variant}/{seed}": _task(
            config, run, "decay", f"decay/{seed}", variant=variant, loss=loss
        )
        for loss in config.losses
        for variant in VARIANTS
        for seed in range(config.decay_seeds)
    }
    for seed in range(config.greedy_seeds):
        tasks[f"greedy/{seed}"] = _task(config, run, "greedy", f"greedy/{seed}")
    return sweep(
        run,
        "trainings",
        train_task,
        tasks,
        engine=config.engine,
        jobs=config.jobs,
        rows=lambda name, found: ({"training": name, **row} for row in found["rows"]),
    )


def _task(config: Config, run: Run, kind: str, stream: str, variant: str = "", loss: str = "mse") -> Task:
    seed = int(torch.randint(2**31, (), generator=run.generator(stream)))
    greedy = kind == "greedy"
    return Task(
        kind=kind,
        seed=seed,
        data=config.data,
        count=config.count,
        device=config.device,
        width=config.width,
        depth=config.depth,
        network=config.network,
        variant=variant,
        loss=loss,
        epochs=config.greedy_epochs if greedy else config.decay_epochs,
        every=config.every if variant == "baseline" else 0,
        bank=config.bank if variant == "baseline" else 0,
    )


def _real(config: Config, run: Run, trained: Mapping[str, Any]) -> dict[str, Any]:
    features = _baseline(config, trained)["bank"]
    labels = torch.arange(len(features)).div(config.bank, rounding_mode="floor")
    return response_on_features(features, labels, run.generator("real nudges"))


def _figures(
    config: Config, run: Run, answer: Mapping[str, Any], trained: Mapping[str, Any], real: Mapping[str, Any]
) -> None:
    base = _baseline(config, trained)
    layers = {name: _report(row) for name, row in base["layers"].items()}
    run.figure(
        "geometry",
        figures.geometry(layers["features"]),
        "Centred class means of the trained network's last features beside the ideal simplex, and "
        "how far each pair "
        "of them is from its angle.",
    )
    run.figure(
        "layers",
        figures.by_layer(layers),
        f"Collapse through the layers of a network trained end to end on {config.data}; the last is "
        "the head's input.",
    )
    epochs = [row["call"] for row in base["rows"]]
    curves = {name: [[row["features"][name] for row in base["rows"]]] for name in ("nc1_trace", "nc1", "nc2")}
    run.figure(
        "epochs", figures.courses(epochs, curves, "epoch"), "Collapse of the last features during training."
    )
    curves = {name: _greedy_curves(config, trained, name) for name in ("nc1_trace", "nc1", "nc2")}
    run.figure(
        "greedy",
        figures.courses(range(config.depth + 1), curves, "layer (0: input)"),
        "Layer-wise training: NC1 falls with every layer that is added on frozen ones; NC2 need not.",
    )
    shifts = {
        metric: {
            variant: [
                found[variant][seed][metric] - found["baseline"][seed][metric]
                for seed in range(config.decay_seeds)
            ]
            for variant in VARIANTS
            if variant != "baseline"
        }
        for metric in ("nc1_trace", "nc1", "nc2")
        if (found := _decay_rows(config, trained, config.losses[0]))
    }
    run.figure(
        "decay",
        figures.decay_bars(shifts),
        "Change of collapse when the weight decay of the last layer or of the features is doubled or "
        "removed.",
    )
    model = TiedModel(K=4, n=10, d=8, lam_w=0.1, lam_h=0.1, beta=1.0)
    H0 = torch.randn(8, 40, generator=run.generator("flow figure"), dtype=torch.float64)
    inverse = np.linspace(0.1, 3, 12).tolist()
    path = [nc1(model, replace(model, beta=1 / t).minimise(H0).H) for t in inverse]
    run.figure(
        "flow",
        figures.flowing(model.flow(H0, torch.linspace(0, 3, 60)), 0.1, (inverse, path)),
        "Along the gradient flow the scatter within classes falls and that between them grows, decay "
        "taken out "
        "(Theorem 3.1); the minimiser with tie beta follows the flow at time 1/beta.",
    )
    run.figure(
        "stairs",
        figures.stairs(answer["stairs"], 100.0),
        "Eigenvalues of the response's diagonal block at collapse, K = 4, d = 10, n = 10, lam_W = "
        "sqrt 2: lines are "
        "our formula for every beta, circles a dense solve (the paper's figure 1).",
    )
    lines = {"features": answer["errors"], "classifier": answer["classifier"]}
    run.figure(
        "slopes",
        figures.slopes(
            {"at exact collapse": (SIZES, lines), "on real features": (REAL_SIZES, real["errors"])}
        ),
        "The error of the predicted response falls with the square of the nudge: at exact collapse "
        "by the closed "
        "form, on the trained network's features by conjugate gradients.",
    )
    run.figure(
        "survival",
        figures.survival(real["parts"]),
        "What a nudge of the trained network's features is made of, and what of it survives the tied layer.",
    )


def _baseline(config: Config, trained: Mapping[str, Any]) -> Any:
    return trained[f"decay/{config.losses[0]}/baseline/0"]


def _greedy_curves(config: Config, trained: Mapping[str, Any], name: str) -> list[list[float]]:
    return [[row[name] for row in trained[f"greedy/{seed}"]["rows"]] for seed in range(config.greedy_seeds)]


def _decay_rows(config: Config, trained: Mapping[str, Any], loss: str) -> dict[str, list[dict[str, float]]]:
    return {
        variant: [
            _numbers(trained[f"decay/{loss}/{variant}/{seed}"]["layers"]["features"])
            for seed in range(config.decay_seeds)
        ]
        for variant in VARIANTS
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: row[key] for key in ("nc1", "nc1_trace", "nc2", "nc3", "nc4", "cdnv")}


def _report(row: Mapping[str, Any]) -> NCReport:
    values = {
        key: torch.tensor(value) if isinstance(value, list) and key != "notes" else value
        for key, value in row.items()
    }
    return NCReport(**{**values, "notes": tuple(row["notes"])})


STUDY = Study("collapse", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS, data_parallel=True)
