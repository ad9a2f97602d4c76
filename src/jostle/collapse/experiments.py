"""The study's trainings, each a task that a worker can do alone: from plain settings to plain results."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jostle.collapse.decay import train_variant
from jostle.collapse.greedy import grow
from jostle.collapse.layers import collect
from jostle.collapse.metrics import metrics
from jostle.collapse.networks import Recipe, mlp, seeded, standardise
from jostle.core.errors import JostleError, require
from jostle.zoo import load_data


@dataclass(frozen=True)
class Task:
    """One training, `greedy` or `decay`; `bank`: features a class to hand back; the rest as in the study."""

    kind: str
    seed: int
    data: str
    count: int
    device: str
    width: int
    depth: int
    network: str
    variant: str
    loss: str
    epochs: int
    every: int
    bank: int


def train_task(task: Task) -> dict[str, Any]:
    """Train and measure: `rows` over layers or epochs; for `decay` also `layers`, `accuracy`, `bank`."""
    x, y = _data(task)
    draw = torch.Generator().manual_seed(task.seed)
    recipe = Recipe(epochs=task.epochs, loss="ce" if task.loss == "ce" else "mse")
    if task.kind == "greedy":
        features = x.flatten(1)
        rows = [{"layer": 0, **metrics(features, y).numbers()}]
        for layer in range(1, task.depth + 1):
            _, _, features, report = grow(features, y, width=task.width, recipe=recipe, generator=draw)
            rows.append({"layer": layer, **report.numbers()})
        return {"rows": rows}
    model, head = network(task.network, x, int(y.max()) + 1, task, draw)
    x = x.flatten(1) if task.network == "mlp" else x
    found, monitor = train_variant(model, head, x, y, task.variant, recipe, draw, every=task.every)
    result = {
        "rows": monitor.record() if monitor else [],
        "layers": {name: report.record() for name, report in found.layers.items()},
        "accuracy": found.accuracy,
    }
    if task.bank:
        features, labels = collect(model, (x, y))
        chosen = [features[labels == k][: task.bank] for k in range(int(labels.max()) + 1)]
        short = min(len(part) for part in chosen)
        require(
            short == task.bank,
            f"bank must be at most {short}, the size of the rarest class, but {task.bank} came",
        )
        result["bank"] = torch.cat(chosen).cpu()
    return result


def network(name: str, x: Tensor, classes: int, task: Task, draw: torch.Generator) -> tuple[nn.Module, str]:
    """The network of the decay study, freshly drawn, and the name of its head.

    `mlp`: three hidden layers. `resnet18`: torchvision's, with the stem for small images (a 3x3 convolution,
    no pooling). The head has no bias with squared error, and one with cross-entropy, as in the paper.
    """
    if name == "mlp":
        made = mlp((x[0].numel(), *[task.width] * 3), classes, draw)
        require(
            task.loss == "mse", "network mlp has a head without bias, for the mse loss: ce needs resnet18"
        )
        return made.to(x.device), str(len(made) - 1)
    if name != "resnet18":
        raise JostleError(f"network must be mlp or resnet18, but {name!r} came")
    from torchvision.models import resnet18

    with seeded(draw):
        net = resnet18(num_classes=classes)
        net.conv1 = nn.Conv2d(x.shape[1], 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()  # pyright: ignore
        net.fc = nn.Linear(512, classes, bias=task.loss == "ce")
    return net.to(x.device), "fc"


def _data(task: Task) -> tuple[Tensor, Tensor]:
    data = load_data(task.data)
    if task.count:
        # Every so many: files come ordered by class.
        data = data.subset([i * len(data) // task.count for i in range(task.count)])
    x, y = data.tensors()
    return standardise(x.to(task.device)), y.to(task.device)
