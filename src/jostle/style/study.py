"""The study of AdvStyle: paired comparisons under a domain shift, worst styles, and the space of styles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.taps import Taps, frozen
from jostle.lab import Claim, Run, Stage, Study
from jostle.style import figures
from jostle.style.advstyle import AdvStyle
from jostle.style.attack import StyleCurve, fit_reference, style_curve
from jostle.style.cases import PACS_ARCHIVE, Case, digits_case, network_case, pacs_case
from jostle.style.evaluate import Interval, Trial, paired, proxy_a_distance, summarise
from jostle.style.insertion import style_layers
from jostle.style.protocol import Domain, Protocol, split, trial
from jostle.style.restyle import channel_statistics


@dataclass(frozen=True)
class Config:
    """Settings of the study; a 0 stands for what the data set's own plan says.

    `data`: `digits`, or `PACS` (`pacs-128.zip`, looked for here and under `JOSTLE_DATA`), or a folder or zip
    of `DOMAIN/CLASS/` with the domains of PACS. `network`: `small` (a CNN for digits, EfficientNet-Lite0 with
    a cached trunk for PACS) or a model of the zoo, with `weights`. `source`: the training domain of PACS with
    the small network. `seeds`, `epochs`, `batch`, `lr`, `size`: of the runs. `at`: where style layers go in a
    network of the zoo. `leave_one_out`: train on three domains. `radii`, `attacked`, `attack_steps`: of the
    worst-style curve.
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
    radii: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    attacked: int = 64
    attack_steps: int = 10


WHOLE = {
    "data": "PACS",
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
    """Every method with every seed, one stage each; then the tables and the figures."""
    case, seeds = _case(config)
    loaded: dict[str, Domain] = {}

    def domains() -> dict[str, Domain]:
        if not loaded:
            loaded.update(case.load())
        return loaded

    jobs = [(seed, i, method) for seed in seeds for i in range(len(case.plans)) for method in config.methods]
    kept: list[dict[str, Any]] = []
    with run.progress("training", len(jobs)) as advance:
        for seed, i, method in jobs:
            # The first seed's models are looked at more closely.
            probe = seed == seeds[0] and i == 0

            def work(
                stage: Stage, seed: int = seed, i: int = i, method: str = method, probe: bool = probe
            ) -> Any:
                return _trial(config, case, domains(), i, method, seed, probe)

            kept.append(run.stage(f"{method} seed {seed} plan {i}", work))
            row = kept[-1]["trial"]
            advance(f"{method} {_rebuilt(row).macro:.1f} %")
            run.log(**{key: value for key, value in row.items() if key != "history"})
    trials = [_rebuilt(item["trial"]) for item in kept]
    probes = {item["trial"]["method"]: item for item in kept if "curve" in item}
    return _report(config, run, case, seeds, trials, probes)


def _case(config: Config) -> tuple[Case, list[int]]:
    def chosen(**plan: Any) -> Protocol:
        return Protocol(**{key: getattr(config, key) or value for key, value in plan.items()})

    data = PACS_ARCHIVE if config.data == "PACS" else config.data
    if config.network != "small":
        protocol = chosen(epochs=50, batch=64, lr=1e-3)
        size = config.size or 224
        case = network_case(
            data,
            config.network,
            config.weights,
            protocol,
            size=size,
            leave_one_out=config.leave_one_out,
            at=config.at,
        )
        count = 3
    elif config.data == "digits":
        case, count = digits_case(chosen(epochs=4, batch=64, lr=0.05), size=config.size or 16), 5
    else:
        protocol = chosen(epochs=4, batch=32, lr=0.01)
        case = pacs_case(data, config.source, protocol, size=config.size or 64, test_limit=config.test_limit)
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
        # Held-out images of the source: what is attacked was not trained on.
        _, held = split(source.labels, case.protocol.validation, case.protocol.split_seed)
        test = _first(source.subset(held), config.attacked)
        reference = fit_reference(model, source.images[: 10 * config.attacked].split(100), layer)
        curve = style_curve(model, *test, reference, config.radii, steps=config.attack_steps)
        out["curve"] = asdict(curve)
        out["space"] = _space(model, domains, (sources[0], *targets), layer, config.attacked * 3)
    return out


def _first(domain: Domain, count: int) -> tuple[Tensor, Tensor]:
    """`count` images spread evenly over a domain, and their labels."""
    chosen = torch.linspace(0, len(domain) - 1, min(count, len(domain))).long()
    return domain.images[chosen], domain.labels[chosen]


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


def _interval(metrics: Mapping[str, Any], pair: str) -> Interval | None:
    row = metrics["paired"].get(pair)
    return None if row is None else Interval(**row)


def _gap(metrics: Mapping[str, Any], pair: str) -> str | None:
    found = _interval(metrics, pair)
    return (
        None
        if found is None
        else f"{found.mean:+.1f} points [{found.low:+.1f}, {found.high:+.1f}], {found.count} seeds"
    )


def _above(metrics: Mapping[str, Any], pair: str) -> bool:
    found = _interval(metrics, pair)
    return found is not None and found.low > 0


def _steady(metrics: Mapping[str, Any]) -> bool:
    rows = metrics["methods"]
    mine = rows["advstyle"]["macro"]
    others = [row["macro"] for name, row in rows.items() if not name.startswith("advstyle")]
    return all(mine["mean"] > row["mean"] and mine["sd"] < row["sd"] for row in others)


def _table(metrics: Mapping[str, Any]) -> str | None:
    if "advstyle" not in metrics["methods"]:
        return None
    return ", ".join(
        f"{k} {v['macro']['mean']:.1f} ± {v['macro']['sd']:.1f}" for k, v in metrics["methods"].items()
    )


def _single_source(metrics: Mapping[str, Any]) -> str | None:
    rows = metrics["methods"]
    whole = metrics["network"] == "torchvision:resnet50" and "advstyle" in rows
    return (
        f"{rows['erm']['pooled']['mean']:.1f} -> {rows['advstyle']['pooled']['mean']:.1f} %"
        if whole
        else None
    )


CLAIMS = [
    Claim(
        "STY-GAIN",
        "AdvStyle is above plain training, seed by seed, with a 95 % interval above zero",
        "not stated",
        "quick",
        lambda m: _gap(m, "advstyle - erm"),
        lambda m: _above(m, "advstyle - erm"),
    ),
    Claim(
        "STY-ADVERSARY",
        "The adversary helps: lambda = 10 is above lambda = 0 (noise alone), interval above zero",
        "not stated",
        "quick",
        lambda m: _gap(m, "advstyle - advstyle-lambda0"),
        lambda m: _above(m, "advstyle - advstyle-lambda0"),
    ),
    Claim(
        "STY-C2",
        "AdvStyle has a higher mean and a lower fluctuation over seeds than every other method",
        "stated without a figure (abstract)",
        "quick",
        _table,
        _steady,
    ),
    Claim(
        "STY-C1",
        "Single-source PACS with ResNet50: above the best earlier method, mean accuracy",
        "61.2 -> 67.1 %",
        "paper",
        _single_source,
        lambda m: all(
            m["methods"]["advstyle"]["pooled"]["mean"] > row["pooled"]["mean"]
            for name, row in m["methods"].items()
            if not name.startswith("advstyle")
        ),
    ),
    Claim(
        "STY-C3",
        "Re-identification with OSNet, Market to Duke: above DSU in mAP",
        "31.0 -> 33.2 mAP (as a later paper quotes it)",
        "paper",
        lambda m: None,
        lambda m: False,
    ),
]

STUDY = Study("style", PRESETS, run, CLAIMS)
