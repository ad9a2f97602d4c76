"""Checks 1, 3 to 11 and 14 of the specification, and the traps of section 6."""

import io
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from jostle import JostleError
from jostle.style import DSU, AdvStyle, batch_uncertainty, channel_statistics, check_scales, insert
from tests.helpers import plain

ONLY_ADV, ONLY_DSU = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def layer(channels=3, seed=0, ready=True, dtype=torch.float64, **settings):
    made = AdvStyle(channels, generator=seeded(seed), **settings).to(dtype)
    if ready:
        state = made.state_dict()
        state["sigma_mu"], state["sigma_sigma"] = (
            draw(channels, seed=8, dtype=dtype),
            draw(channels, seed=9, dtype=dtype),
        )
        state["initialised"] = torch.tensor(True)
        made.load_state_dict(state)
    return made


def noise_of(seed, batch=4, channels=3):
    """What a layer with one branch draws: the branch first, then the noise of mu and sigma."""
    generator = seeded(seed)
    torch.rand((), generator=generator)
    return torch.randn(2, batch, channels, generator=generator, dtype=torch.float64)


def test_it_is_not_there_in_evaluation_or_switched_off():
    x, made = draw(4, 3, 5, 5), layer()
    assert made.eval()(x) is x
    made.train().active = False
    assert made(x) is x


def test_scale_gradients_are_reversed_and_weighted():
    x, g = draw(4, 3, 5, 5).requires_grad_(), draw(4, 3, 5, 5, seed=1)
    made = layer(lam=10.0, probs=ONLY_ADV, seed=3)
    y = made(x)
    noise = noise_of(3)
    mu, sigma = (part[:, :, None, None] for part in channel_statistics(x.detach()))
    hat = (x.detach() - mu) / sigma
    made_mu, made_sigma = torch.autograd.grad(y, [made.sigma_mu, made.sigma_sigma], g, retain_graph=True)
    torch.testing.assert_close(made_mu, -10 * (noise[0] * g.sum((2, 3))).sum(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        made_sigma, -10 * (noise[1] * (g * hat).sum((2, 3))).sum(0), rtol=1e-12, atol=1e-12
    )
    # The gradient to x is not reversed.
    (dx,) = torch.autograd.grad(y, x, g)
    again = layer(lam=0.0, probs=ONLY_ADV, seed=3)
    (same,) = torch.autograd.grad(again(x), x, g)
    assert torch.equal(dx, same)


def literal(x, s_mu, s_sigma, noise):
    """The published arithmetic, with scales that are ordinary parameters."""
    mu = x.mean((2, 3), keepdim=True)
    sigma = (x.var((2, 3), keepdim=True) + 1e-6).sqrt()
    e_mu, e_sigma = noise[:, :, :, None, None]
    s_mu, s_sigma = s_mu[:, None, None], s_sigma[:, None, None]
    return (sigma + e_sigma * s_sigma) * ((x - mu) / sigma) + mu + e_mu * s_mu


@pytest.mark.study
@pytest.mark.parametrize("recipe", ["official", "direction", "intensity"])
def test_gradcheck_with_learnt_scales_and_no_reversal(recipe):
    made = layer(lam=1.0, probs=ONLY_ADV, recipe=recipe)
    made.lam = -1.0  # below what a user may ask for: the gradient as it is

    def function(x, s_mu, s_sigma):
        made.generator = seeded(3)
        return torch.func.functional_call(made, {"sigma_mu": s_mu, "sigma_sigma": s_sigma}, x)

    inputs = (
        draw(4, 3, 3, 2).requires_grad_(),
        *(p.detach().clone().requires_grad_() for p in made.parameters()),
    )
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_at_lambda_minus_one_it_is_ordinary_learnable_noise():
    x, g, made = draw(4, 3, 5, 5).requires_grad_(), draw(4, 3, 5, 5, seed=1), layer(probs=ONLY_ADV, seed=3)
    made.lam = -1.0
    own = [parameter.detach().clone().requires_grad_() for parameter in (made.sigma_mu, made.sigma_sigma)]
    y, wanted = made(x), literal(x, *own, noise_of(3))
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(y, [x, made.sigma_mu, made.sigma_sigma], g)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, [x, *own], g), rtol=1e-10, atol=1e-10)


