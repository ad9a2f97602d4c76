"""What training does to a batch: mirrored, enlarged and cut, the same for a seed whatever the memory holds."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as T

from jostle import JostleError
from jostle.style import Domain
from jostle.style.augment import augmented, recoloured, translated
from jostle.style.domains import floating


@pytest.mark.parametrize("side", [(16, 16), (24, 40)])
def test_a_window_of_the_enlarged_image(side):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, *side, generator=generator, dtype=torch.float64)
    larger = [round(1.125 * n) for n in side]
    corner = torch.stack(
        [torch.randint(b - a + 1, (5,), generator=generator) for a, b in zip(side, larger, strict=True)], 1
    )
    moved = torch.tensor([True, True, False, True, True])
    found = translated(x, moved, corner)
    enlarged = F.interpolate(x, larger, mode="bilinear", align_corners=False)
    for i, (top, left) in enumerate(corner.tolist()):
        window = enlarged[i, :, top : top + side[0], left : left + side[1]]
        torch.testing.assert_close(found[i], window if moved[i] else x[i], rtol=0, atol=1e-12)


def test_augmentation_repeats_itself_and_both_kinds_happen():
    images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    train = Domain(images, torch.arange(400))
    chosen = torch.arange(400)

    def drawn(**how):
        return augmented(train, chosen, torch.Generator().manual_seed(2), **how)

    def same(a, b):
        return (a == b).flatten(1).all(1)

    flipped = drawn()
    assert torch.equal(flipped, drawn())
    kept, turned = same(flipped, images), same(flipped, images.flip(-1))
    assert bool((kept | turned).all()) and 160 < int(turned.sum()) < 240
    moved = ~same(drawn(mirror=False, translate=True), images)
    assert 160 < int(moved.sum()) < 240
    assert torch.equal(drawn(mirror=False), images)


def test_mirror_images_that_were_given_are_taken():
    train = Domain(torch.zeros(50, 1, 2, 2), torch.arange(50), torch.ones(50, 1, 2, 2))
    found = augmented(train, torch.arange(50), torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_eight_bits_stand_for_zero_to_one():
    whole = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    small, large = Domain(whole, torch.arange(6)), Domain(whole.float() / 255, torch.arange(6))
    for how in ({}, {"translate": True}):
        pair = [
            augmented(d, torch.arange(6), torch.Generator().manual_seed(3), **how) for d in (small, large)
        ]
        assert torch.equal(*pair)
    assert torch.equal(floating(whole), large.images)


def test_jitter_is_torchvisions_four_changes_in_turn():
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = recoloured(x, "jitter", torch.Generator().manual_seed(4))
    draws = 2 * torch.rand(4, 6, 1, 1, 1, generator=torch.Generator().manual_seed(4)) - 1
    for i in range(6):
        brightness, contrast, saturation, hue = draws[:, i, 0, 0, 0].tolist()
        wanted = T.adjust_brightness(x[i], 1 + 0.3 * brightness)
        wanted = T.adjust_saturation(T.adjust_contrast(wanted, 1 + 0.3 * contrast), 1 + 0.3 * saturation)
        torch.testing.assert_close(found[i], T.adjust_hue(wanted, 0.1 * hue), rtol=0, atol=1e-5)


def test_a_tenth_turns_grey_and_colours_are_needed():
    x = torch.rand(500, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = recoloured(x, "grayscale", torch.Generator().manual_seed(1))
    grey = (found[:, :1] == found).flatten(1).all(1)
    assert 30 < int(grey.sum()) < 70
    assert torch.equal(found[~grey], x[~grey])
    torch.testing.assert_close(found[grey], T.rgb_to_grayscale(x[grey], 3))
    with pytest.raises(JostleError, match="three channels"):
        recoloured(x[:, :1], "jitter", torch.Generator())
