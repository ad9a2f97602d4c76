"""The experiments of the study: which domains, which network, which protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from jostle.core.errors import require
from jostle.style.domains import Domain, as_domain, load_domains
from jostle.style.insertion import At, places
from jostle.style.lite import LiteTail, LiteTrunk, cached, layout
from jostle.style.protocol import Protocol
from jostle.zoo import load_data, load_model

PACS = ("photo", "art_painting", "cartoon", "sketch")
PACS_ARCHIVE = "pacs-128.zip"


@dataclass(frozen=True)
class Case:
    """Everything that a trial needs besides the method and the seed.

    `plans`: pairs of (sources, targets). `load`: gives the domains; called once, and only if it is needed.
    `build`: makes a model. `at`: where style layers go. `note`: what a reader must know of the data. `known`: the
    classes that serve as identities to learn when others are to be found again; `layer`: the features for that.
    """

    plans: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    load: Callable[[], dict[str, Domain]]
    build: Callable[[], nn.Module]
    at: At
    protocol: Protocol
    note: str
    known: tuple[int, ...] = ()
    layer: str | None = None


class DigitNet(nn.Sequential):
    """Three convolutions with BatchNorm for grey digits; style layers go behind `stage1` and `stage2`."""

    PLACES = ("stage1", "stage2")

    def __init__(self) -> None:
        super().__init__()
        width = (1, 16, 32, 64)
        for i in range(3):
            layers = [
                nn.Conv2d(width[i], width[i + 1], 3, padding=1, bias=False),
                nn.BatchNorm2d(width[i + 1]),
                nn.ReLU(),
            ]
            if i < 2:
                layers.append(nn.MaxPool2d(2))
            self.add_module(f"stage{i + 1}", nn.Sequential(*layers))
        self.add_module("pool", nn.AdaptiveAvgPool2d(2))
        self.add_module("flat", nn.Flatten())
        self.add_module("classify", nn.Linear(256, 10))


def digits_case(protocol: Protocol, size: int = 16, device: str = "cpu") -> Case:
    """MNIST-5k to scikit-learn's digits and back: other writers, scanners and resolutions, the same ten
    classes.

    Both are brought to `size` pixels; MNIST first loses its empty border of four pixels, as the digits have
    none, and keeps as many images as the digits have, drawn once.
    """

    def load() -> dict[str, Domain]:
        digits = as_domain(load_data("digits"))
        mnist = as_domain(load_data("mnist5k"))
        mnist = mnist.subset(
            torch.randperm(len(mnist), generator=torch.Generator().manual_seed(0))[: len(digits)]
        )
        mnist = Domain(_square(mnist.images[:, :, 4:24, 4:24], size), mnist.labels)
        digits = Domain(_square(digits.images, size), digits.labels)
        return {"mnist5k": mnist.to(device), "digits": digits.to(device)}

    both = ((("mnist5k",), ("digits",)), (("digits",), ("mnist5k",)))
    note = f"MNIST-5k and scikit-learn digits, 1,797 images each at {size} px; a CNN of three convolutions"
    plan = replace(protocol, mirror=False)
    return Case(
        both,
        load,
        lambda: DigitNet().to(device),
        DigitNet.PLACES,
        plan,
        note,
        known=(0, 1, 2, 3, 4),
        layer="flat",
    )


def pacs_case(
    data: str,
    source: str,
    protocol: Protocol,
    *,
    size: int,
    test_limit: int | None,
    device: str = "cpu",
    lists: str | None = None,
) -> Case:
    """PACS from one source to the other three, with EfficientNet-Lite0 whose first blocks are frozen and
    cached.
    """
    targets = tuple(name for name in PACS if name != source)
    require(source in PACS, f"source must be one of {', '.join(PACS)}, but {source!r} came")

    def load() -> dict[str, Domain]:
        limits = [None, *[test_limit] * len(targets)]
        domains = load_domains(data, (source, *targets), size=size, limits=limits, lists=lists)
        trunk = LiteTrunk().to(device)
        return {name: cached(domain.to(device), trunk) for name, domain in domains.items()}

    def build() -> nn.Module:
        return LiteTail(7).to(device).to(memory_format=layout(device))

    note = (
        f"PACS at {size} px, {source} to the rest ({test_limit or 'all'} test images a target, drawn once), "
        f"EfficientNet-Lite0 with ImageNet weights, stem and blocks 0-2 frozen; {_split(lists)}"
    )
    return Case((((source,), targets),), load, build, LiteTail.PLACES, protocol, note)


def network_case(
    data: str,
    network: str,
    weights: str | None,
    protocol: Protocol,
    *,
    source: str,
    size: int,
    leave_one_out: bool,
    at: str,
    device: str = "cpu",
    lists: str | None = None,
) -> Case:
    """PACS with a whole network: one domain as the only source, each of them once, or each left out once; all
    target images. They stay on the device in 8 bits.
    """
    require(
        source in ("each", *PACS), f"source must be each or one of {', '.join(PACS)}, but {source!r} came"
    )

    def load() -> dict[str, Domain]:
        found = load_domains(data, PACS, size=size, eight_bit=True, lists=lists)
        return {name: domain.to(device) for name, domain in found.items()}

    def build() -> nn.Module:
        model = load_model(network, weights)
        new_head(model, 7)
        return model.to(device)

    def rest(name: str) -> tuple[str, ...]:
        return tuple(other for other in PACS if other != name)

    ones = PACS if source == "each" else (source,)
    plans = tuple((rest(name), (name,)) if leave_one_out else ((name,), rest(name)) for name in ones)
    chosen: At = places(load_model(network), at, torch.zeros(2, 3, 64, 64))
    kind = "leaving one domain out" if leave_one_out else "from a single source"
    note = f"PACS at {size} px, {kind}, {network}; {_split(lists)}"
    return Case(plans, load, build, chosen, protocol, note)


def _square(images: torch.Tensor, size: int) -> torch.Tensor:
    kind: Mapping[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    return nn.functional.interpolate(images, (size, size), **kind)


def _split(lists: str | None) -> str:
    return "the official split" if lists else "split drawn here, not the official one"


def new_head(model: nn.Module, classes: int) -> None:
    """Exchange the last linear layer for one with `classes` outputs."""
    linear = [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    require(
        bool(linear), "the network has no linear layer to exchange for one with the right number of classes"
    )
    parent, _, leaf = linear[-1].rpartition(".")
    old = model.get_submodule(linear[-1])
    assert isinstance(old, nn.Linear)
    setattr(model.get_submodule(parent), leaf, nn.Linear(old.in_features, classes))