def test_the_scales_begin_as_they_are_told():
    x = draw(6, 3, 5, 5)
    uncertainty = batch_uncertainty(*channel_statistics(x))
    constant = layer(ready=False, probs=ONLY_ADV, start="constant")
    constant(x)
    assert constant.sigma_mu.tolist() == pytest.approx([0.1] * 3, abs=1e-7) and bool(constant.initialised)
    half = layer(ready=False, probs=ONLY_ADV, start="half-normal", seed=7)
    half(x)
    generator = seeded(7)
    torch.rand((), generator=generator)
    sizes = torch.randn(2, 3, generator=generator, dtype=torch.float64).abs()
    torch.testing.assert_close(half.sigma_mu.detach(), uncertainty[0] * sizes[0])
    torch.testing.assert_close(half.sigma_sigma.detach(), uncertainty[1] * sizes[1])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_styles_are_those_of_single_precision(kind):
    torch.manual_seed(0)
    convolution, g = nn.Conv2d(2, 3, 3, padding=1), draw(4, 3, 16, 16, seed=1, dtype=torch.float32)
    x = draw(4, 2, 16, 16, dtype=torch.float32)
    made, alike = (layer(lam=1.0, probs=ONLY_ADV, seed=3, dtype=torch.float32) for _ in range(2))
    with torch.autocast("cpu", kind):
        inner = convolution(x)
        assert inner.dtype == kind
        y = made(inner)
        found = torch.autograd.grad(
            y, [made.sigma_mu, made.sigma_sigma], g.to(kind)
        )  # backward under it, too
    wide = inner.detach().float()
    wanted = alike(wide)
    assert y.dtype == kind and torch.equal(y, wanted.to(kind))
    grads = torch.autograd.grad(wanted, [alike.sigma_mu, alike.sigma_sigma], g.to(kind).float())
    torch.testing.assert_close(found, grads, rtol=1e-3, atol=1e-5)
    with torch.autocast("cpu", kind):
        whole = layer(probs=ONLY_ADV, seed=3, dtype=torch.float32)(wide)
    assert whole.dtype == torch.float32 and torch.equal(whole, wanted)


def test_without_an_adversary_scales_change_by_decay_only():
    made = layer(lam=0.0, probs=ONLY_ADV)
    before = made.sigma_mu.detach().clone()
    optimiser = torch.optim.SGD(made.parameters(), 0.1, weight_decay=0.5)
    made(draw(4, 3, 5, 5)).square().sum().backward()
    optimiser.step()
    torch.testing.assert_close(made.sigma_mu.detach(), before * (1 - 0.1 * 0.5))


def test_the_first_adversarial_call_takes_the_batch_and_only_the_first():
    x, made = draw(6, 3, 5, 5), layer(ready=False, probs=ONLY_ADV)
    made(x)
    s_mu = (x.mean((2, 3)).var(0) + 1e-6).sqrt()
    torch.testing.assert_close(made.sigma_mu.detach(), s_mu, rtol=1e-12, atol=1e-12)
    made(3 * x)
    torch.testing.assert_close(made.sigma_mu.detach(), s_mu, rtol=1e-12, atol=1e-12)
    assert bool(made.initialised) and int(made.n_adv) == 2


def test_state_survives_a_checkpoint():
    made = layer(ready=False, probs=ONLY_ADV)
    made(draw(6, 3, 5, 5))
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    loaded = layer(ready=False, probs=ONLY_ADV)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    kept = loaded.sigma_mu.detach().clone()
    loaded(100 * draw(6, 3, 5, 5))
    assert torch.equal(loaded.sigma_mu.detach(), kept)
    assert set(made.state_dict()) == {"sigma_mu", "sigma_sigma", "initialised", "n_id", "n_adv", "n_dsu"}


def test_a_training_goes_on_from_safetensors(tmp_path):
    def fresh():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
        insert(net, ["0", "1"], example=draw(2, 1, 5, 5, dtype=torch.float32), generator=seeded(4))
        return net, torch.optim.SGD(net.parameters(), 0.01)

    def steps(net, optimiser, chosen):
        for step in chosen:
            optimiser.zero_grad()
            net(draw(4, 1, 5, 5, seed=step, dtype=torch.float32)).square().mean().backward()
            optimiser.step()

    net, optimiser = fresh()
    steps(net, optimiser, range(6))
    save_file(net.state_dict(), tmp_path / "half.safetensors")
    stream = net.style_layers["0"].generator.get_state()
    steps(net, optimiser, range(6, 12))
    again, optimiser = fresh()
    again.load_state_dict(load_file(tmp_path / "half.safetensors"))
    again.style_layers["0"].generator.set_state(stream)
    steps(again, optimiser, range(6, 12))
    wanted, found = net.state_dict(), again.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted) and bool(
        found["style_layers.0.initialised"]
    )


def test_a_checkpoint_of_the_official_code_loads():
    made = layer(ready=False, probs=ONLY_ADV)
    made.load_state_dict(
        {"adv_mean_std": torch.full((1, 3, 1, 1), 2.0), "adv_std_std": torch.full((1, 3, 1, 1), -1.0)}
    )
    made(draw(4, 3, 5, 5))
    assert made.sigma_mu.tolist() == [2.0] * 3 and made.sigma_sigma.tolist() == [-1.0] * 3


