"""The objective, its minimiser and exact collapse: the spec's checks 1, 2, 5, 14, and bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.collapse import TiedModel, bank, frame, metrics, tied_to
from jostle.core.errors import JostleError
from jostle.zoo import load_data

SMALL = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def norm(*parts: torch.Tensor) -> float:
    return float(torch.cat([p.flatten() for p in parts]).norm())


@given(K=st.integers(2, 5), n=st.integers(1, 4), extra=st.integers(0, 3), lam=st.floats(0.01, 0.9))
@settings(max_examples=25, deadline=None)
def test_collapse_is_stationary(K: int, n: int, extra: int, lam: float) -> None:
    model = TiedModel(K, n, K + extra, lam_w=lam, lam_h=0.9 * lam, beta=3.0)
    at = model.collapsed(gen(K))
    assert max(part.abs().max() for part in model.grad(at.W, at.H, at.H)) < 1e-14
    torch.testing.assert_close(at.W @ at.H - model.targets(), -model.c * model.targets(), atol=1e-14, rtol=0)


def test_collapse_has_the_size_of_the_theory() -> None:
    at = SMALL.collapsed(gen(0))
    report = metrics(at.H.T, torch.arange(3).repeat_interleave(4))
    assert report.between == pytest.approx(SMALL.rho * 2 / 3, rel=1e-14)
    assert report.nc1_trace < 1e-28 and report.nc2_of < 1e-14


def test_constants_of_the_example() -> None:
    assert SMALL.c == pytest.approx(0.2449490, abs=5e-8)
    assert SMALL.s == pytest.approx(0.8164966, abs=5e-8)
    assert SMALL.g == pytest.approx(0.3020204, abs=5e-8)


def test_gradient_and_hessian_match_differences() -> None:
    W, H, H0, dW, dH = (
        randn(3, 5),
        randn(5, 12, seed=1),
        randn(5, 12, seed=2),
        randn(3, 5, seed=3),
        randn(5, 12, seed=4),
    )
    step = 1e-5
    up, down = (W + step * dW, H + step * dH), (W - step * dW, H - step * dH)
    slope = (SMALL.value(*up, H0) - SMALL.value(*down, H0)) / (2 * step)
    by_w, by_h = SMALL.grad(W, H, H0)
    assert slope == pytest.approx(float((by_w * dW).sum() + (by_h * dH).sum()), rel=1e-8)
    plus, minus = SMALL.grad(*up, H0), SMALL.grad(*down, H0)
    found = SMALL.hess_mv(W, H, dW, dH)
    wanted = [(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)]
    assert norm(found[0] - wanted[0], found[1] - wanted[1]) < 1e-7 * norm(*found)


@pytest.mark.parametrize("d", [5, 20])  # more and fewer samples than dimensions
def test_classifier_is_the_best_one(d: int) -> None:
    model = TiedModel(3, 4, d, 0.3, 0.2, 1.0)
    H = randn(d, 12)
    W = model.classifier(H)
    assert norm(model.grad(W, H, H)[0]) < 1e-13
    direct = model.targets() @ H.T @ torch.linalg.inv(H @ H.T + 4 * 0.3 * torch.eye(d, dtype=H.dtype))
    torch.testing.assert_close(W, direct, rtol=1e-10, atol=1e-12)
    features = model.tied(W, H)
    assert norm(model.grad(W, features, H)[1]) < 1e-13


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0, 20.0, 1000.0])
@pytest.mark.parametrize("d", [5, 20])
def test_minimise_reaches_its_tolerance(beta: float, d: int) -> None:
    model = TiedModel(3, 4, d, 0.3, 0.2, beta)
    H0 = randn(d, 12)
    found = model.minimise(H0, curvature=True)
    assert found.converged and found.grad_norm <= 1e-10 * max(1, norm(H0)) / 12
    assert found.value <= model.value(model.classifier(H0), H0, H0)
    assert found.curvature is not None and found.curvature > 0
    assert found.value == pytest.approx(model.minimise(H0, newton=False, tolerance=1e-9).value, rel=1e-8)


def test_minimise_returns_to_collapse_from_collapse() -> None:
    at = SMALL.collapsed(gen(3))
    found = SMALL.minimise(at.H)
    assert norm(found.H - at.H) < 1e-12 and norm(found.W - at.W) < 1e-12


def test_minimise_says_when_it_did_not_converge() -> None:
    model = TiedModel(3, 4, 5, 0.3, 0.2, 0.01)
    assert not model.minimise(randn(5, 12), max_steps=2, newton=False).converged


@pytest.mark.study
def test_minimise_goes_on_past_a_saddle() -> None:
    # Real pixels with a weak tie: the gradient shrinks towards a saddle, and grows again while the value falls.
    digits = load_data("digits")
    x, y = torch.stack([digits[i][0] for i in range(400)]).flatten(1), digits.labels[:400]
    model, H0 = tied_to((x - x.mean()) / x.std(), y, beta=10.0, per_class=20)
    at = model.minimise(H0)
    assert at.converged
    left = model.minimise(H0, max_steps=160, newton=False)
    assert at.value < left.value < model.value(model.classifier(H0), H0, H0)


def test_without_given_features_it_is_the_free_model_with_a_shifted_penalty() -> None:
    # H0 = 0 is the unconstrained-features model with lam_h + beta: its minimum has rho of that sum.
    model = TiedModel(3, 4, 5, 0.3, 0.1, 0.2)
    shifted = TiedModel(3, 4, 5, 0.3, 0.3, 0.0)
    found = model.minimise(torch.zeros(5, 12), start=0.3 * randn(5, 12))
    assert found.converged
    assert float(found.H.square().sum()) == pytest.approx(12 * shifted.rho, rel=1e-8)


def test_bank_orders_by_class() -> None:
    labels = torch.tensor([2, 0, 1, 0, 1, 2])
    features = labels[:, None].float()
    assert bank(features, labels).tolist() == [[0, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lam_w": 0.0}, "lam_w must be above 0"),
        ({"lam_w": -1.0}, "lam_w must be above 0"),
        ({"lam_h": -0.1}, "lam_h must be at least 0"),
        ({"beta": math.nan}, "beta must be at least 0"),
        ({"K": 1}, "K must be at least 2 classes"),
        ({"n": 0}, "n and d must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(JostleError, match=sentence):
        TiedModel(**{"K": 3, "n": 4, "d": 5, "lam_w": 0.3, "lam_h": 0.2, "beta": 1.0, **change})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (TiedModel(3, 4, 5, 0.3, 0.0, 1.0), "lam_h must be above 0"),
        (TiedModel(3, 4, 5, 2.0, 0.5, 1.0), "the only minimiser is zero"),
        (TiedModel(6, 4, 5, 0.3, 0.2, 1.0), "d must be at least K"),
    ],
)
def test_where_there_is_no_collapse_it_says_so(model: TiedModel, sentence: str) -> None:
    with pytest.raises(JostleError, match=sentence):
        model.collapsed(gen(0))


def test_wrong_features_are_refused() -> None:
    with pytest.raises(JostleError, match=r"H0 must be \(d, K n\)"):
        SMALL.minimise(randn(12, 5))
    with pytest.raises(JostleError, match="H0 must be finite"):
        SMALL.minimise(torch.full((5, 12), math.inf))
    with pytest.raises(JostleError, match="orthonormal columns"):
        SMALL.collapsed(2 * frame(3, 5, gen(0)))
    with pytest.raises(JostleError, match="each class equally often"):
        bank(randn(3, 2), torch.tensor([0, 0, 1]))
