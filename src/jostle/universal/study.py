"""The study of GD-UAP: how well a perturbation made without data fools a trained classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.budgets import Linf
from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.lab import Partial, Run, Stage, Study, sweep
from jostle.lab.engines import Engine
from jostle.universal import figures
from jostle.universal.claims import CLAIMS
from jostle.universal.craft import craft
from jostle.universal.defences import DEFENCES, defended
from jostle.universal.dense_task import SIDE, judge_segmentation, segmentation_task
from jostle.universal.evaluate import data_curve, evaluate
from jostle.universal.experiments import Task, craft_task, network, strided
from jostle.universal.noise import sign_noise, uniform_noise
from jostle.universal.objective import Objective
from jostle.universal.perturbation import UniversalPerturbation, perturb
from jostle.universal.schedule import ScheduleName
from jostle.universal.sgd import sgd_uap
from jostle.zoo import Images, load_data


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `model`: `efficientnet-lite0`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`. `weights`: a file,
    or `DEFAULT` for those of torchvision or timm; `None`: random there, the real ones for
    `efficientnet-lite0`. `data`: images that are judged on, never used in crafting: `digits`, `mnist5k`,
    `photographs`, or a folder or zip of `CLASS/IMAGE` files. `radius`: largest change of a pixel, in units of
    [0, 1]. `schedule`: of each crafting: `fast` (150 steps), `paper` or `released` (at most 40,000), or
    `port2020` (at most 10,000). `steps`: at most so many a crafting; 0: the schedule's, and 300 for `ours`.
    `seeds`: how many craftings of each kind, at least 1. `methods`: kinds of crafting: with the prior `none`,
    `range` or `smooth`, by the recipe `ours`, or from images (`data`). `data_prior`: other images, for the
    kind `data` (at most 500 of them) and for `counts`; `None`: the kind `data` is left out. `substitute`: at
    least 1,000 images of another set, the first 1,000 of which select the best iterate; `None`: the objective
    selects. `looks_on`: on how many images the figure of fooling against iteration is drawn. `defences`:
    judge behind each defence too. `counts`: craft by SGD-UAP from so many images of `data_prior` each (claim
    C6); empty: left out. `scenes`: train a segmenter on so many scenes and judge on it too; 0 leaves it out.
    `scenery`: images that are the backgrounds of the scenes. `jobs`: craftings at a time.
    """

    model: str = "efficientnet-lite0"
    weights: str | None = None
    data: str = "photographs"
    radius: float = 10 / 255
    schedule: ScheduleName = "fast"
    steps: int = 0
    seed: int = 0
    seeds: int = 1
    methods: tuple[str, ...] = ("none", "range", "ours")
    data_prior: str | None = None
    substitute: str | None = None
    looks_on: int = 40
    defences: bool = False
    counts: tuple[int, ...] = ()
    scenes: int = 0
    scenery: str = "photographs"
    jobs: int = 2
    engine: Engine = "loky"


PRESETS = {
    "quick": Config(),
    "gpu": Config(
        model="torchvision:resnet50",
        weights="DEFAULT",
        data="imagenet-1000-samples-256.zip",
        seeds=3,
        steps=1500,
        methods=("none", "range", "data", "ours"),
        data_prior="pacs-128.zip::photo",
        looks_on=200,
        defences=True,
        counts=(16, 64, 256, 1024),
        scenes=6000,
        scenery="pacs-128.zip::photo",
        jobs=8,
    ),
    "paper": Config(
        model="torchvision:vgg16",
        weights="DEFAULT",
        data="imagenet-1000-samples-256.zip",
        schedule="paper",
        seeds=3,
        methods=("none", "range", "data"),
        data_prior="pacs-128.zip::photo",
        substitute="pacs-128.zip::photo",
        looks_on=200,
        jobs=8,
    ),
}


def run(config: Config, run: Run) -> dict[str, Any]:
    """Craft by every method and seed, judge all of them on the same images, draw the figures."""
    require(config.seeds >= 1, f"seeds must be at least 1, but {config.seeds} came")
    model = network(config.model, config.weights)
    shape = getattr(model, "input_shape", None)
    require(shape is not None, f"model {config.model} does not say its input_shape")
    assert shape is not None
    images = load_data(config.data, size=shape[1])
    got = images[0][0].shape[0]
    require(got == shape[0], f"data must have the model's channels, {shape[0]}, but {config.data} has {got}")
    crafted, snapshots = _crafted(config, run, shape)
    budget = Linf(config.radius)
    nulls = {
        "sign noise": sign_noise(shape, budget, run.generator("sign")),
        "uniform noise": uniform_noise(shape, budget, run.generator("uniform")),
    }
    named = {**nulls, **{f"{m} {i}": up.delta for m, ups in crafted.items() for i, up in enumerate(ups)}}
    verdicts = _judge(run, "judge", model, named, images)
    run.tensors("deltas", named)
    looks = _judge(
        run, "looks", model, {str(t): d for t, d in snapshots.items()}, strided(images, config.looks_on)
    )
    metrics = _metrics(config, verdicts)
    if config.defences:
        metrics["defences"] = _defended(
            run, model, {n: d for n, d in named.items() if n.endswith(" 0")}, images
        )
    if config.counts:
        metrics["sgd by images"] = _by_count(config, run, model, shape, images)
    if config.scenes:
        # Both heads, whichever suits the claim: the first is broken by noise alone.
        metrics["segmentation"] = {
            str(noise): _segmentation(config, run, model, noise) for noise in (0.0, 0.05)
        }
    _draw(config, run, model, images, crafted, named, verdicts, looks)
    return metrics


