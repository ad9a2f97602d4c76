"""Both engines give the same numbers, whatever the sizes, the order and the layers."""

import pytest
import torch
from federated.problems import EQUAL, FAMILY, NAMES, RAGGED, clients, federation, net
from torch import nn

from jostle import JostleError
from jostle.federated import (
    Algorithm,
    Ascending,
    FedAvg,
    Federation,
    FedSAM,
    FedSpeed,
    Local,
    Scaffold,
    losing,
)

STEPS = Local(lr=0.2, lr_decay=0.9, epochs=2, batch_size=4, weight_decay=1e-2, max_norm=0.5)


def final(fed: Federation, algorithm, rounds: int = 3, steps: Local = STEPS) -> torch.Tensor:
    course = fed.start(algorithm, steps)
    for _ in range(rounds):
        course.advance()
    return course.server.x


@pytest.mark.study
@pytest.mark.parametrize("algorithm", FAMILY, ids=NAMES)
@pytest.mark.parametrize("sizes", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_batched_is_sequential(algorithm, sizes) -> None:
    found = {
        engine: final(federation(sizes, engine=engine), algorithm) for engine in ("batched", "sequential")
    }
    assert (found["batched"] - found["sequential"]).abs().max() < 1e-13
    assert (found["batched"] - federation().flat.start).abs().max() > 1e-3


@pytest.mark.study
def test_an_algorithm_of_ones_own_climbs_by_inheritance() -> None:
    class Mine(Ascending, Algorithm):
        """FedSAM in a line."""

    assert torch.equal(final(federation(), Mine(rho=0.3)), final(federation(), FedSAM(rho=0.3)))
    assert not torch.equal(final(federation(), Mine(rho=0.0)), final(federation(), Mine(rho=0.3)))


def test_in_float32_too() -> None:
    one, two = (
        final(federation(dtype=torch.float32, engine=engine), FedSpeed(), 1)
        for engine in ("batched", "sequential")
    )
    assert ((one - two).norm() / two.norm()) < 1e-5


def test_a_recorded_graph_gives_the_same_bits() -> None:
    whole = federation(fraction=1.0)
    flat, held = whole.flat, clients()
    v = flat.start + 0.1 * torch.randn(
        6, flat.D, generator=torch.Generator().manual_seed(0), dtype=flat.dtype
    )
    x, y = torch.stack([x for x, _ in held]), torch.stack([y for _, y in held])
    plain = flat.batched(v, x, y)
    flat.record(v, x, y)
    (graph,) = flat._recorded.values()
    assert isinstance(graph, torch.fx.GraphModule)
    again = flat.batched(v, x, y)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    other = flat.batched(2 * v, x, y.flip(0))
    flat._recorded.clear()
    assert all(torch.equal(a, b) for a, b in zip(other, flat.batched(2 * v, x, y.flip(0)), strict=True))


@pytest.mark.study
def test_what_comes_often_is_recorded_on_the_way() -> None:
    fed = federation(fraction=1.0)
    course = fed.start(FedSpeed(), STEPS)
    for _ in range(4):
        course.advance()
    assert fed.flat._recorded
    assert torch.equal(course.server.x, final(federation(fraction=1.0), FedSpeed(), 4))


def test_chunks_change_nothing() -> None:
    first = final(federation(fraction=1.0), FedSpeed(), 1)
    chunked = final(federation(fraction=1.0, client_chunk=4), FedSpeed(), 1)
    assert (first - chunked).abs().max() < 1e-15


@pytest.mark.study
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_the_order_of_clients_is_nobodys_business(engine) -> None:
    held = dict(enumerate(clients(RAGGED)))
    turned = dict(sorted(held.items(), reverse=True))
    one, two = (
        Federation(net(), nn.functional.cross_entropy, given, fraction=0.7, engine=engine)
        for given in (held, turned)
    )
    assert torch.equal(final(one, Scaffold()), final(two, Scaffold()))


class Chooser(nn.Module):
    """Control flow that depends on the data: one client after another only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, dtype=torch.float64)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x if x.sum() > 0 else 2 * x)


@pytest.mark.study
def test_auto_falls_back_and_says_why() -> None:
    with pytest.warns(UserWarning, match="one after another: the batched engine cannot run this model"):
        found = final(federation(model=Chooser(), engine="auto"), FedAvg())
    assert torch.equal(found, final(federation(model=Chooser(), engine="sequential"), FedAvg()))
    with pytest.raises(JostleError, match="engine='sequential'"):
        final(federation(model=Chooser()), FedAvg())


@pytest.mark.study
def test_auto_takes_one_of_the_two() -> None:
    fed = federation(engine="auto")
    course = fed.start(FedSpeed(), STEPS)
    course.advance()
    assert course.engine in ("batched", "sequential")
    assert (course.server.x - final(federation(), FedSpeed(), 1)).abs().max() < 1e-13


@pytest.mark.study
@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.AlphaDropout(0.4)], ids=["dropout", "alpha"])
def test_dropout_is_the_same_in_both_engines(layer) -> None:
    def model() -> nn.Module:
        base = net()
        return nn.Sequential(base[0], base[1], layer, base[2])

    if isinstance(layer, nn.AlphaDropout):
        with pytest.raises(JostleError, match="AlphaDropout"):
            federation(model=model())
        return
    one, two = (
        final(federation(RAGGED, model=model(), engine=e), FedSpeed()) for e in ("batched", "sequential")
    )
    assert (one - two).abs().max() < 1e-13
    assert (one - final(federation(RAGGED), FedSpeed())).abs().max() > 1e-4
    assert not torch.equal(one, final(federation(RAGGED, model=model(), seed=4), FedSpeed()))


class Functional(nn.Module):
    """Dropout as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](nn.functional.dropout(self.net[:2](x), 0.4, self.training))


