"""The study of "Perturbation Analysis of Neural Collapse": the theorems exactly, the experiments at scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.collapse import figures
from jostle.collapse.decay import VARIANTS
from jostle.collapse.experiments import Task, train_task
from jostle.collapse.geometry import bank, decompose
from jostle.collapse.metrics import metrics
from jostle.collapse.objective import Collapsed
from jostle.collapse.report import NCReport
from jostle.collapse.schur import Schur
from jostle.collapse.tied import TiedModel
from jostle.lab.claims import Claim
from jostle.lab.engines import Engine, parallel
from jostle.lab.runs import Run, Stage
from jostle.lab.study import Study


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `data`: labelled images by name or path; `count`: how many of them, 0 for all. `network`: of the decay
    study, `mlp` or `resnet18`. `losses`: of the decay study. `jobs`: trainings at a time, through `engine`.
    `starts`: random starts of the theorems. `bank`: samples a class of the real feature bank.
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
    greedy_epochs: int = 30
    network: str = "mlp"
    losses: tuple[str, ...] = ("mse",)
    decay_seeds: int = 1
    decay_epochs: int = 60
    every: int = 5
    starts: int = 10
    bank: int = 100


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
    decay_epochs=120,
    every=10,
)
PAPER = replace(GPU, greedy_seeds=3, decay_seeds=3, decay_epochs=350)
SIZES = tuple(float(t) for t in np.logspace(-1, -3, 9))


def run(config: Config, run: Run) -> dict[str, Any]:
    """The theorems on random features, the trainings, and the response on the trained network's features."""
    theory = run.stage("theorems", lambda stage: _theorems(config, run))
    answer = run.stage("response at collapse", lambda stage: _response(run))
    trained = run.stage("trainings", lambda stage: _trainings(config, run, stage))
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


def _theorems(config: Config, run: Run) -> dict[str, Any]:
    """Theorem 3.1 and its corollary, from random features of several shapes."""
    draw = run.generator("theorems")
    shapes = [(3, 6, 5), (4, 5, 8), (3, 10, 3), (5, 4, 30), (10, 3, 12)]
    falls = shrinks = spreads = lower = 0
    for i in range(config.starts):
        model = TiedModel(*shapes[i % len(shapes)], lam_w=0.1, lam_h=0.1 * (i % 3), beta=100.0)
        H0 = torch.randn(model.d, model.N, generator=draw, dtype=torch.float64)
        found = model.flow(H0, torch.linspace(0, 4, 40))
        falls, shrinks, spreads = falls + found.falls, shrinks + found.shrinks, spreads + found.spreads
        lower += _nc1(model, model.minimise(H0).H) < _nc1(model, H0)
    return {"starts": config.starts, "falls": falls, "shrinks": shrinks, "spreads": spreads, "lower": lower}


def _response(run: Run) -> dict[str, Any]:
    """Theorems 4.1 and 4.2: the prediction against the minimiser, the closed form and the stairs against dense."""
    model = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)
    at = model.collapsed(run.generator("frame"))
    nudge = torch.randn(5, 12, generator=run.generator("nudge"), dtype=torch.float64)
    nudge *= at.H.norm() / nudge.norm()
    errors, classifier = [], []
    for t in SIZES:
        found = model.minimise(at.H + t * nudge, tolerance=1e-14)
        answer = model.response(t * nudge, at)
        errors.append(float((found.H - at.H - answer.dH).norm() / at.H.norm()))
        classifier.append(float((found.W - at.W - answer.dW).norm() / at.W.norm()))
    gaps = []
    for beta in (0.5, 2.0, 20.0, 100.0):
        closed, dense = (replace(model, beta=beta).response(nudge, at, m) for m in ("closed", "dense"))
        gaps.append(float(max((closed.dH - dense.dH).abs().max(), (closed.dW - dense.dW).abs().max())))
    stairs, stair_gap = {}, 0.0
    for lam_h in (0.05, 0.1, 0.2, 0.4):
        wide = TiedModel(K=4, n=10, d=10, lam_w=2**0.5, lam_h=lam_h, beta=100.0)
        # The paper's own spectrum is that of the expansion in 1/beta: for it the operator is the expansion, too.
        for exact in (False, True):
            F = _own_block(wide, wide.collapsed(run.generator("stairs")), exact)
            numeric = sorted(np.linalg.eigvalsh(F).tolist(), reverse=True)
            formula = [lv.value for lv in wide.spectrum("kk", exact=exact) for _ in range(lv.multiplicity)]
            stair_gap = max(stair_gap, float(np.abs(np.array(numeric) - formula).max()))
        stairs[lam_h] = (numeric, formula)
    return {
        "slope": _slope(SIZES, errors),
        "slope_classifier": _slope(SIZES, classifier),
        "errors": errors,
        "classifier": classifier,
        "dense_gap": max(gaps),
        "stair_gap": stair_gap,
        "stairs": stairs,
    }


