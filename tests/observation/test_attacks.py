"""The attacks: exact on linear policies, feasible everywhere, and nothing of the user's is changed."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from observation.conftest import box, classes, continuous, linear, mlp
from torch import nn

from jostle.core.errors import JostleError
from jostle.observation import (
    ACG,
    APGD,
    FGSM,
    MAD,
    PGD,
    Bifurcate,
    Bifurcation,
    Budget,
    Classify,
    MinDistortion,
    MinQ,
    MinValue,
    Noise,
    Regress,
    Targeted,
    Timed,
    Transfer,
    WorstCorner,
    gdl,
    wrap_policy,
)
from jostle.observation.losses import halves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def observations(count=6, features=5, seed=1, dtype=torch.float32):
    return torch.rand(count, features, generator=seeded(seed), dtype=torch.float64).to(dtype)


@given(st.integers(0, 2**31 - 1), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_a_linear_policy_is_attacked_exactly(seed, bias):
    rng = seeded(seed)
    w = torch.randn(4, generator=rng)
    eps = torch.rand(4, generator=rng, dtype=torch.float64)
    policy = linear(w.tolist(), bias)
    o = torch.randn(3, 4, generator=rng)
    x = policy.body(o).detach()
    s = torch.where(x >= 0, 1.0, -1.0)
    wanted = (o.double() - s * eps * w.sign()).float()
    for attack in (Bifurcation(Budget(eps), steps=40), FGSM(Budget(eps))):
        shown, info = attack(policy, o)
        assert torch.allclose(shown, wanted, atol=1e-6)
        moved = (policy.body(shown).detach() - x).abs()[:, 0]
        assert torch.allclose(moved.double(), (eps * w.abs()).sum().expand(3), atol=1e-5)
        assert info.moved.all()


@pytest.mark.parametrize("steps", [1, 2, 5, 13, 40])
def test_however_few_the_steps_they_reach_the_budget(steps):
    shown, info = Bifurcation(Budget(0.05), steps=steps)(linear([1.0, -2.0, 0.5]), torch.zeros(2, 3))
    assert np.allclose(info.linf, 0.05) and torch.allclose(shown.abs(), torch.full((2, 3), 0.05))


def every_attack(budget):
    yield from (Noise(budget, kind) for kind in ("uniform", "normal", "corner"))
    yield from (PGD(budget, Regress(kind), steps=7) for kind in ("mse", "mae", "huber"))
    yield Bifurcation(budget, steps=7)
    yield Bifurcation(budget, steps=7, restarts=3)
    yield from (Bifurcation(budget, steps=7, direction=way) for way in ("up", "down", "toggle"))
    yield FGSM(budget)
    yield APGD(budget, steps=12)
    yield ACG(budget, steps=12, restarts=2)
    yield MAD(budget, steps=7)
    yield Targeted(lambda o: torch.ones(len(o), 1), budget, steps=7)
    yield MinDistortion(Bifurcation(budget, steps=7), (0.2, 0.6, 1.0), change=0.05)
    yield Timed(Bifurcation(budget, steps=7), rate=0.5)
    yield Transfer(FGSM(budget), continuous(seed=9))


@pytest.mark.study
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_attack_stays_within_the_budget(norm, kind):
    policy = continuous()
    eps = [0.0, 0.05, 0.1, 0.02, 0.03]
    mask = [True, True, True, False, True]
    o = observations(dtype=kind)
    o[0], o[1] = 0.0, 1.0  # corners of the box
    e = torch.tensor(eps) * torch.tensor(mask)
    for attack in every_attack(Budget(eps, norm, mask=mask)):
        shown, info = attack(policy, o, t=np.arange(6), generator=seeded())
        assert shown.dtype == kind and shown.shape == o.shape
        gap = (shown.double() - o.double()).abs()
        assert torch.equal(shown[:, e == 0], o[:, e == 0]), attack
        assert bool((gap <= e + 1e-7).all()), attack
        assert bool((shown >= 0).all() and (shown <= 1).all()), attack
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        scaled = torch.linalg.vector_norm(gap[:, e > 0] / e[e > 0], ord=order, dim=1)
        assert bool((scaled <= 1 + 1e-4).all()), (attack, scaled)
        assert info.active.tolist() == [1, 2, 4]
        assert np.allclose(info.linf, gap.amax(1).numpy(), atol=5e-3)


@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("goal", [Bifurcate(), Bifurcate("toggle"), Regress("mse"), Regress("huber")])
@pytest.mark.parametrize("actions", [1, 3])
def test_the_closed_form_gives_what_the_engine_gives(act, goal, actions, monkeypatch):
    policy = continuous(actions=actions, act=act, dtype=torch.float64)
    o = observations(20, dtype=torch.float64)
    attack = PGD(Budget([0.1, 0.0, 0.2, 0.05, 0.1]), goal, steps=25)
    fast, info = attack(policy, o, t=np.arange(20), generator=seeded())
    monkeypatch.setattr(PGD, "_by_hand", lambda *_: None)
    slow, other = attack(policy, o, t=np.arange(20), generator=seeded())
    assert torch.allclose(fast, slow, atol=1e-12)
    assert np.allclose(info.objective, other.objective, atol=1e-9)
    assert info.moved.all()


class Pair(nn.Module):
    """The bifurcation layer as two logits, as a library of attacks on classifiers wants it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, o):
        x = self.net(o)
        return torch.cat([x, -x], 1)


