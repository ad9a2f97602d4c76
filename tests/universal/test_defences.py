import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal.defences import (
    DEFENCES,
    JPEG,
    Bilateral,
    BitDepth,
    GaussianBlur,
    MedianFilter,
    TenCrop,
    TVMinimise,
    defended,
)


@pytest.fixture(scope="module")
def photograph():
    from skimage.data import astronaut

    return torch.tensor(astronaut()[60:124, 190:270].copy()).permute(2, 0, 1)[None] / 255


FILTERS = {name: defence for name, defence in DEFENCES.items() if defence is not TenCrop}


@pytest.mark.parametrize("name", FILTERS)
def test_every_defence_keeps_shape_range_and_input(photograph, name):
    batch = torch.cat([photograph, photograph.flip(3), 1 - photograph])
    before = batch.clone()
    out = FILTERS[name](batch)
    assert out.shape == batch.shape and out.dtype == batch.dtype
    assert out.min() >= 0 and out.max() <= 1 + 1e-6
    assert torch.equal(batch, before)
    assert not torch.equal(out, batch) and (out - batch).abs().mean() < 0.1
    assert torch.equal(FILTERS[name](batch), out)


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"tv-minimise"}))
def test_an_image_does_not_depend_on_its_batch(photograph, name):
    batch = torch.cat([photograph, photograph.flip(2)])
    single = torch.cat([FILTERS[name](image[None]) for image in batch])
    assert torch.allclose(FILTERS[name](batch), single, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"bits-2", "bits-3"}))
def test_they_weaken_pixel_noise(photograph, name):
    flat = torch.full_like(photograph, 0.5)
    noise = 0.04 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert (FILTERS[name](flat + noise) - FILTERS[name](flat)).std() < 0.6 * 0.04


def test_jpeg_is_pillow_s(photograph):
    pixels = (photograph[0] * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    expected = np.array(Image.open(stream))
    found = (JPEG(50)(photograph)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)
    assert JPEG(75)(photograph[:, :1]).shape == (1, 1, 64, 80)


def test_gaussian_kernels():
    assert GaussianBlur(5).weights().tolist() == pytest.approx([1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16])
    nine = torch.exp(-torch.arange(-5, 6.0).square() / (2 * 2.0**2))
    assert GaussianBlur(11).weights().tolist() == pytest.approx((nine / nine.sum()).tolist(), rel=1e-5)
    assert GaussianBlur(5, sigma=1.1).weights()[2] == pytest.approx(0.3695, abs=1e-4)


def test_filters_are_opencv_s(photograph):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not a dependency; compared where it is installed")
    pixels = (photograph[0] * 255).round().byte().permute(1, 2, 0).numpy()
    for ours, theirs in [
        (GaussianBlur(5), cv2.GaussianBlur(pixels, (5, 5), 0)),
        (GaussianBlur(7), cv2.GaussianBlur(pixels, (7, 7), 0)),
        (GaussianBlur(11), cv2.GaussianBlur(pixels, (11, 11), 0)),
        (MedianFilter(5), cv2.medianBlur(pixels, 5)),
        (Bilateral(), cv2.bilateralFilter(pixels, 9, 75, 75)),
    ]:
        found = 255 * ours(photograph)[0].permute(1, 2, 0).numpy()
        assert np.abs(found - theirs).max() <= 1.0  # OpenCV rounds to 8 bits


def test_median_and_bits_by_hand():
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, :] = 1
    assert MedianFilter(3)(x).sum() == 0
    assert BitDepth(2)(torch.linspace(0, 1, 7).reshape(1, 1, 1, 7)).unique().tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert torch.allclose(
        BitDepth(8)(torch.arange(256.0).reshape(1, 1, 1, -1) / 255) * 255, torch.arange(256.0)
    )


