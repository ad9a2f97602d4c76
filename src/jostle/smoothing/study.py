"""The study of rRCM: train, certify, and see what the samples are spent on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jostle.lab import Run, Stage, Study
from jostle.smoothing import figures
from jostle.smoothing.certificates import Certificate, Certificates
from jostle.smoothing.claims import CLAIMS
from jostle.smoothing.comparators import METHODS
from jostle.smoothing.encoders import Encoder
from jostle.smoothing.fitting import Recipe
from jostle.smoothing.planning import simulate
from jostle.smoothing.rrcm import RRCM, Pretraining, similarity
from jostle.smoothing.schedule import noise_grid
from jostle.smoothing.trials import (
    PRETRAININGS,
    Network,
    Splits,
    build_encoder,
    certify_method,
    images_a_second,
    load_splits,
    pretraining,
    train_method,
    views_for,
)


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `data`, `test`: as for `zoo.load_data`; without `test` the images to certify are held out of `data`. `size`: side in
    pixels, 0 for the images' own. `labelled`: labelled training images, 0 for all; pre-training sees all images.
    `methods`: `gaussian`, `stability`, `consistency`, `macer`, `smoothadv`, `smoothmix`, `denoised`, `rrcm`, and its
    ablations `contrast` and `path`. `sigmas`, `lams`: noise levels and the consistency weight at each. `seeds`: paired
    seeds. `network`, `width`, `depth`, `patch`: of the encoder. `pretrain_*`, `steps`, `batch`, `lr`, `decay`, `mirror`,
    `shift`: of the trainings. `certified`: images. `alpha`, `n0`, `n_max`: of the certification. `fixed`: also spend all
    `n_max` draws on the last method, to compare. `half`: bfloat16. `device`: `auto`, `cpu` or `cuda`.
    """

    data: str = "digits"
    test: str | None = None
    size: int = 0
    labelled: int = 0
    methods: tuple[str, ...] = ("gaussian", "consistency", "rrcm")
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
    lams: tuple[float, ...] = (10.0, 1.0, 1.0)
    eta: float = 0.5
    seeds: int = 1
    seed: int = 0
    network: Network = "mlp"
    width: int = 128
    depth: int = 1
    patch: int = 4
    pretrain_steps: int = 600
    pretrain_batch: int = 256
    pretrain_lr: float = 1e-3
    projector: int = 256
    steps: int = 600
    batch: int = 128
    lr: float = 1e-3
    decay: float = 1.0
    mirror: bool = False
    shift: int = 0
    certified: int = 200
    alpha: float = 1e-3
    n0: int = 100
    n_max: int = 10_000
    fixed: bool = True
    half: bool = False
    device: str = "auto"


CIFAR = {"data": "cifar10-jpeg.zip::train", "test": "cifar10-jpeg.zip::test"}
PRESETS = {
    "quick": Config(),
    "gpu": Config(
        **CIFAR,
        labelled=2500,
        sigmas=(0.5, 1.0),
        lams=(2.0, 2.0),
        seeds=2,
        network="conv",
        width=256,
        depth=6,
        pretrain_steps=1500,
        pretrain_batch=1024,
        pretrain_lr=1e-3,
        projector=1024,
        steps=500,
        batch=256,
        lr=1e-3,
        decay=0.85,
        mirror=True,
        shift=4,
        certified=300,
        n_max=10_000,
        half=True,
    ),
    "paper": Config(
        **CIFAR,
        methods=(
            "gaussian",
            "consistency",
            "macer",
            "smoothadv",
            "smoothmix",
            "denoised",
            "contrast",
            "rrcm",
        ),
        lams=(10.0, 20.0, 20.0),
        network="vit",
        width=768,
        depth=12,
        pretrain_steps=300_000,
        pretrain_batch=2048,
        pretrain_lr=1e-4,
        projector=2048,
        steps=4900,
        batch=1024,
        lr=8e-4,
        decay=0.75,
        certified=500,
        n_max=100_000,
        half=True,
    ),
}


