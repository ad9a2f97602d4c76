"""Training with rounding in the loop: what it computes is the integer model, and it wins back what rounding lost."""

import pytest
import torch
from helpers import plain
from quantization.nets import Tiny, pictures, seeded
from torch import nn
from torch.nn import functional as F

from jostle.core.errors import JostleError
from jostle.core.training import Trainer, minibatches
from jostle.quantization import QAT, QuantConfig, distillation, fit_qat, prepare, quantize, to_integer
from jostle.quantization.integer import to_pixels
from jostle.zoo import load_data


def test_distillation_is_zero_for_its_own_teacher_and_its_reductions_differ_by_the_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    s, t = torch.randn(6, 10, generator=draw), torch.randn(6, 10, generator=draw)
    y = torch.arange(6)
    assert float(distillation(s, y, s, alpha=1.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation(s, y, t, alpha=0.0)) == pytest.approx(float(F.cross_entropy(s, y)))
    batch, mean = (distillation(s, y, t, alpha=1.0, reduction=r) for r in ("batchmean", "mean"))
    assert float(batch) == pytest.approx(10 * float(mean), rel=1e-5)
    by_hand = 36 * (F.softmax(t / 6, 1) * (F.log_softmax(t / 6, 1) - F.log_softmax(s / 6, 1))).sum(1).mean()
    assert float(batch) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.fixture(scope="module")
def digits():
    """Real digits and a network trained on them in floating point, all in seconds."""
    images, labels = load_data("mnist5k").tensors()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    model = seeded(Tiny).train()
    trainer = Trainer(
        model, torch.optim.Adam(model.parameters(), 5e-3), lambda m, b: F.cross_entropy(m(b[0]), b[1])
    )
    trainer.run(
        minibatches(
            images[:4000], labels[:4000], size=64, epochs=4, generator=torch.Generator().manual_seed(0)
        )
    )
    return model.eval(), images[:4000], labels[:4000], images[4000:], labels[4000:]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


@pytest.mark.study
def test_training_wins_back_what_three_bits_lost(digits) -> None:
    model, x, y, held, truth = digits
    network = quantize(model, x, QuantConfig(weight_bits=3, act_bits=3))
    floats, before = accuracy(model, held, truth), accuracy(network, held, truth)
    record = fit_qat(network, x[:1600], y[:1600], QAT(epochs=2, lr=0.05))
    after = accuracy(network, held, truth)
    assert floats - before > 0.03, "three bits must lose something, or nothing is shown"
    assert floats - after < 0.5 * (floats - before)
    assert len(record.rows) == 2 and record.rows[1]["loss"] < record.rows[0]["loss"]
    # What was trained is what is deployed, bit for bit, on every tensor.
    integers, images = to_integer(network), held[:50]
    codes = network.codes(images)
    for name, tensor in integers.tensors(to_pixels(images)).items():
        assert bool((codes[name].long() == tensor).all()), name
    assert torch.equal(network(images), integers.logits(images))
    assert not network.training and network.folded and network.frozen


@pytest.mark.study
@pytest.mark.parametrize("fold_after", [0.0, 0.5])
def test_folding_early_or_late(digits, fold_after: float) -> None:
    model, x, y, held, truth = digits
    network = quantize(model, x, QuantConfig(weight_bits=4, act_bits=4))
    statistics = network.layer("stem").norm.running_mean.clone()
    fit_qat(network, x[:640], y[:640], QAT(epochs=1, lr=0.005, fold_after=fold_after))
    moved = not torch.equal(statistics, network.layer("stem").norm.running_mean)
    assert moved == (fold_after > 0)
    assert accuracy(network, held, truth) > 0.8
    images = held[:20]
    assert torch.equal(network(images), to_integer(network).logits(images))


def test_the_same_seed_gives_the_same_weights(digits) -> None:
    model, x, y, *_ = digits
    states = []
    for _ in range(2):
        network = quantize(model, x, QuantConfig(weight_bits=4))
        fit_qat(network, x[:128], y[:128], QAT(epochs=1), generator=torch.Generator().manual_seed(3))
        states.append(network.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_gradients_are_those_of_a_straight_through_network_in_real_units() -> None:
    """The codes carry gradients in units of their grids; the textbook form in real numbers gives the same ones."""
    model = seeded(Tiny)
    images, labels = pictures(16, 1, 28, 28), torch.arange(16) % 10
    network = quantize(model, images, QuantConfig(weight_bits=4, act_bits=6))
    F.cross_entropy(network(images), labels).backward()
    grids, codes = network.grids(), network.codes(images)
    integers = to_integer(network)
    values, leaves = {"input": images}, {}
    for step in network.program.steps[1:]:
        x = [values[name] for name in step.inputs]
        if step.op in ("conv", "linear"):
            weight, bias = (p.detach().requires_grad_(True) for p in network.layer(step.name).folded())
            leaves[step.name] = weight
            node, source = integers[step.name], grids[step.inputs[0]]
            if node.b is None:
                scale = torch.full((len(weight),), node.scale / source.scale)
            else:
                scale = node.b / 2.0**node.c * grids[step.name].scale / source.scale
            shape = (-1, *[1] * (weight.ndim - 1))
            rounded = weight + (node.weight * scale.reshape(shape) - weight).detach()
            real = (
                F.linear(x[0], rounded, bias)
                if step.op == "linear"
                else F.conv2d(x[0], rounded, bias, step.stride, step.padding[0])
            )
        elif step.op == "add":
            real = x[0] + x[1]
        elif step.op == "avgpool":
            real = x[0].mean((2, 3), keepdim=True)
        else:
            assert step.op == "flatten"
            values[step.name] = x[0].flatten(1)
            continue
        if step.name in grids:
            grid = grids[step.name]
            ends = (
                (integers[step.name].lower - grid.zero) * grid.scale,
                (integers[step.name].upper - grid.zero) * grid.scale,
            )
            exact = (grid.scale * (codes[step.name] - grid.zero)).detach().float()
            real = real.clamp(*ends)
            real = real + (exact - real).detach()
        values[step.name] = real
    F.cross_entropy(values[network.program.output], labels).backward()
    ours = network.layer("head").weight.grad
    assert F.cosine_similarity(ours.flatten(), leaves["head"].grad.flatten(), 0) > 0.9999
    for name in ("stem", "a", "b", "c"):
        layer = network.layer(name)
        factor = (layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()).detach()
        ours, theirs = layer.weight.grad, leaves[name].grad * factor.reshape(-1, 1, 1, 1)
        assert float(F.cosine_similarity(ours.flatten(), theirs.flatten(), 0)) > 0.99, name
        assert float(ours.norm() / theirs.norm()) == pytest.approx(1, abs=0.03), name


def test_ranges_follow_until_they_are_frozen() -> None:
    network = prepare(seeded(Tiny), pictures(1, 1, 28, 28), QuantConfig(momentum=0.5)).train()
    with torch.no_grad():
        network(pictures(4, 1, 28, 28))
        first = network.high.clone()
        network(0.2 * pictures(4, 1, 28, 28))
        second = network.high.clone()
        network.freeze()(pictures(4, 1, 28, 28, seed=5))
    assert (
        not bool(first.isnan().any()) and not torch.equal(first, second) and torch.equal(second, network.high)
    )


def test_settings_at_the_door() -> None:
    with pytest.raises(JostleError, match="epochs must be at least 1"):
        QAT(epochs=0)
    with pytest.raises(JostleError, match=r"alpha must lie in \[0, 1\]"):
        QAT(alpha=2.0)
    network = quantize(seeded(Tiny), pictures(2, 1, 28, 28))
    with pytest.raises(JostleError, match="must be as many, but 2 and 3 came"):
        plain(fit_qat)(network, pictures(2, 1, 28, 28), torch.zeros(3).long())
