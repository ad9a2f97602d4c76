"""The small networks of the study, and the paper's."""

from typing import Literal

import torch
from torch import nn

from jostle.core.errors import require
from jostle.federated.flat import replace_batchnorm
from jostle.zoo import normalised

Network = Literal["mlp", "cnn", "resnet18"]


def network(
    name: Network, shape: tuple[int, int, int], classes: int, *, seed: int, hidden: int = 32
) -> nn.Module:
    """A network for images in [0, 1], with its normalisation inside and no running statistics.

    **Arguments:** `name`: `"mlp"`: one hidden ReLU layer; `"cnn"`: two convolutions of 16 and 32 channels with group
    normalisation and pooling; `"resnet18"`: torchvision's, with GroupNorm(2) for every batch normalisation, as in
    the paper's program. `shape`: channels, height and width of an image. `classes`: of the output. `seed`: of the
    initialisation. `hidden`: width of the MLP.
    **Raises:** `JostleError` for an unknown name.

    >>> sum(p.numel() for p in network("mlp", (1, 28, 28), 10, seed=0).parameters())
    25450
    """
    channels, height, width = shape
    # PyTorch's layers draw from the global generator: its state is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            made: nn.Module = nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * height * width, hidden),
                nn.ReLU(),
                nn.Linear(hidden, classes),
            )
        elif name == "cnn":
            made = nn.Sequential(
                *(nn.Conv2d(channels, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(2, 32), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), classes)),
            )
        else:
            require(name == "resnet18", f"network must be mlp, cnn or resnet18, but {name!r} came")
            from torchvision.models import resnet18

            made = replace_batchnorm(resnet18(num_classes=classes), groups=2)
    grey = channels == 1
    mean, std = ((0.1307,), (0.3081,)) if grey else ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return normalised(made, mean, std).train()