def run(config: Config, run: Run) -> dict[str, Any]:
    """Pre-train, train every method at every noise level, certify; then the tables and the figures."""
    where = _device(config.device)
    splits = _splits(config, run, where)
    states: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for method in [m for m in config.methods if m in PRETRAININGS]:
            states[method, seed] = _pretrained(config, run, splits, method, seed)
    jobs = [
        (seed, sigma, lam, method)
        for seed in range(config.seed, config.seed + config.seeds)
        for sigma, lam in zip(config.sigmas, config.lams, strict=True)
        for method in config.methods
    ]
    tables: dict[tuple[str, float, int], Certificates] = {}
    speed: dict[str, float] = {}
    fixed: dict[str, Any] = {}
    with run.progress("training and certifying", len(jobs)) as advance:
        for seed, sigma, lam, method in jobs:
            model: list[nn.Module] = []

            def train(
                stage: Stage, seed: int = seed, sigma: float = sigma, lam: float = lam, method: str = method
            ) -> dict[str, Tensor]:
                start = _encoder(config, splits, seed, states.get((method, seed)))
                recipe = _recipe(config)
                generator = run.generator(f"train {seed} {sigma}")
                made = train_method(method, start, splits, sigma, lam, recipe, generator)
                return {name: value.cpu() for name, value in made.state_dict().items()}

            weights = run.stage(f"train {method} sigma {sigma:g} seed {seed}", train)

            def load(
                seed: int = seed,
                sigma: float = sigma,
                lam: float = lam,
                method: str = method,
                weights: Any = weights,
            ) -> nn.Module:
                if not model:
                    model.append(_rebuilt(config, splits, method, sigma, seed, weights))
                return model[0]

            def certify(
                stage: Stage, sigma: float = sigma, load: Any = load, plan: str = "sequential"
            ) -> Any:
                settings = {"alpha": config.alpha, "n0": config.n0, "n_max": config.n_max, "method": plan}
                if plan == "sequential":
                    settings["radii"] = _grid(config, sigma)
                found = certify_method(load(), splits, sigma, half=config.half, seed=config.seed, **settings)
                return {"columns": _columns(found), "settings": _plain(found.settings)}

            kept = run.stage(f"certify {method} sigma {sigma:g} seed {seed}", certify)
            tables[method, sigma, seed] = _table(kept)
            run.log(method=method, sigma=sigma, seed=seed, **_row(tables[method, sigma, seed]))
            if seed == config.seed and sigma == config.sigmas[len(config.sigmas) // 2]:

                def measure(stage: Stage, load: Any = load) -> float:
                    return images_a_second(load(), splits.test_images[:256])

                speed[method] = run.stage(f"speed of {method}", measure)
                if config.fixed and method == config.methods[-1]:

                    def spend(stage: Stage, certify: Any = certify) -> Any:
                        return certify(stage, plan="fixed")

                    fixed = {
                        "sigma": sigma,
                        "method": method,
                        "kept": run.stage("certify with all draws", spend),
                    }
            advance(f"{method}, sigma {sigma:g}: ACR {tables[method, sigma, seed].average_radius():.3f}")
    return _report(config, run, splits, states, tables, speed, fixed)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _splits(config: Config, run: Run, where: torch.device) -> Splits:
    found = load_splits(
        config.data,
        config.test,
        size=config.size,
        labelled=config.labelled,
        certified=config.certified,
        generator=run.generator("splits"),
    )
    moved = {f.name: getattr(found, f.name) for f in fields(Splits)}
    return Splits(
        **{name: value.to(where) if isinstance(value, Tensor) else value for name, value in moved.items()}
    )


def _grid(config: Config, sigma: float) -> tuple[float, ...]:
    from jostle.smoothing.bounds import usual_radii

    return usual_radii(sigma, min(0.25, sigma / 2), config.n_max, config.alpha)


def _recipe(config: Config) -> Recipe:
    return Recipe(
        steps=config.steps,
        batch=config.batch,
        lr=config.lr,
        warmup=config.steps // 20,
        decay=config.decay,
        mirror=config.mirror,
        shift=config.shift,
        half=config.half,
    )


def _encoder(config: Config, splits: Splits, seed: int, state: Mapping[str, Any] | None) -> Encoder:
    made = build_encoder(config.network, splits.shape, config.width, config.depth, config.patch, seed)
    if state is not None:
        made.load_state_dict(state["encoder"])
    return made.to(splits.images.device)


def _rebuilt(config: Config, splits: Splits, method: str, sigma: float, seed: int, weights: Any) -> nn.Module:
    from jostle.smoothing.denoised import Denoised, EncoderDenoiser
    from jostle.smoothing.encoders import TimedClassifier

    def classifier(sigma: float) -> TimedClassifier:
        return TimedClassifier(_encoder(config, splits, seed, None), len(splits.classes), sigma, splits.shape)

    if method == "denoised":
        denoiser = EncoderDenoiser(_encoder(config, splits, seed, None), splits.shape, sigma)
        made: nn.Module = Denoised(denoiser, classifier(0.01))
    else:
        made = classifier(sigma)
    made.load_state_dict(weights)
    return made.to(splits.images.device).eval()


def _pretrained(config: Config, run: Run, splits: Splits, method: str, seed: int) -> dict[str, Any]:
    plan = pretraining(
        method,
        RRCM(
            steps=config.pretrain_steps,
            batch=min(config.pretrain_batch, len(splits.unlabelled)),
            lr=config.pretrain_lr,
            warmup=config.pretrain_steps // 20,
            hidden=config.projector,
            out=min(256, config.projector),
            sharpness=10.0 if config.data.endswith("imagenet") else 15.0,
        ),
    )

    def work(stage: Stage) -> dict[str, Any]:
        encoder = _encoder(config, splits, seed, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loop = Pretraining(
                encoder,
                splits.unlabelled,
                views_for(splits.shape),
                plan,
                run.generator(f"pretrain {method} {seed}", splits.images.device),
                half=config.half,
            )
        if (state := stage.load()) is not None:
            loop.load_state_dict(state)
        levels = noise_grid(81)[20:81:6]
        before = similarity(
            _encoder(config, splits, seed, None), splits.test_images[:128], levels, _eyes(splits)
        )
        with run.progress(f"pre-training ({method})", plan.steps) as advance:

            def after(loop: Pretraining) -> None:
                contrast, consistency, _ = loop.history[-1]
                advance(f"contrast {contrast:.2f}, consistency {consistency:.2f}", done=loop.trainer.step)
                stage.save(loop.state_dict)

            loop.run(after)
        after_ = similarity(encoder, splits.test_images[:128], levels, _eyes(splits))
        return {
            "encoder": {name: value.cpu() for name, value in encoder.state_dict().items()},
            "history": loop.history,
            "levels": levels,
            "before": before,
            "after": after_,
        }

    return run.stage(f"pretrain {method} seed {seed}", work)


def _eyes(splits: Splits) -> torch.Generator:
    return torch.Generator(splits.images.device).manual_seed(0)


def _columns(table: Certificates) -> dict[str, Tensor]:
    return {f.name: getattr(table, f.name) for f in fields(Certificate)}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not isinstance(value, dict)}


def _table(kept: Mapping[str, Any]) -> Certificates:
    return Certificates(**kept["columns"], settings=kept["settings"])


def _row(table: Certificates) -> dict[str, Any]:
    grid = table.settings["grid"]
    low, high = table.interval()
    return {
        "acr": table.average_radius(),
        "abstained": table.abstained,
        "draws": float(table.used.double().mean()),
        "low": low,
        "high": high,
        "accuracy": {f"{r:g}": table.accuracy(r) for r in grid},
    }


def _report(
    config: Config,
    run: Run,
    splits: Splits,
    states: Mapping[tuple[str, int], Mapping[str, Any]],
    tables: Mapping[tuple[str, float, int], Certificates],
    speed: Mapping[str, float],
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    for (method, sigma, seed), table in tables.items():
        table.save(run.folder / "artifacts" / f"{method}-sigma-{sigma:g}-seed-{seed}.parquet")
    note = f"{config.data}, {len(splits.images)} labelled images, {config.seeds} seed(s)"
    run.figure(
        "curves", figures.curves(tables), f"Certified accuracy against radius, 95 % intervals. {note}."
    )
    run.figure(
        "acr",
        figures.differences(tables),
        f"Average certified radius of each method and seed, and what it adds to Gaussian training. {note}.",
    )
    middle = config.sigmas[len(config.sigmas) // 2]
    last = tables[config.methods[-1], middle, config.seed]
    saved = _saved(config, last, fixed)
    run.figure(
        "draws",
        figures.draws(last, config.n0 + config.n_max, saved["simulated"]),
        f"Draws an image of the sequential test ({config.methods[-1]}, sigma {middle:g}), and the mean of each "
        "procedure on these images' p_A at n_max = 100,000, simulated.",
    )
    if states:
        (method, seed), state = next(iter(states.items()))
        run.figure(
            "pretraining",
            figures.pretraining(state["history"], state["levels"], state["before"], state["after"]),
            f"Pre-training ({method}, seed {seed}): losses, and how alike an image's features are with and without "
            "noise.",
        )
    run.figure(
        "noise",
        figures.noisy(splits.test_images[:5].cpu(), config.sigmas),
        "What the networks are asked to recognise: images at each noise level.",
    )
    run.figure(
        "speed",
        figures.cost(tables, speed, middle, config.seed),
        f"Average certified radius at sigma {middle:g} against the time of one forward pass an image on this machine.",
    )
    return {
        "data": config.data,
        "labelled": len(splits.images),
        "unlabelled": len(splits.unlabelled),
        "network": config.network,
        "methods": {
            f"{method} sigma {sigma:g} seed {seed}": _row(table)
            for (method, sigma, seed), table in tables.items()
        },
        "paired": _paired(config, tables),
        "speed": dict(speed),
        "saved": saved,
        "alpha": config.alpha,
    }


def _paired(config: Config, tables: Mapping[tuple[str, float, int], Certificates]) -> dict[str, Any]:
    """ACR of one method minus another's on the same images and seeds, with a 95 % interval over images."""
    rows: dict[str, Any] = {}
    pairs = (("consistency", "gaussian"), ("rrcm", "consistency"), ("rrcm", "gaussian"), ("rrcm", "contrast"))
    for a, b in (pair for pair in pairs if set(pair) <= set(config.methods)):
        for sigma in config.sigmas:
            gaps = []
            for seed in range(config.seed, config.seed + config.seeds):
                one, two = tables[a, sigma, seed], tables[b, sigma, seed]
                gaps.append(
                    torch.where(one.correct, one.radius, 0.0) - torch.where(two.correct, two.radius, 0.0)
                )
            mean = torch.stack(gaps).mean(0)
            half = 1.96 * float(mean.std()) / len(mean) ** 0.5
            rows[f"{a} - {b} sigma {sigma:g}"] = {
                "mean": float(mean.mean()),
                "low": float(mean.mean()) - half,
                "high": float(mean.mean()) + half,
                "seeds": [float(gap.mean()) for gap in gaps],
            }
    return rows


def _saved(config: Config, table: Certificates, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What the sequential test saves: measured against all draws, and simulated at 100,000 on the same p_A."""
    found: dict[str, Any] = {"draws": float(table.used.double().mean()), "simulated": {}}
    if fixed:
        whole = _table(fixed["kept"])
        grid = table.settings["grid"]
        found["fixed draws"] = float(whole.used.double().mean())
        found["largest gap"] = max(abs(table.certified(r) - whole.certified(r)) for r in grid)
        table = whole
    share = ((table.hits.double() + 0.5) / (table.draws.double() + 1)).numpy()
    for name in ("fixed", "stages", "union", "betting", "anytime", "sequential"):
        plan = METHODS[name](table.settings["sigma"], config.alpha, 100_000, None)
        rows = simulate(plan, share, np.random.default_rng(config.seed), n0=config.n0)
        found["simulated"][name] = {
            "draws": float(rows.draws.mean()),
            "certified": {f"{r:g}": rows.certified(r) for r in plan.grid},
        }
    return found


STUDY = Study("smoothing", PRESETS, run, CLAIMS)
