"""Gradients: those of torch.autograd.grad, and objectives that bring their own."""

from types import SimpleNamespace

import pytest
import torch

from jostle import L2, Linf
from jostle.core.ascent import ascend
from jostle.core.errors import JostleError
from jostle.core.gradients import _engine, gradients
from jostle.core.rules import APGD, Momentum


@pytest.mark.parametrize("direct", [True, False])
def test_they_are_torch_s(direct, monkeypatch):
    if not direct:
        monkeypatch.setattr("jostle.core.gradients._engine", lambda: None)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    spare = torch.zeros(2, requires_grad=True)
    weights = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(net(x), x, weights)
    (found,) = gradients(net(x), [x], weights)
    assert torch.equal(found, wanted) and x.grad is None
    assert all(p.grad is None for p in net.parameters())
    both = gradients(net(x), [x, spare], weights, several=True)
    assert torch.equal(both[0], wanted) and torch.equal(both[1], torch.zeros(2))
    with pytest.raises(RuntimeError, match="not have been used"):
        gradients(net(x), [x, spare], weights)
    with pytest.raises(JostleError, match="must depend on the perturbation"):
        gradients(torch.ones(1), [x], torch.ones(1))
    with pytest.raises(RuntimeError, match=r"[Ss]hape"):
        gradients(net(x), [x], torch.ones(5))


@pytest.mark.parametrize("other", [None, object(), SimpleNamespace(run_backward=lambda: None)])
def test_another_engine_is_not_called(other, monkeypatch):
    _engine.cache_clear()
    assert _engine() is not None  # of the torch that is here
    _engine.cache_clear()
    monkeypatch.setattr("torch.autograd.Variable._execution_engine", other)
    assert _engine() is None
    _engine.cache_clear()


class Known:
    """A quadratic that knows its gradient, and refuses to be differentiated."""

    def __init__(self, top):
        self.top, self.calls = top, 0

    def __call__(self, u):
        return -(u.detach() - self.top).square().sum(1)

    def with_gradient(self, u):
        assert not u.requires_grad
        self.calls += 1
        return self(u), [-2 * (u - self.top)]


@pytest.mark.parametrize("budget", [Linf(0.5), L2(0.7)])
@pytest.mark.parametrize("rule", [None, Momentum(), APGD()])
@pytest.mark.parametrize("maximise", [True, False])
def test_an_objective_may_bring_its_gradient(budget, rule, maximise):
    top = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    known = Known(top)
    start = torch.zeros(6, 4)
    found = ascend(known, start, budget, steps=9, rule=rule, maximise=maximise)
    wanted = ascend(
        lambda u: -(u - top).square().sum(1), start, budget, steps=9, rule=rule, maximise=maximise
    )
    assert known.calls == 9
    assert torch.allclose(found.delta, wanted.delta, atol=1e-6)
    assert torch.allclose(found.value, wanted.value, atol=1e-6)
