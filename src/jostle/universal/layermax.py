"""Single-layer maximisation on data: the ablation of "every layer"."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.budgets import Linf
from jostle.core.errors import require
from jostle.core.rules import Sign
from jostle.core.taps import Taps, frozen
from jostle.universal.stochastic import Callback, climb_batches


def layermax_uap(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    budget: Linf,
    layer: str,
    *,
    generator: torch.Generator,
    epochs: int = 10,
    batch_size: int = 32,
    step: float = 0.8,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """Make one layer loud: `max ||l(clip(x + delta))||_F` over data (Co et al. 2019).

    Sign steps of length `step * xi` on batches, from zero, as in the code released with SGD-UAP.

    **Arguments:** `model`: takes images in `[0, 1]`. `images`: data. `budget`: an `Linf` with one radius.
    `layer`: dotted name of the layer whose output grows. `step`: in (0, 1]. `epochs`, `batch_size`: at least
    1. `generator`: shuffles; on the CPU. `callback`: `(done, total, figure)`.
    **Raises:** `JostleError` if the layer is not there or does not run, or a setting is out of range.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    >>> g = torch.Generator().manual_seed(0)
    >>> layermax_uap(net, torch.rand(8, 1, 2, 2), Linf(0.1), "1", generator=g).shape
    torch.Size([1, 1, 2, 2])
    """
    require(0 < step <= 1, f"step must lie in (0, 1], but {step} came")
    with frozen(model), Taps(model, [layer]) as taps:

        def loudness(perturbed: Tensor, picks: Tensor) -> Tensor:
            model(perturbed)
            require(bool(taps.values), f"layer {layer!r} did not run in the model's forward pass")
            return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(a) for a in taps.values]))

        return climb_batches(
            loudness,
            images,
            budget,
            Sign(step * float(budget.radius)),
            epochs=epochs,
            batch_size=batch_size,
            generator=generator,
            callback=callback,
        )
