"""Dropout whose masks are handed in, so that every engine drops the same units."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jostle.core.errors import require
from jostle.federated.buffers import RunningStatistics

Noise = tuple[Tensor, ...]
"""The masks of one pass through a network, in the order in which it asks for them."""


def has_dropout(module: nn.Module) -> bool:
    """Whether a layer of the network drops units in training.

    **Raises:** `JostleError` for layers that drop inside of themselves, where no mask can be handed in.

    >>> has_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    True
    """
    dropping = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
    ]
    for name, layer in dropping:
        require(
            not isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout),
            f"layer {name!r} is {type(layer).__name__}, whose masks cannot be handed in: use nn.Dropout",
        )
    for name, layer in module.named_modules():
        inside = isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0
        require(
            not inside,
            f"layer {name!r} ({type(layer).__name__}) drops units inside of itself, where masks cannot be handed "
            "in: set its dropout to 0 and put nn.Dropout around it",
        )
    return bool(dropping)


class Playing(TorchFunctionMode):
    """Within it `dropout` multiplies by the next mask instead of drawing one; without masks it does nothing."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise, self.next = noise, 0

    def __enter__(self) -> Any:
        return super().__enter__() if self.noise else self

    def __exit__(self, *error: Any) -> None:
        if self.noise:
            super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPPING and _active(args, kwargs):
            mask = self.noise[self.next]
            self.next += 1
            return args[0] * mask
        return func(*args, **kwargs)


class _Listening(TorchFunctionMode):
    """Notes the shape and the rate of every dropout, and passes its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[torch.Size, float]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPPING and _active(args, kwargs):
            shape = args[0].shape
            # dropout1d to 3d drop whole channels.
            self.heard.append((shape if func is F.dropout else _channels(shape, func), _rate(args, kwargs)))
            return args[0]
        return func(*args, **kwargs)


_DROPPING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_SPACE = {F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}


def _channels(shape: torch.Size, func: Callable[..., Any]) -> torch.Size:
    space = _SPACE[func]
    return torch.Size((*shape[:-space], *[1] * space))


def _rate(args: Any, kwargs: Any) -> float:
    return float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))


def _active(args: Any, kwargs: Any) -> bool:
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    return bool(training) and _rate(args, kwargs) > 0


def listen(module: nn.Module, x: Tensor) -> list[tuple[torch.Size, float]]:
    """Shapes and rates of the masks that one pass of a batch asks for.

    >>> listen(nn.Sequential(nn.Dropout(0.5)).train(), torch.zeros(3, 2))
    [(torch.Size([3, 2]), 0.5)]
    """
    ear = _Listening()
    statistics = RunningStatistics(module)
    with torch.no_grad(), ear:
        module(x)
    statistics.write(statistics.start)  # listening is no training
    return ear.heard


def masks(
    wanted: list[tuple[torch.Size, float]],
    generator: torch.Generator,
    dtype: torch.dtype,
    device: torch.device,
) -> Noise:
    """Masks of 0 and `1/(1-p)`, drawn on the CPU so that they are the same on every device.

    >>> wanted = [(torch.Size([1000]), 0.5)]
    >>> (mask,) = masks(wanted, torch.Generator().manual_seed(0), torch.float32, torch.device("cpu"))
    >>> sorted(set(mask.tolist()))
    [0.0, 2.0]
    """
    made = []
    for shape, rate in wanted:
        kept = torch.rand(shape, generator=generator) >= rate
        made.append(
            (kept.to(device, dtype) / (1 - rate)) if rate < 1 else torch.zeros(shape).to(device, dtype)
        )
    return tuple(made)
