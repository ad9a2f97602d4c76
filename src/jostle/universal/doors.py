"""What cannot work is refused here, in one sentence, before anything is crafted."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from jostle.core.budgets import Linf
from jostle.core.errors import require
from jostle.universal.priors import (
    IMAGENET_MEAN,
    IMAGENET_SD,
    DataPrior,
    NoPrior,
    Prior,
    RangePrior,
    SmoothPrior,
)
from jostle.zoo import load_data


def radius_of(budget: Linf) -> float:
    require(isinstance(budget, Linf), f"budget must be Linf, but {type(budget).__name__} came")
    radius = float(torch.as_tensor(budget.radius).max())
    require(
        0 < radius <= 1,
        f"radius must lie in (0, 1], since images do, but {radius:g} came; a radius in 0-255 units is divided by 255",
    )
    require(
        torch.as_tensor(budget.radius).ndim == 0 and budget.scale is None,
        "radius must be one number for the whole perturbation, without a scale",
    )
    if radius > 64 / 255:
        warnings.warn(f"a radius of {radius:.3g} is plain to see: 10/255 is usual", stacklevel=4)
    return radius


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def image_shape(model: nn.Module, shape: Iterable[int] | None) -> tuple[int, int, int]:
    found = tuple(shape) if shape is not None else getattr(model, "input_shape", None)
    require(
        found is not None,
        "shape must be given as (channels, height, width): the model does not say its input_shape",
    )
    assert found is not None
    require(
        len(found) == 3 and all(int(side) >= 1 for side in found),
        f"shape must be (channels, height, width), all at least 1, but {found} came",
    )
    channels, height, width = (int(side) for side in found)
    require(
        not (width <= 4 < min(channels, height)),
        f"shape must be (channels, height, width), but {found} looks like channels last",
    )
    return channels, height, width


def check_model(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        require(bool(torch.isfinite(parameter).all()), f"model's weight {name!r} holds NaN or infinity")
    if model.training:
        warnings.warn(
            "the model was in training mode; it is crafted in evaluation mode and put back", stacklevel=3
        )


def model_mean(model: nn.Module, channels: int) -> tuple[float, ...] | None:
    mean = getattr(model, "mean", None)
    if isinstance(mean, Tensor) and mean.numel() in (1, channels):
        return tuple(mean.flatten().tolist())
    return None


def prior_of(prior: str | Prior, model: nn.Module, shape: tuple[int, int, int]) -> Prior:
    if isinstance(prior, Prior):
        return prior
    mean = model_mean(model, shape[0])
    if prior == "none":
        # The image that is 0 in network units; without a normalisation that is black (the depth networks' case).
        return NoPrior(mean or (0.0,))
    colour = shape[0] == 3
    centre, spread = (IMAGENET_MEAN, IMAGENET_SD) if colour else ((0.45,), (0.225,))
    if prior == "range":
        return RangePrior(centre, spread)
    if prior == "smooth":
        return SmoothPrior(centre, spread)
    kind, _, place = prior.partition(":")
    require(
        kind == "data" and bool(place),
        f"prior must be none, range, smooth, data:FOLDER or a prior object, but {prior!r} came",
    )
    images, _ = load_data(Path(place), size=min(shape[1:])).tensors()
    return DataPrior(images)


def port_gain(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    std = getattr(model, "std", None)
    require(
        isinstance(std, Tensor) and std.numel() in (1, shape[0]),
        "schedule port2020 needs a model with its normalisation inside (zoo.normalised), to bypass it",
    )
    assert isinstance(std, Tensor)
    return std.reshape(1, -1, 1, 1)
