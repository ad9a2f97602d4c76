"""Splitting labelled data among clients."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from jostle.core.errors import require

Scheme = Literal["dirichlet", "official", "ragged", "pathological", "iid"]


def partition(
    y: Int[Tensor, " samples"],
    clients: int,
    *,
    scheme: Scheme = "dirichlet",
    concentration: float = 0.3,
    classes_per_client: int = 3,
    seed: int = 0,
    min_size: int = 1,
) -> list[Int[Tensor, " held"]]:
    """Give every sample to one client at most, and none twice (but for `"official"`).

    `"dirichlet"`: equal sizes; each client draws its class shares from a symmetric Dirichlet distribution and its
    samples by them, among the classes that still have samples. `"official"`: as FedSpeed's official program draws:
    equal sizes, and a class that ran out is *refilled*, so that shares stay as drawn, but samples repeat across
    clients and within them, and others go to nobody. `"ragged"`: each class is cut by Dirichlet shares over the
    clients, so sizes differ (Yurochkin et al. 2019); it is drawn anew until all have `min_size`.
    `"pathological"`: `classes_per_client` classes each, a class shared equally by those who have it (after
    McMahan et al. 2017). `"iid"`: a shuffle, cut.

    **Arguments:** `y`: labels, from 0. `clients`: at least 1 and at most one a sample. `concentration`: of the
    Dirichlet distribution, above 0; small is uneven. `classes_per_client`: 1 to the number of classes. `seed`.
    `min_size`: least samples a client.
    **Returns:** indices into `y`, one tensor a client.
    **Raises:** `JostleError` if the split is impossible.

    >>> parts = partition(torch.arange(100) % 10, 5, scheme="pathological", classes_per_client=2)
    >>> [len((torch.arange(100) % 10)[part].unique()) for part in parts]
    [2, 2, 2, 2, 2]
    """
    labels = y.cpu().numpy()
    count = len(labels)
    require(count > 0, "y must hold at least one label, but none came")
    require(int(labels.min()) >= 0, f"y must hold labels of at least 0, but {labels.min()} came")
    require(
        1 <= clients <= count, f"clients must lie in 1 to {count}, the number of samples, but {clients} came"
    )
    require(concentration > 0, f"concentration must be above 0, but {concentration} came")
    require(min_size >= 0, f"min_size must be at least 0, but {min_size} came")
    require(
        min_size * clients <= count,
        f"min_size must be at most {count // clients} for {clients} clients of {count} samples, but {min_size} came",
    )
    # The legacy generator: the splits of published tables were drawn with it.
    rng = np.random.RandomState(seed)
    if scheme == "dirichlet":
        parts = _dirichlet(rng, labels, clients, concentration)
    elif scheme == "official":
        parts = _refilled(rng, labels, clients, concentration)
    elif scheme == "ragged":
        parts = _ragged(rng, labels, clients, concentration, min_size)
    elif scheme == "pathological":
        parts = _pathological(rng, labels, clients, classes_per_client)
    elif scheme == "iid":
        parts = np.array_split(rng.permutation(count), clients)
    else:
        require(
            False, f"scheme must be dirichlet, official, ragged, pathological or iid, but {scheme!r} came"
        )
        raise AssertionError
    return [torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in parts]


def _pools(rng: np.random.RandomState, labels: np.ndarray) -> list[list[int]]:
    return [rng.permutation(np.nonzero(labels == k)[0]).tolist() for k in range(int(labels.max()) + 1)]


def _dirichlet(
    rng: np.random.RandomState, labels: np.ndarray, clients: int, concentration: float
) -> list[list[int]]:
    pools = _pools(rng, labels)
    shares = rng.dirichlet([concentration] * len(pools), clients)
    parts: list[list[int]] = []
    for share in shares:
        part: list[int] = []
        for _ in range(len(labels) // clients):
            left = np.array([len(pool) for pool in pools])
            chance = np.where(left > 0, share, 0.0)
            chance = chance if chance.sum() > 0 else left.astype(float)
            part.append(pools[rng.choice(len(pools), p=chance / chance.sum())].pop())
        parts.append(part)
    return parts


def _refilled(
    rng: np.random.RandomState, labels: np.ndarray, clients: int, concentration: float
) -> list[list[int]]:
    """Samples dealt to clients in random turns; who draws a class that has run out refills it and draws again."""
    order = rng.permutation(len(labels))
    pools = [order[labels[order] == k] for k in np.unique(labels)]
    bounds = np.cumsum(rng.dirichlet([concentration] * len(pools), clients), axis=1)
    left = [len(pool) for pool in pools]
    size = len(labels) // clients
    parts: list[list[int]] = [[] for _ in range(clients)]
    todo = size * clients
    while todo:
        i = rng.randint(clients)
        if len(parts[i]) == size:
            continue
        k = min(int(np.searchsorted(bounds[i], rng.uniform())), len(pools) - 1)
        while not left[k]:
            left[k] = len(pools[k])
            k = min(int(np.searchsorted(bounds[i], rng.uniform())), len(pools) - 1)
        left[k] -= 1
        parts[i].append(int(pools[k][left[k]]))
        todo -= 1
    return parts


def _ragged(
    rng: np.random.RandomState, labels: np.ndarray, clients: int, concentration: float, min_size: int
) -> list[np.ndarray]:
    for _ in range(1000):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for pool in _pools(rng, labels):
            share = rng.dirichlet([concentration] * clients)
            cuts = np.round(np.cumsum(share)[:-1] * len(pool)).astype(int)
            for part, piece in zip(parts, np.split(np.array(pool, dtype=np.int64), cuts), strict=True):
                part.extend(piece.tolist())
        if min(map(len, parts)) >= min_size:
            return [np.array(part, dtype=np.int64) for part in parts]
    require(
        False,
        f"min_size {min_size} was not met in 1000 draws with concentration {concentration}: lower it, or take more "
        "even shares",
    )
    raise AssertionError


def _pathological(
    rng: np.random.RandomState, labels: np.ndarray, clients: int, classes: int
) -> list[np.ndarray]:
    """Slots of a class and a client, dealt so that every client has distinct classes; a class's pool is shared."""
    kinds = np.unique(labels)
    require(
        1 <= classes <= len(kinds),
        f"classes_per_client must lie in 1 to {len(kinds)}, the number of classes, but {classes} came",
    )
    slots = clients * classes
    require(
        slots <= len(labels),
        f"a pathological split needs a sample for each of {clients} x {classes} slots, but {len(labels)} came",
    )
    # Deal the classes in order, shuffled decks end to end: any `classes` neighbours in a deck are distinct.
    deck: list[int] = []
    held: list[list[int]] = []
    for _ in range(clients):
        mine: list[int] = []
        while len(mine) < classes:
            if not deck:
                deck = rng.permutation(kinds).tolist()
            pick = next((k for k in deck if k not in mine), None)
            if pick is None:
                deck += rng.permutation(kinds).tolist()
                continue
            deck.remove(pick)
            mine.append(pick)
        held.append(mine)
    takers = {k: [i for i, mine in enumerate(held) if k in mine] for k in kinds}
    parts: list[list[int]] = [[] for _ in range(clients)]
    for k in kinds:
        pool = rng.permutation(np.nonzero(labels == k)[0])
        if takers[k]:
            for i, piece in zip(takers[k], np.array_split(pool, len(takers[k])), strict=True):
                parts[i].extend(piece.tolist())
    empty = [i for i, part in enumerate(parts) if not part]
    require(not empty, f"client {empty[:1]} would get no sample: take fewer clients or classes a client")
    return [np.array(part, dtype=np.int64) for part in parts]
