import math

import pytest
import torch
from helpers import plain
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal.objective import Objective, inspect_taps, log_mean_abs, log_norm


def test_linear_tap_has_the_closed_form():
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64)).Q.T  # orthonormal rows
    layer = nn.Linear(12, 5, bias=False).double()
    layer.weight.data = rows.clone()
    net = nn.Sequential(nn.Flatten(), layer)
    u = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    with Objective(taps=["1"]).attach(net) as listen:
        value = listen(u)
        (grad,) = torch.autograd.grad(value.sum(), u)
    a = rows @ u.detach().flatten()
    assert torch.allclose(value, a.norm().log(), rtol=1e-12, atol=0)
    assert torch.allclose(grad.flatten(), rows.T @ a / a.norm() ** 2, rtol=1e-12, atol=1e-15)


def test_gradient_agrees_with_finite_differences():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Softplus(),
        nn.Conv2d(4, 4, 3),
        nn.Softplus(),
        nn.Conv2d(4, 2, 3),
        nn.Softplus(),
    ).double()
    x = torch.rand(2, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    with Objective(taps=["1", "3", "5"]).attach(net) as listen:
        assert torch.autograd.gradcheck(lambda z: listen(z), (x,), rtol=1e-6, atol=1e-9)
    with Objective(taps=["1", "3"], loss="fff").attach(net) as listen:
        assert torch.autograd.gradcheck(lambda z: listen(z), (x,), rtol=1e-6, atol=1e-9)


def test_scaling_a_layer_shifts_the_value_and_leaves_the_gradient():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 3, 3, bias=False)).double()
    x = torch.randn(1, 1, 7, 7, dtype=torch.float64, requires_grad=True)

    def value_and_grad():
        with Objective(taps=["0", "1"]).attach(net) as listen:
            value = listen(x).sum()
            return value.detach(), torch.autograd.grad(value, x)[0]

    before, slope = value_and_grad()
    net[1].weight.data *= 7.0
    after, same = value_and_grad()
    assert torch.allclose(after - before, torch.tensor(math.log(7.0), dtype=torch.float64), atol=1e-10)
    assert torch.allclose(slope, same, rtol=1e-10, atol=1e-14)


def test_released_loss_is_twice_ours_less_a_constant():
    torch.manual_seed(3)
    activations = [torch.randn(1, 4, 5, 5, dtype=torch.float64) for _ in range(3)]
    released = -sum((a.square().sum() / 2).log() for a in activations)
    ours = sum(log_norm(a).sum() for a in activations)
    assert torch.allclose(released, -(2 * ours - 3 * math.log(2)), rtol=1e-12)


def test_dead_layers_give_finite_values_and_no_gradient():
    a = torch.zeros(1, 4, requires_grad=True)
    value = log_norm(a).sum()
    value.backward()
    assert torch.isfinite(value) and torch.equal(a.grad, torch.zeros(1, 4))


def test_half_precision_does_not_overflow():
    assert torch.isfinite(log_norm(torch.full((1, 100), 6e4, dtype=torch.float16))).all()


def test_per_sample_gradient_of_a_batch_is_made_of_single_gradients():
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
    base, delta = torch.rand(4, 3, 8, 8), torch.zeros(1, 3, 8, 8, requires_grad=True)
    with Objective().attach(net) as listen:
        (whole,) = torch.autograd.grad(listen(base + delta).mean(), delta)
        parts = [torch.autograd.grad(listen(b[None] + delta).sum(), delta)[0] for b in base]
    assert torch.allclose(whole, torch.stack(parts).mean(0), atol=1e-6)


def test_joint_norm_is_that_of_the_batch():
    a = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_norm(a, "joint"), a.norm().log().reshape(1))
    assert torch.allclose(log_mean_abs(a, "joint"), a.abs().mean().log().reshape(1))


def test_trm_takes_shares_of_the_taps():
    net = nn.Sequential(*[nn.Conv2d(1, 1, 1, bias=False) for _ in range(5)])
    for layer in net:
        layer.weight.data.fill_(1.0)
    x = torch.tensor([[[[2.0, -1.0]]]])
    with Objective("trm", positive=0.8, negative=0.4, weight=0.5).attach(net) as listen:
        value = float(listen(x).detach())
    # log ||relu(a)||^2/2 = log 2 at four taps; log ||min(a, 0)||^2/2 = log 1/2 at two.
    assert value == pytest.approx(4 * math.log(2) - 0.5 * 2 * math.log(0.5), abs=1e-5)


def test_unhealthy_taps_are_named():
    class Unit(nn.Module):
        def forward(self, x):
            return x / x.norm()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dead, self.norm, self.live = nn.Conv2d(1, 2, 1), Unit(), nn.Conv2d(1, 1, 1)
            nn.init.zeros_(self.dead.weight), nn.init.zeros_(self.dead.bias)

        def forward(self, x):
            self.dead(x)
            self.norm(self.live(x))
            return x

    torch.manual_seed(0)
    with Objective(taps=["dead", "norm", "live"]).attach(Net()) as listen:
        found = inspect_taps(listen, torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
    assert found == {"dead": "dead", "norm": "constant"}


def test_layer_norms_are_refused():
    with pytest.raises(JostleError, match="'0' is a LayerNorm"):
        Objective(taps=["0"]).attach(nn.Sequential(nn.LayerNorm(4)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "no"}, "loss must be"),
        ({"reduction": "mean"}, "reduction must be"),
        ({"positive": 0.0}, "positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(JostleError, match=sentence):
        make = plain(Objective.__init__)
        objective = Objective.__new__(Objective)
        make(objective, **settings)
        plain(Objective.__post_init__)(objective)
