"""What the command line offers: train, compare, attack and inspect a user's own network on his own images."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.files import write_json, write_tensors
from jostle.style.advstyle import Recipe
from jostle.style.attack import Norm, StyleCurve, fit_reference, style_curve
from jostle.style.diagnostics import scale_report
from jostle.style.domains import as_domain, load_domains, split
from jostle.style.evaluate import summarise
from jostle.style.insertion import KINDS, insert, places
from jostle.style.methods import METHODS, Ablation, Method, ablations
from jostle.style.protocol import Protocol, dg_benchmark, fit, stream
from jostle.zoo import Images, load_model
from jostle.zoo.weights import read_state

Progress = Callable[[int, int, str], None]
Kind = Literal["erm", "mixup", "jitter", "grayscale", "advstyle", "dsu", "mixstyle", "efdmix", "padain"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network: its accuracy on held-out images (percent), and how its learnt scales ended."""

    suffix: ClassVar[str] = ".safetensors"

    accuracy: float
    loss: float
    scales: dict[str, dict[str, float]]
    state: dict[str, Tensor]

    def numbers(self) -> dict[str, object]:
        """What there is to read: all but the weights."""
        return {"accuracy": self.accuracy, "loss": self.loss, "scales": self.scales}

    def save(self, path: Path) -> None:
        """Write the weights, style layers and all, as safetensors."""
        write_tensors(Path(path), self.state)


def train(
    model: nn.Module,
    data: Images,
    *,
    kind: Kind = "advstyle",
    lam: float = 10.0,
    recipe: Recipe = "official",
    at: tuple[str, ...] = (),
    epochs: int = 10,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    mirror: bool = True,
    keep_layers: bool = False,
    callback: Progress | None = None,
) -> Trained:
    """Fine-tune a network with style layers in it, under the official protocol.

    **Arguments:** `model`: of as many classes as `data`; trained in place. `data`: images with labels; a
    tenth of each class is held out. `kind`: the style layer, another method, or `erm` (nothing). `lam`:
    weight of AdvStyle's reversed gradient, at least 0 (0: no adversary). `recipe`: of AdvStyle: `official`,
    `adv` (without the DSU branch), `direction` (the re-identification variant) or `intensity`. `at`: names of
    layers that style layers go behind; none: chosen by the kind of network. `epochs`: of SGD, at least 1.
    `batch`: images a step, at least 2. `lr`: learning rate at the start, which falls to zero as a cosine.
    `seed`: of order, mirroring and noise. `mirror`: mirror images with odds of a half. `keep_layers`: leave
    the style layers, and their scales in the weights, in the model.
    **Returns:** [`Trained`][jostle.style.verbs.Trained].
    """
    domain = as_domain(data)
    protocol = Protocol(epochs=epochs, batch=batch, lr=lr, mirror=mirror)
    ours, held = split(domain.labels, protocol.validation, protocol.split_seed)
    inserted = None
    if kind in KINDS:
        where = at or places(model, "auto", domain.images[:2])
        settings = {"lam": lam, "recipe": recipe} if kind == "advstyle" else {}
        noise = stream(seed, "noise")
        inserted = insert(model, where, kind, example=domain.images[:2], generator=noise, **settings)
    history, accuracy = fit(
        model,
        domain.subset(ours),
        protocol,
        seed,
        held=domain.subset(held),
        kind=kind,
        callback=callback,
    )
    report = scale_report(model)
    if inserted is not None and not keep_layers:
        inserted.remove()
    model.eval()
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Trained(accuracy, history[-1]["loss"], report, state)


@dataclass(frozen=True)
class Bench:
    """Methods compared: macro and pooled accuracy and the paired difference, each mean and interval
    (percent).
    """

    methods: dict[str, dict[str, Any]]
    protocol: dict[str, Any]

    def numbers(self) -> dict[str, str]:
        """A line a method: what a reader looks for first."""

        def told(row: dict[str, Any], key: str, sign: str = "") -> str:
            found = row[key]
            return f"{found['mean']:{sign}.1f} [{found['low']:{sign}.1f}, {found['high']:{sign}.1f}]"

        return {
            name: f"macro {told(row, 'macro')} %, pooled {told(row, 'pooled')} %; against the first: macro "
            f"{told(row, 'difference', '+')}, pooled {told(row, 'pooled_difference', '+')}, "
            f"above in {row['wins']} of {row['macro']['count']} seeds"
            for name, row in self.methods.items()
        }

    def save(self, path: Path) -> None:
        """Write the comparison, protocol and all, as JSON."""
        write_json(Path(path), asdict(self))


