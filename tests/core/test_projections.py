"""Projections: hand values, an independent solution, and the invariants of a projection on a convex set."""

import pytest
import torch
from core_oracles import bisected
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jostle import L1, L2, Linf
from jostle.core import projections
from jostle.core.columns import length

NORMS = {"Linf": Linf, "L2": L2, "L1": L1}
SIZES = (1, 2, 3, 300)


def case(
    seed: int, n: int, rows: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Points, what they perturb, a second set of points, and a radius that matters for some of them."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** float(torch.randint(-3, 3, (1,), generator=generator))
    u = torch.randn(rows, n, generator=generator, dtype=torch.float64) * scale
    if seed % 3 == 0:
        u = u.mul(2 / scale).round().mul(scale / 2)  # ties and zeros
    v = torch.randn(rows, n, generator=generator, dtype=torch.float64) * scale
    x = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    x[x < 0.1], x[x > 0.9] = 0.0, 1.0  # pixels that rest on the box
    radius = scale * float(torch.rand(1, generator=generator)) * 2 * n**0.5
    return u.to(dtype), x.to(dtype), v.to(dtype), radius


def size(w: Tensor, norm: str) -> Tensor:
    return {"Linf": w.abs().amax(1), "L2": w.norm(dim=1), "L1": w.abs().sum(1)}[norm]


@pytest.mark.study
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from(SIZES))
def test_invariants(norm: str, boxed: bool, seed: int, n: int) -> None:
    u, x, v, radius = case(seed, n)
    budget = NORMS[norm](radius, lower=0.0, upper=1.0) if boxed else NORMS[norm](radius)
    where = x if boxed else None
    p, q = budget.project(u, where), budget.project(v, where)
    unit = u.abs().max() + v.abs().max() + radius
    # Feasible.
    assert bool((size(p, norm) <= radius * (1 + 1e-12)).all())
    if boxed:
        assert bool((x + p >= -1e-12).all()) and bool((x + p <= 1 + 1e-12).all())
    # Idempotent, and the identity inside.
    torch.testing.assert_close(budget.project(p, where), p, rtol=1e-12, atol=1e-12 * float(unit))
    inside = p * 0.5
    torch.testing.assert_close(budget.project(inside, where), inside, rtol=0, atol=0)
    # It brings no two points further apart.
    apart = (u - v).norm(dim=1)
    assert bool(((p - q).norm(dim=1) <= apart * (1 + 1e-12) + 1e-12).all())
    # Nothing allowed lies in the direction of the point: <u - P(u), w - P(u)> <= 0.
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(12):
        w = budget.sample(u, generator, where)
        inner = ((u - p) * (w - p)).sum(1)
        assert bool((inner <= 1e-9 * (1 + unit**2)).all())


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from(SIZES))
def test_odd_in_a_symmetric_box(norm: str, seed: int, n: int) -> None:
    u, x, _, radius = case(seed, n)
    half = x[:1] * 0.3 + 0.05
    budget = NORMS[norm](radius, lower=-half, upper=half)
    torch.testing.assert_close(budget.project(-u), -budget.project(u), rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from(SIZES))
def test_equals_a_bisection_of_the_multiplier(norm: str, seed: int, n: int) -> None:
    u, x, _, radius = case(seed, n)
    ours = NORMS[norm](radius, lower=0.0, upper=1.0).project(u, x)
    theirs = torch.stack([bisected(a, radius, -b, 1 - b, norm) for a, b in zip(u, x, strict=True)])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(1 + u.abs().max()))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_whole_photograph(norm: str, boxed: bool, dtype: torch.dtype) -> None:
    u, x, v, _ = case(1, 150_528, rows=1, dtype=dtype)
    radius = float(size(u.double(), norm)) / 3
    budget = NORMS[norm](radius, lower=0.0, upper=1.0) if boxed else NORMS[norm](radius)
    where = x if boxed else None
    p = budget.project(u, where)
    tight = 1e-12 if dtype == torch.float64 else 5e-7
    assert float(size(p.double(), norm)) <= radius * (1 + tight)
    if not bool((u.clamp(-x, 1 - x) == p).all() if boxed else False):
        assert float(size(p.double(), norm)) >= radius * (1 - 10 * tight)  # no budget is left unused
    torch.testing.assert_close(budget.project(p, where), p, rtol=5 * tight, atol=tight)
    w = budget.project(v, where)
    inner = ((u - p).double() * (w - p).double()).sum()
    assert float(inner) <= (1e-9 if dtype == torch.float64 else 1e-3) * float(u.double().norm() ** 2)


@pytest.mark.parametrize("boxed", [False, True])
def test_l1_of_a_photograph_with_equal_entries(boxed: bool) -> None:
    u = torch.full((1, 150_528), 0.1, dtype=torch.float32)
    p = (L1(5.0, lower=-1.0, upper=1.0) if boxed else L1(5.0)).project(u)
    torch.testing.assert_close(p, torch.full_like(u, 5 / 150_528), rtol=1e-5, atol=0)


