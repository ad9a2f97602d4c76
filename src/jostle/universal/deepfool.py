"""DeepFool, and the universal perturbation that is built from it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.budgets import Budget
from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.core.training import minibatches
from jostle.universal.stochastic import Callback


def deepfool(
    model: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    *,
    classes: int = 10,
    overshoot: float = 0.02,
    steps: int = 50,
) -> Float[Tensor, "batch channels height width"]:
    """Small L2 perturbations that change the model's answer (Moosavi-Dezfooli et al. 2016), a batch at once.

    The nearest boundary of the linearised model among the `classes` likeliest ones: with `w_k = grad (f_k -
    f_0)` and `g_k = f_k - f_0`, `r += |g_l| / ||w_l||^2 w_l` for the `l` with the least `|g_k| / ||w_k||`,
    until `x + (1 + overshoot) r` is answered otherwise. Images that are fooled stop; the numbers of an image
    do not depend on who else is in the batch.

    **Arguments:** `model`: images to logits. `images`: in any unit. `classes`: candidates, at least 2.
    `overshoot`: at least 0. `steps`: at most so many linearisations.
    **Returns:** `(1 + overshoot) r`, one an image; images that resist keep their last.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> deepfool(net, torch.tensor([[[[0.5, 0.3]]]])).flatten()
    tensor([-0.5101,  0.0000])
    """
    require(classes >= 2, f"classes must be at least 2, but {classes} came")
    require(overshoot >= 0, f"overshoot must be at least 0, but {overshoot} came")
    require(steps >= 1, f"steps must be at least 1, but {steps} came")
    total = torch.zeros_like(images)
    with frozen(model):
        with torch.no_grad():
            first = model(images)
        require(
            first.ndim == 2 and first.shape[1] >= 2,
            f"a classifier's output must have shape (batch, classes), but {tuple(first.shape)} came",
        )
        ranked = first.topk(min(classes, first.shape[1]), dim=1).indices
        alive = torch.arange(len(images), device=images.device)
        for _ in range(steps):
            entry = (images[alive] + (1 + overshoot) * total[alive]).requires_grad_()
            logits = model(entry)
            candidates = ranked[alive]
            same = logits.detach().argmax(1) == candidates[:, 0]
            if not bool(same.any()):
                break
            step = _nearest_boundary(logits, entry, candidates)
            total[alive[same]] += step[same]
            alive = alive[same]
    return (1 + overshoot) * total


def _nearest_boundary(logits: Tensor, entry: Tensor, candidates: Tensor) -> Tensor:
    scores = logits.gather(1, candidates)
    gaps = scores - scores[:, :1]
    best = torch.full((len(logits),), torch.inf, device=logits.device)
    step = torch.zeros_like(entry)
    count = candidates.shape[1]
    for k in range(1, count):
        (w,) = torch.autograd.grad(gaps[:, k].sum(), entry, retain_graph=k < count - 1)
        length = w.flatten(1).norm(dim=1).clamp_min(1e-12)
        # The constant of the authors' code: it carries the step over the boundary of the linear model.
        distance = gaps[:, k].detach().abs() / length
        move = ((distance + 1e-4) / length).reshape(-1, 1, 1, 1) * w
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        step = torch.where(nearer.reshape(-1, 1, 1, 1), move, step)
    return step


def deepfool_uap(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    budget: Budget,
    *,
    generator: torch.Generator,
    target: float = 0.8,
    epochs: int = 5,
    batch_size: int = 16,
    classes: int = 10,
    overshoot: float = 0.02,
    steps: int = 10,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """The first universal perturbation (Moosavi-Dezfooli et al. 2017): DeepFool steps summed over images.

    For images that `delta` does not fool yet, in random order: add the step that takes `x + delta` over its
    boundary, and project on the budget; end when `delta` fools the share `target` of the images. With
    `batch_size=1` it is the paper's loop; larger batches add the steps of their unfooled images together.

    **Arguments:** `model`: images in `[0, 1]` to logits. `images`: data. `budget`: of the perturbation, with
    scope `sample` and one radius. `target`: in (0, 1]. `epochs`: at most so many passes. `classes`,
    `overshoot`, `steps`: of [`deepfool`][jostle.universal.deepfool.deepfool]. `generator`: shuffles; on the
    CPU. `callback`: `(done, total, figure)` after each batch.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> from jostle.core.budgets import Linf
    >>> g = torch.Generator().manual_seed(0)
    >>> delta = deepfool_uap(net, torch.rand(8, 1, 2, 2), Linf(0.1), generator=g)
    >>> bool(delta.abs().max() <= 0.1)
    True
    """
    require(0 < target <= 1, f"target must lie in (0, 1], but {target} came")
    require(len(images) > 0, "images must hold at least one image, but none came")
    require(
        epochs >= 1 and batch_size >= 1,
        f"epochs and batch_size must be at least 1, but {epochs} and {batch_size} came",
    )
    delta = torch.zeros_like(images[:1])
    an_epoch = -(-len(images) // batch_size)
    with frozen(model):
        clean = _answers(model, images, batch_size)
        order = minibatches(torch.arange(len(images)), size=batch_size, epochs=epochs, generator=generator)
        rate = 0.0
        for done, (picks,) in enumerate(order, start=1):
            picks = picks.to(images.device)
            batch = images[picks] + delta
            with torch.no_grad():
                left = model(batch).argmax(1) == clean[picks]
            if bool(left.any()):
                moves = deepfool(model, batch[left], classes=classes, overshoot=overshoot, steps=steps)
                with torch.no_grad():  # as the authors do, images that resist are passed over
                    gone = model(batch[left] + moves).argmax(1) != clean[picks][left]
                delta = budget.project(delta + moves[gone].sum(0, keepdim=True))
            if done % an_epoch == 0:
                rate = float((_answers(model, images + delta, batch_size) != clean).double().mean())
            if callback is not None:
                callback(done, epochs * an_epoch, f"fooling {rate:.1%}")
            if rate >= target:
                break
    return delta


def _answers(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])