def _own_block(model: TiedModel, at: Collapsed, exact: bool) -> np.ndarray:
    """How the first class's features answer a nudge of their own, as a matrix; the theorem's, block by block."""
    size = model.d * model.n
    S = Schur(model, at.W, at.H).dense().numpy()
    F = model.beta * np.linalg.inv(S) if exact else 2 * np.eye(len(S)) - S / model.beta
    return F[:size, :size]


def _trainings(config: Config, run: Run, stage: Stage) -> dict[str, Any]:
    """The decay study's networks and the greedy ones, side by side; a killed run keeps those that are done."""
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
    done: dict[str, Any] = stage.load() or {}
    left = [name for name in tasks if name not in done]
    with run.progress("trainings", len(tasks)) as advance:
        advance("", steps=len(done))
        for i, found in parallel(
            train_task, [tasks[n] for n in left], engine=config.engine, jobs=config.jobs
        ):
            done[left[i]] = found
            stage.save(done)
            advance(left[i])
    ordered = {name: done[name] for name in tasks}
    for name, found in ordered.items():
        for row in found["rows"]:
            run.log(training=name, **row)
    return ordered


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
    """Nudge the trained network's own features, three ways, and compare the answer with the prediction.

    The features are scaled so that their class means have the size of the tied model's, as its penalties are
    in units of the features.
    """
    found = _baseline(config, trained)
    labels = torch.arange(found["bank"].shape[0]).div(config.bank, rounding_mode="floor")
    K = int(labels.max()) + 1
    H0 = bank(found["bank"].double(), labels)
    model = TiedModel(K=K, n=config.bank, d=len(H0), lam_w=0.005, lam_h=0.005, beta=1.0)
    H0 = H0 * (model.rho * (K - 1) / K / metrics(H0.T, labels).between) ** 0.5
    at = model.minimise(H0, tolerance=1e-13)
    draw = run.generator("real nudges")
    scale = float(H0.abs().max()) / 7  # a 4-bit grid
    nudges = {
        "noise": torch.randn(H0.shape, generator=draw, dtype=torch.float64),
        "4-bit rounding": (H0 / scale).round() * scale - H0,
        "means only": torch.randn(model.d, K, generator=draw, dtype=torch.float64).repeat_interleave(
            model.n, 1
        ),
    }
    errors, parts, share, tiny = {}, {}, {}, {}
    frame, _ = torch.linalg.qr(H0.reshape(model.d, K, -1).mean(2))
    for name, nudge in nudges.items():
        nudge = nudge * (H0.norm() / nudge.norm())
        answer = model.response(nudge, at)
        row = []
        for t in SIZES:
            moved = model.minimise(H0 + t * nudge, start=at.H, tolerance=1e-13).H - at.H
            row.append(float((moved - t * answer.dH).norm() / at.H.norm()))
            if abs(t - 0.01) < 1e-6:
                tiny[name] = row[-1] * float(at.H.norm() / moved.norm())
        errors[name] = row
        share[name] = float((answer.dH.norm() / nudge.norm()) ** 2)
        parts[name] = {
            "before": dict(vars(decompose(nudge, frame))),
            "after": dict(vars(decompose(answer.dH, frame))),
        }
    return {
        "errors": errors,
        "slope": {name: _slope(SIZES, row) for name, row in errors.items()},
        "share": share,
        "error_at_one_percent": tiny,
        "parts": parts,
        "nc1_trace": [_nc1(model, H0), _nc1(model, at.H)],
    }


