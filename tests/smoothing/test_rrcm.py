"""rRCM's losses, targets and loop."""

import math

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.smoothing import RRCM, AffineViews, ColourViews, Pair, Pretraining, TimedMLP, info_nce, similarity
from jostle.smoothing.schedule import T_MIN


def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TimedMLP(16, 32, 16)


def pair(**plan):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = RRCM(**{"steps": 10, "warmup": 1, "batch": 6, "hidden": 32, "out": 8, **plan})
        return Pair(encoder(), made), made


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    views = tuple(2 * torch.rand(6, 1, 4, 4, generator=g) - 1 for _ in range(3))
    return views, torch.randn(6, 1, 4, 4, generator=g)


def test_info_nce_in_closed_form():
    assert float(info_nce(torch.eye(4), torch.eye(4), 0.2)) == pytest.approx(0.0200123, abs=1e-6)
    assert float(info_nce(3 * torch.eye(5), 7 * torch.eye(5), 0.1)) == pytest.approx(
        math.log(1 + 4 * math.exp(-10)), abs=1e-6
    )
    assert float(info_nce(torch.ones(8, 3), torch.ones(8, 3))) == pytest.approx(math.log(8), abs=1e-6)
    with pytest.raises(JostleError, match="at least 2"):
        info_nce(torch.ones(1, 3), torch.ones(1, 3))


def test_the_target_of_info_nce_gets_no_gradient():
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    info_nce(a, b).backward()
    assert a.grad is not None and float(a.grad.abs().sum()) > 0 and b.grad is None


@torch.no_grad()
def test_the_losses_are_those_of_the_formulae():
    net, plan = pair()
    net.train()
    (light, one, two), noise = batch()
    found = net((light, one, two), (2.0, 1.0), noise)
    h = lambda z, t: net.encoder(z + t * noise, t)  # noqa: E731
    target, project = net.target
    contrast = info_nce(net.projector(h(one, T_MIN)), project(target(two + T_MIN * noise, T_MIN))) + info_nce(
        net.projector(h(two, T_MIN)), project(target(one + T_MIN * noise, T_MIN))
    )
    consistency = info_nce(h(light, 2.0), h(light, 1.0))
    assert float(found.contrast) == pytest.approx(float(contrast), abs=1e-5)
    assert float(found.consistency) == pytest.approx(float(consistency), abs=1e-5)


def test_gradients_reach_the_online_network_only_and_the_noisier_end_only():
    net, plan = pair(contrast=0.0)
    views, noise = batch()
    net(views, (2.0, 1.0), noise).consistency.backward()
    mine = [p.grad.clone() for p in net.encoder.parameters() if p.grad is not None]
    assert mine and all(p.grad is None for p in net.target.parameters())
    assert all(p.grad is None for p in net.projector.parameters())
    # The same with the cleaner end computed apart: no gradient came through it.
    net.zero_grad()
    with torch.no_grad():
        clean = net.encoder(views[0] + noise, 1.0)
    info_nce(net.encoder(views[0] + 2 * noise, 2.0), clean).backward()
    other = [p.grad for p in net.encoder.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("change", [{"on_projector": True}, {"same_noise": False}, {"contrast": 0.0}])
def test_ablations_change_the_loss(change):
    net, plan = pair()
    other_net, changed = pair(**change)
    views, noise = batch()
    other = None if changed.same_noise else batch(1)[1]
    with torch.no_grad():
        whole = net(views, (2.0, 1.0), noise)
        ablated = other_net(views, (2.0, 1.0), noise, other)
    assert (float(whole.contrast), float(whole.consistency)) != (
        float(ablated.contrast),
        float(ablated.consistency),
    )


def test_the_target_follows_in_parameters_only():
    net, _ = pair()
    before = [p.clone() for p in net.target.parameters()]
    with torch.no_grad():
        for p in (*net.encoder.parameters(), *net.projector.parameters()):
            p += 1.0
        net.projector[1].running_mean += 5.0
    net.follow(0.9)
    assert all(
        torch.allclose(a, b + 0.1, atol=1e-6) for a, b in zip(net.target.parameters(), before, strict=True)
    )
    assert float(net.target[1][1].running_mean.abs().max()) == 0.0


def images(count=48):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def run(**changes):
    plan = RRCM(**{"steps": 30, "batch": 24, "warmup": 3, "lr": 3e-3, "hidden": 32, "out": 8, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Pretraining(encoder(), images(), AffineViews(), plan, torch.Generator().manual_seed(0))


@pytest.mark.study
def test_pretraining_learns_and_neighbouring_levels_come_together():
    work = run(steps=80)
    z = torch.tensor([0.5, 1.0, 2.0])
    start = similarity(work.pair.encoder, images(), z, torch.Generator().manual_seed(1))
    work.run()
    losses = torch.tensor(work.history)
    assert losses.shape == (80, 3)
    assert float(losses[-20:, 0].mean()) < float(losses[:20, 0].mean())
    assert float(losses[-20:, 1].mean()) < math.log(24)
    end = similarity(work.pair.encoder, images(), z, torch.Generator().manual_seed(1))
    assert start.shape == end.shape == (3,) and float(losses[-1, 2]) < 0.99


@pytest.mark.study
def test_a_pretraining_that_was_cut_off_goes_on_with_the_same_numbers():
    whole, cut = run(), run()
    whole.run()
    states = []

    def stop(work):
        if work.trainer.step == 11:
            states.append(work.state_dict())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run(stop)
    import io

    buffer = io.BytesIO()
    torch.save(states[0], buffer)
    buffer.seek(0)
    again = run()
    again.load_state_dict(torch.load(buffer, weights_only=True))
    again.run()
    assert again.history == whole.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.pair.state_dict().values(), whole.pair.state_dict().values(), strict=True)
    )


def test_a_collapse_is_warned_of():
    work = run(steps=5, warmup=0)
    with torch.no_grad():
        for p in work.pair.target[1][6].parameters():
            p.zero_()
        for p in work.pair.target[0].parameters():
            p.zero_()
        work.pair.target[1][6].weight[:, 0] = 1.0
        work.pair.target[1][4].bias += 5.0
        work.pair.target[1][4].weight.zero_()
    with pytest.warns(UserWarning, match="collapsed"):
        work.run()


@pytest.mark.parametrize(
    "change", [{"consistency_rate": 0.9}, {"same_noise": False}, {"schedule": "ict"}, {"consistency": 0.0}]
)
def test_the_loop_runs_with_each_ablation(change):
    work = run(steps=4, **change)
    work.run()
    assert len(work.history) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 5, "warmup": 5}, "steps must be above"),
        ({"batch": 1}, "at least 2"),
        ({"lr": 0.0}, "lr must"),
        ({"contrast": 0.0, "consistency": 0.0}, "not both 0"),
        ({"batch": 100}, "must not exceed"),
    ],
)
def test_settings_out_of_range(change, says):
    with pytest.raises(JostleError, match=says):
        run(**change)


@pytest.mark.parametrize("views", [AffineViews(), ColourViews(blur=0.5)])
def test_views_are_images_that_follow_the_generator(views):
    x = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    first = views(x, torch.Generator().manual_seed(3))
    again = views(x, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for view in first:
        assert view.shape == x.shape and float(view.min()) >= 0 and float(view.max()) <= 1 + 1e-6
    assert not torch.equal(first[1], first[2])
    still = AffineViews(0.0, 0.0, 0.0, 0.0)(x, torch.Generator())
    assert torch.allclose(still[1], x, atol=1e-5)
