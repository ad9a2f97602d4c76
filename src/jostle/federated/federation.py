"""A federation: a network, a loss and clients with data of their own, ready for any algorithm."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.federated.algorithm import Algorithm
from jostle.federated.buffers import Buffers, check_buffers
from jostle.federated.clients import Clients, Population
from jostle.federated.course import Course, Row
from jostle.federated.engines import Engine
from jostle.federated.flat import FlatModel, Loss
from jostle.federated.local import ClipMode, Local
from jostle.federated.sampling import Sampling
from jostle.federated.server import Transport
from jostle.files import plain, whole
from jostle.zoo import Images

_JUDGED = 1000


@dataclass(frozen=True, eq=False)
class Federated:
    """What a run gave: the network, the history, and the vectors of server and clients.

    `model`: a copy of the user's network with the final parameters. `history`: a row a round. `course`: the run
    itself, which can go on.
    """

    model: nn.Module
    history: Sequence[Row]
    course: Course = field(repr=False)

    suffix: ClassVar[str] = ".safetensors"

    def numbers(self) -> Row:
        """The last round, and the mean and best accuracy (the mean over the last ten that were judged)."""
        last = {k: v for k, v in self.history[-1].items() if k not in ("refused", "missing")}
        scores = [row["accuracy"] for row in self.history if row.get("accuracy") is not None]
        if scores:
            last |= {"last_ten": sum(scores[-10:]) / len(scores[-10:]), "best": max(scores)}
        return last

    def save(self, path: str | Path) -> Path:
        """Write the network's weights (.safetensors), with the history in the header."""
        from safetensors.torch import save

        path = Path(path)
        require(path.suffix == self.suffix, f"path must end in {self.suffix}, but {path.name} came")
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        note = json.dumps(plain(list(self.history)))
        with whole(path) as draft:
            draft.write_bytes(save(state, metadata={"history": note}))
        return path


