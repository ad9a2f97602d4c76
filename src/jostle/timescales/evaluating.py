"""Accuracy in time: the head of each N is read at every step of a long stream, many networks at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.timescales.leaky import LeakyRNN, fold
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.scan import trace
from jostle.timescales.tasks import MemoryTask

_WEIGHTS = 16_000_000  # numbers in the stacked matrices that are run at a time
_STATES = 4_000_000  # numbers of activity held at a time


def stream_accuracy(
    networks: Sequence[MemoryNetwork],
    task: MemoryTask,
    heads: Mapping[int, int],
    *,
    generator: torch.Generator,
    steps: int = 1000,
    warmup: int | None = None,
    streams: int = 1,
    same_input: bool = True,
    silent: Sequence[int] | None = None,
) -> Float[np.ndarray, "networks streams tasks"]:
    """Share of right answers on streams of fair bits (`p = 1/2`, whatever the task's law in training).

    A network whose activity diverges gives no answers from there on, and is credited with chance, 1/2.

    **Arguments:** `networks`. `task`. `heads`: which head answers each N. `generator`: source of bits and
    initial states. `steps`: scored, after `warmup`
    steps (default 100, or the largest N where that is more). `streams`: for each network. `same_input`: whether
    all networks hear the same bits from the same state, so that they differ in nothing else. `silent`: for
    one leaky network, neurons to miss, one at a time: as many copies of one stream, each without one of them.
    **Returns:** accuracies.
    **Raises:** `JostleError` if `warmup` is shorter than the largest N.

    >>> from jostle.timescales import LeakyRNN, NParity
    >>> net = LeakyRNN(6, generator=torch.Generator().manual_seed(0))
    >>> stream_accuracy([net], NParity(), {3: 0}, generator=torch.Generator().manual_seed(1)).shape
    (1, 1, 1)
    """
    warmup = max(100, *heads) if warmup is None else warmup
    require(warmup >= max(heads), f"warmup must be at least N = {max(heads)}, but {warmup} came")
    require(
        silent is None or (len(networks) == 1 and streams == 1), "silent needs one network and one stream"
    )
    sets = 1 if same_input else len(networks)
    bits = task.bits(sets * streams, warmup + steps, generator, p=0.5).unflatten(0, (sets, streams))
    first = networks[0]
    with torch.no_grad():
        starts = [first.initial_state(streams, generator) for _ in range(sets)]
        if silent is not None:
            bits, starts = bits.expand(1, len(silent), -1), [starts[0].expand(len(silent), -1)]
        scores = []
        for part in _parts(networks):
            offset = len(scores)
            chosen = [0] * len(part) if same_input else range(offset, offset + len(part))
            if isinstance(first, LeakyRNN):
                scores += _leaky(
                    part, task, heads, bits[list(chosen)], [starts[i] for i in chosen], warmup, silent
                )
            else:
                scores += [
                    _any(net, task, heads, bits[i], starts[i], warmup)
                    for net, i in zip(part, chosen, strict=True)
                ]
    return np.stack(scores)


def accuracy_matrix(
    networks: Sequence[tuple[MemoryNetwork, Mapping[int, int]]],
    task: MemoryTask,
    Ns: Sequence[int],
    *,
    generator: torch.Generator,
    steps: int = 1000,
) -> Float[np.ndarray, "networks tasks"]:
    """Accuracy of each network on each N with the head that it has for it; NaN where it has none.

    **Arguments:** `networks`: pairs of a network and the head of each N that it can answer. `Ns`: the
    columns.
    """
    out = np.full((len(networks), len(Ns)), np.nan)
    for row, (network, heads) in enumerate(networks):
        asked = {N: heads[N] for N in Ns if N in heads}
        if asked:
            found = stream_accuracy([network], task, asked, generator=generator, steps=steps)[0, 0]
            for N, value in zip(asked, found, strict=True):
                out[row, list(Ns).index(N)] = value
    return out


def _parts(networks: Sequence[MemoryNetwork]) -> list[Sequence[MemoryNetwork]]:
    size = max(1, _WEIGHTS // networks[0].hidden ** 2)
    return [networks[i : i + size] for i in range(0, len(networks), size)]


def _leaky(
    networks: Sequence[MemoryNetwork],
    task: MemoryTask,
    heads: Mapping[int, int],
    bits: Tensor,
    starts: Sequence[Any],
    warmup: int,
    silent: Sequence[int] | None,
) -> list[np.ndarray]:
    nets = [net for net in networks if isinstance(net, LeakyRNN)]
    first = nets[0]
    k = first.substeps[0]
    folded = fold(nets, k)
    state = torch.stack([start * net.alive for net, start in zip(nets, starts, strict=True)])
    mask = None
    if silent is not None:
        mask = torch.ones(1, bits.shape[1], first.hidden, dtype=state.dtype, device=state.device)
        mask[0, range(len(silent)), list(silent)] = 0
    chosen = list(heads.values())
    weight = torch.stack([net.head_weight[chosen].flatten(0, 1) for net in nets])
    bias = torch.stack([net.head_bias[chosen].flatten() for net in nets])
    x = task.encode(bits).to(state.dtype)
    answers = []
    block = max(20, _STATES // state.numel())
    for piece in x.split(block, -1):
        states = trace(folded, state, piece.repeat_interleave(k, -1), first.nonlinearity, first.slope, mask)[
            k - 1 :: k
        ]
        state = states[-1]
        logits = torch.einsum("trbh,rch->rbtc", states, weight) + bias[:, None, None]
        answers.append(logits.unflatten(-1, (-1, 2)))
    return [_score(row, task, heads, b, warmup) for row, b in zip(torch.cat(answers, 2), bits, strict=True)]


def _any(
    network: MemoryNetwork, task: MemoryTask, heads: Mapping[int, int], bits: Tensor, start: Any, warmup: int
) -> np.ndarray:
    states, _ = network.states(task.encode(bits), start)
    return _score(network.readout(states, list(heads.values())).transpose(0, 1), task, heads, bits, warmup)


def _score(
    logits: Tensor, task: MemoryTask, heads: Mapping[int, int], bits: Tensor, warmup: int
) -> np.ndarray:
    """Scores `(streams, tasks)` of logits `(streams, time, tasks, classes)`."""
    scores = []
    for index, N in enumerate(heads):
        truth = task.labels_in_time(bits, N)[:, warmup - N + 1 :]
        asked = logits[:, warmup:, index]
        right = (asked.argmax(-1) == truth).double()
        scores.append(torch.where(torch.isfinite(asked).all(-1), right, 0.5).mean(-1))
    return torch.stack(scores, -1).cpu().numpy()
