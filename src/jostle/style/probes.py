"""A closer look at one trained model of the study: its worst styles, and where its styles lie."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.taps import Taps, frozen
from jostle.style.advstyle import AdvStyle
from jostle.style.attack import fit_reference, style_curve
from jostle.style.cases import Case
from jostle.style.domains import Domain, floating
from jostle.style.insertion import style_layers
from jostle.style.protocol import training_parts
from jostle.style.restyle import channel_statistics


def probed(
    model: nn.Module,
    case: Case,
    domains: Mapping[str, Domain],
    plan: int,
    radii: Sequence[float],
    attacked: int,
    steps: int,
) -> dict[str, Any]:
    """The worst-style curve on held-out source images, and the styles of all domains, behind the first place.

    **Arguments:** `plan`: which sources and targets of the case. `radii`, `steps`: of the attack. `attacked`: images.
    """
    sources, targets = case.plans[plan]
    layer = case.at[0]
    source = domains[sources[0]]
    ours, held = training_parts(source, case.protocol)
    # The unit is that of the training images; what is attacked was not trained on.
    train, _ = _first(source.subset(ours), 10 * attacked)
    test = _first(source.subset(held), attacked)
    reference = fit_reference(model, train.split(100), layer)
    curve = style_curve(model, *test, reference, radii, steps=steps)
    names = (sources[0], *targets)
    return {"curve": asdict(curve), "space": _space(model, domains, names, layer, attacked * 3)}


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
