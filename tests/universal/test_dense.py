import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal.dense import (
    DenseNet,
    answer_to_depth,
    cached_features,
    depth_loss,
    segmentation_loss,
    train_head,
)
from jostle.universal.depth import evaluate_depth
from jostle.universal.segmentation import evaluate_segmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.one = nn.Conv2d(inner, outer, 3, stride=stride, padding=1)
        self.two = nn.Conv2d(outer, outer, 1)
        for layer in (self.one, self.two):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        return self.two(self.one(x).relu()).relu()


def trunk(strides=(4, 2, 2, 2)):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = [3, 8, 12, 16, 20][: len(strides) + 1]
        blocks = [Block(*pair, stride) for *pair, stride in zip(widths, widths[1:], strides, strict=False)]
        return nn.Sequential(*blocks, nn.Flatten()).eval()


@pytest.fixture
def squares():
    """Bright squares on dark ground, and where they are."""
    images, masks = torch.zeros(96, 3, 32, 32), torch.zeros(96, 32, 32, dtype=torch.long)
    corners = torch.randint(4, 20, (96, 2), generator=generator())
    for image, mask, (top, left) in zip(images, masks, corners.tolist(), strict=True):
        image[:, top : top + 9, left : left + 9] = 0.9
        mask[top : top + 9, left : left + 9] = 1
    return images + 0.05 * torch.rand(images.shape, generator=generator()), masks


@pytest.mark.study
def test_the_head_learns_and_the_trunk_does_not(squares):
    images, masks = squares
    net = DenseNet(trunk(), 2, (3, 32, 32), generator=generator(), width=16)
    before = {key: value.clone() for key, value in net.trunk.state_dict().items()}
    batches = [(images[:16], masks[:16])]
    delta = torch.zeros(1, 3, 32, 32)
    untrained = evaluate_segmentation(net, delta, batches).metrics()["clean.miou"]
    seen = []
    train_head(
        net, images[16:], masks[16:], segmentation_loss(), generator=generator(), epochs=15, batch_size=16,
        callback=lambda *a: seen.append(a),
    )  # fmt: skip
    report = evaluate_segmentation(net, delta, batches).metrics()
    assert report["clean.miou"] > 0.8 > untrained and report["agreement.miou"] == 1
    assert all(torch.equal(before[key], value) for key, value in net.trunk.state_dict().items())
    assert all(p.requires_grad for p in net.trunk.parameters()) and not net.training
    assert seen[-1][:2] == (75, 75) and seen[-1][2].startswith("loss")


@pytest.mark.study
def test_depth_is_learnt(squares):
    images, masks = squares
    depths = torch.where(masks == 1, 2.0, 10.0)
    net = DenseNet(trunk(), 1, (3, 32, 32), generator=generator(), width=16)
    train_head(net, images[16:], depths[16:], depth_loss, generator=generator(), epochs=15, batch_size=16)
    batches = [(images[:16], depths[:16])]
    report = evaluate_depth(net, torch.zeros(1, 3, 32, 32), batches, decode=answer_to_depth).metrics()
    flat = ((depths[:16].mean() - depths[:16]).abs() / depths[:16]).mean()
    assert report["clean.abs_rel"] < 0.6 * float(flat) and report["gfr.a1"] == 0


def test_features_are_those_of_the_trunk_in_half_precision(squares):
    images, _ = squares
    net = DenseNet(trunk(), 2, (3, 32, 32), generator=generator(), width=8)
    assert net.layers == ["0", "1", "2", "3"]
    cached = cached_features(net, images[:40])
    x = images[:40]
    for i, kept in enumerate(cached):
        x = net.trunk[i](x)
        assert kept.dtype == torch.float16 and torch.allclose(kept.float(), x, atol=1e-2, rtol=1e-2)
    assert net.eval()(images[:2]).shape == (2, 2, 32, 32)
    assert not any(layer._forward_hooks for layer in net.modules())


def test_weights_come_from_the_generator():
    heads = [DenseNet(trunk(), 2, (3, 32, 32), generator=generator(s)).head.state_dict() for s in (1, 1, 2)]
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    assert not torch.equal(heads[0]["answer.weight"], heads[2]["answer.weight"])


def test_bad_input_is_one_sentence(squares):
    images, masks = squares
    with pytest.raises(JostleError, match=r"\[32\] are missing"):
        DenseNet(trunk((4, 2, 2)), 2, (3, 32, 32), generator=generator())
    with pytest.raises(JostleError, match="outputs and width"):
        DenseNet(trunk(), 0, (3, 32, 32), generator=generator())
    net = DenseNet(trunk(), 2, (3, 32, 32), generator=generator(), width=8)
    with pytest.raises(JostleError, match="epochs and batch_size"):
        train_head(net, images, masks, segmentation_loss(), generator=generator(), epochs=0)
    with pytest.raises(JostleError, match="at least one image"):
        train_head(net, images[:0], masks[:0], segmentation_loss(), generator=generator())
    with pytest.raises(JostleError, match="background must be above 0"):
        segmentation_loss(0.0)