def bench(
    data: str,
    domains: tuple[str, ...],
    *,
    network: str = "torchvision:resnet18",
    weights: str | None = None,
    methods: tuple[str, ...] = ("erm", "dsu", "advstyle", "advstyle-lambda0"),
    source: str | None = None,
    at: tuple[str, ...] = (),
    lists: str | None = None,
    seeds: int = 3,
    epochs: int = 10,
    batch: int = 64,
    lr: float = 1e-3,
    size: int = 224,
    device: str = "auto",
    callback: Progress | None = None,
) -> Bench:
    """Compare methods on your own domains, over paired seeds.

    **Arguments:** `data`: a folder or zip with `DOMAIN/CLASS/` inside. `domains`: names of at least two of
    its domains. `network`: `efficientnet-lite0`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`; its
    last linear layer is made new. `weights`: a file, or `DEFAULT` for torchvision's or timm's own; `None`:
    random there. `methods`: of `style.METHODS`: `erm` (nothing), `mixup`, `jitter`, `grayscale`, `mixstyle`,
    `padain`, `efdmix`, `dsu`, `advstyle` or an ablation of it, as `advstyle-lambda0`; the first is the
    baseline. `source`: train on this domain; `None`: leave each domain out in turn. `at`: names of layers
    that style layers go behind; none: chosen by the kind of network. `lists`: a folder of split lists as PACS
    has them, see [`official_parts`][jostle.style.domains.official_parts]; `None`: a tenth of each class is
    held out. `seeds`: how many seeds each method is trained with, at least 1. `epochs`: of SGD in each
    training, at least 1. `batch`: images a step, at least 2. `lr`: learning rate at the start, which falls to
    zero as a cosine. `size`: side in pixels of the squares that images are brought to. `device`: `auto` (the
    GPU if there is one), `cpu` or `cuda`.
    **Returns:** [`Bench`][jostle.style.verbs.Bench].
    """
    unknown = sorted(set(methods) - METHODS.keys())
    require(not unknown, f"methods must be of {', '.join(METHODS)}, but {', '.join(unknown)} came")
    table = {name: METHODS[name] for name in methods}
    return _compared(
        table,
        data,
        domains,
        network,
        weights,
        source,
        at,
        lists,
        seeds,
        epochs,
        batch,
        lr,
        size,
        device,
        callback,
    )


def ablate(
    data: str,
    domains: tuple[str, ...],
    *,
    what: tuple[Ablation, ...] = ("places", "lam", "start", "ascent"),
    network: str = "torchvision:resnet18",
    weights: str | None = None,
    source: str | None = None,
    at: tuple[str, ...] = (),
    lists: str | None = None,
    seeds: int = 3,
    epochs: int = 10,
    batch: int = 64,
    lr: float = 1e-3,
    size: int = 224,
    device: str = "auto",
    callback: Progress | None = None,
) -> Bench:
    """Compare AdvStyle with itself with one thing changed at a time, on your own domains, over paired seeds.

    **Arguments:** `data`: a folder or zip with `DOMAIN/CLASS/` inside. `domains`: names of at least two of
    its domains. `what`: what is changed: `places` (each alone, and all but the last), `lam` (0 and 1 instead
    of 10), `start` (constant and half-normal scales), `ascent` (three ascent-only steps a batch), `recipe`
    (no DSU branch, direction, intensity) or `branch` (one a sample). `network`: `efficientnet-lite0`,
    `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`; its last linear layer is made new. `weights`: a
    file, or `DEFAULT` for torchvision's or timm's own; `None`: random there. `source`: train on this domain;
    `None`: leave each domain out in turn. `at`: names of layers that style layers go behind; none: chosen by
    the kind of network. `lists`: a folder of split lists as PACS has them, see
    [`official_parts`][jostle.style.domains.official_parts]; `None`: a tenth of each class is held out.
    `seeds`: how many seeds each variant is trained with, at least 1. `epochs`: of SGD in each training, at
    least 1. `batch`: images a step, at least 2. `lr`: learning rate at the start, which falls to zero as a
    cosine. `size`: side in pixels of the squares that images are brought to. `device`: `auto` (the GPU if
    there is one), `cpu` or `cuda`.
    **Returns:** [`Bench`][jostle.style.verbs.Bench], differences against AdvStyle.
    """
    if "places" in what and not at:
        at = places(load_model(network, weights), "auto", torch.zeros(2, 3, size, size))
    table = ablations(what, at)
    return _compared(
        table,
        data,
        domains,
        network,
        weights,
        source,
        at,
        lists,
        seeds,
        epochs,
        batch,
        lr,
        size,
        device,
        callback,
    )


