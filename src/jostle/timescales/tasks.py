"""Memory tasks on a stream of bits: what is asked is one integer N back, and the label costs one cumulative
sum."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require
from jostle.timescales.networks import run_of


@dataclass(frozen=True)
class MemoryTask(ABC):
    """A task that asks for one bit about the last N inputs. A task of your own says `labels_in_time`.

    **Arguments:** `p`: probability of a one: a number, or `"uniform"` for a fresh `p ~ U(0, 1)` **per
    sequence** (the paper's law for parity in training). `signed`: whether the network sees -1 and 1 rather
    than 0 and 1.
    **Raises:** `JostleError` if `p` lies outside of [0, 1].
    """

    p: float | Literal["uniform"] = "uniform"
    signed: bool = False

    def __post_init__(self) -> None:
        if self.p != "uniform":
            require(0 <= self.p <= 1, f"p must lie in [0, 1], but {self.p} came")

    @property
    def name(self) -> str:
        """The task and its law of inputs; accuracies under different laws are different quantities."""
        law = "p ~ U(0, 1)" if self.p == "uniform" else f"p = {self.p:g}"
        return f"{type(self).__name__}({law}{', signed' if self.signed else ''})"

    @abstractmethod
    def labels_in_time(self, bits: Float[Tensor, "batch time"], N: int) -> Int[Tensor, "batch answers"]:
        """The label after each step from the N-th on: `time - N + 1` answers a sequence."""

    def labels(self, bits: Float[Tensor, "batch time"], Ns: Sequence[int]) -> Int[Tensor, "batch tasks"]:
        """The label at the end of each sequence, for every N."""
        return torch.stack([self.labels_in_time(bits[:, -N:], N)[:, -1] for N in Ns], -1)

    def bits(
        self, batch: int, length: int, generator: torch.Generator, p: float | Literal["uniform"] | None = None
    ) -> Float[Tensor, "batch time"]:
        """Draw sequences of zeros and ones; `p` overrides the task's law (evaluation uses 1/2)."""
        p = self.p if p is None else p
        device = generator.device
        chance = torch.rand(batch, 1, generator=generator, device=device) if p == "uniform" else p
        draws = torch.rand(batch, length, generator=generator, device=device)
        return (draws < chance).to(torch.get_default_dtype())

    def encode(self, bits: Float[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
        """What the network sees."""
        return 2 * bits - 1 if self.signed else bits

    def length(self, N: int, u: float) -> int:
        """A training sequence's length, uniform on N+2 ... 4N+1 for `u` uniform on [0, 1)."""
        return N + 2 + math.floor(u * 3 * N)

    def sample(
        self, batch: int, Ns: Sequence[int], generator: torch.Generator, length: int | None = None
    ) -> tuple[Float[Tensor, "batch time"], Int[Tensor, "batch tasks"]]:
        """A batch of sequences of one length, and the label of each N at their end.

        **Arguments:** `batch`: sequences. `Ns`: what is asked, each at least 2. `generator`: source of all
        draws. `length`: default drawn by the law of `length`.
        **Returns:** what the network sees, and the labels in the order of `Ns`.
        **Raises:** `JostleError` if an N is below 2 or longer than the sequence.

        >>> x, y = NParity().sample(4, [2, 3], torch.Generator().manual_seed(0), length=9)
        >>> x.shape, y.shape
        (torch.Size([4, 9]), torch.Size([4, 2]))
        """
        require(min(Ns) >= 2, f"N must be at least 2, but {min(Ns)} came")
        if length is None:
            u = float(torch.rand((), generator=generator, device=generator.device))
            length = self.length(max(Ns), u)
        require(length >= max(Ns), f"length must be at least N = {max(Ns)}, but {length} came")
        bits = self.bits(batch, length, generator)
        return self.encode(bits), self.labels(bits, Ns)


@dataclass(frozen=True)
class NParity(MemoryTask):
    """N-parity: the sum of the last N bits, modulo 2.

    With `p ~ U(0, 1)` a sequence, the class 0 has probability `1/2 + 1/(2 (N+1))` for even N and 1/2 for odd
    N: see [`blind_accuracy`][jostle.timescales.tasks.blind_accuracy].

    >>> bits = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    >>> NParity().labels(bits, [2, 3, 4]).tolist(), NParity().labels_in_time(bits, 2).tolist()
    ([[0, 0, 1]], [[1, 1, 0]])
    """

    def labels(self, bits: Float[Tensor, "batch time"], Ns: Sequence[int]) -> Int[Tensor, "batch tasks"]:
        """The label at the end of each sequence, for every N, by one sum from the end."""
        ones = bits[:, -max(Ns) :].flip(1).cumsum(1)
        return ones[:, run_of(Ns, 1)].long() % 2

    def labels_in_time(self, bits: Float[Tensor, "batch time"], N: int) -> Int[Tensor, "batch answers"]:
        """The label after each step from the N-th on."""
        ones = torch.nn.functional.pad(bits.long().cumsum(1), (1, 0))
        return (ones[:, N:] - ones[:, :-N]) % 2


@dataclass(frozen=True)
class NDMS(MemoryTask):
    """N-delayed match to sample: 1 if the bit N-1 steps before the last equals the last one.

    >>> NDMS().labels(torch.tensor([[1.0, 0.0, 1.0, 1.0]]), [2, 3, 4]).tolist()
    [[1, 0, 1]]
    """

    p: float | Literal["uniform"] = 0.5

    def labels_in_time(self, bits: Float[Tensor, "batch time"], N: int) -> Int[Tensor, "batch answers"]:
        """The label after each step from the N-th on."""
        return (bits[:, N - 1 :] == bits[:, : bits.shape[1] - N + 1]).long()


def blind_accuracy(N: int) -> float:
    """Accuracy on N-parity of a reader that knows `p ~ U(0, 1)` of its sequence but not the parity.

    >>> blind_accuracy(2), blind_accuracy(9)
    (0.6666666666666666, 0.55)
    """
    require(N >= 1, f"N must be at least 1, but {N} came")
    return 0.5 + 0.5 / (N + 1)
