"""A network that is being quantised: it runs in floating point to be calibrated, and as integers to be trained."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.quantization.dyadic import ROUNDINGS, Rounding
from jostle.quantization.fake import convolve, fake_layer, fake_sum, unfolded_layer, window_sum
from jostle.quantization.lowering import pooled_grid
from jostle.quantization.program import INF, LAYERS, PASSING, Layer, Program, Step
from jostle.quantization.quantisers import Calibration, Grid, Mode, Range
from jostle.quantization.rewriting import join_concats, widen_residuals
from jostle.quantization.tracing import trace

Multiplier = Literal["snapped16", "dyadic31"]


@dataclass(frozen=True)
class QuantConfig:
    """How a network is quantised.

    **Arguments:** `weight_bits`, `act_bits`: 2 to 8, where nothing else is said. `residual_bits`: of the sums of
    residual networks; 16 runs in the reference and on the torch engine only. `per_channel`: a scale an output
    channel (the classifier has one for all). `act_mode`, `calibration`: see
    [`quantisers`][jostle.quantization.Grid]. `rounding`, `multiplier`: see
    [`dyadic`][jostle.quantization.dyadic]; engines in floating point are exact with `half_even` and `snapped16`.
    `momentum`: of the moving ranges. `ste`: whether gradients pass where activations are cut.
    """

    weight_bits: int = 8
    act_bits: int = 8
    residual_bits: Literal[8, 16] = 8
    per_channel: bool = True
    act_mode: Mode = "unsigned"
    rounding: Rounding = "half_even"
    multiplier: Multiplier = "snapped16"
    calibration: Calibration = "minmax"
    momentum: float = 0.99
    ste: Literal["clipped", "identity"] = "clipped"

    def __post_init__(self) -> None:
        for name in ("weight_bits", "act_bits"):
            value = getattr(self, name)
            require(2 <= value <= 8, f"{name} must lie in 2 to 8, but {value} came")
        require(
            self.residual_bits in (8, 16), f"residual_bits must be 8 or 16, but {self.residual_bits} came"
        )
        require(
            self.rounding in ROUNDINGS,
            f"rounding must be one of {', '.join(ROUNDINGS)}, but {self.rounding!r} came",
        )
        require(
            self.multiplier in ("snapped16", "dyadic31"),
            f"multiplier must be snapped16 or dyadic31, but {self.multiplier!r} came",
        )
        require(
            self.ste in ("clipped", "identity"), f"ste must be clipped or identity, but {self.ste!r} came"
        )


class Quantised(nn.Module):
    """A traced network with a grid for each activation and bits for each layer.

    Made by [`prepare`][jostle.quantization.prepare] or [`quantize`][jostle.quantization.quantize]. Called on
    images in [0, 1] it runs as integers (rounded to pixels first) and returns logits in floating point, bit for
    bit those of the integer model that [`to_integer`][jostle.quantization.to_integer] makes of it. Gradients pass
    the rounding straight through. In `train()` mode ranges follow the batches until `freeze()`, and batch
    normalisation works on batches until `fold_bn()`.

    **Attributes:** `program`: the steps. `weight_bits`, `act_bits`: by layer; change them with `set_bits`.
    """

    low: Tensor
    high: Tensor

    def __init__(self, program: Program, config: QuantConfig):
        super().__init__()
        self.program, self.config = program, config
        if config.residual_bits > 8:
            widen_residuals(program)
        self.tied = join_concats(program)
        # Modules' names may not hold dots.
        self.layers = nn.ModuleDict({_key(name): layer for name, layer in program.layers.items()})
        self.weight_bits = dict.fromkeys(program.names, config.weight_bits)
        self.act_bits = dict.fromkeys(program.names, config.act_bits)
        self.ranged = [
            s.name for s in program.steps if s.op not in ("input", *PASSING) and s.name not in self.tied
        ]
        self.register_buffer("low", torch.full((len(self.ranged),), float("nan"), dtype=torch.float64))
        self.register_buffer("high", torch.full((len(self.ranged),), float("nan"), dtype=torch.float64))
        self.folded = False
        self.frozen = False
        self.eval()

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        return self.layers[_key(name)]  # type: ignore[return-value]

    def set_bits(self, bits: Mapping[str, int | tuple[int, int]]) -> "Quantised":
        """Give layers bits: of the weights, or of weights and of the activation that feeds the layer.

        Where several layers read one activation, it gets the most bits of them. A correction of the bias was made
        for the bits that were, and goes.

        **Raises:** `JostleError` if there is no such layer, or bits lie outside of 2 to 8.
        """
        for name, value in bits.items():
            require(
                name in self.weight_bits,
                f"the network has no layer {name!r}; its layers are {', '.join(list(self.weight_bits)[:6])}, ...",
            )
            weight, act = value if isinstance(value, tuple) else (value, self.act_bits[name])
            require(
                2 <= weight <= 8 and 2 <= act <= 8, f"bits must lie in 2 to 8, but {value} came for {name!r}"
            )
            if weight != self.weight_bits[name]:
                self.layer(name).correction.zero_()
            self.weight_bits[name], self.act_bits[name] = weight, act
        return self

    def freeze(self) -> "Quantised":
        """Leave the ranges as they are from now on."""
        self.frozen = True
        return self

    def fold_bn(self) -> "Quantised":
        """Train with batch normalisation folded into the weights, its statistics as they are now."""
        self.folded = True
        return self

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Float[Tensor, "_ channels height width"]]) -> "Quantised":
        """Find the ranges of all activations from images, in floating point.

        **Raises:** `JostleError` if no image came, or an activation holds NaN or infinity.
        """
        seen = {
            name: Range(self.config.calibration, bits=self._bits(name), momentum=self.config.momentum)
            for name in self.ranged
        }
        count = 0
        for images in batches:
            count += len(images)
            for name, value in self.activations(images).items():
                if name in seen:
                    require(
                        bool(value.isfinite().all()),
                        f"the output of {name!r} holds NaN or infinity on the calibration images",
                    )
                    seen[name].see(value)
        require(count > 0, "calibration needs at least one image, but none came")
        for i, name in enumerate(self.ranged):
            self.low[i], self.high[i] = seen[name].low, seen[name].high
        constant = [name for name in self.ranged if seen[name].low == seen[name].high == 0]
        if constant:
            warnings.warn(
                f"{len(constant)} activations are 0 on all calibration images ({constant[0]!r} first)",
                stacklevel=2,
            )
        return self

    def activations(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """The outputs of all steps in floating point, with batch normalisation folded."""
        values: dict[str, Tensor] = {}
        for step in self.program.steps:
            inputs = [values[name] for name in step.inputs]
            values[step.name] = self._float_step(step, inputs, images)
        return values

    def float_forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The network's output without any quantisation."""
        return self.activations(images)[self.program.output]

    def _float_step(self, step: Step, inputs: list[Tensor], images: Tensor) -> Tensor:
        if step.op == "input":
            return step.scale * (255 * images - step.zero)
        if step.op in LAYERS:
            weight, bias = self.layer(step.name).folded()
            out = convolve(step, inputs[0], weight, bias)
        elif step.op == "add":
            out = inputs[0] + inputs[1]
        elif step.op == "avgpool":
            area = step.kernel[0] * step.kernel[1]
            out = window_sum(F.pad(inputs[0], step.padding), step) / area
        elif step.op == "requant":
            out = inputs[0]
        else:
            return passing(step, inputs, 0.0, -INF)
        return out if step.clamp == (-INF, INF) else out.clamp(*step.clamp)

    def grids(self) -> dict[str, Grid]:
        """The grid of every step's output, from the ranges and bits as they are now.

        The output of a last linear layer has none: it stays in 32 bits.

        **Raises:** `JostleError` if the network was not calibrated.
        """
        require(
            not bool(self.low.isnan().any()),
            "the network has no ranges yet; call calibrate with images first",
        )
        found: dict[str, Grid] = {}
        at = {name: i for i, name in enumerate(self.ranged)}
        lows, highs = self.low.tolist(), self.high.tolist()
        for step in self.program.steps:
            if step.op == "input":
                signed = self.config.act_mode == "symmetric"
                found[step.name] = Grid(
                    step.scale, step.zero - 128 * signed, -128 * signed, 255 - 128 * signed
                )
            elif step.op in PASSING:
                found[step.name] = found[step.inputs[0]]
            elif not self.last(step):
                grid = self._tied_grid(step, at, lows, highs)
                if step.op == "avgpool":
                    area = step.kernel[0] * step.kernel[1]
                    grid, _, _ = pooled_grid(found[step.inputs[0]], grid, area, self.config.multiplier)
                found[step.name] = grid
        return found

    def last(self, step: Step) -> bool:
        """Whether the step is the linear layer that ends the network."""
        return step.op == "linear" and step.name == self.program.output

    def _tied_grid(self, step: Step, at: dict[str, int], lows: list[float], highs: list[float]) -> Grid:
        name = step.name
        while name in self.tied:
            name = self.tied[name]
        low, high = lows[at[name]], highs[at[name]]
        if low == high == 0:
            low, high = 0.0, 1.0  # all zero: any scale is exact
        bits = self._bits(name)
        if bits > 8:
            return Grid.symmetric(max(-low, high), bits)
        return Grid.around(low, high, bits, self.config.act_mode)

    def _bits(self, name: str) -> int:
        """Of an activation: those of the layers that read it, 8 where others read it too."""
        step = self.program[name]
        if self.config.residual_bits > 8 and self._in_stream(step):
            return self.config.residual_bits
        bits = [0]
        for reader in self.program.consumers(name):
            if reader.op in LAYERS:
                bits.append(self.act_bits[reader.name])
            elif reader.op in PASSING or reader.op == "concat":
                bits.append(self._bits(reader.name))
            else:
                bits.append(8)
        return max(bits) or 8

    def _in_stream(self, step: Step) -> bool:
        """Whether a tensor is part of a residual stream: a sum, or what a layer makes for a sum alone."""
        readers = self.program.consumers(step.name)
        feeds = step.op == "conv" and bool(readers) and all(r.op == "add" for r in readers)
        return step.op == "add" or feeds

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Logits of images in [0, 1], computed on integers."""
        codes = self.codes(images)
        output = self.program.output
        return (self.output_scale * (codes[output].double() - self.output_zero)).to(images.dtype)

    def codes(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """The integers of every step's output, in floating point tensors that carry gradients."""
        follow = self.training and not self.frozen
        if follow:
            self._follow(images)
        grids = self.grids()
        values: dict[str, Tensor] = {}
        cfg = self.config
        for step in self.program.steps:
            inputs = [values[name] for name in step.inputs]
            grid = grids.get(step.name)
            if step.op == "input":
                assert grid is not None
                # What the rounding to pixels does to images that are none has the gradient of the identity.
                pixels = 255 * images
                values[step.name] = pixels + (pixels.round().clamp(0, 255) - pixels).detach() + grid.lower
            elif step.op in PASSING:
                assert grid is not None
                values[step.name] = passing(step, inputs, grid.zero, grid.lower, grid)
            elif step.op == "concat":
                values[step.name] = torch.cat(inputs, 1)
            elif step.op == "add":
                assert grid is not None
                sources = [grids[name] for name in step.inputs]
                values[step.name] = fake_sum(step, inputs, sources, grid, cfg)
            else:
                layer = self.layer(step.name) if step.op in LAYERS else None
                source = grids[step.inputs[0]]
                bits = self.weight_bits.get(step.name, 8)
                if (
                    self.training
                    and not self.folded
                    and layer is not None
                    and layer.norm is not None
                    and grid
                ):
                    values[step.name] = unfolded_layer(step, inputs[0], layer, source, grid, bits, cfg)
                else:
                    values[step.name], scale = fake_layer(step, inputs[0], layer, source, grid, bits, cfg)
                    if grid is None:
                        self.output_scale, self.output_zero = scale, 0
        if self.program.output in grids:
            self.output_scale = grids[self.program.output].scale
            self.output_zero = grids[self.program.output].zero
        return values

    @torch.no_grad()
    def _follow(self, images: Tensor) -> None:
        m = self.config.momentum
        with frozen(self):
            seen = self.activations(images)
        for i, name in enumerate(self.ranged):
            low, high = (value.double() for value in torch.aminmax(seen[name]))
            self.low[i] = torch.where(self.low[i].isnan(), low, m * self.low[i] + (1 - m) * low)
            self.high[i] = torch.where(self.high[i].isnan(), high, m * self.high[i] + (1 - m) * high)

    def train(self, mode: bool = True) -> "Quantised":
        """As of any module; folded batch normalisation stays in eval mode."""
        super().train(mode)
        if self.folded:
            for layer in self.program.layers.values():
                if layer.norm is not None:
                    layer.norm.eval()
        return self


