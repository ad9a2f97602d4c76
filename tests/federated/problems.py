"""Small classification problems with clients of equal and of ragged sizes."""

import torch
from torch import nn

from jostle.federated import (
    FedAdam,
    FedADMM,
    FedAvg,
    FedCM,
    FedDyn,
    Federation,
    FedGamma,
    FedProx,
    FedSAM,
    FedSMOO,
    FedSpeed,
    MoFedSAM,
    Scaffold,
)

FAMILY = [
    FedAvg(),
    FedProx(prox_mu=0.3),
    FedSAM(),
    Scaffold(),
    FedDyn(),
    FedSpeed(),
    FedSpeed(alpha=0.5, ascent="raw"),
    FedCM(),
    MoFedSAM(),
    FedGamma(),
    FedAdam(),
    FedSMOO(),
    FedADMM(),
]
NAMES = [f"{algorithm.name}{getattr(algorithm, 'alpha', '')}" for algorithm in FAMILY]

EQUAL = (12,) * 6
RAGGED = (5, 12, 9, 1, 12, 7)


def net(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Two layers for points in five dimensions and three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def clients(sizes=EQUAL, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Points whose classes a hidden linear map decides, differently mixed at each client."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(5, 3, generator=g, dtype=torch.float64)
    held = []
    for n in sizes:
        x = torch.randn(n, 5, generator=g, dtype=torch.float64) + torch.randn(
            5, generator=g, dtype=torch.float64
        )
        held.append((x.to(dtype), (x @ hidden).argmax(1)))
    return held


def federation(sizes=EQUAL, dtype: torch.dtype = torch.float64, model=None, **settings) -> Federation:
    """The federation, half of it active each round."""
    settings = {"fraction": 0.5, "engine": "batched", "seed": 3, **settings}
    return Federation(model or net(dtype), nn.functional.cross_entropy, clients(sizes, dtype), **settings)
