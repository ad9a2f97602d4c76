"""Intervals against SciPy's own."""

import math

import numpy as np
import pytest
from helpers import plain
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jostle import JostleError
from jostle.core.statistics import t_interval

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@pytest.mark.study
@given(NUMBERS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_scipys(values, level):
    found = t_interval(values, level)
    mean, error = np.mean(values), stats.sem(values)
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * error
    assert found.mean == pytest.approx(mean, abs=1e-12) and found.count == len(values)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert found.low == pytest.approx(mean - half, abs=1e-9)
    assert found.high == pytest.approx(mean + half, abs=1e-9)


def test_one_value_has_a_mean_and_no_interval():
    found = t_interval([3.0])
    assert found.mean == 3.0 and math.isnan(found.sd) and math.isnan(found.low) and math.isnan(found.high)


def test_what_makes_no_interval_is_refused():
    with pytest.raises(JostleError, match="at least one number"):
        t_interval([])
    with pytest.raises(JostleError, match="level"):
        plain(t_interval)([1.0, 2.0], 1.0)
