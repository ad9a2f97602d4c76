"""One ascent over shuffled batches of images: what the data-driven baselines share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.ascent import Ascent
from jostle.core.budgets import Budget
from jostle.core.errors import require
from jostle.core.rules import Rule
from jostle.core.training import minibatches

Callback = Callable[[int, int, str], None]


def climb_batches(
    objective: Callable[[Tensor, Tensor], Tensor],
    images: Float[Tensor, "n channels height width"],
    budget: Budget,
    rule: Rule,
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    length: Callable[[int], float] | None = None,
    start: Float[Tensor, "1 channels height width"] | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "1 channels height width"]:
    """Raise an objective of one shared perturbation, a step a batch; the last iterate comes back.

    **Arguments:** `objective`: from the perturbed batch, kept in `[0, 1]`, and the indices of its images to
    one number. `images`: in `[0, 1]`. `budget`: of the perturbation. `rule`: how to step. `epochs`: times
    through the images. `batch_size`: images a step. `generator`: shuffles; on the CPU. `length`: the step's
    length in an epoch, counted from 0, for rules with a `length`. `start`: where to begin; 0 by default.
    `callback`: `(done, total, figure)` after each step.
    **Raises:** `JostleError` for settings out of range.

    >>> from jostle.core.budgets import Linf
    >>> from jostle.core.rules import Sign
    >>> g = torch.Generator().manual_seed(0)
    >>> half = torch.full((4, 1, 1, 1), 0.5)
    >>> up = climb_batches(
    ...     lambda x, i: x.sum(), half, Linf(0.1), Sign(0.1), epochs=1, batch_size=2, generator=g
    ... )
    >>> round(up.item(), 3)
    0.1
    """
    require(len(images) > 0, "images must hold at least one image, but none came")
    require(epochs >= 1, f"epochs must be at least 1, but {epochs} came")
    require(batch_size >= 1, f"batch_size must be at least 1, but {batch_size} came")
    an_epoch = -(-len(images) // batch_size)
    order = minibatches(torch.arange(len(images)), size=batch_size, epochs=epochs, generator=generator)
    picks = torch.arange(0)

    def value(delta: Tensor) -> Tensor:
        return objective((images[picks] + delta).clamp(0, 1), picks)

    begin = torch.zeros_like(images[:1]) if start is None else start.to(images)
    run = Ascent(value, begin, budget, steps=epochs * an_epoch, rule=rule, track=False)
    for (chosen,) in order:
        picks = chosen.to(images.device)
        if length is not None:
            run.state["length"] = length(run.t // an_epoch)
        run.step()
        if callback is not None:
            assert run.value is not None
            callback(run.t, run.steps, f"objective {float(run.value.mean()):.3f}")
    return run.u
