"""The toy study, and runs that are rich enough to look at."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest


def _load(name: str):
    # By path: it is found whatever the import mode of pytest is.
    spec = importlib.util.spec_from_file_location(f"jostle_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(monkeypatch):
    """The toy module, entered as the room `toy`."""
    module = _load("toy")
    module.enter(monkeypatch.setitem)
    return module


@pytest.fixture(scope="session")
def _gallery(tmp_path_factory):
    return _load("gallery").fill(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def gallery(_gallery, tmp_path):
    """A root with runs in every state: one rich and finished, one failed, one interrupted, one cut off."""
    return shutil.copytree(_gallery, tmp_path / "runs")
