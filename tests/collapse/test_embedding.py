"""Spectra of classes and similarity of layers, against other ways to the same numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.collapse import cka, class_spectra, frame, metrics
from jostle.core.errors import JostleError
from tests.helpers import plain


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [3, 30])
def test_spectra_are_those_of_the_covariances(d: int) -> None:
    h, y = randn(40, d), torch.tensor([0, 0, 0, 1] * 10)
    found = class_spectra(h, y)
    assert found.values.shape == (2, min(d, 30))
    for k in range(2):
        wanted = torch.linalg.eigvalsh(torch.cov(h[y == k].T, correction=0)).flip(0).clamp_min(0)
        squares = torch.zeros(d, dtype=torch.float64)
        squares[: found.values.shape[1]] = found.values[k].square()
        torch.testing.assert_close(squares, wanted, rtol=0, atol=1e-12)
        share = found.values[k] / found.values[k].sum()
        entropy = -(share * share.clamp_min(1e-300).log()).sum()
        assert float(found.effective_ranks[k]) == pytest.approx(math.exp(float(entropy)), rel=1e-12)
    with pytest.warns(UserWarning, match="K = 2"):
        within = metrics(h, y).within
    counts = torch.tensor([30, 10])
    assert float((found.values.square().sum(1) * counts).sum() / 40) == pytest.approx(within, rel=1e-12)


def test_a_class_that_spreads_along_a_line_has_rank_one() -> None:
    line = randn(10, 1) @ randn(1, 6, seed=1)
    ball = torch.cat([torch.eye(6, dtype=torch.float64), -torch.eye(6, dtype=torch.float64)])
    found = class_spectra(torch.cat([line, ball + 3]), torch.tensor([0] * 10 + [1] * 12))
    assert found.effective_ranks.tolist() == pytest.approx([1, 6], rel=1e-9)


@given(seed=st.integers(0, 10_000), d=st.sampled_from([3, 25]), scale=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_cka_is_its_other_form_and_invariant(seed: int, d: int, scale: float) -> None:
    X, Y = randn(12, d, seed=seed), randn(12, 5, seed=seed + 1)
    # HSIC of the two Gram matrices, with the centring matrix written out.
    C = torch.eye(12, dtype=torch.float64) - 1 / 12

    def hsic(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ a.T @ C @ b @ b.T @ C).trace())

    wanted = hsic(X, Y) / math.sqrt(hsic(X, X) * hsic(Y, Y))
    assert cka(X, Y) == pytest.approx(wanted, rel=1e-9) and cka(Y, X) == pytest.approx(wanted, rel=1e-9)
    turn = frame(d, d, torch.Generator().manual_seed(seed))
    assert cka(scale * X @ turn + 7.0, Y) == pytest.approx(wanted, rel=1e-6)
    assert cka(X, scale * X @ turn - 2.0) == pytest.approx(1.0, rel=1e-9)


def test_features_far_from_one_are_no_trouble() -> None:
    X, Y = randn(12, 4), randn(12, 5, seed=1)
    assert cka(1e-90 * X, 1e90 * Y) == pytest.approx(cka(X, Y), rel=1e-12)


def test_bad_embeddings_are_refused() -> None:
    h, y = randn(6, 3), torch.arange(6) % 3
    for call, sentence in (
        (lambda: plain(cka)(h, h[:4]), "must hold the same samples, but 6 and 4 came"),
        (lambda: cka(h, torch.ones(6, 2)), "Y must vary"),
        (lambda: cka(h * math.nan, h), "X must be finite"),
        (lambda: cka(h[:0], h[:0]), "not empty"),
        (lambda: plain(class_spectra)(h, y[:4]), "equally long"),
        (lambda: class_spectra(h, y, K=2), "labels must lie in 0 to 1, but 0 to 2 came"),
        (lambda: class_spectra(h, y, K=4), "class 3 has none"),
    ):
        with pytest.raises(JostleError, match=sentence):
            call()
