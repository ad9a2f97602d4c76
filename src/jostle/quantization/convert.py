"""From a quantised network to the integer model, and from a user's network to both."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.quantization.fake import ends_of, rescaling
from jostle.quantization.integer import IntegerModel, Node
from jostle.quantization.lowering import integer_layer, pooled_grid, sum_ratios
from jostle.quantization.network import QuantConfig, Quantised, prepare
from jostle.quantization.program import LAYERS, Step
from jostle.quantization.quantisers import Grid
from jostle.zoo import Images


def quantize(
    model: nn.Module,
    calibration: Tensor | Images | Iterable[Tensor],
    config: QuantConfig | None = None,
    *,
    images: int = 64,
) -> Quantised:
    """Quantise a network of yours after training: trace it, fuse it, and find the range of every activation.

    **Arguments:** `model`: takes images in [0, 1]; it is not changed. `calibration`: such images: a tensor, a
    data set of the zoo, or batches. `config`: bits, grids and rounding. `images`: how many of a tensor or data set
    are used, spread evenly.
    **Returns:** a [`Quantised`][jostle.quantization.Quantised] network, ready for `to_integer`.
    **Raises:** `JostleError` if the network has an operation without an integer form, or nothing to calibrate on.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> images = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> integers = to_integer(quantize(net, images))
    >>> bool((integers.logits(images) - net(images)).abs().max() < 0.05)
    True
    """
    batches = _batches(calibration, images, next((p.device for p in model.parameters()), torch.device("cpu")))
    require(len(batches) > 0, "calibration needs at least one image, but none came")
    return prepare(model, batches[0][:1], config).calibrate(batches)


def _batches(source: Tensor | Images | Iterable[Tensor], count: int, device: torch.device) -> list[Tensor]:
    if isinstance(source, Images):
        chosen = torch.linspace(0, len(source) - 1, min(count, len(source))).long()
        return [batch.to(device) for batch, _ in source.subset(chosen).batches(16)]
    if isinstance(source, Tensor):
        require(len(source) > 0, "calibration needs at least one image, but none came")
        chosen = torch.linspace(0, len(source) - 1, min(count, len(source))).long()
        return list(source[chosen.to(source.device)].to(device).split(16))
    return [batch.to(device) for batch in source]


@torch.no_grad()
def to_integer(network: Quantised) -> IntegerModel:
    """The integers of a quantised network: nothing real is left in what inference reads.

    **Raises:** `JostleError` if a weight is not finite, a multiplier out of range or 32 bits too few.
    """
    grids = network.grids()
    nodes = []
    for step in network.program.steps:
        sources = [grids[name] for name in step.inputs]
        grid = grids.get(step.name)
        nodes.append(_node(network, step, sources, grid))
    return IntegerModel(
        tuple(nodes), network.program.output, network.config.rounding, tuple(network.program.notes)
    )


def _node(network: Quantised, step: Step, sources: list[Grid], grid: Grid | None) -> Node:
    config = network.config
    base = Node(
        step.name,
        step.op,
        step.inputs,
        step.shape,
        lower=0 if grid is None else grid.lower,
        upper=0 if grid is None else grid.upper,
        zero=0 if grid is None else grid.zero,
        scale=0.0 if grid is None else grid.scale,
        zeros=tuple(source.zero for source in sources),
        stride=step.stride,
        padding=step.padding,
        dilation=step.dilation,
        kernel=step.kernel,
        groups=step.groups,
        index=step.index,
    )
    if grid is not None and step.op != "input":
        lower, upper = ends_of(step, grid)
        base = replace(base, lower=lower, upper=upper)
    if step.op in LAYERS:
        layer, bits = network.layer(step.name), network.weight_bits[step.name]
        weight, bias = layer.folded()
        made = integer_layer(
            step.name, weight.cpu(), (bias + layer.correction).cpu(), sources[0], grid, bits,
            per_channel=config.per_channel, multiplier=config.multiplier,
        )  # fmt: skip
        if grid is None:
            base = replace(
                base, scale=float(sources[0].scale * made.scale[0]), lower=-(2**31), upper=2**31 - 1
            )
        return replace(base, kind="layer", bits=bits, weight=made.weight, bias=made.bias, b=made.b, c=made.c)
    if step.op in ("avgpool", "requant"):
        assert grid is not None
        if step.op == "avgpool":
            _, b, c = pooled_grid(sources[0], grid, step.kernel[0] * step.kernel[1], config.multiplier)
        else:
            b, c = rescaling(sources[0], grid)
        channels = step.shape[0]
        if len(step.shape) == 1:
            base = replace(base, op="linear", weight=torch.eye(channels, dtype=torch.int64))
        else:
            base = replace(
                base,
                op="conv",
                groups=channels,
                weight=torch.ones(channels, 1, *step.kernel, dtype=torch.int64),
            )
        return replace(
            base, kind=step.op, bias=torch.zeros(channels, dtype=torch.int64),
            b=torch.full((channels,), b), c=torch.full((channels,), c),
        )  # fmt: skip
    if step.op == "add":
        assert grid is not None
        factors, shift = sum_ratios(sources, grid)
        return replace(base, b=torch.tensor(factors), c=torch.tensor(shift))
    return base
