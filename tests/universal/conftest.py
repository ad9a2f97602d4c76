import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jostle.core.training import Trainer, minibatches


@pytest.fixture(scope="session")
def digits():
    """Real handwritten digits, `(images, labels)`: 1,437 to train on and 360 held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return (images[order[:1437]], labels[order[:1437]]), (images[order[1437:]], labels[order[1437:]])


@pytest.fixture(scope="session")
def digit_net(digits):
    """A small convolutional network that reads them; over 95 % on those held out."""
    (images, labels), held_out = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip
    fit = Trainer(
        net,
        torch.optim.Adam(net.parameters(), 3e-3),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    )
    fit.run(minibatches(images, labels, size=64, epochs=6, generator=torch.Generator().manual_seed(0)))
    net.eval()
    with torch.no_grad():
        assert (net(held_out[0]).argmax(1) == held_out[1]).double().mean() > 0.95
    return net


@pytest.fixture(scope="session")
def fooling(digit_net, digits):
    """The share of held-out digits that a perturbation makes the network answer otherwise."""
    images, _ = digits[1]

    def rate(delta):
        with torch.no_grad():
            clean, moved = digit_net(images), digit_net((images + delta).clamp(0, 1))
        return float((clean.argmax(1) != moved.argmax(1)).double().mean())

    return rate
