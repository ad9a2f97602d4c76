"""jostle: nudge a system and measure how it answers."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Rooms and tools are imported when they are first used, so that `import jostle` stays fast.
_MODULES = (
    "collapse",
    "core",
    "disk",
    "federated",
    "lab",
    "observation",
    "quantization",
    "smoothing",
    "style",
    "timescales",
    "universal",
    "zoo",
)
_NAMES = {
    "L1": "jostle.core.budgets",
    "L2": "jostle.core.budgets",
    "Linf": "jostle.core.budgets",
    "Taps": "jostle.core.taps",
    "ascend": "jostle.core.ascent",
    "replaced": "jostle.core.taps",
    "JostleError": "jostle.core.errors",
}

__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jostle.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'jostle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
