"""One training of the study: data dealt to clients, an algorithm, a seed; importable by a worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jostle.federated.engines import Engine as Simulation
from jostle.federated.family import by_name
from jostle.federated.federation import Federation
from jostle.federated.flatness import loss_along, sharpness
from jostle.federated.networks import Network, network
from jostle.federated.partition import Scheme, partition
from jostle.federated.sampling import Sampling
from jostle.zoo import load_data


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know.

    `data`: labelled images by name or path; `test_data`: the same for testing, or empty: a fifth of `data`.
    `settings`: of the algorithm. `curvature`: training samples over which the end is judged for flatness, 0 for none.
    `checkpoint`: where the training keeps its state, and takes it up.
    """

    algorithm: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = "mnist5k"
    test_data: str = ""
    count: int = 0
    size: int = 0
    network: Network = "mlp"
    clients: int = 50
    scheme: Scheme = "dirichlet"
    concentration: float = 0.1
    fraction: float = 0.1
    sampling: Sampling = "bernoulli"
    rounds: int = 60
    epochs: int = 5
    batch: int = 20
    lr: float = 0.1
    lr_decay: float = 0.998
    weight_decay: float = 1e-3
    simulation: Simulation = "batched"
    device: str = "cpu"
    augment: bool = False
    evaluate_every: int = 1
    curvature: int = 0
    checkpoint: str = ""


@dataclass(frozen=True, eq=False)
class Dealt:
    """Data in the hands of clients, and what is kept for testing."""

    clients: list[tuple[Tensor, Tensor]]
    test: tuple[Tensor, Tensor]
    shape: tuple[int, int, int]
    classes: int

    @property
    def table(self) -> list[list[int]]:
        """Samples by client and class."""
        return [torch.bincount(y, minlength=self.classes).tolist() for _, y in self.clients]


@lru_cache(maxsize=2)
def deal(
    data: str,
    test_data: str,
    count: int,
    size: int,
    clients: int,
    scheme: Scheme,
    concentration: float,
    device: str,
) -> Dealt:
    """Shuffle, keep a fifth for testing (or take `test_data`), and deal the rest: the same for every seed of a run."""
    images = load_data(data, size=size or None)
    # The legacy generator: the small reproduction of the study is defined with it.
    order = np.random.RandomState(0).permutation(len(images))
    order = order[:count] if count else order
    if test_data:
        kept, held = load_data(test_data, size=size or None).tensors(), order.tolist()
    else:
        cut = len(order) - len(order) // 5
        held, rest = order[:cut].tolist(), order[cut:].tolist()
        kept = images.subset(rest).tensors()
    x, y = images.subset(held).tensors()
    parts = partition(y, clients, scheme=scheme, concentration=concentration, seed=1)
    x, y = x.to(device), y.to(device)
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    return Dealt([(x[p.to(device)], y[p.to(device)]) for p in parts], kept, shape, len(images.classes))


def dealt(task: Task) -> Dealt:
    """The data of a task."""
    return deal(
        task.data,
        task.test_data,
        task.count,
        task.size,
        task.clients,
        task.scheme,
        task.concentration,
        task.device,
    )


def flip_and_crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """The official program's augmentation: a mirror with chance 1/2, and with chance 1/2 a shift of up to 4 pixels."""
    n, _, height, width = x.shape
    mirror = torch.rand(n, generator=generator) < 0.5
    shift = torch.rand(n, generator=generator) < 0.5
    down, right = (torch.randint(9, (n,), generator=generator) for _ in range(2))
    down, right = torch.where(shift, down, 4), torch.where(shift, right, 4)
    out = torch.where(mirror.to(x.device)[:, None, None, None], x.flip(3), x)
    out = nn.functional.pad(out, (4, 4, 4, 4))
    rows = (down[:, None] + torch.arange(height)).to(x.device)
    columns = (right[:, None] + torch.arange(width)).to(x.device)
    at = torch.arange(n, device=x.device)[:, None, None]
    return out.movedim(1, 3)[at, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def train_task(task: Task) -> dict[str, Any]:
    """Run a task; returns the rows of its history, and how flat the place is where it ended."""
    held = dealt(task)
    net = network(task.network, held.shape, held.classes, seed=task.seed).to(task.device)
    fed = Federation(
        net,
        nn.functional.cross_entropy,
        held.clients,
        test=held.test,
        seed=task.seed,
        fraction=task.fraction,
        sampling=task.sampling,
        engine=task.simulation,
        evaluate_every=task.evaluate_every,
        augment=flip_and_crop if task.augment else None,
    )
    kept = Path(task.checkpoint) if task.checkpoint else None
    found = fed.run(
        by_name(task.algorithm, **task.settings),
        rounds=task.rounds,
        lr=task.lr,
        lr_decay=task.lr_decay,
        local_epochs=task.epochs,
        batch_size=task.batch,
        weight_decay=task.weight_decay,
        checkpoint=kept,
        resume=kept if kept is not None and kept.exists() else None,
    )
    rows = [
        {k: v for k, v in row.items() if k not in ("refused", "missing", "seconds")} for row in found.history
    ]
    return {"rows": rows, **(flatness(found.model, held, task.curvature) if task.curvature else {})}


RADII = tuple(i / 10 for i in range(-10, 11))
"""How far from the end the loss is looked at."""


def flatness(model: nn.Module, held: Dealt, count: int) -> dict[str, Any]:
    """The largest Hessian eigenvalue of the training loss, and the loss along its direction, uphill to the right.

    **Arguments:** `count`: of the clients' samples, taken evenly.
    """
    x, y = (torch.cat(part) for part in zip(*held.clients, strict=True))
    chosen = torch.linspace(0, len(x) - 1, min(count, len(x)), dtype=torch.float64).long().to(x.device)
    loss = nn.functional.cross_entropy
    found = sharpness(model, loss, x[chosen], y[chosen])
    along = loss_along(model, loss, x[chosen], y[chosen], found.direction, RADII)
    # An eigenvector has no sign of its own.
    return {"sharpness": found.value, "along": along if along[-1] >= along[0] else along[::-1]}
