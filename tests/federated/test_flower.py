"""Flower's side without its network: apps and strategy speak through its own messages, and agree with our engine."""

import json
import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from federated.problems import FAMILY, NAMES, clients, federation, net
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity

from jostle import JostleError
from jostle.federated import FedAvg, FedSpeed, Local, Scaffold
from jostle.federated.flower import make_client_app, make_server_app, make_strategy, memory_path
from jostle.federated.flower.records import read, record


@pytest.fixture(autouse=True)
def a_server_process(monkeypatch) -> None:
    """What Flower sets in the process of a ServerApp before it runs: who sends its messages."""
    for name, value in (("_task_id", 1), ("_run_id", 7), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


STEPS = Local(lr=0.2, lr_decay=0.9, epochs=2, batch_size=5, weight_decay=1e-2)
SIZES = (12, 7, 9, 12)


class Nodes:
    """A grid whose nodes live in this process: node `100 + i` holds client `i`."""

    def __init__(self, algorithm, *, state_dir=None, spoil=lambda node, reply: [reply]) -> None:
        self.algorithm, self.state_dir, self.spoil = algorithm, state_dir, spoil
        self.nodes: dict[int, tuple] = {}
        for i in range(len(SIZES)):
            self.start(100 + i, i)

    def start(self, node: int, client: int) -> None:
        """A fresh process: new app, empty context."""
        app = make_client_app(self.algorithm, net, lambda i: clients(SIZES)[i], state_dir=self.state_dir)
        context = Context(7, node, {"partition-id": client}, RecordDict(), {})
        self.nodes[node] = (app, context)

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            app, context = self.nodes[message.metadata.dst_node_id]
            try:
                reply = app(message, context)
            except Exception as error:
                reply = Message(Error(0, str(error)), reply_to=message)
            if message.metadata.message_type == MessageType.TRAIN:
                replies += self.spoil(message.metadata.dst_node_id, reply)
            else:
                replies.append(reply)
        return replies


def strategy(algorithm, **settings):
    settings = {"fraction": 0.5, "seed": 3, "patience": 0.0, "local": STEPS, **settings}
    return make_strategy(algorithm, net(), len(SIZES), **settings)


def run(made, grid, rounds=4):
    made.start(grid, made.initial_arrays, num_rounds=rounds)
    return made.server.x


def here(algorithm, rounds=4, **settings):
    course = federation(SIZES, engine="sequential", **settings).start(algorithm, STEPS)
    for _ in range(rounds):
        course.advance()
    return course.server.x


@pytest.mark.study
@pytest.mark.parametrize("algorithm", FAMILY, ids=NAMES)
def test_flower_gives_the_model_of_the_engine(algorithm, tmp_path) -> None:
    assert (run(strategy(algorithm), Nodes(algorithm)) - here(algorithm)).abs().max() < 1e-12
    kept = run(strategy(algorithm), Nodes(algorithm, state_dir=tmp_path))
    assert (kept - here(algorithm)).abs().max() < 1e-12


@pytest.mark.study
def test_weights_by_samples() -> None:
    found = run(strategy(FedSpeed(), client_weights="samples"), Nodes(FedSpeed()))
    assert (found - here(FedSpeed(), client_weights="samples")).abs().max() < 1e-12
    assert (found - here(FedSpeed())).abs().max() > 1e-6


@pytest.mark.study
def test_a_restarted_node_goes_on_from_its_file(tmp_path) -> None:
    grid, made = Nodes(FedSpeed(), state_dir=tmp_path), strategy(FedSpeed(), fraction=1.0)
    run(made, grid, 2)
    del grid.nodes[101]
    grid.start(555, 1)
    run(made, grid, 2)
    assert (made.server.x - here(FedSpeed(), fraction=1.0)).abs().max() < 1e-12
    assert memory_path(tmp_path, 7, 1).is_file()


def test_a_node_that_lost_its_memory_makes_the_server_reset() -> None:
    grid, made = Nodes(FedSpeed()), strategy(FedSpeed(), fraction=1.0)
    run(made, grid, 2)
    del grid.nodes[101]
    grid.start(555, 1)
    run(made, grid, 1)
    assert made.history[-1]["reset"] and "client 1: has lost its state" in made.history[-1]["refused"][0]
    run(made, grid, 1)
    assert made.history[-1]["accepted"] == 4 and made.server.generation == 1


@pytest.mark.study
def test_a_server_with_copies_gives_the_memory_back() -> None:
    grid, made = Nodes(Scaffold()), strategy(Scaffold(), fraction=1.0, keep_states=True)
    run(made, grid, 2)
    del grid.nodes[101]
    grid.start(555, 1)
    run(made, grid, 2)
    assert [row["accepted"] for row in made.history] == [4, 4, 3, 4]
    assert made.server.generation == 0


@pytest.mark.study
def test_lost_and_broken_replies_leave_the_sums_alone() -> None:
    def spoil(node, reply):
        at = read(reply.content)[1]["round"] if reply.has_content() else 0
        if node == 101 and at == 1:
            return []
        if node == 102 and at == 2:
            tensors, facts = read(reply.content)
            reply.content = record({**tensors, "delta": tensors["delta"] * float("nan")}, facts)
        if node == 103 and at == 0:
            return [reply, reply]
        if node == 100 and at == 3:
            reply.content = RecordDict()
        return [reply]

    grid, made = Nodes(FedSpeed(), spoil=spoil), strategy(FedSpeed(), fraction=1.0)
    run(made, grid, 5)
    assert [row["accepted"] for row in made.history] == [4, 3, 3, 3, 4]
    assert any("second reply" in one for one in made.history[0]["refused"])
    assert any("NaN" in one for one in made.history[2]["refused"])

    def lose(reply):
        gone = {(1, 1), (2, 2), (3, 0)}
        return [] if (reply.round, reply.client) in gone else [reply]

    assert (made.server.x - here(FedSpeed(), 5, fraction=1.0, transport=lose)).abs().max() < 1e-12


def test_absent_nodes_are_absent_clients() -> None:
    grid, made = Nodes(FedSpeed()), strategy(FedSpeed(), fraction=1.0)
    del grid.nodes[102]
    run(made, grid, 1)
    assert made.history[0]["accepted"] == 3 and made.history[0]["refused"] == [
        "client 2: its node is not there"
    ]


def test_a_client_with_another_algorithm_says_so() -> None:
    grid, made = Nodes(FedAvg()), strategy(FedSpeed(), fraction=1.0)
    before = made.server.x
    run(made, grid, 1)
    assert torch.equal(made.server.x, before) and made.history[0]["accepted"] == 0
    assert "the server runs FedSpeed" in made.history[0]["refused"][0]


def test_the_server_goes_on_from_its_checkpoint(tmp_path) -> None:
    path, grid = tmp_path / "server.safetensors", Nodes(FedSpeed())
    run(strategy(FedSpeed(), checkpoint=path), grid, 2)
    again = strategy(FedSpeed(), checkpoint=path)
    assert again.server.t == 2 and len(again.history) == 2
    assert (run(again, grid, 2) - here(FedSpeed())).abs().max() < 1e-12
    path.write_bytes(b"junk")
    with pytest.raises(JostleError, match="cannot be read"):
        strategy(FedSpeed(), checkpoint=path)


def test_the_server_app_keeps_the_network(tmp_path) -> None:
    from safetensors import safe_open

    out = tmp_path / "net.safetensors"
    app = make_server_app(lambda context: strategy(FedSpeed()))
    app(Nodes(FedSpeed()), Context(7, 0, {}, RecordDict(), {"rounds": 4, "out": str(out)}))
    with safe_open(out, framework="pt") as file:
        flat = torch.cat([file.get_tensor(name).reshape(-1) for name in net().state_dict()])
        assert len(json.loads(file.metadata()["history"])) == 4
    assert (flat - here(FedSpeed())).abs().max() < 1e-12


def test_a_node_must_say_which_client_it_is() -> None:
    app = make_client_app(FedSpeed(), net, lambda i: clients(SIZES)[i])
    ask = Message(record({}, {}), 5, MessageType.QUERY)
    with pytest.raises(JostleError, match="whole number as partition-id"):
        app(ask, Context(7, 5, {}, RecordDict(), {}))


def test_settings_are_checked() -> None:
    for wrong, sentence in (
        ({"fraction": 0.0}, "fraction"),
        ({"patience": -1.0}, "patience"),
        ({"local": replace(STEPS, lr=30.0)}, "lr \\* prox_mu"),
    ):
        with pytest.raises(JostleError, match=sentence):
            strategy(FedSpeed(), **wrong)
