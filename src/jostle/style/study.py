"""The study of AdvStyle: paired comparisons under a domain shift, worst styles, and the space of styles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jostle.core.taps import Taps, frozen
from jostle.lab import Run, Stage, Study, parallel
from jostle.lab.engines import Engine
from jostle.style import figures
from jostle.style.advstyle import AdvStyle
from jostle.style.attack import StyleCurve, fit_reference, style_curve
from jostle.style.cases import PACS_ARCHIVE, Case, digits_case, network_case, pacs_case
from jostle.style.claims import CLAIMS
from jostle.style.domains import Domain, floating, split
from jostle.style.evaluate import Trial, paired, proxy_a_distance, summarise
from jostle.style.insertion import style_layers
from jostle.style.protocol import Protocol, trial
from jostle.style.restyle import channel_statistics


@dataclass(frozen=True)
class Config:
    """Settings of the study; a 0 stands for what the data set's own plan says.

    `data`: `digits`, or `PACS` (`pacs-128.zip`, looked for here and under `JOSTLE_DATA`), or a folder or zip
    of `DOMAIN/CLASS/` with the domains of PACS. `network`: `small` (a CNN for digits, EfficientNet-Lite0 with
    a cached trunk for PACS) or a model of the zoo, with `weights`. `source`: the training domain of PACS, or
    `each` in turn with a network of the zoo. `seeds`, `epochs`, `batch`, `lr`, `size`: of the runs. `at`: where
    style layers go in a network of the zoo. `leave_one_out`: train on three domains. `precision`: of the
    network. `device`: `auto` takes the GPU if there is one. `jobs`, `engine`: trainings at a time, and who runs
    them; several share a GPU. `radii`, `attacked`, `attack_steps`: of the worst-style curve.
    """

    data: str = "digits"
    network: str = "small"
    weights: str | None = None
    methods: tuple[str, ...] = ("erm", "dsu", "mixstyle", "advstyle", "advstyle-lambda0")
    source: str = "photo"
    seeds: int = 0
    seed: int = 0
    epochs: int = 0
    batch: int = 0
    lr: float = 0.0
    size: int = 0
    test_limit: int = 400
    at: str = "auto"
    leave_one_out: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    jobs: int = 1
    engine: Engine = "loky"
    radii: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    attacked: int = 64
    attack_steps: int = 10


WHOLE = {
    "data": "PACS",
    "source": "each",
    "precision": "bfloat16",
    "epochs": 50,
    "batch": 64,
    "lr": 1e-3,
    "size": 224,
    "attacked": 500,
    "attack_steps": 20,
}
PRESETS = {
    "quick": Config(),
    "gpu": Config(
        network="torchvision:resnet18",
        weights="DEFAULT",
        methods=("erm", "mixstyle", "dsu", "efdmix", "advstyle", "advstyle-lambda0"),
        seeds=3,
        **WHOLE,
    ),
    "paper": Config(
        network="torchvision:resnet50",
        weights="DEFAULT",
        methods=("erm", "mixstyle", "dsu", "efdmix", "advstyle", "advstyle-lambda0"),
        seeds=5,
        at="official",
        **WHOLE,
    ),
}


def run(config: Config, run: Run) -> dict[str, Any]:
    """Every method with every seed, side by side; then the tables and the figures."""
    case, seeds = _case(config)
    # Seeds outermost: what is there after a stop is paired.
    tasks = {
        f"{method} seed {seed} plan {i}": Task(config, method, seed, i, seed == seeds[0] and i == 0)
        for seed in seeds
        for i in range(len(case.plans))
        for method in config.methods
    }
    kept = run.stage("trials", lambda stage: _trials(config, run, stage, tasks))
    trials = [_rebuilt(item["trial"]) for item in kept.values()]
    probes = {item["trial"]["method"]: item for item in kept.values() if "curve" in item}
    return _report(config, run, case, seeds, trials, probes)


@dataclass(frozen=True)
class Task:
    """One training; `probe`: whether its model is looked at more closely."""

    config: Config
    method: str
    seed: int
    plan: int
    probe: bool


def _trials(config: Config, run: Run, stage: Stage, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """All trainings; a killed run keeps those that are done."""
    stage.every = 0.0
    done: dict[str, Any] = stage.load() or {}
    left = [name for name in tasks if name not in done]
    with run.progress("training", len(tasks)) as advance:
        advance("", steps=len(done))
        for i, item in parallel(
            carry_out, [tasks[name] for name in left], engine=config.engine, jobs=config.jobs
        ):
            done[left[i]] = item
            run.log(**{key: value for key, value in item["trial"].items() if key != "history"})
            stage.save(done)
            advance(f"{tasks[left[i]].method} {_rebuilt(item['trial']).macro:.1f} %")
    _domains.cache_clear()
    return {name: done[name] for name in tasks}


def carry_out(task: Task) -> dict[str, Any]:
    """Train and test one method with one seed; a process reads the data once, for all its tasks."""
    case, _ = _case(task.config)
    return _trial(task.config, case, _domains(task.config), task.plan, task.method, task.seed, task.probe)


@lru_cache(maxsize=1)
def _domains(config: Config) -> dict[str, Domain]:
    return _case(config)[0].load()


@lru_cache(maxsize=1)
def _case(config: Config) -> tuple[Case, list[int]]:
    def chosen(**plan: Any) -> Protocol:
        for key in plan.keys() & {"epochs", "batch", "lr"}:
            plan[key] = getattr(config, key) or plan[key]
        return Protocol(**plan, precision=config.precision)

    data = PACS_ARCHIVE if config.data == "PACS" else config.data
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if config.network != "small":
        protocol = chosen(epochs=50, batch=64, lr=1e-3, translate=True)
        case = network_case(
            data,
            config.network,
            config.weights,
            protocol,
            source=config.source,
            size=config.size or 224,
            leave_one_out=config.leave_one_out,
            at=config.at,
            device=device,
        )
        count = 3
    elif config.data == "digits":
        case = digits_case(chosen(epochs=4, batch=64, lr=0.05), config.size or 16, device)
        count = 5
    else:
        case = pacs_case(
            data,
            config.source,
            chosen(epochs=4, batch=32, lr=0.01),
            size=config.size or 64,
            test_limit=config.test_limit,
            device=device,
        )
        count = 10
    return case, [config.seed + i for i in range(config.seeds or count)]


def _trial(
    config: Config, case: Case, domains: dict[str, Domain], i: int, method: str, seed: int, probe: bool
) -> dict[str, Any]:
    sources, targets = case.plans[i]
    record, model = trial(case.build, domains, sources, targets, method, seed, case.protocol, case.at)
    out: dict[str, Any] = {"trial": {**asdict(record), "history": list(record.history)}}
    if probe:
        layer = case.at[0]
        source = domains[sources[0]]
        ours, held = split(source.labels, case.protocol.validation, case.protocol.split_seed)
        # The unit is that of the training images; what is attacked was not trained on.
        train, _ = _first(source.subset(ours), 10 * config.attacked)
        test = _first(source.subset(held), config.attacked)
        reference = fit_reference(model, train.split(100), layer)
        curve = style_curve(model, *test, reference, config.radii, steps=config.attack_steps)
        out["curve"] = asdict(curve)
        out["space"] = _space(model, domains, (sources[0], *targets), layer, config.attacked * 3)
    return out


def _first(domain: Domain, count: int) -> tuple[Tensor, Tensor]:
    """`count` images spread evenly over a domain, and their labels."""
    chosen = torch.linspace(0, len(domain) - 1, min(count, len(domain))).long()
    return floating(domain.images[chosen]), domain.labels[chosen]


def _space(
    model: nn.Module, domains: Mapping[str, Domain], names: Sequence[str], layer: str, count: int
) -> dict[str, Tensor]:
    """Channel statistics behind a layer, `(images, 2 channels)` a domain, and the source's as AdvStyle
    changes them.
    """
    out: dict[str, Tensor] = {}
    with frozen(model), torch.no_grad(), Taps(model, [layer]) as taps:
        for name in names:
            x, _ = _first(domains[name], count)
            model(x)
            mu, sigma = channel_statistics(taps.values[0])
            out[name] = torch.cat([mu, sigma], dim=1).cpu()
    style = style_layers(model).get(layer)
    if isinstance(style, AdvStyle):
        noise = torch.randn(out[names[0]].shape, generator=torch.Generator().manual_seed(0))
        scales = torch.cat([style.sigma_mu, style.sigma_sigma]).detach().cpu()
        out["styled"] = out[names[0]] + noise * scales
    return out


def _rebuilt(row: Mapping[str, Any]) -> Trial:
    return Trial(**{**row, "sources": tuple(row["sources"]), "history": tuple(row["history"])})


def _report(
    config: Config, run: Run, case: Case, seeds: Sequence[int], trials: list[Trial], probes: Mapping[str, Any]
) -> dict[str, Any]:
    baseline = "erm" if "erm" in config.methods else config.methods[0]
    table = summarise(trials, baseline)
    pairs = {
        f"{a} - {b}": asdict(paired(trials, a, b))
        for a, b in (
            ("advstyle", "erm"),
            ("dsu", "erm"),
            ("mixstyle", "erm"),
            ("advstyle-lambda0", "erm"),
            ("advstyle", "dsu"),
            ("advstyle", "advstyle-lambda0"),
        )
        if a in table and b in table
    }
    curves = {
        name: StyleCurve(
            **{
                **item["curve"],
                "radii": tuple(item["curve"]["radii"]),
                "accuracy": tuple(item["curve"]["accuracy"]),
            }
        )
        for name, item in probes.items()
    }
    run.figure(
        "accuracy",
        figures.accuracies(trials, table),
        f"Accuracy a target domain, {len(seeds)} paired seeds. {case.note}.",
    )
    run.figure(
        "paired",
        figures.differences(trials, table, baseline),
        f"Macro accuracy minus that of {baseline} with the same seed: each seed, mean and 95 % t-interval.",
    )
    if curves:
        run.figure(
            "worst-style",
            figures.worst_styles(curves),
            f"Worst-style attack behind {case.at[0]} on {config.attacked} held-out source images "
            "(first seed): share that no style within the budget fooled.",
        )
    distances: dict[str, float] = {}
    if "advstyle" in probes:
        space = probes["advstyle"]["space"]
        run.figure(
            "style-space",
            figures.style_space(space),
            f"Styles behind {case.at[0]} (first seed, AdvStyle), their first two principal components.",
        )
        source = next(iter(space))
        distances = {
            name: proxy_a_distance(space[source], rows) for name, rows in space.items() if name != source
        }
    moving = [item for item in trials if item.method == "advstyle" and item.seed == seeds[0]]
    if moving and moving[0].history:
        run.figure(
            "scales",
            figures.scale_history(moving[0].history),
            "Mean size of the learnt scales a layer after each epoch (AdvStyle, first seed).",
        )
    return {
        "data": config.data,
        "network": config.network,
        "protocol": asdict(case.protocol),
        "note": case.note,
        "seeds": list(seeds),
        "baseline": baseline,
        "methods": {name: asdict(row) for name, row in table.items()},
        "paired": pairs,
        "worst_style": {name: asdict(curve) for name, curve in curves.items()},
        "proxy_a_distance": distances,
    }


STUDY = Study("style", PRESETS, run, CLAIMS)
