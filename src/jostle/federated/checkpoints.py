"""Checkpoints: tensors, and numbers as JSON in the header of the same file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.files import whole


def write(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Path:
    """Write a checkpoint (.safetensors), whole or not at all."""
    from safetensors.torch import save

    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole(path) as draft:
        draft.write_bytes(save(flat, metadata={"jostle": json.dumps(numbers)}))
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote.

    **Raises:** `JostleError` if it is absent or broken.
    """
    from safetensors import SafetensorError, safe_open

    require(path.is_file(), f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads((file.metadata() or {})["jostle"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise JostleError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to start that training anew"
        ) from error