class Federation:
    """Clients that train one network together.

    **Arguments:** `model`: the network, which is copied. `loss`: mean loss of its output and targets. `clients`:
    data sets by position or id, or a function from id to data set with `count`. `test`: pair of tensors or
    images, judged every `evaluate_every` rounds. `seed`: of sampling and batches. `fraction`: share of clients a
    round, in (0, 1]. `sampling`: `"fixed"` number or `"bernoulli"`, the official program's draws. `engine`:
    `"sequential"`, `"batched"` (one pass for all clients), or `"auto"`, which times both on the first round (name
    one for runs that are equal to the last bit on every machine). `client_chunk`: most clients in a batched pass.
    `client_weights`: `"uniform"`, or `"samples"`: the objective weighs clients by their data. `on_bad_client`:
    what a NaN from a client does: `"error"`, or `"drop"`: its reply is refused. `on_empty`: `"skip"` a client
    without data, or `"error"`. `transport`: what becomes of replies on their way. `keep_states`: the server holds
    a copy of every client's vectors. `on_lost_state`: a client without its vectors makes the server `"reset"` all
    corrections, or is left out (`"refuse"`). `augment`: from a client's batch and a generator to a new batch.
    `buffers`: what becomes of running statistics (batch normalisation), which only the sequential engine can have.
    `"error"` refuses them; `"average"`: clients start from the server's and it averages theirs, as it averages
    models; `"local"`: each client keeps its own and none travel, and the server's model is judged with those of
    the clients that replied, on average. The ascent's end leaves them alone.
    `state_dir`: an empty folder for what clients remember, a memory-mapped file each, where `m*D` numbers are too
    many for main memory; checkpoints then hold the server alone, are written every round, and go on with it.
    **Raises:** `JostleError` for settings out of range, or layers with running statistics.

    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> clients = [(x[i::4], y[i::4]) for i in range(4)]
    >>> fed = Federation(nn.Linear(3, 2), nn.functional.cross_entropy, clients, test=(x, y), fraction=0.5)
    >>> from jostle.federated import FedSpeed
    >>> found = fed.run(FedSpeed(), rounds=20, lr=0.1, batch_size=5)
    >>> found.history[-1]["accuracy"] > 0.8
    True
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        clients: Clients,
        *,
        count: int | None = None,
        test: tuple[Tensor, Tensor] | Images | None = None,
        seed: int = 20,
        fraction: float = 0.1,
        sampling: Sampling = "fixed",
        engine: Engine = "auto",
        client_chunk: int | None = None,
        client_weights: Literal["uniform", "samples"] = "uniform",
        on_bad_client: Literal["error", "drop"] = "error",
        on_empty: Literal["skip", "error"] = "skip",
        on_lost_state: Literal["reset", "refuse"] = "reset",
        transport: Transport | None = None,
        keep_states: bool = False,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        evaluate_every: int = 1,
        buffers: Buffers = "error",
        state_dir: str | Path | None = None,
    ) -> None:
        self.flat = FlatModel(model, loss)
        self.population = Population(clients, count)
        require(0 < fraction <= 1, f"fraction must lie in (0, 1], but {fraction} came")
        require(seed >= 0, f"seed must be at least 0, but {seed} came")
        for name, value, allowed in (
            ("sampling", sampling, ("fixed", "bernoulli")),
            ("engine", engine, ("sequential", "batched", "auto")),
            ("client_weights", client_weights, ("uniform", "samples")),
            ("on_bad_client", on_bad_client, ("error", "drop")),
            ("on_empty", on_empty, ("skip", "error")),
            ("on_lost_state", on_lost_state, ("reset", "refuse")),
            ("buffers", buffers, ("error", "average", "local")),
        ):
            require(value in allowed, f"{name} must be one of {', '.join(allowed)}, but {value!r} came")
        require(
            client_chunk is None or client_chunk >= 1,
            f"client_chunk must be at least 1, but {client_chunk} came",
        )
        require(evaluate_every >= 1, f"evaluate_every must be at least 1, but {evaluate_every} came")
        require(
            state_dir is None or not keep_states,
            "keep_states would hold in main memory what state_dir keeps in files: give one of them",
        )
        self.state_dir = None if state_dir is None else Path(state_dir)
        check_buffers(buffers, engine, self.flat.statistics.layers)
        self.test = test.tensors() if isinstance(test, Images) else test
        self.seed, self.fraction = seed, fraction
        self.sampling: Sampling = sampling
        # Statistics are written in place as a client trains, so clients that have them take turns.
        self.engine: Engine = "sequential" if self.flat.statistics.layers else engine
        self.buffers: Buffers = buffers if self.flat.statistics.layers else "error"
        self.client_chunk, self.on_bad_client, self.on_empty = client_chunk, on_bad_client, on_empty
        self.on_lost_state, self.transport, self.keep_states = on_lost_state, transport, keep_states
        self.augment, self.evaluate_every = augment, evaluate_every
        self.weights: Mapping[int, float] | None = None
        if client_weights == "samples":
            sizes = {one: self.population.size(one) for one in self.population.ids}
            total = sum(sizes.values())
            require(total > 0, "client_weights='samples' needs a client with data, but all are empty")
            self.weights = {one: size / total for one, size in sizes.items()}
        self._classes: int | None = None
        self._looked = False

    def classes(self, x: Tensor) -> int | None:
        """How many classes the network tells apart: the width of its output, if that is a table of scores."""
        if not self._looked and len(x):
            # Two samples, as a layer may normalise by the batch it sees.
            output = self.flat.output(self.flat.start, x[:2])
            self._classes = output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None
            self._looked = True
        return self._classes

    def evaluate(self, v: Tensor, statistics: Tensor | None = None) -> Row:
        """Mean loss on the test data, and accuracy where the targets are classes."""
        assert self.test is not None
        held = self.flat.statistics
        held.write(held.start if statistics is None else statistics)
        x, y = self.test
        total, hits = 0.0, 0
        labels = y.ndim == 1 and not y.dtype.is_floating_point
        for start in range(0, len(x), _JUDGED):
            part = x[start : start + _JUDGED].to(self.flat.device)
            wanted = y[start : start + _JUDGED].to(self.flat.device)
            output = self.flat.output(v, part)
            with torch.no_grad():
                total += float(self.flat.loss(output, wanted)) * len(part)
            if labels:
                hits += int((output.argmax(1) == wanted).sum())
        return {"test_loss": total / len(x), **({"accuracy": hits / len(x)} if labels else {})}

    def start(self, algorithm: Algorithm, local: Local) -> Course:
        """Begin a run that is taken one round at a time; see [`Course`][jostle.federated.Course]."""
        return Course(self, algorithm, local)

    def run(
        self,
        algorithm: Algorithm,
        *,
        rounds: int,
        lr: float = 0.1,
        lr_decay: float = 0.998,
        local_epochs: int = 5,
        batch_size: int = 50,
        weight_decay: float = 1e-3,
        max_norm: float = 10.0,
        clip_mode: ClipMode = "loss",
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 10,
        resume: str | Path | None = None,
        callback: Callable[[int, int, str], None] | None = None,
    ) -> Federated:
        """Train for `rounds` rounds in all.

        **Arguments:** `algorithm`. `rounds`: at least 1, those of a resumed checkpoint included. `lr` to `clip_mode`:
        see [`Local`][jostle.federated.Local]. `checkpoint`: .safetensors file to keep the state in, every
        `checkpoint_every` rounds (every round where there is a `state_dir`) and at the end. `resume`: a checkpoint
        to go on from, with the same numbers as an unbroken run. `callback`: `(done, total, figure)` after each
        round.
        **Returns:** a [`Federated`][jostle.federated.Federated].
        **Raises:** `JostleError` for settings out of range or a client that fails.
        """
        require(rounds >= 1, f"rounds must be at least 1, but {rounds} came")
        require(checkpoint_every >= 1, f"checkpoint_every must be at least 1, but {checkpoint_every} came")
        local = Local(lr, lr_decay, local_epochs, batch_size, weight_decay, max_norm, clip_mode)
        course = self.start(algorithm, local)
        if resume is not None:
            course.load(resume)
            done = course.server.t
            require(done <= rounds, f"rounds must be at least the checkpoint's {done}, but {rounds} came")
        every = checkpoint_every if self.state_dir is None else 1
        while course.server.t < rounds:
            row = course.advance()
            done = course.server.t
            if checkpoint is not None and (done % every == 0 or done == rounds):
                course.save(checkpoint)
            if callback is not None:
                callback(done, rounds, _figure(row))
        return Federated(course.network(), course.history, course)


def _figure(row: Row) -> str:
    """What a progress bar shows of a round."""
    if row.get("accuracy") is not None:
        return f"accuracy {row['accuracy']:.1%}"
    return "no reply" if row["loss"] is None else f"loss {row['loss']:.3f}"
