"""Gradients by automatic differentiation, with little around them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

from jostle.core.errors import JostleError


@cache
def _engine() -> Any:
    """What `torch.autograd.grad` calls in the end; None where a version of torch has it otherwise."""
    engine: Any = getattr(Variable, "_execution_engine", None)
    with torch.enable_grad():
        x = torch.ones(1, requires_grad=True)
        try:
            (found,) = engine.run_backward(
                (2 * x,), (x.detach(),), False, False, (x,), False, accumulate_grad=False
            )
        except (AttributeError, TypeError, ValueError):
            return None
    return engine if found.item() == 2.0 else None


def gradients(
    value: Tensor, leaves: Sequence[Tensor], weights: Tensor, several: bool = False
) -> tuple[Tensor, ...]:
    """The gradient of `sum(weights * value)` in each leaf; the graph is freed.

    `torch.autograd.grad` does this, and is what runs on accelerators. On the CPU its preparations in Python take
    as long as the backward pass of a small network does, so the engine under it is called directly.

    **Arguments:** `value`: of any shape. `leaves`: what requires gradients. `weights`: shaped like `value`.
    `several`: a leaf that `value` does not depend on has gradient 0; else that is an error.
    **Raises:** `JostleError` if no gradient flows into `value`.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradients(x * x, [x], torch.ones(2))
    (tensor([2., 4.]),)
    """
    if not value.requires_grad:
        raise JostleError("objective must depend on the perturbation, but it has no gradient there")
    inputs = tuple(leaves)
    engine = _engine()
    if engine is None or not value.is_cpu or type(value) is not Tensor or value.shape != weights.shape:
        return torch.autograd.grad(value, inputs, weights, materialize_grads=several)
    found = engine.run_backward((value,), (weights,), False, False, inputs, several, accumulate_grad=False)
    if several:
        return tuple(
            torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, inputs, strict=True)
        )
    return found
