import itertools

import pytest
import torch
from torch import nn

from jostle.core.budgets import L2, Linf
from jostle.core.errors import JostleError
from jostle.universal.noise import sign_noise
from jostle.universal.singular import singular_uap


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stretch(layer, images, delta, q):
    """`||J v||_q` by finite differences in float64."""
    net, x, v = layer.double(), images.double(), delta.double()
    h = 1e-6
    with torch.no_grad():
        difference = (net(x + h * v) - net(x - h * v)) / (2 * h)
    layer.float()
    return float(torch.linalg.vector_norm(difference, ord=q))


@pytest.mark.study
def test_l2_and_q2_give_the_top_singular_vector():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(20, 12, generator=generator(1)))
    images = torch.zeros(1, 1, 3, 4).double()
    found = singular_uap(net, images, L2(2.5), "1", q=2, steps=300, generator=generator())
    top = torch.linalg.svd(net[1].weight.detach()).Vh[0]
    assert found.norm() == pytest.approx(2.5)
    assert abs(found.flatten() @ top) == pytest.approx(2.5, rel=1e-6)


def test_linf_solves_a_small_problem_by_enumeration():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(8, 6, generator=generator(2)))
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).double()
    values = torch.linalg.vector_norm(corners @ net[1].weight.detach().T, ord=4, dim=1)
    best = max(
        float(torch.linalg.vector_norm(net(found).detach(), ord=4))
        for found in (
            singular_uap(
                net, torch.zeros(1, 1, 2, 3).double(), Linf(1.0), "1", q=4, steps=8, generator=generator(seed)
            )
            for seed in range(40)
        )
    )
    assert best == pytest.approx(float(values.max()), rel=1e-9)


def test_the_norm_never_falls_and_beats_noise(digit_net, digits, fooling):
    images, norms = digits[0][0][:32], []
    delta = singular_uap(
        digit_net,
        images,
        Linf(0.2),
        "3",
        generator=generator(),
        callback=lambda *a: norms.append(float(a[2][7:])),
    )
    assert all(b >= a * 0.995 for a, b in itertools.pairwise(norms)) and norms[-1] > norms[0]
    assert set(delta.abs().unique().tolist()) <= {0.0, float(torch.tensor(0.2))}
    noise = sign_noise((1, 8, 8), Linf(0.2), generator())
    assert stretch(digit_net[:4], images, delta, 10) > 1.5 * stretch(digit_net[:4], images, noise, 10)
    assert fooling(delta) > fooling(noise)


def test_large_answers_do_not_overflow():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        net[1].weight.mul_(1e8)
    delta = singular_uap(net, torch.zeros(1, 1, 2, 2), Linf(0.1), "1", generator=generator())
    assert torch.isfinite(delta).all() and delta.abs().max() == pytest.approx(0.1)


def test_bad_input_is_one_sentence(digit_net, digits):
    images = digits[0][0][:4]
    with pytest.raises(JostleError, match="q must be above 1"):
        singular_uap(digit_net, images, Linf(0.1), "1", q=1.0, generator=generator())
    with pytest.raises(JostleError, match="steps must be at least 1"):
        singular_uap(digit_net, images, Linf(0.1), "1", steps=0, generator=generator())
    with pytest.raises(JostleError, match="no layer 'x'"):
        singular_uap(digit_net, images, Linf(0.1), "x", generator=generator())
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(dead[1].weight)
    with pytest.raises(JostleError, match="Jacobian is zero"):
        singular_uap(dead, images, Linf(0.1), "1", generator=generator())
