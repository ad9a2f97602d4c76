"""Objectives against their formulae, and networks that certify better for them."""

import math
import warnings

import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.smoothing import (
    MACER,
    OBJECTIVES,
    Consistency,
    Gaussian,
    Recipe,
    SmoothAdv,
    SmoothedClassifier,
    TimedMLP,
    attack,
    consistency,
    finetune,
    fit,
)


def model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def data(count=120):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = 0.15 + 0.1 * torch.randn(count, 8, generator=g)
    x[torch.arange(count), y] += 0.75
    return x.clamp(0, 1), y


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_consistency_loss_of_equal_answers_is_the_entropy():
    logits = torch.randn(5, 4, generator=gen())
    p = logits.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    assert float(consistency(torch.stack([logits, logits]), 10.0, 0.5)) == pytest.approx(
        0.5 * float(entropy), abs=1e-5
    )


def test_the_consistency_loss_is_the_formula_and_symmetric_in_its_copies():
    a, b = torch.randn(2, 5, 4, generator=gen())
    mean = (a.softmax(1) + b.softmax(1)) / 2
    apart = sum((mean * (mean.log() - x.log_softmax(1))).sum(1).mean() for x in (a, b)) / 2
    wanted = 3.0 * float(apart) + 0.7 * float(-(mean * mean.log()).sum(1).mean())
    assert float(consistency(torch.stack([a, b]), 3.0, 0.7)) == pytest.approx(wanted, rel=1e-5)
    assert float(consistency(torch.stack([b, a]), 3.0, 0.7)) == pytest.approx(wanted, rel=1e-5)


def test_without_regulariser_consistency_is_cross_entropy_under_noise():
    x, y = data()
    net = model()
    found = Consistency(0.0, 0.0).loss(net, x, y, 0.25, gen()).detach()
    g = gen()
    noisy = torch.cat([x + 0.25 * torch.randn(x.shape, generator=g) for _ in range(2)])
    wanted = nn.functional.cross_entropy(net(noisy), y.repeat(2)).detach()
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)
    one = nn.functional.cross_entropy(net(x + 0.25 * torch.randn(x.shape, generator=gen())), y).detach()
    assert float(Gaussian().loss(net, x, y, 0.25, gen()).detach()) == pytest.approx(float(one), abs=1e-6)


def test_macer_rewards_a_larger_radius_only_where_the_answer_is_right():
    class Sure(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, x):
            return self.scale * (x.flatten(1)[:, :3] - 0.5)

    x, y = data()
    plan = MACER(copies=4)
    g = gen()
    many = torch.cat([x + 0.25 * torch.randn(x.shape, generator=g) for _ in range(4)])
    logits = Sure(1.0)(many).unflatten(0, (4, len(x)))
    z = (16 * logits).softmax(2).mean(0)
    right = z.argmax(1) == y
    top = z.topk(2, 1).values.clamp(1e-5, 1 - 1e-5)
    margin = torch.special.ndtri(top[:, 0]) - torch.special.ndtri(top[:, 1])
    hinge = ((8 - margin) * (right & (margin.abs() <= 8))).sum() / len(x)
    plain = nn.functional.nll_loss(logits.softmax(2).mean(0).log(), y)
    wanted = float(plain + 12 * 0.25 / 2 * hinge)
    assert float(plan.loss(Sure(1.0), x, y, 0.25, gen()).detach()) == pytest.approx(wanted, rel=1e-4)
    wrong = plan.loss(Sure(-1.0), x, y, 0.25, gen())
    assert math.isfinite(float(wrong.detach()))


def test_the_attack_lowers_the_smoothed_answer_within_its_ball():
    x, y = data()
    net = model()
    fit(net, x, y, 0.25, Gaussian(), Recipe(steps=60, batch=60, lr=0.01, warmup=0), gen())
    noises = [0.25 * torch.randn(x.shape, generator=gen(i)) for i in range(4)]

    def share(u):
        return (
            torch.stack([net(x + u + e).softmax(1) for e in noises]).mean(0)[torch.arange(len(x)), y].mean()
        )

    net.train()
    u = attack(net, x, y, noises, 0.5, 4)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert float(u.flatten(1).norm(dim=1).max()) <= 0.5 + 1e-5
    assert float(share(u)) < float(share(0 * u)) - 0.03
    assert float(attack(net, x, y, noises, 0.0, 4).abs().max()) == 0.0


