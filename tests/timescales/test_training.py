"""Training under curricula: gate, budget, replicas, resume, and the order of stages."""

import dataclasses
import io

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.timescales import (
    NDMS,
    CellNetwork,
    Direct,
    GatedRNN,
    LeakyRNN,
    MultiHead,
    NParity,
    SingleHead,
    Sliding,
    accuracy_matrix,
    adam,
    replicas,
    train_curriculum,
    training,
)

SHORT = {"batch": 16, "steps": 10, "test_batches": 2}


def make(heads=3, hidden=16, **settings):
    return lambda generator: LeakyRNN(hidden, heads, generator=generator, **settings)


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


class Easy(NParity):
    """The last bit itself, for every N: learned in a few steps."""

    def labels_in_time(self, bits, N):
        return bits[:, N - 1 :].long()

    def labels(self, bits, Ns):
        return bits[:, -1:].long().expand(-1, len(Ns))


def test_stages_follow_their_curricula():
    assert MultiHead().next(MultiHead().first()) == (2, 3)
    assert SingleHead().next((2,)) == (3,)
    assert Sliding(4, 2).next(Sliding(4, 2).first()) == (4, 5, 6, 7)
    assert Direct(6).next((6,)) is None
    assert [Sliding(3, heads="position").head(N, (4, 5, 6)) for N in (4, 5, 6)] == [0, 1, 2]
    assert [Sliding(3).head(N, (4, 5, 6)) for N in (4, 5, 6)] == [2, 3, 4]
    with pytest.raises(JostleError, match="shift"):
        Sliding(3, 4)


