"""Curricula: which Ns are asked at a stage, which head answers each, and what comes when they are learned."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from jostle.core.errors import require

Ns = tuple[int, ...]


@dataclass(frozen=True)
class Curriculum(ABC):
    """A sequence of stages. A curriculum of your own says `first`, `next` and `head`."""

    @abstractmethod
    def first(self) -> Ns:
        """The Ns of the first stage."""

    @abstractmethod
    def next(self, active: Ns) -> Ns | None:
        """The Ns of the stage after `active`, or `None` where the curriculum ends."""

    @abstractmethod
    def head(self, N: int, active: Ns) -> int:
        """The readout that answers N while `active` are asked."""

    @property
    def name(self) -> str:
        """How records and figures call it."""
        return type(self).__name__


@dataclass(frozen=True)
class SingleHead(Curriculum):
    """Only the newest N is asked, always of the same head.

    >>> SingleHead().next((4,)), SingleHead().head(4, (4,))
    ((5,), 0)
    """

    start: int = 2

    def first(self) -> Ns:
        """`(start,)`."""
        return (self.start,)

    def next(self, active: Ns) -> Ns:
        """N + 1."""
        return (active[-1] + 1,)

    def head(self, N: int, active: Ns) -> int:
        """Head 0."""
        return 0


@dataclass(frozen=True)
class MultiHead(Curriculum):
    """Every N so far is asked at once, each of a head of its own; `added` new ones come at each stage.

    >>> MultiHead().next((2, 3)), MultiHead(added=2).next((2, 3))
    ((2, 3, 4), (2, 3, 4, 5))
    """

    added: int = 1

    def __post_init__(self) -> None:
        require(self.added >= 1, f"added must be at least 1, but {self.added} came")

    def first(self) -> Ns:
        """`(2, ..., added + 1)`."""
        return tuple(range(2, 2 + self.added))

    def next(self, active: Ns) -> Ns:
        """All so far, and `added` more."""
        return (*active, *range(active[-1] + 1, active[-1] + 1 + self.added))

    def head(self, N: int, active: Ns) -> int:
        """Head N - 2."""
        return N - 2


@dataclass(frozen=True)
class Sliding(Curriculum):
    """A window of `width` Ns that moves up by `shift`.

    **Arguments:** `heads`: `"number"` gives each N a head of its own; `"position"` lets head i answer the
    i-th of the window, as the released code does: after a shift every head then serves a new N and all
    accuracies drop.

    >>> Sliding(3).next((2, 3, 4)), Sliding(3, 2).next((2, 3, 4))
    ((3, 4, 5), (4, 5, 6))
    """

    width: int = 10
    shift: int = 1
    heads: Literal["number", "position"] = "number"

    def __post_init__(self) -> None:
        require(
            1 <= self.shift <= self.width,
            f"shift must lie between 1 and the width {self.width}, but {self.shift} came",
        )

    def first(self) -> Ns:
        """`(2, ..., width + 1)`."""
        return tuple(range(2, 2 + self.width))

    def next(self, active: Ns) -> Ns:
        """The oldest `shift` go, as many new ones come."""
        return tuple(N + self.shift for N in active)

    def head(self, N: int, active: Ns) -> int:
        """Head N - 2, or the place in the window."""
        return N - 2 if self.heads == "number" else active.index(N)


@dataclass(frozen=True)
class Direct(Curriculum):
    """No curriculum: one N from scratch.

    >>> Direct(7).first(), Direct(7).next((7,))
    ((7,), None)
    """

    N: int = 5

    def first(self) -> Ns:
        """`(N,)`."""
        return (self.N,)

    def next(self, active: Ns) -> None:
        """The end."""

    def head(self, N: int, active: Ns) -> int:
        """Head 0."""
        return 0