@pytest.mark.study
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_a_network_that_certifies(name):
    x, y = data()
    net = model()
    objective = OBJECTIVES[name]() if name != "macer" else MACER(copies=4)
    losses = fit(net, x, y, 0.25, objective, Recipe(steps=50, batch=60, lr=0.02, warmup=5), gen())
    found = SmoothedClassifier(net, 0.25).certify(x[:30], labels=y[:30], n_max=500)
    assert len(losses) == 50 and not net.training
    assert found.average_radius() > 0.2 and found.accuracy() > 0.9


@pytest.mark.study
def test_consistency_makes_answers_agree_under_noise():
    x, y = data()
    apart = {}
    for name, objective in (("gaussian", Gaussian()), ("consistency", Consistency(5.0))):
        net = model()
        fit(net, x, y, 0.5, objective, Recipe(steps=150, batch=60, lr=0.01, warmup=5), gen())
        with torch.no_grad():
            answers = torch.stack([net(x + 0.5 * torch.randn(x.shape, generator=gen(i))) for i in range(20)])
            apart[name] = float(consistency(answers, 1.0, 0.0))
    assert apart["consistency"] < 0.7 * apart["gaussian"]


@pytest.mark.study
def test_no_attack_within_a_certificate_changes_the_smoothed_answer():
    x, y = data(100)
    net = model()
    fit(net, x, y, 0.25, SmoothAdv(0.25), Recipe(steps=60, batch=60, lr=0.02, warmup=5), gen())
    smoothed = SmoothedClassifier(net, 0.25)
    found = smoothed.certify(x, labels=y, n_max=2000)
    assert found.certified(0.25) > 0.5
    # 20 steps of EOT-PGD against the answer that was certified, each image within its own radius.
    noises = [0.25 * torch.randn(x.shape, generator=gen(i)) for i in range(16)]
    answer = found.prediction.clamp_min(0)
    unit = attack(net, x, answer, noises, 0.25, 20)
    length = unit.flatten(1).norm(dim=1).clamp_min(1e-9)
    moved = x + unit * (found.radius.float() / length).clamp(max=1.0)[:, None]
    for steps in (moved, x + unit * (found.radius.float() / length)[:, None]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # attacks leave the box of images
            again = smoothed.predict(steps, n=2000)
        certified = found.prediction >= 0
        assert not bool((certified & (again >= 0) & (again != found.prediction)).any())


@pytest.mark.study
def test_fine_tuning_keeps_the_encoder_it_was_given():
    x, y = data()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TimedMLP(8, 32, 16)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    plan = Recipe(steps=80, batch=60, lr=3e-3, warmup=5, decay=0.75)
    tuned = finetune(encoder, x, y, 0.25, Consistency(1.0), plan, gen(), classes=3)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert SmoothedClassifier(tuned, 0.25).certify(x[:30], labels=y[:30], n_max=500).accuracy() > 0.8
    again = finetune(encoder, x, y, 0.25, Consistency(1.0), plan, gen(), classes=3)
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True))


def test_augmentation_moves_and_mirrors_whole_images():
    from jostle.smoothing.fitting import _augmented

    x = torch.arange(2 * 1 * 4 * 4, dtype=torch.float32).reshape(2, 1, 4, 4)
    seen = _augmented(x.repeat(40, 1, 1, 1), Recipe(mirror=True), gen())
    assert all(
        torch.equal(s, o) or torch.equal(s, o.flip(-1))
        for s, o in zip(seen, x.repeat(40, 1, 1, 1), strict=True)
    )
    assert 20 < sum(torch.equal(s, o) for s, o in zip(seen, x.repeat(40, 1, 1, 1), strict=True)) < 60
    moved = _augmented(x.repeat(40, 1, 1, 1), Recipe(shift=1), gen())
    middles = {float(m[0, 1, 1]) for m in moved[::2]}
    assert middles <= {float(v) for v in x[0, 0, :3, :3].flatten()} and len(middles) > 5


@pytest.mark.parametrize(
    ("change", "says"),
    [({"lr": 0.0}, "lr"), ({"steps": 5, "warmup": 5}, "warmup"), ({"ramp": 2.0}, "ramp"), ({"decay": 0.0}, "decay"), ({"batch": 0}, "batch")],
)  # fmt: skip
def test_recipes_out_of_range(change, says):
    with pytest.raises(JostleError, match=says):
        Recipe(**change)
    with pytest.raises(JostleError, match="sigma"):
        fit(model(), *data(), -1.0, Gaussian(), Recipe(steps=2, warmup=0), gen())
    with pytest.raises(JostleError, match="copies"):
        Consistency(copies=1)
