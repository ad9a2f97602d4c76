"""What a federated algorithm is: a few formulae on flat vectors, the same for one client and for many."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.columns import cast, length
from jostle.core.errors import require

Ascent = Literal["normalized", "raw"]

# Below this length a gradient is noise, and the ascent fades instead of blowing it up to the radius.
_QUIET = 1e-7


@dataclass
class Round:
    """What an algorithm sees of the round it is in.

    `t`: the round, from 0. `lr`: the local learning rate. `clients`: how many there are in all (`m`). `start`:
    the server's model at the start of the round, `(D,)`. `server`: the server's vectors that travel with it, each
    `(D,)`. `client`: the vectors that the clients keep, each `(s, D)`; a private copy, which the algorithm may move
    as it trains. `steps`: local steps of each client, `(s, 1)`.
    """

    t: int
    lr: float
    clients: int
    start: Tensor
    server: dict[str, Tensor] = field(default_factory=dict)
    client: dict[str, Tensor] = field(default_factory=dict)
    steps: Tensor = field(default_factory=lambda: torch.ones(1, 1))


@dataclass(frozen=True)
class Replies:
    """The replies that the server accepted in a round, in the order of the clients' ids.

    `delta`: how far each client's model moved, `(s, D)`. `uploads`: what else it sent. `weights`: each client's
    share `p_i` of the objective `sum_i p_i F_i`, `(s, 1)`, over *all* clients. `steps`: local steps, `(s, 1)`.
    """

    delta: Float[Tensor, "s D"]
    weights: Float[Tensor, "s 1"]
    steps: Float[Tensor, "s 1"]
    uploads: Mapping[str, Tensor] = field(default_factory=dict)

    def mean(self, rows: Float[Tensor, "s D"]) -> Float[Tensor, " D"]:
        """The average over the clients that replied: `sum_S p_i row_i / sum_S p_i`."""
        return self.total(rows) / self.weights.sum()

    def total(self, rows: Float[Tensor, "s D"]) -> Float[Tensor, " D"]:
        """What the replies add to an average over all clients: `sum_S p_i row_i`."""
        return (self.weights * rows).sum(0)


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm: subclass it and override what differs from FedAvg.

    Every method works on flat vectors whose last axis is the model's `D` parameters; with a leading axis of `s`
    clients or of one, so the same lines run in the sequential engine, in the batched one and on Flower. A local
    step is `v <- v - lr*(clip(direction) + offset + (pull + weight_decay)*v)`.

    Class attributes: `client_slots` names the vectors that a client keeps between its rounds, zero at the start;
    `broadcast` names the server's vectors that travel down with the model, `uploads` what travels up beside the
    model's move. Subclasses are frozen dataclasses of their settings.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class SignSGD(Algorithm):
    ...     "The sign of the gradient, nothing else."
    ...     def direction(self, v, g1, g2, round):
    ...         return g1.sign()
    >>> SignSGD().needs_ascent
    False
    """

    client_slots: ClassVar[tuple[str, ...]] = ()
    broadcast: ClassVar[tuple[str, ...]] = ()
    uploads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse settings out of range."""

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return type(self).__name__

    @property
    def needs_ascent(self) -> bool:
        """Whether a step takes a second gradient, at `v + perturb(...)`, on the same minibatch."""
        return False

    @property
    def pull(self) -> float:
        """The coefficient of `v` in the step, beside weight decay: `mu` of a proximal term."""
        return 0.0

    def check(self, lr: float) -> None:
        """Refuse settings that cannot work with a learning rate."""

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        """The server's own vectors at the start."""
        return {}

    def perturb(self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], round: Round) -> Tensor:
        """Where the second gradient is taken, as a step from `v`."""
        return torch.zeros_like(v)

    def direction(
        self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], g2: Tensor | None, round: Round
    ) -> Tensor:
        """The share of the step that comes from gradients of the loss; `g2` where there is a second one."""
        return g1 if g2 is None else g2

    def offset(self, round: Round) -> Tensor | None:
        """The share of the step that is constant in a round, `(s, D)` or `(D,)`."""
        return None

    def client_update(
        self, delta: Float[Tensor, "s D"], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """After the last step: the client's new vectors, and what it uploads beside `delta`."""
        return {}, {}

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The server's next model and vectors."""
        return x + replies.mean(replies.delta), server


def sam(g: Float[Tensor, "s D"], rho: float, ascent: Ascent = "normalized") -> Float[Tensor, "s D"]:
    """The ascent step of SAM: `rho*g/(|g| + 1e-7)`, or `rho*g` where it is raw.

    The length is that of all parameters together, one a client (Foret et al. 2021): the steepest step of an L2
    budget, which fades where the gradient is no more than noise.

    **Arguments:** `g`: gradients. `rho`: radius, at least 0. `ascent`: `"normalized"` or `"raw"`.

    >>> sam(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.5)
    tensor([[0.3000, 0.4000],
            [0.0000, 0.0000]])
    """
    if ascent == "raw":
        return rho * g
    return g * cast(rho / (length(g) + _QUIET), g)


@dataclass(frozen=True)
class Ascending(Algorithm):
    """An algorithm that takes its gradient at the end of an ascent step; stands before what it is added to.

    `rho`: radius, at least 0; 0 takes no second gradient. `ascent`: `"normalized"` or `"raw"`.

    >>> Ascending(rho=0.0).needs_ascent
    False
    """

    rho: float = 0.1
    ascent: Ascent = "normalized"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.rho < float("inf"), f"rho must be a finite number of at least 0, but {self.rho} came"
        )
        require(
            self.ascent in ("normalized", "raw"),
            f"ascent must be 'normalized' or 'raw', but {self.ascent!r} came",
        )

    @property
    def needs_ascent(self) -> bool:
        return self.rho > 0

    def perturb(self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], round: Round) -> Tensor:
        return sam(g1, self.rho, self.ascent)
