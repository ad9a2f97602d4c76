"""What a data-free perturbation makes large: the response of every layer, on its own scale."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.layers import Where
from jostle.core.taps import Taps

Loss = Literal["gduap", "sum", "fff", "trm"]
Reduction = Literal["per_sample", "joint"]

# log ||a|| stays finite, and its gradient zero, where a layer is silent.
TINY = 1e-24


def log_norm(activation: Tensor, reduction: Reduction = "per_sample") -> Tensor:
    """`log ||a||_2` of a layer's output, in float32 or better (GD-UAP, eq. 3).

    **Arguments:** `activation`: `(batch, ...)`. `reduction`: `per_sample` gives `(batch,)`; `joint` the norm of
    the whole batch tensor, as the released code has it.

    >>> import torch
    >>> round(log_norm(torch.tensor([[3.0, 4.0]])).exp().item(), 4)
    5.0
    """
    a = activation.float() if activation.dtype in (torch.float16, torch.bfloat16) else activation
    return _LogNorm.apply(a[None] if reduction == "joint" else a)


class _LogNorm(torch.autograd.Function):
    """`0.5 log(sum a^2 + tiny)` of each entry of the first axis, and its gradient `a / (sum a^2 + tiny)`.

    One pass over `a` each, in the order in which it lies in memory: rows made of channels-last maps are copies.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:  # type: ignore[override]
        inner = tuple(range(1, a.ndim)) or (0,)
        square = torch.linalg.vector_norm(a, dim=inner, keepdim=True).square() + TINY
        ctx.save_for_backward(a, square)
        return 0.5 * square.log().reshape(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        a, square = ctx.saved_tensors
        return a * (grad.reshape(square.shape) / square)


def log_mean_abs(activation: Tensor, reduction: Reduction = "per_sample") -> Tensor:
    """`log mean|a|` of a layer's output (Fast Feature Fool; Mopuri, Garg & Babu 2017).

    >>> import torch
    >>> round(log_mean_abs(torch.tensor([[1.0, -3.0]])).exp().item(), 4)
    2.0
    """
    rows = activation.reshape(1, -1) if reduction == "joint" else activation.flatten(1)
    return (rows.abs().mean(1) + TINY).log()


@dataclass(frozen=True)
class Objective:
    """How loud the layers of a network answer, summed over its taps; larger is stronger.

    `gduap`: `sum_i log ||l_i(z)||_2` (GD-UAP, eq. 3): each layer is pushed to grow by the same *relative*
    amount. `sum`: `sum_i ||l_i(z)||_2`, its ablation. `fff`: `sum_i log mean|l_i(z)|`. `trm`: TRM-UAP's
    truncated ratio, `sum over the first positive share of log ||relu(a)||^2/2 - weight * sum over the first
    negative share of log ||min(a, 0)||^2/2` on raw convolution outputs.

    **Arguments:** `loss`: what of each layer is made large: the log norm (`gduap`), the norm (`sum`), the log
    mean (`fff`) or the truncated ratio (`trm`). `taps`: which layers; `None` chooses the field's default (the
    non-linearity behind each convolution, `"conv"` for `trm`, `"block"` where a network has neither).
    `reduction`: a norm `per_sample`, or one `joint` norm of the batch. `positive`: share of the layers, in
    (0, 1], whose positive parts `trm` makes large. `negative`: share of the layers, in (0, 1], whose negative
    parts `trm` makes small. `weight`: of the negative parts in `trm`, at least 0.
    """

    loss: Loss = "gduap"
    taps: Where | None = None
    reduction: Reduction = "per_sample"
    positive: float = 0.8
    negative: float = 0.7
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.loss in ("gduap", "sum", "fff", "trm"),
            f"loss must be gduap, sum, fff or trm, but {self.loss!r} came",
        )
        require(
            self.reduction in ("per_sample", "joint"),
            f"reduction must be per_sample or joint, but {self.reduction!r} came",
        )
        shares = 0 < self.positive <= 1 and 0 < self.negative <= 1
        require(
            shares, f"positive and negative must lie in (0, 1], but {self.positive} and {self.negative} came"
        )

    def attach(self, model: nn.Module) -> "Attached":
        """Listen to a model: a context manager whose value is a function of images."""
        return Attached(self, model)

    def term(self, activation: Tensor) -> Tensor:
        """What one tap adds, one a sample (`trm`: its two halves are kept apart, `(batch, 2)`)."""
        if self.loss == "gduap":
            return log_norm(activation, self.reduction)
        if self.loss == "sum":
            return log_norm(activation, self.reduction).exp()
        if self.loss == "fff":
            return log_mean_abs(activation, self.reduction)
        halves = [
            log_norm(half, self.reduction) for half in (activation.clamp_min(0), activation.clamp_max(0))
        ]
        log2 = 0.6931471805599453
        return torch.stack([2 * half - log2 for half in halves], dim=1)

    def total(self, terms: list[Tensor]) -> Tensor:
        """The objective from the terms of all taps, one a sample."""
        if self.loss != "trm":
            return torch.stack(terms).sum(0)
        first = terms[: max(1, int(self.positive * len(terms)))]
        second = terms[: max(1, int(self.negative * len(terms)))]
        up = torch.stack([term[:, 0] for term in first]).sum(0)
        return up - self.weight * torch.stack([term[:, 1] for term in second]).sum(0)


