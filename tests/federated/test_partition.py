"""Splits: nothing twice, sizes and classes as asked; and who is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle import JostleError
from jostle.federated import partition, sample

Y = torch.arange(600) % 10


@settings(max_examples=30, deadline=None)
@given(
    scheme=st.sampled_from(["dirichlet", "ragged", "pathological", "iid"]),
    clients=st.integers(1, 20),
    seed=st.integers(0, 100),
    concentration=st.sampled_from([0.1, 0.6, 10.0]),
)
def test_nothing_is_given_twice(scheme, clients, seed, concentration) -> None:
    parts = partition(Y, clients, scheme=scheme, seed=seed, concentration=concentration, min_size=0)
    held = torch.cat(parts)
    assert len(parts) == clients and len(held.unique()) == len(held)
    if scheme in ("ragged", "iid"):
        assert len(held) == len(Y)
    if scheme == "dirichlet":
        assert {len(part) for part in parts} == {600 // clients}


@settings(max_examples=30, deadline=None)
@given(clients=st.integers(1, 20), seed=st.integers(0, 100), concentration=st.sampled_from([0.05, 0.6, 10.0]))
def test_the_official_split_refills_a_class_that_ran_out(clients, seed, concentration) -> None:
    """A class is gone through as a whole before a sample of it comes again: counts in a class differ by one at most."""
    parts = partition(Y, clients, scheme="official", seed=seed, concentration=concentration)
    assert {len(part) for part in parts} == {600 // clients}
    counts = torch.bincount(torch.cat(parts), minlength=len(Y))
    for k in range(10):
        mine = counts[k == Y]
        assert mine.max() - mine.min() <= 1


def test_the_official_split_repeats_samples_and_keeps_the_shares_as_drawn() -> None:
    """Beside the definition, walked through one uniform number at a time."""
    labels = torch.tensor([0, 2, 0, 2, 5, 0, 2, 2, 0, 5, 5, 2])
    rng = np.random.RandomState(4)
    order = rng.permutation(12)
    shares = rng.dirichlet([0.2] * 3, 4)
    pools = {k: [int(i) for i in order if labels[i] == k] for k in (0, 2, 5)}
    wanted: list[list[int]] = [[], [], [], []]
    left = {k: list(pool) for k, pool in pools.items()}
    while any(len(part) < 3 for part in wanted):
        who = rng.randint(4)
        while len(wanted[who]) < 3:
            u, (a, b, _) = rng.uniform(), shares[who]
            k = 0 if u <= a else 2 if u <= a + b else 5
            if left[k]:
                wanted[who].append(left[k].pop())
                break
            left[k] = list(pools[k])
    found = partition(labels, 4, scheme="official", concentration=0.2, seed=4)
    assert [part.tolist() for part in found] == wanted
    assert len(torch.cat(found).unique()) < 12

    parts = partition(Y, 6, scheme="official", concentration=0.05, seed=1)
    exact = partition(Y, 6, scheme="dirichlet", concentration=0.05, seed=1)
    assert any(len(part.unique()) < len(part) for part in parts)
    assert max(len(Y[p].unique()) for p in parts) <= 4 < max(len(Y[p].unique()) for p in exact)


def test_concentration_says_how_uneven() -> None:
    def classes(c):
        return np.mean([len(Y[p].unique()) for p in partition(Y, 20, concentration=c, seed=1)])

    assert classes(0.05) < 4 < 9 < classes(100.0)


def test_pathological_clients_have_their_classes() -> None:
    parts = partition(Y, 20, scheme="pathological", classes_per_client=3)
    assert [len(Y[part].unique()) for part in parts] == [3] * 20


@pytest.mark.study
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(clients=0), "clients must lie in 1 to 600"),
        (dict(clients=601), "clients must lie in 1 to 600"),
        (dict(clients=5, concentration=0.0), "concentration must be above 0"),
        (dict(clients=5, min_size=200), "min_size must be at most 120"),
        (dict(clients=300, scheme="pathological", classes_per_client=3), "300 x 3 slots"),
        (
            dict(clients=5, scheme="pathological", classes_per_client=11),
            "classes_per_client must lie in 1 to 10",
        ),
        (dict(clients=50, scheme="ragged", concentration=0.01, min_size=12), "was not met in 1000 draws"),
    ],
)
def test_what_cannot_be_split_is_refused(given, sentence) -> None:
    with pytest.raises(JostleError, match=sentence):
        partition(Y, **given)


def test_the_official_draws() -> None:
    drawn = [sample(6, 0.5, t, seed=20, sampling="bernoulli") for t in range(4)]
    assert drawn == [[4], [0, 1, 3, 4, 5], [0, 1, 2, 4, 5], [3, 4]]


@given(st.integers(1, 40), st.floats(0.01, 1.0), st.integers(0, 50), st.sampled_from(["fixed", "bernoulli"]))
def test_somebody_is_always_there(clients, fraction, t, sampling) -> None:
    drawn = sample(clients, fraction, t, seed=1, sampling=sampling)
    assert drawn == sorted(set(drawn)) and drawn[0] >= 0 and drawn[-1] < clients
    if sampling == "fixed":
        assert len(drawn) == max(1, round(fraction * clients))


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    sample(6, 0.5, 0, seed=20, sampling="bernoulli")
    partition(Y, 4)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
