import pytest
import torch
from helpers import plain

from jostle.core.errors import JostleError
from jostle.universal.priors import IMAGENET_SD, DataPrior, NoPrior, RangePrior, SmoothPrior, augment

SHAPE = (3, 64, 64)


def draws(prior, count=40, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = prior.begin(shape, generator)
    return torch.cat([prior.batch(state, shape, t, generator) for t in range(count)])


@pytest.mark.parametrize(
    "prior", [RangePrior(size=150), RangePrior(resampled=False), SmoothPrior(), NoPrior()]
)
def test_priors_are_valid_images_and_follow_the_generator(prior):
    first, again, other = draws(prior, 5), draws(prior, 5), draws(prior, 5, seed=1)
    assert first.shape[1:] == SHAPE and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, again)
    assert prior.name == "none" or not torch.equal(first, other)


def test_the_range_prior_is_resampled_to_far_less_than_its_nominal_spread():
    white, seen = draws(RangePrior(resampled=False), 10), draws(RangePrior(size=150), 60)
    nominal = torch.tensor(IMAGENET_SD)
    assert torch.allclose(white.std((0, 2, 3)), nominal, rtol=0.1)
    spread = seen.std((2, 3)).mean(0)
    assert bool((spread < 0.6 * nominal).all()) and bool((spread > 0.1 * nominal).all())


def test_the_noise_image_is_of_eight_bits():
    noise = RangePrior(size=50).begin(SHAPE, torch.Generator().manual_seed(0))["noise"]
    assert torch.allclose((noise * 255).round() / 255, noise, atol=1e-7)


def test_smooth_prior_grows_with_its_ramp():
    early, late = SmoothPrior(ramp=100), SmoothPrior(ramp=100)
    a = draws(early, 1)
    generator = torch.Generator().manual_seed(0)
    b = late.batch({}, SHAPE, 99, generator)
    assert float(a.std((2, 3)).mean()) < 0.05 * float(b.std((2, 3)).mean())


def test_data_prior_goes_round_all_images():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 8, 8) / 10
    seen = draws(DataPrior(images, batch_size=2, augmented=False), 5, (3, 8, 8))
    assert sorted((seen[:, 0, 0, 0] * 10).round().int().tolist()) == sorted([0, 1, 2, 3, 4] * 2)


def test_augmented_views_have_the_shape_asked_for():
    image = torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        view = augment(image, (3, 32, 48), (0.5, 0.5, 0.5), generator)
        assert view.shape == (3, 32, 48) and float(view.min()) >= -1e-5 and float(view.max()) <= 1 + 1e-5


def test_wrong_priors_are_refused():
    with pytest.raises(JostleError, match="mean must hold one value or one a channel"):
        NoPrior((0.1, 0.2)).begin(SHAPE, torch.Generator())
    with pytest.raises(JostleError, match="at least one image"):
        DataPrior(torch.zeros(0, 3, 4, 4)).begin(SHAPE, torch.Generator())
    with pytest.raises(JostleError, match="images must have 3 channels"):
        DataPrior(torch.zeros(2, 1, 4, 4)).begin(SHAPE, torch.Generator())
    with pytest.raises(JostleError, match="cells must be"):
        plain(SmoothPrior.begin)(SmoothPrior(cells=0), SHAPE, torch.Generator())


def test_less_background_keeps_the_images_of_many_objects():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2) / 4
    masks = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [1, 1]], [[255, 255], [255, 0]], [[2, 2], [3, 255]]])
    kept = DataPrior.less_background(images, masks, batch_size=1)
    assert torch.equal(kept.images, images[[1, 3]]) and kept.batch_size == 1
    assert len(DataPrior.less_background(images, masks, most=1.0).images) == 4
    assert torch.equal(DataPrior.less_background(images, masks, background=2, most=0.3).images, images[:3])
    with pytest.raises(JostleError, match="no image has a share of background"):
        DataPrior.less_background(images[:1], masks[:1])
    with pytest.raises(JostleError, match="masks must be one an image, but 2 came for 4"):
        plain(DataPrior.less_background.__func__)(DataPrior, images, masks[:2])