@pytest.mark.parametrize("by", ["hand", "autograd", "cross-entropy"])
@pytest.mark.parametrize("mask", [None, [True, False, True, True, False]])
@pytest.mark.parametrize(("eps", "size", "gain"), [(0.05, 0.01, 1.0), (0.3, 0.04, 1.0), (0.5, 0.002, 2.0)])
def test_the_last_iterate_is_that_of_art(by, mask, eps, size, gain, monkeypatch):
    evasion = pytest.importorskip(
        "art.attacks.evasion", reason="the adversarial-robustness-toolbox is absent"
    )
    from art.estimators.classification import PyTorchClassifier

    policy, o = continuous(gain=gain), observations(64).numpy()
    o[0], o[1] = 0.0, 1.0  # where the box holds
    theirs = PyTorchClassifier(
        Pair(policy.net), loss=nn.CrossEntropyLoss(), input_shape=(5,), nb_classes=2, clip_values=(0.0, 1.0)
    )
    other = evasion.ProjectedGradientDescent(theirs, eps=eps, eps_step=size, max_iter=20, verbose=False)
    wanted = other.generate(o, mask=None if mask is None else np.array(mask, dtype=np.float32))
    goal = Bifurcate()
    if by == "autograd":
        monkeypatch.setattr(PGD, "_by_hand", lambda *_: None)
    if by == "cross-entropy":
        policy = wrap_policy(Pair(policy.net), observation_space=box(5), action_space=Discrete(2))
        goal = Classify()
    settings = {"steps": 20, "step_size": size, "decays": 0}
    shown, info = PGD(Budget(eps, mask=mask), goal, select="last", **settings)(policy, o)
    assert np.abs(shown - wanted).max() <= 1e-6
    assert np.abs(shown - o).max() > 0.03
    _, best = PGD(Budget(eps, mask=mask), goal, **settings)(policy, o)
    assert (best.objective >= info.objective - 1e-6).all()


@pytest.mark.parametrize("direction", ["flip", "up", "toggle"])
def test_the_slope_of_ordered_classes_is_that_of_the_grouped_loss(direction):
    rng, t = seeded(), np.arange(40)
    z0, z = torch.randn(40, 6, generator=rng), torch.randn(40, 6, generator=rng, requires_grad=True)
    lower = z0.argmax(1) < 3
    up = {"flip": lower.numpy(), "up": np.ones(40, bool), "toggle": t % 2 == 1}[direction]
    leave = torch.from_numpy(np.where(up, 0, 5))
    wanted = gdl(z, leave, halves(6))
    (grad,) = torch.autograd.grad(wanted.sum(), z)
    goal, policy = Bifurcate(direction), classes()
    value, slope = goal.slope(policy, z0, t)(z.detach())
    assert torch.equal(value, wanted) and torch.equal(slope, grad)
    value, slope = goal.slope(policy, z0.numpy(), t)(z.detach().numpy())
    assert np.array_equal(value, wanted.detach().numpy()) and np.array_equal(slope, grad.numpy())


def test_ordered_classes_by_hand_are_those_of_the_engine(monkeypatch):
    policy, o = classes(), observations(40)
    attack = Bifurcation(Budget(0.2), steps=15)
    fast, info = attack(policy, o)
    monkeypatch.setattr(PGD, "_by_hand", lambda *_: None)
    slow, other = attack(policy, o)
    assert torch.allclose(fast, slow, atol=1e-6) and np.allclose(info.objective, other.objective, atol=1e-5)


def test_regression_losses_with_one_action_are_one_attack():
    policy, o = continuous(), observations(30)
    shown = [
        PGD(Budget(0.05), Regress(kind), steps=30)(policy, o, generator=seeded())[0]
        for kind in ("mse", "mae", "huber")
    ]
    assert torch.equal(shown[0], shown[1]) and torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0], o)


