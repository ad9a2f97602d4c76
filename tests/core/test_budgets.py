"""Budgets: scopes, radii, precision, steepest steps, samples, refusals."""

import math

import pytest
import torch
from helpers import plain
from torch import Tensor

from jostle import L1, L2, JostleError, Linf
from jostle.core.budgets import Budget
from jostle.core.trees import leaves_of

NORMS = {"Linf": Linf, "L2": L2, "L1": L1}
BOTH = pytest.mark.parametrize("norm", NORMS)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tree() -> dict[str, Tensor]:
    return {"mean": 3 * numbers(4, 5), "sd": numbers(4, 2, 3, seed=1), "gain": numbers(4, seed=2)}


# Scopes and radii --------------------------------------------------------------------------------------------------


@BOTH
def test_scope_says_what_one_radius_holds_for(norm: str) -> None:
    u = tree()
    order = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}[norm]

    def measure(part: Tensor) -> float:
        return float(torch.linalg.vector_norm(part.flatten(), ord=order))

    by_sample = NORMS[norm](0.3).project(u)
    for i in range(4):
        assert measure(torch.cat([leaf[i].flatten() for leaf in by_sample.values()])) == pytest.approx(0.3)
    by_tensor = NORMS[norm](0.3, scope="tensor").project(u)
    assert [measure(leaf) for leaf in by_tensor.values()] == pytest.approx([0.3] * 3)
    by_tree = NORMS[norm](0.3, scope="tree").project(u)
    assert measure(torch.cat([leaf.flatten() for leaf in by_tree.values()])) == pytest.approx(0.3)
    sizes = {"sample": 4, "tensor": 3, "tree": 1}
    for scope, rows in sizes.items():
        assert NORMS[norm](0.3, scope=scope).norm(u).shape == (rows,)


@BOTH
@pytest.mark.parametrize("scope", ["sample", "tensor", "tree"])
def test_a_tensor_and_a_tree_of_one_agree(norm: str, scope: str) -> None:
    u, x = 2 * numbers(4, 5), numbers(4, 5, seed=3).sigmoid()
    budget = NORMS[norm](0.8, lower=0.0, upper=1.0, scope=scope)
    torch.testing.assert_close(budget.project([u], [x])[0], budget.project(u, x), rtol=0, atol=0)
    torch.testing.assert_close(budget.steepest([u])[0], budget.steepest(u), rtol=0, atol=0)


@BOTH
def test_a_relative_radius_is_a_share_of_what_is_perturbed(norm: str) -> None:
    x, u = numbers(4, 50), 10 * numbers(4, 50, seed=1)
    sizes = NORMS[norm](1.0).norm(x)
    got = NORMS[norm](0.1, relative=True).project(u, x)
    torch.testing.assert_close(NORMS[norm](1.0).norm(got), 0.1 * sizes, rtol=1e-10, atol=0)
    whole = NORMS[norm](0.1, relative=True, scope="tree").project([u], [x])[0]
    assert float(NORMS[norm](1.0, scope="tree").norm(whole)) == pytest.approx(
        0.1 * float(NORMS[norm](1.0, scope="tree").norm(x))
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_scale_measures_each_feature_in_its_own_unit(norm: str) -> None:
    u, scale = 5 * numbers(3, 4), torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    budget = NORMS[norm](0.7, scale=scale)
    got = budget.project(u)
    assert not bool(got[:, 3].any())
    size = (got[:, :3] / scale[:3]).norm(dim=1, p=math.inf if norm == "Linf" else 2)
    torch.testing.assert_close(size, torch.full((3,), 0.7).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(budget.norm(got), size)
    assert budget.contains(got) and math.isinf(float(budget.norm(torch.ones(1, 4))[0]))
    # The steepest step has unit size in that measure and gains the dual norm of the scaled gradient.
    g = numbers(3, 4, seed=5)
    step = budget.steepest(g)
    torch.testing.assert_close(budget.norm(step), torch.ones(3).double())
    dual = (g * scale).norm(dim=1, p=1 if norm == "Linf" else 2)
    torch.testing.assert_close((g * step).sum(1), dual)


@BOTH
@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 3, 4, 5)])
def test_any_number_of_axes(norm: str, shape: tuple[int, ...]) -> None:
    u = torch.full(shape, 2.0)
    got = NORMS[norm](1.0, lower=-1.0, upper=0.9).project(u)
    assert got.shape == shape and NORMS[norm](1.0).contains(got) and bool((got <= 0.9).all())
    assert NORMS[norm](1.0).steepest(u).shape == shape
    assert NORMS[norm](1.0).sample(u, torch.Generator().manual_seed(0)).shape == shape


