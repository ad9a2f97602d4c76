"""Singular-vector perturbations: the input direction that a layer's Jacobian stretches most."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.budgets import Budget
from jostle.core.errors import require
from jostle.core.taps import Taps, frozen
from jostle.universal.stochastic import Callback


def singular_uap(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    budget: Budget,
    layer: str,
    *,
    generator: torch.Generator,
    q: float = 10.0,
    steps: int = 30,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """The (p, q)-singular vector of a layer's Jacobian, stacked over images (Khrulkov & Oseledets 2018).

    `argmax ||J v||_q` over `||v||_p <= 1`, `J v = (J_1 v, ..., J_n v)`, by the generalised power method of
    Boyd: `v <- psi_p'(J^T psi_q(J v))`, `psi_r(z) = sign(z) |z|^(r-1)`, which is the budget's steepest unit
    step along `J^T psi_q(J v)`. The products with `J` and its transpose are one forward-mode and one
    reverse-mode pass. The result is scaled to the budget's radius; its sign is that of the objective's
    symmetry, so both work alike to first order.

    **Arguments:** `model`: takes images in `[0, 1]`. `images`: a few, as a single batch; 16 to 64 are usual.
    `budget`: its norm is `p`, its radius the perturbation's size. `layer`: dotted name of the layer, early
    ones are usual. `q`: above 1. `steps`: at least 1. `generator`: draws the start; on the CPU. `callback`:
    `(done, total, figure)`.
    **Raises:** `JostleError` for settings out of range, a layer that is not there, or a Jacobian of zero.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.diag(torch.tensor([1.0, 5.0, 2.0, 1.0])))
    >>> from jostle.core.budgets import L2
    >>> g = torch.Generator().manual_seed(0)
    >>> singular_uap(net, torch.rand(2, 1, 2, 2), L2(1.0), "1", q=2, generator=g).abs().round().flatten()
    tensor([0., 1., 0., 0.])
    """
    require(q > 1, f"q must be above 1, but {q} came")
    require(steps >= 1, f"steps must be at least 1, but {steps} came")
    radius = float(budget.radius)
    v = budget.steepest(torch.randn(images[:1].shape, generator=generator).to(images))
    with frozen(model), Taps(model, [layer]) as taps:

        def response(delta: Tensor) -> Tensor:
            model(images + delta)
            require(bool(taps.values), f"layer {layer!r} did not run in the model's forward pass")
            return taps.values[0]

        origin = torch.zeros_like(v)
        for step in range(1, steps + 1):
            stretched, pull = _products(response, origin, v, q)
            require(stretched > 0, f"layer {layer!r} does not answer to its input: its Jacobian is zero here")
            v = budget.steepest(pull)
            if callback is not None:
                callback(step, steps, f"||Jv|| {stretched:.3g}")
    return budget.project(v * radius)


def _products(
    response: Callable[[Tensor], Tensor], origin: Tensor, v: Tensor, q: float
) -> tuple[float, Tensor]:
    """`||J v||_q`, and `J^T psi_q(J v)` up to a positive factor."""
    with warnings.catch_warnings():
        # The first forward-mode pass of a process makes torch script code of its own, and complain of it.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
        forward = torch.func.jvp(response, (origin,), (v,))[1]
    forward = forward.detach()
    largest = forward.abs().max()
    if not largest > 0:
        return 0.0, torch.zeros_like(v)
    # Scaled to at most 1 before the power, which overflows otherwise.
    unit = forward / largest
    weight = unit.sign() * unit.abs() ** (q - 1)
    entry = origin.detach().requires_grad_()
    (pull,) = torch.autograd.grad(response(entry), entry, weight)
    return float(largest * torch.linalg.vector_norm(unit.double(), ord=q)), pull
