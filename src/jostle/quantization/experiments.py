"""What the study asks of networks for small images, each a task that a worker can do alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from jostle.core.statistics import wilson
from jostle.quantization.convert import quantize, to_integer
from jostle.quantization.costs import cost_table
from jostle.quantization.distillation import QAT, fit_qat
from jostle.quantization.engines import deploy
from jostle.quantization.integer import to_pixels
from jostle.quantization.network import QuantConfig, prepare
from jostle.quantization.networks import ResNet8
from jostle.quantization.sensitivities import Sensitivity, sensitivity
from jostle.quantization.verifying import verify_engine
from jostle.zoo import load_data, load_model


@dataclass(frozen=True, eq=False)
class Task:
    """The network that was trained in float32, and settings as in the study. `state`: its weights."""

    seed: int
    device: str
    digits: str
    width: int
    qat_epochs: int
    low_bits: int
    probes: int
    channels: int = 1
    classes: int = 10
    state: Mapping[str, Tensor] | None = field(default=None, repr=False)

    @property
    def low(self) -> str:
        """The name of few bits."""
        return f"W{self.low_bits}A{self.low_bits}"

    @property
    def few(self) -> QuantConfig:
        """The settings of few bits."""
        return QuantConfig(weight_bits=self.low_bits, act_bits=self.low_bits)

    def network(self) -> nn.Module:
        """With the weights of `state`, or fresh ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = ResNet8(self.channels, self.classes, self.width)
        if self.state is not None:
            model.load_state_dict(dict(self.state))
        return model.to(self.device).eval()

    def images(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Images and labels to train on, a fifth that is held out, and the number of classes."""
        return images(self.digits, self.device, self.seed)


@lru_cache(maxsize=1)
def images(name: str, device: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Of a data set, shuffled; in every process once."""
    data = load_data(name)
    x, y = data.tensors()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].to(device), y[order].to(device)
    held = len(x) // 5
    return x[held:], y[held:], x[:held], y[:held], len(data.classes)


def accuracy(model: Any, images: Tensor, labels: Tensor) -> tuple[float, tuple[float, float]]:
    """Percent, and Wilson's interval."""
    with torch.no_grad():
        hits = sum(
            int((model(b).argmax(1) == t).sum())
            for b, t in zip(images.split(100), labels.split(100), strict=True)
        )
    low, high = wilson(hits, len(images))
    return 100 * hits / len(images), (100 * low, 100 * high)


def rounded(task: Task) -> dict[str, tuple[float, tuple[float, float]]]:
    """Accuracy in float32, and rounded without any training."""
    x, _, held, truth, _ = task.images()
    model = task.network()
    settings = {"W8A8": QuantConfig(), "W4A4": QuantConfig(weight_bits=4, act_bits=4), task.low: task.few}
    found = {"float32": accuracy(model, held, truth)}
    return found | {name: accuracy(quantize(model, x, one), held, truth) for name, one in settings.items()}


def trained(task: Task, distilled: bool, seed: int) -> dict[str, Any]:
    """Training with rounding in the loop, with the float32 network as teacher or without: accuracy, `rows`, the
    weights, and how many elements differ from integers in the network itself and in the engine."""
    x, y, held, truth, _ = task.images()
    model = task.network()
    network = quantize(model, x, task.few)
    record = fit_qat(
        network, x, y, QAT(epochs=task.qat_epochs, lr=0.003 if distilled else 0.03),
        teacher=model if distilled else None, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    integers, few_held = to_integer(network), held[:32]
    pixels = to_pixels(few_held).cpu()
    codes, wanted = network.codes(few_held), integers.tensors(pixels)
    checked = verify_engine(integers, deploy(integers), pixels)
    return {
        "accuracy": accuracy(network, held, truth),
        "rows": record.rows,
        "forward_mismatches": sum(
            int((codes[n].detach().cpu().long() != t).sum()) for n, t in wanted.items()
        ),
        "mismatches": sum(checked.mismatches.values()) + checked.deployed,
        "elements": sum(checked.elements.values()),
        "state": {k: v.detach().cpu() for k, v in network.state_dict().items()},
    }


def curvature(task: Task, method: Literal["hessian", "fisher"], seed: int) -> dict[str, Any]:
    """Traces of the trained network by one method, with their standard errors."""
    x, y, *_ = task.images()
    found = sensitivity(
        quantize(task.network(), x), x[:128], y[:128], method=method, bits=(task.low_bits, 8), probes=task.probes,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return table(found)


def table(found: Sensitivity) -> dict[str, Any]:
    """Of what a figure shows."""
    return {
        "layers": list(found.layers),
        "omega": found.omega[:, 0].tolist(),
        "sem": found.omega_sem[:, 0].tolist(),
        "doubtful": list(found.doubtful),
        "samples": found.samples,
    }


def counts(name: str) -> dict[str, dict[str, float]]:
    """Size and bit operations of one of torchvision's; random weights have the same ones."""
    model = load_model(f"torchvision:{name}")
    for block in model.modules():
        if isinstance(block, Bottleneck):
            # The paper's ResNet50 (pytorchcv's) has its strides in the first 1x1 layers, torchvision's in the 3x3 ones.
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    network = prepare(model, torch.zeros(1, 3, 224, 224))
    costs = cost_table(network)
    ends = [0, len(costs.layers) - 1]

    def mixed(kind: str) -> float:
        table = costs.table(kind)
        return float(table[:, 0].sum() + (table[ends, 1] - table[ends, 0]).sum())

    return {
        "float": {"size": sum(costs.params) * 4 / 2**20, "bops": sum(costs.macs) * 1024 / 1e9},
        "8": {"size": float(costs.size[:, 1].sum()), "bops": float(costs.bops[:, 1].sum())},
        "4": {"size": mixed("size"), "bops": mixed("bops")},
    }
