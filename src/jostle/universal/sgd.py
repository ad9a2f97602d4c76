"""Data-driven universal perturbations by stochastic gradients: of cross-entropy, and of logits' cosine."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.budgets import Budget, Linf
from jostle.core.errors import require
from jostle.core.rules import Adam, Sign
from jostle.core.taps import frozen
from jostle.universal.stochastic import Callback, climb_batches


def sgd_uap(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    budget: Linf,
    *,
    generator: torch.Generator,
    labels: Int[Tensor, " n"] | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    step: float = 0.8,
    variant: Literal["decayed", "released"] = "decayed",
    ceiling: float = 12.0,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """SGD-UAP (Shafahi et al. 2020; Mummadi et al. 2019; Co et al. 2021): the strong data-driven baseline.

    `delta <- clip(delta + length * sign grad mean_b min(CE(f(clip(x_b + delta)), y_b), ceiling))`, from zero.
    The released code calls `step` a decay but applies it once, so its length is `step * xi` in every epoch;
    here it is `step^(epoch + 1) * xi` by default.

    **Arguments:** `model`: images in `[0, 1]` to logits. `images`: what to fool on. `budget`: an `Linf` with
    one radius `xi`. `labels`: the true classes; the model's own clean predictions by default. `epochs`,
    `batch_size`: at least 1. `step`: in (0, 1]. `variant`: `decayed`, or `released`. `ceiling`: of a sample's
    loss, above 0; it keeps samples that are fooled already from ruling the batch. `generator`: shuffles; on
    the CPU. `callback`: `(done, total, figure)`.
    **Raises:** `JostleError` for settings out of range or labels of another number than the images.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> delta = sgd_uap(net, torch.rand(8, 1, 2, 2), Linf(0.1), generator=torch.Generator().manual_seed(0))
    >>> bool(delta.abs().max() <= 0.1)
    True
    """
    require(0 < step <= 1, f"step must lie in (0, 1], but {step} came")
    require(ceiling > 0, f"ceiling must be above 0, but {ceiling} came")
    require(variant in ("decayed", "released"), f"variant must be decayed or released, but {variant!r} came")
    radius = float(budget.radius)
    with frozen(model):
        if labels is None:
            labels = _answers(model, images, batch_size).argmax(1)
        require(
            len(labels) == len(images), f"labels must be one an image ({len(images)}), but {len(labels)} came"
        )
        target = labels.to(images.device)

        def loss(perturbed: Tensor, picks: Tensor) -> Tensor:
            each = F.cross_entropy(model(perturbed), target[picks], reduction="none")
            return each.clamp_max(ceiling).mean()

        return climb_batches(
            loss,
            images,
            budget,
            Sign(step * radius),
            epochs=epochs,
            batch_size=batch_size,
            generator=generator,
            length=(lambda epoch: radius * step ** (epoch + 1)) if variant == "decayed" else None,
            callback=callback,
        )


def cosine_uap(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    budget: Budget,
    *,
    generator: torch.Generator,
    epochs: int = 10,
    batch_size: int = 32,
    size: float | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """Cosine-UAP (Zhang et al. 2021): turn the logits away from the clean ones.

    Minimises `mean_b cos(f(clip(x_b + delta)), f(x_b))` by Adam, from a uniform start. It needs no labels,
    and works with proxy images or noise in place of data.

    **Arguments:** `model`: images in `[0, 1]` to logits. `images`: data or proxies. `budget`: with one finite
    radius. `size`: Adam's step; a tenth of the radius by default. `epochs`, `batch_size`: at least 1.
    `generator`: draws the start and shuffles; on the CPU. `callback`: `(done, total, figure)`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> delta = cosine_uap(net, torch.rand(8, 1, 2, 2), Linf(0.1), generator=torch.Generator().manual_seed(0))
    >>> bool(delta.abs().max() <= 0.1)
    True
    """
    start = budget.sample(torch.zeros_like(images[:1]), generator)
    with frozen(model):
        clean = _answers(model, images, batch_size)

        def turned(perturbed: Tensor, picks: Tensor) -> Tensor:
            return -F.cosine_similarity(model(perturbed), clean[picks], dim=1).mean()

        return climb_batches(
            turned,
            images,
            budget,
            Adam(float(budget.radius) / 10 if size is None else size),
            epochs=epochs,
            batch_size=batch_size,
            generator=generator,
            start=start,
            callback=callback,
        )


def _answers(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(max(1, batch_size))])
