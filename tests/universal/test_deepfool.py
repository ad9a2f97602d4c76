import inspect

import pytest
import torch
from torch import nn

from jostle.core.budgets import L2, Linf
from jostle.core.errors import JostleError
from jostle.universal.deepfool import deepfool, deepfool_uap
from jostle.universal.noise import sign_noise


def linear(weight, bias):
    net = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0])).double()
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(bias)
    return net


def test_on_a_linear_model_it_is_the_distance_to_the_nearest_face():
    g = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 12, generator=g).double(), torch.randn(6, generator=g).double()
    net, x = linear(weight, bias), torch.randn(20, 1, 3, 4, generator=g).double()
    found = deepfool(net, x, overshoot=0.02)
    logits = net(x).detach()
    first = logits.argmax(1)
    for i in range(20):
        w = weight - weight[first[i]]
        gap = (logits[i] - logits[i, first[i]]).abs() / w.norm(dim=1)
        gap[first[i]] = torch.inf
        nearest = gap.argmin()
        way = w[nearest] / w[nearest].norm()
        assert torch.allclose(found[i].flatten(), 1.02 * (gap[nearest] + 1e-4) * way, atol=1e-12)
        assert net(x[i : i + 1] + found[i : i + 1]).argmax() == nearest


def test_batch_independence_and_success(digit_net, digits):
    images = digits[1][0][:40]
    found = deepfool(digit_net, images)
    with torch.no_grad():
        changed = digit_net(images + found).argmax(1) != digit_net(images).argmax(1)
    assert changed.double().mean() > 0.95
    assert found.flatten(1).norm(dim=1).median() < 0.5 * images.flatten(1).norm(dim=1).median()
    single = torch.cat([deepfool(digit_net, image[None]) for image in images])
    assert torch.allclose(found, single, atol=1e-5)


def test_it_stops_where_it_is_told_to(digit_net, digits):
    images = digits[1][0][:8]
    one, ten = deepfool(digit_net, images, steps=1), deepfool(digit_net, images, steps=10)
    assert not torch.equal(one, ten)
    two_classes = deepfool(digit_net, images, classes=2)
    assert (two_classes.flatten(1).norm(dim=1) >= ten.flatten(1).norm(dim=1) - 1e-3).double().mean() > 0.6


@pytest.mark.study
@pytest.mark.parametrize("batch_size", [1, 16])
def test_uap_fools_unseen_digits(digit_net, digits, fooling, batch_size):
    images = digits[0][0][:100]
    seen = []
    delta = deepfool_uap(
        digit_net,
        images,
        Linf(0.25),
        generator=torch.Generator().manual_seed(0),
        batch_size=batch_size,
        epochs=3,
        callback=lambda *a: seen.append(a),
    )
    noise = fooling(sign_noise((1, 8, 8), Linf(0.25), torch.Generator().manual_seed(0)))
    assert delta.abs().max() <= 0.25
    assert fooling(delta) > 2 * noise
    assert seen[-1][2].startswith("fooling") and seen[-1][1] == 3 * -(-100 // batch_size)


def test_uap_ends_when_the_target_is_met(digit_net, digits):
    seen = []
    deepfool_uap(
        digit_net,
        digits[0][0][:32],
        L2(50.0),
        generator=torch.Generator().manual_seed(0),
        target=0.1,
        epochs=50,
        callback=lambda *a: seen.append(a),
    )
    assert seen[-1][0] < 100  # of 100


def test_bad_input_is_one_sentence(digit_net, digits):
    images, g = digits[0][0][:4], torch.Generator()
    with pytest.raises(JostleError, match=r"output must have shape \(batch, classes\)"):
        deepfool(nn.Conv2d(1, 2, 1), images)
    for wrong in ({"classes": 1}, {"overshoot": -1.0}, {"steps": 0}):
        with pytest.raises(JostleError, match="at least"):
            deepfool(digit_net, images, **wrong)
    with pytest.raises(JostleError, match="target must lie"):
        deepfool_uap(digit_net, images, Linf(0.1), generator=g, target=0.0)
    with pytest.raises(JostleError, match="at least one image"):
        inspect.unwrap(deepfool_uap)(digit_net, images[:0], Linf(0.1), generator=g)
