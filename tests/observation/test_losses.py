"""The losses at hand-computed points (the checks of the specification)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.core.errors import JostleError
from jostle.observation import bifurcated, dl, gaussian_kl, gdl, regression
from jostle.observation.losses import halves


@pytest.mark.parametrize(
    ("z", "y", "value"), [((-3.0, -1.0, -2.0), 1, -1.0), ((2.0, 5.0, 1.0), 1, -3.0), ((0.7, -0.7), 0, -1.4)]
)
def test_difference_of_logits(z, y, value):
    assert dl(torch.tensor([z]), torch.tensor([y])).item() == pytest.approx(value)


def test_the_pair_of_a_bifurcation_has_slope_two():
    x = torch.tensor([[0.7]], requires_grad=True)
    J = dl(torch.cat([x, -x], 1), torch.tensor([0]))
    J.sum().backward()
    assert J.item() == pytest.approx(-1.4) and x.grad.item() == -2.0
    y = x.detach().requires_grad_()
    K = bifurcated(y, torch.tensor([[-1.0]]), torch.zeros(1))
    K.sum().backward()
    assert torch.equal(J, K) and torch.equal(x.grad, y.grad)


def test_grouped_difference_of_logits_and_its_gradient():
    z = torch.tensor([[1.0, 4.0, 2.0, 0.0, 3.0, -1.0]], requires_grad=True)
    J = gdl(z, torch.tensor([1]), halves(6))
    J.sum().backward()
    assert J.item() == -1.0
    assert z.grad.tolist() == [[0, -1, 0, 0, 1, 0]]


@given(st.integers(2, 9), st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_groups_of_one_class_are_the_plain_margin(count, seed):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(7, count, generator=rng)
    y = torch.randint(count, (7,), generator=rng)
    assert torch.equal(gdl(z, y, torch.arange(count)), dl(z, y))
    assert torch.equal(dl(z, z.argmax(1)) <= 0, torch.ones(7, dtype=torch.bool))


@given(st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_regression_losses_are_torch_s(x, x0):
    a, b = torch.tensor([[x]]), torch.tensor([[x0]])
    for kind, theirs in (("mse", "mse_loss"), ("mae", "l1_loss"), ("huber", "huber_loss")):
        wanted = getattr(torch.nn.functional, theirs)(a, b)
        assert regression(a, b, kind).item() == pytest.approx(wanted.item(), abs=1e-7)


def test_the_gaussian_divergence_is_torch_s():
    rng = torch.Generator().manual_seed(0)
    m, m0 = torch.randn(5, 3, generator=rng), torch.randn(5, 3, generator=rng)
    s, s0 = torch.rand(5, 3, generator=rng) + 0.1, torch.rand(5, 3, generator=rng) + 0.1
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(m0, s0), normal(m, s)).sum(1)
    assert torch.allclose(gaussian_kl(m, s, m0, s0), wanted, rtol=1e-5)


def test_a_single_class_has_no_margin():
    with pytest.raises(JostleError, match="at least 2 classes, but 1"):
        dl(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
