"""The gradient flow: the spec's checks 7 and 8."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jostle.collapse import TiedModel, metrics
from jostle.core.errors import JostleError


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("lam_h", [0.0, 0.1])
@pytest.mark.parametrize("d", [5, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_theorem_holds_at_forty_times(lam_h: float, d: int, seed: int) -> None:
    found = TiedModel(3, 6, d, 0.1, lam_h, 1.0).flow(randn(d, 18, seed=seed), torch.linspace(0, 4, 40))
    assert found.falls and found.shrinks and found.spreads


def test_a_flow_that_does_not_collapse_is_seen() -> None:
    # All class means equal: nothing can spread.
    model = TiedModel(2, 2, 2, 0.1, 0.1, 1.0)
    H0 = torch.tensor([[1.0, -1, 1, -1], [0, 0, 0, 0]])
    with np.errstate(all="ignore"):
        found = model.flow(H0, [0.0, 0.5])
    assert not found.spreads


@pytest.mark.parametrize("d", [5, 30])
def test_rates_match_differences(d: int) -> None:
    model = TiedModel(3, 6, d, 0.1, 0.1, 1.0)
    step = 1e-3
    times = [0.0] + [t + k * step for t in (0.3, 1.0) for k in (-2, -1, 0, 1, 2)]
    found = model.flow(randn(d, 18), times, rtol=1e-12)
    for name in ("within", "between"):
        values, rates = getattr(found, name), getattr(found, name + "_rate")
        for i in (3, 8):
            slope = (8 * (values[i + 1] - values[i - 1]) - (values[i + 2] - values[i - 2])) / (12 * step)
            assert float(slope) == pytest.approx(float(rates[i]), abs=1e-8)


@pytest.mark.parametrize("d", [4, 25])
def test_the_reduced_flow_is_the_flow(d: int) -> None:
    from scipy.integrate import solve_ivp

    model = TiedModel(3, 5, d, 0.2, 0.1, 1.0)
    H0 = randn(d, 15)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        H = torch.from_numpy(y).reshape(d, 15)
        W = model.targets() @ H.T @ torch.linalg.inv(H @ H.T + 5 * 0.2 * torch.eye(d, dtype=H.dtype))
        return (-W.T @ (W @ H - model.targets()) - 0.1 * H).reshape(-1).numpy()

    wanted = solve_ivp(slope, (0, 2), H0.reshape(-1).numpy(), rtol=1e-11, atol=1e-12, method="DOP853").y[
        :, -1
    ]
    found = model.flow(H0, [0.0, 2.0])
    torch.testing.assert_close(found.features(1).reshape(-1), torch.from_numpy(wanted), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.features(0), H0, rtol=0, atol=1e-13)
    report = metrics(found.features(1).T, torch.arange(3).repeat_interleave(5))
    for name in ("nc1", "nc1_trace", "nc2", "within", "between"):
        assert float(getattr(found, name)[1]) == pytest.approx(getattr(report, name), rel=1e-9)


@pytest.mark.parametrize("d", [5, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_central_path_follows_the_flow_to_second_order(d: int, seed: int) -> None:
    model = TiedModel(3, 4, d, 0.3, 0.2, 1.0)
    H0 = randn(d, 12, seed=seed)

    def velocity(H: torch.Tensor) -> torch.Tensor:
        W = model.classifier(H)
        return -W.T @ (W @ H - model.targets()) - model.lam_h * H

    # An implicit Euler step of size t and the flow differ by t^2/2 times the acceleration.
    along, step = velocity(H0), 1e-5
    acceleration = (velocity(H0 + step * along) - velocity(H0 - step * along)) / (2 * step)
    limit = float(acceleration.norm()) / 2
    betas = np.array([30.0, 100.0, 300.0, 1000.0])
    constants = []
    for beta in betas:
        path = replace(model, beta=float(beta)).minimise(H0, tolerance=1e-13).H
        flowed = model.flow(H0, [0.0, 1 / beta], rtol=1e-12).features(1)
        constants.append(beta**2 * float((path - flowed).norm()))
    assert np.abs(np.array(constants) / constants[-1] - 1).max() < 0.05
    # What is left falls as 1/beta.
    left = betas * (np.array(constants) / limit - 1)
    assert np.abs(left / left[-1] - 1).max() < 0.05


def test_large_beta_lowers_variability() -> None:
    for seed in range(5):
        H0 = randn(6, 20, seed=seed)
        labels = torch.arange(4).repeat_interleave(5)
        found = TiedModel(4, 5, 6, 0.1, 0.05, 100.0).minimise(H0)
        assert metrics(found.H.T, labels).nc1_trace < metrics(H0.T, labels).nc1_trace


def test_bad_times_are_refused() -> None:
    model = TiedModel(3, 4, 5, 0.3, 0.2, 1.0)
    for times in ([0.0], [0.1, 1.0], [0.0, 1.0, 1.0]):
        with pytest.raises(JostleError, match="times must begin with 0"):
            model.flow(randn(5, 12), times)