def _figures(
    config: Config, run: Run, answer: Mapping[str, Any], trained: Mapping[str, Any], real: Mapping[str, Any]
) -> None:
    base = _baseline(config, trained)
    layers = {name: _report(row) for name, row in base["layers"].items()}
    run.figure(
        "geometry",
        figures.geometry(layers["features"]),
        "Centred class means of the trained network's last features beside the ideal simplex, and how far each pair "
        "of them is from its angle.",
    )
    run.figure(
        "layers",
        figures.by_layer(layers),
        f"Collapse through the layers of a network trained end to end on {config.data}; the last is the head's input.",
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
        "Change of collapse when the weight decay of the last layer or of the features is doubled or removed.",
    )
    model = TiedModel(K=4, n=10, d=8, lam_w=0.1, lam_h=0.1, beta=1.0)
    H0 = torch.randn(8, 40, generator=run.generator("flow figure"), dtype=torch.float64)
    inverse = np.linspace(0.1, 3, 12)
    path = [_nc1(model, replace(model, beta=1 / t).minimise(H0).H) for t in inverse]
    run.figure(
        "flow",
        figures.flowing(model.flow(H0, torch.linspace(0, 3, 60)), 0.1, (inverse.tolist(), path)),
        "Along the gradient flow the scatter within classes falls and that between them grows, decay taken out "
        "(Theorem 3.1); the minimiser with tie beta follows the flow at time 1/beta.",
    )
    run.figure(
        "stairs",
        figures.stairs(answer["stairs"], 100.0),
        "Eigenvalues of the response's diagonal block at collapse, K = 4, d = 10, n = 10, lam_W = sqrt 2: lines are "
        "our formula for every beta, circles a dense solve (the paper's figure 1).",
    )
    lines = {"features": answer["errors"], "classifier": answer["classifier"]}
    run.figure(
        "slopes",
        figures.slopes(SIZES, {"at exact collapse": lines, "on real features": real["errors"]}),
        "The error of the predicted response falls with the square of the nudge: at exact collapse by the closed "
        "form, on the trained network's features by conjugate gradients.",
    )
    run.figure(
        "survival",
        figures.survival(real["parts"]),
        "What a nudge of the trained network's features is made of, and what of it survives the tied layer.",
    )


def _nc1(model: TiedModel, H: Tensor) -> float:
    return metrics(H.T, torch.arange(model.K).repeat_interleave(model.n)).nc1_trace


def _slope(sizes: Any, errors: Any) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


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


def _falls(curves: list[list[float]], layers: int) -> int:
    """In how many seeds a metric strictly falls from layer to layer, up to `layers`."""
    return sum(all(b < a for a, b in zip(c[1:], c[2 : layers + 1], strict=False)) for c in curves)


def _ratio(rows: Mapping[str, list[dict[str, float]]], metric: str) -> float:
    """The smaller effect of a feature-layer change over the larger effect of a last-layer change; worst seed."""

    def shift(variant: str, seed: int) -> float:
        return abs(rows[variant][seed][metric] - rows["baseline"][seed][metric])

    return min(
        min(shift("features x2", i), shift("features x0", i)) / max(shift("last x2", i), shift("last x0", i))
        for i in range(len(rows["baseline"]))
    )


def _ordered(rows: Mapping[str, list[dict[str, float]]], metric: str) -> bool:
    """Whether doubling the features' decay collapses more, and removing it less, in every seed."""
    trio = zip(rows["features x2"], rows["baseline"], rows["features x0"], strict=True)
    return all(more[metric] < base[metric] < less[metric] for more, base, less in trio)


def _first(m: Mapping[str, Any]) -> Any:
    return next(iter(m["decay"].values()))


