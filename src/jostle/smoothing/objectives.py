"""What to minimise so that a network certifies well: one object of hyperparameters a method."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from jostle.core.ascent import ascend
from jostle.core.budgets import L2
from jostle.core.errors import require
from jostle.core.rules import Steepest
from jostle.core.taps import first_tensor, frozen

Logits = Float[Tensor, "batch classes"]


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is computed from: a network, images with labels, and noise of a size."""

    model: nn.Module
    x: Tensor
    y: Tensor
    sigma: float
    generator: torch.Generator

    def noises(self, copies: int) -> list[Tensor]:
        """Noises of the shape of the images."""
        return [noise_like(self.x, self.sigma, self.generator) for _ in range(copies)]

    def logits(self, x: Tensor, noises: list[Tensor]) -> Float[Tensor, "copies batch classes"]:
        """The network's answers to `x` under each noise."""
        return _under(self.model, x, noises)

    def cross_entropy(self, logits: Float[Tensor, "copies batch classes"]) -> Tensor:
        """Of all copies."""
        return functional.cross_entropy(logits.flatten(0, 1), self.y.repeat(len(logits)))


class Objective(ABC):
    """A training loss for noise of a given size: `objective.loss(model, x, y, sigma, generator)`.

    Images lie in [0, 1]; the model normalises inside. `strength` in [0, 1] scales the regulariser, for a warm-up.
    """

    def loss(
        self,
        model: nn.Module,
        x: Float[Tensor, "batch ..."],
        y: Int[Tensor, " batch"],
        sigma: float,
        generator: torch.Generator,
        strength: float = 1.0,
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        return self.of(Batch(model, x, y, sigma, generator), strength)

    @abstractmethod
    def of(self, batch: Batch, strength: float) -> Float[Tensor, ""]:
        """The mean loss, from what `loss` was given."""


@dataclass(frozen=True)
class Gaussian(Objective):
    """Cross-entropy of one noisy copy: Gaussian augmentation (Cohen, Rosenfeld & Kolter 2019)."""

    def of(self, batch: Batch, strength: float) -> Tensor:
        return batch.cross_entropy(batch.logits(batch.x, batch.noises(1)))


@dataclass(frozen=True)
class Stability(Objective):
    """Cross-entropy of the clean image and `lam KL(p(x) || p(x + e))` (stability training; Li et al. 2019).

    **Arguments:** `lam`: at least 0.
    """

    lam: float = 2.0

    def of(self, batch: Batch, strength: float) -> Tensor:
        clean, noisy = batch.logits(batch.x, [torch.zeros_like(batch.x), *batch.noises(1)])
        apart = _kl(functional.log_softmax(clean, 1), functional.log_softmax(noisy, 1)).mean()
        return functional.cross_entropy(clean, batch.y) + strength * self.lam * apart


@dataclass(frozen=True)
class Consistency(Objective):
    """Answers that agree under noise: `CE + lam mean_i KL(p_bar || p_i) + eta H(p_bar)` (Jeong & Shin 2020).

    `p_i` are the answers to `copies` noisy versions, `p_bar` their mean, `CE` the mean over them. With `lam = eta = 0`
    it is Gaussian augmentation with several copies. rRCM is fine-tuned with this loss.

    **Arguments:** `lam`: 10 at sigma 0.25 and 20 above in the paper; short runs want less. `eta`: 0.5. `copies`: 2.
    """

    lam: float = 10.0
    eta: float = 0.5
    copies: int = 2

    def __post_init__(self) -> None:
        require(self.copies >= 2, f"copies must be at least 2, but {self.copies} came")
        require(self.lam >= 0 and self.eta >= 0, "lam and eta must be at least 0")

    def of(self, batch: Batch, strength: float) -> Tensor:
        logits = batch.logits(batch.x, batch.noises(self.copies))
        return batch.cross_entropy(logits) + strength * consistency(logits, self.lam, self.eta)


def consistency(logits: Float[Tensor, "copies batch classes"], lam: float, eta: float) -> Float[Tensor, ""]:
    """`lam mean_i KL(p_bar || p_i) + eta H(p_bar)`, meaned over the batch; probabilities are clamped at 1e-20.

    >>> import math
    >>> same = torch.zeros(2, 3, 4)
    >>> round(float(consistency(same, 10.0, 0.5)) / math.log(4), 4)
    0.5
    """
    logs = functional.log_softmax(logits.float(), dim=2)
    mean = logs.exp().mean(0)
    log_mean = mean.clamp_min(1e-20).log()
    apart = (mean * (log_mean - logs)).sum(2).mean()
    entropy = -(mean * log_mean).sum(1).mean()
    return lam * apart + eta * entropy


@dataclass(frozen=True)
class MACER(Objective):
    """A larger radius where the smoothed answer is right already (Zhai et al. 2020).

    `CE(mean_i p_i) + lam sigma/2 max(gamma - (Phi^-1(z_y) - Phi^-1(z_other)), 0)`, `z` the mean of softmaxes of `beta`
    times the logits, the second term where `z` is right and the margin at most `gamma` in size.

    **Arguments:** `copies`: 16 in the paper. `lam`: 12. `gamma`: 8. `beta`: 16.
    """

    copies: int = 16
    lam: float = 12.0
    gamma: float = 8.0
    beta: float = 16.0

    def of(self, batch: Batch, strength: float) -> Tensor:
        logits = batch.logits(batch.x, batch.noises(self.copies)).float()
        plain = functional.nll_loss(logits.softmax(2).mean(0).clamp_min(1e-20).log(), batch.y)
        z = (self.beta * logits).softmax(2).mean(0)
        tops = z.topk(2, dim=1)
        right = tops.indices[:, 0] == batch.y
        # Away from 0 and 1, where the quantile has no finite slope.
        a, b = tops.values.clamp(1e-5, 1 - 1e-5).unbind(1)
        margin = torch.special.ndtri(a) - torch.special.ndtri(b)
        counted = right & (margin.abs() <= self.gamma)
        hinge = torch.where(counted, self.gamma - margin, 0.0).sum() / len(batch.y)
        return plain + strength * self.lam * batch.sigma / 2 * hinge


@dataclass(frozen=True)
class SmoothAdv(Objective):
    """Cross-entropy under noise at an attack on the smoothed classifier (Salman et al. 2019).

    L2 PGD of steps `2 radius / steps` on `-log mean_i p_i(x')` over `copies` noises, which stay for the loss.

    **Arguments:** `radius`: of the attack. `steps`: of it. `copies`: noises.
    """

    radius: float = 0.25
    steps: int = 2
    copies: int = 2

    def of(self, batch: Batch, strength: float) -> Tensor:
        noises = batch.noises(self.copies)
        moved = batch.x + attack(batch.model, batch.x, batch.y, noises, self.radius * strength, self.steps)
        return batch.cross_entropy(batch.logits(moved, noises))


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    noises: list[Tensor],
    radius: float,
    steps: int,
    size: float | None = None,
) -> Tensor:
    """A perturbation that lowers the mean probability of `y` over fixed noises, within an L2 ball (EOT-PGD).

    **Arguments:** `noises`: one or more, of the shape of `x`. `radius`: of the ball; 0 gives zeros. `size`: of a step;
    `2 radius / steps` when left out.
    """
    if radius == 0:
        return torch.zeros_like(x)
    rule = Steepest(2 * radius / steps if size is None else size)

    def objective(u: Tensor) -> Tensor:
        mean = _under(model, x + u, noises).float().softmax(2).mean(0)
        return -mean.gather(1, y[:, None])[:, 0].clamp_min(1e-20).log()

    # Parameters need no gradients here, and batch norm must not learn from attacks.
    with frozen(model):
        found = ascend(objective, torch.zeros_like(x), L2(radius), steps=steps, rule=rule, select="last")
    return found.delta.detach()