@pytest.mark.parametrize("engine", [True, False])
def test_a_regression_loss_cannot_leave_the_clean_point(engine, monkeypatch):
    if engine:
        monkeypatch.setattr(PGD, "_by_hand", lambda *_: None)
    policy, o = continuous(), observations()
    with pytest.warns(UserWarning, match="gradient is zero everywhere at step 0"):
        shown, info = PGD(Budget(0.05), Regress(), start="clean")(policy, o)
    assert torch.equal(shown, o) and not info.moved.any()


def test_the_mirrored_policy_moves_as_far_the_other_way():
    policy = continuous()
    twin = continuous()
    with torch.no_grad():
        twin.net[-1].weight *= -1
        twin.net[-1].bias *= -1
    o = observations(10)
    a, _ = Bifurcation(Budget(0.05))(policy, o)
    b, _ = Bifurcation(Budget(0.05))(twin, o)
    assert torch.equal(a, b)
    assert torch.allclose(policy.body(a) - policy.body(o), -(twin.body(b) - twin.body(o)), atol=1e-6)


def test_more_budget_and_more_steps_never_hurt_the_attacker():
    policy, o = continuous(gain=3.0), observations(40)
    values = []
    for eps in (0.01, 0.02, 0.05, 0.1):
        _, info = Bifurcation(Budget(eps), steps=60)(policy, o)
        values.append(info.objective)
    assert np.mean(np.diff(values, axis=0) >= -1e-6) > 0.97  # nested budgets; a local search may miss a few
    runs = [
        Bifurcation(Budget(0.1), steps=k, decays=0, step_size=0.02)(policy, o)[1].objective
        for k in (1, 4, 16, 64)
    ]
    assert (np.diff(runs, axis=0) >= -1e-6).all()


def test_toggle_goes_down_on_even_steps_and_up_on_odd_ones():
    policy, o = continuous(), observations(8)
    before = policy.body(o).detach()
    shown, _ = Bifurcation(Budget(0.05), direction="toggle")(policy, o, t=np.arange(8))
    change = (policy.body(shown).detach() - before)[:, 0]
    assert (change[::2] < 0).all() and (change[1::2] > 0).all()
    wanted = Bifurcation(Budget(0.05), direction=lambda t: np.where(t < 4, 1, -1))(policy, o, t=np.arange(8))[
        0
    ]
    change = (policy.body(wanted).detach() - before)[:, 0]
    assert (change[:4] > 0).all() and (change[4:] < 0).all()


def test_discrete_actions_leave_their_half():
    policy, o = classes(), observations(60)
    before = policy.act(o) >= 3
    shown, info = Bifurcation(Budget(0.3))(policy, o)
    flipped = (policy.act(shown) >= 3) != before
    assert flipped.float().mean() > 0.5
    assert np.array_equal(info.objective > 0, flipped.numpy())
    up, _ = Bifurcation(Budget(0.3), direction="up")(policy, o)
    down, _ = Bifurcation(Budget(0.3), direction="down")(policy, o)
    assert (
        (policy.act(up) >= 3).float().mean() > before.float().mean() > (policy.act(down) >= 3).float().mean()
    )
    for goal in (Classify("ce"), Classify("dl")):
        away, _ = PGD(Budget(0.3), goal)(policy, o)
        assert (policy.act(away) != policy.act(o)).float().mean() > 0.5
    near, _ = Targeted(lambda c: torch.zeros(len(c), dtype=torch.long), Budget(0.5))(policy, o)
    assert (policy.act(near) == 0).float().mean() > (policy.act(o) == 0).float().mean()


def test_an_odd_number_of_actions_is_split_with_a_warning():
    with pytest.warns(UserWarning, match="lower 2 stand against the upper 3"):
        shown, info = Bifurcation(Budget(0.3))(classes(count=5), observations())
    assert info.moved.all() and shown.shape == (6, 5)


def test_several_actions_can_be_chosen():
    policy, o = continuous(actions=3), observations(20)
    before = policy.body(o).detach()
    shown, _ = Bifurcation(Budget(0.05), dims=(1,))(policy, o)
    moved = policy.body(shown).detach() - before
    assert (moved[:, 1] * before[:, 1] < 0).all()
    with pytest.raises(JostleError, match="dims must be of 0 to 2"):
        Bifurcation(Budget(0.05), dims=(3,))(policy, o)
    with pytest.raises(JostleError, match="weights must be 1"):
        Bifurcation(Budget(0.05), dims=(1,), weights=(1.0, 2.0))(policy, o)


