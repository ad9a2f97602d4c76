"""How learnt scales stand: their sizes against the batches' scatter, and what the adversary costs the network."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.style.advstyle import AdvStyle
from jostle.style.insertion import scales, style_layers

ADAPTIVE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop")
"""Optimisers of torch that divide a gradient by its own size."""


def scale_report(model: nn.Module) -> dict[str, dict[str, float]]:
    """How the learnt scales of each AdvStyle layer stand.

    **Returns:** for each layer the means and maxima of their sizes, the negative share, and, once a batch was
    seen, `ratio_mu` and `ratio_sigma`: the mean of `|S|` over the running mean of the batches' uncertainty.

    >>> scale_report(nn.Sequential(AdvStyle(4)))["0"]["negative"]
    0.0
    """
    out = {}
    for name, layer in style_layers(model).items():
        if isinstance(layer, AdvStyle):
            mu, sigma = layer.sigma_mu.detach(), layer.sigma_sigma.detach()
            out[name] = {
                "mean_mu": float(mu.abs().mean()),
                "max_mu": float(mu.abs().max()),
                "mean_sigma": float(sigma.abs().mean()),
                "max_sigma": float(sigma.abs().max()),
                "negative": float(torch.cat([mu, sigma]).lt(0).double().mean()),
            }
            if not bool(layer.scatter_mu.isnan().any()):
                out[name]["ratio_mu"] = float((mu.abs() / layer.scatter_mu).mean())
                out[name]["ratio_sigma"] = float((sigma.abs() / layer.scatter_sigma).mean())
    return out


def adversarial_gap(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    *,
    draws: int = 4,
    seed: int = 0,
) -> float:
    """How much the learnt noise raises the loss on a batch: the mean cross-entropy over draws of the adversarial
    branch in all AdvStyle layers at once, minus that without any style layer.

    The network is in evaluation mode but for these layers, and stays as it was: counters, streams and all.

    **Arguments:** `model`: of class scores, with AdvStyle layers. `x`, `y`: a probe batch. `draws`: at least 1.
    `seed`: of the noise; the same one makes gaps comparable over training.
    **Raises:** `JostleError` without an AdvStyle layer.

    >>> net = nn.Sequential(AdvStyle(2), nn.Flatten(), nn.Linear(8, 2))
    >>> adversarial_gap(net.eval(), torch.rand(3, 2, 2, 2), torch.tensor([0, 1, 0])) > -1
    True
    """
    require(draws >= 1, f"draws must be at least 1, but {draws} came")
    layers = style_layers(model)
    require(
        any(isinstance(layer, AdvStyle) for layer in layers.values()),
        "the model has no AdvStyle layer: there is no adversarial pass to compare with",
    )
    with frozen(model), torch.no_grad():
        clean = F.cross_entropy(model(x), y)
        with _adversarial(model, torch.Generator().manual_seed(seed)):
            losses = [F.cross_entropy(model(x), y) for _ in range(draws)]
        return float(torch.stack(losses).mean() - clean)


@contextmanager
def _adversarial(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """AdvStyle layers take the adversarial branch, and nothing of it stays behind."""
    layers = [layer for layer in style_layers(model).values() if isinstance(layer, AdvStyle)]
    kept = [
        (layer.training, layer.active, layer.probs, layer.granularity, layer.generator) for layer in layers
    ]
    buffers = [[(buffer, buffer.clone()) for buffer in layer.buffers()] for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.active, layer.generator = True, True, generator
            # One branch a sample: no draw that several processes would have to agree on.
            layer.probs, layer.granularity = (0.0, 1.0, 0.0), "sample"
        yield
    finally:
        for layer, was, values in zip(layers, kept, buffers, strict=True):
            layer.training, layer.active, layer.probs, layer.granularity, layer.generator = was
            for buffer, value in values:
                buffer.copy_(value)


def check_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Warn when an optimiser makes `lam` mean nothing.

    Adam and its like divide a gradient by its own size, so a gradient that is ten times as large makes the same
    step. Use SGD, or SGD for the scales alone.

    **Arguments:** `model`: with AdvStyle layers. `optimiser`: over its parameters, scales among them.

    >>> net = nn.Sequential(AdvStyle(4))
    >>> check_optimiser(net, torch.optim.SGD(net.parameters(), 0.1))
    """
    own = {id(scale) for scale in scales(model)}
    mine = any(id(parameter) in own for group in optimiser.param_groups for parameter in group["params"])
    kind = next((base.__name__ for base in type(optimiser).__mro__ if base.__name__ in ADAPTIVE), None)
    if mine and kind is not None:
        warnings.warn(
            f"{kind} divides gradients by their size, so lam has no effect on the scales of AdvStyle: use SGD",
            stacklevel=2,
        )
