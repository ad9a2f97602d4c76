"""Budgets a feature: radii, units, masks, and the budget that hides in normal change."""

import numpy as np
import pytest
import torch

from jostle import Linf
from jostle.core.errors import JostleError
from jostle.observation import Budget, suggest_budget
from jostle.observation.budget import Reach, step_sizes


def test_the_authors_step_schedule():
    sizes = step_sizes(100, 0.01, 4, 0.5)
    wanted = [0.01, 0.005, 0.0025, 0.00125, 0.000625]
    assert sizes == [size for size in wanted for _ in range(20)]
    assert sum(sizes) == pytest.approx(0.3875)


def test_radii_in_every_unit():
    low, high = torch.zeros(3), torch.tensor([1.0, 10.0, 2.0])
    assert Budget(0.1).radii(3).tolist() == pytest.approx([0.1] * 3)
    assert Budget(0.1, mask=[1, 0, 1]).radii(3).tolist() == pytest.approx([0.1, 0, 0.1])
    assert Budget([0.1, 0.2, 0.0], mask=np.array([True, False, True])).radii(3).tolist() == pytest.approx(
        [0.1, 0, 0]
    )
    assert Budget(0.1, units="range").radii(3, low, high).tolist() == pytest.approx([0.1, 1.0, 0.2])
    assert Budget(2.0, units="std", scale=[1.0, 0.5, 0.0]).radii(3).tolist() == pytest.approx([2, 1, 0])
    assert Budget([0.1, 0.2, 0.0]).times(2).radii(3).tolist() == pytest.approx([0.2, 0.4, 0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Budget(-0.1), "eps must be finite and at least 0"),
        (lambda: Budget(float("nan")), "eps must be finite"),
        (lambda: Budget(float("inf")), "eps must be finite"),
        (lambda: Budget([[0.1]]), "a number or one a feature"),
        (lambda: Budget(0.1, mask=[0.5, 1.0]), "booleans or 0 and 1"),
        (lambda: Budget(0.1, units="std"), "standard deviation of each feature"),
        (lambda: Budget(0.1, mask=[True]).radii(3), "one entry for each of the 3 features"),
        (lambda: Budget([0.1, 0.2]).radii(3), "one entry for each of the 3 features"),
        (
            lambda: Budget(0.1, units="range").radii(1, torch.tensor([-torch.inf]), torch.ones(1)),
            "finite bounds",
        ),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(JostleError, match=words):
        make()


def test_a_budget_from_normal_change():
    rng = np.random.default_rng(0)
    log = np.stack([np.cumsum(rng.uniform(-s, s, 2000)) for s in (1.0, 0.1)] + [np.ones(2000)], axis=1)
    eps = suggest_budget(log, quantile=0.5, factor=2.0).eps.numpy()
    assert eps[0] == pytest.approx(1.0, abs=0.05) and eps[1] == pytest.approx(0.1, abs=0.005) and eps[2] == 0
    with pytest.raises(JostleError, match="at least 2 steps"):
        suggest_budget(log[:1])
    with pytest.raises(JostleError, match="NaN"):
        suggest_budget(np.full((3, 2), np.nan))


def test_the_ball_of_a_reach_is_the_core_s():
    rng = torch.Generator().manual_seed(0)
    o = torch.rand(6, 4, generator=rng)
    o[0], o[1, 0] = 0.0, 1.2
    reach = Reach.around(Budget([0.1, 0.0, 0.3, 0.02]), o, torch.zeros(4), torch.ones(4))
    plain = Linf(1.0, lower=reach.low, upper=reach.high, scale=reach.e)
    u = torch.randn(6, 3, generator=rng)
    assert torch.equal(reach.ball.project(u, reach.centre), plain.project(u, reach.centre))
    ours, theirs = (
        ball.sample(u, torch.Generator().manual_seed(3), reach.centre) for ball in (reach.ball, plain)
    )
    assert torch.equal(ours, theirs) and plain.contains(ours, reach.centre)
    assert torch.equal(reach.ball.steepest(u), plain.steepest(u))
