"""The study of rRCM: train, certify, and see what the samples are spent on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import optional
from jostle.lab import Run, Stage, Study
from jostle.smoothing import figures
from jostle.smoothing.bounds import usual_radii
from jostle.smoothing.certificates import Certificate, Certificates
from jostle.smoothing.claims import CLAIMS
from jostle.smoothing.encoders import Encoder
from jostle.smoothing.fitting import Recipe
from jostle.smoothing.inputs import Device, device_of
from jostle.smoothing.rrcm import RRCM, Pretraining, similarity
from jostle.smoothing.schedule import noise_grid
from jostle.smoothing.tallies import paired, row_of, savings
from jostle.smoothing.trials import (
    PRETRAININGS,
    Network,
    Splits,
    build_encoder,
    certify_method,
    empty_method,
    images_a_second,
    load_splits,
    pretraining,
    train_method,
)
from jostle.smoothing.views import views_for


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `data`, `test`: as for `zoo.load_data`; without `test` the images to certify are held out of `data`. `size`: side in
    pixels, 0 for the images' own. `labelled`: labelled training images, 0 for all; pre-training sees all images.
    `methods`: `gaussian`, `stability`, `consistency`, `macer`, `smoothadv`, `smoothmix`, `denoised`, `rrcm`, and its
    ablations `contrast` and `path`. `sigmas`, `lams`: noise levels and the consistency weight at each. `seeds`: paired
    seeds, counted from `seed`. `network`, `width`, `depth`, `patch`: of the encoder. `pretrain_*`, `projector`,
    `steps`, `batch`, `lr`, `decay`, `mirror`, `shift`: of the trainings. `certified`: images. `alpha`, `n0`, `n_max`:
    of the certification. `fixed`: spend all draws on the last method too, to compare. `half`: bfloat16. `device`:
    `auto`, `cpu` or `cuda`.
    """

    data: str = "digits"
    test: str | None = None
    size: int = 0
    labelled: int = 0
    methods: tuple[str, ...] = ("gaussian", "consistency", "rrcm")
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
    lams: tuple[float, ...] = (10.0, 1.0, 1.0)
    seeds: int = 1
    seed: int = 0
    network: Network = "mlp"
    width: int = 64
    depth: int = 1
    patch: int = 4
    pretrain_steps: int = 400
    pretrain_batch: int = 256
    pretrain_lr: float = 1e-3
    projector: int = 256
    steps: int = 400
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
    device: Device = "auto"


