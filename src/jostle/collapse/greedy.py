"""Layer-wise training: each new layer is trained with a fresh head on the frozen features below it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.collapse.metrics import metrics
from jostle.collapse.networks import Recipe, mlp, standardise, train
from jostle.collapse.report import NCReport
from jostle.core.errors import require
from jostle.files import write_json
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
GREEDY = Recipe(epochs=30)


@dataclass(frozen=True, eq=False)
class Grown:
    """A network that was trained one layer at a time.

    `blocks`: the layers, without a head. `head`: of the last one. `reports`: collapse of the input, then of
    the features of each layer, on the training set.
    """

    blocks: nn.Sequential
    head: nn.Linear
    reports: list[NCReport]

    def curve(self, name: str) -> list[float]:
        """One metric from the input upwards, such as `nc1_trace`."""
        return [getattr(report, name) for report in self.reports]

    def numbers(self) -> dict[str, Any]:
        """The metrics a layer."""
        return {f"layer {i}" if i else "input": report.numbers() for i, report in enumerate(self.reports)}

    def save(self, path: Path) -> None:
        """Write the metrics as JSON, whole or not at all."""
        write_json(path, [report.record() for report in self.reports])


def grow(
    features: Float[Tensor, "N d"],
    labels: Int[Tensor, " N"],
    *,
    width: int = 256,
    recipe: Recipe = GREEDY,
    generator: torch.Generator,
) -> tuple[nn.Sequential, nn.Linear, Float[Tensor, "N width"], NCReport]:
    """Train one more layer on features that stay as they are.

    Linear, batch norm, ReLU and a fresh head without bias, trained together.

    **Arguments:** `features`, `labels`: the training set as the layers below see it. `width`: of the new
    layer. `recipe`: how it is trained. `generator`: draws the weights and the batches.
    **Returns:** the layer, its head, its features in evaluation mode, and their collapse.

    >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    >>> draw = torch.Generator().manual_seed(0)
    >>> block, head, h, report = grow(x, y, width=8, recipe=Recipe(3), generator=draw)
    >>> tuple(h.shape), report.K
    ((40, 8), 3)
    """
    require(width >= 1, f"width must be at least 1, but {width} came")
    model = mlp((features.shape[1], width), int(labels.max()) + 1, generator).to(features.device)
    head = model[-1]
    assert isinstance(head, nn.Linear)
    train(model, head, features, labels, recipe, generator)
    block = model[:-1].eval()
    with torch.no_grad():
        above = block(features)
    return block, head, above, metrics(above, labels, head.weight)


def greedy(
    data: Images | tuple[Tensor, Tensor],
    *,
    depth: int = 6,
    width: int = 256,
    recipe: Recipe = GREEDY,
    generator: torch.Generator,
    callback: Progress | None = None,
) -> Grown:
    """A network trained layer by layer, and how collapse grows with depth.

    The experiment of Tirer, Huang & Niles-Weed (2023), section 3: as each layer's features stay near those of
    the layer below, its optimum has a smaller `nc1_trace`, so stacking layers collapses step by step.

    **Arguments:** `data`: labelled images; each is flattened, each channel brought to mean 0 and deviation 1.
    `depth`: layers, at least 1. `width`: units of each layer, at least 1. `recipe`: how each layer is
    trained. `generator`: draws everything. `callback`: `(done, depth, figure)` after each layer.
    **Returns:** [`Grown`][jostle.collapse.Grown].

    >>> images = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> labels = torch.arange(40) % 3
    >>> draw = torch.Generator().manual_seed(0)
    >>> found = greedy((images, labels), depth=2, width=8, recipe=Recipe(3), generator=draw)
    >>> len(found.curve("nc1_trace"))
    3
    """
    require(depth >= 1, f"depth must be at least 1, but {depth} came")
    images, labels = data.tensors() if isinstance(data, Images) else data
    features = standardise(images.float()).flatten(1)
    reports = [metrics(features, labels)]
    blocks: list[nn.Module] = []
    head = nn.Linear(1, 1)
    for layer in range(depth):
        block, head, features, report = grow(
            features, labels, width=width, recipe=recipe, generator=generator
        )
        blocks.append(block)
        reports.append(report)
        if callback is not None:
            callback(layer + 1, depth, f"NC1 {report.nc1_trace:.3f}")
    return Grown(nn.Sequential(*blocks), head, reports)
