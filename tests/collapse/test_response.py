"""The response and its spectra: the spec's checks 3 to 6, 12, 13."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.collapse import TiedModel, decompose, factors
from jostle.collapse.response import respond
from jostle.collapse.schur import Schur
from jostle.collapse.spectrum import spectrum
from jostle.core.errors import JostleError
from tests.helpers import plain

SMALL = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def errors(method: str, beta: float, sizes: list[float]) -> np.ndarray:
    """Of the features and of the classifier, a column each."""
    model = replace(SMALL, beta=beta)
    at = model.collapsed(gen(5))
    nudge = randn(5, 12, seed=6)
    nudge /= nudge.norm()
    out = []
    for t in sizes:
        found = model.minimise(at.H + t * nudge, tolerance=1e-13)
        answer = model.response(t * nudge, at, method)
        out.append([float((found.H - at.H - answer.dH).norm()), float((found.W - at.W - answer.dW).norm())])
    return np.array(out)


SIZES = list(np.logspace(-1, -3, 9))


@pytest.mark.parametrize("method", ["closed", "cg", "dense"])
def test_prediction_error_falls_with_slope_two(method: str) -> None:
    found = errors(method, 20.0, SIZES)
    slopes = np.polyfit(np.log(SIZES), np.log(found), 1)[0]
    assert slopes == pytest.approx(2.0, abs=0.02)
    constants = found[:, 0] / np.square(SIZES)
    assert (constants > 0.001).all() and (constants < 0.01).all()


def test_the_expansion_in_beta_has_slope_one() -> None:
    sizes = list(np.logspace(-3, -5, 5))
    found = errors("large-beta", 20.0, sizes)[:, 0]
    assert np.polyfit(np.log(sizes), np.log(found), 1)[0] == pytest.approx(1.0, abs=0.02)
    # ... with a floor of order beta^-2.
    floor = [errors("large-beta", beta, [1e-5])[0, 0] for beta in (100.0, 400.0)]
    assert math.log(floor[0] / floor[1], 4) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("beta", [20.0, 100.0, 2.0, 0.5])
def test_closed_form_equals_the_dense_solve(beta: float) -> None:
    model = replace(SMALL, beta=beta)
    at = model.collapsed(gen(1))
    nudge = randn(5, 12, seed=2)
    closed, dense, cg = (model.response(nudge, at, m) for m in ("closed", "dense", "cg"))
    for other in (dense, cg):
        torch.testing.assert_close(closed.dH, other.dH, rtol=0, atol=1e-12)
        torch.testing.assert_close(closed.dW, other.dW, rtol=0, atol=1e-12)


@given(
    K=st.integers(2, 4),
    n=st.integers(1, 3),
    extra=st.integers(0, 2),
    lam_w=st.floats(0.02, 2.0),
    c=st.floats(0.02, 0.95),
    beta=st.floats(0.3, 300.0),
)
@settings(max_examples=40, deadline=None)
def test_closed_form_equals_the_dense_solve_anywhere(
    K: int, n: int, extra: int, lam_w: float, c: float, beta: float
) -> None:
    model = TiedModel(K, n, K + extra, lam_w, c * c / lam_w, beta)
    at = model.collapsed(gen(n))
    nudge = randn(K + extra, K * n)
    nudge /= nudge.norm()
    closed, dense = (model.response(nudge, at, m) for m in ("closed", "dense"))
    assert float((closed.dH - dense.dH).norm()) < 1e-10
    assert float((closed.dW - dense.dW).norm()) < 1e-9 * (1 + float(dense.dW.norm()))


def test_response_at_any_minimum_predicts_it() -> None:
    model = TiedModel(3, 4, 20, 0.3, 0.2, 5.0)  # fewer samples than dimensions
    H0, nudge = randn(20, 12), randn(20, 12, seed=1)
    at = model.minimise(H0, tolerance=1e-14)
    answers = [model.response(1e-4 * nudge, at, m) for m in ("cg", "dense")]
    torch.testing.assert_close(answers[0].dH, answers[1].dH, rtol=0, atol=1e-14)
    gaps = []
    for t in (1e-2, 1e-3):
        found = model.minimise(H0 + t * nudge, start=at.H, tolerance=1e-14)
        answer = model.response(t * nudge, at)
        gaps.append(float((found.H - at.H - answer.dH).norm() + (found.W - at.W - answer.dW).norm()))
    assert math.log10(gaps[0] / gaps[1]) == pytest.approx(2.0, abs=0.05)


def matrix(model: TiedModel) -> np.ndarray:
    at = model.collapsed(gen(9))
    return model.beta * np.linalg.inv(Schur(model, at.W, at.H).dense().numpy())


def test_the_operator_is_the_response() -> None:
    at = SMALL.collapsed(gen(9))
    for method in ("closed", "cg", "dense"):
        np.testing.assert_allclose(SMALL.operator(at, method) @ np.eye(60), matrix(SMALL), atol=1e-11)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 2), (4, 1, 6), (3, 2, 3)])
def test_stair_of_the_full_operator(shape: tuple[int, int, int]) -> None:
    model = TiedModel(*shape, lam_w=0.3, lam_h=0.2, beta=7.0)
    found = np.sort(np.linalg.eigvalsh(matrix(model)))
    wanted = np.sort(np.concatenate([[lv.value] * lv.multiplicity for lv in model.spectrum("full")]))
    assert len(wanted) == model.d * model.N
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 2, 3), (4, 10, 10)])
def test_stairs_of_the_blocks(shape: tuple[int, int, int]) -> None:
    _, n, d = shape
    model = TiedModel(*shape, lam_w=0.3, lam_h=0.2, beta=20.0)
    F, size = matrix(model), d * n
    own = np.sort(np.linalg.eigvalsh(F[:size, :size]))
    wanted = np.sort(np.concatenate([[lv.value] * lv.multiplicity for lv in model.spectrum("kk")]))
    np.testing.assert_allclose(own, wanted, atol=1e-12)
    mixed = np.sort(np.linalg.svd(F[:size, size : 2 * size], compute_uv=False))
    wanted = np.sort(np.concatenate([[lv.value] * lv.multiplicity for lv in model.spectrum("kl")]))
    np.testing.assert_allclose(mixed, wanted, atol=1e-12)


def test_numbers_of_the_example() -> None:
    first = SMALL.spectrum("kk", exact=False)
    stair = sorted((round(20 * (1 - lv.value), 7), lv.multiplicity) for lv in first)
    assert stair == [(0.0, 2), (0.2, 6), (0.3020204, 2), (0.6040408, 1), (0.8164966, 9)]
    assert first[-1].value == pytest.approx(0.9591752, abs=5e-8)
    assert SMALL.spectrum("kl", exact=False)[0].value == pytest.approx(0.01510102, abs=5e-9)
    assert SMALL.spectrum("kk")[-1].value == pytest.approx(0.9607765, abs=5e-8)
    assert SMALL.spectrum("kl")[0].value == pytest.approx(0.01465831, abs=5e-9)
    # The first-order spectrum is that of the expansion in beta itself.
    at = SMALL.collapsed(gen(0))
    F = SMALL.operator(at, "large-beta") @ np.eye(60)
    wanted = np.sort(np.concatenate([[lv.value] * lv.multiplicity for lv in first]))
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(F[:20, :20])), wanted, atol=1e-12)


def test_a_rotation_passes_unchanged() -> None:
    at = SMALL.collapsed(gen(0))
    omega = randn(5, 5)
    omega = omega - omega.T
    answer = SMALL.response(omega @ at.H, at)
    torch.testing.assert_close(answer.dH, omega @ at.H, rtol=0, atol=1e-13)
    torch.testing.assert_close(answer.dW, -at.W @ omega, rtol=0, atol=1e-13)


def test_growth_of_the_frame_is_damped() -> None:
    at = SMALL.collapsed(gen(0))
    answer = SMALL.response(0.1 * at.H, at)
    torch.testing.assert_close(answer.dH, 0.1 * factors(0.3, 0.2, 20.0).mean_sym * at.H, rtol=0, atol=1e-14)


@given(seed=st.integers(0, 1000), n=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_energies_sum_and_are_multiplied_by_their_factors(seed: int, n: int) -> None:
    model = TiedModel(3, n, 5, 0.3, 0.2, 4.0)
    at = model.collapsed(gen(seed))
    nudge = randn(5, 3 * n, seed=seed)
    before = decompose(nudge, at.R)
    assert before.total == pytest.approx(float(nudge.square().sum()), rel=1e-12)
    after, f = decompose(model.response(nudge, at).dH, at.R), factors(0.3, 0.2, 4.0)
    for part in ("within_in", "within_out", "mean_sym", "mean_skew", "mean_out"):
        assert getattr(after, part) == pytest.approx(
            getattr(f, part) ** 2 * getattr(before, part), rel=1e-10, abs=1e-18
        )


@given(lam_h=st.floats(1e-4, 1.0), lam_w=st.floats(1e-4, 0.99))
@settings(max_examples=50, deadline=None)
def test_variability_answers_before_the_simplex(lam_h: float, lam_w: float) -> None:
    f = factors(lam_w, lam_h, 3.0)
    assert f.s >= 2 * f.g * (1 - 1e-12)


def test_what_cannot_be_answered_is_refused() -> None:
    at = SMALL.collapsed(gen(0))
    other = SMALL.minimise(randn(5, 12))
    with pytest.raises(JostleError, match="'closed' is for exact collapse"):
        SMALL.response(randn(5, 12), other, "closed")
    with pytest.raises(JostleError, match="beta must be above 0"):
        replace(SMALL, beta=0.0).response(randn(5, 12), at)
    with pytest.raises(JostleError, match="d N must be at most 4000"):
        big = TiedModel(10, 50, 10, 0.3, 0.2, 1.0)
        big.response(randn(10, 500), big.collapsed(gen(0)), "dense")
    with pytest.raises(JostleError, match="method must be"):
        plain(respond)(SMALL, randn(5, 12), at, "exact")  # pyright: ignore
    with pytest.raises(JostleError, match="block must be"):
        plain(spectrum)(SMALL, "diagonal")  # pyright: ignore
