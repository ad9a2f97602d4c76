"""rRCM: representations that stay the same along the path of the noise (Lei et al. 2025)."""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.core.training import Trainer
from jostle.smoothing.encoders import Encoder, Projector
from jostle.smoothing.schedule import T_MIN, levels_at, noise_grid, target_rate
from jostle.smoothing.views import Views


def info_nce(
    online: Float[Tensor, "batch width"], target: Float[Tensor, "batch width"], tau: float = 0.2
) -> Float[Tensor, ""]:
    """`mean_i [ logsumexp_j(cos(a_i, b_j) / tau) - cos(a_i, b_i) / tau ]`, in float32; the target gets no gradient.

    **Arguments:** `online`, `target`: one row an image, at least two. `tau`: temperature, above 0.

    >>> round(float(info_nce(torch.eye(4), torch.eye(4))), 7)
    0.0200123
    """
    require(len(online) >= 2, f"InfoNCE needs a batch of at least 2, but {len(online)} came")
    require(tau > 0, f"tau must be above 0, but {tau} came")
    with torch.autocast(
        online.device.type, enabled=False
    ):  # in half precision the cosines near 1 are all alike
        a = nn.functional.normalize(online.float(), dim=1)
        b = nn.functional.normalize(target.detach().float(), dim=1)
        return nn.functional.cross_entropy(a @ b.T / tau, torch.arange(len(a), device=a.device))


@dataclass(frozen=True)
class RRCM:
    """How to pre-train; the defaults are the paper's, but for `steps` and `batch`, which depend on the data.

    **Arguments:** `steps`: of AdamW, more than `warmup`; the rate falls as a cosine. `batch`: images a step,
    at least 2 and at most all there are. `lr`: largest learning rate, above 0. `weight_decay`: of AdamW.
    `warmup`: steps of rising rate. `tau`: temperature of InfoNCE, above 0. `clip`: longest gradient, after
    the warm-up. `contrast`: weight of the contrastive loss; 0 leaves it out. `consistency`: weight of the
    consistency along the noise; 0 leaves it out. `same_noise`: one noise for both ends of a pair, which is
    what makes it a step along the forward process. `on_projector`: measure the consistency behind the
    projector instead of on the features. `consistency_rate`: decay of the target of the consistency; 0 takes
    the online weights. `schedule`: how the number of levels grows: as in the released code (`official`), or
    in improved consistency training (`ict`). `sharpness`: how fast the target's decay rises from 0.99 to
    0.9999. `hidden`: hidden width of the projector. `out`: width of the projector's output.
    """

    steps: int = 1000
    batch: int = 256
    lr: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 100
    tau: float = 0.2
    clip: float = 2.0
    contrast: float = 1.0
    consistency: float = 1.0
    same_noise: bool = True
    on_projector: bool = False
    consistency_rate: float = 0.0
    schedule: Literal["official", "ict"] = "official"
    sharpness: float = 10.0
    hidden: int = 2048
    out: int = 256

    def __post_init__(self) -> None:
        require(
            self.steps > self.warmup >= 0,
            f"steps must be above warmup, but {self.steps} and {self.warmup} came",
        )
        require(
            self.batch >= 2, f"batch must be at least 2, since InfoNCE compares images, but {self.batch} came"
        )
        require(self.lr > 0, f"lr must be above 0, but {self.lr} came")
        require(
            self.contrast >= 0 and self.consistency >= 0 and self.contrast + self.consistency > 0,
            "contrast and consistency must be at least 0, and not both 0",
        )


class Losses(NamedTuple):
    """The contrastive and the consistency loss of one batch, and the mean cosine between different images."""

    contrast: Tensor
    consistency: Tensor
    crowding: Tensor


