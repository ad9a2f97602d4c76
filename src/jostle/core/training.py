"""The one training loop: an optimiser, a schedule, a callback, and exact resumption."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import require

Loss = Callable[[nn.Module, Any], Tensor]
"""From the model and a batch to the number to minimise."""


_FABRIC: ContextVar[Any] = ContextVar("fabric", default=None)


@contextmanager
def on_fabric(fabric: Any) -> Iterator[None]:
    """Let every training inside run on the processes of a launched `lightning.fabric.Fabric`, as on one.

    Each process does all that one process would do, with the same generators; only the rows of each batch are
    shared out.
    """
    token = _FABRIC.set(fabric)
    try:
        yield
    finally:
        _FABRIC.reset(token)


def fabric_here() -> Any:
    """The Fabric that trainings run on, or `None`."""
    return _FABRIC.get()


class Trainer:
    """Minimise a loss over batches, one optimiser step a batch.

    The loop only: what a batch is, what the loss is and which optimiser turns it into steps are the caller's.
    Inside [`on_fabric`][jostle.core.training.on_fabric] each process takes its rows of the batch, in the Fabric's
    precision, and the gradients are averaged so that the step is that of the whole batch: exactly so where the
    loss is a mean over rows that do not see one another.

    **Arguments:** `model`: changed in place; its mode is left to the caller. `optimiser`: over its parameters.
    `loss`: `loss(model, batch)`, of a tensor or a tuple of tensors with the same rows. `schedule`: a learning-rate
    scheduler, stepped after each batch. `clip`: largest gradient norm, above 0.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(net.weight)
    >>> fit = Trainer(net, torch.optim.SGD(net.parameters(), 0.1), lambda m, x: (m(x) - 1).square().mean())
    >>> fit.run([torch.ones(4, 1)] * 50)
    >>> round(net.weight.item(), 3)
    1.0
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        loss: Loss,
        *,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        clip: float | None = None,
    ) -> None:
        require(clip is None or clip > 0, f"clip must be above 0, but {clip} came")
        self.loss, self.schedule, self.clip, self.fabric = loss, schedule, clip, fabric_here()
        self.model, self.optimiser = model, optimiser
        if self.fabric is not None:
            self.model, self.optimiser = self.fabric.setup(model, optimiser)
        self.step = 0
        self.last = float("nan")

    def run(self, batches: Iterable[Any], callback: Callable[["Trainer"], None] | None = None) -> None:
        """Take one step a batch; `callback` sees the trainer after each.

        **Raises:** `JostleError` if the loss is NaN or infinite.
        """
        for batch in batches:
            self.optimiser.zero_grad(set_to_none=True)
            loss, self.last = self._loss(batch)
            require(
                abs(self.last) < float("inf"),
                f"the loss is {self.last} at step {self.step}: lower the learning rate or look for NaN in the data",
            )
            if self.fabric is None:
                loss.backward()
            else:
                self.fabric.backward(loss)
            if self.clip is not None:
                if self.fabric is None:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                else:
                    self.fabric.clip_gradients(self.model, self.optimiser, max_norm=self.clip)
            self.optimiser.step()
            if self.schedule is not None:
                self.schedule.step()
            self.step += 1
            if callback is not None:
                callback(self)

    def _loss(self, batch: Any) -> tuple[Tensor, float]:
        fabric = self.fabric
        if fabric is None or fabric.world_size == 1:
            loss = self.loss(self.model, batch)
            return loss, float(loss.detach())
        rows = batch if isinstance(batch, Tensor) else batch[0]
        count, share = len(rows), len(rows[fabric.global_rank :: fabric.world_size])
        require(
            count >= fabric.world_size,
            f"a batch must have a row for each of the {fabric.world_size} processes, but {count} came",
        )
        # The mean over processes of these is the mean over rows, also where the shares differ by one.
        loss = self.loss(self.model, _share(batch, fabric.global_rank, fabric.world_size))
        loss = loss * (share * fabric.world_size / count)
        return loss, float(fabric.all_reduce(loss.detach(), reduce_op="mean"))

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same numbers, but for the order of the batches."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the training where `state_dict` was called."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


def _share(batch: Any, rank: int, world: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[rank::world]
    return type(batch)(part[rank::world] for part in batch)


def minibatches(
    *tensors: Tensor,
    size: int,
    epochs: int,
    generator: torch.Generator,
    skip: int = 0,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, ...]]:
    """Shuffled batches of tensors that share their first axis, epoch after epoch.

    **Arguments:** `size`: of a batch; the last one of an epoch may be smaller. `epochs`: how many times through.
    `generator`: shuffles; on the CPU. `skip`: batches to pass over, to go on after a stop with the same order.
    `drop_last`: leave that smaller batch out, as batch norm wants it; other samples fall to it in every epoch.

    >>> import torch
    >>> batches = minibatches(torch.arange(5), size=2, epochs=1, generator=torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([b for (b,) in batches]).tolist())
    [0, 1, 2, 3, 4]
    """
    count = len(tensors[0])
    require(size >= 1, f"size must be at least 1, but {size} came")
    require(
        all(len(tensor) == count for tensor in tensors),
        f"tensors must share their first axis, but lengths {[len(tensor) for tensor in tensors]} came",
    )
    seen = 0
    for _ in range(epochs):
        # On the CPU with its generator, whatever the default device is.
        for indices in torch.randperm(count, generator=generator, device="cpu").split(size):
            if drop_last and len(indices) < size:
                continue
            seen += 1
            if seen > skip:
                yield tuple(tensor[indices.to(tensor.device)] for tensor in tensors)
