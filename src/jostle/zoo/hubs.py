"""Networks of torchvision and timm by name, with random, their own, or the user's weights."""

import inspect
import pickle
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require
from jostle.zoo.imagenet import class_names
from jostle.zoo.weights import fill, read_state
from jostle.zoo.words import hint, reason

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Built(NamedTuple):
    """A network as its library makes it, and what it wants to be fed."""

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...] | None
    channels_last: bool = False


def is_file_name(weights: str) -> bool:
    """Whether `weights` names a file rather than a set of weights that a library offers.

    >>> is_file_name("w.safetensors"), is_file_name("IMAGENET1K_V2")
    (True, False)
    """
    return weights.endswith((".safetensors", ".pth", ".pt")) or "/" in weights or "\\" in weights


def from_torchvision(name: str, weights: str | None, num_classes: int | None) -> Built:
    """Build a classifier or a segmenter of torchvision.

    **Arguments:** `name` as `torchvision.models.list_models` has it. `weights`: None for random ones,
    "DEFAULT" or the name of a set of torchvision's (downloaded by torchvision, hash checked), or a file.
    `num_classes`: outputs; if they differ from those of torchvision's weights, the last layer is fresh.
    **Raises:** `JostleError` for unknown names and for weights that are absent or do not fit.
    """
    import torchvision.models as zoo

    known = [*zoo.list_models(module=zoo), *zoo.list_models(module=zoo.segmentation)]
    require(
        name in known,
        f"torchvision has no classifier or segmenter named {name!r}{hint(name, known)}",
    )
    offered = zoo.get_model_weights(name)
    state: Mapping[str, Tensor] | None = None
    entry, own = getattr(offered, "DEFAULT", None), False
    if weights is not None and is_file_name(weights):
        state = read_state(weights)
    elif weights is not None:
        members = ["DEFAULT", *(key for key in offered.__members__ if key != "DEFAULT")]
        require(
            weights in members,
            f"weights of torchvision:{name} must be one of {', '.join(members)} or a file, "
            f"but {weights!r} came{hint(weights, members)}",
        )
        entry, own = offered[weights] if weights != "DEFAULT" else entry, True
        state = _downloaded(name, entry)
    if state is not None and name.startswith("densenet"):
        # torchvision's own files still have the names of 2017, with a point that modules may not have.
        state = {re.sub(r"(\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): value for key, value in state.items()}

    categories = tuple(entry.meta["categories"]) if entry is not None else None
    model = zoo.get_model(
        name, weights=None, **_arguments(zoo, name, state, entry if own else None, num_classes)
    )
    if state is not None:
        source = f"torchvision:{name}" if own else str(weights)
        fresh = num_classes if own and categories and num_classes != len(categories) else None
        fill(model, state, source, fresh=fresh)
    preset = entry.transforms() if entry is not None else None
    sizes = getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None) or [224]
    # Random or foreign weights run at the architecture's size, not at the one of a set that was not loaded.
    side = sizes[0] if own else getattr(model, "image_size", sizes[0])
    classes = categories if state is not None and num_classes in (None, len(categories or ())) else None
    mean, std = getattr(preset, "mean", _IMAGENET_MEAN), getattr(preset, "std", _IMAGENET_STD)
    return Built(model, tuple(mean), tuple(std), (3, int(side), int(side)), classes)


def _downloaded(name: str, entry: Any) -> Mapping[str, Tensor]:
    """torchvision's own weights from its cache or the network, as tensors only."""
    try:
        # torchvision's own default would unpickle; the hash alone says only that nothing broke on the way.
        return entry.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise JostleError(
            f"weights {entry.name} of torchvision:{name} hold pickled objects, which are not loaded"
        ) from error
    except (OSError, RuntimeError) as error:
        raise JostleError(
            f"weights {entry.name} of torchvision:{name} could not be downloaded ({reason(error)}); "
            "give a .safetensors or .pth file instead"
        ) from error


def _arguments(zoo: Any, name: str, state: Any, entry: Any, num_classes: int | None) -> dict[str, Any]:
    """What torchvision's builder must be told so that nothing is downloaded and the weights fit."""
    takes = inspect.signature(zoo.get_model_builder(name)).parameters
    told: dict[str, Any] = {}
    if num_classes is not None:
        told["num_classes"] = num_classes
    elif entry is not None:
        told["num_classes"] = len(entry.meta["categories"])
    if "weights_backbone" in takes:  # else segmenters fetch a trunk although no weights were asked for
        told["weights_backbone"] = None
    auxiliary = any(key.lower().startswith("aux") for key in state or ())
    if "aux_loss" in takes:
        told["aux_loss"] = auxiliary
    if name in ("googlenet", "inception_v3"):
        # Their published weights want their input renormalised inside; a fresh network is trained without.
        told |= {"aux_logits": auxiliary, "transform_input": state is not None, "init_weights": state is None}
    if entry is not None and name.startswith("vit_"):
        told["image_size"] = entry.meta["min_size"][0]
    return told


def from_timm(name: str, weights: str | None, num_classes: int | None) -> Built:
    """Build a network of timm (the extra `timm`).

    **Arguments:** `name` as `timm.list_models` has it, with or without a tag of weights. `weights`: None for
    random ones, "DEFAULT" for timm's own (downloaded by timm), or a file. `num_classes`: outputs.
    **Raises:** `JostleError` for unknown names and for weights that are absent or do not fit.
    """
    timm = optional("timm", "timm")
    known = timm.list_models()
    require(timm.is_model(name), f"timm has no model named {name!r}{hint(name, known)}")
    own = weights == "DEFAULT"
    require(
        weights is None or own or is_file_name(weights),
        f"weights of timm:{name} must be 'DEFAULT' or a .safetensors or .pth file, but {weights!r} came",
    )
    state = read_state(weights) if weights is not None and not own else None
    extra = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = timm.create_model(name, pretrained=own, **extra)
    except (OSError, RuntimeError, ValueError) as error:
        raise JostleError(f"timm:{name} could not be made ({reason(error)})") from error
    if state is not None:
        fill(model, state, str(weights))
    config = model.pretrained_cfg
    outputs = getattr(model, "num_classes", None)
    classes = class_names() if weights is not None and num_classes is None and outputs == 1000 else None
    channels, height, width = config.get("input_size", (3, 224, 224))
    return Built(
        model,
        tuple(config.get("mean", _IMAGENET_MEAN)),
        tuple(config.get("std", _IMAGENET_STD)),
        (channels, height, width),
        classes,
    )
