"""Encoders: the paper's sizes, the order of the tokens, preconditioning, and the classifier on top."""

import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.smoothing import (
    Backbone,
    Denoised,
    EncoderDenoiser,
    OneStep,
    Projector,
    TimedClassifier,
    TimedConv,
    TimedMLP,
    TimedViT,
    diffusion_level,
    fit_denoiser,
    snapped,
)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.mark.parametrize(
    ("shape", "settings", "count"),
    [
        ((3, 224, 224), {"patch": 16, "width": 768, "depth": 12, "heads": 12}, 85_771_776),
        ((3, 224, 224), {"patch": 16, "width": 512, "depth": 6, "heads": 8}, 19_401_728),
        ((3, 32, 32), {"patch": 4, "width": 768, "depth": 12, "heads": 12}, 85_117_440),
    ],
)
def test_the_papers_encoders_have_the_papers_sizes(shape, settings, count):
    with torch.device("meta"):
        net = TimedViT(shape, **settings)
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_tokens_are_cls_time_patches():
    net = seeded(lambda: TimedViT((1, 8, 8), patch=4, width=16, depth=1, heads=2))
    seen = []
    handle = net.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = torch.rand(2, 1, 8, 8)
    net(z, torch.tensor([0.1, 2.0]))
    handle.remove()
    tokens = seen[0] - net.position
    assert tokens.shape == (2, 6, 16)
    assert torch.allclose(tokens[:, 0], net.cls[0].expand(2, -1), atol=1e-6)
    from jostle.smoothing import input_scale, time_condition, time_embedding

    t = torch.tensor([0.1, 2.0])
    assert torch.allclose(tokens[:, 1], time_embedding(time_condition(t), 16), atol=1e-5)
    patch = net.patches(z * input_scale(t)[:, None, None, None])[:, :, 0, 1]
    assert torch.allclose(tokens[:, 3], patch, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimedViT((3, 8, 8), patch=4, width=16, depth=2, heads=2),
        lambda: TimedConv(3, width=16, depth=3),
        lambda: TimedMLP(3 * 64, 32, 16),
    ],
)
def test_an_encoder_depends_on_the_time_and_not_on_its_neighbours(make):
    net = seeded(make).eval()
    z = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = net(z, 0.5)
    assert out.shape == (4, 16)
    assert not torch.allclose(out, net(z, 0.6), atol=1e-3)
    assert torch.allclose(out[:1], net(z[:1], torch.tensor([0.5])), atol=1e-5)
    # Preconditioning: even the noisiest input stays in range.
    noisy = z + 80 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    assert float(net(noisy, 80.0).detach().abs().max()) < 50


def test_a_backbone_is_not_told_the_time_but_its_input_is_scaled():
    net = Backbone(nn.Flatten(), 4)
    z = torch.ones(1, 1, 2, 2)
    assert torch.allclose(net(z, 0.5), torch.full((1, 4), 2**0.5))


def test_the_projector_has_no_bias_and_ends_linear():
    layers = list(Projector(8, 16, 4))
    assert [type(layer).__name__ for layer in layers] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"
    ]  # fmt: skip
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Linear))


def test_the_classifier_normalises_after_the_noise_and_knows_its_time():
    encoder = Backbone(nn.Flatten(), 4)
    model = TimedClassifier(encoder, 3, 0.5)
    assert model.t == snapped(0.5) == pytest.approx(0.965417, abs=1e-6)
    assert float(model.head.weight.detach().abs().max()) < 1e-4
    x = torch.rand(2, 1, 2, 2)
    assert torch.allclose(model(x), model.head(encoder(2 * x - 1, model.t)))


def test_rates_fall_with_depth():
    model = seeded(lambda: TimedClassifier(TimedViT((1, 8, 8), patch=4, width=16, depth=2, heads=2), 3, 0.5))
    groups = model.groups(1.0, 0.5)
    assert [group["lr"] for group in groups] == [0.125, 0.25, 0.5, 1.0]
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    assert sum(sizes) == sum(p.numel() for p in model.parameters())
    assert sizes[3] == 3 * 16 + 3 + 2 * 16  # head and last norm
    assert sizes[0] == model.encoder.patches.weight.numel() + 16 + 16 + 6 * 16
    for net in (TimedConv(1, 16, 3), TimedMLP(64, 32, 16)):
        whole = TimedClassifier(net, 3, 0.5)
        assert sum(p.numel() for g in whole.groups(1.0, 0.9) for p in g["params"]) == sum(
            p.numel() for p in whole.parameters()
        )


def test_frozen_patches_are_in_no_group():
    net = TimedViT((1, 8, 8), patch=4, width=16, depth=1, heads=2, freeze_patches=True)
    model = TimedClassifier(net, 3, 0.5)
    count = sum(p.numel() for g in model.groups(1.0, 1.0) for p in g["params"])
    assert count == sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in net.patches.parameters()
    )


def test_settings_that_do_not_fit():
    with pytest.raises(JostleError, match="patch must divide"):
        TimedViT((1, 28, 28), patch=5, width=16, depth=1, heads=2)
    with pytest.raises(JostleError, match="multiple of heads"):
        TimedViT((1, 28, 28), patch=7, width=16, depth=1, heads=3)


def test_a_diffusion_model_denoises_in_one_step_at_the_level_of_the_noise():
    bar = torch.linspace(0.999, 0.01, 200, dtype=torch.float64)
    sigma = 0.5
    assert float(bar[diffusion_level(bar, sigma)]) == pytest.approx(1 / (1 + 4 * sigma**2), abs=0.005)
    clean = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    level = OneStep(lambda z, t: z, bar, sigma)
    # A perfect model says the noise that is there, at the model's own time; learnt variances come after it.
    share = level.kept
    exact = ((1 - share) / share) ** 0.5 / 2
    told = []

    def perfect(z, t):
        told.append(t)
        return torch.cat([noise, noise], dim=1)

    found = OneStep(perfect, bar, sigma)(clean + exact * noise)
    assert torch.allclose(found, clean, atol=1e-9)
    assert told[0].tolist() == [diffusion_level(bar, sigma)] * 2


def test_a_small_denoiser_learns():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(64, 1, 4, 4)
    images[:32, :, :2] = 1.0
    images[32:, :, 2:] = 1.0
    net = seeded(lambda: EncoderDenoiser(TimedMLP(16, 32, 16), (1, 4, 4), 0.5))
    losses = fit_denoiser(net, images, 0.5, generator, steps=150, batch=32, lr=3e-3)
    assert sum(losses[-20:]) < 0.4 * sum(losses[:20])
    both = Denoised(net, nn.Flatten())
    assert both(images[:3]).shape == (3, 16) and not net.training
