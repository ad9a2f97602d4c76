"""How scales stand, what the adversary costs, and an optimiser under which lambda means nothing."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jostle import JostleError
from jostle.style import (
    DSU,
    AdvStyle,
    adversarial_gap,
    batch_uncertainty,
    channel_statistics,
    check_optimiser,
    grad_reverse,
    param_groups,
    restyle,
    scale_report,
)

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 2


def net(**settings):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3), AdvStyle(3, generator=torch.Generator().manual_seed(1), **settings),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 2),
    )  # fmt: skip


def test_scales_are_measured_by_a_running_mean_of_the_batches():
    model = net(probs=(0.0, 1.0, 0.0), start="constant")[1]
    assert "ratio_mu" not in scale_report(model)[""]
    wanted = None
    for factor in (1.0, 3.0, 2.0):
        model(factor * X)
        new = torch.stack(batch_uncertainty(*channel_statistics(factor * X)))
        wanted = new if wanted is None else 0.9 * wanted + 0.1 * new
    torch.testing.assert_close(torch.stack([model.scatter_mu, model.scatter_sigma]), wanted)
    row = scale_report(model)[""]
    assert row["ratio_mu"] == pytest.approx(float((0.1 / wanted[0]).mean()))
    assert row["ratio_sigma"] == pytest.approx(float((0.1 / wanted[1]).mean()))


def test_the_gap_by_its_formula():
    model = net()
    layer = model[1]
    with torch.no_grad():
        layer.sigma_mu.fill_(2.0)
        layer.sigma_sigma.fill_(1.5)
    found = adversarial_gap(model, X, Y, draws=3, seed=5)
    model.eval()
    with torch.no_grad():
        inner, generator = model[0](X), torch.Generator().manual_seed(5)
        losses = []
        for _ in range(3):
            torch.rand(8, 1, generator=generator)  # the branch of each sample
            e = torch.randn(2, 8, 3, generator=generator)
            styled = restyle(inner, lambda mu, sigma, e=e: (1.5 * e[1], 2.0 * e[0]))
            losses.append(F.cross_entropy(model[4](styled.flatten(1)), Y))
        wanted = torch.stack(losses).mean() - F.cross_entropy(model(X), Y)
    assert found == pytest.approx(float(wanted), abs=1e-6) and found > 0


def test_the_gap_leaves_no_trace():
    model = net().train()
    model(X)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    running = model[1].scatter_mu.clone()
    stream = model[1].generator.get_state()
    assert adversarial_gap(model, X, Y) == adversarial_gap(model, X, Y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[1].scatter_mu, running) or bool(running.isnan().all())
    assert torch.equal(model[1].generator.get_state(), stream)
    assert model[1].probs == pytest.approx((1 / 3, 1 / 3, 1 / 3)) and model[1].granularity == "batch"
    assert all(child.training for child in model.modules())
    with pytest.raises(JostleError, match="no AdvStyle"):
        adversarial_gap(nn.Sequential(DSU(3), nn.Flatten(), nn.Linear(48, 2)), X, Y)


class Cautious(torch.optim.AdamW):
    """An Adam of somebody's own."""


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, Cautious])
def test_an_adaptive_optimiser_of_the_scales_is_warned_of(kind):
    model = net()
    with pytest.warns(UserWarning, match="lam has no effect"):
        check_optimiser(model, kind(model.parameters(), 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_optimiser(model, kind(param_groups(model)[0]["params"], 0.1))  # the weights alone
        check_optimiser(model, torch.optim.SGD(model.parameters(), 0.1))


def test_with_adam_lambda_means_nothing_indeed():
    ends = []
    for lam in (1.0, 10.0):
        scale = nn.Parameter(torch.tensor([0.5, -0.3], dtype=torch.float64))
        optimiser = torch.optim.Adam([scale], 0.1, eps=1e-300)
        for step in range(5):
            optimiser.zero_grad()
            (grad_reverse(scale, lam) * (step + 1.0)).square().sum().backward()
            optimiser.step()
        ends.append(scale.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=0)
