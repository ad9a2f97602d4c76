"""From a typed function to options on the command line, and back to its arguments."""

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from jostle.cli_help import described, entries, with_help
from jostle.core.errors import JostleError, require

# What is the same in every study and verb, unless its docstring says otherwise.
_SEED = {"seed": "of all that is drawn"}
_STUDY = {
    "device": "cpu or cuda",
    "engine": "who runs the jobs: processes of this machine (loky), Ray or Dask",
}

_A_MODEL = "efficientnet-lite0, torchvision:NAME, timm:NAME or FILE.py:FUNCTION"

_PLAIN = (str, int, float, bool, Path, type(None))


@dataclass(frozen=True)
class Options:
    """The options of a verb: a dataclass for the parser, and how to call the function with it."""

    kind: type
    call: Callable[[Any, Callable[[int, int, str], None]], Any]


def options_of(function: Callable[..., Any]) -> Options:
    """Turn a typed function into options.

    A model becomes its name and its weights, zoo images become a name or a folder, a generator a seed, anything
    with `load` a path, a dataclass its own options; a `callback` is the progress bar. A parameter that cannot be
    typed is left at its default.

    >>> def double(x: float, again: bool = False) -> float:
    ...     "Twice x."
    ...     return 2 * x
    >>> made = options_of(double)
    >>> made.call(made.kind(x=2.0), lambda done, total, figure: None)
    4.0
    """
    hints = typing.get_type_hints(inspect.unwrap(function))
    fields: list[tuple[str, Any, Any]] = []
    typed: dict[str, str] = {}
    makers: dict[str, _Maker] = {}
    has_callback = False
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "callback":
            has_callback = True
            continue
        maker = _maker(name, hints[name], parameter.default)
        if maker is None:
            if parameter.default is parameter.empty:
                raise JostleError(
                    f"{function.__name__} needs {name}, which cannot be typed on the command line"
                )
            continue
        makers[name] = maker
        fields += maker.fields
        typed |= maker.typed
    kind = _dataclass(function.__name__, fields, inspect.getdoc(function) or "", _SEED, typed)

    def call(given: Any, progress: Callable[[int, int, str], None]) -> Any:
        known: dict[str, Any] = {}
        # Models first: images are cut to the size that the model takes.
        for name, maker in sorted(makers.items(), key=lambda pair: pair[1].order):
            known[name] = maker.make(given, known)
        return function(**known, **({"callback": progress} if has_callback else {}))

    return Options(kind, call)


def settings_of(kind: type) -> type:
    """A study's settings as options: the same dataclass, with what its docstring says of each."""
    hints = typing.get_type_hints(kind)
    fields = [(field.name, hints[field.name], field.default) for field in dataclasses.fields(kind)]
    return _dataclass(kind.__name__, fields, inspect.getdoc(kind) or "", {**_SEED, **_STUDY})


def _dataclass(
    name: str,
    fields: list[tuple[str, Any, Any]],
    doc: str,
    usual: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
) -> type:
    """Options with their help, what is usual where the docstring is silent; those without a default come first."""
    fields = with_help(fields, {**(usual or {}), **entries(doc)}, typed or {})
    required: list[Any] = [(n, k) for n, k, d in fields if d is dataclasses.MISSING]
    optional = [(n, k, dataclasses.field(default=d)) for n, k, d in fields if d is not dataclasses.MISSING]
    made = dataclasses.make_dataclass(name, required + optional, frozen=True)
    made.__doc__ = described(doc)
    return made


@dataclass(frozen=True)
class _Maker:
    fields: list[tuple[str, Any, Any]]
    make: Callable[[Any, dict[str, Any]], Any]
    order: int = 1
    typed: dict[str, str] = dataclasses.field(default_factory=dict)
    """What to type for an option whose argument is no plain value."""


def _maker(name: str, hint: Any, default: Any) -> _Maker | None:
    missing = default is inspect.Parameter.empty
    start = dataclasses.MISSING if missing else default
    kinds = _members(hint)
    optional = type(None) in kinds

    def either(plain: Any) -> Any:
        return plain | None if optional else plain

    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            return _model(name, start, optional)
        if _is_images(kind):
            return _Maker(
                [(name, either(str), start)],
                lambda given, known: _images(getattr(given, name), known),
                order=2,
                typed={name: "digits, mnist5k, photographs, or a folder or zip of CLASS/IMAGE files"},
            )
        if kind is torch.Generator:
            return _Maker([("seed", int, 0)], lambda given, known: torch.Generator().manual_seed(given.seed))
        if typing.get_origin(kind) in (Mapping, dict):
            inner = typing.get_args(kind)[1]
            if inspect.isclass(inner) and issubclass(inner, nn.Module):
                return _Maker(
                    [(name, tuple[str, ...], dataclasses.MISSING)],
                    lambda given, known: {
                        spec: _load_model(*_with_weights(spec)) for spec in getattr(given, name)
                    },
                    order=0,
                    typed={name: f"each {_A_MODEL}, with =WEIGHTS behind it where it needs some"},
                )
            if hasattr(inner, "load"):
                return _files(name, inner)
        if inspect.isclass(kind) and hasattr(kind, "load"):
            return _file(name, kind, start, either(Path))
    simple = [kind for kind in kinds if _simple(kind)]
    if any(kind is not type(None) for kind in simple):
        plain: Any = simple[0]
        for kind in simple[1:]:
            plain = plain | kind
        if str in simple:  # a name among free text: Literal | str is str
            plain = either(str)
        return _Maker([(name, plain, start)], lambda given, known: getattr(given, name))
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return _nested(name, kind, start)
    return None


