"""Networks with running statistics: refused, averaged by the server, or kept by each client."""

import math
import re
from dataclasses import replace

import pytest
import torch
from federated.problems import RAGGED, clients, federation
from federated.test_engines import STEPS
from helpers import plain
from torch import nn

from jostle import JostleError
from jostle.federated import FedAvg, Federation, FedSAM, FedSpeed, Local, Scaffold, losing

LAYERS = [nn.BatchNorm1d(5), nn.BatchNorm1d(5, momentum=None)]


def normed(first: nn.Module | None = None) -> nn.Sequential:
    """Its first layer sees the data themselves, so that its statistics are known without training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            first or nn.BatchNorm1d(5), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
        ).double()


def held(buffers: str, model: nn.Module | None = None, sizes=(12,) * 6, **settings) -> Federation:
    model = model or normed()
    return federation(sizes, model=model, buffers=buffers, **{"engine": "sequential", **settings})


WHOLE = Local(lr=0.1, epochs=1, batch_size=12)
"""One step a round, on all that a client holds."""


@pytest.mark.parametrize("engine", ["sequential", "batched", "auto"])
def test_refused_by_default(engine) -> None:
    with pytest.raises(
        JostleError, match="running statistics in '0', '2'.*replace_batchnorm.*buffers='average'"
    ):
        held("error", engine=engine)


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_one_pass_for_all_clients_has_no_place_for_them(buffers) -> None:
    with pytest.raises(
        JostleError, match="'batched' cannot keep .* '0', '2' .*sequential.*replace_batchnorm"
    ):
        held(buffers, engine="batched")
    fed = held(buffers, engine="auto")
    course = fed.start(FedAvg(), WHOLE)
    course.advance()
    assert course.engine == "sequential"


def test_a_word_that_means_nothing() -> None:
    with pytest.raises(JostleError, match="buffers must be one of error, average, local, but 'global' came"):
        plain(Federation.__init__)(
            object.__new__(Federation), normed(), nn.functional.cross_entropy, clients(), buffers="global"
        )


@pytest.mark.study
@pytest.mark.parametrize("buffers", ["error", "average", "local"])
def test_without_statistics_the_word_changes_nothing(buffers) -> None:
    one, two = (fed.start(FedSpeed(), STEPS) for fed in (federation(buffers=buffers), federation()))
    rows = [[c.advance() for _ in range(2)] for c in (one, two)]
    assert torch.equal(one.server.x, two.server.x)
    assert rows[0][1]["total_bytes"] == rows[1][1]["total_bytes"]


@pytest.mark.parametrize("layer", LAYERS, ids=["momentum", "cumulative"])
def test_the_server_averages_what_clients_saw(layer) -> None:
    """One step a client: each mean is `(1 - p) 0 + p mean_i`, each variance `(1 - p) 1 + p var_i`."""
    course = held("average", normed(layer), fraction=1.0).start(FedAvg(), WHOLE)
    course.advance()
    p = layer.momentum or 1.0
    x = torch.stack([x for x, _ in clients()])
    found = course.network()[0]
    assert (found.running_mean - p * x.mean(1).mean(0)).abs().max() < 1e-15
    assert (found.running_var - (1 - p) - p * x.var(1).mean(0)).abs().max() < 1e-15
    assert int(found.num_batches_tracked) == 1


def test_it_weighs_them_as_it_weighs_models() -> None:
    sizes = (4, 12, 8)
    course = held("average", sizes=sizes, fraction=1.0, client_weights="samples").start(FedAvg(), WHOLE)
    course.advance()
    share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    wanted = 0.1 * sum(s * x.mean(0) for s, (x, _) in zip(share, clients(sizes), strict=True))
    assert (course.network()[0].running_mean - wanted).abs().max() < 1e-15


def test_clients_start_from_the_servers() -> None:
    """Two rounds of one client are two steps of the plain layer."""
    course = held("average", sizes=(12,), fraction=1.0).start(FedAvg(), WHOLE)
    layer, (x, _) = nn.BatchNorm1d(5).double(), clients((12,))[0]
    for _ in range(2):
        course.advance()
        layer(x)
    found = course.network()[0]
    assert (found.running_mean - layer.running_mean).abs().max() < 1e-15
    assert (found.running_var - layer.running_var).abs().max() < 1e-15
    assert int(found.num_batches_tracked) == 2


def test_clients_keep_their_own() -> None:
    fed = held("local", fraction=1.0, test=clients((20,))[0])
    course = fed.start(FedAvg(), WHOLE)
    for _ in range(3):
        row = course.advance()
    for one, (x, _) in enumerate(clients()):
        layer = nn.BatchNorm1d(5).double()
        for _ in range(3):
            layer(x)
        mine = course.network(one)
        assert (mine[0].running_mean - layer.running_mean).abs().max() < 1e-15
        assert int(mine[0].num_batches_tracked) == 3
        assert torch.equal(mine[1].weight, course.network()[1].weight)
    # The server has none: its network is as it came, and is judged with those of the clients.
    assert course.network()[0].running_mean.abs().max() == 0
    x, y = clients((20,))[0]
    outputs = [course.network(one)(x).detach() for one in range(6)]
    wanted = sum(float(nn.functional.cross_entropy(o, y)) for o in outputs) / 6
    assert math.isclose(row["test_loss"], wanted, rel_tol=1e-12)
    assert math.isclose(row["accuracy"], sum(float((o.argmax(1) == y).double().mean()) for o in outputs) / 6)


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_the_end_of_the_ascent_leaves_them_alone(buffers) -> None:
    """FedSAM looks at the loss in two places, and counts each batch once, at the model."""
    course = held(buffers, sizes=(12,), fraction=1.0).start(FedSAM(rho=5.0), WHOLE)
    course.advance()
    layer, (x, _) = normed(), clients((12,))[0]
    layer(x)
    found = course.network(0)
    for place in (0, 2):
        assert (found[place].running_mean - layer[place].running_mean).abs().max() < 1e-15
        assert int(found[place].num_batches_tracked) == 1


def test_they_change_nothing_in_how_parameters_move() -> None:
    """In training a batch is normalised by itself: both ways give the parameters of the same network without any."""
    bare = normed()
    for place in (0, 2):
        layer = bare[place]
        bare[place] = nn.BatchNorm1d(layer.num_features, track_running_stats=False).double()
    found = []
    for buffers, model in (("average", normed()), ("local", normed()), ("error", bare)):
        course = held(buffers, model).start(FedSpeed(), STEPS)
        for _ in range(3):
            course.advance()
        found.append(course.server.x)
    assert torch.equal(found[0], found[1]) and (found[0] - found[2]).abs().max() < 1e-14


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_dropout_beside_them_does_not_count_a_batch_twice(buffers) -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    course = held(buffers, model, fraction=1.0).start(FedAvg(), WHOLE)
    course.advance()
    assert int(course.network(0)[0].num_batches_tracked) == 1


def test_lost_replies_are_not_averaged() -> None:
    fed = held("average", fraction=1.0, transport=lambda reply: [reply] if reply.client == 2 else [])
    course = fed.start(FedAvg(), WHOLE)
    course.advance()
    assert (course.network()[0].running_mean - 0.1 * clients()[2][0].mean(0)).abs().max() < 1e-15
    nobody = held("average", transport=lambda reply: []).start(FedAvg(), WHOLE)
    nobody.advance()
    assert torch.equal(nobody.server.statistics, nobody.federation.flat.statistics.start)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda s: s * float("nan"), "client 2: statistics hold NaN or infinity in round 0"),
        (
            lambda s: s[:3],
            r"client 2: statistics must be \(28,\) of torch.float64, but \(3,\) of torch.float64",
        ),
        (lambda s: None, r"client 2: statistics must be \(28,\) of torch.float64, but none came"),
    ],
)
def test_spoilt_statistics_are_refused(spoil, sentence) -> None:
    def carry(reply):
        return [replace(reply, statistics=spoil(reply.statistics)) if reply.client == 2 else reply]

    fed = held("average", fraction=1.0, transport=carry, on_bad_client="drop")
    row = fed.start(FedAvg(), WHOLE).advance()
    assert row["accepted"] == 5 and len(row["refused"]) == 1
    assert re.match(sentence, row["refused"][0])


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_a_checkpoint_goes_on_bit_by_bit(buffers, tmp_path) -> None:
    def made() -> Federation:
        sizes = tuple(n for n in RAGGED if n % 4 != 1)
        return held(buffers, sizes=sizes, transport=losing(0.3, seed=1), test=clients((20,))[0])

    whole, first, again = (made().start(Scaffold(), STEPS) for _ in range(3))
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "c.safetensors")
    again.load(tmp_path / "c.safetensors")
    for _ in range(3):
        again.advance()
    states = [course.state()[0] for course in (whole, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any("statistics" in name for name in states[0])
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in c.history] for c in (whole, again)]
    assert rows[0] == rows[1]
    other = held("average" if buffers == "local" else "local", sizes=tuple(n for n in RAGGED if n % 4 != 1))
    with pytest.raises(JostleError, match="the checkpoint was made with buffers"):
        other.start(Scaffold(), STEPS).load(tmp_path / "c.safetensors")


def test_the_users_network_is_not_touched_and_bytes_are_counted() -> None:
    model = normed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = held("average", model).run(FedAvg(), rounds=1, batch_size=12).history[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    number = sum(p.numel() for p in model.parameters()) + 2 * 5 + 2 * 8 + 2
    assert row["bytes_up"] == row["bytes_down"] == 3 * 8 * number
    assert held("local").run(FedAvg(), rounds=1).history[0]["bytes_up"] == 3 * 8 * (number - 28)


def test_a_batch_of_one_sample_is_a_sentence() -> None:
    with pytest.raises(JostleError, match=r"client 0: Expected more than 1 value.*take another batch_size"):
        held("average", sizes=(5,), fraction=1.0).run(FedAvg(), rounds=1, batch_size=4)
