"""How a training starts: seeded streams, replicas, optimisers."""

import zlib
from collections.abc import Callable

import torch
from torch import nn

from jostle.timescales.networks import MemoryNetwork

Optimiser = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of the released code: learning rate 0.05, momentum 0.1, Nesterov.

    >>> sgd([nn.Parameter(torch.zeros(1))]).defaults["momentum"]
    0.1
    """
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.1, nesterov=True, fused=True)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of the released code for LSTM networks: Adam, learning rate 0.001.

    >>> adam([nn.Parameter(torch.zeros(1))]).defaults["lr"]
    0.001
    """
    return torch.optim.Adam(parameters, lr=1e-3)


def seeded(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on `seed` and `name` only.

    >>> torch.equal(torch.rand(2, generator=seeded(0, "a")), torch.rand(2, generator=seeded(0, "a")))
    True
    """
    return torch.Generator(device).manual_seed(zlib.crc32(f"{seed}/{name}".encode()))


def replicas(
    make: Callable[[torch.Generator], MemoryNetwork], count: int, seed: int = 0
) -> list[MemoryNetwork]:
    """Networks that differ in their initial values only.

    >>> from jostle.timescales import LeakyRNN
    >>> len(replicas(lambda generator: LeakyRNN(5, generator=generator), 3))
    3
    """
    return [make(seeded(seed, f"network/{i}")) for i in range(count)]
