"""Check 12 of the specification: the layers that mix the styles of a batch."""

import pytest
import torch

from jostle import JostleError
from jostle.style import DSU, EFDMix, MixStyle, PAdaIN, channel_statistics


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", [DSU, MixStyle, EFDMix, PAdaIN])
def test_nothing_happens_in_evaluation_or_with_no_odds(kind):
    x = draw(4, 3, 5, 5)
    assert kind(3, p=1.0).eval()(x) is x
    assert kind(3, p=0.0)(x) is x


@pytest.mark.parametrize("kind", [MixStyle, EFDMix])
def test_the_identity_permutation_and_a_weight_of_one_change_nothing(kind):
    x, order = draw(4, 3, 5, 5), torch.arange(4)
    weight = torch.tensor([[0.3], [0.0], [1.0], [0.7]], dtype=torch.float64)
    torch.testing.assert_close(kind(3).mixed(x, order, weight), x, rtol=1e-12, atol=1e-12)
    assert torch.equal(kind(3).mixed(x, torch.tensor([1, 2, 3, 0]), torch.ones(4, 1, dtype=torch.float64)), x)


def test_mixstyle_gives_the_mixed_statistics_and_detaches_them():
    x, order = draw(4, 3, 5, 5).requires_grad_(), torch.tensor([2, 3, 1, 0])
    weight = torch.tensor([[0.3], [0.0], [1.0], [0.7]], dtype=torch.float64)
    y = MixStyle(3).mixed(x, order, weight)
    mu, sigma = channel_statistics(x.detach())
    new_mu, new_sigma = (weight * part + (1 - weight) * part[order] for part in (mu, sigma))
    torch.testing.assert_close(y.mean((2, 3)), new_mu, rtol=1e-10, atol=1e-10)
    literal = (x - mu[:, :, None, None]) / sigma[:, :, None, None] * new_sigma[:, :, None, None]
    torch.testing.assert_close(y, literal + new_mu[:, :, None, None], rtol=1e-10, atol=1e-10)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, (new_sigma / sigma)[:, :, None, None].expand_as(x), rtol=1e-10, atol=1e-10)


def test_efdmix_mixes_sorted_values_with_the_published_gradient():
    x, order = draw(3, 2, 4, 4).requires_grad_(), torch.tensor([1, 2, 0])
    weight = torch.full((3, 1), 0.25, dtype=torch.float64)
    y = EFDMix(2).mixed(x, order, weight)
    ours, theirs = x.detach().flatten(2).sort(-1).values, x.detach()[order].flatten(2).sort(-1).values
    torch.testing.assert_close(y.detach().flatten(2).sort(-1).values, 0.25 * ours + 0.75 * theirs)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx, torch.ones_like(x))


def test_padain_swaps_styles():
    x = draw(4, 3, 5, 5)
    y = PAdaIN(3, p=1.0, generator=seeded(1))(x)
    generator = seeded(1)
    torch.rand((), generator=generator)
    order = torch.randperm(4, generator=generator)
    torch.testing.assert_close(y.mean((2, 3)), x.mean((2, 3))[order], rtol=1e-10, atol=1e-10)


def test_dsu_is_unbiased():
    # Noise is drawn apart for each sample, so one batch of many copies of two pictures is many draws.
    x, layer = draw(2, 2, 3, 3), DSU(2, p=1.0, generator=seeded(0))
    outputs = layer(x.repeat(4000, 1, 1, 1)).reshape(4000, 2, 2, 3, 3)
    error = outputs.std(0) / 4000**0.5
    assert float(((outputs.mean(0) - x).abs() / error).max()) < 5


def test_weights_come_from_the_generator_and_from_beta():
    x = torch.zeros(20_000, 1, 1, 2)
    first = MixStyle(1, generator=seeded(3)).weights(x)
    assert torch.equal(first, MixStyle(1, generator=seeded(3)).weights(x))
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert abs(float(first.mean()) - 0.5) < 0.01
    assert abs(float(first.var()) - 1 / (4 * 1.2)) < 0.01


def test_partners_across_domains():
    order = MixStyle(1, mix="crossdomain", generator=seeded(0)).partners(torch.zeros(8, 1, 1, 2))
    assert set(order[:4].tolist()) == {4, 5, 6, 7} and set(order[4:].tolist()) == {0, 1, 2, 3}
    with pytest.raises(JostleError, match="even batch"):
        MixStyle(1, mix="crossdomain").partners(torch.zeros(3, 1, 1, 2))


def test_tokens_are_mixed_like_pictures():
    x, order = draw(3, 6, 2), torch.tensor([1, 2, 0])
    weight = torch.full((3, 1), 0.25, dtype=torch.float64)
    for kind in (MixStyle, EFDMix):
        tokens = kind(2, channel_dim=-1).mixed(x, order, weight)
        picture = kind(2).mixed(x.movedim(-1, 1), order, weight)
        torch.testing.assert_close(tokens.movedim(-1, 1), picture)