CIFAR: dict[str, Any] = {"data": "cifar10-jpeg.zip::train", "test": "cifar10-jpeg.zip::test"}
PRESETS = {
    "quick": Config(),
    "gpu": Config(
        **CIFAR,
        labelled=1000,
        sigmas=(0.5, 1.0),
        lams=(2.0, 2.0),
        seeds=2,
        network="conv",
        width=128,
        depth=6,
        pretrain_steps=1000,
        pretrain_batch=1024,
        projector=1024,
        steps=500,
        batch=256,
        decay=0.85,
        mirror=True,
        shift=4,
        certified=300,
        n_max=5000,
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
    optional("pyarrow.parquet", "smoothing")  # known to be missing now, not when all is done
    splits = load_splits(
        config.data,
        config.test,
        size=config.size,
        labelled=config.labelled,
        certified=config.certified,
        generator=run.generator("splits"),
        device=device_of(config.device),
    )
    states: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for method in [m for m in config.methods if m in PRETRAININGS]:
            states[method, seed] = _pretrained(config, run, splits, method, seed)
    jobs = [
        (method, sigma, lam, seed)
        for seed in range(config.seed, config.seed + config.seeds)
        for sigma, lam in zip(config.sigmas, config.lams, strict=True)
        for method in config.methods
    ]
    tables: dict[tuple[str, float, int], Certificates] = {}
    speed: dict[str, float] = {}
    fixed: Certificates | None = None
    with run.progress("training and certifying", len(jobs)) as advance:
        for method, sigma, lam, seed in jobs:
            job = _Job(config, run, splits, states.get((method, seed)), method, sigma, lam, seed)
            table = tables[method, sigma, seed] = job.certified("sequential", _grid(config, sigma))
            run.log(method=method, sigma=sigma, seed=seed, **row_of(table))
            if seed == config.seed and sigma == _middle(config):
                speed[method] = run.stage(f"speed of {method}", job.speed)
                if config.fixed and method == config.methods[-1]:
                    fixed = job.certified("fixed", None)
            advance(f"{method}, sigma {sigma:g}: ACR {table.average_radius():.3f}")
    return _report(config, run, splits, states, tables, speed, fixed)


@dataclass(eq=False)
class _Job:
    """A method at a noise level with a seed: trained once, certified, each a stage of the run."""

    config: Config
    run: Run
    splits: Splits
    start: Mapping[str, Any] | None
    method: str
    sigma: float
    lam: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method} sigma {self.sigma:g} seed {self.seed}"

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        def work(stage: Stage) -> dict[str, Tensor]:
            encoder = _encoder(self.config, self.splits, self.seed, self.start)
            generator = self.run.generator(f"train {self.seed} {self.sigma}")
            recipe = _recipe(self.config)
            made = train_method(self.method, encoder, self.splits, self.sigma, self.lam, recipe, generator)
            return {name: value.cpu() for name, value in made.state_dict().items()}

        return self.run.stage(f"train {self.name}", work)

    @cached_property
    def model(self) -> nn.Module:
        def fresh() -> Encoder:
            return _encoder(self.config, self.splits, self.seed, None)

        made = empty_method(self.method, fresh, self.splits, self.sigma)
        made.load_state_dict(self.weights)
        return made.to(self.splits.images.device).eval()

    def certified(self, procedure: str, radii: tuple[float, ...] | None) -> Certificates:
        config = self.config
        _ = self.weights  # its stage comes first, outside of this one

        def work(stage: Stage) -> dict[str, Any]:
            table = certify_method(
                self.model,
                self.splits,
                self.sigma,
                half=config.half,
                seed=config.seed,
                method=procedure,
                radii=radii,
                alpha=config.alpha,
                n0=config.n0,
                n_max=config.n_max,
            )
            return {
                "columns": {f.name: getattr(table, f.name) for f in fields(Certificate)},
                "settings": table.settings,
            }

        kept = self.run.stage(f"certify {self.name} {procedure}", work)
        return Certificates(**kept["columns"], settings=kept["settings"])

    def speed(self, stage: Stage) -> float:
        return images_a_second(self.model, self.splits.test_images[:256])


def _middle(config: Config) -> float:
    return config.sigmas[len(config.sigmas) // 2]


def _grid(config: Config, sigma: float) -> tuple[float, ...]:
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
            sharpness=15.0,
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

        def alike(network: Encoder) -> Tensor:
            eyes = torch.Generator(splits.images.device).manual_seed(0)
            return similarity(network, splits.test_images[:128], levels, eyes)

        with run.progress(f"pre-training ({method})", plan.steps) as advance:

            def after(loop: Pretraining) -> None:
                contrast, consistency, _ = loop.history[-1]
                advance(f"contrast {contrast:.2f}, consistency {consistency:.2f}", done=loop.trainer.step)
                stage.save(loop.state_dict)

            loop.run(after)
        return {
            "encoder": {name: value.cpu() for name, value in encoder.state_dict().items()},
            "history": loop.history,
            "levels": levels,
            "before": alike(_encoder(config, splits, seed, None)),
            "after": alike(encoder),
        }

    return run.stage(f"pretrain {method} seed {seed}", work)


def _report(
    config: Config,
    run: Run,
    splits: Splits,
    states: Mapping[tuple[str, int], Mapping[str, Any]],
    tables: Mapping[tuple[str, float, int], Certificates],
    speed: Mapping[str, float],
    fixed: Certificates | None,
) -> dict[str, Any]:
    for (method, sigma, seed), table in tables.items():
        table.save(run.folder / "artifacts" / f"{method}-sigma-{sigma:g}-seed-{seed}.parquet")
    seeds = "1 seed" if config.seeds == 1 else f"{config.seeds} seeds"
    note = f"{config.data}, {len(splits.images)} labelled images, {seeds}"
    run.figure(
        "curves", figures.curves(tables), f"Certified accuracy against radius, 95 % intervals. {note}."
    )
    run.figure(
        "acr",
        figures.differences(tables),
        f"Average certified radius of each method and seed, and what it adds to Gaussian training. {note}.",
    )
    middle = _middle(config)
    last = tables[config.methods[-1], middle, config.seed]
    saved = savings(last, fixed, config.n0, config.seed)
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
        f"Average certified radius at sigma {middle:g} against the time of an image's draws: forward passes on this "
        "machine, in batches of 256.",
    )
    return {
        "data": config.data,
        "labelled": len(splits.images),
        "unlabelled": len(splits.unlabelled),
        "network": config.network,
        "methods": {
            f"{method} sigma {sigma:g} seed {seed}": row_of(table)
            for (method, sigma, seed), table in tables.items()
        },
        "paired": paired(tables, config.methods),
        "speed": dict(speed),
        "saved": saved,
        "alpha": config.alpha,
    }


STUDY = Study("smoothing", PRESETS, run, CLAIMS, data_parallel=True)
