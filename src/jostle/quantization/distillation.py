"""Training with quantisation in the loop: straight-through gradients, ranges that follow, a teacher if there is one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.core.training import Trainer, minibatches
from jostle.quantization.network import Quantised


@dataclass(frozen=True)
class QAT:
    """How a quantised network is trained.

    SGD with momentum 0.9 and weight decay; the rate falls as a cosine. `fold_after`: share of the steps after which
    batch normalisation is folded and its statistics are frozen (0: from the start). `freeze_after`: share after which
    the ranges stand still. `temperature`, `alpha`: of distillation, with a teacher.
    """

    epochs: int = 2
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    fold_after: float = 0.0
    freeze_after: float = 0.5
    temperature: float = 6.0
    alpha: float = 0.95
    kd_reduction: Literal["batchmean", "mean"] = "batchmean"
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, but {getattr(self, name)} came")
        for name in ("fold_after", "freeze_after", "alpha"):
            require(
                0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], but {getattr(self, name)} came"
            )
        require(self.temperature > 0, f"temperature must be above 0, but {self.temperature} came")


@dataclass(frozen=True)
class Trained:
    """A row an epoch: loss and share of right answers on the training batches, and the settings."""

    rows: tuple[dict[str, float], ...]
    settings: dict[str, Any]


def distillation(
    student: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    teacher: Float[Tensor, "batch classes"],
    *,
    temperature: float = 6.0,
    alpha: float = 0.95,
    reduction: Literal["batchmean", "mean"] = "batchmean",
) -> Float[Tensor, ""]:
    """`alpha T^2 KL(softmax(t/T) || softmax(s/T)) + (1 - alpha) CE` (Hinton et al., arXiv 1503.02531).

    `reduction="mean"` divides the divergence by the number of classes too, as the paper's own code does by torch's
    default: with 1,000 classes the teacher then hardly counts. It is for replication alone.

    >>> s = torch.tensor([[1.0, 2.0]])
    >>> distillation(s, torch.tensor([0]), s, alpha=1.0).item()
    0.0
    """
    T = temperature
    log_student, log_teacher = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    if reduction == "mean":
        divergence = divergence / student.shape[1]
    return alpha * T**2 * divergence + (1 - alpha) * F.cross_entropy(student, labels)


def fit_qat(
    network: Quantised,
    images: Float[Tensor, "images channels height width"],
    labels: Int[Tensor, " images"],
    settings: QAT | None = None,
    *,
    teacher: nn.Module | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> Trained:
    """Train a quantised network with its rounding in the loop; it ends in eval mode, folded and frozen.

    The forward pass is that of the integer model, bit for bit, once batch normalisation is folded; gradients pass the
    rounding straight through.

    **Arguments:** `network`: calibrated; trained in place. `images`, `labels`: to train on. `settings`: see
    [`QAT`][jostle.quantization.QAT]. `teacher`: a network of the same classes, for distillation; not changed.
    `generator`: shuffles.
    **Returns:** what happened, epoch by epoch.
    """
    set_ = settings or QAT()
    require(
        len(images) == len(labels) > 0,
        f"images and labels must be as many, but {len(images)} and {len(labels)} came",
    )
    steps = set_.epochs * -(-len(images) // set_.batch)
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    optimiser = torch.optim.SGD(
        network.parameters(), set_.lr, momentum=set_.momentum, weight_decay=set_.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    seen: list[tuple[float, float]] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = model(x)
        if teacher is None:
            value = F.cross_entropy(logits, y)
        else:
            with torch.no_grad():
                taught = teacher(x)
            value = distillation(
                logits, y, taught,
                temperature=set_.temperature, alpha=set_.alpha, reduction=set_.kd_reduction,
            )  # fmt: skip
        seen.append((float(value.detach()), float((logits.argmax(1) == y).double().mean())))
        return value

    def after(trainer: Trainer) -> None:
        if trainer.step >= set_.fold_after * steps and not network.folded:
            network.fold_bn().train()
        if trainer.step >= set_.freeze_after * steps:
            network.freeze()
        if callback is not None:
            callback(trainer.step, steps, f"loss {trainer.last:.3f}")

    if set_.fold_after == 0:
        network.fold_bn()
    else:  # statistics of rounded layers' outputs hold what the bias was corrected for
        for name in network.program.names:
            network.layer(name).correction.zero_()
    if set_.freeze_after == 0:
        network.freeze()
    network.train()
    trainer = Trainer(network, optimiser, loss, schedule=schedule, clip=set_.clip)
    batches = minibatches(images, labels, size=set_.batch, epochs=set_.epochs, generator=draw)
    try:
        if teacher is None:
            trainer.run(batches, after)
        else:
            with frozen(teacher):
                trainer.run(batches, after)
    finally:
        network.fold_bn().freeze().eval()
    per = -(-len(images) // set_.batch)
    rows = tuple(
        {
            "epoch": e + 1.0,
            "loss": sum(row[0] for row in seen[e * per : (e + 1) * per]) / per,
            "accuracy": sum(row[1] for row in seen[e * per : (e + 1) * per]) / per,
        }
        for e in range(set_.epochs)
    )
    return Trained(rows, asdict(set_))
