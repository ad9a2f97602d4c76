"""The server's half of a federation on Flower: a strategy around the server that the other engines use too."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from jostle.core.errors import JostleError, optional, require
from jostle.federated import checkpoints
from jostle.federated.algorithm import Algorithm
from jostle.federated.flat import FlatModel
from jostle.federated.flower.records import FLWR, arrays_of, read, record, reply_of
from jostle.federated.local import Local
from jostle.federated.sampling import Sampling, sample
from jostle.federated.server import Server
from jostle.files import plain

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy
else:
    ArrayRecord = ConfigRecord = Message = MetricRecord = Grid = Any
    Strategy = optional("flwr.serverapp.strategy", "federated").Strategy


class FederatedStrategy(Strategy):
    """A Flower strategy that runs one of our algorithms; made by `make_strategy`.

    `server`: the model, the server's vectors and the last accepted rounds. `history`: a row a round.
    """

    def __init__(
        self,
        server: Server,
        flat: FlatModel,
        local: Local,
        *,
        fraction: float,
        sampling: Sampling,
        seed: int,
        on_lost_state: str,
        checkpoint: Path | None,
        patience: float,
        samples_decide: bool,
    ) -> None:
        self.server, self.flat, self.local = server, flat, local
        self.fraction, self.seed = fraction, seed
        self.sampling: Sampling = sampling
        self.on_lost_state, self.checkpoint, self.patience = on_lost_state, checkpoint, patience
        self.samples_decide = samples_decide
        self.history: list[dict[str, Any]] = []
        self.nodes: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._away: dict[int, float] = {}
        self._sizes: dict[int, int] = {}
        self._lost: set[int] = set()
        self._refused: list[str] = []
        self._active: list[int] = []
        self._began = 0.0
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)

    def summary(self) -> None:
        """Nothing to say that Flower's log does not."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Pick the clients of the round and write to those whose nodes are there."""
        server, self._began = self.server, time.perf_counter()
        self._refused = []
        picked = sample(len(server.ids), self.fraction, server.t, seed=self.seed, sampling=self.sampling)
        self._active = [server.ids[i] for i in picked]
        weigh = self.samples_decide and server.weights is None
        self._meet(grid, server.ids if weigh else self._active)
        if weigh:
            self._weigh()
        self._refused += [
            f"client {one}: its node is not there" for one in self._active if one not in self.nodes
        ]
        server.open(self.local.rate(server.t), self._active)
        down = {"x": server.x, **{f"vector.{n}": server.vectors[n] for n in self.algorithm.broadcast}}
        note = {
            "algorithm": repr(self.algorithm),
            "round": server.t,
            "generation": server.generation,
            "lr": self.local.rate(server.t),
            "local": asdict(self.local),
            "seed": self.seed,
            "clients": len(server.ids),
            "keep_states": server.keep_states,
        }
        messages = []
        for one in self._active:
            if one in self.nodes:
                copies = {f"copy.{k}": v for k, v in server.copies.get(one, {}).items() if one in self._lost}
                content = record({**down, **copies}, {**note, "accepted": server.last(one)})
                messages.append(FLWR.Message(content, self.nodes[one], FLWR.MessageType.TRAIN))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the replies and close the round."""
        server = self.server
        for message in replies:
            if message.has_error():
                who = next((c for c, n in self.nodes.items() if n == message.metadata.src_node_id), None)
                self._refused.append(f"client {who}: {str(message.error.reason).strip().splitlines()[-1]}")
                continue
            try:
                reply = reply_of(message)
            except (JostleError, KeyError, TypeError, ValueError) as error:
                self._refused.append(f"node {message.metadata.src_node_id}: {error}")
                continue
            if self.nodes.get(reply.client) != message.metadata.src_node_id:
                self._refused.append(f"client {reply.client}: a reply from another node")
                continue
            if sentence := server.admit(reply):
                self._refused.append(sentence)
        losses = server.losses()
        accepted = server.close()
        row = {
            "round": server.t - 1,
            "lr": self.local.rate(server.t - 1),
            "active": len(self._active),
            "accepted": len(accepted),
            "missing": [one for one in self._active if one not in accepted],
            "refused": self._refused,
            "loss": sum(losses) / len(losses) if losses else None,
            "seconds": time.perf_counter() - self._began,
        }
        self._lost = (self._lost | server.lost) - set(accepted)
        if server.lost and not server.keep_states and self.on_lost_state == "reset":
            server.reset_state()
            row["reset"] = True
        self.history.append(row)
        if self.checkpoint is not None:
            self._save(self.checkpoint)
        metrics = {"accepted": len(accepted), "refused": len(self._refused)}
        if losses:
            metrics["loss"] = row["loss"]
        return arrays_of({"x": server.x}), FLWR.MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No evaluation on the clients."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """No evaluation on the clients."""
        return None

    @property
    def algorithm(self) -> Algorithm:
        """What the server runs."""
        return self.server.algorithm

    @property
    def initial_arrays(self) -> ArrayRecord:
        """What `start` takes: the model as it stands."""
        return arrays_of({"x": self.server.x})

    def model(self) -> nn.Module:
        """The network with the present parameters, in evaluation mode."""
        return self.flat.built(self.server.x)

    def _meet(self, grid: Grid, wanted: Sequence[int]) -> None:
        """Ask nodes that we have not met which client they are, and wait for the wanted ones.

        Who has been away for longer than `patience` is not waited for again, until it is back.
        """
        while True:
            present = set(grid.get_node_ids())
            if new := sorted(present - set(self._known)):
                self._ask(grid, new)
            # The node that was met last speaks for a client: one that was killed stays on Flower's list for a while.
            self.nodes = {client: node for node, client in self._known.items() if node in present}
            now = time.monotonic()
            for one in self.nodes:
                self._away.pop(one, None)
            absent = [one for one in wanted if one not in self.nodes]
            if not any(now - self._away.setdefault(one, now) < self.patience for one in absent):
                return
            time.sleep(0.2)

    def _ask(self, grid: Grid, nodes: Sequence[int]) -> None:
        asks = [FLWR.Message(record({}, {}), node, FLWR.MessageType.QUERY) for node in nodes]
        for message in grid.send_and_receive(asks, timeout=max(self.patience, 1.0)):
            node = message.metadata.src_node_id
            if message.has_error():
                self._refused.append(f"node {node}: {message.error.reason}")
                continue
            _, facts = read(message.content)
            if facts["client"] in self.server.ids:
                self._known[node] = facts["client"]
                self._sizes[facts["client"]] = facts["samples"]

    def _weigh(self) -> None:
        """The clients' shares of the objective by their samples, once all have said how many."""
        missing = sorted(set(self.server.ids) - set(self._sizes))
        require(
            not missing,
            f"client_weights='samples' needs every client once at the start, but {missing[:5]} are absent",
        )
        total = sum(self._sizes.values())
        self.server.weights = {one: n / total for one, n in self._sizes.items()}

    def _save(self, path: Path) -> None:
        note = {"server": self.server.numbers(), "history": self.history, "sizes": self._sizes}
        checkpoints.write(path, self.server.tensors(), plain(note))

    def _load(self, path: Path) -> None:
        tensors, note = checkpoints.read(path)
        self.server.take_up(tensors, note["server"])
        self.history = note["history"]
        self._sizes.update({int(one): n for one, n in note["sizes"].items()})


