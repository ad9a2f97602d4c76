"""A federation under way: one round at a time, with all that a later process needs to go on."""

import time
import warnings
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.federated import checkpoints
from jostle.federated.algorithm import Algorithm, Round
from jostle.federated.clients import Plan, check_targets
from jostle.federated.engines import Engine, choose, chunks, gradient_of, noise_of
from jostle.federated.local import Gradient, Local, train
from jostle.federated.memory import LostState, Memory
from jostle.federated.randomness import AUGMENT, torch_stream
from jostle.federated.sampling import sample
from jostle.federated.server import Reply, Server
from jostle.federated.shelf import Shelf

if TYPE_CHECKING:
    from jostle.federated.federation import Federation

Row = dict[str, Any]
"""One round of the history."""


class Course:
    """One algorithm on a federation, taken a round at a time by `advance`.

    Made by [`Federation.start`][jostle.federated.Federation]. `history` has a row a round; `server` holds the model
    and the server's vectors, `memories` what each client remembers.
    """

    def __init__(self, federation: "Federation", algorithm: Algorithm, local: Local) -> None:
        require(isinstance(algorithm, Algorithm), f"algorithm must be an Algorithm, but {algorithm!r} came")
        algorithm.check(local.lr)
        self.federation, self.algorithm, self.local = federation, algorithm, local
        flat = federation.flat
        self.server = Server(
            algorithm,
            flat.start.clone(),
            federation.population.ids,
            federation.weights,
            keep_states=federation.keep_states,
            statistics=flat.statistics.start.clone() if federation.buffers == "average" else None,
        )
        active = getattr(algorithm, "aggregation", "all") == "active"
        if active and federation.fraction < 1:
            warnings.warn(
                "aggregation='active' does not converge when some clients are absent; 'all' does",
                stacklevel=3,
            )
        away = federation.state_dir
        self.memories: MutableMapping[int, Memory] = {} if away is None else Shelf(away)
        # Running statistics that stay with the clients: no half of any sum, so they need no second phase.
        self.statistics: dict[int, Tensor] = {}
        self.history: list[Row] = []
        self.engine: Engine | None = None if federation.engine == "auto" else federation.engine
        self._warned = False

    def advance(self) -> Row:
        """Run one round; returns its row of the history.

        **Raises:** `JostleError` for a client whose update is not finite (unless `on_bad_client="drop"`).
        """
        fed, server = self.federation, self.server
        if isinstance(self.memories, Shelf):
            self.memories.begin()
        started = time.perf_counter()
        t, lr = server.t, self.local.rate(server.t)
        picked = sample(len(server.ids), fed.fraction, t, seed=fed.seed, sampling=fed.sampling)
        active = [server.ids[i] for i in picked]
        data = {one: self._load(one) for one in active}
        empty = [one for one in active if not len(data[one][0])]
        server.open(lr, active)
        ready = [one for one in active if one not in empty]
        refused: list[str] = [f"client {one}: holds no data" for one in empty]
        moved: list[Tensor] = []
        sums = {"gradients": 0, "replies": 0, "slots": 0.0}
        if ready and self.engine is None:
            plans = [self._plan(one, data[one]) for one in ready]
            held = [data[one] for one in ready]
            self.engine, why = choose(
                fed.flat, held, plans, noise_of(fed.flat, fed.seed, t, ready, held, plans)
            )
            if why:
                warnings.warn(f"running the clients one after another: {why}", stacklevel=2)
        for group in chunks(ready, self.engine or "sequential", fed.client_chunk):
            for reply, norm in self._work(group, data):
                moved += [] if reply.lost else [reply.delta]
                sums["gradients"] += reply.steps * (1 + self.algorithm.needs_ascent)
                sums["replies"] += not reply.lost
                sums["slots"] += norm
                for arrived in [reply] if fed.transport is None else fed.transport(reply):
                    sentence = server.admit(arrived)
                    if sentence:
                        refused.append(sentence)
                        self._judge(sentence, reply, data)
        losses = server.losses()
        accepted = server.close()
        row: Row = {
            "round": t,
            "lr": lr,
            "active": len(active),
            "accepted": len(accepted),
            "missing": [one for one in active if one not in accepted],
            "refused": refused,
            "loss": sum(losses) / len(losses) if losses else None,
            "divergence": float(torch.stack(moved).square().sum(1).mean()) if moved else 0.0,
            "norm_x": float(torch.linalg.vector_norm(server.x)),
            **{f"norm_{k}": float(torch.linalg.vector_norm(v)) for k, v in server.vectors.items()},
            "norm_client": sums["slots"] / max(1, sums["replies"]),
            **self._costs(len(active), int(sums["replies"]), int(sums["gradients"])),
        }
        if server.lost and not server.keep_states and fed.on_lost_state == "reset":
            server.reset_state()
            row["reset"] = True
        self._watch(row)
        due = fed.test is not None and (server.t % fed.evaluate_every == 0)
        row |= self._scores(accepted) if due else {}
        row["seconds"] = time.perf_counter() - started
        self.history.append(row)
        return row

    def network(self, client: int | None = None) -> nn.Module:
        """A copy of the network as the server has it, in evaluation mode.

        **Arguments:** `client`: whose running statistics it gets, with `buffers="local"`; without one, those that the
        network came with. With `buffers="average"` it gets the server's.
        """
        return self.federation.flat.built(self.server.x, self._statistics(client))

    def _statistics(self, client: int | None) -> Tensor:
        """The running statistics that a client starts from."""
        if self.server.statistics is not None:
            return self.server.statistics
        start = self.federation.flat.statistics.start
        return start if client is None else self.statistics.get(client, start)

    def _scores(self, accepted: list[int]) -> Row:
        fed, x = self.federation, self.server.x
        if fed.buffers != "local":
            return fed.evaluate(x, self.server.statistics)
        scores = [fed.evaluate(x, self._statistics(one)) for one in accepted]
        return {name: sum(s[name] for s in scores) / len(scores) for name in (scores[0] if scores else ())}

    def _load(self, client: int) -> tuple[Tensor, Tensor]:
        fed = self.federation
        x, y = fed.population.load(client)
        x, y = x.to(fed.flat.device), y.to(fed.flat.device)
        if not len(x) and fed.on_empty == "error":
            raise JostleError(f"client {client} holds no data; on_empty='skip' passes over such clients")
        if len(x) and x.is_floating_point() and x.dtype != fed.flat.kind:
            raise JostleError(
                f"client {client} holds inputs of {x.dtype}, but the model is of {fed.flat.kind}: convert one"
            )
        check_targets(client, y, fed.classes(x))
        return x, y

    def _plan(self, client: int, held: tuple[Tensor, Tensor]) -> Plan:
        local, samples = self.local, len(held[0])
        return Plan.draw(self.federation.seed, self.server.t, client, samples, local.epochs, local.batch_size)

    def _work(self, group: list[int], data: Mapping[int, tuple[Tensor, Tensor]]) -> list[tuple[Reply, float]]:
        """What some clients do, together: recall, train, propose, reply."""
        server, replies = self.server, []
        able: dict[int, Memory] = {}
        for one in group:
            memory, last = self.memories.get(one) or Memory(), server.last(one)
            try:
                memory.recall(last, server.generation)
            except LostState:
                if one not in server.copies:
                    gone = torch.zeros(0, device=server.x.device)
                    replies.append((Reply(one, server.t, gone, steps=0, lost=True), 0.0))
                    continue
                memory.restore(last, server.copies[one], server.generation)
            able[one] = memory
        if able:
            replies += self._train(able, data)
        return replies

    def _train(
        self, memories: Mapping[int, Memory], data: Mapping[int, tuple[Tensor, Tensor]]
    ) -> list[tuple[Reply, float]]:
        fed, server, algorithm, able = self.federation, self.server, self.algorithm, list(memories)
        held, plans = [data[one] for one in able], [self._plan(one, data[one]) for one in able]
        blank = torch.zeros_like(server.x)
        client = {
            slot: torch.stack([memories[one].committed.get(slot, blank).to(blank.device) for one in able])
            for slot in algorithm.client_slots
        }
        steps = torch.tensor([[float(len(p))] for p in plans], dtype=server.x.dtype, device=server.x.device)
        round = server.round(client, steps)
        running = fed.flat.statistics
        running.write(self._statistics(able[0]))  # who has them trains alone
        v, losses = self._steps(able, held, plans, round, gradient_of(fed.flat, self.engine or "sequential"))
        statistics = running.read()
        if fed.buffers == "local" and bool(torch.isfinite(statistics).all()):
            self.statistics[able[0]] = statistics
        delta = v - server.x
        state, uploads = algorithm.client_update(delta, round)
        norms = sum(
            (value.square().sum(1) for value in state.values()), torch.zeros(len(able)).to(delta)
        ).sqrt()
        out = []
        for i, one in enumerate(able):
            # Rows are copied: a view would keep the vectors of the whole group alive.
            mine = {slot: value[i].clone() for slot, value in state.items()}
            memories[one].propose(server.t, mine)
            self.memories[one] = memories[one]
            up = {name: value[i] for name, value in uploads.items()}
            kept = mine if server.keep_states else {}
            out.append(
                (
                    Reply(
                        one,
                        server.t,
                        delta[i],
                        up,
                        len(plans[i]),
                        len(held[i][0]),
                        float(losses[i]),
                        kept,
                        statistics=None if server.statistics is None else statistics,
                    ),
                    float(norms[i]),
                )
            )
        return out

    def _steps(
        self,
        able: list[int],
        held: list[tuple[Tensor, Tensor]],
        plans: list[Plan],
        round: Round,
        gradient: Gradient,
    ) -> tuple[Tensor, Tensor]:
        """The local steps of some clients, with the augmentation and the dropout masks that are theirs."""
        fed = self.federation
        try:
            return train(
                self.algorithm,
                gradient,
                held,
                plans,
                round,
                self.local,
                noise_of(fed.flat, fed.seed, self.server.t, able, held, plans),
                None if fed.augment is None else self._augment(able),
                fed.flat.still if fed.flat.statistics.layers else None,
            )
        except ValueError as error:
            if "Expected more than 1" not in str(error):
                raise
            raise JostleError(
                f"client {able[0]}: {error}; a batch of one sample has no statistics: take another batch_size"
            ) from error

    def _augment(self, able: list[int]) -> Any:
        fed, t = self.federation, self.server.t

        def change(i: int, k: int, x: Tensor) -> Tensor:
            assert fed.augment is not None
            return fed.augment(x, torch_stream(AUGMENT, fed.seed, t, able[i], k))

        return change

    def _judge(self, sentence: str, reply: Reply, data: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        if "NaN or infinity" not in sentence or self.federation.on_bad_client == "drop":
            return
        step = self._first_bad_step(reply.client, data) if not torch.isfinite(reply.delta).all() else None
        at = "" if step is None else f", first after local step {step}"
        raise JostleError(
            f"{sentence}{at}; lower lr, look at its data, or pass over such clients with on_bad_client='drop'"
        )

    def _first_bad_step(self, client: int, data: Mapping[int, tuple[Tensor, Tensor]]) -> int | None:
        """Do a client's round again, step by step, to say where it went wrong."""
        server, plan = self.server, self._plan(client, data[client])
        committed, blank = self.memories[client].committed, torch.zeros_like(server.x)
        for k in range(1, len(plan) + 1):
            slots = {s: committed.get(s, blank).to(blank)[None].clone() for s in self.algorithm.client_slots}
            v, _ = self._steps(
                [client],
                [data[client]],
                [replace(plan, steps=k)],
                server.round(slots),
                self.federation.flat.one,
            )
            if not bool(torch.isfinite(v).all()):
                return k
        return None

    def _costs(self, active: int, replies: int, gradients: int) -> Row:
        """Bytes on the wire and minibatch gradients, of the round and so far."""
        number = self.server.x.element_size() * len(self.server.x)
        kept = len(self.algorithm.client_slots) if self.server.keep_states else 0
        extra = 0 if self.server.statistics is None else self.federation.flat.statistics.size
        down = active * (number * (1 + len(self.algorithm.broadcast)) + extra)
        up = replies * (number * (1 + len(self.algorithm.uploads) + kept) + extra)
        before = self.history[-1] if self.history else {"total_bytes": 0, "total_gradients": 0}
        return {
            "bytes_down": down,
            "bytes_up": up,
            "gradients": gradients,
            "total_bytes": before["total_bytes"] + down + up,
            "total_gradients": before["total_gradients"] + gradients,
        }

    def _watch(self, row: Row) -> None:
        if not self._warned and row.get("norm_hbar", 0.0) > row["norm_x"] > 0:
            self._warned = True
            warnings.warn(
                f"the mean correction is longer than the model itself in round {row['round']}: clients return too "
                "rarely for this lr_decay or prox_mu",
                stacklevel=3,
            )

    def reset_state(self) -> None:
        """Forget all corrections, at the server and at every client; the model stays."""
        self.server.reset_state()

    def state(self) -> tuple[dict[str, Tensor], Row]:
        """All that a later process needs: tensors, and numbers for JSON (beside `state_dir`, where there is one)."""
        return checkpoints.state(self)

    def take_up(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        **Raises:** `JostleError` if it belongs to other settings or other clients.
        """
        checkpoints.take_up(self, tensors, numbers)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint (.safetensors), whole or not at all."""
        path = Path(path)
        require(path.suffix == ".safetensors", f"checkpoint must end in .safetensors, but {path.name} came")
        return checkpoints.write(path, *self.state())

    def load(self, path: str | Path) -> None:
        """Take up a checkpoint that `save` wrote.

        **Raises:** `JostleError` if it is absent, broken or of another federation.
        """
        self.take_up(*checkpoints.read(Path(path)))
