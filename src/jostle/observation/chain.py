"""Sign ascent with a gradient written out by hand, for policies that are linear, tanh and ReLU layers in a row.

With one observation at a time the arithmetic of a small policy takes microseconds and the bookkeeping of
automatic differentiation a hundred. Here is the same ascent, step for step, in NumPy on the policy's own
memory; a test holds it to the engine's result.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jostle.core.ascent import NonFiniteGradient
from jostle.observation.objectives import Bound

Array = NDArray[np.floating]
Slope = Callable[[Array], tuple[Array, Array]]


def climbable(layers: Sequence[nn.Module] | None, bound: Bound, o: Tensor) -> bool:
    """Whether the closed form covers this policy, objective and device."""
    return (
        layers is not None
        and (bound.side is not None or bound.pull is not None)
        and o.device.type == "cpu"
        and o.dtype in (torch.float32, torch.float64)
    )


def climb(
    layers: Sequence[nn.Module],
    bound: Bound,
    o: Tensor,
    start: Tensor,
    low: Tensor,
    high: Tensor,
    sizes: Sequence[float],
) -> Tensor:
    """The best perturbation that sign steps find: `u <- clip(u + a_k sign(g), low, high)`.

    It ends early once a step changes nothing: then no later one does, for they are not longer.

    **Arguments:** `layers`: the policy's body. `bound`: the objective. `o`: clean observations, `(batch,
    features)`. `start`: first perturbation. `low`, `high`: bounds on it. `sizes`: step lengths, not growing.
    **Returns:** the perturbation with the largest objective among all iterates, a sample.
    """
    chain = [_arrays(layer) for layer in layers]
    clean, u, lo, hi = (part.numpy() for part in (o, start, low, high))
    slope = _slope(bound, chain, clean)
    best_u, best = u, None
    for t, size in enumerate(sizes):
        x, kept = _forward(chain, clean + u)
        value, g = slope(x)
        best_u, best = _better(value, u, best_u, best)
        g = _backward(chain, kept, g)
        _check(g, t)
        moved = u + np.asarray(size, dtype=u.dtype) * np.sign(g)
        np.minimum(moved, hi, out=moved)
        np.maximum(moved, lo, out=moved)
        if (moved == u).all():
            return torch.from_numpy(best_u)
        u = moved
    x, _ = _forward(chain, clean + u)
    value, _ = slope(x)
    return torch.from_numpy(_better(value, u, best_u, best)[0])


Layer = tuple[Array, Array, str] | str


def _arrays(layer: nn.Module) -> Layer:
    if not isinstance(layer, nn.Linear):
        return "tanh" if isinstance(layer, nn.Tanh) else "relu"
    weight = layer.weight.detach().numpy()
    bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else layer.bias.detach().numpy()
    return weight, bias, "linear"


def _forward(chain: Sequence[Layer], h: Array) -> tuple[Array, list[Array]]:
    kept = []
    for layer in chain:
        if layer == "tanh":
            h = np.tanh(h)
        elif layer == "relu":
            h = np.maximum(h, 0)
        else:
            h = h @ layer[0].T  # type: ignore[union-attr]
            h += layer[1]
        kept.append(h)
    return h, kept


def _backward(chain: Sequence[Layer], kept: list[Array], g: Array) -> Array:
    for layer, h in zip(reversed(chain), reversed(kept), strict=True):
        if layer == "tanh":
            g = g * (1 - h * h)
        elif layer == "relu":
            g = g * (h > 0)
        else:
            g = g @ layer[0]
    return g


def _slope(bound: Bound, chain: Sequence[Layer], clean: Array) -> Slope:
    """The objective and its gradient in the policy's output (the objective up to a constant a sample)."""
    if bound.side is not None:
        side = bound.side.numpy()
        return lambda x: ((side * x).sum(1), side)
    kind = bound.pull
    # By the same arithmetic as the iterates: at the clean point the distance is exactly 0.
    x0, _ = _forward(chain, clean)

    def slope(x: Array) -> tuple[Array, Array]:
        gap = x - x0
        if kind == "mse":
            return (gap * gap).sum(1), 2 * gap
        if kind == "mae":
            return np.abs(gap).sum(1), np.sign(gap)
        size = np.abs(gap)
        return np.where(size < 1, 0.5 * gap * gap, size - 0.5).sum(1), np.clip(gap, -1, 1)

    return slope


def _better(value: Array, u: Array, best_u: Array, best: Array | None) -> tuple[Array, Array]:
    if best is None:
        return u, value
    rose = value > best
    if rose.all():
        return u, value
    if not rose.any():
        return best_u, best
    return np.where(rose[:, None], u, best_u), np.where(rose, value, best)


def _check(g: Array, t: int) -> None:
    total = float(np.add.reduce(g, axis=None))
    if total == total and total not in (0.0, np.inf, -np.inf):
        return
    bad = ~np.isfinite(g)
    if bad.any():
        raise NonFiniteGradient(t, float(bad.mean()))
    if t == 0 and g.size and not g.any():
        warnings.warn(
            "the objective's gradient is zero everywhere at step 0: without one the perturbation stays where it is",
            stacklevel=4,
        )
