"""Trained networks in files: safetensors, with what is needed to build them again in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.files import write_tensors
from jostle.smoothing.encoders import TimedClassifier, TimedViT
from jostle.zoo.weights import fill, read_state, require_finite


def write_network(state: Mapping[str, Tensor], details: Mapping[str, Any], path: Path) -> None:
    """Write weights, and how the network is built, to one file."""
    write_tensors(path, state, {"jostle": json.dumps(dict(details))})


def _details(path: Path, kind: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    require(Path(path).is_file(), f"weights file {path} does not exist")
    try:
        with safe_open(path, "pt") as handle:
            details = json.loads((handle.metadata() or {}).get("jostle", "{}"))
    except (SafetensorError, ValueError) as error:
        raise JostleError(f"{path} is not a readable safetensors file: {error}") from error
    found = details.get("kind")
    require(found == kind, f"{path} must hold an {kind} of rRCM, but it holds {found or 'something else'}")
    return details


def _transformer(details: Mapping[str, Any]) -> TimedViT:
    shape = details["shape"]
    return TimedViT(
        (shape[0], shape[1], shape[2]),
        patch=details["patch"],
        width=details["width"],
        depth=details["depth"],
        heads=details["heads"],
    )


def load_encoder(path: str | Path) -> tuple[TimedViT, dict[str, Any]]:
    """The encoder that `jostle smoothing pretrain` wrote, and how it was made.

    **Raises:** `JostleError` if the file is absent or holds something else.
    """
    details = _details(Path(path), "encoder")
    encoder = _transformer(details)
    fill(encoder, read_state(path), str(path))
    require_finite(encoder, str(path))
    return encoder, details


def load_classifier(path: str | Path) -> TimedClassifier:
    """The classifier that `jostle smoothing tune` wrote, ready to be smoothed with its own sigma.

    **Raises:** `JostleError` if the file is absent or holds something else.
    """
    details = _details(Path(path), "rrcm")
    shape = details["shape"]
    model = TimedClassifier(
        _transformer(details), details["classes"], details["sigma"], (shape[0], shape[1], shape[2])
    )
    fill(model, read_state(path), str(path))
    require_finite(model, str(path))
    return model.eval()