def _crafted(
    config: Config, run: Run, shape: tuple[int, int, int]
) -> tuple[dict[str, list[UniversalPerturbation]], dict[int, Tensor]]:
    """Perturbations by method, one a seed, and how the first of them grew; a killed run keeps what is done."""
    shared = {f.name: getattr(config, f.name) for f in fields(Task) if hasattr(config, f.name)}
    tasks = {
        f"{method}, seed {seed}": Task(
            **{**shared, "method": method, "shape": shape, "seed": run.seed(f"craft {seed}")}
        )
        for method in config.methods
        if method != "data" or config.data_prior is not None
        for seed in range(config.seeds)
    }
    kept = sweep(
        run,
        "crafting",
        _craft,
        # Longest first: who comes last may work alone.
        dict(sorted(tasks.items(), key=lambda item: -item[1].length)),
        engine=config.engine,
        jobs=config.jobs,
        partial=True,
        rows=lambda name, made: ({"stage": name, **row} for row in made["history"]),
    )
    crafted: dict[str, list[UniversalPerturbation]] = {}
    for name, task in tasks.items():
        made = kept[name]
        up = UniversalPerturbation(made["delta"], made["record"], made["history"])
        crafted.setdefault(task.method, []).append(up)
    return crafted, next((kept[name]["shots"] for name in tasks if kept[name]["shots"]), {})


def _craft(given: tuple[Task, Partial]) -> dict[str, Any]:
    task, partial = given
    return craft_task(task, partial.load(), partial.save)


def _judge(
    run: Run, name: str, model: nn.Module, deltas: Mapping[str, Tensor], images: Images
) -> dict[str, dict[str, Any]]:
    def work(stage: Stage) -> dict[str, Any]:
        with run.progress(
            f"{name}: {len(deltas)} perturbations on {len(images)} images", len(images)
        ) as advance:
            found = evaluate(
                model,
                deltas,
                images,
                callback=lambda done, total, figure: advance(figure, steps=0, done=done),
            )
        return {
            key: {**fooling.numbers(), "clean": fooling.clean, "perturbed": fooling.perturbed}
            for key, fooling in found.items()
        }

    return run.stage(name, work)


def _defended(
    run: Run, model: nn.Module, deltas: Mapping[str, Tensor], images: Images
) -> dict[str, dict[str, float]]:
    found = {}
    for name in DEFENCES:
        verdicts = _judge(run, f"behind {name}", defended(model, name), deltas, images)
        found[name] = {key: verdict["rate"] for key, verdict in verdicts.items()}
        found[name]["clean top-1"] = next(iter(verdicts.values()))["clean_top1"]
    run.figure(
        "defences",
        figures.defence_bars(found),
        "Images fooled behind each defence, and the accuracy that the defence leaves to clean images.",
    )
    return found


def _by_count(
    config: Config, run: Run, model: nn.Module, shape: tuple[int, int, int], images: Images
) -> dict[str, float]:
    require(config.data_prior is not None, "counts need data_prior, images to craft from")
    assert config.data_prior is not None
    pool = strided(load_data(config.data_prior, size=shape[1]), max(config.counts)).tensors()[0]

    def work(stage: Stage) -> dict[str, float]:
        found = data_curve(
            lambda some: sgd_uap(model, some, Linf(config.radius), generator=run.generator("sgd")),
            model,
            pool,
            config.counts,
            images,
        )
        return {str(count): fooling.rate for count, fooling in found.items()}

    rates = run.stage("fooling by number of images", work)
    run.figure(
        "images",
        figures.curve(
            {"SGD-UAP": {float(n): rate for n, rate in rates.items()}},
            "images crafted from",
            "less data",
            log=True,
        ),
        "A data-driven perturbation (SGD-UAP) crafted from fewer and fewer images.",
    )
    return rates


def _segmentation(config: Config, run: Run, model: nn.Module, noise: float) -> dict[str, dict[str, Any]]:
    def work(stage: Stage) -> dict[str, dict[str, Any]]:
        with run.progress("training a segmenter", None) as advance:
            task = segmentation_task(
                model,
                load_data(config.scenery, size=128),
                run.generator("scenes"),
                scenes=config.scenes,
                noise=noise,
                callback=lambda done, total, figure: advance(figure, steps=0, done=done, total=total),
            )
        budget, shape = Linf(config.radius), (3, SIDE, SIDE)
        deltas = {"sign noise": sign_noise(shape, budget, run.generator("sign scenes"))}
        for prior in ("none", "range"):
            deltas[prior] = craft(
                task.net, budget, prior=prior, shape=shape, generator=run.generator(f"scenes {prior}")
            ).delta
        return judge_segmentation(task, deltas, run.generator("bootstrap"))

    return run.stage(f"segmentation, head trained under noise {noise}", work)


