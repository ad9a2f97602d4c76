"""The one kernel of the room: change the channel statistics of a feature map, exactly and in few passes."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from jostle.core.errors import require

Statistic = Float[Tensor, "batch channels"]
Plan = Callable[..., tuple[Tensor, Tensor]]
"""From `(mu, sigma, *parameters)` to the shifts `(of sigma, of mu)`, each of shape `(batch, channels)`."""

EPS = 1e-6


def channel_statistics(
    x: Float[Tensor, "..."], *, eps: float = EPS, channel_dim: int = 1
) -> tuple[Statistic, Statistic]:
    """The style of each sample: mean and standard deviation a channel over all other axes.

    `sigma = sqrt(var + eps)` with the unbiased variance, as the official code of AdvStyle has it. Half
    precision is computed in float32, where `eps` still counts. Differentiable.

    **Arguments:** `x`: `(batch, channels, ...)`, or with its channels on another axis. `eps`: above 0.
    `channel_dim`: the axis of the channels, not the first.
    **Returns:** `(mu, sigma)`, each `(batch, channels)`.
    **Raises:** `JostleError` if there is one value a channel only, or `x` is not of a floating type.

    >>> mu, sigma = channel_statistics(torch.tensor([[[1.0, 3.0]]]), eps=1e-12)
    >>> mu.item(), round(sigma.item(), 4)
    (2.0, 1.4142)
    """
    axes, _, count = _layout(x, channel_dim)
    require(count > 1, f"x must hold at least two values a channel, but its shape is {tuple(x.shape)}")
    var, mu = torch.var_mean(_wide(x), axes)
    return mu, (var + eps).sqrt()


def batch_uncertainty(
    mu: Statistic, sigma: Statistic, eps: float = EPS
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """How far styles scatter over a batch: `sqrt(Var_b(mu) + eps)` and `sqrt(Var_b(sigma) + eps)`, unbiased
    (DSU).

    **Arguments:** `mu`, `sigma`: `(batch, channels)` of at least two samples.

    >>> batch_uncertainty(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1), eps=1e-8)
    (tensor([1.4142]), tensor([0.0001]))
    """
    return (mu.var(0) + eps).sqrt(), (sigma.var(0) + eps).sqrt()


def restyle(
    x: Float[Tensor, "..."],
    plan: Plan,
    *parameters: Tensor,
    eps: float = EPS,
    channel_dim: int = 1,
) -> Float[Tensor, "..."]:
    """Shift the channel statistics of `x`: `y = x + s (x - mu) / sigma + t`, so `sigma -> sigma + s`, `mu ->
    mu + t`.

    The shifts come from `plan(mu, sigma, *parameters)`, which may use the statistics; gradients flow through
    them too, as in the literal form `(sigma + s) (x - mu) / sigma + mu + t`. The forward pass is `x a + b`
    with `a = 1 + s / sigma` and `b = t - s mu / sigma`; the backward pass needs only `sum g` and `sum g
    x_hat` a channel: `dx = g a + x v + w`. The graph of `plan` lives on `(batch, channels)` and costs next to
    nothing.

    **Arguments:** `x`: `(batch, channels, ...)`. `plan`: see above; built from torch operations.
    `parameters`: tensors that get gradients, such as learnt scales. `eps`, `channel_dim`: as in
    [`channel_statistics`][jostle.style.restyle.channel_statistics].
    **Returns:** a tensor like `x`, in its precision and memory format.

    >>> x = torch.tensor([[[1.0, 3.0]]])
    >>> restyle(x, lambda mu, sigma: (torch.zeros_like(sigma), torch.ones_like(mu)))
    tensor([[[2., 4.]]])
    """
    return _Restyle.apply(x, plan, eps, channel_dim, *parameters)  # type: ignore[no-any-return]


class _Restyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, eps: float, channel_dim: int, *parameters: Tensor) -> Tensor:
        axes, shape, count = _layout(x, channel_dim)
        require(count > 1, f"x must hold at least two values a channel, but its shape is {tuple(x.shape)}")
        wide = _wide(x)
        var, mu = torch.var_mean(wide, axes)
        sigma = (var + eps).sqrt()
        # The plan's own small graph: its leaves are the statistics and the parameters.
        leaves = [leaf.detach().requires_grad_() for leaf in (mu, sigma, *parameters)]
        # Its few tensors are kept as they are: checkpointing would run the whole layer once more for them.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
            s, t = plan(*leaves)
        k = s.detach() / sigma
        y = torch.addcmul((t.detach() - k * mu).reshape(shape), wide, (1 + k).reshape(shape))
        ctx.save_for_backward(x, mu, sigma, k)
        ctx.small = (s, t, leaves)
        ctx.layout = (axes, shape, count)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, mu, sigma, k = ctx.saved_tensors
        axes, shape, count = ctx.layout
        s, t, leaves = ctx.small
        kind, g, x = x.dtype, _wide(g), _wide(x)
        total = g.sum(axes)
        hat = (_dot(g, x, axes) - mu * total) / sigma
        dmu, dsigma, *dparameters = _through((s, t), leaves, (hat, total))
        dx = None
        if ctx.needs_input_grad[0]:
            # d sigma / d x = (x - mu) / (sigma (count - 1)); d mu / d x = 1 / count.
            v = (dsigma - k * hat) / (sigma * (count - 1))
            w = (dmu - k * total) / count - v * mu
            dx = torch.addcmul(w.reshape(shape), g, (1 + k).reshape(shape)).addcmul_(x, v.reshape(shape))
            dx = dx.to(kind)
        return dx, None, None, None, *dparameters


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _through(outputs: tuple[Tensor, ...], leaves: list[Tensor], grads: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients through the plan, zero where it does not look."""
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in leaves]
    outs, grads = zip(*pairs, strict=True)
    with torch.enable_grad():
        found = torch.autograd.grad(outs, leaves, grads, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)
    ]


