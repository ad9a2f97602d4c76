"""NC1 by itself is NC1 of the whole report, whatever the means are like."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.collapse import Accumulator, nc1
from jostle.core.errors import JostleError


def streamed(seed: int, K: int, d: int, weighting="class", squeeze: float = 1.0) -> Accumulator:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(K), torch.randint(K, (20 * K,), generator=generator)]
    )  # every class, unevenly
    centres = torch.randn(K, d, generator=generator, dtype=torch.float64)
    centres[-1] = centres[0] + squeeze * (centres[-1] - centres[0])
    features = centres[labels] + 0.3 * torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    made = Accumulator(K, d, one_pass=True, weighting=weighting)
    made.update(features, labels)
    return made


@pytest.mark.study
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    K=st.integers(2, 9),
    extra=st.integers(0, 12),
    weighting=st.sampled_from(["class", "sample"]),
)
def test_it_is_that_of_the_report(seed, K, extra, weighting):
    made = streamed(seed, K, K - 1 + extra, weighting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few dimensions leave the means nearly dependent now and then
        assert nc1(made) == pytest.approx(made.compute().nc1, rel=1e-9)


@pytest.mark.parametrize("squeeze", [1e-2, 1e-4, 1e-6])
def test_nearly_equal_means_take_the_safe_way(squeeze):
    made = streamed(3, 6, 20)
    made.means[-1] = made.means[0] + squeeze * (made.means[-1] - made.means[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert nc1(made) == pytest.approx(made.compute().nc1, rel=1e-6)


def test_more_classes_than_dimensions():
    made = streamed(4, 12, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert nc1(made) == pytest.approx(made.compute().nc1, rel=1e-9)


def test_equal_means_make_it_infinite():
    made = Accumulator(2, 3, one_pass=True)
    made.update(torch.eye(3)[[0, 1, 0, 1]], torch.tensor([0, 0, 1, 1]))
    assert math.isinf(nc1(made))


def test_what_it_cannot_use_is_a_sentence():
    with pytest.raises(JostleError, match="statistics must be of one pass"):
        nc1(Accumulator(2, 3))
    made = Accumulator(2, 3, one_pass=True)
    made.update(torch.eye(3)[:2], torch.tensor([0, 0]))
    with pytest.raises(JostleError, match="every class must have a sample"):
        nc1(made)
