import inspect

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.universal.scenes import CLASSES, FAR, NEAR, make_scenes


@pytest.fixture(scope="module")
def material():
    from jostle.zoo import load_data

    digits, labels = load_data("mnist5k").tensors()
    photographs, _ = load_data("photographs", size=64).tensors()
    return photographs, digits[::50, 0], labels[::50]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scenes_are_consistent(material):
    photographs, digits, labels = material
    images, masks, depths = make_scenes(photographs, digits, labels, count=60, size=48, generator=generator())
    assert images.shape == (60, 3, 48, 48) and images.min() >= 0 and images.max() <= 1
    assert masks.min() == 0 and masks.max() == CLASSES - 1
    assert 0.5 < (masks == 0).double().mean() < 0.97
    assert torch.equal(masks == 0, depths == FAR)
    assert depths[masks > 0].min() >= NEAR - 1e-5 and depths[masks > 0].max() < FAR
    assert all(1 <= len(mask.unique()) - 1 <= 2 for mask in masks)
    assert masks.unique().tolist() == list(range(CLASSES))


def test_a_single_digit_lies_where_its_depth_says(material):
    photographs, _, _ = material
    block = torch.ones(1, 28, 28)  # fills its whole frame
    _, masks, depths = make_scenes(
        photographs, block, torch.tensor([6]), count=40, size=80, generator=generator(), layers=1
    )
    for mask, depth in zip(masks, depths, strict=True):
        assert set(mask.unique().tolist()) <= {0, 7}
        rows = mask.any(1).sum()
        # a frame of the largest height, 0.9 of the side, is at NEAR
        assert float(depth.min()) == pytest.approx(NEAR * 0.9 * 80 / float(rows), rel=0.06)


def test_near_digits_hide_far_ones(material):
    photographs, _, _ = material
    block = torch.ones(1, 28, 28)
    _, _masks, depths = make_scenes(
        photographs, block, torch.tensor([0]), count=40, size=80, generator=generator(), layers=3
    )
    for depth in depths:
        near = depth == depth.min()
        rows = near.any(1).nonzero().flatten()
        columns = near.any(0).nonzero().flatten()
        window = near[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert bool(window[1:-1, 1:-1].all())  # the nearest frame is whole


def test_same_generator_same_scenes(material):
    one, two, other = (
        make_scenes(*material, count=5, size=32, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"heights": (0.9, 0.5)}, "heights must satisfy"),
        ({"heights": (0.0, 0.5)}, "heights must satisfy"),
        ({"count": 0}, "count, size and layers"),
        ({"layers": 0}, "count, size and layers"),
    ],
)
def test_bad_settings_are_one_sentence(material, wrong, sentence):
    with pytest.raises(JostleError, match=sentence):
        make_scenes(*material, **{"count": 2, "size": 32, "generator": generator(), **wrong})
    photographs, digits, labels = material
    with pytest.raises(JostleError, match="labels must be one a digit"):
        inspect.unwrap(make_scenes)(photographs, digits, labels[:3], count=2, size=32, generator=generator())
