"""Generalisation beyond the trained N: a network that knows N learns one later N', for a fixed number of
steps."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from jostle.core.errors import require
from jostle.timescales.curricula import Direct
from jostle.timescales.evaluating import stream_accuracy
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.records import CurriculumRun
from jostle.timescales.starting import Optimiser, seeded, sgd
from jostle.timescales.tasks import MemoryTask
from jostle.timescales.training import train_curriculum


def retrain_generalisation(
    network: MemoryNetwork,
    task: MemoryTask,
    targets: Sequence[int],
    *,
    head: int = 0,
    epochs: int = 20,
    steps: int = 600,
    batch: int = 256,
    optimiser: Optimiser = sgd,
    draws: int = 10,
    seed: int = 0,
    resume: Mapping[str, Any] | None = None,
    callback: Callable[[CurriculumRun], None] | None = None,
) -> Float[np.ndarray, "targets draws"]:
    """Accuracy on each later N after a copy of the network was trained on it alone.

    The copies train side by side, with one head that starts as a copy of `head` (for a multi-head network its
    newest; the paper does not say which).

    **Arguments:** `network`: is left as it is. `task`. `targets`: the Ns to learn. `head`: where the readout
    starts. `epochs` of `steps` optimiser steps each, whatever the accuracy. `batch`, `optimiser`, `seed`,
    `resume`, `callback`: as in [`train_curriculum`][jostle.timescales.training.train_curriculum]. `draws`:
    streams to score.
    **Returns:** one row a target: accuracies on streams of fair bits.

    >>> from jostle.timescales import LeakyRNN, NParity
    >>> net = LeakyRNN(8, heads=2, generator=torch.Generator().manual_seed(0))
    >>> retrain_generalisation(net, NParity(), [3, 4], head=1, epochs=1, steps=2, batch=4, draws=2).shape
    (2, 2)
    """
    require(epochs >= 1, f"epochs must be at least 1, but {epochs} came")
    require(0 <= head < network.heads, f"head must lie in 0 ... {network.heads - 1}, but {head} came")
    copies = []
    for _ in targets:
        one = copy.deepcopy(network)
        with torch.no_grad():
            one.head_weight[0] = network.head_weight[head]
            one.head_bias[0] = network.head_bias[head]
        copies.append(one)
    # A gate of 1 is never passed: accuracy cannot be above it. So each copy trains for all of its epochs.
    train_curriculum(
        copies,
        task,
        [Direct(N) for N in targets],
        optimiser=optimiser,
        batch=batch,
        steps=steps,
        test_batches=1,
        gate=1.0,
        max_steps=epochs * steps,
        seed=seed,
        resume=resume,
        callback=callback,
    )
    rows = []
    for one, N in zip(copies, targets, strict=True):
        generator = seeded(seed, f"score/{N}", network.head_weight.device)
        rows.append(stream_accuracy([one], task, {N: 0}, generator=generator, streams=draws)[0, :, 0])
    return np.stack(rows)
