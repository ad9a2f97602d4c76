"""Sign ascent with a gradient written out by hand, for policies that are linear, tanh and ReLU layers in a row.

With one observation at a time the arithmetic of a small policy takes microseconds and the bookkeeping of
automatic differentiation a hundred. Here is the same ascent, step for step, in NumPy on the policy's own
memory; a test holds it to the engine's result.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jostle.core.ascent import NonFiniteGradient
from jostle.observation.objectives import Slope

Array = NDArray[Any]
_PRECISIONS = (torch.float32, torch.float64)
_NONE = np.zeros(0)


class Chain:
    """The layers as arrays, on the network's own memory: what is learnt meanwhile shows here at once."""

    def __init__(self, layers: list[tuple[str, Array, Array]]) -> None:
        self.layers = layers

    @classmethod
    def of(cls, modules: Sequence[nn.Module], dtype: torch.dtype) -> "Chain | None":
        """The chain of these layers, if they are on the CPU, all in this precision, single or double."""
        layers = []
        for module in modules:
            if isinstance(module, nn.Linear):
                weight, bias = module.weight.detach(), module.bias
                if not weight.is_cpu or weight.dtype != dtype or dtype not in _PRECISIONS:
                    return None
                across = weight.numpy().T
                layers.append(
                    ("linear", across, np.zeros(1, across.dtype) if bias is None else bias.detach().numpy())
                )
            else:
                layers.append(("tanh" if isinstance(module, nn.Tanh) else "relu", _NONE, _NONE))
        return cls(layers)

    def forward(self, h: Array) -> tuple[Array, list[Array]]:
        """The output, and every layer's."""
        kept = []
        for kind, weight, bias in self.layers:
            if kind == "tanh":
                h = np.tanh(h)
            elif kind == "relu":
                h = np.maximum(h, 0)
            else:
                h = h @ weight
                h += bias
            kept.append(h)
        return h, kept

    def backward(self, kept: list[Array], g: Array) -> Array:
        """The gradient in the input, from that in the output."""
        for (kind, weight, _), h in zip(reversed(self.layers), reversed(kept), strict=True):
            if kind == "tanh":
                g = g * (1 - h * h)
            elif kind == "relu":
                g = g * (h > 0)
            else:
                g = g @ weight.T
        return g


def climb(
    chain: Chain,
    slope: Slope,
    clean: Array,
    u: Array,
    low: Array,
    high: Array,
    sizes: Sequence[float],
    last: bool = False,
) -> tuple[Array, Array]:
    """The best perturbation that sign steps find: `u <- clip(u + a_k sign(g), low, high)`.

    It ends early once a step changes nothing: then no later one does, for they are not longer.

    **Arguments:** `chain`: the policy's body. `slope`: the objective of its output. `clean`: observations,
    `(batch, features)`. `u`: first perturbation. `low`, `high`: bounds on it. `sizes`: lengths, not growing.
    `last`: give back the last iterate instead.
    **Returns:** the perturbation with the largest objective among all iterates, a sample, and that objective.
    """
    best_u, best = u, None
    for t, size in enumerate(sizes):
        x, kept = chain.forward(clean + u)
        value, g = slope(x)
        if not last:
            best_u, best = _better(value, u, best_u, best)
        # Of one output the slope's sign is all that a sign step knows: its size would only add rounding.
        way = np.sign(chain.backward(kept, np.sign(g) if g.shape[1] == 1 else g))
        _check(way, t)
        way *= clean.dtype.type(size)
        way += u
        np.minimum(way, high, out=way)
        np.maximum(way, low, out=way)
        if t % 4 == 3 and np.array_equal(way, u):
            if not last and best is not None:
                return best_u, best
            break
        u = way
    value, _ = slope(chain.forward(clean + u)[0])
    return (u, value) if last else _better(value, u, best_u, best)


def _better(value: Array, u: Array, best_u: Array, best: Array | None) -> tuple[Array, Array]:
    if best is None:
        return u, value
    rose = value > best
    if len(rose) == 1:
        return (u, value) if rose[0] else (best_u, best)
    if rose.all():
        return u, value
    if not rose.any():
        return best_u, best
    return np.where(rose[:, None], u, best_u), np.where(rose, value, best)


def _check(way: Array, t: int) -> None:
    # Signs are -1, 0, 1 or NaN: an overflow in the gradient has become NaN on its way, or a sign like others.
    total = np.add.reduce(way, axis=None)
    if total != total:
        raise NonFiniteGradient(t, float(np.isnan(way).mean()))
    if t == 0 and total == 0.0 and way.size and not way.any():
        warnings.warn(
            "the objective's gradient is zero everywhere at step 0: without one the perturbation stays where it is",
            stacklevel=5,
        )