CLAIMS = [
    Claim(
        "COL-C1",
        "Along the gradient flow of the features NC1 (trace form) strictly falls, the scatter within classes falls "
        "and that between them rises, decay taken out, at 40 times from random starts.",
        "for all starts (Theorem 3.1)",
        "quick",
        lambda m: "{falls}, {shrinks}, {spreads} of {starts} starts".format(**m["theory"]),
        lambda m: (
            m["theory"]["falls"] == m["theory"]["shrinks"] == m["theory"]["spreads"] == m["theory"]["starts"]
        ),
    ),
    Claim(
        "COL-C2",
        "Tied strongly to given features (beta = 100), the optimal features have a smaller NC1 than these.",
        "for all beta above some C (Corollary 3.2)",
        "quick",
        lambda m: "{lower} of {starts} starts".format(**m["theory"]),
        lambda m: m["theory"]["lower"] == m["theory"]["starts"],
    ),
    Claim(
        "COL-C3",
        "The predicted response of features and classifier is right to second order in the nudge.",
        "error of second order (Theorem 4.1)",
        "quick",
        lambda m: f"slopes {m['response']['slope']:.3f} and {m['response']['slope_classifier']:.3f}",
        lambda m: max(abs(m["response"][k] - 2) for k in ("slope", "slope_classifier")) <= 0.02,
    ),
    Claim(
        "COL-C4",
        "At collapse the response's diagonal block has the stair of eigenvalues of the theorem (K = 4, d = 10, n = 10, "
        "lam_W = sqrt 2, beta = 100).",
        "Theorem 4.2 and figure 1",
        "quick",
        lambda m: f"largest difference {m['response']['stair_gap']:.1e}",
        lambda m: m["response"]["stair_gap"] < 1e-12,
    ),
    Claim(
        "COL-C5",
        "In layer-wise training both forms of NC1 strictly fall over layers 1 to 6, in every seed (the paper: "
        "CIFAR-10; the quick preset: 5,000 digits of MNIST).",
        "NC1 falls as layers are added (figure 2, curves only)",
        "quick",
        lambda m: (
            f"{_falls(m['greedy']['nc1_trace'], 6)} and {_falls(m['greedy']['nc1'], 6)} of "
            f"{len(m['greedy']['nc1'])} seeds; NC1 {m['greedy']['nc1_trace'][0][1]:.3g} to "
            f"{m['greedy']['nc1_trace'][0][-1]:.3g}"
        ),
        lambda m: (
            _falls(m["greedy"]["nc1_trace"], 6) == _falls(m["greedy"]["nc1"], 6) == len(m["greedy"]["nc1"])
        ),
    ),
    Claim(
        "COL-C6",
        "Weight decay of the feature layers moves NC1 (trace form) at least 4 times as far as that of the last layer: "
        "doubled it collapses more, removed it collapses less.",
        "feature layers move NC more than the last layer (figure 3, curves only)",
        "quick",
        lambda m: f"ratio {_ratio(_first(m), 'nc1_trace'):.1f}, ordered: {_ordered(_first(m), 'nc1_trace')}",
        lambda m: _ratio(_first(m), "nc1_trace") >= 4 and _ordered(_first(m), "nc1_trace"),
    ),
    Claim(
        "COL-C6b",
        "The same holds in direction and with any ratio above 1 for the pseudo-inverse form of NC1.",
        "feature layers move NC more than the last layer (figure 3, curves only)",
        "quick",
        lambda m: f"ratio {_ratio(_first(m), 'nc1'):.1f}, ordered: {_ordered(_first(m), 'nc1')}",
        lambda m: _ratio(_first(m), "nc1") > 1 and _ordered(_first(m), "nc1"),
    ),
    Claim(
        "COL-D1",
        "Derived here: at collapse the response is five factors, exactly, for every beta from 0.5 to 100.",
        "not in the paper, which has the first order in 1/beta",
        "quick",
        lambda m: f"largest difference from a dense solve {m['response']['dense_gap']:.1e}",
        lambda m: m["response"]["dense_gap"] < 1e-12,
    ),
    Claim(
        "COL-D2",
        "The response of a trained network's own features (noise, rounding, moved means) is predicted to second order.",
        "not in the paper",
        "quick",
        lambda m: ", ".join(f"{k}: slope {v:.2f}" for k, v in m["real"]["slope"].items()),
        lambda m: all(abs(v - 2) <= 0.05 for v in m["real"]["slope"].values()),
    ),
]

STUDY = Study("collapse", {"quick": QUICK, "gpu": GPU, "paper": PAPER}, run, CLAIMS)
