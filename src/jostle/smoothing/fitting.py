"""Training a classifier so that it certifies well: any network with any objective, and rRCM's fine-tuning."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.training import Trainer, fabric_here, minibatches
from jostle.smoothing.bounds import check_sigma
from jostle.smoothing.encoders import Encoder, TimedClassifier
from jostle.smoothing.objectives import Objective
from jostle.smoothing.rrcm import warm_cosine


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train: AdamW, a warm-up and a cosine that ends with the last step.

    **Arguments:** `steps`, `batch`: at least 1. `lr`, `weight_decay`: of AdamW. `warmup`: steps of rising rate, fewer
    than `steps`. `decay`: of the rate by depth, for an encoder (0.65 and 0.75 in the paper; 1: none). `ramp`: share of
    the steps over which the regulariser comes in. `mirror`: flip images left to right, one in two. `shift`: move them
    by up to so many pixels. `half`: forward passes in bfloat16.
    """

    steps: int = 1000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 50
    decay: float = 1.0
    ramp: float = 0.3
    mirror: bool = False
    shift: int = 0
    half: bool = False

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"batch must be at least 1, but {self.batch} came")
        require(self.lr > 0, f"lr must be above 0, but {self.lr} came")
        require(
            self.steps > self.warmup >= 0,
            f"steps must be above warmup, but {self.steps} and {self.warmup} came",
        )
        require(0 <= self.ramp <= 1, f"ramp must lie in [0, 1], but {self.ramp} came")
        require(0 < self.decay <= 1, f"decay must lie in (0, 1], but {self.decay} came")


def fit(
    model: nn.Module,
    images: Float[Tensor, "images ..."],
    labels: Int[Tensor, " images"],
    sigma: float,
    objective: Objective,
    recipe: Recipe,
    generator: torch.Generator,
    callback: Callable[[int, int, str], None] | None = None,
) -> list[float]:
    """Train a classifier of images in [0, 1] for noise of `sigma`, in place; it is left in evaluation mode.

    **Arguments:** `model`: on the images' device, normalising inside. `sigma`: in units of [0, 1]. `objective`: what to
    minimise. `recipe`: how. `generator`: of the order of the images, on the CPU; the noise comes from another on
    the images' device, that it seeds. `callback`: `(step, steps, sentence)`.
    **Returns:** the loss at each step.

    >>> import torch
    >>> from jostle.smoothing import Gaussian
    >>> x = torch.cat([torch.zeros(20, 4), torch.ones(20, 4)])
    >>> y = torch.arange(40) // 20
    >>> net = torch.nn.Linear(4, 2)
    >>> plan = Recipe(steps=60, batch=20, lr=0.05, warmup=0)
    >>> losses = fit(net, x, y, 0.25, Gaussian(), plan, torch.Generator().manual_seed(0))
    >>> bool(losses[-1] < losses[0]), len(losses)
    (True, 60)
    """
    check_sigma(sigma)
    require(
        len(images) == len(labels), f"images and labels must agree, but {len(images)} and {len(labels)} came"
    )
    own = torch.randint(2**31, (2,), generator=generator)
    # Processes that share a batch draw each its own noise.
    rank = 0 if fabric_here() is None else fabric_here().global_rank
    noise = torch.Generator(images.device).manual_seed(int(own[0]) + rank)
    groups: Any = model.parameters()
    if isinstance(model, TimedClassifier):
        groups = model.groups(recipe.lr, recipe.decay)
    optimiser = torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(recipe.warmup, recipe.steps))

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = _augmented(batch[0], recipe, noise), batch[1]
        strength = min(1.0, (trainer.step + 1) / max(1.0, recipe.ramp * recipe.steps))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.half):
            return objective.loss(network, x, y, sigma, noise, strength)

    losses: list[float] = []

    def after(state: Trainer) -> None:
        losses.append(state.last)
        if callback is not None:
            callback(state.step, recipe.steps, f"loss {state.last:.3f}")

    trainer = Trainer(model.train(), optimiser, loss, schedule=schedule)
    size = min(recipe.batch, len(images))
    epochs = math.ceil(recipe.steps / math.ceil(len(images) / size))
    batches = minibatches(images, labels, size=size, epochs=epochs, generator=generator)
    trainer.run((batch for _, batch in zip(range(recipe.steps), batches, strict=False)), after)
    model.eval()
    return losses


def finetune(
    encoder: Encoder,
    images: Float[Tensor, "images ..."],
    labels: Int[Tensor, " images"],
    sigma: float,
    objective: Objective,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    classes: int,
    callback: Callable[[int, int, str], None] | None = None,
) -> TimedClassifier:
    """rRCM's second half: a linear head on a pre-trained encoder, both trained under noise; one model a `sigma`.

    The encoder is copied, not changed. Time and input scale are those of the grid's level nearest to `2 sigma`, the
    noise is exact. With a fresh encoder this is the method without pre-training.

    **Arguments:** as for [`fit`][jostle.smoothing.fit]; `classes`: number of outputs.
    **Returns:** a [`TimedClassifier`][jostle.smoothing.TimedClassifier] of images in [0, 1], in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        model = TimedClassifier(copy.deepcopy(encoder), classes, sigma)
    if images.ndim == 4:
        model.input_shape = (images.shape[1], images.shape[2], images.shape[3])
    fit(model.to(images.device), images, labels, sigma, objective, recipe, generator, callback)
    return model


def _augmented(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    if recipe.mirror:
        coin = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
        x = torch.where(coin.to(x.device).reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    if recipe.shift:
        reach, (height, width) = recipe.shift, x.shape[-2:]
        wide = nn.functional.pad(x, (reach,) * 4, "replicate")
        moves = torch.randint(0, 2 * reach + 1, (2, len(x)), generator=generator, device=generator.device)
        rows = moves[0].to(x.device)[:, None] + torch.arange(height, device=x.device)
        cols = moves[1].to(x.device)[:, None] + torch.arange(width, device=x.device)
        every = torch.arange(len(x), device=x.device)[:, None, None]
        x = wide.movedim(1, -1)[every, rows[:, :, None], cols[:, None, :]].movedim(-1, 1)
    return x
