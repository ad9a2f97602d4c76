"""Which knob matters: weight decay of the features against weight decay of the last layer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jostle.collapse.layers import Measured, measure
from jostle.collapse.monitor import Monitor
from jostle.collapse.networks import Recipe, mlp, standardise, train
from jostle.core.errors import require
from jostle.files import write_json
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
SIXTY = Recipe()
VARIANTS: dict[str, tuple[float, float]] = {
    "baseline": (1.0, 1.0),
    "last x2": (1.0, 2.0),
    "features x2": (2.0, 1.0),
    "last x0": (1.0, 0.0),
    "features x0": (0.0, 1.0),
}
"""By what the decay of the features and of the last layer is multiplied."""


@dataclass(frozen=True, eq=False)
class DecayStudy:
    """Collapse of the same network under each variant of the decay: `variants` by name."""

    variants: dict[str, Measured]

    def shift(self, name: str, metric: str = "nc1_trace") -> float:
        """How far a variant moves a metric of the last features from the baseline."""
        return getattr(self.variants[name].last, metric) - getattr(self.variants["baseline"].last, metric)

    def effect(self, part: str, metric: str = "nc1_trace") -> float:
        """Of the decay of `features` or `last`: half of what lies between doubling it and removing it."""
        return (self.shift(f"{part} x0", metric) - self.shift(f"{part} x2", metric)) / 2

    def ratio(self, metric: str = "nc1_trace") -> float:
        """The effect of the features' decay over that of the last layer's.

        The order of the batches alone moves a shift by as much as the last layer's decay does: average the
        effects of several seeds before you believe a ratio.
        """
        return self.effect("features", metric) / abs(self.effect("last", metric))

    def numbers(self) -> dict[str, Any]:
        """The metrics of the last features a variant, and the ratio."""
        rows = {
            k: {"accuracy": v.accuracy, **list(v.numbers().values())[-1]} for k, v in self.variants.items()
        }
        return {"ratio": self.ratio(), **rows}

    def save(self, path: Path) -> None:
        """Write everything as JSON, whole or not at all."""
        write_json(path, {name: found.record() for name, found in self.variants.items()})


def train_variant(
    model: nn.Module,
    head: str,
    x: Tensor,
    y: Tensor,
    variant: str,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    every: int = 0,
) -> tuple[Measured, Monitor | None]:
    """Train a network under one variant of the decay, in place, and measure it.

    **Arguments:** `model`: freshly initialised. `head`: the name of its last layer. `x`, `y`: the training
    set. `variant`: of `VARIANTS`. `generator`: shuffles. `every`: epochs between measurements on the way; 0
    for none.
    **Returns:** collapse at each layer after training, and the monitor.
    """
    require(variant in VARIANTS, f"variant must be one of {', '.join(VARIANTS)}, but {variant!r} came")
    features_times, head_times = VARIANTS[variant]
    monitor = Monitor(model, (x, y), every=every, head=head) if every else None
    train(
        model,
        model.get_submodule(head),
        x,
        y,
        recipe,
        generator,
        features_times=features_times,
        head_times=head_times,
        after_epoch=monitor,
    )
    return measure(model, (x, y), head=head), monitor


def decay(
    data: Images | tuple[Tensor, Tensor],
    *,
    widths: tuple[int, ...] = (256, 256, 256),
    recipe: Recipe = SIXTY,
    seed: int = 0,
    callback: Progress | None = None,
) -> DecayStudy:
    """The same network with its weight decay doubled or removed, in the features or in the last layer.

    The experiment of Tirer, Huang & Niles-Weed (2023), section 5, on a multilayer perceptron: their theory
    says that decay of the features drives collapse, and decay of the classifier does not.

    **Arguments:** `data`: labelled images; each is flattened, each channel brought to mean 0 and deviation 1.
    `widths`: units of each hidden layer, one layer at least. `recipe`: how it is trained. `seed`: of weights
    and batches, the same for each variant. `callback`: `(done, variants, figure)` after each.
    **Returns:** [`DecayStudy`][jostle.collapse.DecayStudy].

    >>> images = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> found = decay((images, torch.arange(40) % 3), widths=(8,), recipe=Recipe(3))
    >>> sorted(found.variants)
    ['baseline', 'features x0', 'features x2', 'last x0', 'last x2']
    """
    require(len(widths) >= 1, "widths must name at least one hidden layer")
    images, labels = data.tensors() if isinstance(data, Images) else data
    x = standardise(images.float()).flatten(1)
    found = {}
    for i, variant in enumerate(VARIANTS):
        generator = torch.Generator().manual_seed(seed)
        model = mlp((x.shape[1], *widths), int(labels.max()) + 1, generator)
        found[variant], _ = train_variant(model, str(len(model) - 1), x, labels, variant, recipe, generator)
        if callback is not None:
            callback(i + 1, len(VARIANTS), f"{variant}: NC1 {found[variant].last.nc1_trace:.3f}")
    return DecayStudy(found)
