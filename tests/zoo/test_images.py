"""A set of images: what it hands out, how it cuts, when two are the same."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from jostle.core.errors import JostleError
from jostle.zoo.images import Arrays, Images, as_tensor, fit


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def colours() -> Images:
    return Images(Arrays(noise((7, 6, 5, 3))), [0, 1, 2, 0, 1, 2, 0], "abc", "colours")


def test_image_is_float_channels_first_in_unit_range(colours):
    image, label = colours[4]
    assert label == 1 and image.dtype == torch.float32
    expected = noise((7, 6, 5, 3))[4].transpose(2, 0, 1) / 255
    assert torch.equal(image, torch.from_numpy(expected.astype(np.float32)))


def test_negative_index_counts_from_the_end_and_loops_end(colours):
    assert torch.equal(colours[-1][0], colours[6][0])
    assert [label for _, label in colours] == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(IndexError):
        colours[7]


def test_batches_cover_all_images_in_order(colours):
    batches = list(colours.batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    images, labels = colours.tensors()
    assert torch.equal(torch.cat([images for images, _ in batches]), images)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0] == colours.labels.tolist()
    assert labels.dtype == torch.int64


def test_batch_size_is_refused_before_the_first_batch(colours):
    with pytest.raises(JostleError, match=r"batch size must be at least 1, but 0 came"):
        colours.batches(0)


def test_size_is_refused_below_one():
    with pytest.raises(JostleError, match=r"size must be at least 1 pixel, but 0 came"):
        Images(Arrays(noise((1, 4, 4))), [0], "a", "tiny", size=0)


def test_subset_keeps_order_and_nests(colours):
    twice = colours.subset(torch.tensor([5, 0, -1, 2])).subset([3, 0])
    assert len(twice) == 2 and twice.labels.tolist() == [2, 2]
    assert torch.equal(twice[0][0], colours[2][0]) and torch.equal(twice[1][0], colours[5][0])


def test_subset_carries_groups():
    views = Images(Arrays(noise((3, 4, 4))), [0, 0, 0], "a", "views", groups=[4, 5, 6])
    assert views.subset([2, 0]).groups.tolist() == [6, 4]


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [([], "at least one index"), ([0, 7], "index 7 lies outside"), ([-8], "index -8 lies outside")],
)
def test_subset_refuses(colours, indices, sentence):
    with pytest.raises(JostleError, match=sentence):
        colours.subset(indices)


def test_fingerprint_is_of_the_images_only(colours):
    same = Images(Arrays(noise((7, 6, 5, 3))[::-1]), [0] * 7, "z", "other", size=4)
    assert colours.fingerprint() == same.fingerprint()
    assert colours.fingerprint() != colours.subset(range(6)).fingerprint()
    assert (
        colours.fingerprint() != Images(Arrays(noise((7, 6, 5, 3), seed=1)), [0] * 7, "z", "o").fingerprint()
    )
    # The same bytes in another shape are other images.
    assert colours.fingerprint() != Images(Arrays(noise((7, 5, 6, 3))), [0] * 7, "z", "other").fingerprint()


def test_loader_with_workers_gives_the_same(colours):
    loader = DataLoader(colours, batch_size=3, num_workers=1)
    assert torch.equal(torch.cat([images for images, _ in loader]), colours.tensors()[0])


def test_pickles(colours):
    assert torch.equal(pickle.loads(pickle.dumps(colours)).tensors()[0], colours.tensors()[0])


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shape", [(256, 256), (375, 500), (500, 333), (257, 300), (1000, 225), (240, 301)])
def test_fit_is_the_evaluation_of_torchvision(shape, mode):
    image = Image.fromarray(noise((*shape, 3))).convert(mode)
    peer = v2.Compose([v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    assert fit(image, 224).tobytes() == peer(image).tobytes()


@pytest.mark.parametrize(("shape", "size"), [((32, 32), 32), ((224, 300), 224), ((9, 8), 8)])
def test_fit_leaves_pixels_of_the_right_size_alone(shape, size):
    pixels = noise((*shape, 3))
    top, left = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), size)), pixels[top:, left:][:size, :size])


def test_fit_brings_small_images_to_size_without_cropping_them():
    pixels = noise((8, 8))
    assert fit(Image.fromarray(pixels), 16).tobytes() == Image.fromarray(pixels).resize((16, 16), 3).tobytes()


def test_float_grey_keeps_its_range_through_resampling():
    step = np.zeros((8, 8), dtype=np.float32)
    step[:, 4:] = 1
    image = as_tensor(fit(Image.fromarray(step), 32))
    assert image.shape == (1, 32, 32) and image.min() == 0 and image.max() == 1
