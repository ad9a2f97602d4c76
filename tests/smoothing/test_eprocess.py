"""The e-process is one: mean 1 under the hypothesis, and bounds that hold at all times at once."""

import numpy as np
import pytest
from scipy import integrate, stats

from jostle.smoothing import anytime_lower, anytime_upper, log_e


@pytest.mark.parametrize("p0", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("truncated", [True, False])
def test_its_mean_under_the_hypothesis_is_one(p0, truncated):
    hits = np.arange(51)
    mean = (stats.binom.pmf(hits, 50, p0) * np.exp(log_e(hits, 50, p0, truncated=truncated))).sum()
    assert mean == pytest.approx(1.0, abs=1e-10)


def test_truncated_it_is_a_supermartingale_below_the_hypothesis_and_untruncated_it_is_not():
    hits = np.arange(51)
    for p in (0.3, 0.6, 0.69):
        chance = stats.binom.pmf(hits, 50, p)
        assert (chance * np.exp(log_e(hits, 50, 0.7))).sum() <= 1.0
    assert (stats.binom.pmf(hits, 50, 0.3) * np.exp(log_e(hits, 50, 0.7, truncated=False))).sum() > 1.0


def test_it_is_the_integral_over_the_cut_prior():
    n, s, p0 = 40, 33, 0.7
    prior = stats.beta(0.5, 0.5)
    integral, _ = integrate.quad(lambda p: prior.pdf(p) * p**s * (1 - p) ** (n - s), p0, 1)
    wanted = integral / prior.sf(p0) / (p0**s * (1 - p0) ** (n - s))
    assert float(np.exp(log_e(s, n, p0))) == pytest.approx(wanted, rel=1e-7)


def test_far_below_it_says_minus_infinity_without_a_warning():
    assert float(log_e(100, 100_000, 0.5)) == -np.inf


@pytest.mark.study
def test_crossing_is_as_rare_as_promised():
    p0, alpha, runs, n = 0.7, 0.05, 2000, 300
    draws = np.random.default_rng(0).random((runs, n)) < p0
    hits = draws.cumsum(1)
    crossed = np.zeros(runs, dtype=bool)
    for k in range(n):
        crossed |= log_e(hits[:, k], k + 1, p0) >= -np.log(alpha)
    assert 0.01 < crossed.mean() <= alpha


def test_peeking_at_the_fixed_bound_breaks_its_level():
    from jostle.smoothing import lower_bound

    p0, alpha, runs = 0.7, 0.05, 3000
    draws = np.random.default_rng(1).random((runs, 1000)) < p0
    hits = draws.cumsum(1)
    naive = np.zeros(runs, dtype=bool)
    for n in range(50, 1001, 50):
        naive |= lower_bound(hits[:, n - 1], n, alpha) > p0
    assert naive.mean() > 2 * alpha


@pytest.mark.parametrize(
    ("hits", "count"), [(70, 100), (100, 100), (1, 100), (99_990, 100_000), (0, 10), (500, 1000)]
)
def test_the_bound_is_where_the_process_reaches_its_limit(hits, count):
    low = anytime_lower(hits, count, 0.001)
    assert 0 <= low <= hits / count
    if low > 0:
        assert float(log_e(hits, count, low)) == pytest.approx(-np.log(0.001), abs=1e-6)
    assert anytime_upper(count - hits, count, 0.001) == pytest.approx(1 - low)


def test_it_is_wider_than_the_bound_of_one_look_and_tightens():
    from jostle.smoothing import lower_bound

    for n in (100, 1000, 10_000):
        hits = n * 9 // 10
        assert anytime_lower(hits, n, 0.001) < float(lower_bound(hits, n, 0.001)) < 0.9
    assert anytime_lower(9000, 10_000, 0.001) > anytime_lower(900, 1000, 0.001)
