"""The client's half of a federation on Flower: a ClientApp that trains one client and remembers in two phases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require
from jostle.federated.algorithm import Algorithm, Round
from jostle.federated.clients import Plan, Population
from jostle.federated.engines import noise_of
from jostle.federated.flat import FlatModel, Loss
from jostle.federated.flower.records import FLWR, MODEL, NOTE, read, record
from jostle.federated.local import Local, train
from jostle.federated.memory import LostState, Memory
from jostle.federated.server import Reply

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
else:
    Context = Message = ClientApp = Any


def make_client_app(
    algorithm: Algorithm,
    model_fn: Callable[[], nn.Module],
    data_fn: Callable[[int], Any],
    loss: Loss = nn.functional.cross_entropy,
    *,
    state_dir: str | Path | None = None,
) -> ClientApp:
    """A Flower ClientApp that trains one client of a federation.

    The client's id is the node's `partition-id` (`--node-config "partition-id=0"`).

    **Arguments:** `algorithm`: the server's. `model_fn`: makes the network. `data_fn`: from the client's id to its
    data set. `loss`: mean loss. `state_dir`: a folder of this machine for what the client remembers between
    rounds, which survives a restart of the SuperNode; without it the node's `state-dir`
    (`--node-config 'partition-id=0 state-dir="..."'`). Without either, Flower's own context keeps it, which lives as
    long as the node's process.

    >>> from jostle.federated import FedSpeed
    >>> app = make_client_app(FedSpeed(), lambda: nn.Linear(2, 2), lambda i: (torch.zeros(1, 2), torch.zeros(1).long()))
    >>> type(app).__name__
    'ClientApp'
    """
    app = cast(Any, optional("flwr.clientapp", "federated")).ClientApp()
    # Made once a process, at the first message.
    models: list[FlatModel] = []
    data: dict[int, tuple[Tensor, Tensor]] = {}

    def held(client: int) -> tuple[FlatModel, tuple[Tensor, Tensor]]:
        if not models:
            flat = FlatModel(model_fn(), loss)
            require(
                not flat.statistics.layers,
                "model has running statistics: use replace_batchnorm(model, groups=2)",
            )
            models.append(flat)
        if client not in data:
            x, y = Population(data_fn, client + 1).load(client)
            data[client] = x.to(models[0].device), y.to(models[0].device)
        return models[0], data[client]

    @app.query()
    def query(message: Message, context: Context) -> Message:
        client = partition_id(context)
        samples = len(held(client)[1][0])
        return FLWR.Message(record({}, {"client": client, "samples": samples}), reply_to=message)

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        client = partition_id(context)
        flat, mine = held(client)
        tensors, note = read(message.content)
        require(
            note["algorithm"] == repr(algorithm),
            f"the server runs {note['algorithm']}, but this client has {algorithm!r}",
        )
        folder = state_dir or context.node_config.get("state-dir")
        path = None if folder is None else memory_path(str(folder), context.run_id, client)
        memory = _from_context(context) if path is None else Memory.load(path)
        reply, memory = _answer(algorithm, flat, mine, client, tensors, note, memory)
        # Kept before the reply leaves: a process that dies in between has not told anybody yet.
        if path is None:
            _to_context(context, memory)
        else:
            memory.save(path)
        sent = {"delta": reply.delta, **{f"upload.{k}": v for k, v in reply.uploads.items()}}
        sent |= {f"state.{k}": v for k, v in reply.state.items()}
        facts = {
            "client": client,
            "round": reply.round,
            "steps": reply.steps,
            "samples": reply.samples,
            "loss": reply.loss,
            "lost": reply.lost,
        }
        return FLWR.Message(record(sent, facts), reply_to=message)

    return app


def partition_id(context: Context) -> int:
    """Which client a node is.

    **Raises:** `JostleError` if its configuration does not say.
    """
    held = context.node_config.get("partition-id")
    if not isinstance(held, int):
        raise JostleError(
            f"a node needs a whole number as partition-id (--node-config 'partition-id=0'), but {held!r} came"
        )
    return held


def memory_path(folder: str | Path, run_id: int, client: int) -> Path:
    """Where a client of a run keeps what it remembers; a node's own id changes when it restarts.

    >>> memory_path("state", 7, 0).as_posix()
    'state/run-7/client-0.safetensors'
    """
    return Path(folder) / f"run-{run_id}" / f"client-{client}.safetensors"


def _answer(
    algorithm: Algorithm,
    flat: FlatModel,
    data: tuple[Tensor, Tensor],
    client: int,
    tensors: Mapping[str, Tensor],
    note: Mapping[str, Any],
    memory: Memory,
) -> tuple[Reply, Memory]:
    """One client's round, from what came down."""
    t, accepted, generation = note["round"], note["accepted"], note["generation"]
    x = tensors["x"].to(flat.device)
    require(
        x.shape == flat.start.shape and x.dtype == flat.dtype,
        f"the server's model is {tuple(x.shape)} of {x.dtype}, but this client's is {tuple(flat.start.shape)} of "
        f"{flat.dtype}",
    )
    if any(name.startswith("copy.") for name in tensors):
        copies = {name.removeprefix("copy."): v for name, v in tensors.items() if name.startswith("copy.")}
        memory.restore(accepted, copies, generation)
    try:
        held = memory.recall(accepted, generation)
    except LostState:
        return Reply(client, t, torch.zeros(0), steps=0, lost=True), memory
    local = Local(**note["local"])
    plan = Plan.draw(note["seed"], t, client, len(data[0]), local.epochs, local.batch_size)
    require(len(plan) > 0, f"client {client} holds no data")
    round = Round(
        t,
        note["lr"],
        note["clients"],
        x,
        {name: tensors[f"vector.{name}"].to(flat.device) for name in algorithm.broadcast},
        {slot: held.get(slot, torch.zeros_like(x)).to(flat.device)[None] for slot in algorithm.client_slots},
        torch.full((1, 1), float(len(plan)), dtype=x.dtype, device=x.device),
    )
    noise = noise_of(flat, note["seed"], t, [client], [data], [plan])
    v, losses = train(algorithm, flat.one, [data], [plan], round, local, noise)
    delta = v - x
    state, uploads = algorithm.client_update(delta, round)
    mine = {name: value[0].clone() for name, value in state.items()}
    memory.propose(t, mine)
    reply = Reply(
        client,
        t,
        delta[0],
        {name: value[0] for name, value in uploads.items()},
        len(plan),
        len(data[0]),
        float(losses[0]),
        mine if note["keep_states"] else {},
    )
    return reply, memory


def _from_context(context: Context) -> Memory:
    if MODEL not in context.state:
        return Memory()
    return Memory.rebuilt(*read(context.state))


def _to_context(context: Context, memory: Memory) -> None:
    kept = record(memory.tensors(), memory.numbers())
    context.state[MODEL], context.state[NOTE] = kept[MODEL], kept[NOTE]
