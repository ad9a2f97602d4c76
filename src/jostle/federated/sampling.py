"""Who takes part in a round."""

from typing import Literal

import numpy as np

from jostle.core.errors import require
from jostle.federated.randomness import SAMPLING, stream

Sampling = Literal["fixed", "bernoulli"]


def sample(clients: int, fraction: float, t: int, *, seed: int, sampling: Sampling = "fixed") -> list[int]:
    """The positions of the active clients of round `t`, sorted.

    **Arguments:** `clients`: how many there are, at least 1. `fraction`: share of them, in (0, 1]. `t`: the round,
    from 0. `seed`: at least 0. `sampling`: `"fixed"`: exactly `max(1, round(fraction*clients))` of them.
    `"bernoulli"`: each by itself, as the official program draws it, bit by bit: NumPy's legacy generator seeded
    with `seed + t`, a uniform number a client, active if at most `fraction`; if none is, with the next seed.
    **Raises:** `JostleError` for values out of range.

    >>> sample(6, 0.5, 0, seed=20, sampling="bernoulli"), sample(6, 0.5, 1, seed=20, sampling="bernoulli")
    ([4], [0, 1, 3, 4, 5])
    """
    require(clients >= 1, f"clients must be at least 1, but {clients} came")
    require(0 < fraction <= 1, f"fraction must lie in (0, 1], but {fraction} came")
    require(seed >= 0, f"seed must be at least 0, but {seed} came")
    require(sampling in ("fixed", "bernoulli"), f"sampling must be fixed or bernoulli, but {sampling!r} came")
    if sampling == "fixed":
        count = max(1, round(fraction * clients))
        return sorted(stream(SAMPLING, seed, t).choice(clients, count, replace=False).tolist())
    attempt = 0
    while True:
        # The legacy generator, because these are the official program's own numbers.
        drawn = np.random.RandomState(seed + t + attempt).uniform(size=clients)
        active = np.nonzero(drawn <= fraction)[0].tolist()
        if active:
            return active
        attempt += 1
