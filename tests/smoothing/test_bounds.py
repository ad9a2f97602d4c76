"""Clopper-Pearson and radii against independent routes to the same numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from jostle.core.errors import JostleError
from jostle.smoothing import bounds


@pytest.mark.parametrize(
    ("hits", "count", "alpha"),
    [
        (100_000, 100_000, 1e-3),
        (99, 100, 1e-3),
        (1, 100, 0.05),
        (50, 100, 0.01),
        (69_598, 100_000, 1e-3),
        (3, 3, 0.5),
    ],
)
def test_the_lower_bound_is_that_of_the_beta_quantile(hits, count, alpha):
    wanted = stats.beta.ppf(alpha, hits, count - hits + 1)
    assert float(bounds.lower_bound(hits, count, alpha)) == pytest.approx(wanted, abs=1e-12)


def test_known_values():
    assert float(bounds.lower_bound(100_000, 100_000, 1e-3)) == pytest.approx(0.9999309248, abs=1e-10)
    assert float(bounds.lower_bound(0, 10, 1e-3)) == 0.0
    assert float(bounds.upper_bound(10, 10, 1e-3)) == 1.0
    assert bounds.largest_radius(1.0, 100_000, 1e-3) == pytest.approx(3.8115, abs=1e-4)
    assert float(bounds.radius_of(0.9999309248330094, 0.25)) == pytest.approx(0.25 * 3.8115, abs=1e-4)


@given(st.integers(1, 400), st.floats(0.001, 0.4), st.data())
def test_the_bound_is_where_the_binomial_tail_is_alpha(count, alpha, data):
    hits = data.draw(st.integers(1, count))
    low = float(bounds.lower_bound(hits, count, alpha))
    assert stats.binom.sf(hits - 1, count, low) == pytest.approx(alpha, rel=1e-8)
    high = float(bounds.upper_bound(hits - 1, count, alpha))
    assert stats.binom.cdf(hits - 1, count, high) == pytest.approx(alpha, rel=1e-8)


def test_the_bound_covers_as_often_as_it_says():
    count, alpha = 60, 0.1
    hits = np.arange(count + 1)
    low = bounds.lower_bound(hits, count, alpha)
    for p in np.linspace(0.01, 0.99, 25):
        wrong = stats.binom.pmf(hits, count, p)[low > p].sum()
        assert wrong <= alpha + 1e-12


def test_a_radius_and_its_threshold_are_inverse():
    radii = np.linspace(0, 3, 20)
    assert np.allclose(bounds.radius_of(bounds.threshold_of(radii, 0.5), 0.5), radii, atol=1e-9)
    assert float(bounds.radius_of(0.3, 1.0)) == 0.0
    low = 0.9
    assert bounds.two_sided_radius(low, 1 - low, 0.5) == pytest.approx(float(bounds.radius_of(low, 0.5)))
    assert bounds.two_sided_radius(low, 0.01, 0.5) > bounds.two_sided_radius(low, 0.1, 0.5)


@pytest.mark.parametrize("radius", [0.0, 0.25, 1.0, 3.0])
def test_the_draws_for_a_radius_are_the_fewest(radius):
    n = bounds.draws_for(radius, 1.0, 1e-3)
    assert bounds.largest_radius(1.0, n, 1e-3) >= radius > bounds.largest_radius(1.0, n - 1, 1e-3)


def test_the_corrected_share_holds_by_bernstein():
    # The number of false certificates among 500 is binomial at worst: the correction must cover its 95 % point.
    count, alpha, rho = 500, 0.01, 0.05
    false = stats.binom.ppf(1 - rho, count, alpha)
    assert 0.6 - bounds.surely_correct(0.6, count, alpha, rho) >= false / count - 1e-12


def test_the_agreement_test_is_the_exact_binomial_one():
    assert bounds.agreement_test(60, 40) == pytest.approx(2 * stats.binom.sf(59, 100, 0.5))
    assert bounds.agreement_test(0, 0) == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bounds.lower_bound(5, 4, 0.01), "hits must lie in 0 to 4"),
        (lambda: bounds.lower_bound(1, 4, 1.5), "alpha must lie in"),
        (lambda: bounds.check_radii((0.1, -1.0), 0.5, 100, 0.01), "at least 0"),
        (lambda: bounds.check_radii((math.nan,), 0.5, 100, 0.01), "finite"),
        (lambda: bounds.check_radii((), 0.5, 100, 0.01), "at least one"),
        (lambda: bounds.check_radii((4.0,), 1.0, 100_000, 1e-3), "the draws needed are 218,"),
        (lambda: bounds.check_sigma(0.0), "above 0"),
        (lambda: bounds.check_sigma(64.0), "0-255"),
    ],
)
def test_what_cannot_be_is_said(call, says):
    with pytest.raises(JostleError, match=says):
        call()


def test_radii_come_back_in_order_and_once():
    assert bounds.check_radii((0.5, 0.0, 0.5), 0.5, 1000, 1e-3) == (0.0, 0.5)


def test_the_usual_grid_ends_within_reach():
    for sigma in (0.25, 0.5, 1.0):
        grid = bounds.usual_radii(sigma)
        assert grid[0] == 0 and 0.9 * 3.8115 * sigma - 0.25 < grid[-1] <= 3.8115 * sigma
    root = optimize.brentq(lambda r: bounds.draws_for(r, 1.0, 1e-3) - 100_000.5, 3.0, 4.5)
    assert root == pytest.approx(bounds.largest_radius(1.0, 100_000, 1e-3), abs=1e-3)