def test_min_q_and_min_value():
    net, critic, value = mlp(5, 16, 1, gain=3.0), mlp(6, 16, 1, seed=3), mlp(5, 16, 1, seed=4)
    policy = wrap_policy(
        net,
        head="tanh",
        observation_space=box(5),
        action_space=box(1, -1.0, 1.0),
        q=lambda o, a: critic(torch.cat([o, a], 1)),
        value=value,
    )
    o = observations(30)
    shown, info = MinQ(Budget(0.1), steps=30)(policy, o)
    before, after = policy.q(o, policy.act(o)), policy.q(o, policy.act(shown))
    assert bool((after <= before + 1e-6).all()) and (after < before).float().mean() > 0.9
    assert np.allclose(info.objective, -after.detach().numpy(), atol=1e-6)
    shown, _ = MinValue(Budget(0.1), steps=30)(policy, o)
    assert bool((policy.value(shown) <= policy.value(o) + 1e-6).all())
    with pytest.raises(JostleError, match="no critic"):
        MinQ(Budget(0.1))(continuous(), o)


def test_the_worst_corner_is_the_critic_s_worst():
    critic = mlp(5 + 3, 16, 1, seed=3, gain=3.0)
    policy = wrap_policy(
        mlp(5, 16, 3, gain=3.0),
        head="tanh",
        observation_space=box(5),
        action_space=box(3, -1.0, 1.0),
        q=lambda o, a: critic(torch.cat([o, a], 1)),
    )
    o, inner = observations(30), Bifurcation(Budget(0.1), steps=10)
    shown, info = WorstCorner(inner)(policy, o)
    harms = []
    for signs in np.ndindex(2, 2, 2):
        way = tuple(2.0 * s - 1 for s in signs)
        one, _ = Bifurcation(Budget(0.1), steps=10, direction="up", weights=way)(policy, o)
        harms.append(-policy.q(o, policy.act(one)).detach().numpy())
    assert np.allclose(info.objective, np.max(harms, 0), atol=1e-6)
    assert np.allclose(-policy.q(o, policy.act(shown)).detach(), info.objective, atol=1e-6)
    assert len(set(np.argmax(harms, 0))) > 1
    with pytest.raises(JostleError, match="1 to 6 continuous actions"):
        WorstCorner(inner)(classes(), o)


def test_the_least_distortion_is_the_least():
    policy, o = continuous(gain=3.0), observations(25)
    factors = tuple(np.linspace(0.1, 1.0, 10))
    attack = MinDistortion(Bifurcation(Budget(0.2), steps=20), factors, change=0.2)
    shown, info = attack(policy, o)
    found = np.isfinite(info.objective)
    assert found.sum() > 0 and torch.equal(shown[~found], o[~found])
    change = (policy.act(shown) - policy.act(o)).abs()[:, 0].numpy()
    assert (change[found] >= 0.2).all()
    for i in np.flatnonzero(found):
        smaller = [f for f in factors if f < info.objective[i]]
        if smaller:
            less, _ = Bifurcation(Budget(0.2).times(smaller[-1]), steps=20)(policy, o[i])
            assert (policy.act(less) - policy.act(o[i])).abs().item() < 0.2
    none, info = MinDistortion(Bifurcation(Budget(1e-6)), change=0.5)(policy, o)
    assert torch.equal(none, o) and np.isnan(info.objective).all()


def test_timed_attacks_strike_when_they_say():
    policy, o = continuous(), observations(40)
    inner = FGSM(Budget(0.05))
    all_of, _ = inner(policy, o)
    shown, info = Timed(inner, steps=(3, 7))(policy, o, t=np.arange(40))
    assert np.flatnonzero(info.moved).tolist() == [3, 7]
    assert torch.equal(shown[[3, 7]], all_of[[3, 7]]) and torch.equal(shown[:3], o[:3])
    _, info = Timed(inner, rate=0.5)(policy, o, generator=seeded())
    assert 10 < info.moved.sum() < 30
    valued = wrap_policy(
        policy.net,
        head="tanh",
        observation_space=box(5),
        action_space=box(1, -1.0, 1.0),
        value=lambda o: o[:, 0],
    )
    _, info = Timed(inner, value_above=0.5)(valued, o)
    assert np.array_equal(info.moved, o[:, 0].numpy() >= 0.5)
    with pytest.raises(JostleError, match="exactly one"):
        Timed(inner)


