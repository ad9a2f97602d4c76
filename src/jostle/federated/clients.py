"""The clients' data: who there is, what each holds, and the batches of its local steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.federated.randomness import ORDER, stream
from jostle.zoo import Images

Clients = Sequence[Any] | Mapping[int, Any] | Callable[[int], Any]
"""Data sets by position or by id, or a function from an id to a data set, which is called when it is needed."""


class Population:
    """All clients of a federation, by id.

    A data set is a pair of tensors `(inputs, targets)`, a `TensorDataset`, zoo images, or any map-style data set.
    Ids are labels: with data they say which random numbers a client gets, so what a client does depends neither
    on its position nor on when it runs.

    **Arguments:** `clients`: see above. `count`: how many, for a function.
    **Raises:** `JostleError` if there is none or an id is not a whole number of at least 0.

    >>> Population([(torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(5, 2), torch.zeros(5))]).ids
    (0, 1)
    """

    def __init__(self, clients: Clients, count: int | None = None) -> None:
        if isinstance(clients, Mapping):
            ids = list(clients)
            self._get: Callable[[int], Any] = clients.__getitem__
        elif isinstance(clients, Sequence):
            ids = list(range(len(clients)))
            self._get = clients.__getitem__
        else:
            require(callable(clients), f"clients must be data sets, but {type(clients).__name__} came")
            require(count is not None, "count must be given when clients is a function, but None came")
            ids = list(range(count or 0))
            self._get = clients
        require(len(ids) > 0, "clients must hold at least one data set, but none came")
        bad = [one for one in ids if not isinstance(one, int) or isinstance(one, bool) or one < 0]
        require(not bad, f"ids of clients must be whole numbers of at least 0, but {bad[:1]} came")
        self.ids = tuple(sorted(ids))

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's inputs and targets.

        **Raises:** `JostleError` if it holds something else.
        """
        held = self._get(client)
        if isinstance(held, Images):
            held = held.tensors()
        elif isinstance(held, torch.utils.data.TensorDataset):
            held = held.tensors
        elif not isinstance(held, tuple | list) and hasattr(held, "__getitem__") and hasattr(held, "__len__"):
            rows = [held[i] for i in range(len(held))]
            held = (
                (
                    torch.stack([torch.as_tensor(x) for x, _ in rows]),
                    torch.stack([torch.as_tensor(y) for _, y in rows]),
                )
                if rows
                else (torch.zeros(0), torch.zeros(0))
            )
        if not (
            isinstance(held, tuple | list) and len(held) == 2 and all(isinstance(t, Tensor) for t in held)
        ):
            raise JostleError(
                f"client {client} must hold a pair of tensors or a data set of pairs, but a "
                f"{type(held).__name__} came"
            )
        x, y = held
        require(
            len(x) == len(y),
            f"client {client} must have a target for each input, but {len(x)} and {len(y)} came",
        )
        return x, y

    def size(self, client: int) -> int:
        """How many samples a client holds."""
        held = self._get(client)
        return len(held[0]) if isinstance(held, tuple | list) else len(held)


@dataclass(frozen=True)
class Plan:
    """A client's local work in a round: which samples each step sees, `epochs * ceil(n/batch)` steps.

    The order depends on the seed, the round, the client's id and the epoch alone. The last batch of an epoch may
    be smaller, and counts like any other.

    `orders`: the samples of each epoch, `(epochs, n)`. `batch`: how many a step takes. `steps`: how many steps.

    >>> plan = Plan.draw(0, t=3, client=7, samples=5, epochs=2, batch=2)
    >>> len(plan), [plan.width(k) for k in range(len(plan))]
    (6, [2, 2, 1, 2, 2, 1])
    """

    orders: Tensor
    batch: int
    steps: int

    @classmethod
    def draw(cls, seed: int, t: int, client: int, samples: int, epochs: int, batch: int) -> "Plan":
        """The batches of a round."""
        rows = np.tile(np.arange(samples), (epochs, 1))
        orders = torch.from_numpy(stream(ORDER, seed, t, client).permuted(rows, axis=1))
        return cls(orders, batch, epochs * -(-samples // batch))

    def __len__(self) -> int:
        return self.steps

    def place(self, k: int) -> tuple[int, slice]:
        """Epoch and samples of step `k`."""
        epoch, j = divmod(k, -(-self.orders.shape[1] // self.batch))
        return epoch, slice(j * self.batch, (j + 1) * self.batch)

    def width(self, k: int) -> int:
        """How many samples step `k` sees."""
        at = self.place(k)[1]
        return min(at.stop, self.orders.shape[1]) - at.start

    def at(self, k: int) -> Tensor:
        """The samples of step `k`."""
        epoch, chosen = self.place(k)
        return self.orders[epoch, chosen]


class Pool:
    """The data of some clients as one, from which a step takes everybody's batch at once.

    >>> plans = [Plan.draw(0, 0, i, 4, 1, 2) for i in range(2)]
    >>> x = torch.arange(8.0)
    >>> Pool([(x[:4], x[:4]), (x[4:], x[4:])], plans).batch([0, 1], 0)[0].shape
    torch.Size([2, 2])
    """

    def __init__(self, data: Sequence[tuple[Tensor, Tensor]], plans: Sequence[Plan]) -> None:
        alone = len(data) == 1
        self.x = data[0][0] if alone else torch.cat([x for x, _ in data])
        self.y = data[0][1] if alone else torch.cat([y for _, y in data])
        starts, at = [], 0
        for x, _ in data:
            starts.append(at)
            at += len(x)
        self.orders = [
            (plan.orders + start).to(self.x.device) for plan, start in zip(plans, starts, strict=True)
        ]
        self.plans = plans
        alike = len({(plan.orders.shape, plan.batch) for plan in plans}) == 1
        self.table = torch.stack(self.orders) if alike else None

    def batch(self, same: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of step `k` for the clients at these positions, whose batches are equally large."""
        epoch, chosen = self.plans[same[0]].place(k)
        if self.table is not None and len(same) == len(self.plans):
            index = self.table[:, epoch, chosen]
        else:
            places = [(i, *self.plans[i].place(k)) for i in same]
            index = torch.stack([self.orders[i][e, c] for i, e, c in places])
        return self.x[index], self.y[index]


def check_targets(client: int, y: Tensor, classes: int | None) -> None:
    """Refuse labels that the network has no output for."""
    if classes is None or y.dtype.is_floating_point or y.ndim != 1 or not len(y):
        return
    low, high = int(y.min()), int(y.max())
    require(
        low >= 0 and high < classes,
        f"labels of client {client} must lie in 0 to {classes - 1}, but {low if low < 0 else high} came",
    )