def test_a_pass_without_gradients_does_not_use_up_the_initialisation():
    made = layer(ready=False, probs=ONLY_ADV)
    with torch.no_grad():
        made(draw(6, 3, 5, 5))
    assert not bool(made.initialised) and torch.allclose(
        made.sigma_mu, torch.tensor(0.1, dtype=torch.float64)
    )


def test_with_the_batch_scales_it_is_dsu():
    x, made = draw(4, 3, 5, 5), layer(ready=False, probs=ONLY_ADV, seed=5)
    torch.testing.assert_close(made(x), DSU(3, p=1.0, generator=seeded(5))(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(probs=ONLY_DSU, seed=5)(x), made_dsu(x), rtol=1e-12, atol=1e-12)


def made_dsu(x):
    return DSU(3, p=1.0, generator=seeded(5))(x)


def test_statistics_of_the_output():
    x, made = draw(4, 3, 50, 50), layer(probs=ONLY_ADV, seed=2)
    y, noise = made(x), noise_of(2)
    mu, sigma = channel_statistics(x)
    torch.testing.assert_close(y.mean((2, 3)), mu + noise[0] * made.sigma_mu, rtol=1e-12, atol=1e-12)
    wanted = (1 + noise[1] * made.sigma_sigma / sigma).abs() * x.std((2, 3))
    torch.testing.assert_close(y.std((2, 3)), wanted, rtol=1e-12, atol=1e-12)


def test_direction_ignores_the_length_and_its_gradient_is_orthogonal():
    x, g = draw(4, 3, 5, 5), draw(4, 3, 5, 5, seed=1)
    outputs = []
    for factor in (1.0, 7.0):
        made = layer(recipe="direction", probs=ONLY_ADV, seed=4)
        with torch.no_grad():
            made.sigma_mu *= factor
            made.sigma_sigma *= factor
        y = made(x)
        outputs.append(y)
        grads = torch.autograd.grad(y, [made.sigma_mu, made.sigma_sigma], g)
        for grad, scale in zip(grads, (made.sigma_mu, made.sigma_sigma), strict=True):
            assert (
                abs(float(grad @ scale.detach())) < 1e-10 * float(grad.norm() * scale.detach().norm()) + 1e-12
            )
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recipe", ["direction", "intensity"])
def test_the_re_identification_recipes_by_their_formula(recipe):
    x, made = draw(4, 3, 5, 5), layer(recipe=recipe, probs=ONLY_ADV, seed=4, mix_weight=1.0)
    noise = noise_of(4)
    mu, sigma = channel_statistics(x)
    batch = batch_uncertainty(mu, sigma)
    own = (made.sigma_mu.detach(), made.sigma_sigma.detach())
    if recipe == "direction":
        used = [o / o.norm() * b.norm() for o, b in zip(own, batch, strict=True)]
    else:
        used = [b / b.norm() * o.norm() for o, b in zip(own, batch, strict=True)]
    hat = (x - mu[:, :, None, None]) / sigma[:, :, None, None]
    wanted = x + (noise[1] * used[1])[:, :, None, None] * hat + (noise[0] * used[0])[:, :, None, None]
    torch.testing.assert_close(made(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.study
def test_branch_odds():
    made, x = layer(1), torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    for _ in range(30_000):
        made._branches(x)
    counts = torch.tensor([int(made.n_id), int(made.n_adv), int(made.n_dsu)]) / 30_000
    assert int(made.n_id + made.n_adv + made.n_dsu) == 30_000
    assert float((counts - 1 / 3).abs().max()) < 0.01


def test_one_branch_a_sample():
    made = layer(granularity="sample", seed=6)
    x = draw(300, 3, 3, 3)
    y = made(x)
    same = (y == x).flatten(1).all(1)
    assert int(same.sum()) == int(made.n_id) and 60 < int(made.n_id) < 140
    assert int(made.n_id + made.n_adv + made.n_dsu) == 300


def test_a_step_climbs_in_the_scales_and_descends_in_the_weights():
    x, y = draw(16, 3, 6, 6), torch.arange(16) % 2
    net = nn.Linear(3, 2).double()
    nn.init.normal_(net.weight, generator=seeded(3))

    def loss(made):
        return F.cross_entropy(net((made(x) ** 2).mean((2, 3))), y)

    made = layer(probs=ONLY_ADV, seed=11)
    first = loss(made)
    scale_grads = torch.autograd.grad(first, list(made.parameters()), retain_graph=True)
    weight_grads = torch.autograd.grad(first, list(net.parameters()))
    with torch.no_grad():
        again = layer(probs=ONLY_ADV, seed=11)
        for parameter, grad in zip(again.parameters(), scale_grads, strict=True):
            parameter -= 1e-5 * grad
        assert loss(again) > first
        for parameter, grad in zip(net.parameters(), weight_grads, strict=True):
            parameter -= 1e-4 * grad
        assert loss(layer(probs=ONLY_ADV, seed=11)) < first


@pytest.mark.study
def test_the_expected_step_is_scale_times_curvature():
    h, made = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), layer(lam=2.0, probs=ONLY_ADV, seed=1)
    x = draw(8, 3, 4, 4)
    grads = []
    for _ in range(300):
        loss = 0.5 * (h * made(x).mean((2, 3)) ** 2).sum()
        grads.append(torch.autograd.grad(loss, made.sigma_mu)[0])
    sample = torch.stack(grads)
    wanted = -2.0 * h * made.sigma_mu.detach() * 8
    error = sample.std(0) / 300**0.5
    assert bool(((sample.mean(0) - wanted).abs() < 3 * error).all())


def test_negative_scales_are_allowed():
    made = layer(probs=ONLY_ADV)
    with torch.no_grad():
        made.sigma_mu.fill_(-1.0)
    x = draw(4, 3, 5, 5)
    made(x)
    assert bool((made.sigma_mu == -1).all())


def test_small_inputs_warn_once_and_pass():
    x = draw(1, 3, 5, 5)
    with pytest.warns(UserWarning, match="batch of one"):
        made = layer(probs=ONLY_DSU)
        assert made(x) is x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(x) is x
    assert torch.isfinite(layer(probs=ONLY_ADV)(x)).all()
    with pytest.warns(UserWarning, match="batch of one"):
        assert torch.equal(layer(probs=ONLY_ADV, recipe="direction")(x), x)
    with pytest.warns(UserWarning, match="batch of one"):  # one branch a sample: the adversarial one goes on
        assert torch.isfinite(layer(granularity="sample")(x)).all()
    with pytest.warns(UserWarning, match="initialise"):
        fresh = layer(ready=False, probs=ONLY_ADV)
        fresh(x)
    assert not bool(fresh.initialised)
    with pytest.warns(UserWarning, match="single value"):
        point = draw(4, 3, 1, 1)
        assert layer()(point) is point


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lam": -1.0}, "lam"),
        ({"lam": float("nan")}, "lam"),
        ({"probs": (0.5, 0.5, 0.5)}, "probs"),
        ({"recipe": "other"}, "recipe"),
        ({"granularity": "pixel"}, "granularity"),
        ({"start": "zero"}, "start"),
        ({"mix_weight": -1.0}, "mix_weight"),
        ({"eps": 0.0}, "eps"),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(JostleError, match=match):
        plain(AdvStyle.__init__)(AdvStyle(3), 3, **settings)


def test_inputs_that_do_not_fit():
    made = AdvStyle(3)
    made.place = "layer1"
    with pytest.raises(JostleError, match=r"AdvStyle at 'layer1' was made for 3 channels"):
        made(torch.zeros(2, 4, 3, 3))
    with pytest.raises(JostleError, match="floating"):
        plain(AdvStyle.forward)(made, torch.zeros(2, 3, 3, 3, dtype=torch.int32))


def test_scales_that_ran_away_are_named():
    net = nn.Sequential(AdvStyle(2))
    with torch.no_grad():
        net[0].sigma_mu[0] = float("inf")
    with pytest.raises(JostleError, match="after step 7"):
        check_scales(net, 7)


def test_checkpointing_repeats_the_same_branch():
    x = draw(4, 3, 5, 5).requires_grad_()
    results = []
    for again in (False, True):
        torch.manual_seed(5)
        made = AdvStyle(3, probs=ONLY_ADV).double()
        y = checkpoint(made, x, use_reentrant=False) if again else made(x)
        results.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_every_parameter_takes_part_when_training_is_distributed(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), AdvStyle(3, generator=seeded(0)), nn.Flatten(), nn.Linear(27, 2)
        )
        wrapped = nn.parallel.DistributedDataParallel(net)
        x = draw(4, 1, 5, 5, dtype=torch.float32)
        for _ in range(8):  # all branches; without the zeros the second step would fail
            wrapped.zero_grad()
            wrapped(x).sum().backward()
            assert net[1].sigma_mu.grad is not None
        assert int(net[1].n_id) > 0 and int(net[1].n_adv) > 0 and int(net[1].n_dsu) > 0
    finally:
        dist.destroy_process_group()


def test_the_same_seed_gives_the_same_run():
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), AdvStyle(3, generator=seeded(4)), nn.Flatten(), nn.Linear(27, 2)
        )
        optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
        for step in range(6):
            optimiser.zero_grad()
            net(draw(4, 1, 5, 5, seed=step, dtype=torch.float32)).square().mean().backward()
            optimiser.step()
        outputs.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*outputs)