@BOTH
def test_the_layout_in_memory_does_not_matter(norm: str) -> None:
    u, x = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1).sigmoid()
    budget = NORMS[norm](1.0, lower=0.0, upper=1.0)
    last = budget.project(
        u.contiguous(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(last, budget.project(u, x), rtol=1e-12, atol=1e-14)


# Precision -----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("radius", [8 / 255, 0.3, 5.0])
def test_half_precision_is_inside_after_rounding(norm: str, dtype: torch.dtype, radius: float) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(20, 400, generator=generator).to(dtype)
    x = torch.rand(20, 400, generator=generator).to(dtype)
    budget = NORMS[norm](radius, lower=0.0, upper=1.0)
    for got in (budget.project(u, x), budget.sample(u, generator, x)):
        assert got.dtype == dtype and bool(got.any())
        assert float(NORMS[norm](radius).norm(got).max()) <= radius * (1 + 1e-6)
        moved = x + got  # in the short format itself
        assert bool((moved >= 0).all()) and bool((moved <= 1).all())
    exact = budget.project(u.double(), x.double())
    coarse = torch.finfo(dtype).eps
    assert float((budget.project(u, x).double() - exact).abs().max()) <= 2 * coarse * float(exact.abs().max())


@BOTH
def test_single_precision_is_inside_to_one_part_in_a_million(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    u, x = torch.randn(4, 20_000, generator=generator), torch.rand(4, 20_000, generator=generator)
    for radius in (8 / 255, 3.0, 300.0):
        budget = NORMS[norm](radius, lower=0.0, upper=1.0)
        got = budget.project(u, x)
        assert budget.contains(got, x, rtol=5e-7)
        assert bool((x + got >= 0).all()) and bool((x + got <= 1).all())


@BOTH
def test_arguments_are_not_changed(norm: str) -> None:
    u, x = (
        3 * torch.randn(3, 70_000, generator=torch.Generator().manual_seed(0)),
        torch.full((3, 70_000), 0.5),
    )
    before = u.clone(), x.clone()
    budget = NORMS[norm](1.0, lower=0.0, upper=1.0)
    budget.project(u, x), budget.steepest(u, u.clamp(-0.5, 0.5), x), budget.norm(u), budget.contains(u, x)
    budget.sample(u, torch.Generator().manual_seed(1), x)
    torch.testing.assert_close((u, x), before, rtol=0, atol=0)


# Steepest steps --------------------------------------------------------------------------------------------------------


@BOTH
def test_the_steepest_step_gains_the_dual_norm_and_no_other_gains_more(norm: str) -> None:
    g = numbers(5, 30)
    budget = NORMS[norm](1.0)
    step = budget.steepest(g)
    assert budget.contains(step, rtol=1e-12)
    gain = (g * step).sum(1)
    torch.testing.assert_close(
        gain, {"Linf": g.abs().sum(1), "L2": g.norm(dim=1), "L1": g.abs().amax(1)}[norm]
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert bool(((g * budget.sample(g, generator)).sum(1) <= gain).all())
    assert not bool(budget.steepest(torch.zeros_like(g)).any())


def test_the_steepest_step_in_linf_leaves_flat_entries() -> None:
    assert Linf(1.0).steepest(torch.tensor([[0.0, -2.0, 1e-30]])).tolist() == [[0.0, -1.0, 1.0]]


def test_the_steepest_step_in_l1_shares_ties_and_passes_over_what_the_box_holds() -> None:
    g = torch.tensor([[2.0, -2.0, 1.0, 2.0]])
    torch.testing.assert_close(L1(1.0).steepest(g), torch.tensor([[1 / 3, -1 / 3, 0.0, 1 / 3]]))
    budget = L1(1.0, lower=0.0, upper=1.0)
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(
        budget.steepest(g, torch.zeros_like(g), x), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    )
    held = budget.steepest(torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.zeros_like(g), x)
    assert not bool(held.any())


def test_the_sparse_step_in_l1_moves_the_largest_alike() -> None:
    g = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
    assert L1(1.0, topk=2).steepest(g).tolist() == [[0.5, -0.5, 0.0, 0.0]]
    assert L1(1.0, topk=9).steepest(g).tolist() == [[0.25, -0.25, 0.25, 0.25]]


def test_the_steepest_step_needs_no_box_without_an_iterate() -> None:
    g = torch.tensor([[4.0, -3.0]])
    assert L1(1.0, lower=0.5, upper=1.0).steepest(g).tolist() == [[1.0, 0.0]]


# Samples -----------------------------------------------------------------------------------------------------------------


def test_noise_of_a_photograph_has_the_lengths_of_theory() -> None:
    xi, generator = 1.0, torch.Generator().manual_seed(0)
    template = torch.zeros(1, 3, 224, 224)
    start = Linf(10 / 255).sample(template, generator)
    assert float(start.norm()) == pytest.approx(8.784, abs=0.02)
    assert float(Linf(10 / 255).steepest(start).norm()) * 10 / 255 == pytest.approx(15.215, abs=1e-3)
    assert xi * math.sqrt(150_528 / 3) * 10 / 255 == pytest.approx(8.784, abs=1e-3)


@BOTH
@pytest.mark.parametrize("n", [1, 2, 5])
def test_samples_are_uniform_in_the_ball(norm: str, n: int) -> None:
    count = 40_000
    drawn = NORMS[norm](2.0).sample(
        torch.zeros(count, n, dtype=torch.float64), torch.Generator().manual_seed(0)
    )
    # A ball r times as large has r^n times the volume: (||u|| / radius)^n is uniform in [0, 1].
    share = (NORMS[norm](1.0).norm(drawn) / 2.0).pow(n).sort().values
    grid = (torch.arange(count) + 0.5) / count
    assert float((share - grid).abs().max()) < 1.95 / math.sqrt(
        count
    )  # Kolmogorov-Smirnov at one in a thousand
    # And no direction or corner is preferred.
    assert float(drawn.mean(0).abs().max()) < 5 * float(drawn.std()) / math.sqrt(count)
    second = drawn.T @ drawn / count
    off = second - torch.diag(second.diag())
    assert float(off.abs().max()) < 0.05 * float(second.diag().mean())
    assert float(second.diag().max() / second.diag().min()) < 1.1


def test_the_second_moments_of_uniform_balls() -> None:
    template, n = torch.zeros(100_000, 4, dtype=torch.float64), 4
    wanted = {"Linf": 1 / 3, "L2": 1 / (n + 2), "L1": 2 / ((n + 1) * (n + 2))}
    for norm, second in wanted.items():
        drawn = NORMS[norm](1.0).sample(template, torch.Generator().manual_seed(1))
        assert float(drawn.square().mean()) == pytest.approx(second, rel=0.01)


@BOTH
def test_samples_repeat_with_their_generator_and_stay_in_the_box(norm: str) -> None:
    x = numbers(3, 50, seed=4).sigmoid()
    budget = NORMS[norm](0.9, lower=0.0, upper=1.0)
    first, again = (budget.sample(x, torch.Generator().manual_seed(7), x) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert budget.contains(first, x, rtol=1e-12)


# Membership --------------------------------------------------------------------------------------------------------------


@BOTH
def test_contains(norm: str) -> None:
    x = torch.full((2, 3), 0.5)
    budget = NORMS[norm](0.3, lower=0.0, upper=0.6)
    edge = torch.tensor([[0.1, -0.1, 0.1], [-0.1, 0.0, 0.0]])
    assert budget.contains(budget.project(edge, x), x)
    assert not budget.contains(
        torch.tensor([[0.0, 0.0, 0.0], [0.11, 0.0, 0.0]]), x
    )  # beyond the box in one row
    assert not budget.contains(
        torch.tensor([[0.0, 0.0, 0.0], [-0.31, 0.0, 0.0]]), x
    )  # beyond the ball in one row
    assert budget.contains(torch.tensor([[0.0, 0.0, 0.0], [-0.31, 0.0, 0.0]]), x, rtol=0.1)


# Refusals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linf(-0.1), "radius must be at least 0 and not NaN, but -0.1 came"),
        (lambda: L2(float("nan")), "radius must be at least 0 and not NaN"),
        (lambda: L2(torch.tensor([1.0, -1.0])), "radius must be at least 0"),
        (lambda: L2(torch.ones(3), scope="tree"), "radius must be a number, or one a sample"),
        (lambda: Linf(0.1, lower=1.0, upper=0.0), "lower must not be above upper"),
        (lambda: Linf(0.1, lower=float("nan"), upper=0.0), "lower must not be above upper"),
        (lambda: L2(0.1, scale=torch.tensor([-1.0])), "scale must be finite and at least 0"),
        (lambda: L2(0.1, scale=torch.tensor([float("inf")])), "scale must be finite and at least 0"),
        (lambda: L1(0.1, scale=torch.ones(2)), "scale is for Linf and L2"),
        (lambda: L1(0.1, topk=0), "topk must be at least 1"),
        (lambda: L2(torch.ones(3)).project(torch.ones(2, 2)), "radius must be one number or one a sample"),
        (lambda: L2(1.0, relative=True).project(torch.ones(2, 2)), "x must be given with a relative radius"),
        (lambda: L2(1.0, scale=torch.ones(3)).project(torch.ones(2, 2)), "scale of shape"),
        (lambda: L2(1.0, scale=torch.ones(3)).project([torch.ones(2, 3)] * 2), "scale takes a single tensor"),
        (
            lambda: L2(1.0, upper=1.0).project(torch.ones(2), torch.tensor([0.0, 1.5])),
            "goes beyond it by 0.5",
        ),
        (
            lambda: L2(1.0, upper=1.0).project(torch.ones(2), torch.tensor([0.0, float("nan")])),
            "x must lie inside",
        ),
        (lambda: L2(1.0, lower=0.5, upper=1.0).project(torch.ones(2)), "without x the box must hold 0"),
        (
            lambda: L2(1.0, upper=1.0).project(torch.ones(2, 3), torch.ones(3)),
            "x must have the perturbation's shape",
        ),
        (lambda: L2(1.0, upper=1.0).project([torch.ones(2)] * 2, [torch.ones(2)]), "as many tensors"),
        (lambda: L2(1.0, upper=torch.ones(4)).project(torch.ones(2, 3)), "bounds must broadcast"),
        (
            lambda: Linf(float("inf")).sample(torch.ones(2), torch.Generator()),
            "radius must be finite to sample",
        ),
    ],
)
def test_refusals_are_one_sentence(make, message: str) -> None:
    with pytest.raises(JostleError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_budgets_are_values_that_cannot_change() -> None:
    with pytest.raises(AttributeError):
        Linf(0.1).radius = 0.2  # type: ignore[misc]
    assert issubclass(L1, Budget) and L1.name == "L1" and plain(L1) is L1
    assert [type(leaf) for leaf in leaves_of(Linf(1.0).project((torch.ones(1), torch.ones(1))))] == [
        Tensor,
        Tensor,
    ]
