"""The one error that users meet: a sentence that names the argument, what came and what is wanted."""

import importlib
from types import ModuleType


class JostleError(ValueError):
    """Something a user gave is wrong; the message is one sentence that says what and how to mend it."""


class MissingExtra(JostleError, ImportError):
    """A package that a method needs is not installed; the message names the extra that brings it."""


def require(condition: bool, sentence: str) -> None:
    """Raise [`JostleError`][jostle.core.errors.JostleError] with `sentence` unless `condition` holds.

    >>> require(2 > 1, "never seen")
    """
    if not condition:
        raise JostleError(sentence)


def optional(module: str, extra: str) -> ModuleType:
    """Import an optional dependency where it is used.

    **Arguments:** `module`: dotted name to import. `extra`: the extra of jostle that installs it.
    **Raises:** `MissingExtra` with the command to type, if it is not installed.

    >>> optional("json", "zoo").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(
            f"{module.partition('.')[0]} is not installed; type: pip install 'jostle[{extra}]'"
        ) from None
