"""The training that the paper's two experiments share: squared error on one-hot targets, two decays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jostle.core.errors import require
from jostle.core.training import Trainer, minibatches

LossName = Literal["mse", "ce"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, the rate divided by 10 after each third.

    **Arguments:** `epochs`: passes over the samples, at least 3. `rate`: learning rate at the start, above 0.
    `momentum`: of SGD. `decay`: weight decay of all parameters, batch norm's included, at least 0. `batch`:
    samples a step, at least 2; the smaller last batch of an epoch is left out, for batch norm's sake (other
    samples fall to it each time). `loss`: `mse`, half the squared distance from one-hot targets, or `ce`.
    """

    epochs: int = 60
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    batch: int = 128
    loss: LossName = "mse"

    def __post_init__(self) -> None:
        require(self.epochs >= 3, f"epochs must be at least 3, but {self.epochs} came")
        require(
            self.rate > 0 and self.decay >= 0, f"rate must be above 0 and decay at least 0, but {self} came"
        )
        require(
            self.batch >= 2, f"batch must be at least 2: batch norm needs two samples, but {self.batch} came"
        )


def mlp(sizes: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Linear, batch norm and ReLU for each of `sizes[1:]`, then a linear head without bias.

    >>> net = mlp((4, 8), 3, torch.Generator().manual_seed(0))
    >>> [type(layer).__name__ for layer in net]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    with seeded(generator):
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear(sizes[-1], classes, bias=False))
    return nn.Sequential(*layers)


def train(
    model: nn.Module,
    head: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    features_times: float = 1.0,
    head_times: float = 1.0,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train in place, with the decay of the head and of all below it multiplied apart.

    **Arguments:** `head`: the part of `model` that is the last layer. `x`, `y`: all inputs and labels.
    `generator`: shuffles. `features_times`, `head_times`: multiply the recipe's decay. `after_epoch`: told
    how many epochs are done.
    """
    last = {id(parameter) for parameter in head.parameters()}
    below = [parameter for parameter in model.parameters() if id(parameter) not in last]
    groups = [
        {"params": below, "weight_decay": recipe.decay * features_times},
        {"params": list(head.parameters()), "weight_decay": recipe.decay * head_times},
    ]
    optimiser = torch.optim.SGD(
        [g for g in groups if g["params"]], lr=recipe.rate, momentum=recipe.momentum, fused=True
    )
    # A last batch of a few samples (8 of 5,000 digits) would weigh as much as 128 in batch norm's running
    # statistics, and so in all that is measured in evaluation mode.
    size = min(recipe.batch, len(x))
    steps = len(x) // size
    thirds = [steps * (recipe.epochs // 3), steps * (2 * recipe.epochs // 3)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, thirds, 0.1)
    classes = int(y.max()) + 1
    targets = functional.one_hot(y, classes).to(x.dtype)

    def loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        if recipe.loss == "ce":
            return functional.cross_entropy(net(batch[0]), batch[1])
        return (net(batch[0]) - batch[1]).square().sum(1).mean() / 2

    def told(trainer: Trainer) -> None:
        if after_epoch is not None and trainer.step % steps == 0:
            after_epoch(trainer.step // steps)

    model.train()
    batches = minibatches(x, targets, size=size, epochs=recipe.epochs, generator=generator, drop_last=True)
    Trainer(model, optimiser, loss, schedule=schedule).run(batches, told)
    model.eval()


def standardise(x: Tensor) -> Tensor:
    """Images as the networks here want them: mean 0 and deviation 1 a channel.

    >>> standardise(torch.tensor([[[[0.0, 1.0]]]])).flatten().tolist()
    [-1.0, 1.0]
    """
    axes = [0, *range(2, x.ndim)]
    deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / deviation.clamp_min(1e-8)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """PyTorch's initialisers draw from the global generator: seed it from ours, and give it back after."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
