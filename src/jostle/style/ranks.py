"""What the processes of a distributed training must agree on: the branch of a call, and the first scales."""

from collections import OrderedDict

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from jostle.style.restyle import batch_uncertainty

REMEMBERED = 1024
"""How many draws are kept for activation checkpointing, which asks for them again in the backward pass."""


def together() -> bool:
    """Whether several processes of `torch.distributed` train the network."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class SharedDraws:
    """A stream of draws from U(0, 1) that is the same on all ranks, however their own streams are seeded.

    At the first draw the ranks agree on the seed of rank 0; after that nothing is sent. All ranks must make the
    same calls in the same order, as they do when they train one network.
    """

    def __init__(self) -> None:
        self._generator: torch.Generator | None = None
        self._kept: OrderedDict[float, float] = OrderedDict()

    def draw(self, ticket: float) -> float:
        """The next draw, or once more the draw of a ticket that was seen before.

        **Arguments:** `ticket`: a draw in double precision from the rank's own stream. Checkpointing replays
        that stream, and so the ticket.
        """
        if ticket in self._kept:
            return self._kept[ticket]
        if self._generator is None:
            seed = [int(ticket * 2**53)]
            dist.broadcast_object_list(seed, src=0)
            self._generator = torch.Generator().manual_seed(seed[0])
        self._kept[ticket] = float(torch.rand((), generator=self._generator))
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return self._kept[ticket]


def joint_uncertainty(
    mu: Float[Tensor, "batch channels"], sigma: Float[Tensor, "batch channels"], eps: float
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
    """The [`batch_uncertainty`][jostle.style.restyle.batch_uncertainty] of the batches of all ranks as one; `None`
    if they hold fewer than two samples.

    **Arguments:** `mu`, `sigma`: the statistics of this rank's samples.
    """
    if not together():
        return batch_uncertainty(mu, sigma, eps) if len(mu) > 1 else None
    rows = torch.cat([mu, sigma], 1)
    total = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
    dist.all_reduce(total)
    count = int(total[-1])
    if count < 2:
        return None
    squares = (rows - total[:-1] / count).square().sum(0)
    dist.all_reduce(squares)
    s_mu, s_sigma = (squares / (count - 1) + eps).sqrt().chunk(2)
    return s_mu, s_sigma