def _dot(g: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`sum g x` over `axes`; on contiguous `(batch, channels, ...)` without a temporary."""
    # A backward pass under autocast would have the product in half precision.
    halved = torch.is_autocast_enabled(g.device.type)
    if axes[0] == 2 and g.is_contiguous() and x.is_contiguous() and not halved:
        rows = g.shape[0] * g.shape[1]
        return torch.bmm(g.view(rows, 1, -1), x.view(rows, -1, 1)).view(g.shape[:2])
    return (g * x).sum(axes)


def _layout(x: Tensor, channel_dim: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The axes that statistics run over, the shape that broadcasts a statistic, and the values a channel."""
    require(x.is_floating_point(), f"x must be of a floating type, but {x.dtype} came")
    require(x.ndim >= 2, f"x must have a batch and a channel axis, but its shape is {tuple(x.shape)}")
    channel = channel_dim % x.ndim
    require(channel != 0, f"channel_dim must not be the batch axis, but {channel_dim} came")
    axes = tuple(axis for axis in range(1, x.ndim) if axis != channel)
    shape = tuple(size if axis in (0, channel) else 1 for axis, size in enumerate(x.shape))
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return axes, shape, count


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float) -> Tensor:
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * -ctx.lam, None


def grad_reverse(x: Float[Tensor, "..."], lam: float) -> Float[Tensor, "..."]:
    """Gradient reversal (Ganin et al. 2016): `x` forwards, the gradient times `-lam` backwards.

    What lies behind it climbs the loss that everything else descends.

    **Arguments:** `x`: any tensor. `lam`: finite; 0 stops the gradient, -1 leaves it as it is.

    >>> x = torch.ones(1, requires_grad=True)
    >>> (3 * grad_reverse(x, 2.0)).backward()
    >>> x.grad
    tensor([-6.])
    """
    return _Reverse.apply(x, lam)  # type: ignore[no-any-return]