def test_bilateral_by_hand():
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 1.0
    out = Bilateral(diameter=3, sigma_colour=255.0, sigma_space=1.0)(x)
    near, unlike = np.exp(-0.5), np.exp(-0.5)
    assert out[0, 0, 2, 2] == pytest.approx(1 / (1 + 4 * near * unlike))
    assert out[0, 0, 2, 1] == pytest.approx(near * unlike / (1 + 3 * near + near * unlike))
    assert out[0, 0, 1, 1] == pytest.approx(0)


def objective(u, x, kept, weight):
    u, x = u.double(), x.double()
    down = torch.nn.functional.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    right = torch.nn.functional.pad(u[..., 1:] - u[..., :-1], (0, 1))
    return float(weight * torch.hypot(down, right).sum() + (kept * (u - x).square()).sum())


def test_tv_reaches_the_minimum(photograph):
    from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

    everything = torch.ones_like(photograph).double()
    found = objective(TVMinimise(drop=0.0)(photograph), photograph, everything, 0.03)
    pixels = photograph[0].double().numpy()
    for theirs in (
        denoise_tv_bregman(pixels, weight=1 / 0.03, max_num_iter=1000, eps=1e-8, channel_axis=0),
        # min TV + (u - x)^2 / (2 weight), over one channel at a time
        np.stack([denoise_tv_chambolle(c, weight=0.015, eps=1e-9, max_num_iter=2000) for c in pixels]),
    ):
        assert found <= objective(torch.tensor(theirs)[None], photograph, everything, 0.03) * 1.002


@pytest.mark.study
def test_tv_with_gaps_reaches_the_minimum_and_fills_them(photograph):
    kept = torch.rand(photograph.shape, generator=torch.Generator().manual_seed(0)) >= 0.5
    short, long = (TVMinimise(steps=steps)(photograph) for steps in (150, 4000))
    values = [objective(u, photograph, kept.double(), 0.03) for u in (short, long)]
    assert values[1] <= values[0] <= 1.01 * values[1]
    assert (short - photograph)[~kept].abs().mean() < 0.06
    assert objective(photograph, photograph, kept.double(), 0.03) > 1.2 * values[0]


def test_ten_crop_is_the_mean_over_crops():
    class Corner(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1]], 1)

    x = torch.rand(3, 1, 8, 8)
    crops = [x[..., i : i + 6, j : j + 6] for i, j in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    crops += [crop.flip(3) for crop in crops]
    expected = torch.stack([Corner()(crop).softmax(1) for crop in crops]).mean(0)
    found = TenCrop(Corner(), share=0.75)(x).exp()
    # enlarging keeps the corners of a crop as they are
    assert torch.allclose(found, expected, atol=1e-6)


def test_defended_wraps_a_model(photograph):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 80, 4))
    assert torch.equal(defended(net, "bits-3")(photograph), net(BitDepth(3)(photograph)))
    assert isinstance(defended(net, "ten-crop"), TenCrop)
    assert all(defended(net, name)(photograph).shape == (1, 4) for name in DEFENCES)
    with pytest.raises(JostleError, match="a defence must be one of ten-crop"):
        defended(net, "quilting")


@pytest.mark.parametrize(
    "make",
    [
        lambda: JPEG(0), lambda: GaussianBlur(4), lambda: GaussianBlur(5, sigma=0.0), lambda: MedianFilter(2),
        lambda: Bilateral(9, sigma_colour=0.0), lambda: BitDepth(9), lambda: TVMinimise(weight=0.0),
        lambda: TVMinimise(drop=1.0), lambda: TVMinimise(steps=0), lambda: TenCrop(nn.Identity(), share=0.0),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_one_sentence(make):
    with pytest.raises(JostleError, match=r"must .* came"):
        make()


def test_a_single_image_without_a_batch_axis_is_refused():
    for defence in FILTERS.values():
        with pytest.raises(JostleError, match="images must have shape"):
            inspect.unwrap(type(defence).__call__)(defence, torch.rand(3, 8, 8))
