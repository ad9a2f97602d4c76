"""Files that are written whole or not at all."""

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jostle.core.errors import JostleError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it becomes `path` in one step.

    After a crash, a kill or an exception `path` holds what it held before.
    """
    path = Path(path)
    # The suffix stays: writers such as matplotlib choose the format by it.
    draft = path.with_name(f".{path.stem}.{os.getpid()}.draft{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise JostleError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        # The sentence above says more than a second error from the same bad place.
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (no NaN or infinity: they become null), whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Any], about: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, with words about them in the header; whole or not at all."""
    from safetensors.torch import save

    # clone: safetensors refuses tensors that share memory. Its own save_file has an error of its own for a full disk.
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole(path) as draft:
        draft.write_bytes(save(flat, None if about is None else dict(about)))


def write_state(path: Path, state: Any) -> None:
    """Write a state (tensors, numbers, strings, and containers of these) with `torch.save`; whole or not at all."""
    import torch

    buffer = io.BytesIO()  # torch's own error for a full disk says less
    torch.save(state, buffer)
    with whole(path) as draft:
        draft.write_bytes(buffer.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken or absent one is a sentence, not a traceback."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise JostleError(f"could not read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise JostleError(f"{path} is not valid JSON: {error}") from error


def plain(value: Any) -> Any:
    """`value` in the words of JSON: tuples and arrays as lists, paths as strings, NaN and infinity as `None`.

    >>> plain({1: (2.0, float("nan"))})
    {'1': [2.0, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # tensors, arrays and numpy scalars
        return plain(value.tolist())
    return value