def make_strategy(
    algorithm: Algorithm,
    model: nn.Module,
    clients: int | Sequence[int],
    *,
    local: Local,
    fraction: float = 0.1,
    sampling: Sampling = "fixed",
    seed: int = 20,
    client_weights: Literal["uniform", "samples"] = "uniform",
    keep_states: bool = False,
    on_lost_state: Literal["reset", "refuse"] = "reset",
    checkpoint: str | Path | None = None,
    patience: float = 60.0,
) -> FederatedStrategy:
    """A Flower strategy for one of our algorithms.

    A reply that is lost, comes twice, comes late, has another shape or holds NaN changes nothing: the client's
    vectors are settled by what the server accepted. Use it as `strategy.start(grid, strategy.initial_arrays, rounds)`.

    **Arguments:** `algorithm`; `model`: its parameters at the start. `clients`: how many, or their ids (the
    `partition-id` of the nodes). `local`, `fraction`, `sampling`, `seed`, `client_weights`, `keep_states`,
    `on_lost_state`: as for [`Federation`][jostle.federated.Federation]. `checkpoint`: .safetensors file that is
    written each round, and taken up if it is there. `patience`: seconds to wait for a node that is absent.
    **Raises:** `JostleError` for settings out of range.

    >>> from jostle.federated import FedSpeed
    >>> make_strategy(FedSpeed(), nn.Linear(2, 2), 10, local=Local(lr=0.1)).server.x.shape
    torch.Size([6])
    """
    algorithm.check(local.lr)
    flat = FlatModel(model, nn.functional.cross_entropy)
    ids = tuple(range(clients)) if isinstance(clients, int) else tuple(sorted(clients))
    require(len(ids) > 0, "clients must be at least 1, but none came")
    require(0 < fraction <= 1, f"fraction must lie in (0, 1], but {fraction} came")
    require(patience >= 0, f"patience must be at least 0 seconds, but {patience} came")
    for name, value, allowed in (
        ("client_weights", client_weights, ("uniform", "samples")),
        ("on_lost_state", on_lost_state, ("reset", "refuse")),
    ):
        require(value in allowed, f"{name} must be one of {', '.join(allowed)}, but {value!r} came")
    return FederatedStrategy(
        Server(algorithm, flat.start.clone(), ids, keep_states=keep_states),
        flat,
        local,
        fraction=fraction,
        sampling=sampling,
        seed=seed,
        on_lost_state=on_lost_state,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        patience=patience,
        samples_decide=client_weights == "samples",
    )
