"""The study of rRCM: train, certify, and see what the samples are spent on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from jostle.core.errors import optional
from jostle.lab import Partial, Run, Study, sweep
from jostle.lab.engines import Engine
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

    `data`: images to train on, by name or path. `test`: images to certify, by name or path; None holds
    them out of `data`. `size`: side in pixels, 0 for the images' own. `labelled`: labelled training
    images, as many of each class, 0 for all; pre-training sees all images. `methods`: `gaussian`,
    `stability`, `consistency`, `macer`, `smoothadv`, `smoothmix`, `denoised`, `rrcm`, and its ablations
    `contrast` and `path`. `sigmas`: noise levels to train and certify at, above 0, in units of images in
    [0, 1]. `lams`: weights of the consistency loss, one for each of `sigmas`, in `consistency` and after
    pre-training. `seeds`: trainings of each method and level, with paired seeds, counted from `seed`.
    `network`: the encoder: residual layers (`mlp`), convolutions (`conv`) or a transformer (`vit`).
    `width`: of the encoder's features; a multiple of 8 for `conv`. `depth`: blocks of the encoder.
    `patch`: side of the patches of `vit`, in pixels. `pretrain_steps`: steps of pre-training.
    `pretrain_batch`: images a step of it, at most all. `pretrain_lr`: its largest learning rate.
    `projector`: hidden width of its projector. `steps`: steps of training at a noise level. `batch`:
    images a step of training. `lr`: largest learning rate of training. `decay`: factor on the rate of
    training from each block to the one below, in (0, 1]; 1 for none. `mirror`: flip training images left
    to right, one in two. `shift`: move training images by up to so many pixels, 0 for none. `certified`:
    images to certify. `alpha`: chance at most of a false certificate, in (0, 1). `n0`: draws an image
    that choose the class. `n_max`: draws an image that estimate, at most. `fixed`: also certify the last
    method with all draws, at the middle noise level. `half`: train and certify in bfloat16. `device`:
    `auto`, `cpu` or `cuda`. `jobs`: trainings at a time.
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
    jobs: int = 1
    engine: Engine = "loky"


_OBJECTIVES = ("gaussian", "consistency", "macer", "smoothadv", "smoothmix")
CIFAR: dict[str, Any] = {"data": "cifar10-jpeg.zip::train", "test": "cifar10-jpeg.zip::test"}
PRESETS = {
    "quick": Config(jobs=2),
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
        methods=(*_OBJECTIVES, "denoised", "contrast", "rrcm"),
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
    draw = run.seed("splits")
    splits = _splits(config, draw)
    seeds = range(config.seed, config.seed + config.seeds)
    jobs = {
        (method, sigma, seed): Job(config, draw, method, sigma, lam, seed, run.seed(f"train {seed} {sigma}"))
        for seed in seeds
        for sigma, lam in zip(config.sigmas, config.lams, strict=True)
        for method in config.methods
    }
    starts = {
        (method, seed): Job(config, draw, method, 0.0, 0.0, seed, run.seed(f"pretrain {method} {seed}"))
        for seed in seeds
        for method in config.methods
        if method in PRETRAININGS
    }
    shared: dict[str, Any] = {"engine": config.engine, "jobs": config.jobs, "partial": True}
    found = sweep(run, "pre-training", _pretrain, {one.name: one for one in starts.values()}, **shared)
    states = {key: found[one.name] for key, one in starts.items()}
    for key, job in jobs.items():
        if (state := states.get((job.method, job.seed))) is not None:
            jobs[key] = replace(job, start=state["encoder"])
    found = sweep(
        run,
        "training and certifying",
        _train_and_certify,
        {job.name: job for job in jobs.values()},
        figure=lambda one: f"{one['name']}: ACR {_table(one['sequential']).average_radius():.3f}",
        rows=lambda _, one: [{**one["about"], **row_of(_table(one["sequential"]))}],
        **shared,
    )
    made = {key: found[job.name] for key, job in jobs.items()}
    tables = {key: _table(made[key]["sequential"]) for key in jobs}
    fixed = next((_table(one["fixed"]) for one in made.values() if "fixed" in one), None)
    speed = {method: one["speed"] for (method, *_), one in made.items() if "speed" in one}
    _splits.cache_clear()
    return _report(config, run, splits, states, tables, speed, fixed)


@dataclass(frozen=True, eq=False)
class Job:
    """A method at a noise level with a seed, or a pre-training, which has no level.

    `draw`: seed of the splits. `noise`: of its own draws. `start`: weights of a pre-trained encoder.
    """

    config: Config
    draw: int
    method: str
    sigma: float
    lam: float
    seed: int
    noise: int
    start: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """As a task."""
        level = f"sigma {self.sigma:g} " if self.sigma else ""
        return f"{self.method} {level}seed {self.seed}"


@lru_cache(maxsize=1)
def _splits(config: Config, draw: int) -> Splits:
    """In every process once."""
    return load_splits(
        config.data,
        config.test,
        size=config.size,
        labelled=config.labelled,
        certified=config.certified,
        generator=torch.Generator().manual_seed(draw),
        device=device_of(config.device),
    )


def _train_and_certify(given: tuple[Job, Partial]) -> dict[str, Any]:
    """The certificates; of one noise level and seed also the speed, and of the last method those of all draws."""
    job, partial = given
    config, splits, partial.every = job.config, _splits(job.config, job.draw), 0.0
    if (weights := partial.load()) is None:
        encoder = _encoder(config, splits, job.seed, job.start)
        generator = torch.Generator().manual_seed(job.noise)
        trained = train_method(job.method, encoder, splits, job.sigma, job.lam, _recipe(config), generator)
        weights = {name: value.cpu() for name, value in trained.state_dict().items()}
        partial.save(lambda: weights)
    model = empty_method(job.method, lambda: _encoder(config, splits, job.seed, None), splits, job.sigma)
    model.load_state_dict(weights)
    model = model.to(splits.images.device).eval()

    def certified(procedure: str, radii: tuple[float, ...] | None) -> dict[str, Any]:
        table = certify_method(
            model,
            splits,
            job.sigma,
            half=config.half,
            seed=config.seed,
            method=procedure,
            radii=radii,
            alpha=config.alpha,
            n0=config.n0,
            n_max=config.n_max,
        )
        columns = {f.name: getattr(table, f.name) for f in fields(Certificate)}
        return {"columns": columns, "settings": table.settings}

    made = {
        "name": job.name,
        "about": {"method": job.method, "sigma": job.sigma, "seed": job.seed},
        "sequential": certified("sequential", _grid(config, job.sigma)),
    }
    if job.seed == config.seed and job.sigma == _middle(config):
        made["speed"] = images_a_second(model, splits.test_images[:256])
        if config.fixed and job.method == config.methods[-1]:
            made["fixed"] = certified("fixed", None)
    return made


def _table(kept: Mapping[str, Any]) -> Certificates:
    return Certificates(**kept["columns"], settings=kept["settings"])


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
        made.load_state_dict(state)
    return made.to(splits.images.device)


def _pretrain(given: tuple[Job, Partial]) -> dict[str, Any]:
    """The encoder's weights, the losses, and how alike features are under noise before and after."""
    start, partial = given
    config, splits, seed = start.config, _splits(start.config, start.draw), start.seed
    device = splits.images.device
    plan = pretraining(
        start.method,
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
    encoder = _encoder(config, splits, seed, None)
    draws = torch.Generator(device).manual_seed(start.noise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loop = Pretraining(encoder, splits.unlabelled, views_for(splits.shape), plan, draws, half=config.half)
    if (state := partial.load()) is not None:
        loop.load_state_dict(state)
    levels = noise_grid(81)[20:81:6]

    def alike(network: Encoder) -> Tensor:
        eyes = torch.Generator(device).manual_seed(0)
        return similarity(network, splits.test_images[:128], levels, eyes)

    loop.run(lambda loop: partial.save(loop.state_dict))
    return {
        "encoder": {name: value.cpu() for name, value in encoder.state_dict().items()},
        "history": loop.history,
        "levels": levels,
        "before": alike(_encoder(config, splits, seed, None)),
        "after": alike(encoder),
    }


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
    run.figure("curves", figures.curves(tables), f"Certified accuracy by radius, 95 % intervals. {note}.")
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
        f"Average certified radius at sigma {middle:g} against the time of an image's draws: forward passes on one "
        "thread of this machine or its GPU, in batches of 256.",
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
