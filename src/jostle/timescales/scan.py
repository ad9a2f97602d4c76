"""The loop over time: all steps of many leaky networks at once, with a hand-written backward pass.

A leaky cell reads `r(t) = phi(A r(t-1) + w x(t) + c)` once its leak is folded into the matrix. The drive
`w x + c` is written where the states will be, so that a step is one matrix product that adds to it
and one pointwise operation. The backward pass has one product and one pointwise operation a step; the gradient
of the matrix is one more product over a block of steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Nonlinearity = Literal["leaky_relu", "relu", "tanh", "sigmoid", "identity"]
_aten = torch.ops.aten
_CACHE = 2**18  # numbers that a processor keeps at hand


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


def _back(grad: Tensor, value: Tensor, kind: Nonlinearity, slope: float, out: Tensor) -> None:
    """Write `grad * phi'` into `out`; `phi'` is known from phi's own value alone."""
    if kind == "leaky_relu":
        _aten.leaky_relu_backward.grad_input(grad, value, slope, True, grad_input=out)
    elif kind == "relu":
        _aten.threshold_backward.grad_input(grad, value, 0, grad_input=out)
    elif kind == "tanh":
        _aten.tanh_backward.grad_input(grad, value, grad_input=out)
    elif kind == "sigmoid":
        _aten.sigmoid_backward.grad_input(grad, value, grad_input=out)
    else:
        out.copy_(grad)


def _forward(
    folded: Folded,
    start: Tensor,
    x: Tensor,
    active: Sequence[int] | None,
    kind: Nonlinearity,
    slope: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """States `(time + 1, networks, batch, hidden)` with the first one, values of phi, and `[x, 1]` step by step.

    The values are the states themselves where no leak stands outside of phi.
    """
    networks, hidden = start.shape[0], start.shape[-1]
    across, (w, c) = folded.matrix[..., :hidden].mT, folded.matrix[..., hidden:, None].movedim(-2, 0).mT
    inputs = torch.stack([x, torch.ones_like(x)], -1).permute(2, 0, 1, 3).contiguous()
    states = start.new_empty(len(inputs) + 1, *start.shape)
    states[0] = start if mask is None else start * mask
    values = states[1:] if folded.leak is None else torch.empty_like(states[1:])
    leak = None if folded.leak is None else folded.leak[:, None]
    if networks == 1:  # plain matrices: their product has no overhead of a batch
        across = across[0]
    add_product_ = _product(networks)
    size = _block(start)
    before, *after = _each(states)
    for t, (new, value) in enumerate(zip(after, _each(values), strict=True)):
        n = networks if active is None else active[t]
        if t % size == 0:
            torch.addcmul(c, inputs[t : t + size, ..., :1], w, out=values[t : t + size])
        if n < networks:
            new[n:] = before[n:]
            kept, before, value, moved, weights = new, before[:n], value[:n], new[:n], across[:n]
        else:
            kept, moved, weights = new, new, across
        activate_(add_product_(value, before, weights), kind, slope)
        if leak is not None:
            torch.lerp(before, value, leak[:n] if networks > 1 else leak[0], out=moved)
        if mask is not None:
            moved *= mask if networks > 1 else mask[0]
        before = kept
    return states, values, inputs


def _each(steps: Tensor) -> tuple[Tensor, ...]:
    """One tensor a time step; of a single network, without the axis of networks."""
    return (steps[:, 0] if steps.shape[1] == 1 else steps).unbind(0)


def _block(state: Tensor) -> int:
    """How many steps to handle at once: what is written is read again before it leaves the cache."""
    return 64 if state.device.type != "cpu" else min(64, max(4, _CACHE // state.numel()))


def _product(networks: int) -> Callable[..., Tensor]:
    return Tensor.addmm_ if networks == 1 else Tensor.baddbmm_


class _Scan(torch.autograd.Function):
    """Back-propagation through time."""

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
        states, values, inputs = _forward(Folded(matrix, leak), start, x, active, kind, slope)
        ctx.save_for_backward(matrix, leak, states, values, inputs)
        ctx.how = active, kind, slope, every
        return (states[1:] if every else states[-1]).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        matrix, leak, states, values, inputs = ctx.saved_tensors
        active, kind, slope, every = ctx.how
        networks, hidden = matrix.shape[:2]
        alone, add_product_ = networks == 1, _product(networks)
        # A clone: the loop works in place, and the gradient that came belongs to autograd.
        total = torch.zeros_like(upstream[0]) if every else upstream.contiguous().clone()
        d_square, d_rows = matrix.new_zeros(networks, hidden, hidden), matrix.new_zeros(networks, 2, hidden)
        sums = (d_square[0], d_rows[0]) if alone else (d_square, d_rows)
        size = _block(total)
        deltas = torch.empty_like(values[:size])
        d_leak = None if leak is None else torch.zeros_like(leak)
        square = matrix[0, :, :hidden] if alone else matrix[..., :hidden]
        grad = total[0] if alone else total
        places = _each(deltas)
        each = zip(_each(states[:-1]), _each(values), strict=True)
        for t, (before, value) in reversed(list(enumerate(each))):
            delta = places[t % size]
            n = networks if active is None else active[t]
            if every:
                total += upstream[t]
            here, weights = grad, square
            if n < networks:
                delta[n:] = 0
                here, before, value, delta, weights = grad[:n], before[:n], value[:n], delta[:n], square[:n]
            if leak is None:
                _back(here, value, kind, slope, out=delta)
                if t or ctx.needs_input_grad[2]:
                    add_product_(here, delta, weights, beta=0)
            else:
                assert d_leak is not None
                a, d_a = (leak, d_leak[0]) if alone else (leak[:n, None], d_leak[:n])
                d_a += (here * (value - before)).sum(-2)
                _back(torch.mul(here, a, out=delta), value, kind, slope, out=delta)
                add_product_(here.mul_(1 - a), delta, weights)
            if t % size == 0:
                block = slice(t, min(t + size, len(values)))
                over = _joined(deltas[: block.stop - t])
                add_product_(sums[0], over.mT, _joined(states[block]))
                # As rows: two columns would be a slow shape of product.
                add_product_(sums[1], _joined(inputs[block]).mT, over)
        d_matrix = torch.cat([d_square, d_rows.mT], -1)
        return d_matrix, d_leak, total, None, None, None, None, None


def _joined(steps: Tensor) -> Tensor:
    """All time steps of each network below one another."""
    return steps.flatten(0, 2) if steps.shape[1] == 1 else steps.transpose(0, 1).flatten(1, 2)


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
        return _forward(folded, start, x, None, kind, slope, mask)[0][1:]
