"""The toy study, and a run of it that is rich enough to look at."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _toy():
    # By path: it is found whatever the import mode of pytest is.
    spec = importlib.util.spec_from_file_location("jostle_toy", Path(__file__).with_name("toy.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["jostle_toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(monkeypatch):
    """The toy module, entered as the room `toy`."""
    module = _toy()
    module.enter(monkeypatch.setitem)
    return module


@pytest.fixture
def gallery(tmp_path):
    """A root with runs in every state: one rich and finished, one failed, one interrupted, one cut off."""
    spec = importlib.util.spec_from_file_location("jostle_gallery", Path(__file__).with_name("gallery.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill(tmp_path / "runs")
