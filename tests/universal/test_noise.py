import math

import pytest
import torch

from jostle.core.budgets import L2, Linf
from jostle.core.errors import JostleError
from jostle.universal.noise import shuffled, sign_noise, spectral_noise, uniform_noise

XI = 10 / 255
SHAPE = (3, 224, 224)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_lengths_are_those_of_the_paper_s_image_size():
    assert uniform_noise(SHAPE, Linf(XI), generator()).norm() == pytest.approx(8.784, abs=0.02)
    signs = sign_noise(SHAPE, Linf(XI), generator())
    assert signs.norm() == pytest.approx(XI * math.sqrt(150528), rel=1e-4)
    assert signs.norm() == pytest.approx(15.215, abs=0.001)
    assert abs(signs.mean()) < 4 * XI / math.sqrt(150528)


def test_sign_noise_respects_a_box_of_the_budget():
    noise = sign_noise((1, 8, 8), Linf(0.5, lower=-0.2), generator())
    assert noise.unique().tolist() == pytest.approx([-0.2, 0.5])


def test_uniform_noise_takes_other_norms():
    assert uniform_noise((1, 8, 8), L2(2.0), generator()).norm() <= 2.0 + 1e-6


def test_shuffled_keeps_colours_together():
    delta = torch.rand(1, 3, 9, 7)
    moved = shuffled(delta, generator())
    colours = {tuple(c) for c in delta.flatten(2)[0].T.tolist()}
    assert {tuple(c) for c in moved.flatten(2)[0].T.tolist()} == colours
    assert not torch.equal(moved, delta)


@pytest.mark.parametrize("size", [(32, 32), (31, 20)])
def test_spectral_noise_keeps_values_exactly_and_spectrum_nearly(size):
    rows = torch.arange(size[0])[:, None]
    pattern = torch.sin(rows / 3) + 0.5 * torch.randn(size, generator=generator(5))
    delta = (pattern.expand(1, 3, *size) * 0.05).clamp(-XI, XI).contiguous()
    noise = spectral_noise(delta, generator())
    assert torch.equal(noise.flatten(2).sort().values, delta.flatten(2).sort().values)

    def gap(other):
        one, two = torch.fft.rfft2(delta).abs(), torch.fft.rfft2(other).abs()
        return float((one - two).norm() / one.norm())

    assert gap(noise) < 0.15
    assert gap(noise) < 0.3 * gap(shuffled(delta, generator()))
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), delta.flatten()]))[0, 1]) < 0.9


def test_the_same_generator_gives_the_same_noise():
    delta = torch.rand(1, 3, 16, 16)
    for make in (lambda g: shuffled(delta, g), lambda g: spectral_noise(delta, g)):
        assert torch.equal(make(generator(3)), make(generator(3)))
        assert not torch.equal(make(generator(3)), make(generator(4)))


def test_bad_input_is_one_sentence():
    with pytest.raises(JostleError, match="shape must be"):
        sign_noise((224, 224), Linf(XI), generator())
    with pytest.raises(JostleError, match="rounds must be at least 1"):
        spectral_noise(torch.rand(1, 1, 4, 4), generator(), rounds=0)
