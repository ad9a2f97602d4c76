"""What a room's `study.py` hands to the lab."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jostle.core.errors import JostleError
from jostle.lab.claims import Claim
from jostle.lab.runs import Run


@dataclass(frozen=True)
class Study:
    """A paper as an experiment: its presets, its run and its claims.

    **Arguments:** `key`: the room's name. `presets`: `quick`, `gpu`, `paper`, each an instance of one frozen
    dataclass whose fields are numbers, strings, booleans, `None`, tuples or dataclasses of these, with a
    field `seed`. `run`: `run(config, run) -> metrics`; it reads from top to bottom as stages of the run.
    `claims`: judged on the metrics it returns.
    """

    key: str
    presets: Mapping[str, Any]
    run: Callable[[Any, Run], dict[str, Any]]
    claims: Sequence[Claim]

    def config(self, preset: str) -> Any:
        """The preset's configuration.

        **Raises:** `JostleError` if there is no such preset.
        """
        if preset not in self.presets:
            raise JostleError(
                f"preset must be one of {', '.join(self.presets)} for {self.key}, but {preset!r} came"
            )
        return self.presets[preset]


def rebuild(kind: type, record: Mapping[str, Any]) -> Any:
    """Make a frozen configuration of class `kind` from the JSON object that was written for it.

    **Raises:** `JostleError` if a field is unknown or missing.
    """
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(record) - names):
        raise JostleError(f"config has no field {unknown[0]!r}; the fields are {', '.join(sorted(names))}")
    try:
        return kind(**{name: _value(hints[name], value) for name, value in record.items()})
    except TypeError as error:
        raise JostleError(f"config is broken: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        # A union of None and one kind, as in `int | None`.
        return None if value is None else _value(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return rebuild(hint, value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item) for item in value)
    return value
