"""The study of AdvStyle: paired comparisons under a domain shift, worst styles, and the space of styles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from jostle.core.statistics import t_interval
from jostle.lab import Run, Study, sweep
from jostle.lab.engines import Engine
from jostle.style import figures
from jostle.style.attack import StyleCurve
from jostle.style.cases import PACS_ARCHIVE, Case, digits_case, network_case, pacs_case
from jostle.style.claims import CLAIMS
from jostle.style.domains import Domain
from jostle.style.evaluate import Trial, paired, proxy_a_distance, summarise
from jostle.style.identify import asked, identities, ranked, retrieval_trial, untrained
from jostle.style.probes import probed
from jostle.style.protocol import Protocol, trial


@dataclass(frozen=True)
class Config:
    """Settings of the study; networks other than `small` are for PACS.

    `data`: `digits`, or `PACS` (`pacs-128.zip`, looked for here and under `JOSTLE_DATA`), or a folder or zip
    of `DOMAIN/CLASS/` with the domains of PACS. `network`: `small` (a CNN for digits, EfficientNet-Lite0 with
    a cached trunk for PACS), `efficientnet-lite0`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`.
    `weights`: of a network other than `small`: a file, or `DEFAULT` for torchvision's or timm's own; `None`:
    random there, the real ones for `efficientnet-lite0`. `methods`: what is compared, of `style.METHODS`:
    `erm` (nothing), `mixup`, `jitter`, `grayscale`, `mixstyle`, `padain`, `efdmix`, `dsu`, `advstyle` or an
    ablation of it, as `advstyle-lambda0`. `source`: the training domain of PACS, or `each` in turn with a
    network other than `small`; with `leave_one_out` the domain that is tested on. `lists`: a folder with the
    official split lists of PACS; `None`: a tenth of each class of the sources is held out. `seeds`: how many
    seeds each method is trained with, from `seed` on; 0: 5 for digits, 10 for PACS with the `small` network,
    3 with another. `seed`: the first of the seeds. `epochs`: of each training; 0: 4 with the `small` network,
    50 with another. `batch`: images a step, at least 2; 0: 64, but 32 for PACS with the `small` network.
    `lr`: learning rate at the start of a cosine; 0: 0.05 for digits, 0.01 for PACS with the `small` network,
    0.001 with another. `size`: side of the images in pixels; 0: 16 for digits, 64 for PACS with the `small`
    network, 224 with another. `test_limit`: how many images of each target domain are tested on at most, at
    least 1; for PACS with the `small` network only. `at`: where style layers go in a network other than
    `small`: `auto`, or for ResNets `official` (six places) or `early` (without stages 3 and 4).
    `leave_one_out`: train on three domains and test on the fourth, with a network other than `small`. `half`:
    compute the network in bfloat16. `device`: `auto` (the GPU if there is one), `cpu` or `cuda`. `jobs`:
    trainings at a time; several share a GPU. `radii`: rising budgets of the worst-style curve, in units of
    the scatter of the training images' styles. `attacked`: how many held-out source images the worst-style
    curve is measured on. `attack_steps`: of the worst-style ascent at each radius, at least 1. `retrieval`:
    methods compared, beside the untrained network, at finding again in the other set digits that were no
    classes of the training; for `digits` only.
    """

    data: str = "digits"
    network: str = "small"
    weights: str | None = None
    methods: tuple[str, ...] = ("erm", "dsu", "mixstyle", "advstyle", "advstyle-lambda0")
    source: str = "photo"
    lists: str | None = None
    seeds: int = 0
    seed: int = 0
    epochs: int = 0
    batch: int = 0
    lr: float = 0.0
    size: int = 0
    test_limit: int = 400
    at: str = "auto"
    leave_one_out: bool = False
    half: bool = False
    device: str = "auto"
    jobs: int = 1
    engine: Engine = "loky"
    radii: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    attacked: int = 64
    attack_steps: int = 10
    retrieval: tuple[str, ...] = ("erm", "dsu", "direction")


WHOLE = {
    "data": "PACS",
    "source": "each",
    "half": True,
    "epochs": 50,
    "batch": 64,
    "lr": 1e-3,
    "size": 224,
    "attacked": 500,
    "attack_steps": 20,
}
PRESETS = {
    "quick": Config(jobs=2),
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
        methods=("erm", "mixstyle", "dsu", "efdmix", "advstyle", "advstyle-lambda0", "advstyle-early"),
        seeds=5,
        at="official",
        **WHOLE,
    ),
}


UNTRAINED = "untrained"
"""The network before its training: what retrieval owes to the learning at all."""
QUERIES = 10
"""Of each identity in the retrieval; its other images are the gallery."""
PAIRS = (
    ("advstyle", "erm"),
    ("dsu", "erm"),
    ("mixstyle", "erm"),
    ("advstyle-lambda0", "erm"),
    ("advstyle", "dsu"),
    ("advstyle", "advstyle-lambda0"),
    ("advstyle", "advstyle-early"),
)


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
    kept = sweep(
        run,
        "trials",
        carry_out,
        tasks,
        engine=config.engine,
        jobs=config.jobs,
        figure=lambda item: f"{item['trial']['method']} {_rebuilt(item['trial']).macro:.1f} %",
        rows=lambda _, item: [{key: value for key, value in item["trial"].items() if key != "history"}],
    )
    trials = [_rebuilt(item["trial"]) for item in kept.values()]
    again = {
        f"{method} seed {seed} plan {i}": Task(config, method, seed, i, False)
        for seed in seeds
        for i in range(len(case.plans) if case.known else 0)
        for method in (UNTRAINED, *config.retrieval)
    }
    found = sweep(
        run,
        "retrieval",
        find_again,
        again,
        engine=config.engine,
        jobs=config.jobs,
        figure=lambda item: f"{item['method']} {item['mean_ap']:.1f} mAP",
        rows=lambda _, item: [item],
    )
    _domains.cache_clear()
    probes = {item["trial"]["method"]: item for item in kept.values() if "curve" in item}
    metrics = _report(config, run, case, seeds, trials, probes)
    return metrics | (_retrieval_report(run, case, list(found.values())) if found else {})


@dataclass(frozen=True)
class Task:
    """One training; `probe`: whether its model is looked at more closely."""

    config: Config
    method: str
    seed: int
    plan: int
    probe: bool


def carry_out(task: Task) -> dict[str, Any]:
    """Train and test one method with one seed; a process reads the data once, for all its tasks."""
    case, _ = _case(task.config)
    return _trial(task.config, case, _domains(task.config), task.plan, task.method, task.seed, task.probe)


def find_again(task: Task) -> dict[str, Any]:
    """Learn the known classes of the source as identities, and find the others again in the target."""
    case, _ = _case(task.config)
    domains = _domains(task.config)
    sources, targets = case.plans[task.plan]
    source, target = identities(domains[sources[0]], case.known), domains[targets[0]]
    others = [kind for kind in target.labels.unique().tolist() if kind not in case.known]
    query, gallery = asked(identities(target, others), QUERIES)
    if task.method == UNTRAINED:
        found = ranked(untrained(case.build, task.seed), query, gallery, layer=case.layer)
    else:
        how = task.method, task.seed, case.protocol, case.at
        found = retrieval_trial(case.build, source, query, gallery, *how, layer=case.layer)
    return {"method": task.method, "seed": task.seed, "target": targets[0], **asdict(found)}


@lru_cache(maxsize=1)
def _domains(config: Config) -> dict[str, Domain]:
    return _case(config)[0].load()


@lru_cache(maxsize=1)
def _case(config: Config) -> tuple[Case, list[int]]:
    def chosen(**plan: Any) -> Protocol:
        for key in plan.keys() & {"epochs", "batch", "lr"}:
            plan[key] = getattr(config, key) or plan[key]
        split = "official" if config.lists else "drawn"
        return Protocol(**plan, half=config.half, split=split)

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
            lists=config.lists,
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
            lists=config.lists,
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
        out |= probed(model, case, domains, i, config.radii, config.attacked, config.attack_steps)
    return out


def _rebuilt(row: Mapping[str, Any]) -> Trial:
    return Trial(**{**row, "sources": tuple(row["sources"]), "history": tuple(row["history"])})


def _report(
    config: Config, run: Run, case: Case, seeds: Sequence[int], trials: list[Trial], probes: Mapping[str, Any]
) -> dict[str, Any]:
    baseline = "erm" if "erm" in config.methods else config.methods[0]
    table = summarise(trials, baseline)
    pairs = [(a, b) for a, b in PAIRS if a in table and b in table]
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
        "leave_one_out": config.leave_one_out,
        "paired": {f"{a} - {b}": asdict(paired(trials, a, b)) for a, b in pairs},
        "paired_pooled": {f"{a} - {b}": asdict(paired(trials, a, b, "pooled")) for a, b in pairs},
        "worst_style": {name: asdict(curve) for name, curve in curves.items()},
        "proxy_a_distance": distances,
    }


def _retrieval_report(run: Run, case: Case, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean average precision and first ranks a seed, the mean over the directions, and paired differences."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})

    def scores(method: str, key: str) -> list[float]:
        mine = [[r[key] for r in rows if (r["method"], r["seed"]) == (method, seed)] for seed in seeds]
        return [sum(values) / len(values) for values in mine]

    table = {m: {key: scores(m, key) for key in ("mean_ap", "rank1")} for m in methods}
    run.figure(
        "retrieval",
        figures.retrievals(table),
        f"Digits {', '.join(map(str, case.known))} of one set are the identities learnt; the others are found again "
        f"in the other set, {QUERIES} queries each. Every seed a dot, the mean over both directions.",
    )
    wanted = [("erm", UNTRAINED), ("dsu", "erm"), ("direction", "erm"), ("direction", "dsu")]
    gaps = [(a, b) for a, b in wanted if {a, b} <= {*methods}]
    return {
        "retrieval": {m: {k: asdict(t_interval(v)) for k, v in row.items()} for m, row in table.items()},
        "retrieval_paired": {
            f"{a} - {b}": asdict(
                t_interval([x - y for x, y in zip(table[a]["mean_ap"], table[b]["mean_ap"], strict=True)])
            )
            for a, b in gaps
        },
    }


STUDY = Study("style", PRESETS, run, CLAIMS, data_parallel=True)
