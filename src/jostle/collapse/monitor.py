"""Collapse during training: a callback of two lines in anybody's loop."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jostle.collapse.layers import Measured, measure
from jostle.core.errors import require
from jostle.core.layers import Where
from jostle.files import write_json
from jostle.zoo import Images


class Monitor:
    """Measure collapse every so many calls, and keep what was found.

    Call it once an epoch (or a step): as the `callback` of [`Trainer`][jostle.core.training.Trainer], or by
    hand. The training does not notice: the model's mode, its statistics and the random numbers are as they
    were.

    **Arguments:** `model`: a classifier. `data`: what to measure on, see
    [`measure`][jostle.collapse.measure]. `every`: calls between measurements, at least 1. `layers`: by
    default only the head's input. `options`: more arguments of `measure`.

    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> images = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> monitor = Monitor(net, (images, torch.arange(12) % 3), every=2)
    >>> for epoch in range(4):
    ...     monitor()
    >>> monitor.times, len(monitor.curve("nc1"))
    ([2, 4], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        data: Images | tuple[Tensor, Tensor] | Iterable[Any],
        *,
        every: int = 1,
        layers: tuple[str, ...] | Where | None = (),
        **options: Any,
    ) -> None:
        require(every >= 1, f"every must be at least 1, but {every} came")
        self.model, self.data, self.every, self.layers, self.options = model, data, every, layers, options
        self.calls = 0
        self.times: list[int] = []
        self.history: list[Measured] = []

    def __call__(self, *_: Any) -> None:
        """Count, and measure when it is time; what a training loop hands over is not looked at."""
        self.calls += 1
        if self.calls % self.every == 0:
            self.times.append(self.calls)
            self.history.append(measure(self.model, self.data, self.layers, **self.options))

    def curve(self, name: str) -> list[float]:
        """One metric of the last layer over time, such as `nc1_trace`."""
        return [getattr(found.last, name) for found in self.history]

    def record(self) -> list[dict[str, Any]]:
        """A JSON object a measurement."""
        pairs = zip(self.times, self.history, strict=True)
        return [{"call": call, **found.numbers()} for call, found in pairs]

    def save(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.record())
