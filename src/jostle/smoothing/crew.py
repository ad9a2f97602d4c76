"""Who runs the batches: the device's queue, or one thread a core, each with a copy of the network."""

import copy
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# Beyond so many a thread gets several cores: each needs memory for a batch of its own.
_MOST = 8

# Just below the 32 MiB up to which glibc learns from what is freed.
_FREED = 31 * 2**20


@dataclass(eq=False)
class Hand:
    """What a worker works with: a model, a generator, and rows that stay in its core's cache."""

    model: nn.Module
    generator: torch.Generator
    rows: Tensor | None = None


class Crew:
    """Runs functions of a hand, several at once where that pays.

    On a CPU whole batches run side by side, one thread a core. A network's own parallel loops share out each layer
    instead and wait for the slowest core at each of them, and noise is made by one core whatever they do. Each
    thread has a copy of the modules, which shares their parameters and buffers, for modules may keep things on
    themselves; a model that cannot be copied, and one that runs under the caller's autocast, which other threads
    would not see, runs alone.

    **Arguments:** `model`: in evaluation mode. `device`: the model's. `noise_on`: the generators'.
    """

    def __init__(self, model: nn.Module, device: torch.device, noise_on: torch.device) -> None:
        self.threads = torch.get_num_threads()
        self.noise_on = noise_on
        alone = device.type != "cpu" or torch.is_autocast_enabled("cpu")
        self.models = [model] if alone else _copies(model, min(self.threads, _MOST))
        number = len(self.models)
        if device.type == "cpu":
            # glibc gives memory back batch after batch, and fetches it again page by page, until once a block this
            # large was freed: a fifth of the time of a small network. The block itself is never touched.
            torch.empty(_FREED, dtype=torch.uint8)
        self.spare: queue.SimpleQueue[Hand] = queue.SimpleQueue()
        for one in self.models:
            self.spare.put(Hand(one, torch.Generator(noise_on)))
        self.pool: ThreadPoolExecutor | None = None
        if number > 1:
            self.pool = ThreadPoolExecutor(
                number, initializer=torch.set_num_threads, initargs=(self.threads // number,)
            )
        self.ahead = number + 1 if self.pool is not None else 1 if device.type == "cpu" else 2
        """How many runs are worth having begun before the first is asked for."""

    def start(self, work: Callable[..., T], *arguments: Any) -> Callable[[], T]:
        """Begin `work(hand, *arguments)`; what is returned waits for its result."""
        if self.pool is not None:
            return self.pool.submit(self._run, work, *arguments).result
        result = self._run(work, *arguments)
        return lambda: result

    def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        hand = self.spare.get()
        try:
            with torch.inference_mode():
                return work(hand, *arguments)
        finally:
            self.spare.put(hand)

    def close(self) -> None:
        """Wait for what runs, and drop what does not."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            # The number of threads is kept for the process too, where the last one to set it wins.
            torch.set_num_threads(self.threads)


def _copies(model: nn.Module, number: int) -> list[nn.Module]:
    """The model and copies of it that share its tensors; the model alone if it cannot be copied."""
    try:
        tensors = {id(t): t for t in chain(model.parameters(), model.buffers())}
        return [model, *(copy.deepcopy(model, dict(tensors)) for _ in range(number - 1))]
    except Exception:  # whatever a module of the user's holds: locks, sessions, handles
        return [model]
