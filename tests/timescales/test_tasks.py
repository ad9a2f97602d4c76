"""Labels against their definition by brute force, and the laws of the inputs."""

import itertools

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.timescales.tasks import NDMS, NParity, blind_accuracy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("N", range(2, 9))
def test_labels_are_exact_on_all_patterns(N):
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=N)))
    assert torch.equal(NParity().labels(patterns, [N])[:, 0], patterns.sum(1).long() % 2)
    assert torch.equal(NDMS().labels(patterns, [N])[:, 0], (patterns[:, 0] == patterns[:, -1]).long())


def test_consecutive_parities_differ_by_one_bit():
    bits = NParity().bits(64, 20, generator())
    y = NParity().labels(bits, range(2, 13))
    for i, N in enumerate(range(3, 13)):
        assert torch.equal(y[:, i + 1] ^ y[:, i], bits[:, -N].long())


def test_delayed_match_of_a_bit_with_itself_is_always_one():
    assert (NDMS().labels_in_time(NDMS().bits(8, 12, generator()), 1) == 1).all()


@pytest.mark.parametrize("task", [NParity(), NDMS()])
@pytest.mark.parametrize("N", [2, 5, 12])
def test_labels_in_time_are_the_labels_of_every_prefix(task, N):
    bits = task.bits(16, 30, generator())
    in_time = task.labels_in_time(bits, N)
    assert in_time.shape == (16, 30 - N + 1)
    for end in range(N, 31):
        assert torch.equal(in_time[:, end - N], task.labels(bits[:, :end], [N])[:, 0])


@pytest.mark.parametrize("N", [2, 3, 6, 7])
def test_share_of_class_zero_is_that_of_the_formula(N):
    _, y = NParity().sample(200_000, [N], generator(N), length=N + 2)
    expected = 0.5 + (0.5 / (N + 1) if N % 2 == 0 else 0.0)
    assert float((y == 0).double().mean()) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("N", [2, 3, 10])
def test_blind_reader_that_knows_p_reaches_what_the_formula_says(N):
    p = torch.rand(400_000, generator=generator(), dtype=torch.float64)
    even = 0.5 + 0.5 * (1 - 2 * p) ** N
    assert float(torch.maximum(even, 1 - even).mean()) == pytest.approx(blind_accuracy(N), abs=2e-3)


def test_each_sequence_has_a_probability_of_its_own():
    means = NParity().bits(20_000, 400, generator()).mean(1)
    assert float(means.var()) == pytest.approx(1 / 12, abs=0.004)
    fair = NDMS().bits(2_000, 400, generator()).mean(1)
    assert float(fair.var()) == pytest.approx(0.25 / 400, rel=0.2)


def test_lengths_span_their_law():
    lengths = {NParity().sample(1, [5], generator(seed))[0].shape[1] for seed in range(400)}
    assert lengths == set(range(7, 22))
    assert NParity().length(5, 0.0) == 7
    assert NParity().length(5, 0.999999) == 21


def test_signed_inputs_and_names():
    task = NParity(p=0.5, signed=True)
    x, _ = task.sample(4, [2], generator())
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert task.name == "NParity(p = 0.5, signed)"
    assert NParity().name == "NParity(p ~ U(0, 1))"


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(JostleError, match="N must be at least 2"):
        NParity().sample(4, [1, 2], generator())
    with pytest.raises(JostleError, match="length"):
        NParity().sample(4, [5], generator(), length=4)
    with pytest.raises(JostleError, match=r"p must lie in \[0, 1\]"):
        NParity(p=1.5)
