"""Trees and rows."""

import pytest
import torch
from torch import Tensor

from jostle.core.trees import from_rows, groups, leaves_of, like, per_row, to_rows

TREE = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.arange(2.0), (torch.arange(8.0).reshape(2, 2, 2),)]}


def test_a_tree_keeps_its_shape() -> None:
    doubled = like(TREE, [2 * leaf for leaf in leaves_of(TREE)])
    assert isinstance(doubled["b"], list) and isinstance(doubled["b"][1], tuple)
    torch.testing.assert_close(doubled["b"][1][0], 2 * TREE["b"][1][0])
    single = torch.ones(3)
    assert leaves_of(single)[0] is single and like(single, [single]) is single


@pytest.mark.parametrize(
    ("scope", "shapes"), [("sample", [(2, 8)]), ("tree", [(1, 16)]), ("tensor", [(1, 6), (1, 2), (1, 8)])]
)
def test_rows_and_back(scope: str, shapes: list[tuple[int, int]]) -> None:
    leaves = leaves_of(TREE)
    split = groups(leaves, scope)
    rows = [to_rows(group, scope) for group in split]
    assert [tuple(r.shape) for r in rows] == shapes
    back = [leaf for r, group in zip(rows, split, strict=True) for leaf in from_rows(r, group, scope)]
    for got, wanted in zip(back, leaves, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_the_precision_of_each_leaf_returns() -> None:
    group = [torch.ones(2, 2, dtype=torch.float16), torch.ones(2, dtype=torch.float64)]
    rows = to_rows(group, "sample")
    assert [leaf.dtype for leaf in from_rows(rows, group, "sample")] == [torch.float16, torch.float64]


@pytest.mark.parametrize("leaf", [torch.tensor(3.0), torch.ones(4), torch.ones(4, 2, 3)])
def test_a_value_a_row_broadcasts(leaf: Tensor) -> None:
    rows = leaf.shape[0] if leaf.ndim else 1
    value = torch.arange(1.0, rows + 1)
    scaled = per_row(value, leaf) * leaf
    assert scaled.shape == leaf.shape
    torch.testing.assert_close(to_rows([scaled], "sample"), value[:, None] * to_rows([leaf], "sample"))