def _metrics(config: Config, verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = verdicts["sign noise"]
    metrics: dict[str, Any] = {"images": first["count"], "set": config.data, "fooling": {}}
    if config.data != "photographs":
        metrics["clean top-1"] = first["clean_top1"]
    for name, verdict in verdicts.items():
        method = name.rpartition(" ")[0]
        key = name if name.endswith("noise") else method
        entry = metrics["fooling"].setdefault(key, {"rates": [], "intervals": [], "dominant share": []})
        entry["rates"].append(verdict["rate"])
        entry["intervals"].append(list(verdict["interval"]))
        entry["dominant share"].append(verdict["dominant_share"])
    return metrics


def _draw(
    config: Config,
    run: Run,
    model: nn.Module,
    images: Images,
    crafted: Mapping[str, Sequence[UniversalPerturbation]],
    named: Mapping[str, Tensor],
    verdicts: Mapping[str, Mapping[str, Any]],
    looks: Mapping[str, Mapping[str, Any]],
) -> None:
    classes = getattr(model, "classes", None)
    label: Callable[[int], str] = lambda k: classes[k] if classes else f"class {k}"  # noqa: E731
    best = max(
        (name for name in named if not name.endswith("noise")), key=lambda name: verdicts[name]["rate"]
    )
    verdict, method = verdicts[best], best.rpartition(" ")[0]
    chosen = _shown(verdict, images)
    clean = torch.stack([images[i][0] for i in chosen])
    run.figure(
        "before-after",
        figures.before_after(
            clean,
            perturb(clean, named[best]),
            [label(int(verdict["clean"][i])) for i in chosen],
            [label(int(verdict["perturbed"][i])) for i in chosen],
        ),
        f"What the network takes images for, before and after one and the same perturbation ({best}) is added to "
        f"them: some of the set '{images.name}' that are fooled, where there are any.",
    )
    run.figure(
        "fooling",
        figures.fooling_bars(*_by_method(verdicts)),
        f"Share of {verdict['count']} images whose predicted class changes at radius {config.radius * 255:.0f}/255. "
        "None and range: GD-UAP without data, without and with the range prior; ours: universal.RECIPES['ours'].",
    )
    for name, ups in crafted.items():
        run.figure(
            f"perturbation-{name}",
            figures.show(ups[0]),
            f"The perturbation of '{name}', seed 0, and its power by spatial frequency.",
        )
    first = next(iter(crafted))
    run.figure(
        "progress",
        figures.progress(
            crafted[first][0].history,
            {int(t): v["rate"] for t, v in looks.items()},
            {int(t): v["interval"] for t, v in looks.items()},
        ),
        f"One crafting ({first}, seed 0): fooling of {config.looks_on} images (not used for selection), share of "
        "entries at the bound, and the objective.",
    )
    names, ratios = _growth(model, {m: ups[0].delta for m, ups in crafted.items()}, clean[:1])
    run.figure(
        "growth", figures.growth(names, ratios), "Norm of each tapped layer's output, perturbed over clean."
    )
    run.figure(
        "labels",
        figures.labels_histogram(verdict["perturbed"], classes),
        f"What the network takes perturbed images for ({method}).",
    )


def _by_method(
    verdicts: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, list[float]], dict[str, list[tuple[float, float]]]]:
    rates: dict[str, list[float]] = {}
    intervals: dict[str, list[tuple[float, float]]] = {}
    for name, verdict in verdicts.items():
        key = name if name.endswith("noise") else name.rpartition(" ")[0]
        rates.setdefault(key, []).append(verdict["rate"])
        intervals.setdefault(key, []).append(tuple(verdict["interval"]))
    return rates, intervals


def _shown(verdict: Mapping[str, Any], images: Images, count: int = 6) -> list[int]:
    """Fooled images from all over the set, one a group where it has groups."""
    fooled = (verdict["clean"] != verdict["perturbed"]).nonzero().flatten().tolist()
    if images.groups is not None:
        seen: dict[int, int] = {}
        for index in fooled:
            seen.setdefault(int(images.groups[index]), index)
        fooled = list(seen.values())
    fooled = fooled or list(range(len(images)))
    stride = max(1, len(fooled) // count)
    return fooled[::stride][:count]


def _growth(
    model: nn.Module, deltas: Mapping[str, Tensor], image: Tensor
) -> tuple[list[str], dict[str, list[float]]]:
    with frozen(model), torch.no_grad(), Objective().attach(model) as listen:
        base = torch.stack(listen.terms(image)).flatten()
        moved = {name: torch.stack(listen.terms(perturb(image, d))).flatten() for name, d in deltas.items()}
        return list(listen.names), {name: (terms - base).exp().tolist() for name, terms in moved.items()}


STUDY = Study(key="universal", presets=PRESETS, run=run, claims=CLAIMS)
