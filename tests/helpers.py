"""What several test folders use."""

import inspect
from collections.abc import Callable
from typing import Any


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the shape checks of the tests, to see its own sentence for a wrong argument."""
    return inspect.unwrap(function)