def prepare(model: nn.Module, example: Tensor, config: QuantConfig | None = None) -> Quantised:
    """Trace a network of yours and give it grids, without ranges yet; the model itself is not changed.

    **Arguments:** `model`: takes images in [0, 1]. `example`: a batch of the size it will see. `config`: how.
    **Raises:** `JostleError` as [`trace`][jostle.quantization.trace] does.

    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    >>> images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> prepare(net, images).calibrate([images])(images).shape
    torch.Size([4, 2])
    """
    return Quantised(trace(model, example), config or QuantConfig()).to(example.device)


def passing(step: Step, inputs: list[Tensor], zero: float, lowest: float, grid: Grid | None = None) -> Tensor:
    """Steps that are the same on integers and real numbers; `zero` and `lowest` are what padding is made of."""
    x = inputs[0]
    if step.op == "flatten":
        return x.flatten(1)
    if step.op == "channels":
        return x[:, list(step.index)]
    if step.op == "upsample":
        return x.repeat_interleave(step.kernel[0], 2).repeat_interleave(step.kernel[1], 3)
    if step.op == "concat":
        return torch.cat(inputs, 1)
    if step.op == "pad":
        return F.pad(x, step.padding, value=zero)
    if step.op == "clamp":
        ends = step.clamp if grid is None else (grid.code(step.clamp[0]), grid.code(step.clamp[1]))
        return x.clamp(*ends)
    padded = F.pad(x, step.padding, value=lowest) if any(step.padding) else x
    return F.max_pool2d(padded, step.kernel, step.stride, 0, step.dilation)


def _key(name: str) -> str:
    return name.replace(".", "/")