def _compared(
    table: Mapping[str, Method],
    data: str,
    domains: tuple[str, ...],
    network: str,
    weights: str | None,
    source: str | None,
    at: tuple[str, ...],
    lists: str | None,
    seeds: int,
    epochs: int,
    batch: int,
    lr: float,
    size: int,
    device: str,
    callback: Progress | None,
) -> Bench:
    """Train and summarise; the first method is the baseline."""
    from jostle.style.cases import new_head

    require(seeds >= 1, f"seeds must be at least 1, but {seeds} came")
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    loaded = load_domains(data, domains, size=size, lists=lists)
    loaded = {name: domain.to(where) for name, domain in loaded.items()}
    classes = int(max(int(domain.labels.max()) for domain in loaded.values())) + 1

    def build() -> nn.Module:
        model = load_model(network, weights)
        new_head(model, classes)
        return model.to(where)

    protocol = Protocol(epochs=epochs, batch=batch, lr=lr, split="official" if lists else "drawn")
    trials = dg_benchmark(
        build,
        loaded,
        tuple(table),
        protocol,
        seeds=range(seeds),
        sources=None if source is None else (source,),
        at=at or "auto",
        table=table,
        callback=callback,
    )
    rows = summarise(trials, next(iter(table)))
    return Bench({name: asdict(row) for name, row in rows.items()}, asdict(protocol))


def attack(
    model: nn.Module,
    data: Images,
    layer: str,
    *,
    radii: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
    norm: Norm = "L2",
    steps: int = 20,
    images: int = 200,
    callback: Progress | None = None,
) -> StyleCurve:
    """How a network's accuracy falls as the channel statistics behind a layer are moved by the worst amount.

    **Arguments:** `model`: of class scores; left as it was. `data`: images with labels, at least two.
    `layer`: dotted name of the layer behind which the channel statistics are moved. `radii`: rising budgets,
    in standard deviations of the attacked images' own styles. `norm`: of the budget. `steps`: of the ascent
    at each radius, at least 1. `images`: how many are attacked at most, spread evenly.
    **Returns:** [`StyleCurve`][jostle.style.attack.StyleCurve].
    """
    chosen = torch.linspace(0, len(data) - 1, min(images, len(data))).long()
    x, y = data.subset(chosen).tensors()
    reference = fit_reference(model, x.split(64), layer)
    return style_curve(model, x, y, reference, radii, norm=norm, steps=steps, callback=callback)


def report(weights: Path) -> dict[str, dict[str, float]]:
    """How the learnt scales in a file of weights stand, a row a layer: sizes, negative share, calls of a
    branch.

    **Arguments:** `weights`: safetensors that `train --keep-layers` wrote, or any with AdvStyle layers.
    **Raises:** `JostleError` if it holds none, or cannot be read.
    """
    state = read_state(weights)
    rows = {}
    for key in state:
        if key.endswith("sigma_mu"):
            stem = key.removesuffix("sigma_mu")
            mu, sigma = state[key], state[stem + "sigma_sigma"]
            rows[stem.rstrip(".").removeprefix("style_layers.").replace("/", ".")] = {
                "mean_mu": float(mu.abs().mean()),
                "mean_sigma": float(sigma.abs().mean()),
                "negative": float(torch.cat([mu, sigma]).lt(0).double().mean()),
                **{
                    name: float(state[stem + name])
                    for name in ("n_id", "n_adv", "n_dsu")
                    if stem + name in state
                },
            }
    require(bool(rows), f"weights {weights} hold no AdvStyle layer; train with --keep-layers")
    return rows
