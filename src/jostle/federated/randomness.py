"""Random numbers that depend on the seed and on what they are for, never on who ran first."""

import numpy as np
import torch

# What a stream is for: numbers that never change, or runs would.
ORDER, SAMPLING, DROPOUT, AUGMENT, LOSS = range(5)


def stream(purpose: int, seed: int, *place: int) -> np.random.Generator:
    """A generator for one purpose at one place, such as round, client and epoch.

    >>> float(stream(ORDER, 0, 3, 1).random()) == float(stream(ORDER, 0, 3, 1).random())
    True
    """
    return np.random.default_rng([purpose, seed, *place])


def torch_stream(purpose: int, seed: int, *place: int) -> torch.Generator:
    """The same as a generator of torch, on the CPU."""
    return torch.Generator().manual_seed(int(stream(purpose, seed, *place).integers(2**62)))