@pytest.mark.study
def test_dropout_as_a_function_is_found_and_seeded() -> None:
    found = []
    for engine in ("batched", "sequential", "sequential"):
        torch.manual_seed(len(found))  # which must not matter
        found.append(final(federation(model=Functional(), engine=engine), FedSpeed()))
    assert torch.equal(found[1], found[2]) and (found[0] - found[1]).abs().max() < 1e-13
    assert (found[0] - final(federation(), FedSpeed())).abs().max() > 1e-4


def test_layers_that_drop_inside_are_refused() -> None:
    model = nn.Sequential(nn.LSTM(5, 4, num_layers=2, dropout=0.3).double())
    with pytest.raises(JostleError, match="layer '0' \\(LSTM\\) drops units inside"):
        federation(model=model)


@pytest.mark.study
def test_whole_channels_are_dropped_alike() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3, dtype=torch.float64), nn.Dropout1d(0.5),
                          nn.Flatten(), nn.Linear(12, 3, dtype=torch.float64))  # fmt: skip
    one, two = (final(federation(model=model, engine=e), FedSpeed()) for e in ("batched", "sequential"))
    assert (one - two).abs().max() < 1e-13


@pytest.mark.study
def test_frozen_and_tied_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5, dtype=torch.float64), nn.Linear(5, 5, dtype=torch.float64)
            self.b.weight = self.a.weight
            self.head = nn.Linear(5, 3, dtype=torch.float64)
            self.head.bias.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.b(self.a(x).tanh()))

    model = Tied()
    before = {name: p.clone() for name, p in model.named_parameters()}
    feds = [federation(model=model, engine=e) for e in ("batched", "sequential")]
    assert feds[0].flat.D == 25 + 5 + 5 + 15
    one, two = (final(fed, FedSpeed()) for fed in feds)
    assert (one - two).abs().max() < 1e-13
    built = feds[0].flat.built(one)
    assert built.b.weight is built.a.weight and torch.equal(built.head.bias, before["head.bias"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert built.head.weight.requires_grad and not built.training


@pytest.mark.study
def test_a_short_format_keeps_its_sums_in_float32() -> None:
    fed = federation(dtype=torch.bfloat16)
    assert final(fed, FedSpeed()).dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 for p in fed.flat.built(fed.flat.start).parameters())


def test_samples_are_seen_as_often_as_there_are_epochs() -> None:
    seen: list[torch.Tensor] = []

    def watch(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(x)
        return x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    fed = federation((7,), augment=watch, fraction=1.0)
    found = final(fed, FedAvg(), 1)
    x = clients((7,))[0][0]
    rows = torch.cat(seen)
    assert len(seen) == 4 and [len(s) for s in seen] == [4, 3, 4, 3]
    assert torch.equal(rows.sort(0).values, x.repeat(2, 1).sort(0).values)
    assert not torch.equal(rows[:7], rows[7:])
    other = final(federation((7,), augment=watch, fraction=1.0, engine="sequential"), FedAvg(), 1)
    assert (found - other).abs().max() < 1e-13


def test_a_lost_network_changes_nothing() -> None:
    fed = federation(transport=lambda reply: [])
    course = fed.start(FedSpeed(), STEPS)
    row = course.advance()
    assert torch.equal(course.server.x, fed.flat.start) and row["accepted"] == 0 and row["active"] == 3
    assert row["loss"] is None and course.server.t == 1


@pytest.mark.study
@pytest.mark.parametrize("algorithm", FAMILY, ids=NAMES)
def test_a_checkpoint_goes_on_bit_by_bit(algorithm, tmp_path) -> None:
    def made() -> Federation:
        return federation(RAGGED, transport=losing(0.3, seed=1), test=clients((20,))[0])

    whole = made().start(algorithm, STEPS)
    for _ in range(6):
        whole.advance()
    first = made().start(algorithm, STEPS)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "c.safetensors")
    again = made().start(algorithm, STEPS)
    again.load(tmp_path / "c.safetensors")
    for _ in range(3):
        again.advance()
    assert torch.equal(whole.server.x, again.server.x)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in c.history] for c in (whole, again)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_an_algorithm_of_ones_own(engine) -> None:
    """Weight decay written as a direction that is the model itself."""

    class Shrink(Algorithm):
        def direction(self, v, g1, g2, round):
            return v

    fed = federation(fraction=1.0, engine=engine)
    found = final(fed, Shrink(), 2, Local(lr=0.1, epochs=1, batch_size=12, clip_mode=None))
    assert torch.allclose(found, 0.9**2 * fed.flat.start, atol=1e-15)


def test_progress_is_told_even_when_nobody_answers() -> None:
    seen = []
    federation(transport=lambda reply: []).run(FedAvg(), rounds=2, callback=lambda *told: seen.append(told))
    federation(test=clients((20,))[0]).run(FedAvg(), rounds=1, callback=lambda *told: seen.append(told))
    assert (
        [s[:2] for s in seen] == [(1, 2), (2, 2), (1, 1)]
        and seen[0][2] == "no reply"
        and "accuracy" in seen[2][2]
    )
