"""Certified bounds: sound under every attack and sample, exact for linear policies, tight for small ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observation.conftest import box, classes, continuous, linear
from torch import nn

from jostle.core.errors import JostleError
from jostle.observation import Bifurcation, Budget, bounds, wrap_policy
from jostle.observation.bounds import _relu_lines, _tanh_lines


@pytest.mark.study
@given(st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_the_lines_enclose_the_activations(seed):
    rng = torch.Generator().manual_seed(seed)
    ends = 4 * torch.randn(2, 1, 30, generator=rng, dtype=torch.float64)
    ends[:, :, :5] *= 1e-5
    low, high = ends.amin(0), ends.amax(0)
    for lines, f in ((_tanh_lines, torch.tanh), (_relu_lines, torch.relu)):
        (s0, c0), (s1, c1) = lines(low, high)
        for share in torch.linspace(0, 1, 101, dtype=torch.float64):
            x = low + share * (high - low)
            assert bool((s0 * x + c0 <= f(x) + 1e-9).all() and (s1 * x + c1 >= f(x) - 1e-9).all())


@pytest.mark.study
@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
def test_no_attack_leaves_the_bounds(method, norm, act):
    policy = continuous(actions=2, act=act, gain=3.0, dtype=torch.float64)
    o = torch.rand(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    budget = Budget([0.1, 0.0, 0.2, 0.05, 0.1], norm)
    found = bounds(policy, o, budget, method=method)
    rng = torch.Generator().manual_seed(1)
    shown = [
        Bifurcation(budget, direction=way, dims=(k,))(policy, o)[0] for way in ("up", "down") for k in (0, 1)
    ]
    shown += [Bifurcation(budget, start="random", steps=1)(policy, o, generator=rng)[0] for _ in range(50)]
    for one in shown:
        action = policy.act(one)
        assert bool((action >= found.low - 1e-9).all() and (action <= found.high + 1e-9).all())
    assert bool((found.low <= policy.act(o)).all() and (policy.act(o) <= found.high).all())


@pytest.mark.study
@pytest.mark.parametrize(
    ("norm", "method"), [("linf", "ibp"), ("linf", "crown"), ("l2", "crown"), ("l1", "crown")]
)
def test_the_bound_of_a_linear_policy_is_the_attack(norm, method):
    policy = linear([0.5, -1.0, 2.0], 0.1)
    o = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    budget = Budget([0.1, 0.2, 0.05], norm)
    found = bounds(policy, o, budget, method=method)
    steps = {"l1": 400}.get(norm, 100)
    for way, bound in (("up", found.high), ("down", found.low)):
        shown, _ = Bifurcation(budget, direction=way, steps=steps)(policy, o)
        assert torch.allclose(policy.act(shown), bound, atol=2e-4)


def test_crown_is_tighter_than_intervals():
    policy = continuous(gain=2.0)
    o = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))
    width = {m: bounds(policy, o, Budget(0.05), method=m).numbers()["mean width"] for m in ("ibp", "crown")}
    up, _ = Bifurcation(Budget(0.05), direction="up")(policy, o)
    down, _ = Bifurcation(Budget(0.05), direction="down")(policy, o)
    attacked = (policy.act(up) - policy.act(down)).mean().item()
    assert width["crown"] < 0.5 * width["ibp"]
    assert attacked <= width["crown"] < 2 * attacked


def test_a_stable_decision_is_never_changed():
    policy = classes()
    o = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    for method in ("ibp", "crown"):
        found = bounds(policy, o, Budget(0.02), method=method)
        assert found.stable is not None
        share = found.numbers()["stable share"]
        assert 0.05 < share < 1
        shown, _ = Bifurcation(Budget(0.02))(policy, o)
        kept = policy.act(shown) == policy.act(o)
        assert bool(kept[found.stable].all())
    assert bool(
        (policy.body(shown) <= found.high + 1e-5).all() and (policy.body(shown) >= found.low - 1e-5).all()
    )


def test_other_layers_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 1))
    policy = wrap_policy(net, observation_space=box(3), action_space=box(1))
    with pytest.raises(JostleError, match="linear, tanh and ReLU layers in a row"):
        bounds(policy, torch.zeros(1, 3), Budget(0.1))
