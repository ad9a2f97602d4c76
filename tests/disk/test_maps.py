"""Sums of modes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.disk.maps import sum_modes


@settings(max_examples=30, deadline=None)
@given(st.integers(-6, 3), st.integers(1, 7), st.integers(0, 99))
def test_horner_is_the_sum(first, count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, count)) + 1j * rng.normal(size=(5, count))
    n, w = np.arange(first, first + count), rng.uniform(0, 7, 5)
    direct = (rows * np.exp(1j * n * w[:, None])).sum(axis=1).real
    assert np.allclose(sum_modes(rows, n, w), direct, atol=1e-12)