class Pair(nn.Module):
    """The online network and its target: encoder and projector each; the target follows and is never trained.

    Only parameters follow, not the buffers of batch norm: the target normalises by its own batch.

    >>> from jostle.smoothing import TimedMLP
    >>> pair = Pair(TimedMLP(64), RRCM(hidden=32, out=8))
    >>> pair.follow(0.9)
    """

    def __init__(self, encoder: Encoder, plan: RRCM) -> None:
        super().__init__()
        self.plan = plan
        self.encoder, self.projector = encoder, Projector(encoder.width, plan.hidden, plan.out)
        self.target = copy.deepcopy(nn.ModuleList([self.encoder, self.projector])).requires_grad_(False)
        if not (plan.contrast or plan.on_projector):
            self.projector.requires_grad_(False)  # nothing reads it, and several processes would wait for it

    def follow(self, rate: float) -> None:
        """`target <- rate target + (1 - rate) online`."""
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        with torch.no_grad():
            for behind, ahead in zip(self.target.parameters(), online, strict=True):
                behind.lerp_(ahead, 1 - rate)

    def forward(
        self,
        views: tuple[Tensor, Tensor, Tensor],
        levels: tuple[float, float],
        noise: Tensor,
        other_noise: Tensor | None = None,
        behind: nn.Module | None = None,
    ) -> Losses:
        """The losses of one batch (section 2.5 of the method: contrast on nearly clean views, consistency along noise).

        **Arguments:** `views`: a light and two strong ones, in [-1, 1]. `levels`: the noisier and the cleaner. `noise`:
        one an image, for all of its views. `other_noise`: for the cleaner end, if the pair is not to share it.
        `behind`: the target of the consistency; None takes the online weights.
        """
        (light, one, two), plan = views, self.plan
        zero = noise.new_zeros(())
        contrast = consistency = zero
        encoder, project = self.encoder, self.projector
        crowd = None
        if plan.contrast:
            target_encoder, target_project = self.target
            a, b = one + T_MIN * noise, two + T_MIN * noise
            qa, qb = project(encoder(a, T_MIN)), project(encoder(b, T_MIN))
            with torch.no_grad():
                ka, kb = target_project(target_encoder(a, T_MIN)), target_project(target_encoder(b, T_MIN))
            contrast = info_nce(qa, kb, plan.tau) + info_nce(qb, ka, plan.tau)
            crowd = ka
        if plan.consistency:
            high, low = levels
            h = encoder(light + high * noise, high)
            with torch.no_grad():
                clean = light + low * (noise if other_noise is None else other_noise)
                k = (encoder if behind is None else behind)(clean, low)
            if plan.on_projector:
                h, k = project(h), project(k).detach()
            consistency = info_nce(h, k, plan.tau)
            crowd = k if crowd is None else crowd
        assert crowd is not None
        unit = nn.functional.normalize(crowd.float(), dim=1)
        count = len(unit)
        crowding = (unit.sum(0).square().sum() - count) / (count * (count - 1))
        return Losses(contrast, consistency, crowding.detach())