@pytest.mark.study
def test_a_network_that_passes_advances_and_leaves_checkpoints():
    run = train_curriculum(
        replicas(make(3), 2), Easy(), [MultiHead(), SingleHead()], batch=64, steps=50, test_batches=3,
        max_N=4, max_steps=3000,
    )  # fmt: skip
    assert [learner.status for learner in run.learners] == ["finished", "finished"]
    for i in (0, 1):
        assert list(run.learners[i].kept) == [2, 3, 4]
        assert run.solved(i) == 4
        passed = [row for row in run.rows if row["network"] == i and row["passed"]]
        assert [row["N"] for row in passed] == [2, 3, 4]
        assert all(row["accuracy"] > 0.98 and row["sequences"] == 192 for row in passed)
    assert same(run.checkpoint(4), run.networks[0])
    table = accuracy_matrix(
        [(run.checkpoint(N), {M: M - 2 for M in range(2, N + 1)}) for N in (2, 3, 4)], Easy(), [2, 3, 4],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (table[[0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]] > 0.95).all()
    assert torch.tensor(table).isnan().sum() == 3
    with pytest.raises(JostleError, match="no checkpoint of N = 9"):
        run.checkpoint(9)


def test_heads_run_out_at_the_ceiling():
    run = train_curriculum(
        replicas(make(2), 1), Easy(), MultiHead(), batch=64, steps=50, test_batches=2, max_steps=3000
    )
    assert run.learners[0].status == "out of heads"
    assert run.solved() == 3


@pytest.mark.study
def test_the_gate_is_strict():
    run = train_curriculum(
        replicas(make(), 1), Easy(), SingleHead(), batch=64, steps=50, test_batches=2, gate=1.0, max_steps=250
    )
    assert max(row["accuracy"] for row in run.rows) == 1.0
    assert not any(row["passed"] for row in run.rows)


@dataclasses.dataclass(frozen=True)
class HalfHard(NParity):
    """One N is the last bit itself; the other, the parity of the whole sequence, is not learned in a few steps."""

    p: float = 0.5
    hard: int = 3

    def labels(self, bits, Ns):
        return torch.stack([(bits.sum(1) if self.hard == N else bits[:, -1]).long() % 2 for N in Ns], 1)


@pytest.mark.study
@pytest.mark.parametrize(("hard", "gate", "passes"), [(3, 0.7, False), (2, 0.8, False), (2, 0.7, True)])
def test_the_gate_asks_for_the_newest_and_for_the_mean(hard, gate, passes):
    run = train_curriculum(
        replicas(make(2), 1), HalfHard(hard=hard), MultiHead(added=2), batch=64, steps=200, test_batches=8,
        gate=gate, max_steps=200,
    )  # fmt: skip
    row = run.rows[-1]
    if hard == 3:
        assert row["accuracy_mean"] > gate > row["accuracy"]
    else:
        assert row["accuracy"] > 0.95
        assert row["accuracy_mean"] == pytest.approx(0.75, abs=0.05)
    assert row["passed"] is passes


def test_a_task_that_asks_nothing_is_warned_of():
    class Same(NParity):
        def labels(self, bits, Ns):
            return torch.ones(len(bits), len(Ns), dtype=torch.long)

    with pytest.warns(UserWarning, match="labels of N = 2 in a test were the same"):
        train_curriculum(
            replicas(make(), 1), Same(), SingleHead(), batch=64, steps=5, test_batches=1, max_steps=5
        )


@pytest.mark.study
@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_replica_alone_is_the_replica_in_company(monkeypatch, side_by_side):
    monkeypatch.setattr(training, "_side_by_side", lambda network: side_by_side)
    plan = {"seed": 3, "max_steps": 50, "batch": 16, "steps": 50, "test_batches": 2}
    curricula = [MultiHead(), Direct(5), SingleHead()]  # the second has longer sequences than the others
    together = train_curriculum(replicas(make(4), 3, 3), NParity(), curricula, **plan)
    alone = train_curriculum([replicas(make(4), 3, 3)[2]], NParity(), SingleHead(), identities=[2], **plan)
    for ours, theirs in zip(
        together.networks[2].state_dict().values(), alone.networks[0].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.study
def test_tests_side_by_side_pass_the_same_gates(monkeypatch):
    """As on a GPU: other draws of the same test, and the same course of stages."""
    solved = []
    for on_gpu in (False, True):
        monkeypatch.setattr(training, "_on_gpu", lambda network, on_gpu=on_gpu: on_gpu)
        run = train_curriculum(
            replicas(make(2), 2), Easy(), [MultiHead(), SingleHead()], batch=64, steps=40, test_batches=12,
            max_N=3, max_steps=1500,
        )  # fmt: skip
        assert all(row["sequences"] == 64 * 12 for row in run.rows if row["passed"])
        solved.append([run.solved(0), run.solved(1)])
    assert solved == [[3, 3], [3, 3]]


@pytest.mark.study
@pytest.mark.parametrize("stop", [10, 40])
def test_a_resumed_training_is_the_unbroken_one(stop):
    plan = {"seed": 1, "batch": 64, "steps": 10, "test_batches": 2}
    curricula = [MultiHead(), SingleHead()]
    whole = train_curriculum(replicas(make(4), 2), Easy(), curricula, max_steps=80, **plan)
    part = train_curriculum(replicas(make(4), 2), Easy(), curricula, max_steps=stop, **plan)
    buffer = io.BytesIO()
    torch.save(part.state(), buffer)
    buffer.seek(0)
    kept = torch.load(buffer, weights_only=True)
    rest = train_curriculum(replicas(make(4), 2, 9), Easy(), curricula, max_steps=80, resume=kept, **plan)
    assert all(same(a, b) for a, b in zip(whole.networks, rest.networks, strict=True))
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.rows]
    assert without == [{k: v for k, v in row.items() if k != "seconds"} for row in rest.rows]


def test_a_resume_of_something_else_is_refused():
    run = train_curriculum(replicas(make(), 1), NParity(), MultiHead(), max_steps=10, **SHORT)
    with pytest.raises(JostleError, match="NParity"):
        train_curriculum(replicas(make(), 1), NDMS(), MultiHead(), resume=run.state(), **SHORT)
    with pytest.raises(JostleError, match="resume holds the networks"):
        other = replicas(make(placement="outside"), 1)
        train_curriculum(other, NParity(), MultiHead(), resume=run.state(), **SHORT)


def test_a_network_that_diverges_stops_at_its_last_good_weights():
    good, bad = replicas(make(), 2)

    def wild(parameters):
        return torch.optim.SGD(parameters, lr=float("inf") if parameters[0] is bad.head_weight else 0.01)

    before = [p.clone() for p in bad.state_dict().values()]
    run = train_curriculum([good, bad], NParity(), MultiHead(), optimiser=wild, max_steps=20, **SHORT)
    assert [learner.status for learner in run.learners] == ["learning", "diverged"]
    assert all(torch.equal(a, b) for a, b in zip(before, bad.state_dict().values(), strict=True))


def test_an_optimiser_of_the_users_own_may_have_groups():
    net, same_net = replicas(make(), 2)
    same_net.load_state_dict(net.state_dict())

    def grouped(parameters):
        fast, slow = {"params": parameters[:2], "lr": 0.05}, {"params": parameters[2:], "lr": 0.05}
        return torch.optim.SGD([fast, slow], lr=1.0)

    def plainly(parameters):
        return torch.optim.SGD(parameters, lr=0.05)

    for one, optimiser in ((net, grouped), (same_net, plainly)):
        train_curriculum([one], NParity(), MultiHead(), optimiser=optimiser, clip=0.05, max_steps=10, **SHORT)
    assert same(net, same_net)


def test_a_spent_budget_leaves_an_honest_table():
    run = train_curriculum(replicas(make(), 1), NParity(), MultiHead(), seconds=0.0, **SHORT)
    assert run.steps == 1
    assert run.solved() == 0
    assert run.steps_to(2) is None
    assert run.table()["N"] == [2]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_gated_networks_learn_signed_inputs(kind):
    nets = replicas(lambda generator: GatedRNN(kind, 12, 2, generator=generator), 2)
    run = train_curriculum(nets, Easy(p=0.5, signed=True), MultiHead(), optimiser=adam, max_steps=20, **SHORT)
    assert run.steps == 20
    assert run.rows[-1]["tau_mean"] is None


@pytest.mark.parametrize("cell", [torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell])
def test_a_cell_of_the_users_own_learns(cell):
    torch.manual_seed(0)
    net = CellNetwork(cell(1, 10), hidden=10, heads=2)
    before = net.recurrent()[0].detach().clone()
    train_curriculum([net], NParity(), MultiHead(), max_steps=10, **SHORT)
    assert not torch.equal(before, net.recurrent()[0])


def test_gated_loop_is_its_own_step():
    net = GatedRNN("lstm", 6, generator=torch.Generator().manual_seed(0))
    x = torch.rand(3, 7)
    fused, _ = net.states(x)
    stepped, _ = super(GatedRNN, net).states(x)
    torch.testing.assert_close(fused, stepped)


def test_continuous_networks_train_at_several_resolutions():
    nets = replicas(make(placement="continuous", substeps=(2, 3)), 2)
    run = train_curriculum(nets, NParity(), MultiHead(), max_steps=10, **SHORT)
    assert run.rows[-1]["steps"] == 10


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"gate": 0.5}, "gate"),
        ({"batch": 0}, "batch"),
        ({"clip": 0.0}, "clip"),
        ({"max_N": 6}, "to ask N = 5"),
        ({"curriculum": [MultiHead()] * 2}, "curricula"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, word):
    settings = {"curriculum": MultiHead(), **SHORT, **settings}
    with pytest.raises(JostleError, match=word):
        train_curriculum(replicas(make(3), 1), NParity(), **settings)


@pytest.mark.study
def test_parity_is_learned_to_three_and_the_single_head_forgets():
    nets = replicas(make(2, 100), 2)
    run = train_curriculum(
        nets,
        NParity(),
        [MultiHead(), SingleHead()],
        batch=128,
        steps=100,
        test_batches=16,
        max_N=3,
        max_steps=2000,
    )
    assert [run.solved(0), run.solved(1)] == [3, 3]
    generator = torch.Generator().manual_seed(0)
    multi = accuracy_matrix([(run.checkpoint(3, 0), {2: 0, 3: 1})], NParity(), [2, 3], generator=generator)
    single = accuracy_matrix([(run.checkpoint(3, 1), {2: 0, 3: 0})], NParity(), [2, 3], generator=generator)
    assert multi.min() > 0.95
    assert single[0, 0] == pytest.approx(0.5, abs=0.05)
