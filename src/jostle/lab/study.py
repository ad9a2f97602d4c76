"""What a room's `study.py` hands to the lab."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jostle.core.errors import JostleError, require
from jostle.lab.claims import Claim
from jostle.lab.runs import Run


@dataclass(frozen=True)
class Study:
    """A paper as an experiment: its presets, its run and its claims.

    **Arguments:** `key`: the room's name. `presets`: `quick`, `gpu`, `paper`, each an instance of one frozen
    dataclass whose fields are numbers, strings, booleans, `None`, tuples or dataclasses of these, with a
    field `seed`. `run`: `run(config, run) -> metrics`; it reads from top to bottom as stages of the run.
    `claims`: judged on the metrics it returns. `data_parallel`: whether its trainings go through the core's
    [`Trainer`][jostle.core.training.Trainer], which several processes can share.
    """

    key: str
    presets: Mapping[str, Any]
    run: Callable[[Any, Run], dict[str, Any]]
    claims: Sequence[Claim]
    data_parallel: bool = False

    def config(self, preset: str) -> Any:
        """The preset's configuration.

        **Raises:** `JostleError` if there is no such preset.
        """
        if preset not in self.presets:
            raise JostleError(
                f"preset must be one of {', '.join(self.presets)} for {self.key}, but {preset!r} came"
            )
        return self.presets[preset]


HOW = ("seed", "device", "engine", "jobs", "simulation")
"""Settings that say where and how often a study is done, not what."""


def changed(preset: Any, config: Any) -> dict[str, Any]:
    """The settings in which a configuration is no longer its preset; those in `HOW` are free.

    >>> @dataclass
    ... class Config:
    ...     seed: int = 0
    ...     steps: int = 100
    >>> changed(Config(), Config(seed=3, steps=5))
    {'steps': 5}
    """
    before, after = dataclasses.asdict(preset), dataclasses.asdict(config)
    return {name: value for name, value in after.items() if name not in HOW and value != before[name]}


def rebuild(kind: type, record: Mapping[str, Any]) -> Any:
    """Make a frozen configuration of class `kind` from a mapping, such as the JSON that was written for it.

    **Raises:** `JostleError` if a field is unknown or missing, or its value is of another kind than declared, or not
    finite.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(record) - set(names)):
        raise JostleError(f"config has no field {unknown[0]!r}; the fields are {', '.join(names)}")
    values = {name: _value(name, hints[name], value) for name, value in record.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise JostleError(f"config is broken: {error}") from error


def _value(name: str, hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in inner:
            with suppress(_Unfit):
                return _value(name, option, value)
    elif origin is typing.Literal:
        if value in inner:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if len(inner) == 2 and inner[1] is ...:
                inner = (inner[0],) * len(value)
            if len(inner) == len(value):
                return tuple(_value(name, one, item) for one, item in zip(inner, value, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return rebuild(hint, value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            # JSON has no word for the others: the run could not be taken up again.
            require(math.isfinite(value), f"config field {name!r} must be a finite number, but {value} came")
            return value
    elif hint in (int, str, bool, type(None)):
        if type(value) is hint:
            return value
    else:
        return value
    wanted = getattr(hint, "__name__", None) if origin is None else None
    raise _Unfit(f"config field {name!r} must be {wanted or hint}, but {value!r} came")


class _Unfit(JostleError):
    """A value of another kind than its field declares."""
