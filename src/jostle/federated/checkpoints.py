"""Checkpoints: what a course needs to go on later, as tensors, and numbers as JSON in the header of the same file."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.federated.memory import Memory
from jostle.federated.shelf import Shelf
from jostle.files import whole

if TYPE_CHECKING:
    from jostle.federated.course import Course


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


def state(course: "Course") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a later process needs: tensors, and numbers for JSON (beside `state_dir`, where there is one)."""
    memories = {} if isinstance(course.memories, Shelf) else course.memories
    tensors = {f"server.{name}": value for name, value in course.server.tensors().items()}
    for one, memory in memories.items():
        tensors |= {f"client.{one}.{name}": value for name, value in memory.tensors().items()}
    tensors |= {f"statistics.{one}": value for one, value in course.statistics.items()}
    numbers = {
        "server": course.server.numbers(),
        "clients": {str(one): memory.numbers() for one, memory in memories.items()},
        "run": course.memories.run if isinstance(course.memories, Shelf) else None,
        "history": course.history,
        "engine": course.engine,
        "settings": _settings(course),
    }
    return tensors, numbers


def _settings(course: "Course") -> dict[str, Any]:
    fed = course.federation
    return {
        "local": asdict(course.local),
        "seed": fed.seed,
        "sampling": fed.sampling,
        "fraction": fed.fraction,
        "buffers": fed.buffers,
    }


def take_up(course: "Course", tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Go on where `state` was taken.

    **Raises:** `JostleError` if it belongs to other settings or other clients.
    """
    mine = json.loads(json.dumps(_settings(course)))
    for name, value in json.loads(json.dumps(numbers["settings"])).items():
        require(value == mine[name], f"the checkpoint was made with {name} = {value}, but {mine[name]} came")
    split: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        who, _, rest = name.partition(".")
        if who == "client":
            one, _, rest = rest.partition(".")
            who = f"client.{one}"
        split.setdefault(who, {})[rest] = value.to(course.server.x.device)
    course.server.take_up(split["server"], numbers["server"])
    run = numbers.get("run") or ""
    if isinstance(course.memories, Shelf):
        accepted = {one: course.server.last(one) for one in course.server.ids}
        course.memories.resume(run, accepted, course.server.generation)
    else:
        require(not run, "the checkpoint's clients lie in its run's state_dir, but no state_dir came")
        course.memories = {
            int(one): Memory.rebuilt(split.get(f"client.{one}", {}), held)
            for one, held in numbers["clients"].items()
        }
    course.statistics = {int(one): value for one, value in split.get("statistics", {}).items()}
    course.history = [dict(row) for row in numbers["history"]]
    course.engine = numbers["engine"]
