import copy
import warnings

import pytest
import torch
from helpers import plain
from torch import nn

from jostle import Linf
from jostle.core.errors import JostleError
from jostle.universal import NoPrior, Objective, RangePrior, Schedule, craft, evaluate, prepare
from jostle.universal.schedule import SCHEDULES
from jostle.zoo import normalised

SHAPE = (1, 28, 28)


def crafted(model, **settings):
    base = {"prior": NoPrior((0.0,)), "shape": SHAPE, "steps": 12}
    return craft(model, Linf(0.2), **{**base, **settings})


def test_the_result_is_inside_the_budget_and_repeats(digits_model):
    model, _, _ = digits_model
    first, again = crafted(model), crafted(model)
    other = crafted(model, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.delta, again.delta) and not torch.equal(first.delta, other.delta)
    assert Linf(0.2).contains(first.delta) and first.record["steps"] == 12 and first.record["taps"] == 3
    assert [row["step"] for row in first.history] == list(range(1, 13))


@pytest.mark.study
def test_without_data_it_fools_far_more_than_sign_noise(digits_model):
    model, images, _ = digits_model
    up = crafted(model, steps=300)
    noise = 0.2 * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)).sign()
    # Unclamped: most pixels of a digit are black, and a clamp would take half of every perturbation away.
    found = evaluate(model, {"up": up, "noise": noise}, images, clamp=False)
    assert found["up"].rate > 2.8 * found["noise"].rate


def test_the_objective_rises(digits_model):
    history = crafted(digits_model[0], steps=60).history
    assert history[-1]["objective"] > history[0]["objective"] + 0.1


