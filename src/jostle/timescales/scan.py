"""The loop over time: all steps of many leaky networks at once, with a hand-written backward pass.

A leaky cell reads `r(t) = phi(A r(t-1) + w x(t) + c)` once its leak is folded into the matrix, so that a step
is one matrix product and one pointwise operation. The columns `w` and `c` are appended to `A`, and the input
and a one to the state: the drive then costs no operation of its own, and the gradients of `w` and `c` come
out of the product that makes the gradient of `A`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Nonlinearity = Literal["leaky_relu", "relu", "tanh", "sigmoid", "identity"]
_aten = torch.ops.aten


class Folded(NamedTuple):
    """Networks in the form that the loop runs.

    **Arguments:** `matrix`: `[A | w | c]`. `leak`: `a` of the form `r = (1-a) r + a phi(A r + w x + c)`, or
    `None` for `r = phi(A r + w x + c)`.
    """

    matrix: Float[Tensor, "networks hidden hidden+2"]
    leak: Float[Tensor, "networks hidden"] | None


def activate_(pre: Tensor, kind: Nonlinearity, slope: float) -> Tensor:
    """Apply `phi` in place.

    >>> activate_(torch.tensor([-1.0, 2.0]), "leaky_relu", 0.5)
    tensor([-0.5000,  2.0000])
    """
    if kind == "leaky_relu":
        return F.leaky_relu_(pre, slope)
    if kind == "relu":
        return pre.relu_()
    if kind == "tanh":
        return pre.tanh_()
    if kind == "sigmoid":
        return pre.sigmoid_()
    return pre


def _back_(grad: Tensor, out: Tensor, kind: Nonlinearity, slope: float) -> Tensor:
    """Multiply `grad` by `phi'` in place; `phi'` is known from phi's own value `out` alone."""
    if kind == "leaky_relu":
        _aten.leaky_relu_backward.grad_input(grad, out, slope, True, grad_input=grad)
    elif kind == "relu":
        _aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)
    elif kind == "tanh":
        _aten.tanh_backward.grad_input(grad, out, grad_input=grad)
    elif kind == "sigmoid":
        _aten.sigmoid_backward.grad_input(grad, out, grad_input=grad)
    return grad


def _states(x: Tensor, start: Tensor) -> Tensor:
    """A buffer `(time + 1, networks, batch, hidden + 2)` with the first state, the inputs and the ones filled
    in."""
    networks, batch, steps = x.shape
    hidden = start.shape[-1]
    states = start.new_empty(steps + 1, networks, batch, hidden + 2)
    states[0, ..., :hidden] = start
    states[:-1, ..., hidden] = x.permute(2, 0, 1)
    states[-1, ..., hidden] = 0
    states[..., hidden + 1] = 1
    return states


def _forward(
    states: Tensor,
    folded: Folded,
    active: Sequence[int] | None,
    kind: Nonlinearity,
    slope: float,
    keep: bool,
    mask: Tensor | None = None,
) -> Tensor | None:
    """Fill `states`; return the values of phi where the backward pass needs them beside the states."""
    steps, networks, batch, width = states.shape
    hidden = width - 2
    across = folded.matrix.transpose(1, 2)
    values = None
    if folded.leak is not None:
        values = states.new_empty(steps - 1 if keep else 1, networks, batch, hidden)
    for t in range(steps - 1):
        n = networks if active is None else active[t]
        new = states[t + 1, :n, :, :hidden]
        if folded.leak is None:
            activate_(new.baddbmm_(states[t, :n], across[:n], beta=0), kind, slope)
        else:
            assert values is not None
            value = values[t if keep else 0, :n]
            activate_(value.baddbmm_(states[t, :n], across[:n], beta=0), kind, slope)
            torch.lerp(states[t, :n, :, :hidden], value, folded.leak[:n, None], out=new)
        if mask is not None:
            new *= mask
        if n < networks:
            states[t + 1, n:, :, :hidden] = states[t, n:, :, :hidden]
    return values if keep else None


