"""Checkpoints: what a training needs to go on after it was cut off, in one file that is written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jostle.core.errors import JostleError, require
from jostle.files import write_state
from jostle.timescales.records import CurriculumRun

_KIND = "jostle.timescales training"


def write(path: Path, run: CurriculumRun, settings: Mapping[str, Any]) -> None:
    """Keep a training, and the settings without which it would go another way."""
    write_state(path, {"kind": _KIND, "settings": dict(settings), "state": run.state()})


def read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The `state` of the training that `write` kept.

    **Raises:** `JostleError` if the file is absent or something else, or was made with other settings.
    """
    require(path.is_file(), f"checkpoint {path} does not exist")
    try:
        kept = torch.load(path, weights_only=True)
        made, state = kept["settings"], kept["state"]
    except Exception as error:  # a broken file fails in many ways
        raise JostleError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); start that training anew"
        ) from error
    require(kept.get("kind") == _KIND, f"checkpoint {path} is not of a training of jostle timescales")
    for name, value in settings.items():
        require(
            made.get(name) == value,
            f"the checkpoint was made with {name} = {made.get(name)}, but {value} came",
        )
    return state
