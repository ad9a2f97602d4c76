"""The stealth tests: conventions, calibration, and what each of them sees."""

import json

import numpy as np
import pytest
import torch
from observation.conftest import continuous
from scipy import stats
from statsmodels.stats.diagnostic import acorr_ljungbox
from statsmodels.stats.multitest import multipletests

from jostle.core.errors import JostleError
from jostle.observation import BatteryBuilding, Budget, Noise, mmd, rules_for, stealth
from jostle.observation.mmd import _assignments, _kernel
from jostle.observation.stealth import autocorrelation, holm, ljung_box, zscores


def direct(k, inside, n, m):
    """The definition, by gathering rows."""
    x, y = np.flatnonzero(inside), np.flatnonzero(~inside)
    xx, yy = k[np.ix_(x, x)], k[np.ix_(y, y)]
    first = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return first - 2 * k[np.ix_(x, y)].mean()


def test_the_conventions_of_the_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 0.3
    found = mmd(x, y, permutations=0)
    k, width = _kernel(np.concatenate([x, y]), None)
    pooled = np.concatenate([x, y])
    pairs = np.sqrt(((pooled[:, None] - pooled[None]) ** 2).sum(2))[np.triu_indices(70, 1)]
    assert width == pytest.approx(np.median(pairs), rel=1e-6)
    inside = np.arange(70) < 40
    assert found.unbiased == pytest.approx(direct(k, inside, 40, 30), abs=1e-12)
    drift = k[:40, :40].sum() / (40 * 39) + k[40:, 40:].sum() / (30 * 29) - 2 * k[:40, 40:].mean()
    assert found.torchdrift == pytest.approx(drift, abs=1e-12)
    assert found.torchdrift - found.unbiased == pytest.approx(1 / 39 + 1 / 29, abs=1e-12)
    same = mmd(x, x, permutations=0)
    assert same.biased == pytest.approx(0, abs=1e-12) and same.unbiased < 0


def test_the_product_and_the_gather_agree_on_every_permutation():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(24, 2)), rng.normal(size=(36, 2))
    found = mmd(x, y, permutations=50, block=6, generator=np.random.default_rng(7))
    k, _ = _kernel(np.concatenate([x, y]), None)
    splits = np.repeat(_assignments(4, 6, 50, np.random.default_rng(7), False), 6, axis=0).astype(bool)
    wanted = [direct(k, splits[:, i], 24, 36) for i in range(50)]
    assert np.allclose(found.null, wanted, atol=1e-13)
    assert found.p == (1 + (np.array(wanted) >= found.unbiased - 1e-12).sum()) / 51


def test_p_values_of_equal_distributions_are_uniform():
    rng = np.random.default_rng(3)
    p = [
        mmd(rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), permutations=99, generator=rng).p
        for _ in range(200)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_blocks_keep_dependent_rows_from_false_alarms():
    rng = np.random.default_rng(5)

    def days(count):
        return np.repeat(rng.normal(size=(count, 2)), 24, axis=0) + 0.01 * rng.normal(size=(24 * count, 2))

    false = dict.fromkeys((1, 24), 0)
    for _ in range(20):
        x, y = days(10), days(10)
        for block in false:
            false[block] += mmd(x, y, permutations=99, block=block, generator=rng).p <= 0.05
    assert false[1] > 10 and false[24] <= 4


def test_a_larger_budget_is_seen_better():
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(240, 4))
    policy = continuous(features=4)
    kept = []
    for factor in (1, 4):
        noise = Noise(Budget(0.1).times(factor), "corner")
        shown, _ = noise(policy, x + 0.0, generator=torch.Generator().manual_seed(0))
        kept.append(mmd(x, shown, permutations=199, generator=np.random.default_rng(0)).p)
    assert kept[1] < kept[0] and kept[1] < 0.05


def test_what_mmd_refuses():
    with pytest.raises(JostleError, match="at least 2 rows"):
        mmd(np.zeros((1, 2)), np.zeros((5, 2)), permutations=0)
    with pytest.raises(JostleError, match="as many features"):
        mmd(np.zeros((3, 2)), np.zeros((3, 1)), permutations=0)
    with pytest.raises(JostleError, match="generator must be given"):
        mmd(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(JostleError, match="NaN"):
        mmd(np.full((3, 2), np.nan), np.zeros((3, 2)), permutations=0)
    with pytest.warns(UserWarning, match="bandwidth is 0"):
        found = mmd(np.zeros((4, 2)), np.zeros((5, 2)), permutations=9, generator=np.random.default_rng(0))
    assert found.unbiased == pytest.approx(0, abs=1e-12) and found.p == 1.0


@pytest.mark.study
def test_corrections_and_autocorrelation_are_statsmodels():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=12) ** 3
    assert np.allclose(holm(p), multipletests(p, method="holm")[1])
    x = np.cumsum(rng.normal(size=300))
    theirs = acorr_ljungbox(x, lags=[10])
    assert ljung_box(x, 10) == pytest.approx((theirs["lb_stat"].iloc[0], theirs["lb_pvalue"].iloc[0]))
    assert np.allclose(autocorrelation(np.ones(9), 3), 0)


def test_z_scores_know_constant_features():
    clean = np.stack([np.arange(10.0), np.ones(10)], axis=1)
    shown = clean.copy()
    assert zscores(clean, shown)[1] == 0 and zscores(clean, shown)[0] == pytest.approx(
        4.5 / clean[:, 0].std()
    )
    shown[3, 1] = 1.01
    assert np.isinf(zscores(clean, shown)[1])


@pytest.mark.study
def test_mmd_misses_what_a_tariff_shows(district, tmp_path):
    data = district.window(0, 24 * 60)
    env = BatteryBuilding(data)
    o, _ = env.reset()
    log = [o[0]]
    for t in range(data.hours - 1):
        log.append(env.step(np.array([[np.sin(t / 4)]]))[0][0])
    clean = np.array(log, dtype=np.float64)
    rules = rules_for(clean, data)
    assert set(rules) == {"levels", "forecasts", "energy"}
    assert not any(rule(clean).any() for rule in rules.values())
    shown = clean.copy()
    shown[:, 27] += 0.02  # the price alone
    rng = np.random.default_rng(0)
    found = stealth(clean, shown, permutations=199, generator=rng, rules=rules)
    caught = found.caught()
    assert (
        not caught["mmd"]
        and caught["ks"]
        and caught["consistency: levels"]
        and caught["consistency: forecasts"]
    )
    assert not caught["consistency: energy"]
    assert found.p["ks"].argmin() == 27 and (np.delete(found.p["ks"], 27) == 1).all()
    moved = clean.copy()
    moved[:, 25] = np.clip(moved[:, 25] + 0.05 * np.where(np.arange(len(clean)) % 2, 1, -1), 0, 1)
    assert rules["energy"](moved).mean() > 0.3
    found.save(tmp_path / "stealth.json")
    kept = json.loads((tmp_path / "stealth.json").read_text())
    assert kept["caught"] == caught and len(kept["by feature"]["p"]["ks"]) == 31


def test_what_stealth_refuses():
    x = np.zeros((30, 2))
    with pytest.raises(JostleError, match="features differ"):
        stealth(x, np.zeros((30, 3)))
    with pytest.raises(JostleError, match="at least 3 steps"):
        stealth(x[:2], x)