class _Scan(torch.autograd.Function):
    """Back-propagation through time with one matrix product a step for the state and one for the matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        matrix: Tensor,
        leak: Tensor | None,
        start: Tensor,
        x: Tensor,
        active: Sequence[int] | None,
        kind: Nonlinearity,
        slope: float,
        every: bool,
    ) -> Tensor:
        states = _states(x, start)
        values = _forward(states, Folded(matrix, leak), active, kind, slope, keep=True)
        ctx.save_for_backward(matrix, leak, states, values)
        ctx.how = active, kind, slope, every
        hidden = start.shape[-1]
        return (states[1:] if every else states[-1])[..., :hidden].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        matrix, leak, states, values = ctx.saved_tensors
        active, kind, slope, every = ctx.how
        networks, hidden = matrix.shape[:2]
        # A clone: the loop works in place, and the gradient that came belongs to autograd.
        grad = torch.zeros_like(upstream[0]) if every else upstream.contiguous().clone()
        scratch = torch.empty_like(grad)
        d_matrix = torch.zeros_like(matrix)
        d_leak = None if leak is None else torch.zeros_like(leak)
        square = matrix[..., :hidden]
        for t in range(len(states) - 2, -1, -1):
            n = networks if active is None else active[t]
            if every:
                grad += upstream[t]
            before = states[t, :n]
            if leak is None:
                delta = _back_(grad[:n], states[t + 1, :n, :, :hidden], kind, slope)
                d_matrix[:n].baddbmm_(delta.transpose(1, 2), before)
                scratch[:n].baddbmm_(delta, square[:n], beta=0)
                if n < networks:
                    scratch[n:] = grad[n:]
                grad, scratch = scratch, grad
            else:
                here, value = grad[:n], values[t, :n]
                assert d_leak is not None
                d_leak[:n] += (here * (value - before[..., :hidden])).sum(1)
                delta = _back_(torch.mul(here, leak[:n, None], out=scratch[:n]), value, kind, slope)
                d_matrix[:n].baddbmm_(delta.transpose(1, 2), before)
                here.mul_(1 - leak[:n, None]).baddbmm_(delta, square[:n])
        return d_matrix, d_leak, grad, None, None, None, None, None


def scan(
    folded: Folded,
    start: Float[Tensor, "networks batch hidden"],
    x: Float[Tensor, "networks batch time"],
    kind: Nonlinearity = "leaky_relu",
    slope: float = 0.01,
    active: Sequence[int] | None = None,
    every: bool = False,
) -> Float[Tensor, "*time networks batch hidden"]:
    """The last state of many networks, or all of them, with gradients.

    **Arguments:** `folded`: the networks. `start`: their first states. `x`: their inputs. `active`: how many
    networks (the first ones) move at each step; the others wait, with their state frozen, so that sequences
    of unequal length run side by side, padded on the left. `every`: whether to return the states after every
    step.
    **Returns:** the states after the last step, or after every step with the time in front.

    >>> half = Folded(torch.tensor([[[0.5, 1.0, 0.0]]]), None)
    >>> scan(half, torch.ones(1, 1, 1), torch.zeros(1, 1, 3)).item()
    0.125
    """
    return _Scan.apply(folded.matrix, folded.leak, start, x, active, kind, slope, every)


def trace(
    folded: Folded,
    start: Float[Tensor, "networks batch hidden"],
    x: Float[Tensor, "networks batch time"],
    kind: Nonlinearity = "leaky_relu",
    slope: float = 0.01,
    mask: Float[Tensor, "networks batch hidden"] | None = None,
) -> Float[Tensor, "time networks batch hidden"]:
    """All states of many networks, without gradients.

    **Arguments:** as [`scan`][jostle.timescales.scan.scan]; `mask`: zero where a neuron is held at zero, so
    that the streams of one batch can each miss a neuron of their own.

    >>> half = Folded(torch.tensor([[[0.5, 1.0, 0.0]]]), None)
    >>> trace(half, torch.ones(1, 1, 1), torch.zeros(1, 1, 2)).flatten()
    tensor([0.5000, 0.2500])
    """
    with torch.no_grad():
        states = _states(x, start)
        if mask is not None:
            states[0, ..., : start.shape[-1]] *= mask
        _forward(states, folded, None, kind, slope, keep=False, mask=mask)
    return states[1:, ..., : start.shape[-1]]
