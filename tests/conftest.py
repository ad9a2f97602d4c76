"""Shapes are checked in every test; one thread each; the shared data where they are."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

hook = jaxtyping.install_import_hook("jostle", "helpers.checked")
hook.__enter__()

import torch  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
# The same examples in every run: a failure is of the change, not of the draw.
settings.register_profile("jostle", derandomize=True, deadline=None)
settings.load_profile("jostle")


def pytest_runtest_setup() -> None:
    """Weights that a test draws without a generator do not hang on which tests came before."""
    torch.manual_seed(0)


def pytest_runtest_teardown() -> None:
    """Figures that a test left open are none of the next one's."""
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one test of many minutes begins first: the other workers have enough to do meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip."""
    for place in (os.environ.get("JOSTLE_DATA"), _ROOT.parent / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("the real data sets are not here: name their folder in JOSTLE_DATA")


@pytest.fixture(scope="session")
def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its shipped ImageNet weights."""
    from jostle.zoo import load_model

    return load_model("efficientnet-lite0")


class Small(nn.Module):
    """A small convolutional network for 28x28 digits."""

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32 * 7 * 7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of 28x28 images."""
        return self.head(self.features(x).flatten(1))


@pytest.fixture(scope="session")
def digits_model() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network trained for seconds on 4,000 real digits, and the 1,000 it never saw."""
    from jostle.core.training import Trainer, minibatches
    from jostle.zoo import load_data

    images, labels = load_data("mnist5k").tensors()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small()
    trainer = Trainer(
        model,
        torch.optim.Adam(model.parameters(), 2e-3),
        lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]),
    )
    generator = torch.Generator().manual_seed(0)
    trainer.run(minibatches(images[:4000], labels[:4000], size=50, epochs=3, generator=generator))
    return model.eval(), images[4000:], labels[4000:]