def test_hand_values() -> None:
    u = torch.tensor([[3.0, -2.0, 1.0, 0.0]], dtype=torch.float64)
    near = dict(rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(L1(2.0).project(u), torch.tensor([[1.5, -0.5, 0.0, 0.0]]).double(), **near)
    torch.testing.assert_close(
        L1(1.0).project(torch.ones(1, 3).double()), torch.full((1, 3), 1 / 3).double(), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(
        L1(2.0, lower=-1.0, upper=0.6).project(u),
        torch.tensor([[0.6, -1.0, 0.4, 0.0]], dtype=torch.float64),
        **near,
    )
    torch.testing.assert_close(
        L2(2.0, lower=-10.0, upper=torch.tensor([1.0, 10.0])).project(
            torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        ),
        torch.tensor([[1.0, 3.0]], dtype=torch.float64).pow(torch.tensor([1.0, 0.5])),
        rtol=1e-7,
        atol=0,
    )
    torch.testing.assert_close(
        L1(5.0).project(torch.ones(1, 300).double()),
        torch.full((1, 300), 1 / 60, dtype=torch.float64),
        **near,
    )
    torch.testing.assert_close(
        Linf(0.5).project(u), torch.tensor([[0.5, -0.5, 0.5, 0.0]]).double(), rtol=0, atol=0
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows", [1, 3])
def test_ends_of_the_radius(norm: str, rows: int) -> None:
    u, x, _, _ = case(4, 7, rows=rows)
    box = dict(lower=0.0, upper=1.0)
    assert not bool(NORMS[norm](0.0).project(u).any())
    assert not bool(NORMS[norm](0.0, **box).project(u, x).any())
    torch.testing.assert_close(NORMS[norm](float("inf")).project(u), u, rtol=0, atol=0)
    torch.testing.assert_close(
        NORMS[norm](float("inf"), **box).project(u, x), u.clamp(-x, 1 - x), rtol=0, atol=0
    )
    torch.testing.assert_close(
        NORMS[norm](float("inf"), upper=1.0).project(u, x), torch.minimum(u, 1 - x), rtol=0, atol=0
    )
    zero = torch.zeros_like(u)
    torch.testing.assert_close(NORMS[norm](0.3, **box).project(zero, x), zero, rtol=0, atol=0)
    closed = NORMS[norm](0.3, lower=0.0, upper=0.0)
    assert not bool(closed.project(u, zero).any())


@pytest.mark.parametrize("norm", NORMS)
def test_each_row_has_its_own_radius(norm: str) -> None:
    u, x, _, _ = case(5, 40, rows=4)
    radii = torch.tensor([0.0, 0.2, float("inf"), 1.0], dtype=torch.float64)
    together = NORMS[norm](radii, lower=0.0, upper=1.0).project(u, x)
    for i in range(4):
        alone = NORMS[norm](float(radii[i]), lower=0.0, upper=1.0).project(u[i : i + 1], x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_gives_the_numbers_of_single_rows(norm: str, dtype: torch.dtype) -> None:
    for n in (3, 3_072):
        u, x, _, _ = case(7, n, rows=6, dtype=dtype)
        budget = NORMS[norm](0.3 * float(size(u.double(), norm).min()), lower=0.0, upper=1.0)
        alone = torch.cat([budget.project(u[i : i + 1], x[i : i + 1]) for i in range(6)])
        close = 1e-13 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(budget.project(u, x), alone, rtol=close, atol=close * 1e-2)


@pytest.mark.study
@pytest.mark.parametrize("boxed", [False, True])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from(SIZES))
def test_an_ellipsoid_meets_its_optimality_conditions(boxed: bool, seed: int, n: int) -> None:
    u, x, v, _ = case(seed, n)
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    radius = 0.5 * float((u / scale).norm(dim=1).max()) + 1e-3
    budget = L2(radius, scale=scale, lower=0.0, upper=1.0) if boxed else L2(radius, scale=scale)
    where = x if boxed else None
    p, q = budget.project(u, where), budget.project(v, where)
    assert bool(((p / scale).norm(dim=1) <= radius * (1 + 1e-12)).all())
    assert bool((((u - p) * (q - p)).sum(1) <= 1e-9 * (1 + u.norm() ** 2 + v.norm() ** 2)).all())
    torch.testing.assert_close(budget.project(p, where), p, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_scale_of_one_changes_nothing_and_of_zero_holds_an_entry(norm: str) -> None:
    u, x, _, _ = case(8, 30)
    box = dict(lower=0.0, upper=1.0)
    plain = NORMS[norm](0.7, **box).project(u, x)
    ones = NORMS[norm](0.7, scale=torch.ones(30), **box).project(u, x)
    torch.testing.assert_close(ones, plain, rtol=1e-12, atol=1e-14)
    scale = torch.ones(30)
    scale[3] = 0.0
    assert not bool(NORMS[norm](0.7, scale=scale, **box).project(u, x)[:, 3].any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_the_derivative_is_that_of_the_projection(norm: str, boxed: bool) -> None:
    u, x, _, _ = case(10, 9)
    budget = NORMS[norm](0.6 * float(size(u, norm).min()), **(dict(lower=0.0, upper=1.0) if boxed else {}))
    where = x if boxed else None
    torch.testing.assert_close(
        budget.project(u.clone().requires_grad_(), where).detach(), budget.project(u, where)
    )
    assert torch.autograd.gradcheck(lambda a: budget.project(a, where), u.clone().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("value", [1e-22, 1e22])
def test_lengths_beyond_the_squares_of_float32(value: float) -> None:
    rows = torch.full((2, 70_000), value, dtype=torch.float32)
    torch.testing.assert_close(
        length(rows).flatten(), torch.full((2,), value * 70_000**0.5, dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("n", [300, 3_072, 150_528, 1_000_003])
def test_lengths_are_right_however_long_the_row(n: int) -> None:
    rows = torch.full((1, n), 0.1, dtype=torch.float32)  # the worst case of a running float32 sum
    assert length(rows) == pytest.approx(float(rows.double().norm()), rel=1.5e-7)


def test_the_module_takes_plain_rows() -> None:
    u = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    radius = torch.tensor([[2.5], [2.5]])
    torch.testing.assert_close(projections.l2(u, radius, None, None), torch.tensor([[1.5, 2.0], [0.3, 0.4]]))
