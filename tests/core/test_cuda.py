"""A GPU gives the numbers of the CPU, and what comes back lies where the user's tensors lie."""

import pytest
import torch
from torch import nn

from jostle import L1, L2, Linf, Taps, ascend, replaced
from jostle.core.rules import APGD, Adam, Momentum, Sign, Steepest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")

SHAPE = (5, 3, 6, 6)
BUDGETS = {
    "Linf": Linf(0.1),
    "Linf, box": Linf(0.3, lower=0.0, upper=1.0),
    "Linf, radii": Linf(torch.linspace(0.0, 0.4, 5, dtype=torch.float64)),
    "L2": L2(0.5),
    "L2, box": L2(1.5, lower=0.0, upper=1.0),
    "L2, scale": L2(1.0, lower=0.0, upper=1.0, scale=torch.linspace(0, 2, 108).reshape(1, 3, 6, 6)),
    "L1": L1(2.0),
    "L1, box": L1(4.0, lower=0.0, upper=1.0),
    "L2, whole": L2(1.0, scope="tensor"),
}
RULES = {
    "sign": Sign(0.02),
    "steepest": Steepest(0.05),
    "momentum": Momentum(0.05, 0.9),
    "adam": Adam(0.02),
    "apgd": APGD(),
}


def made(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(SHAPE, generator=generator, dtype=dtype)
    return x, torch.randn(SHAPE, generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_projection_step_and_sample(name, dtype, most):
    budget = BUDGETS[name]
    x, u = made(1, dtype)
    there, moved = x.cuda(), u.cuda()
    pairs = [
        (budget.project(u, x), budget.project(moved, there)),
        (budget.steepest(u, u * 0, x), budget.steepest(moved, moved * 0, there)),
        (
            budget.sample(u, torch.Generator().manual_seed(3), x),
            budget.sample(moved, torch.Generator().manual_seed(3), there),
        ),
        (budget.norm(u), budget.norm(moved)),
    ]
    for here, far in pairs:
        assert far.is_cuda and far.dtype == here.dtype
        torch.testing.assert_close(far.cpu(), here, rtol=most, atol=most)
    assert budget.contains(budget.project(moved, there), there)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["Linf, box", "L2, box", "L1, box"])
def test_an_ascent(name, rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4)).double()
    x, _ = made(2)
    y = torch.arange(5) % 4

    def found(net, x, y):
        return ascend(
            lambda u: nn.functional.cross_entropy(net(x + u), y, reduction="none"),
            torch.zeros_like(x),
            BUDGETS[name],
            steps=12,
            rule=RULES[rule],
            x=x,
        )

    here, far = found(net, x, y), found(net.cuda(), x.cuda(), y.cuda())
    assert far.delta.is_cuda and far.value.is_cuda
    torch.testing.assert_close(far.delta.cpu(), here.delta, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(far.value.cpu(), here.value, rtol=1e-8, atol=1e-8)


def test_taps():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).double().cuda()
    x, _ = made(4)
    with Taps(net, "activation") as taps, torch.no_grad():
        net(x.cuda())
    (seen,) = taps.values
    assert seen.is_cuda
    with replaced(net, {"1": lambda a: 0 * a}), torch.no_grad():
        silent = net(x.cuda())
    torch.testing.assert_close(silent, net[2].bias.reshape(1, 2, 1, 1).expand_as(silent))