def test_a_proxy_is_attacked_in_the_policy_s_place():
    policy, proxy, o = continuous(), continuous(seed=5), observations()
    shown, _ = Transfer(FGSM(Budget(0.05)), proxy)(policy, o)
    assert torch.equal(shown, FGSM(Budget(0.05))(proxy, o)[0])
    fine, o = continuous(dtype=torch.float64), observations(dtype=torch.float64)
    shown, _ = Transfer(FGSM(Budget(0.05, mask=[1, 1, 0, 0, 0])), proxy)(fine, o)
    assert shown.dtype == torch.float64 and torch.equal(shown[:, 2:], o[:, 2:])
    assert not torch.equal(shown, o) and bool(((shown - o).abs() <= 0.05 + 1e-7).all())


def test_nothing_of_the_user_s_is_changed():
    policy, o = continuous(), observations()
    policy.net.train()
    policy.net[0].weight.requires_grad_(False)
    copy, array = o.clone(), o.numpy().copy()
    for attack in every_attack(Budget(0.05)):
        attack(policy, o, generator=seeded())
        attack(policy, array, generator=seeded())
        assert torch.equal(o, copy) and np.array_equal(array, copy.numpy())
    assert (
        policy.net.training and not policy.net[0].weight.requires_grad and policy.net[2].weight.requires_grad
    )
    assert all(p.grad is None for p in policy.net.parameters())
    with pytest.raises(RuntimeError):
        Bifurcation(
            Budget(0.05), direction=lambda t: 1 / 0 if t.sum() < 0 else (_ for _ in ()).throw(RuntimeError())
        )(policy, o)
    assert policy.net.training and policy.net[2].weight.requires_grad


def test_kinds_and_shapes_come_back_as_they_were():
    policy = continuous()
    one = observations(1)[0]
    shown, _ = FGSM(Budget(0.05))(policy, one)
    assert isinstance(shown, torch.Tensor) and shown.shape == (5,)
    shown, _ = FGSM(Budget(0.05))(policy, one.numpy().astype(np.float64))
    assert isinstance(shown, np.ndarray) and shown.dtype == np.float64 and shown.shape == (5,)
    shown, info = Bifurcation(Budget(0.05))(policy, torch.zeros(0, 5))
    assert shown.shape == (0, 5) and info.moved.shape == (0,)


def test_no_budget_gives_back_the_same_bits():
    policy, o = continuous(), observations()
    for attack in every_attack(Budget(0.0)):
        shown, info = attack(policy, o, generator=seeded())
        assert torch.equal(shown, o) and shown is not o and not info.moved.any()


def test_a_clean_value_outside_the_space_may_stay_there():
    policy = continuous()
    o = observations()
    o[0, 0] = 1.5
    with pytest.warns(UserWarning, match="leaves the observation space by up to 0.5"):
        shown, _ = Bifurcation(Budget(0.05))(policy, o)
    assert 1.45 <= shown[0, 0] <= 1.5


def test_what_is_refused():
    policy, o = continuous(), observations()
    with pytest.raises(JostleError, match="NaN or infinity"):
        FGSM(Budget(0.1))(policy, torch.full((2, 5), torch.nan))
    with pytest.raises(JostleError, match=r"shape \(batch, 5\)"):
        FGSM(Budget(0.1))(policy, torch.zeros(2, 4))
    with pytest.raises(JostleError, match="generator must be given"):
        Noise(Budget(0.1))(policy, o)
    with pytest.raises(JostleError, match="generator must be given"):
        PGD(Budget(0.1))(policy, o)
    with pytest.raises(JostleError, match="floating point"):
        FGSM(Budget(0.1))(policy, np.zeros((2, 5), dtype=np.int64))
    with pytest.raises(JostleError, match="continuous actions, but this policy's are discrete"):
        PGD(Budget(0.1), Regress(), start="clean")(classes(), o)
    with pytest.raises(JostleError, match="for discrete actions"):
        PGD(Budget(0.1), Classify())(policy, o)
    with pytest.raises(JostleError, match="direction must give -1 or"):
        Bifurcation(Budget(0.1), direction=lambda t: 0 * t)(policy, o)
    with pytest.raises(JostleError, match="steps must be at least 1"):
        Bifurcation(Budget(0.1), steps=0)
    with pytest.raises(JostleError, match="restarts must be at least 1"):
        Bifurcation(Budget(0.1), restarts=0)


def test_restarts_and_auto_steps_are_no_weaker():
    policy, o = continuous(gain=4.0), observations(30)
    plain = Bifurcation(Budget(0.2), steps=20)(policy, o)[1].objective
    many = Bifurcation(Budget(0.2), steps=20, restarts=4)(policy, o, generator=seeded())[1].objective
    assert (many >= plain - 1e-6).all()
    for auto in (APGD(Budget(0.2), steps=60), ACG(Budget(0.2), steps=60)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert auto(policy, o)[1].objective.mean() > plain.mean() - 0.05 * abs(plain.mean())
