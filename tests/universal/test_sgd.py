import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jostle.core.budgets import L2, Linf
from jostle.core.errors import JostleError
from jostle.universal.layermax import layermax_uap
from jostle.universal.noise import sign_noise
from jostle.universal.sgd import cosine_uap, sgd_uap

XI = 0.2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def noise_rate(fooling):
    return max(fooling(sign_noise((1, 8, 8), Linf(XI), generator(seed))) for seed in range(3))


def test_sgd_uap_fools_unseen_digits_far_more_than_noise(digit_net, digits, fooling, noise_rate):
    (images, labels), _ = digits
    for variant in ("decayed", "released"):
        delta = sgd_uap(
            digit_net, images[:300], Linf(XI), labels=labels[:300], generator=generator(), variant=variant
        )
        assert delta.abs().max() <= XI
        assert fooling(delta) > 3 * noise_rate + 0.1


def test_sgd_uap_follows_the_released_loop(digit_net, digits):
    """The released code, step for step, on one batch an epoch."""
    (images, labels), _ = digits
    images, labels = images[:64], labels[:64]
    expected = torch.zeros(1, 1, 8, 8)
    for _ in range(4):
        copies = expected.repeat(64, 1, 1, 1).requires_grad_()
        losses = F.cross_entropy(digit_net((images + copies).clamp(0, 1)), labels, reduction="none")
        losses.clamp_max(12.0).mean().backward()
        expected = (expected + 0.8 * XI * copies.grad.mean(0, keepdim=True).sign()).clamp(-XI, XI)
    found = sgd_uap(
        digit_net,
        images,
        Linf(XI),
        labels=labels,
        generator=generator(),
        epochs=4,
        batch_size=64,
        variant="released",
    )
    # The sum over the batch may round differently, which turns the sign of a gradient that is nearly zero.
    assert (found - expected).abs().gt(1e-6).double().mean() < 0.05


def test_decayed_steps_shrink_with_the_epochs():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[1].bias.zero_()
    images, labels = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.long)
    run = {"labels": labels, "generator": generator(), "batch_size": 2, "step": 0.25}
    one = sgd_uap(net, images, Linf(0.4), epochs=1, **run)
    two = sgd_uap(net, images, Linf(0.4), epochs=2, **run)
    assert one.item() == pytest.approx(-0.25 * 0.4)
    assert two.item() == pytest.approx(-(0.25 + 0.0625) * 0.4)


def test_labels_default_to_the_clean_answers(digit_net, digits):
    images = digits[0][0][:64]
    with torch.no_grad():
        answers = digit_net(images).argmax(1)
    run = {"generator": None, "epochs": 1}
    given = sgd_uap(digit_net, images, Linf(XI), labels=answers, **{**run, "generator": generator()})
    assert torch.equal(given, sgd_uap(digit_net, images, Linf(XI), **{**run, "generator": generator()}))


def test_the_ceiling_silences_samples_that_are_lost():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[40.0], [-40.0]]))
        net[1].bias.zero_()
    images = torch.full((2, 1, 1, 1), 0.5)
    lost = torch.ones(2, dtype=torch.long)  # a loss of 40
    with pytest.warns(UserWarning, match="gradient is zero"):
        delta = sgd_uap(net, images, Linf(0.1), labels=lost, generator=generator(), epochs=1)
    assert delta.item() == 0


def test_cosine_uap_fools_and_takes_proxies(digit_net, digits, fooling, noise_rate):
    images = digits[0][0][:300]
    delta = cosine_uap(digit_net, images, Linf(XI), generator=generator())
    assert delta.abs().max() <= XI and fooling(delta) > 2 * noise_rate + 0.05
    proxies = torch.rand(64, 1, 8, 8, generator=generator())
    round_ball = cosine_uap(digit_net, proxies, L2(1.0), generator=generator(), epochs=1)
    assert round_ball.norm() <= 1 + 1e-5


def test_layermax_makes_its_layer_louder(digit_net, digits, fooling, noise_rate):
    images = digits[0][0][:300]
    seen = []
    delta = layermax_uap(
        digit_net, images, Linf(XI), "5", generator=generator(), epochs=4, callback=lambda *a: seen.append(a)
    )
    net = digit_net[:6]
    with torch.no_grad():
        loud = net((images + delta).clamp(0, 1)).norm()
        noise = net((images + sign_noise((1, 8, 8), Linf(XI), generator())).clamp(0, 1)).norm()
        assert loud > 1.1 * noise and loud > 1.1 * net(images).norm()
    assert seen[-1][:2] == (40, 40) and seen[0][0] == 1
    assert fooling(delta) > noise_rate


@pytest.mark.parametrize("craft", [sgd_uap, cosine_uap, lambda *a, **k: layermax_uap(*a, "0", **k)])
def test_same_seed_same_perturbation_and_nothing_left_behind(digit_net, digits, craft):
    images = digits[0][0][:64]
    digit_net.train()
    try:
        one = craft(digit_net, images, Linf(XI), generator=generator(), epochs=1)
        two = craft(digit_net, images, Linf(XI), generator=generator(), epochs=1)
        assert torch.equal(one, two) and one.shape == (1, 1, 8, 8)
        assert digit_net.training and all(p.requires_grad for p in digit_net.parameters())
        assert not any(layer._forward_hooks for layer in digit_net.modules())
    finally:
        digit_net.eval()


def test_bad_settings_are_one_sentence(digit_net, digits):
    (images, labels), _ = digits
    craft = inspect.unwrap(sgd_uap)
    for wrong, sentence in [
        ({"labels": labels[:3]}, "labels must be one an image"),
        ({"step": 0.0}, "step must lie in"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"ceiling": 0.0}, "ceiling must be above 0"),
        ({"variant": "other"}, "variant must be"),
    ]:
        with pytest.raises(JostleError, match=sentence):
            craft(digit_net, images[:4], Linf(XI), generator=generator(), **wrong)
    with pytest.raises(JostleError, match="at least one image"):
        craft(digit_net, images[:0], Linf(XI), labels=labels[:0], generator=generator())
    with pytest.raises(JostleError, match="no layer 'nowhere'"):
        layermax_uap(digit_net, images[:4], Linf(XI), "nowhere", generator=generator())
