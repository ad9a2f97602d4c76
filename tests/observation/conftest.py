"""Small policies, spaces and the building's data."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from jostle.core.errors import JostleError
from jostle.observation import load_district, wrap_policy


def box(features, low=0.0, high=1.0):
    return Box(np.float32(low), np.float32(high), (features,))


def mlp(*sizes, seed=0, act=nn.Tanh, gain=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), act()]
        net = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for p in net.parameters():
            p *= gain
    return net


def continuous(features=5, actions=1, seed=0, act=nn.Tanh, gain=2.0, dtype=torch.float32, low=0.0, high=1.0):
    net = mlp(features, 16, 16, actions, seed=seed, act=act, gain=gain).to(dtype)
    return wrap_policy(
        net, head="tanh", observation_space=box(features, low, high), action_space=box(actions, -1.0, 1.0)
    )


def classes(features=5, count=6, seed=0):
    net = mlp(features, 16, count, seed=seed, gain=3.0)
    with torch.no_grad():  # no class wins everywhere
        net[-1].bias -= net(torch.rand(500, features, generator=torch.Generator().manual_seed(1))).mean(0)
    return wrap_policy(net, observation_space=box(features), action_space=Discrete(count))


def linear(weights, bias=0.0, low=-10.0, high=10.0):
    net = nn.Linear(len(weights), 1)
    with torch.no_grad():
        net.weight[:] = torch.tensor(weights)
        net.bias[:] = bias
    return wrap_policy(
        net, head="tanh", observation_space=box(len(weights), low, high), action_space=box(1, -1.0, 1.0)
    )


@pytest.fixture(scope="session")
def district():
    """CityLearn's Building_6, brought with pip on first use."""
    try:
        return load_district()
    except JostleError as error:
        if "pip could not bring" in str(error):
            pytest.skip(f"CityLearn's data are not here and can't be fetched: {error}")
        raise
