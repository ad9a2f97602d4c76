"""Autocorrelations and fits against closed forms and against SciPy's local fitter."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import curve_fit

from jostle.core.errors import JostleError
from jostle.timescales import (
    Autocorrelation,
    LeakyRNN,
    NParity,
    autocorrelation,
    dimensionality,
    fit_timescales,
    network_timescales,
    tau_as_decay,
)
from tests.helpers import plain

LAGS = np.arange(31.0)


def uncoupled(taus):
    torch.manual_seed(0)
    net = LeakyRNN(
        len(taus), tau=list(taus), nonlinearity="identity", generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        net.weight.zero_()
    return net


def ar1(tau, samples, seed=0):
    from scipy.signal import lfilter

    noise = np.random.default_rng(seed).normal(size=samples)
    return lfilter([1.0], [1.0, -np.exp(-1 / tau)], noise)


@pytest.mark.study
def test_uncoupled_units_decay_as_the_closed_form_says():
    taus = (2.0, 5.0, 10.0)
    found = network_timescales(
        uncoupled(taus), NParity(p=0.5), generator=torch.Generator().manual_seed(1), steps=60_000, trials=8
    )
    np.testing.assert_allclose(tau_as_decay([2, 5, 10, 20]), [1.4427, 4.4814, 9.4912, 19.4957], atol=5e-5)
    np.testing.assert_allclose(found.fit.tau, tau_as_decay(taus), rtol=0.02)
    summary = found.summary()
    assert summary["kept"] == 1.0
    assert summary["mean"] == pytest.approx(tau_as_decay(taus).mean(), rel=0.02)


@pytest.mark.study
def test_linear_network_has_the_covariance_of_its_lyapunov_equation():
    net = LeakyRNN(6, tau=(1.5, 6.0), nonlinearity="identity", generator=torch.Generator().manual_seed(3))
    matrix = net.fold().matrix[0].detach().double().numpy()
    A, w = matrix[:, :6], matrix[:, 6]
    P = solve_discrete_lyapunov(A, 0.25 * np.outer(w, w))
    exact = np.stack([np.diag(np.linalg.matrix_power(A, k) @ P) for k in range(8)], 1)
    bits = (np.random.default_rng(0).random((8, 40_000)) < 0.5).astype(np.float32)
    seen = net.states(torch.from_numpy(bits))[0].detach().numpy().transpose(1, 0, 2)[:, 500:]
    parts = [
        autocorrelation(trial, max_lag=7).values.T * autocorrelation(trial, max_lag=7).variance
        for trial in seen
    ]
    spread = np.std(parts, axis=0, ddof=1) / np.sqrt(len(parts))
    assert (np.abs(np.mean(parts, 0) - exact.T) < 5 * spread + 1e-9).all()


@pytest.mark.study
def test_blocks_give_the_autocorrelation_of_the_whole(monkeypatch):
    from jostle.timescales import measuring

    net = LeakyRNN(5, generator=torch.Generator().manual_seed(0))
    task = NParity(p=0.5)
    monkeypatch.setattr(measuring, "_BLOCK", 5 * 3 * 170)
    found = network_timescales(
        net, task, generator=torch.Generator().manual_seed(1), steps=8000, trials=3, burn_in=50
    )
    generator = torch.Generator().manual_seed(1)
    bits = task.bits(3, 8050, generator)
    with torch.no_grad():
        states = net.states(bits, net.initial_state(3, generator))[0][50:]
    whole = autocorrelation(states.transpose(0, 1), max_lag=30)
    np.testing.assert_allclose(found.curves.values, whole.values, atol=2e-5)
    total = autocorrelation(states.sum(-1).T[..., None], max_lag=30)
    np.testing.assert_allclose(found.population.values, total.values, atol=2e-5)


def test_inputs_of_ones_own_drive_a_network_as_a_task_does():
    net, task = LeakyRNN(5, generator=torch.Generator().manual_seed(0)), NParity(p=0.5)
    by_task = network_timescales(
        net, task, generator=torch.Generator().manual_seed(1), steps=4000, trials=3, burn_in=50
    )
    generator = torch.Generator().manual_seed(1)
    inputs = task.bits(3, 4050, generator)
    own = network_timescales(net, inputs, generator=generator, burn_in=50)
    np.testing.assert_array_equal(own.curves.values, by_task.curves.values)
    np.testing.assert_array_equal(own.fit.tau, by_task.fit.tau)
    with pytest.raises(JostleError, match="steps must be more than max_lag"):
        network_timescales(net, inputs[:, :60], generator=generator, burn_in=50)


def test_noise_free_curves_are_recovered():
    one = fit_timescales(np.exp(-LAGS / 7.3))
    assert one.tau[0] == pytest.approx(7.3, abs=1e-6)
    assert not one.double[0]
    two = fit_timescales(0.35 * np.exp(-LAGS / 1.7) + 0.65 * np.exp(-LAGS / 14.2))
    assert two.double[0]
    np.testing.assert_allclose(two.pair[0], [1.7, 14.2], atol=1e-4)
    assert two.slow_weight[0] == pytest.approx(0.65, abs=1e-4)
    np.testing.assert_allclose(
        two.curves(LAGS)[0], 0.35 * np.exp(-LAGS / 1.7) + 0.65 * np.exp(-LAGS / 14.2), atol=1e-9
    )


def curves(count, seed):
    rng = np.random.default_rng(seed)
    c = rng.uniform(0, 1, (count, 1))
    t1 = np.exp(rng.uniform(np.log(0.3), np.log(4), (count, 1)))
    t2 = np.exp(rng.uniform(0, np.log(90), (count, 1)))
    y = c * np.exp(-LAGS / t1) + (1 - c) * np.exp(-LAGS / t2)
    y = y + rng.normal(0, 1, y.shape) * rng.choice([1e-3, 0.01, 0.05], (count, 1))
    y[: count // 8, 1::2] *= -0.5  # anticorrelated units
    y[:, 0] = 1
    return y


def one(k, a, t):
    return a * np.exp(-k / t)


def two(k, a, c, t1, t2):
    return a * (c * np.exp(-k / t1) + (1 - c) * np.exp(-k / t2))


@pytest.mark.parametrize(
    ("row", "start"),
    [
        (396, [0.99, 0.995, 0.87, 24.0]),  # a light second part: the valley is too narrow for a grid
        (258, [0.99, 0.997, 1.74, 8.1]),
        (866, [0.99, 0.9999, 1.28, 99.0]),
        (471, [0.99, 0.135, 0.52, 1.57]),  # two parts that are nearly one: the way along the valley is long
        (629, [0.99, 0.11, 4.1, 1.74]),
    ],
)
def test_narrow_valleys_are_found_and_followed_to_their_end(row, start):
    curve = curves(1000, 7)[row]
    best, _ = curve_fit(
        two, LAGS, curve, p0=start, bounds=([1e-9] * 4, [1.0] * 2 + [100.0] * 2), max_nfev=400
    )
    assert fit_timescales(curve).rss[0, 1] <= ((two(LAGS, *best) - curve) ** 2).sum() * (1 + 1e-9)


def share_never_beaten(y, starts, seed=1):
    """Share of fits, of both models, that no local fit beats from any of several random starts."""
    fit, rng, won = fit_timescales(y), np.random.default_rng(seed), 0
    for row, curve in enumerate(y):
        for which, (model, half) in enumerate([(one, 1), (two, 2)]):
            beaten = False
            for _ in range(starts):
                start = [*rng.uniform(0.05, 0.95, half), *np.exp(rng.uniform(np.log(0.2), np.log(95), half))]
                bounds = ([1e-9] * 2 * half, [1.0] * half + [100.0] * half)
                try:
                    best, _ = curve_fit(model, LAGS, curve, p0=start, bounds=bounds, max_nfev=400)
                except RuntimeError:
                    continue
                beaten |= fit.rss[row, which] > ((model(LAGS, *best) - curve) ** 2).sum() * (1 + 1e-6)
            won += not beaten
    assert (fit.rss[:, 1] <= fit.rss[:, 0]).all()
    return won / (2 * len(y))


@pytest.mark.study
def test_no_local_fit_from_many_starts_is_better():
    assert share_never_beaten(curves(24, 0), starts=3) == 1.0


@pytest.mark.slow
def test_a_thousand_curves_are_fitted_as_well_as_from_many_starts():
    assert share_never_beaten(curves(1000, 7), starts=4) >= 0.999


def test_scaling_repeating_and_reversing_change_nothing():
    x = np.stack([ar1(6.0, 4000, 1), ar1(3.0, 4000, 2)], 1)
    plainly = fit_timescales(autocorrelation(x, max_lag=30)).tau
    for other in (1e4 * x, np.stack([x, x]), x[::-1]):
        np.testing.assert_allclose(fit_timescales(autocorrelation(other, max_lag=30)).tau, plainly, rtol=1e-9)


def test_flat_units_are_flagged_without_a_warning():
    x = np.stack([np.full(3000, 0.1), ar1(3.0, 3000)], 1)
    found = autocorrelation(x, max_lag=30)
    fit = fit_timescales(found)
    assert fit.flat.tolist() == [True, False]
    assert np.isnan(fit.tau[0])
    assert np.isfinite(fit.tau[1])
    assert fit.good().tolist() == [False, True]
    everything = fit_timescales(autocorrelation(np.zeros((3000, 2)), max_lag=30))
    assert everything.flat.all()
    assert np.isnan(found.measures()["auc"][0])


def test_light_slow_parts_and_bounds_are_flagged():
    light = fit_timescales(0.99 * np.exp(-LAGS / 2) + 0.01)
    assert light.double[0]
    assert light.at_bound[0]
    assert light.slow_weight[0] < 0.02
    assert not light.good()[0]


def test_measures_without_a_fit():
    decay = np.exp(-np.arange(400) / np.array([[5.0], [20.0]]))
    found = Autocorrelation(decay, np.ones(2), 10**6).measures()
    np.testing.assert_allclose(found["acw50"], np.array([5, 20]) * np.log(2), rtol=0.01)
    np.testing.assert_allclose(found["acwe"], [5, 20], rtol=0.01)
    np.testing.assert_allclose(found["auc"], [5, 20], rtol=0.01)
    np.testing.assert_allclose(found["iat"], 1 / np.tanh(1 / np.array([10, 40])), rtol=1e-3)
    crossing = Autocorrelation(np.array([[1.0, 0.5, -0.5, 0.2]]), np.ones(1), 10**6).measures()
    assert crossing["acw0"][0] == pytest.approx(1.5)
    assert crossing["auc"][0] == pytest.approx(0.75 + 0.125)


def test_a_users_own_spike_counts_have_the_timescale_of_their_rate():
    rng = np.random.default_rng(0)
    rate = np.exp(0.4 * np.stack([ar1(8.0, 60_000, s) for s in range(3)], 1) * np.sqrt(1 - np.exp(-2 / 8.0)))
    counts = rng.poisson(5 * rate)
    fit = fit_timescales(autocorrelation(counts, max_lag=40))
    np.testing.assert_allclose(fit.tau, 8.0, rtol=0.25)


def test_missing_samples_are_left_out_pair_by_pair():
    x = ar1(5.0, 30_000)
    holes = x.copy()
    holes[np.random.default_rng(1).random(len(x)) < 0.3] = np.nan
    with pytest.raises(JostleError, match="NaN"):
        autocorrelation(holes)
    found = autocorrelation(holes, max_lag=30, missing="pairwise")
    np.testing.assert_allclose(found.values, autocorrelation(x, max_lag=30).values, atol=0.03)


def test_a_linear_trend_is_removed_when_asked():
    x = ar1(4.0, 20_000)
    trend = x + np.linspace(0, 20, len(x))
    found = autocorrelation(trend, max_lag=30, detrend="linear").values
    np.testing.assert_allclose(found, autocorrelation(x, max_lag=30).values, atol=0.01)


def test_short_series_are_warned_of_and_too_short_ones_refused():
    with pytest.warns(UserWarning, match="200 times"):
        autocorrelation(ar1(20.0, 1000), max_lag=100)
    with pytest.raises(JostleError, match="max_lag"):
        autocorrelation(np.zeros(20), max_lag=30)
    with pytest.raises(JostleError, match="layout"):
        autocorrelation(np.zeros((50, 2)), max_lag=5, layout="trials time units")
    with pytest.raises(JostleError, match="reach lag 30"):
        fit_timescales(np.ones((2, 20)))


def test_layouts_name_the_axes():
    x = np.stack([ar1(4.0, 5000, s) for s in range(3)])
    by_unit = autocorrelation(x.T, max_lag=10)
    by_trial = autocorrelation(x, max_lag=10, layout="trials time")
    assert by_unit.values.shape == (3, 11)
    assert by_trial.values.shape == (1, 11)
    assert np.abs(by_trial.values - by_unit.values.mean(0)).max() < 0.05


def test_dimensionality_of_known_structure():
    found = dimensionality(
        uncoupled((1.0, 1.0, 1.0)), NParity(p=0.5), generator=torch.Generator().manual_seed(0), steps=500
    )
    # One input and no memory: all units move along one line.
    assert found.components == 1
    assert found.participation == pytest.approx(1, abs=1e-5)


def test_a_diverging_network_is_refused():
    net = LeakyRNN(3, nonlinearity="identity", tau=[2.0, 2.0, 2.0])
    with torch.no_grad():
        net.weight.fill_(5)
    with pytest.raises(JostleError, match="diverges"):
        plain(network_timescales)(net, NParity(), generator=torch.Generator().manual_seed(0), steps=500)