@dataclass(frozen=True)
class SmoothMix(Objective):
    """Mixes with adversarial points, over-confident ones, answer between the two (Jeong et al. 2021).

    `x~` is `steps` unit ascents of length `size` on the smoothed loss, without a ball; `x_mix = (1 - l) x + l x~`,
    `y_mix = (1 - l) p_bar(x) + l / K`, `l ~ U(0, 1/2)`; the loss is `CE(x) + eta KL(y_mix || p_bar(x_mix))`.

    **Arguments:** `size`: of an ascent step, in L2. `steps`: of it. `eta`: weight of the mix. `copies`: noises.
    """

    size: float = 0.5
    steps: int = 4
    eta: float = 5.0
    copies: int = 2

    def of(self, batch: Batch, strength: float) -> Tensor:
        x, noises, generator = batch.x, batch.noises(self.copies), batch.generator
        # A ball that none of the steps can leave stands for no ball.
        far = x + attack(batch.model, x, batch.y, noises, self.size * self.steps, self.steps, self.size)
        logits = batch.logits(x, noises)
        answer = logits.detach().softmax(2).mean(0)
        share = 0.5 * torch.rand(len(x), 1, generator=generator, device=generator.device).to(x.device)
        target = (1 - share) * answer + share / answer.shape[1]
        wide = share.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        mixed = (1 - wide) * x + wide * far
        mean = batch.logits(mixed, noises).float().softmax(2).mean(0).clamp_min(1e-20).log()
        apart = _kl(target.clamp_min(1e-20).log(), mean).mean()
        return batch.cross_entropy(logits) + strength * self.eta * apart


OBJECTIVES: dict[str, type[Objective]] = {
    "gaussian": Gaussian,
    "stability": Stability,
    "consistency": Consistency,
    "macer": MACER,
    "smoothadv": SmoothAdv,
    "smoothmix": SmoothMix,
}
"""The objectives by name."""


def noise_like(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of the shape of `x`, drawn on the generator's device."""
    drawn = torch.randn(x.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return sigma * drawn.to(x.device, x.dtype)


def _under(model: nn.Module, x: Tensor, noises: list[Tensor]) -> Float[Tensor, "copies batch classes"]:
    """Answers to `x` under each noise, in one pass."""
    logits = first_tensor(model(torch.cat([x + noise for noise in noises])), "the model")
    return logits.unflatten(0, (len(noises), len(x)))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p || q)` a row, from logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(1)
