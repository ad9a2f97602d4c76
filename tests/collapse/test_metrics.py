"""The metrics against their definitions, written out: the spec's checks 9 to 11, 15, and bad input."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.collapse import Accumulator, NCReport, etf, frame, metrics
from jostle.core.errors import JostleError
from tests.helpers import plain


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(K: int, n: int, d: int, seed: int = 0, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.randn(K, d, generator=gen(seed), dtype=torch.float64)
    y = torch.arange(K).repeat(n)
    return means[y] + spread * torch.randn(K * n, d, generator=gen(seed + 1), dtype=torch.float64), y


def by_definition(h: np.ndarray, y: np.ndarray, W: np.ndarray, weighting: str = "class") -> dict[str, float]:
    """Section 2.1 of the mathematics, term by term, with the d x d matrices and the pseudo-inverse."""
    K, N = len(W), len(h)
    means = np.stack([h[y == k].mean(0) for k in range(K)])
    share = np.full(K, 1 / K) if weighting == "class" else np.bincount(y) / N
    centre = share @ means
    S_W = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(h, y, strict=True)) / N
    S_B = sum(w * np.outer(m - centre, m - centre) for w, m in zip(share, means, strict=True))
    ideal = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    centred = means - centre

    def gap(A: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.linalg.norm(A / np.linalg.norm(A) - wanted))

    v = np.array([((h[y == k] - means[k]) ** 2).sum(1).mean() for k in range(K)])
    pairs = [
        (v[k] + v[m]) / 2 / ((means[k] - means[m]) ** 2).sum() for k in range(K) for m in range(K) if k != m
    ]
    nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
    span = np.linalg.qr(means.T)[0]
    return {
        "nc1": np.trace(S_W @ np.linalg.pinv(S_B, rcond=1e-10)) / K,
        "nc1_trace": np.trace(S_W) / np.trace(S_B),
        "nc2": gap(centred @ centred.T, ideal),
        "nc2_of": gap(means @ means.T, np.eye(K) / math.sqrt(K)),
        "nc3": gap(W @ centred.T, ideal),
        "nc3_of": gap(W @ means.T, np.eye(K) / math.sqrt(K)),
        "nc4": (nearest == (h @ W.T).argmax(1)).mean(),
        "ncc": (nearest == y).mean(),
        "cdnv": np.mean(pairs),
        "within": np.trace(S_W),
        "within_in": np.trace(span.T @ S_W @ span),
        "between": np.trace(S_B),
    }


@pytest.mark.parametrize("weighting", ["class", "sample"])
@pytest.mark.parametrize("shape", [(4, 30, 9), (6, 10, 6), (7, 10, 4), (3, 2, 40)])
def test_metrics_are_their_definitions(shape: tuple[int, int, int], weighting: str) -> None:
    h, y = sample(*shape)
    keep = torch.ones(len(h), dtype=torch.bool)
    keep[: shape[0] : 2] = False  # classes of unequal size
    h, y = h[keep], y[keep]
    W = torch.randn(shape[0], shape[2], generator=gen(5), dtype=torch.float64)
    report = metrics(h, y, W, weighting=weighting)
    for name, wanted in by_definition(h.numpy(), y.numpy(), W.numpy(), weighting).items():
        assert getattr(report, name) == pytest.approx(wanted, rel=1e-11), name
    assert report.singular_values.numpy() == pytest.approx(
        np.linalg.svd(h_means(h, y, report), compute_uv=False)[: len(report.singular_values)], rel=1e-10
    )


def h_means(h: torch.Tensor, y: torch.Tensor, report: NCReport) -> np.ndarray:
    means = torch.stack([h[y == k].mean(0) for k in range(report.K)])
    share = (
        torch.full((report.K,), 1 / report.K).double()
        if report.weighting == "class"
        else report.counts.double() / len(h)
    )
    return (means - share.double() @ means).numpy()


@pytest.mark.parametrize("d", [4, 5, 30])
@pytest.mark.parametrize("squeeze", [1.0, 1e-3, 3e-5])
def test_means_that_are_nearly_dependent_keep_their_digits(d: int, squeeze: float) -> None:
    # The inverse of a triangle above a ratio of 1e-4, singular vectors below: both are the definition.
    h, y = sample(5, 40, d)
    means = torch.stack([h[y == k].mean(0) for k in range(5)])
    centred = means - means.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    s[3] *= squeeze
    squeezed = u[:, :4] * s[:4] @ v[:4]
    h = h - means[y] + squeezed[y]
    white = (h - squeezed[y]) @ (v[:4].T / s[:4])
    assert metrics(h, y).nc1 == pytest.approx(float(white.square().sum()) / len(h), rel=1e-9)
    assert metrics(h, y).singular_values.numpy() == pytest.approx(s[:4].numpy(), rel=1e-9)


@pytest.mark.parametrize("one_pass", [False, True])
def test_streaming_equals_one_batch(one_pass: bool) -> None:
    h, y = sample(5, 40, 12)
    h = h + 1000.0  # where E[hh^T] - mean mean^T would lose digits
    W = torch.randn(5, 12, generator=gen(5), dtype=torch.float64)
    order = torch.randperm(len(h), generator=gen(9))
    acc = Accumulator(5, 12, one_pass=one_pass)
    for part in order.split(17):
        acc.update(h[part], y[part])
    if not one_pass:
        for part in order.flip(0).split(31):
            acc.second_pass(h[part], y[part], (h[part] @ W.T).argmax(1))
    found, whole = acc.compute(W), metrics(h, y, W)
    assert found.passes == (1 if one_pass else 2)
    for name, wanted in whole.numbers().items():
        value = getattr(found, name)
        if one_pass and name in ("nc4", "ncc"):
            assert value is None
        elif name != "passes":
            assert value == pytest.approx(wanted, rel=1e-11), name


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0), K=st.integers(3, 5))
@settings(max_examples=25, deadline=None)
def test_nc1_is_invariant(seed: int, scale: float, K: int) -> None:
    h, y = sample(K, 6, K + 2, seed)
    before = metrics(h, y)
    turn = frame(K + 2, K + 2, gen(seed))
    shift = torch.randn(K + 2, generator=gen(seed + 7), dtype=torch.float64)
    relabel = torch.randperm(K, generator=gen(seed))
    after = metrics(scale * h @ turn.T + shift, relabel[y])
    for name in ("nc1", "nc1_trace", "nc2", "cdnv"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-7), name


def test_pinv_form_is_invariant_to_linear_maps_when_means_fill_the_space() -> None:
    for d, same in ((4, True), (8, False)):
        h, y = sample(5, 10, d)
        A = torch.randn(d, d, generator=gen(3), dtype=torch.float64)
        a, b = metrics(h, y).nc1, metrics(h @ A.T, y).nc1
        assert (abs(a - b) < 1e-9 * a) == same
        assert metrics(h, y).nc1_trace != pytest.approx(metrics(h @ A.T, y).nc1_trace, rel=1e-3)


def test_ideal_frames_have_no_distance() -> None:
    y = torch.arange(5).repeat(3)
    simplex, orthogonal = etf(5, 8), frame(5, 8, gen(0))
    at = metrics(simplex.T[y], y, weight=simplex.T)
    assert max(at.nc2, at.nc3 or 1, at.nc1, at.cdnv) < 1e-14 and at.nc4 == at.ncc == 1
    assert at.cosines[0, 1] == pytest.approx(-1 / 4, rel=1e-12)
    assert at.effective_rank == pytest.approx(4, rel=1e-12)
    at = metrics(orthogonal.T[y], y, weight=orthogonal.T)
    assert max(at.nc2, at.nc2_of, at.nc3_of or 1) < 1e-14
    assert metrics(simplex.T[y] + 1.0, y).nc2 < 1e-14
    assert metrics(simplex.T[y], y).nc2_of > 0.1


@pytest.mark.parametrize("weighting", ["class", "sample"])
@pytest.mark.parametrize("d", [4, 8])
def test_directions_below_the_tolerance_are_left_out_as_by_a_pseudo_inverse(d: int, weighting: str) -> None:
    h, y = sample(5, 10, d)
    # The second direction of the class means shrinks to a thousandth.
    h = h * torch.tensor([1.0, 1e-3] + [1.0] * (d - 2), dtype=torch.float64)
    h, y = h[3:], y[3:]
    means = np.stack([h[y == k].numpy().mean(0) for k in range(5)])
    share = np.full(5, 0.2) if weighting == "class" else y.bincount().numpy() / len(y)
    centred = means - share @ means
    S_B = (share[:, None] * centred).T @ centred
    within = h.numpy() - means[y.numpy()]
    values = np.sqrt(np.linalg.eigvalsh(S_B)[::-1][:4])
    for tol in (0.0, 1e-5, 0.02, float(values[1] / values[0]) * 1.001, 0.9999):
        pinv = np.linalg.pinv(S_B, rcond=max(tol**2, 1e-12), hermitian=True)
        wanted = np.trace(within.T @ within / len(h) @ pinv) / 5
        found = metrics(h, y, weighting=weighting, rank_tol=tol)
        assert found.nc1 == pytest.approx(wanted, rel=1e-6) and found.rank_tol == tol
        for name in ("nc1_trace", "nc2", "cdnv"):
            assert getattr(found, name) == getattr(metrics(h, y, weighting=weighting), name)


def test_a_tolerance_takes_the_warning_away() -> None:
    h, y = sample(4, 8, 6)
    means = torch.stack([h[y == k].mean(0) for k in range(4)])
    target = means.clone()
    target[3] = (means[0] + means[1]) / 2 + 1e-9
    h = h + (target - means)[y]
    with pytest.warns(UserWarning, match="nearly dependent.*rank_tol leaves them out"):
        noisy = metrics(h, y).nc1
    assert metrics(h, y, rank_tol=1e-5).nc1 < 1e-6 * noisy


@pytest.mark.parametrize("exponent", [1.0, 2.0, 4.0])
def test_distances_of_cdnv_take_any_exponent(exponent: float) -> None:
    h, y = sample(4, 8, 6)
    means = torch.stack([h[y == k].mean(0) for k in range(4)])
    v = torch.stack([(h[y == k] - means[k]).square().sum(1).mean() for k in range(4)])
    pairs = [
        float((v[k] + v[m]) / 2 / (means[k] - means[m]).norm() ** exponent)
        for k in range(4)
        for m in range(4)
        if k != m
    ]
    found = metrics(h, y, cdnv_exponent=exponent)
    assert found.cdnv == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.record()["cdnv_exponent"] == exponent


@pytest.mark.filterwarnings("ignore:two centred means")
def test_two_classes_always_form_a_simplex() -> None:
    h, y = sample(2, 10, 6)
    assert metrics(h, y).nc2 < 1e-14


def test_what_is_odd_is_said() -> None:
    h, y = sample(2, 3, 4)
    with pytest.warns(UserWarning, match="nc2 is zero for K = 2"):
        assert metrics(h, y).notes
    h, y = sample(3, 1, 4)
    with pytest.warns(UserWarning, match="one sample: NC1 is zero"):
        assert metrics(h, y).nc1 == 0
    h, y = sample(3, 2, 4)
    same = h - torch.stack([h[y == k].mean(0) for k in range(3)])[y]
    with pytest.warns(UserWarning, match="all class means are equal"):
        assert metrics(same + 3.0, y).nc1_trace == math.inf
    h[y == 1] += h[y == 0].mean(0) - h[y == 1].mean(0)
    with pytest.warns(UserWarning, match="nearly dependent"):
        assert math.isfinite(metrics(h, y).nc1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_promoted(dtype: torch.dtype) -> None:
    h, y = sample(4, 20, 10)
    low = h.to(dtype)
    assert metrics(low, y).nc1 == metrics(low.double(), y).nc1


def test_features_are_not_changed() -> None:
    h, y = sample(4, 20, 10)
    before = h.clone()
    metrics(h.requires_grad_(), y)
    assert torch.equal(h, before) and h.requires_grad


def test_bad_features_are_refused() -> None:
    h, y = sample(4, 5, 6)
    cases = [
        ((h, y + 1, None), {"K": 4}, "labels must lie in 0 to 3, but 4 came"),
        ((h, y - 1, None), {"K": 4}, "labels must lie in 0 to 3, but -1 came"),
        ((h[y != 2], y[y != 2], None), {}, "class 2 has none"),
        ((h, 0 * y, None), {}, "K must be at least 2 classes"),
        ((h, y, None), {"rank_tol": 1.0}, "rank_tol must lie in 0 to below 1"),
        ((h, y, None), {"cdnv_exponent": 0.0}, "cdnv_exponent must be above 0"),
        ((h[:0], y[:0], None), {}, "not empty"),
        ((h, y, h[:3, :3]), {"K": 4}, r"weight must be \(4, 6\)"),
        (
            (torch.where(y[:, None] == 3, math.nan, h), y, None),
            {},
            r"5 samples hold NaN or infinity \(classes \[3\]\)",
        ),
    ]
    for arguments, options, sentence in cases:
        with pytest.raises(JostleError, match=sentence):
            plain(metrics)(*arguments, **options)


def test_a_stream_that_is_cut_is_refused() -> None:
    h, y = sample(4, 5, 6)
    acc = Accumulator(4, 6)
    with pytest.raises(JostleError, match="at least one sample"):
        acc.compute()
    acc.update(h, y)
    with pytest.raises(JostleError, match="it saw 0 of 20"):
        acc.compute()
    acc.second_pass(h[:7], y[:7])
    with pytest.raises(JostleError, match="it saw 7 of 20"):
        acc.compute()
    with pytest.raises(JostleError, match="update must not be called"):
        acc.update(h, y)


def test_a_report_is_json(tmp_path) -> None:
    h, y = sample(3, 5, 6)
    report = metrics(h, y)
    report.save(tmp_path / "report.json")
    left, right = report.plot(["ant", "bee", "cat"]).axes[:2]
    assert [text.get_text() for text in left.texts] == ["ant", "bee", "cat"]
    assert "120.0°" in right.get_title(loc="left")  # the ideal angle of three
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept == json.loads(report.to_json())
    assert (
        kept["nc1"] == report.nc1 and np.array(kept["gram"]).shape == (3, 3) and kept["weighting"] == "class"
    )
