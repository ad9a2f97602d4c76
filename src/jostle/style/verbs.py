"""What the command line offers: train, compare, attack and inspect a user's own network on his own images."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.files import whole, write_json
from jostle.style.attack import Norm, StyleCurve, fit_reference, style_curve
from jostle.style.domains import as_domain, load_domains, split
from jostle.style.evaluate import summarise
from jostle.style.insertion import KINDS, insert, places
from jostle.style.protocol import Protocol, dg_benchmark, fit, scale_report, stream
from jostle.zoo import Images, load_model

Progress = Callable[[int, int, str], None]
Kind = Literal["erm", "mixup", "advstyle", "dsu", "mixstyle", "efdmix", "padain"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network: its accuracy on held-out images (percent), and how its learnt scales ended."""

    suffix: ClassVar[str] = ".safetensors"

    accuracy: float
    loss: float
    scales: dict[str, dict[str, float]]
    state: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the weights, style layers and all, as safetensors."""
        from safetensors.torch import save_file

        with whole(Path(path)) as draft:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state.items()}, draft)


def train(
    model: nn.Module,
    data: Images,
    *,
    kind: Kind = "advstyle",
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
    tenth of each class is held out. `kind`: the style layer. `at`: names of layers; none: chosen by the kind
    of network. `epochs`, `batch`, `lr`: SGD with a cosine. `seed`: of order, mirroring and noise.
    `keep_layers`: leave the style layers, and their scales in the weights, in the model.
    **Returns:** [`Trained`][jostle.style.verbs.Trained].
    """
    domain = as_domain(data)
    protocol = Protocol(epochs=epochs, batch=batch, lr=lr, mirror=mirror)
    ours, held = split(domain.labels, protocol.validation, protocol.split_seed)
    inserted = None
    if kind in KINDS:
        where = at or places(model, "auto", domain.images[:2])
        inserted = insert(model, where, kind, example=domain.images[:2], generator=stream(seed, "noise"))
    history, accuracy = fit(
        model,
        domain.subset(ours),
        protocol,
        seed,
        held=domain.subset(held),
        mixup=kind == "mixup",
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

    methods: dict[str, dict[str, object]]
    protocol: dict[str, object]

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
    seeds: int = 3,
    epochs: int = 10,
    batch: int = 64,
    lr: float = 1e-3,
    size: int = 224,
    callback: Progress | None = None,
) -> Bench:
    """Compare methods on your own domains, over paired seeds.

    **Arguments:** `data`: a folder or zip with `DOMAIN/CLASS/` inside. `domains`: their names. `network`,
    `weights`: as for `zoo.load_model`; its last linear layer is made new. `methods`: of `METHODS`; the first
    is the baseline. `source`: train on this one; `None`: leave each domain out in turn. Others as for
    [`Protocol`][jostle.style.protocol.Protocol].
    **Returns:** [`Bench`][jostle.style.verbs.Bench].
    """
    from jostle.style.cases import _new_head

    loaded = load_domains(data, domains, size=size)
    classes = int(max(int(domain.labels.max()) for domain in loaded.values())) + 1

    def build() -> nn.Module:
        model = load_model(network, weights)
        _new_head(model, classes)
        return model

    protocol = Protocol(epochs=epochs, batch=batch, lr=lr)
    trials = dg_benchmark(
        build,
        loaded,
        methods,
        protocol,
        seeds=range(seeds),
        sources=None if source is None else (source,),
        callback=callback,
    )
    table = summarise(trials, methods[0])
    return Bench({name: asdict(row) for name, row in table.items()}, asdict(protocol))


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

    **Arguments:** `model`, `data`: yours. `layer`: a dotted name. `radii`: rising budgets, in standard
    deviations of the data's own styles. `norm`: of the budget. `steps`: of the ascent. `images`: how many are
    attacked, spread evenly.
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
    **Raises:** `JostleError` if it holds none.
    """
    from safetensors.torch import load_file

    require(Path(weights).exists(), f"weights {weights} does not exist")
    state = load_file(weights)
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