def _model(name: str, start: Any, optional: bool) -> _Maker:
    weights = "weights" if name == "model" else f"{name}_weights"
    kind: Any = str | None if optional else str

    def make(given: Any, known: dict[str, Any]) -> Any:
        spec, file = getattr(given, name), getattr(given, weights)
        require(
            spec is not None or file is None, f"{weights} {file} came without the {name} that they are for"
        )
        return None if spec is None else _load_model(spec, file)

    typed = {
        name: _A_MODEL,
        weights: "a .safetensors, .pth or .pt file, or DEFAULT for a named network's own",
    }
    return _Maker([(name, kind, start), (weights, str | None, None)], make, order=0, typed=typed)


def _file(name: str, kind: Any, start: Any, hint: Any) -> _Maker:
    def make(given: Any, known: dict[str, Any]) -> Any:
        path = getattr(given, name)
        return None if path is None else kind.load(path)

    return _Maker([(name, hint, start)], make)


def _files(name: str, kind: Any) -> _Maker:
    def make(given: Any, known: dict[str, Any]) -> Any:
        paths = getattr(given, name)
        require(len(set(paths)) == len(paths), f"{name} must be different files, but one came twice")
        # Files of one name in several folders are told apart by their whole paths.
        stems = [path.stem for path in paths]
        names = stems if len(set(stems)) == len(stems) else map(str, paths)
        return {key: kind.load(path) for key, path in zip(names, paths, strict=True)}

    return _Maker([(name, tuple[Path, ...], dataclasses.MISSING)], make)


def _nested(name: str, kind: type, start: Any) -> _Maker | None:
    hints = typing.get_type_hints(kind)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        members = [k for k in _members(hints[field.name]) if _simple(k)]
        if not any(k is not type(None) for k in members):
            continue
        value = field.default if start in (dataclasses.MISSING, None) else getattr(start, field.name)
        if value is not dataclasses.MISSING and not _plain_value(value):
            continue
        plain: Any = members[0]
        for member in members[1:]:
            plain = plain | member
        fields.append((field.name, plain, value))
    of_bases = (entries(inspect.getdoc(base) or "") for base in reversed(kind.__mro__[:-1]))
    usual = {name: text for found in of_bases for name, text in found.items()}
    made = _dataclass(kind.__name__, fields, inspect.getdoc(kind) or "", usual)
    default = dataclasses.MISSING if any(d is dataclasses.MISSING for _, _, d in fields) else made()
    return _Maker(
        [(name, made, default)],
        lambda given, known: kind(**{n: getattr(getattr(given, name), n) for n, _, _ in fields}),
    )


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(hint) for member in _members(part))
    return (hint,)


def _simple(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return True
    if origin in (tuple, Sequence, list):
        return all(_simple(inner) for inner in typing.get_args(kind) if inner is not Ellipsis)
    return kind in _PLAIN or (inspect.isclass(kind) and issubclass(kind, enum.Enum))


def _plain_value(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, tuple) and all(_plain_value(item) for item in value)
    )


def _is_images(kind: Any) -> bool:
    from jostle.zoo import Images

    return inspect.isclass(kind) and issubclass(kind, Images)


def _with_weights(spec: str) -> tuple[str, str | None]:
    # Folders of a file may have an = of their own.
    found = re.fullmatch(r"(.+\.py:\w+|[^=]+)(?:=(.+))?", spec)
    return (found[1], found[2]) if found else (spec, None)


def _load_model(spec: str, weights: str | None) -> nn.Module:
    from jostle.zoo import load_model

    return load_model(spec, weights)


def _images(spec: str | None, known: Mapping[str, Any]) -> Any:
    from jostle.zoo import load_data

    if spec is None:
        return None
    shape = next(filter(None, (getattr(value, "input_shape", None) for value in known.values())), None)
    # A model that does not say its size takes that of the perturbation that is brought along.
    for value in known.values() if shape is None else ():
        first = next(iter(value.values()), None) if isinstance(value, Mapping) else value
        shape = shape or tuple(getattr(getattr(first, "delta", None), "shape", ())[1:])
    return load_data(spec, size=shape[1] if shape else None)
