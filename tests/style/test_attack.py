"""The worst style: inside its budget, above zero, and exact on a network where it is known."""

import math

import pytest
import torch
from torch import nn

from jostle import JostleError
from jostle.style import DSU, fit_reference, style_curve, worst_style
from jostle.style.restyle import channel_statistics
from tests.helpers import plain


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def setting():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )
    nn.init.normal_(net[-1].weight, std=3.0)
    x = torch.rand(30, 1, 8, 8, generator=seeded(2))
    return net, x, net(x).argmax(1), fit_reference(net, x.split(7), "1")


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_it_keeps_to_the_budget_and_to_positive_deviations(norm):
    net, x, y, reference = setting()
    found = worst_style(net, x, y, reference, 3.0, norm=norm, restarts=2, generator=seeded())
    u = torch.cat([found.delta_mu / reference.mu, found.delta_sigma / reference.sigma], dim=1)
    size = u.norm(dim=1) if norm == "L2" else u.abs().amax(1)
    assert float(size.max()) <= 3.0 * (1 + 1e-5)
    _, sigma = channel_statistics(net[:2](x))
    assert float((sigma + found.delta_sigma).detach().min()) >= -1e-5
    clean = nn.functional.cross_entropy(net(x), y, reduction="none")
    assert bool((found.loss >= clean - 1e-6).all()) and float(found.loss.mean()) > float(
        clean.detach().mean()
    )


def test_a_linear_head_on_the_means_has_a_known_worst_style():
    # Logits w . mu: the worst shift of the means in L2 is r S^2 w / ||S w||, by the margin r ||S w||.
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    net[-1].weight.data.copy_(weight)
    x = torch.randn(12, 2, 4, 4, generator=seeded(1))
    y = net(x).argmax(1)
    reference = fit_reference(net, [x], "0")
    found = worst_style(net, x, y, reference, 0.5, steps=40)
    logits, moved = net(x).detach(), net(x + found.delta_mu[:, :, None, None]).detach()
    gap = (logits[:, 0] - moved[:, 0]).abs()
    best = 0.5 * float((reference.mu * weight[0]).norm())
    assert float(gap.max()) <= best * (1 + 1e-4) and float(gap[found.robust].min()) > 0.98 * best


@pytest.mark.study
def test_the_curve_falls_from_the_clean_accuracy():
    net, x, y, reference = setting()
    curve = style_curve(net, x, y, reference, (0.0, 1.0, 4.0, 16.0), steps=10, batch=8)
    assert curve.accuracy[0] == 100.0
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True) and curve.accuracy[-1] < 100


def test_one_style_for_all():
    net, x, y, reference = setting()
    found = worst_style(net, x, y, reference, 8.0, shared=True)
    assert found.delta_mu.shape == (1, 6)
    clean = nn.functional.cross_entropy(net(x), y).detach()
    assert float(found.loss.mean()) > float(clean)


def test_the_model_is_left_as_it_was():
    net, x, y, reference = setting()
    net = nn.Sequential(*net[:2], DSU(6, p=1.0), *net[2:]).train()
    worst_style(net, x, y, reference, 1.0, steps=2)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert not any(child._forward_hooks for child in net.modules())


def test_errors():
    net, x, y, reference = setting()
    with pytest.raises(JostleError, match="radius"):
        worst_style(net, x, y, reference, -1.0)
    with pytest.raises(JostleError, match="norm"):
        plain(worst_style)(net, x, y, reference, 1.0, norm="L7")  # type: ignore[arg-type]
    with pytest.raises(JostleError, match="rise"):
        style_curve(net, x, y, reference, (2.0, 1.0))
    with pytest.raises(JostleError, match="no layer"):
        fit_reference(net, [x], "nowhere")
    with pytest.raises(JostleError, match="two images"):
        fit_reference(net, [x[:1]], "1")
    assert math.isfinite(float(reference.mu.sum()))
