"""Procedures on binomial counts: their level, their power, and what they cost."""

import numpy as np
import pytest
from scipy.special import ndtr

from jostle.core.errors import JostleError
from jostle.smoothing import METHODS, Fixed, InputSpecific, Sequential, dense_radii, lower_bound, simulate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.study
@pytest.mark.parametrize("name", ["sequential", "fixed", "anytime", "union", "stages", "input-specific"])
def test_false_certificates_are_as_rare_as_alpha(name):
    # p_A lies at the threshold of r = 0.5: to certify it is false there and at every radius above.
    sigma, alpha, runs = 0.5, 0.05, {"anytime": 200, "union": 300}.get(name, 600)
    plan = METHODS[name](sigma, alpha=alpha, n_max=400, radii=(0.0, 0.25, 0.5, 0.75), beta=alpha)
    found = simulate(plan, np.full(runs, ndtr(1.0)), rng())
    false = (found.radius > 0.5) | ((name == "sequential") & (found.radius >= 0.5))
    # 3 standard errors above the level would be a violation worth a look.
    assert false.mean() <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)
    assert false.any() or name == "union", "a level that is never spent says that the simulation has no teeth"


@pytest.mark.study
def test_the_whole_grid_holds_at_one_level():
    sigma, alpha, runs = 1.0, 0.05, 3000
    grid = tuple(0.1 * i for i in range(20))
    plan = Sequential(sigma, alpha=alpha, n_max=300, radii=grid)
    found = simulate(plan, np.full(runs, ndtr(0.5)), rng(1))
    assert (found.radius >= 0.5).mean() <= 0.055
    assert (simulate(plan, np.full(1000, ndtr(0.45)), rng(2)).radius >= 0.5).mean() < 0.5 * alpha


def test_sequential_certifies_what_the_fixed_test_certifies_with_fewer_draws():
    sigma, radii = 0.5, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    p = ndtr(np.abs(rng(3).normal(1.0, 1.2, size=400)))
    ours = simulate(Sequential(sigma, radii=radii), p, rng(4))
    theirs = simulate(Fixed(sigma), p, rng(5))
    for radius in radii:
        assert abs(ours.certified(radius) - theirs.certified(radius)) <= 0.0151
    assert theirs.draws.mean() == 100_100
    assert ours.draws.mean() < 100_100 / 4


def test_futility_gives_up_early_and_loses_little():
    plan = Sequential(0.5, radii=(0.5,))
    hopeless = simulate(plan, np.full(100, 0.6), rng())
    assert not hopeless.certain.any() and hopeless.draws.mean() < 1500
    sure = simulate(plan, np.full(300, ndtr(1.0) + 0.02), rng(6))
    assert sure.certain.mean() > 0.99


def test_gated_a_radius_needs_all_smaller_ones():
    plan = Sequential(1.0, n_max=2000, radii=(0.0, 0.5, 1.0))
    accept, _ = plan.tables
    track = plan.begin(0, np.array([100, 0]))
    track.passed[:] = [True, False, True]
    track.alive = 1
    assert track.look(np.array([accept[0, 0], 0]), 50) and track.radius == 0.0 and track.certain


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_ends_of_the_scale(name, p):
    plan = METHODS[name](0.5, n_max=2000, radii=(0.0, 0.5, 1.0))
    found = simulate(plan, [p], rng())
    assert 100 < found.draws[0] <= 100 + sum((20, 200, 2000))
    # At 0 the other class is the answer, always.
    assert found.certain[0] == (p != 0.5)
    assert found.radius[0] <= 0.5 * 2.71


@pytest.mark.parametrize("n_max", [100, 500, 2000, 10_000, 100_000])
@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0, 2.0])
def test_the_usual_grid_is_within_reach_of_the_sequential_test(n_max, sigma):
    assert Sequential(sigma, n_max=n_max).grid[0] == 0.0


@pytest.mark.study
def test_a_dense_grid_comes_near_to_a_continuous_radius():
    plan = Sequential(0.5, n_max=10_000, radii=dense_radii(0.5, 10_000))
    found = simulate(plan, [0.97] * 20, rng())
    exact = 0.5 * 1.8808
    assert (found.radius <= exact).all() and found.radius.mean() > exact - 0.06


def test_fixed_is_one_clopper_pearson_bound():
    track = Fixed(0.5, n_max=1000).begin(1, np.array([0, 100]))
    assert track.next_look == 1000 and track.look(np.array([50, 950]), 1000)
    assert track.p_lower == pytest.approx(float(lower_bound(950, 1000, 1e-3)))
    assert Fixed(0.5, n_max=1000).begin(1, np.array([0, 100])).look(np.array([500, 500]), 1000)


def test_bounding_the_runner_up_helps_where_there_is_none_to_speak_of():
    counts = np.array([5000, 1000, 1000, 1000, 1000, 1000])
    one = Fixed(0.5, n_max=10_000).begin(0, counts)
    two = Fixed(0.5, n_max=10_000, runner_up=True).begin(0, counts)
    one.look(counts, 10_000), two.look(counts, 10_000)
    assert not one.certain and two.certain and two.radius > 0.2


def test_input_specific_spends_less_where_it_may():
    plan = InputSpecific(0.5, n_max=100_000, loss=0.1)
    easy = plan.begin(0, np.array([75, 25])).next_look
    hard = plan.begin(0, np.array([100, 0])).next_look
    assert easy < hard <= 100_000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Sequential(0.0), "sigma must be above 0"),
        (lambda: Sequential(128.0), "0-255"),
        (lambda: Sequential(0.5, alpha=0.0), "alpha must lie"),
        (lambda: Sequential(0.5, beta=1.0), "beta must lie"),
        (lambda: Fixed(0.5, n_max=5), "nothing can be certified"),
        (lambda: Sequential(0.5, radii=(-0.1,)), "at least 0"),
        (lambda: Sequential(0.5, n_max=100, radii=(1.0,)), "cannot be certified with n_max = 100"),
        (lambda: METHODS["anytime"](0.5, tolerance=-1.0), "tolerance"),
    ],
)
def test_what_cannot_work_is_said_before_a_draw_is_spent(make, says):
    with pytest.raises(JostleError, match=says):
        make()
