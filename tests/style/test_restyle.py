"""Checks 2, 3 and 13 of the specification: the kernel against the literal form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle import JostleError
from jostle.style import batch_uncertainty, channel_statistics, grad_reverse, restyle
from tests.helpers import plain


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def literal(x, noise_sigma, noise_mu, s_sigma, s_mu, eps=1e-6):
    """The published form, in plain autograd."""
    mu = x.mean((2, 3), keepdim=True)
    sigma = (x.var((2, 3), keepdim=True) + eps).sqrt()
    wide = [part[:, :, None, None] for part in (noise_sigma * s_sigma, noise_mu * s_mu)]
    return (x - mu) / sigma * (sigma + wide[0]) + mu + wide[1]


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_forward_and_gradients_are_those_of_the_literal_form(batch, channels, height, width, seed):
    x, g = (
        draw(batch, channels, height, width, seed=seed),
        draw(batch, channels, height, width, seed=seed + 1),
    )
    noise = draw(2, batch, channels, seed=seed + 2)
    s = draw(2, channels, seed=seed + 3)
    results = []
    for form in ("literal", "fused"):
        leaves = [part.clone().requires_grad_() for part in (x, s[0], s[1])]
        if form == "literal":
            y = literal(leaves[0], noise[0], noise[1], leaves[1], leaves[2])
        else:
            y = restyle(leaves[0], lambda mu, sigma, a, b: (noise[0] * a, noise[1] * b), leaves[1], leaves[2])
        results.append([y, *torch.autograd.grad(y, leaves, g)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_identity_of_the_fused_form_holds_to_1e_12():
    x, noise, s = draw(4, 3, 5, 6), draw(2, 4, 3, seed=1), draw(2, 3, seed=2)
    mu, sigma = (part[:, :, None, None] for part in channel_statistics(x))
    direct = x + (noise[0] * s[0])[:, :, None, None] * (x - mu) / sigma + (noise[1] * s[1])[:, :, None, None]
    y = restyle(x, lambda m, sd, a, b: (noise[0] * a, noise[1] * b), s[0], s[1])
    torch.testing.assert_close(y, direct, rtol=1e-12, atol=1e-12)


@pytest.mark.study
def test_gradients_flow_through_the_batch_uncertainty():
    noise = draw(2, 5, 3, seed=4)

    def plan(mu, sigma):
        s_mu, s_sigma = batch_uncertainty(mu, sigma)
        return noise[0] * s_sigma, noise[1] * s_mu

    x = draw(5, 3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: restyle(x, plan), (x,))
    mu, sigma = channel_statistics(x)
    s_mu, s_sigma = batch_uncertainty(mu, sigma)
    g = draw(5, 3, 4, 4, seed=9)
    ours = torch.autograd.grad(restyle(x, plan), x, g)[0]
    theirs = torch.autograd.grad(literal(x, noise[0], noise[1], s_sigma, s_mu), x, g)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "channel_dim"), [((4, 3, 7), 1), ((4, 3, 2, 3, 4), 1), ((4, 7, 3), -1)])
def test_other_layouts_agree_with_pictures(shape, channel_dim):
    x, noise = draw(*shape), draw(4, 3, seed=1)
    picture = x.movedim(channel_dim, 1).reshape(4, 3, 1, -1)

    def plan(mu, sigma):
        return noise, 2 * noise

    y = restyle(x, plan, channel_dim=channel_dim).movedim(channel_dim, 1).reshape(4, 3, 1, -1)
    torch.testing.assert_close(y, restyle(picture, plan), rtol=1e-12, atol=1e-12)


def test_memory_formats_agree():
    x, noise = draw(4, 3, 6, 5, dtype=torch.float32), draw(4, 3, seed=1, dtype=torch.float32)
    g = draw(4, 3, 6, 5, seed=2, dtype=torch.float32)
    forms = [x, x.contiguous(memory_format=torch.channels_last), x.repeat_interleave(2, 3)[..., ::2]]
    results = []
    for form in forms:
        leaf = form.detach().requires_grad_()
        y = restyle(leaf, lambda mu, sigma: (noise, noise))
        results.append((y, torch.autograd.grad(y, leaf, g)[0]))
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    for y, dx in results[1:]:
        torch.testing.assert_close(y, results[0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(dx, results[0][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, noise = draw(4, 3, 6, 6, dtype=torch.float32), draw(4, 3, seed=1, dtype=torch.float32)
    low = x.to(dtype).requires_grad_()
    y = restyle(low, lambda mu, sigma: (noise, noise))
    exact = restyle(low.detach().float(), lambda mu, sigma: (noise, noise))
    assert y.dtype == dtype
    torch.testing.assert_close(y, exact.to(dtype))
    (dx,) = torch.autograd.grad(y.sum(), low)
    assert dx.dtype == dtype


def test_a_constant_channel_stays_finite():
    x = torch.ones(2, 1, 3, 3, requires_grad=True)
    y = restyle(x, lambda mu, sigma: (torch.ones_like(sigma), mu))
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(y).all() and torch.isfinite(dx).all()


def test_gradient_reversal():
    x = draw(3).requires_grad_()
    y = grad_reverse(x, 0.5)
    assert torch.equal(y, x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx, torch.full_like(x, -0.5))


def test_errors_say_what_is_wanted():
    with pytest.raises(JostleError, match="floating"):
        plain(channel_statistics)(torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(JostleError, match="two values"):
        plain(restyle)(torch.ones(2, 3), lambda mu, sigma: (mu, mu))
    with pytest.raises(JostleError, match="batch axis"):
        channel_statistics(torch.ones(2, 3, 4), channel_dim=0)
