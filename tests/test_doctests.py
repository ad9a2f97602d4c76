"""The examples in the docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import jostle

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jostle.__path__, "jostle.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
