"""What several test folders use."""

import inspect
from collections.abc import Callable
from typing import Any

import beartype

# An int is a float, as for a type checker.
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the shape checks of the tests, to see its own sentence for a wrong argument."""
    return inspect.unwrap(function)
