"""The server: it opens a round, admits or refuses replies, and closes the round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.federated.algorithm import Algorithm, Replies, Round
from jostle.federated.memory import NEVER


@dataclass(frozen=True)
class Reply:
    """What a client sends back.

    `client`: its id. `round`: which round it answers. `delta`: how far its model moved, `(D,)`. `uploads`: what
    the algorithm asks for beside it. `steps`: local steps taken. `samples`: it holds. `loss`: mean over the round.
    `state`: its new vectors, where the server keeps copies. `lost`: it has no vectors, and did not train.
    `statistics`: its running statistics, where the server averages them.
    """

    client: int
    round: int
    delta: Tensor
    uploads: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 1
    samples: int = 1
    loss: float = float("nan")
    state: Mapping[str, Tensor] = field(default_factory=dict)
    lost: bool = False
    statistics: Tensor | None = None


@dataclass
class Server:
    """The server's half of a federation: the model, its own vectors, and whose reply it accepted last.

    It keeps no vector a client (unless asked to), and is the same object for the engines of this machine and for
    Flower. A reply that does not fit is refused with a sentence and changes nothing.

    **Arguments:** `algorithm`; `x`: the model, `(D,)`. `ids`: of all clients. `weights`: each client's share
    `p_i` of the objective; uniform if left out. `keep_states`: hold a copy of every client's vectors, to give it
    back to one that lost them (`m*D` numbers a slot). `statistics`: running statistics that are averaged as the
    model is, over the clients that replied.

    >>> from jostle.federated.averaging import FedAvg
    >>> server = Server(FedAvg(), torch.zeros(1), (0, 1))
    >>> server.open(0.1, [0, 1])
    >>> server.admit(Reply(0, 0, torch.ones(1))), server.admit(Reply(0, 0, torch.ones(1)))
    ('', 'client 0: a second reply to round 0')
    >>> server.close()
    [0]
    >>> server.x
    tensor([1.])
    """

    algorithm: Algorithm
    x: Float[Tensor, " D"]
    ids: tuple[int, ...]
    weights: Mapping[int, float] | None = None
    keep_states: bool = False
    statistics: Tensor | None = None
    t: int = 0
    generation: int = 0
    vectors: dict[str, Tensor] = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)
    copies: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    _active: tuple[int, ...] = ()
    _lr: float = float("nan")
    _replies: dict[int, Reply] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.vectors:
            self.vectors = self.algorithm.server_init(self.x)

    def open(self, lr: float, active: Sequence[int]) -> None:
        """Begin a round with these clients."""
        self._active, self._lr, self._replies, self.lost = tuple(sorted(active)), lr, {}, set()

    def round(self, client: Mapping[str, Tensor] | None = None, steps: Tensor | None = None) -> Round:
        """The round as the algorithm sees it, at a client or here."""
        steps = torch.ones(1, 1, dtype=self.x.dtype, device=self.x.device) if steps is None else steps
        down = {name: self.vectors[name] for name in self.algorithm.broadcast}
        return Round(self.t, self._lr, len(self.ids), self.x, down, dict(client or {}), steps)

    def last(self, client: int) -> int:
        """The last round whose reply from this client was accepted, -1 for none."""
        return self.accepted.get(client, NEVER)

    def weight(self, client: int) -> float:
        """The client's share of the objective."""
        return 1 / len(self.ids) if self.weights is None else self.weights[client]

    def admit(self, reply: Reply) -> str:
        """Take a reply; the answer is empty, or the sentence that says why it was refused."""
        who = f"client {reply.client}"
        if reply.client not in self._active:
            known = "was not asked in this round" if reply.client in self.ids else "is not of this federation"
            return f"{who}: {known}"
        if reply.round != self.t:
            return f"{who}: a reply to round {reply.round} in round {self.t}"
        if reply.client in self._replies:
            return f"{who}: a second reply to round {self.t}"
        if reply.lost:
            self.lost.add(reply.client)
            return f"{who}: has lost its state (last accepted round {self.last(reply.client)})"
        if set(reply.uploads) != set(self.algorithm.uploads):
            return (
                f"{who}: uploads must be {sorted(self.algorithm.uploads)}, but {sorted(reply.uploads)} came"
            )
        wanted = {"delta": reply.delta, **reply.uploads}
        if self.keep_states:
            if set(reply.state) != set(self.algorithm.client_slots):
                return f"{who}: state must be {sorted(self.algorithm.client_slots)}, but {sorted(reply.state)} came"
            wanted |= {f"state {name}": value for name, value in reply.state.items()}
        for name, value in wanted.items():
            if value.shape != self.x.shape or value.dtype != self.x.dtype:
                return (
                    f"{who}: {name} must be {tuple(self.x.shape)} of {self.x.dtype}, but {tuple(value.shape)} of "
                    f"{value.dtype} came"
                )
            if not bool(torch.isfinite(value).all()):
                return f"{who}: {name} holds NaN or infinity in round {self.t}"
        if self.statistics is not None:
            got = reply.statistics
            if got is None or got.shape != self.statistics.shape or got.dtype != self.statistics.dtype:
                came = "none" if got is None else f"{tuple(got.shape)} of {got.dtype}"
                return (
                    f"{who}: statistics must be {tuple(self.statistics.shape)} of {self.statistics.dtype}, but {came} "
                    "came"
                )
            if not bool(torch.isfinite(got).all()):
                return f"{who}: statistics hold NaN or infinity in round {self.t}"
        if reply.steps < 1:
            return f"{who}: steps must be at least 1, but {reply.steps} came"
        self._replies[reply.client] = reply
        return ""

    def losses(self) -> list[float]:
        """The losses that the accepted replies of this round report."""
        return [self._replies[one].loss for one in sorted(self._replies)]

    def close(self) -> list[int]:
        """Update model and vectors from the accepted replies, in the order of ids; without any, nothing changes.

        **Returns:** the ids whose replies were accepted.
        """
        chosen = sorted(self._replies)
        if chosen:
            replies = self._gather(chosen)
            x, vectors = self.algorithm.server_update(self.x, self.vectors, replies, self.round())
            require(
                bool(torch.isfinite(x).all()),
                f"the server's model is not finite after round {self.t}: lower lr or look at the clients' updates",
            )
            self.x, self.vectors = x, vectors
            if self.statistics is not None:
                share = (replies.weights / replies.weights.sum()).to(self.statistics)
                held = [self._replies[one].statistics for one in chosen]
                self.statistics = (share * torch.stack([s.to(share) for s in held if s is not None])).sum(0)
            for one in chosen:
                self.accepted[one] = self.t
                if self.keep_states:
                    self.copies[one] = {k: v.clone() for k, v in self._replies[one].state.items()}
        self.t += 1
        self._replies, self._active = {}, ()
        return chosen

    def _gather(self, chosen: list[int]) -> Replies:
        kind = {"dtype": self.x.dtype, "device": self.x.device}
        got = [self._replies[one] for one in chosen]
        return Replies(
            torch.stack([r.delta.to(self.x.device) for r in got]),
            torch.tensor([[self.weight(one)] for one in chosen], **kind),
            torch.tensor([[float(r.steps)] for r in got], **kind),
            {
                name: torch.stack([r.uploads[name].to(self.x.device) for r in got])
                for name in self.algorithm.uploads
            },
        )

    def reset_state(self) -> None:
        """Forget all corrections, here and (through the generation) at every client; the model stays."""
        self.vectors = self.algorithm.server_init(self.x)
        self.accepted, self.copies = {}, {}
        self.generation += 1

    def tensors(self) -> dict[str, Tensor]:
        """All that a later process needs, as tensors."""
        copies = {f"copy.{i}.{k}": v for i, held in self.copies.items() for k, v in held.items()}
        extra = {} if self.statistics is None else {"statistics": self.statistics}
        return {"x": self.x, **{f"vector.{k}": v for k, v in self.vectors.items()}, **copies, **extra}

    def numbers(self) -> dict[str, Any]:
        """The rest of it, as JSON."""
        return {
            "t": self.t,
            "generation": self.generation,
            "ids": list(self.ids),
            "accepted": {str(i): t for i, t in self.accepted.items()},
            "algorithm": repr(self.algorithm),
        }

    def take_up(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on where `tensors` and `numbers` were taken.

        **Raises:** `JostleError` if they belong to another federation.
        """
        ids = tuple(numbers["ids"])
        require(
            ids == self.ids,
            f"the checkpoint has {len(ids)} clients and this federation {len(self.ids)}, or other ids: clients "
            "cannot change on resuming",
        )
        require(
            numbers["algorithm"] == repr(self.algorithm),
            f"the checkpoint is of {numbers['algorithm']}, but {self.algorithm!r} came",
        )
        if "x" not in tensors or tensors["x"].shape != self.x.shape or tensors["x"].dtype != self.x.dtype:
            raise JostleError("the checkpoint's model has another shape or precision than this one")
        place = self.x.device
        self.x = tensors["x"].to(place)
        self.vectors, self.copies = {}, {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "vector":
                self.vectors[rest] = value.to(place)
            elif kind == "copy":
                one, _, slot = rest.partition(".")
                self.copies.setdefault(int(one), {})[slot] = value.to(place)
            elif kind == "statistics":
                self.statistics = value.to(place)
        self.t, self.generation = int(numbers["t"]), int(numbers["generation"])
        self.accepted = {int(i): int(t) for i, t in numbers["accepted"].items()}


Transport = Callable[[Reply], list[Reply]]
"""What becomes of a reply on its way: it arrives, is lost, comes twice, is spoilt."""


def losing(rate: float, *, seed: int) -> Transport:
    """A network that loses a share of the replies after the clients have done their work.

    **Arguments:** `rate`: in [0, 1). `seed`: with the round and the client it decides.

    >>> len(losing(0.0, seed=0)(Reply(0, 0, torch.zeros(1))))
    1
    """
    from jostle.federated.randomness import LOSS, stream

    require(0 <= rate < 1, f"rate must lie in [0, 1), but {rate} came")

    def carry(reply: Reply) -> list[Reply]:
        lost = stream(LOSS, seed, reply.round, reply.client).random() < rate
        return [] if lost else [replace(reply)]

    return carry
