"""The study of HAWQ-V3: exactness, allocation, and training with rounding in the loop, on real networks and data."""

import time
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jostle.core.errors import require
from jostle.core.training import Trainer, minibatches
from jostle.lab.claims import Claim
from jostle.lab.engines import Engine
from jostle.lab.runs import Run, Stage
from jostle.lab.study import Study
from jostle.lab.sweeps import call, sweep
from jostle.quantization import experiments, figures, published
from jostle.quantization.allocation import allocate, limit, random_plan
from jostle.quantization.claims import CLAIMS as ROWS
from jostle.quantization.convert import quantize, to_integer
from jostle.quantization.correction import correct_bias
from jostle.quantization.costs import CostTable, additivity, cost_table
from jostle.quantization.engines import deploy
from jostle.quantization.experiments import Task
from jostle.quantization.integer import to_pixels
from jostle.quantization.network import QuantConfig, Quantised
from jostle.quantization.sensitivities import Sensitivity, sensitivity
from jostle.quantization.verifying import verify_engine
from jostle.zoo import load_data, load_model

ALPHAS = (0.25, 0.5, 0.75)
METHODS = ("hessian", "fisher")


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `device`: where the small network is trained, cpu or cuda; EfficientNet-Lite0 stays on the CPU. `digits`:
    small labelled images by name or path, for training; a fifth is held out. `width`: channels of the first
    block of the small network. `epochs`: of training the small network in float32. `qat_epochs`: of training
    the small network with rounding. `low_bits`: of weights and activations in training with rounding, 2 to 8.

    `data`: images for EfficientNet-Lite0; the shipped photographs, or a folder or zip of ImageNet's classes.
    `images`: how many of `data` are used, spread evenly; 0 for all. `calibration`: how many images of `data`
    the ranges come from; the others are judged. `fisher_images`: how many of the calibration images Fisher
    sensitivities and corrected biases come from. `probes`: of the small network's Hessian, 2 or more; fewer
    are drawn where they suffice. `draws`: random allocations to compare with, at least 1. `repeats`: timed
    calls of each layer and part, at least 5. `counts`: torchvision's networks whose size and bit operations
    are counted. `jobs`: pieces of work on the small network at a time, through `engine`.
    """

    seed: int = 0
    device: str = "cpu"
    digits: str = "mnist5k"
    width: int = 16
    epochs: int = 4
    qat_epochs: int = 2
    low_bits: int = 3
    data: str = "photographs"
    images: int = 0
    calibration: int = 64
    fisher_images: int = 32
    probes: int = 64
    draws: int = 5
    repeats: int = 20
    counts: tuple[Literal["resnet18", "resnet50"], ...] = ("resnet18", "resnet50")
    jobs: int = 2
    engine: Engine = "loky"


QUICK = Config()
GPU = replace(
    QUICK,
    device="cuda",
    jobs=1,
    digits="cifar10-jpeg.zip::train",
    low_bits=4,
    width=64,
    epochs=60,
    qat_epochs=10,
    data="imagenet-1000-samples-256.zip",
    fisher_images=64,
    probes=256,
)
PAPER = replace(GPU, epochs=200, qat_epochs=90)


def run(config: Config, run: Run) -> dict[str, Any]:
    """The published problems, the counts, the trained network, and EfficientNet-Lite0."""
    require(
        config.repeats >= 5, f"repeats must be at least 5, but {config.repeats} came"
    )  # now, not after training
    problems = run.stage("published problems", lambda stage: _published())
    shared = {f.name: getattr(config, f.name) for f in fields(Task) if hasattr(config, f.name)}
    net = run.stage("training in float32", lambda stage: _train(config, Task(**shared), run, stage))
    found = _side_by_side(config, run, Task(**shared, **net))
    counts = {name: found[f"counts of {name}"] for name in config.counts}
    digits = _digits(found, Task(**shared).low)
    curvature = {method: found[method] for method in METHODS}
    lite = run.stage("EfficientNet-Lite0", lambda stage: _lite(config, run, stage))
    _figures(run, digits, curvature, lite)
    run.tensors("trained", digits["state"])
    return {
        "published": problems["rows"],
        "ilp_seconds": problems["seconds"],
        "counts": counts,
        "digits": {k: v for k, v in digits.items() if k != "state"},
        "curvature": {m: {"doubtful": t["doubtful"], "samples": t["samples"]} for m, t in curvature.items()},
        "lite": {k: v for k, v in lite.items() if k not in ("fisher", "plans", "points")},
    }


def _published() -> dict[str, Any]:
    rows, slowest = published.check(), 0.0
    for kind in published.KINDS:
        for alpha in published.ALPHAS:
            begun = time.perf_counter()
            published.RESNET50.solve(kind, alpha)
            slowest = max(slowest, time.perf_counter() - begun)
    return {"rows": rows, "seconds": slowest}


def _train(config: Config, task: Task, run: Run, stage: Stage) -> dict[str, Any]:
    x, y, *_, classes = task.images()
    model = replace(task, channels=x.shape[1], classes=classes).network().train()
    steps = config.epochs * -(-len(x) // 64)
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    trainer = Trainer(model, optimiser, lambda m, b: F.cross_entropy(m(b[0]), b[1]), schedule=schedule)
    kept = stage.load()
    if kept is not None:
        trainer.load_state_dict(kept)
    batches = minibatches(
        x, y, size=64, epochs=config.epochs, generator=run.generator("batches"), skip=trainer.step
    )
    with run.progress("training", steps) as advance:
        advance("", steps=trainer.step)

        def after(t: Trainer) -> None:
            advance(f"loss {t.last:.3f}")
            stage.save(t.state_dict)

        trainer.run(batches, after)
    model.eval()
    return {
        "state": {k: v.cpu() for k, v in model.state_dict().items()},
        "channels": x.shape[1],
        "classes": classes,
    }


def _side_by_side(config: Config, run: Run, task: Task) -> dict[str, Any]:
    """What is asked of the trained network, longest first, and the counts; a killed run keeps what is done."""
    low, rounding = task.low, run.seed("rounding")
    pieces: dict[str, tuple[Any, ...]] = {
        f"{low}, trained and distilled": (experiments.trained, task, True, rounding),
        f"{low}, trained": (experiments.trained, task, False, rounding),
        **{method: (experiments.curvature, task, method, run.seed(method)) for method in METHODS},
        "rounded": (experiments.rounded, task),
        **{f"counts of {name}": (experiments.counts, name) for name in config.counts},
    }
    found = sweep(
        run,
        "rounding, training and curvature",
        call,
        pieces,
        engine=config.engine,
        jobs=config.jobs,
        rows=lambda name, one: ({"training": name, **row} for row in one.get("rows", ())),
    )
    experiments.images.cache_clear()
    return found


def _digits(found: dict[str, Any], low: str) -> dict[str, Any]:
    """The float32 network, rounded to 8 and to few bits, and trained with rounding, with and without a teacher."""
    names = (f"{low}, trained", f"{low}, trained and distilled")
    judged = {**found["rounded"], **{name: found[name]["accuracy"] for name in names}}
    accuracy = {name: value for name, (value, _) in judged.items()}
    lost = accuracy["float32"] - accuracy[low]
    last = found[names[-1]]
    return {
        "accuracy": accuracy,
        "intervals": {name: interval for name, (_, interval) in judged.items()},
        "low": low,
        "recovered": (accuracy[f"{low}, trained"] - accuracy[low]) / lost if lost > 0 else 1.0,
        **{key: last[key] for key in ("forward_mismatches", "mismatches", "elements", "state")},
    }


def _lite(config: Config, run: Run, stage: Stage) -> dict[str, Any]:
    """EfficientNet-Lite0 with its real weights: exactness, agreement, allocations and times."""
    model = load_model("efficientnet-lite0")
    data = load_data(config.data, size=224)
    labelled = len(data.classes) == 1000
    if config.images:
        data = data.subset(torch.linspace(0, len(data) - 1, min(config.images, len(data))).long())
    # Ranges come from images that nobody is judged on.
    chosen = torch.linspace(0, len(data) - 1, config.calibration).long().tolist()
    calibration = data.subset(chosen).tensors()[0]
    images, labels = data.subset(sorted(set(range(len(data))) - set(chosen))).tensors()
    with torch.no_grad():
        answers = torch.cat([model(batch).argmax(1) for batch in images.split(20)])
    network = quantize(model, calibration, QuantConfig(calibration="mse"), images=config.calibration)
    integers = to_integer(network)
    checked = verify_engine(integers, deploy(integers), to_pixels(images[:2]))
    costs = cost_table(network, act_bits=8, measure=True, repeats=config.repeats)
    fisher = sensitivity(
        network, calibration[: config.fisher_images], bits=(4, 8), generator=run.generator("classes")
    )
    error = sensitivity(network, calibration[:1], method="error", bits=(4, 8))
    free = {costs.layers[0]: 8}  # the stem keeps 8 bits; the classifier is a candidate
    plans: dict[str, dict[str, int]] = {}
    points: dict[str, list[dict[str, float]]] = {
        name: [] for name in ("corrected", "fisher", "error", "reversed", "random")
    }
    quarter: dict[str, float] = {}

    def judge(bits: dict[str, int], *, correct: bool = False) -> float:
        network.set_bits({name: (b, 8) for name, b in bits.items()})
        for name in network.program.names:  # each is judged by itself
            network.layer(name).correction.zero_()
        if correct:
            correct_bias(network, calibration[: config.fisher_images])
        same, right = _judge(network, images, answers, labels)
        return right if labelled else same

    total = 4 * len(ALPHAS) + config.draws
    with run.progress("allocations", total) as advance:
        for alpha in ALPHAS:
            most = limit(costs, "size", alpha)
            for name, table in (("fisher", fisher), ("error", error), ("reversed", _reversed(fisher))):
                plan = allocate(table, costs, size_mb=most, fixed=free)
                value = judge(plan.bits)
                points[name].append({"accuracy": value, **plan.used})
                if name == "fisher":
                    plans[f"size, α = {alpha}"] = plan.bits
                if alpha == 0.25:
                    quarter[name] = value
                advance(f"{name} {value:.1f} %")
                if name == "fisher":
                    value = judge(plan.bits, correct=True)
                    points["corrected"].append({"accuracy": value, **plan.used})
                    if alpha == 0.25:
                        quarter["corrected"] = value
                    advance(f"biases corrected {value:.1f} %")
        for k in range(config.draws):
            bits = random_plan(
                costs, "size", limit(costs, "size", 0.25), np.random.default_rng(config.seed + k), free
            )
            value = judge(bits)
            points["random"].append({"accuracy": value, **_used(costs, bits)})
            advance(f"random {value:.1f} %")
    quarter["random"] = sum(row["accuracy"] for row in points["random"]) / config.draws
    network.set_bits(dict.fromkeys(network.weight_bits, (8, 8)))
    same, right = _judge(network, images, answers, labels)
    return {
        "labelled": labelled,
        "count": len(images),
        "float": 100 * float((answers == labels).double().mean()) if labelled else 100.0,
        "agreement": same,
        "accuracy": right if labelled else same,
        "mismatches": sum(checked.mismatches.values()) + checked.deployed,
        "elements": sum(checked.elements.values()),
        "at_quarter": quarter,
        "latency": additivity(network, costs, repeats=config.repeats),
        "fisher": experiments.table(fisher),
        "plans": plans,
        "points": points,
    }


def _judge(network: Quantised, images: Tensor, answers: Tensor, labels: Tensor) -> tuple[float, float]:
    """Percent of answers as in float32, and of right ones, by the deployed integers."""
    engine = deploy(to_integer(network))
    ours = torch.cat([engine.run(to_pixels(batch)).argmax(1) for batch in images.split(20)])
    return 100 * float((ours == answers).double().mean()), 100 * float((ours == labels).double().mean())


def _reversed(found: Sensitivity) -> Sensitivity:
    """The other way round: what suffers most from few bits counts least."""
    gain = np.maximum(found.omega[:, :1] - found.omega[:, 1:], 1e-300)
    worst = np.concatenate([gain.min() / gain, np.zeros_like(gain)], 1)
    return replace(found, omega=worst, omega_sem=np.zeros_like(worst))


def _used(costs: CostTable, bits: dict[str, int]) -> dict[str, float]:
    at = [costs.bits.index(bits[name]) for name in costs.layers]
    return {kind: float(table[np.arange(len(at)), at].sum()) for kind, table in costs.tables().items()}


def _figures(run: Run, digits: dict[str, Any], curvature: dict[str, Any], lite: dict[str, Any]) -> None:
    what = "top-1 on ImageNet images" if lite["labelled"] else "answers as in float32 on held-out photographs"
    run.figure(
        "pareto",
        figures.pareto(lite["points"], lite["float"]),
        f"EfficientNet-Lite0, weights of 4 or 8 bits: {what}, {lite['count']} images, for allocations by the integer "
        "program at three limits of size. Latency is what this engine takes: it has no faster 4-bit products.",
    )
    run.figure(
        "bits",
        figures.bits(lite["plans"]),
        "The bits that the integer program gives each layer of EfficientNet-Lite0 by its Fisher sensitivity.",
    )
    run.figure(
        "fisher",
        figures.sensitivities({"fisher": lite["fisher"]}),
        f"Fisher sensitivity of EfficientNet-Lite0's layers to 4 bits, {lite['fisher']['samples']} images; bars are "
        "one standard error.",
    )
    run.figure(
        "curvature",
        figures.sensitivities(curvature),
        "Hessian and Fisher sensitivity of the trained network's layers, with one standard error "
        f"({curvature['hessian']['samples']} probes, {curvature['fisher']['samples']} images).",
    )
    run.figure(
        "training",
        figures.training(digits["accuracy"], digits["intervals"]),
        "Accuracy on held-out images: in float32, rounded, and trained with rounding in the loop.",
    )
    run.figure(
        "latency",
        figures.latency(lite["latency"], "onnxruntime"),
        "Times of growing parts of EfficientNet-Lite0 against the sums of their layers' own times.",
    )


CLAIMS: tuple[Claim, ...] = ROWS
STUDY = Study("quantization", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