class Pretraining:
    """rRCM's pre-training as a loop that can be stopped and taken up with the same numbers.

    **Arguments:** `encoder`: trained in place. `images`: `(images, ...)` in [0, 1], no labels. `views`: makes the light
    and the strong views. `plan`: [`RRCM`][jostle.smoothing.RRCM]. `generator`: of order, views, noise and levels; its
    device makes them. `half`: bfloat16 for the forward passes.

    >>> import torch
    >>> from jostle.smoothing import AffineViews, TimedMLP
    >>> images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> plan = RRCM(steps=3, batch=16, warmup=1, hidden=32, out=8)
    >>> run = Pretraining(TimedMLP(64), images, AffineViews(), plan, torch.Generator().manual_seed(0))
    >>> run.run()
    >>> len(run.history)
    3
    """

    def __init__(
        self,
        encoder: Encoder,
        images: Float[Tensor, "images ..."],
        views: Views,
        plan: RRCM,
        generator: torch.Generator,
        *,
        half: bool = False,
    ) -> None:
        require(
            len(images) >= plan.batch,
            f"batch must not exceed the number of images, but {plan.batch} and {len(images)} came",
        )
        self.images, self.views, self.plan, self.generator, self.half = images, views, plan, generator, half
        self.pair = Pair(encoder, plan).to(images.device).train()
        self.behind = copy.deepcopy(encoder).requires_grad_(False) if plan.consistency_rate else None
        learnt = [p for p in self.pair.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learnt, plan.lr, weight_decay=plan.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(plan.warmup, plan.steps))
        self.trainer = Trainer(self.pair, optimiser, self._loss, schedule=schedule)
        self.history: list[tuple[float, float, float]] = []
        self._warned = False

    def run(self, callback: Callable[["Pretraining"], None] | None = None) -> None:
        """Take the steps that are left; `callback` sees this object after each."""
        while self.trainer.step < self.plan.steps:
            # The gradient is free while the rate climbs.
            self.trainer.clip = self.plan.clip if self.trainer.step >= self.plan.warmup else None
            self.trainer.run([self._batch()])
            rate = target_rate(self.trainer.step, self.plan.steps, self.plan.sharpness)
            self.pair.follow(rate)
            if self.behind is not None:
                with torch.no_grad():
                    for behind, ahead in zip(
                        self.behind.parameters(), self.pair.encoder.parameters(), strict=True
                    ):
                        behind.lerp_(ahead, 1 - self.plan.consistency_rate)
            if callback is not None:
                callback(self)

    def state_dict(self) -> dict[str, object]:
        """All that a later process needs to go on with the same numbers."""
        return {
            "trainer": self.trainer.state_dict(),
            "behind": None if self.behind is None else self.behind.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up the pre-training where `state_dict` was called."""
        self.trainer.load_state_dict(state["trainer"])  # type: ignore[arg-type]
        if self.behind is not None:
            self.behind.load_state_dict(state["behind"])  # type: ignore[arg-type]
        self.generator.set_state(state["generator"])  # type: ignore[arg-type]
        self.history = list(state["history"])  # type: ignore[call-overload]

    def _batch(self) -> Tensor:
        # Drawn afresh each step: with the state of the generator this resumes exactly.
        count, device = len(self.images), self.generator.device
        chosen = torch.randperm(count, generator=self.generator, device=device)[: self.plan.batch]
        return self.images[chosen.to(self.images.device)]

    def _loss(self, pair: nn.Module, x: Tensor) -> Tensor:
        plan, g = self.plan, self.generator
        grid = noise_grid(levels_at(self.trainer.step, plan.steps, plan.schedule))
        n = int(torch.randint(0, len(grid) - 1, (), generator=g, device=g.device))
        light, one, two = (2 * view - 1 for view in self.views(x, g))
        noise = torch.randn(light.shape, generator=g, device=g.device).to(x.device)
        other = (
            None if plan.same_noise else torch.randn(light.shape, generator=g, device=g.device).to(x.device)
        )
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            found = pair((light, one, two), (float(grid[n]), float(grid[n + 1])), noise, other, self.behind)
        self.history.append(
            (float(found.contrast.detach()), float(found.consistency.detach()), float(found.crowding))
        )
        if float(found.crowding) > 0.99 and not self._warned:
            self._warned = True
            warnings.warn(
                f"the representations have collapsed at step {self.trainer.step}: different images have a mean cosine "
                f"of {float(found.crowding):.3f}; lower the learning rate or enlarge the batch",
                stacklevel=2,
            )
        return plan.contrast * found.contrast + plan.consistency * found.consistency


def warm_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """A factor on the learning rate: up along a line, down along half a cosine, 0 at `steps`.

    >>> [round(warm_cosine(2, 4)(k), 2) for k in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def similarity(
    encoder: Encoder,
    images: Float[Tensor, "images ..."],
    levels: Float[Tensor, " levels"],
    generator: torch.Generator,
) -> Float[Tensor, " levels"]:
    """Mean cosine between the features of an image with noise `t` and with hardly any, along one noise an image.

    **Arguments:** `images`: in [0, 1]. `levels`: values of `t`. `generator`: draws the noise.
    """
    z = 2 * images - 1
    noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z.device)
    with frozen(encoder), torch.no_grad():
        clean = encoder(z + T_MIN * noise, T_MIN)
        rows = [
            nn.functional.cosine_similarity(encoder(z + float(t) * noise, float(t)), clean).mean()
            for t in levels
        ]
    return torch.stack(rows).float().cpu()