def test_the_model_is_left_as_it_was(digits_model):
    model = copy.deepcopy(digits_model[0]).train()
    model.head.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.warns(UserWarning, match="training mode"):
        crafted(model, steps=2)
    assert model.training and [p.requires_grad for p in model.parameters()] == flags
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_the_model_is_left_as_it_was_after_an_interruption(digits_model):
    model = copy.deepcopy(digits_model[0])

    def stop(done, total, figure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crafted(model, callback=stop)
    assert all(p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("schedule", ["fast", "paper", "port2020"])
def test_a_crafting_that_was_cut_off_ends_with_the_same_numbers(digits_model, schedule):
    model = normalised(digits_model[0], (0.1,), (0.5,)).eval()
    settings = {
        "prior": RangePrior((0.3,), (0.2,), size=60),
        "schedule": schedule,
        "shape": SHAPE,
        "steps": 20,
    }

    def fresh():
        return prepare(model, Linf(0.2), generator=torch.Generator().manual_seed(3), **settings)

    with fresh() as whole:
        while not whole.done:
            whole.step()
    with fresh() as part:
        for _ in range(7):
            part.step()
        state = copy.deepcopy(part.state_dict())
    with fresh() as rest:
        rest.load_state_dict(state)
        while not rest.done:
            rest.step()
    assert torch.equal(whole.result().delta, rest.result().delta)
    assert whole.result().history == rest.result().history


def test_the_paper_schedule_lets_coordinates_drift_and_hands_back_the_clip(digits_model):
    with prepare(
        digits_model[0], Linf(0.05), prior=NoPrior((0.0,)), schedule="paper", shape=SHAPE, steps=80
    ) as c:
        while not c.done:
            c.step()
    assert float(c.ascent.u.abs().max()) > 0.05 and Linf(0.05).contains(c.result().delta)


def test_halving_opens_the_box_again(digits_model):
    plan = Schedule(size=0.5, steps=60, rescale="plateau", window=5, gain=1e9, level=0.3)
    up = crafted(digits_model[0], schedule=plan, steps=None)
    halved = [row["step"] for row in up.history if row.get("rescaled")]
    assert halved and up.record["rescales"] == len(halved)
    after = up.history[halved[0]]["saturation"]  # the row of the following step
    assert after < up.history[halved[0] - 1]["saturation"]


def test_the_port_takes_bang_bang_steps_and_the_last_iterate(digits_model):
    model = normalised(digits_model[0], (0.1,), (0.5,)).eval()
    up = crafted(model, schedule="port2020", steps=5)
    assert up.record["selected_by"] == "last iterate" and up.history[0]["saturation"] > 0.9
    with pytest.raises(JostleError, match="port2020 needs a model with its normalisation inside"):
        crafted(digits_model[0], schedule="port2020")


def test_a_substitute_set_selects_by_fooling(digits_model):
    model, images, _ = digits_model
    plan = Schedule(size=0.1, steps=60, rescale="never", check=20)
    up = crafted(model, schedule=plan, steps=None, substitute=images[:200])
    scores = [row["score"] for row in up.history if "score" in row]
    assert len(scores) == 3 and up.record["score"] == max(scores)
    assert "fooling" in up.record["selected_by"]


def test_priors_by_name_and_from_a_folder(digits_model, tmp_path):
    from PIL import Image

    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (40 * i, 90, 10)).save(tmp_path / "a" / f"{i}.png")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    net[0].bias.data.fill_(0.5)
    for prior in ("none", "range", "smooth", f"data:{tmp_path}"):
        up = craft(net, prior=prior, shape=(3, 32, 32), steps=2)
        assert up.record["prior"] == prior.partition(":")[0]
    with pytest.raises(JostleError, match="prior must be none, range"):
        craft(net, prior="noise", shape=(3, 32, 32), steps=2)


def bad_weights():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    net[0].weight.data[0] = float("nan")
    return net


class Cut(nn.Module):
    """A network that rounds its input: nothing flows back."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv((x * 255).round().detach()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budget": Linf(10.0)}, "radius must lie in .* 0-255 units"),
        ({"budget": Linf(0.0)}, "radius must lie in"),
        ({"shape": (28, 28, 1)}, "channels last"),
        ({"shape": None}, "shape must be given"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"objective": Objective(taps=["nowhere"])}, "no layer 'nowhere'"),
        ({"model": bad_weights()}, "holds NaN"),
        ({"model": Cut().eval()}, "cut off from the input's gradient"),
        ({"model": nn.Sequential(nn.Flatten()).eval()}, "matched no layer"),
        ({"substitute": torch.zeros(2, 1, 9, 9)}, "substitute images must be"),
    ],
)
def test_what_cannot_work_is_one_sentence(change, sentence):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    settings = {
        "model": net,
        "budget": Linf(0.1),
        "prior": NoPrior((0.0,)),
        "shape": SHAPE,
        "steps": 1,
        **change,
    }
    with pytest.raises(JostleError, match=sentence):
        plain(craft)(**settings)


def test_a_wide_radius_is_noted(digits_model):
    with pytest.warns(UserWarning, match="plain to see"):
        craft(digits_model[0], Linf(0.5), prior=NoPrior((0.0,)), shape=SHAPE, steps=1)


def test_dead_networks_are_refused_and_single_dead_taps_noted():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU()).eval()
    net[0].bias.data.fill_(2.0)  # alive whatever its weights are
    net[2].bias.data.fill_(-100.0)
    with pytest.warns(UserWarning, match="1 of 2 taps are dead"):
        crafted(net, steps=1)
    net[0].bias.data.fill_(-100.0)
    with pytest.raises(JostleError, match="is dead, and so are all others"):
        crafted(net, steps=1)


def test_an_overflow_names_its_tap():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU()).eval()
    net[0].weight.data.abs_().mul_(1e25)
    net[2].weight.data.abs_().mul_(1e25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(JostleError, match="not finite at step 0"):
            crafted(net, prior=NoPrior((0.5,)), steps=1)


def test_schedules_of_the_paper_have_its_settings():
    paper = SCHEDULES["paper"]
    assert (paper.size, paper.theta, paper.level, paper.check, paper.patience) == (0.01, 1e-5, 0.5, 400, 10)
    assert paper.size * (10 / 255) == pytest.approx(0.1 / 255)
    assert SCHEDULES["port2020"].size * (10 / 255) == pytest.approx(0.1, rel=1e-3)