class Attached:
    """An objective that listens to a model; call it with images `(batch, C, H, W)` inside its context."""

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        self.objective, self.model = objective, model
        self._taps = Taps(model, _where(objective, model), reduce=self._reduce)
        for tap in self._taps.taps:
            layer = model.get_submodule(tap.name)
            require(
                not isinstance(layer, nn.LayerNorm | nn.RMSNorm),
                f"the tap {tap.name!r} is a {type(layer).__name__}: its output has the same norm for every input; tap "
                "'block' or the layers before it",
            )

    def __enter__(self) -> "Attached":
        self._taps.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._taps.__exit__(*error)

    def __call__(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """The objective of each image."""
        return self.objective.total(self.terms(images))

    def terms(self, images: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Each tap's term, in the order in which the layers run.

        **Raises:** `JostleError` if no tap ran.
        """
        self.model(images)
        require(bool(self._taps.values), "none of the tapped layers ran in the model's forward pass")
        return list(self._taps.values)

    @property
    def names(self) -> list[str]:
        """The taps of the last pass, in the order in which they ran."""
        return self._taps.names

    def _reduce(self, activation: Tensor) -> Any:
        return self.objective.term(activation)


def _where(objective: Objective, model: nn.Module) -> Where:
    if objective.taps is not None:
        return objective.taps
    if objective.loss == "trm":
        return "conv"
    from jostle.core.layers import find

    try:
        find(model, "activation")
    except JostleError:
        return "block"
    return "activation"


def inspect_taps(
    attached: Attached,
    images: Float[Tensor, "batch channels height width"],
    probe: Float[Tensor, "batch channels height width"],
) -> dict[str, str]:
    """Look for taps that cannot help: dead (no output at all), constant (a norm that no input changes), or cut
    off from the input's gradient.

    **Arguments:** `images`, `probe`: two inputs that differ.
    **Returns:** from a tap's name to `"dead"`, `"constant"` or `"no gradient"`; healthy taps are left out.
    """
    with torch.enable_grad():
        entry = images.detach().clone().requires_grad_()
        terms = attached.terms(entry)
        names = list(attached.names)
        lost = {
            name: "no gradient" for name, term in zip(names, terms, strict=True) if not term.requires_grad
        }
    with torch.no_grad():
        other = attached.terms(probe)
    floor = 0.5 * torch.tensor(TINY).log() + 1e-3
    for name, first, second in zip(names, terms, other, strict=True):
        if name in lost:
            continue
        if (
            bool((first <= floor).all())
            and bool((second <= floor).all())
            and attached.objective.loss == "gduap"
        ):
            lost[name] = "dead"
        elif bool(torch.isfinite(first).all()) and torch.allclose(first, second, rtol=0, atol=1e-6):
            lost[name] = "constant"
    return lost
