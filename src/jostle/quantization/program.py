"""A network as a list of steps: what is left of a traced model when its layers are fused."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from jostle.quantization.folding import fold

Op = Literal[
    "input",
    "conv",
    "linear",
    "add",
    "concat",
    "maxpool",
    "avgpool",
    "clamp",
    "flatten",
    "pad",
    "requant",
    "channels",
    "upsample",
]

INF = float("inf")
LAYERS = ("conv", "linear")
PASSING = ("maxpool", "clamp", "flatten", "pad", "channels", "upsample")
"""Steps that are exact on integers: their output has the grid of their input."""


@dataclass(frozen=True)
class Step:
    """One fused operation.

    **Arguments:** `name`: of its output; for layers the dotted name of the module. `inputs`: names of steps.
    `shape`: of one sample's output. `clamp`: the activation, as the two ends of a clamp. `stride`, `dilation`,
    `kernel`: (height, width); of an upsampling its factors. `padding`: (left, right, top, bottom). `scale`, `zero`:
    of the input step, whose value is `scale (pixel - zero)` for pixels 0 to 255. `index`: which channel of the input
    each channel of the output is.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    clamp: tuple[float, float] = (-INF, INF)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1
    scale: float = 1.0
    zero: int = 0
    index: tuple[int, ...] = ()


class Layer(nn.Module):
    """The weights of a convolution or linear layer and, where one follows, of its batch normalisation.

    `correction`: what [`correct_bias`][jostle.quantization.correct_bias] adds to the bias of the rounded layer, and
    to that alone: the layer in floating point has none.
    """

    correction: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.norm: nn.BatchNorm2d | nn.BatchNorm1d | None = None
        self.register_buffer("correction", weight.new_zeros(len(weight)))

    def attach(self, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, eps: float) -> None:
        """Put a batch normalisation behind the layer."""
        kind = nn.BatchNorm2d if self.weight.ndim == 4 else nn.BatchNorm1d
        norm = kind(len(gain), eps=eps, momentum=0.01).to(self.weight.device)  # the paper's code: 0.99 old
        with torch.no_grad():
            norm.weight.copy_(gain)
            norm.bias.copy_(shift)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        self.norm = norm.eval()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the batch normalisation's running statistics folded in; differentiable."""
        norm = self.norm
        if norm is None:
            return self.weight, self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        assert norm.running_mean is not None and norm.running_var is not None
        return fold(
            self.weight, self.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
        )


@dataclass
class Program:
    """Steps in the order in which they run; the first is the input, `output` names the last.

    `notes` are sentences on what tracing had to change; `channels_last` shapes play no part here.
    """

    steps: list[Step]
    layers: dict[str, Layer]
    output: str
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def consumers(self, name: str) -> list[Step]:
        """The steps that read the output of `name`."""
        return [step for step in self.steps if name in step.inputs]

    @property
    def names(self) -> list[str]:
        """Of the layers with weights, in order."""
        return [step.name for step in self.steps if step.op in LAYERS]

    def macs(self, name: str) -> int:
        """Multiplications of a layer for one image."""
        step, weight = self[name], self.layers[name].weight
        sites = 1
        for side in step.shape[1:]:
            sites *= side
        return sites * weight.numel()

    def substitute(self, name: str, **changes: object) -> None:
        """Exchange fields of a step."""
        at = next(i for i, step in enumerate(self.steps) if step.name == name)
        self.steps[at] = replace(self.steps[at], **changes)  # type: ignore[arg-type]

    def insert_before(self, reader: str, source: str, step: Step) -> None:
        """Put `step` between `source` and `reader`."""
        at = next(i for i, other in enumerate(self.steps) if other.name == reader)
        changed = tuple(step.name if name == source else name for name in self.steps[at].inputs)
        self.steps[at] = replace(self.steps[at], inputs=changed)
        self.steps.insert(at, step)
