"""Perturbations as rows: a tensor, or a tree of tensors, seen as a matrix whose rows share one budget each."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

Tree = Any
"""A tensor, or a list, tuple or dict (nested as you like) of tensors."""

Scope = Literal["sample", "tensor", "tree"]
"""What one radius holds for: each entry of the first axis, each tensor, or all tensors together."""


def leaves_of(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in order.

    >>> import torch
    >>> len(leaves_of({"mean": torch.zeros(2), "sd": torch.ones(2)}))
    2
    """
    return [tree] if isinstance(tree, Tensor) else pytree.tree_leaves(tree)


def like(tree: Tree, leaves: Sequence[Tensor]) -> Tree:
    """A tree of the shape of `tree` that holds `leaves`.

    >>> import torch
    >>> like((torch.zeros(1), torch.zeros(2)), [torch.ones(1), torch.ones(2)])[1]
    tensor([1., 1.])
    """
    if isinstance(tree, Tensor):
        return leaves[0]
    return pytree.tree_unflatten(list(leaves), pytree.tree_structure(tree))


def groups(leaves: Sequence[Tensor], scope: Scope) -> list[list[Tensor]]:
    """The leaves whose entries share rows: with scope `tensor` each leaf by itself, else all of them."""
    return [[leaf] for leaf in leaves] if scope == "tensor" else [list(leaves)]


def to_rows(group: Sequence[Tensor], scope: Scope) -> Float[Tensor, "rows entries"]:
    """One matrix for a group of leaves: a row a sample, or a single row."""
    if scope == "sample":
        parts = [leaf.reshape(leaf.shape[0], -1) if leaf.ndim else leaf.reshape(1, 1) for leaf in group]
    else:
        parts = [leaf.reshape(1, -1) for leaf in group]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def from_rows(rows: Float[Tensor, "rows entries"], group: Sequence[Tensor], scope: Scope) -> list[Tensor]:
    """Undo `to_rows`: the rows cut and shaped as the leaves of `group`, in the leaves' own precision."""
    if len(group) == 1:
        return [rows.reshape(group[0].shape).to(group[0].dtype)]
    widths = [
        (math.prod(leaf.shape[1:]) if leaf.ndim else 1) if scope == "sample" else leaf.numel()
        for leaf in group
    ]
    parts = rows.split(widths, dim=1)
    return [part.reshape(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, group, strict=True)]


def per_row(value: Tensor, leaf: Tensor) -> Tensor:
    """A value a row, shaped to broadcast over a leaf: `(rows,)` becomes `(rows, 1, ..., 1)`."""
    return value.reshape(-1, *[1] * (leaf.ndim - 1)) if leaf.ndim else value.reshape(())
