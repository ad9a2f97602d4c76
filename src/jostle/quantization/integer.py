"""The integer model: codes, shifts and integer weights; run in 64 bits, nothing else, as the reference."""

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from jostle.core.errors import JostleError, require
from jostle.files import whole
from jostle.quantization.dyadic import Rounding, dyadic, shifted

FORMAT = 1
TENSORS = ("weight", "bias", "b", "c")


@dataclass(frozen=True)
class Node:
    """One integer operation; `conv` also does averages and rescalings, with weights of ones.

    conv, linear: `clamp(DN(b/2^c) (sum (q_x - z_x) weight + bias) + zero, lower, upper)`; without `b` the
    accumulator is the output. add: `clamp(rounded(((q_1 - z_1) b_1 + (q_2 - z_2) b_2) / 2^c + zero), ...)`: the
    zero point is in the sum before it is rounded, as in the engines, which decides ties. maxpool pads with what
    never wins, conv and pad with the zero point of the input. clamp, concat, flatten: as their names say. channels:
    those of the input that `index` names. upsample: every code `kernel` times.
    `scale`: of the output's codes; metadata, which inference never reads.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    lower: int
    upper: int
    zero: int
    scale: float
    zeros: tuple[int, ...] = ()
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1
    index: tuple[int, ...] = ()
    bits: int = 8
    kind: str = ""
    weight: Tensor | None = None
    bias: Tensor | None = None
    b: Tensor | None = None
    c: Tensor | None = None


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """A network of integers: multiply, add, shift, compare, and nothing else.

    Made by [`to_integer`][jostle.quantization.to_integer]. `run` is the reference: 64-bit integers throughout, and
    it refuses any other. Engines must equal it on every tensor ([`verify`][jostle.quantization.verify]).
    """

    suffix: ClassVar[str] = ".npz"

    nodes: tuple[Node, ...]
    output: str
    rounding: Rounding = "half_even"
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise JostleError(f"the integer model has no tensor {name!r}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return self.nodes[0].shape

    def run(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Int[Tensor, "batch ..."]:
        """The output's codes (of a classifier: 32-bit logits) for images of 8 bits, by the 64-bit reference."""
        return self.tensors(pixels)[self.output]

    def tensors(self, pixels: UInt8[Tensor, "batch channels height width"]) -> dict[str, Int[Tensor, "..."]]:
        """Every tensor that the reference computes, int64."""
        return walk(self, pixels, reference_step)

    def logits(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch ..."]:
        """The output as real numbers, for images in [0, 1], which are rounded to 8 bits."""
        return self.real(self.run(to_pixels(images)))

    def real(self, codes: Int[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The output's codes as real numbers: `scale (q - zero)`."""
        node = self[self.output]
        return (node.scale * (codes.double() - node.zero)).float()

    def numbers(self) -> dict[str, Any]:
        """What there is to say about the model."""
        weights = [node for node in self.nodes if node.kind == "layer"]
        size = sum(node.weight.numel() * node.bits for node in weights if node.weight is not None) / 8 / 2**20
        counts = {
            f"{bits} bit layers": sum(n.bits == bits for n in weights) for bits in {n.bits for n in weights}
        }
        return {"layers": len(weights), "weights MiB": size, **counts, "rounding": self.rounding}

    def save(self, path: Path) -> None:
        """Write integers and the graph as .npz: arrays of the fewest bits that numpy has, and JSON."""
        arrays: dict[str, np.ndarray] = {}
        rows = []
        for i, node in enumerate(self.nodes):
            row = {k: v for k, v in asdict(node).items() if k not in TENSORS}
            for key in TENSORS:
                tensor = getattr(node, key)
                if tensor is not None:
                    kind = {"weight": np.int8, "c": np.int8}.get(key, np.int32)
                    arrays[f"{i}.{key}"] = tensor.cpu().numpy().astype(kind)
            rows.append(row)
        head = {"format": FORMAT, "output": self.output, "rounding": self.rounding, "notes": list(self.notes)}
        text = json.dumps({**head, "nodes": rows}, sort_keys=True)
        with whole(Path(path)) as draft, draft.open("wb") as handle:
            np.savez(handle, graph=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "IntegerModel":
        """Read what `save` wrote.

        **Raises:** `JostleError` if the file is absent or is something else.
        """
        path = Path(path)
        require(
            not path.is_file() or zipfile.is_zipfile(path),
            f"{path} is not an integer model that save() wrote: it is no .npz archive",
        )
        try:
            # numpy leaves a file open that is no archive.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as kept:
                record = json.loads(kept["graph"].tobytes())
                require(
                    record["format"] == FORMAT,
                    f"{path} has format {record['format']}, but {FORMAT} is wanted",
                )
                kinds = {field.name for field in fields(Node)}
                nodes = []
                for i, row in enumerate(record["nodes"]):
                    made: dict[str, Any] = {
                        k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in kinds
                    }
                    for key in TENSORS:
                        if f"{i}.{key}" in kept:
                            made[key] = torch.from_numpy(kept[f"{i}.{key}"].astype(np.int64))
                    nodes.append(Node(**made))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            if isinstance(error, JostleError):
                raise
            raise JostleError(f"{path} is not an integer model that save() wrote: {error}") from error
        return cls(tuple(nodes), record["output"], record["rounding"], tuple(record["notes"]))


Walker = Callable[[IntegerModel, Node, list[Tensor]], Tensor]


def to_pixels(
    images: Float[Tensor, "batch channels height width"],
) -> UInt8[Tensor, "batch channels height width"]:
    """Images in [0, 1] as 8-bit pixels, `rne(255 x)`.

    **Raises:** `JostleError` if values lie outside of [0, 1] or are not finite.
    """
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    require(
        low >= -1e-6 and high <= 1 + 1e-6,
        f"images must lie in [0, 1], but values from {low:.3g} to {high:.3g} came",
    )
    return (255 * images.detach()).round().clamp(0, 255).to(torch.uint8)


def check_pixels(model: IntegerModel, pixels: Tensor) -> None:
    """Refuse what is not a batch of the model's images in 8 bits."""
    require(
        pixels.dtype == torch.uint8 and tuple(pixels.shape[1:]) == model.input_shape,
        f"pixels must be uint8 of shape (batch, {', '.join(map(str, model.input_shape))}), but {pixels.dtype} of shape "
        f"{tuple(pixels.shape)} came",
    )


def walk(model: IntegerModel, pixels: Tensor, step: Walker) -> dict[str, Tensor]:
    """Run all nodes in order with `step`, from 8-bit pixels."""
    check_pixels(model, pixels)
    entry = model.nodes[0]
    values: dict[str, Tensor] = {entry.name: pixels.long() + entry.lower}
    for node in model.nodes[1:]:
        values[node.name] = step(model, node, [values[name] for name in node.inputs])
    return values


def reference_step(model: IntegerModel, node: Node, inputs: list[Tensor]) -> Tensor:
    """One node in 64-bit integers.

    **Raises:** `JostleError` if anything else than int64 flows, or an accumulator leaves 32 bits.
    """
    for tensor in (*inputs, *(getattr(node, key) for key in TENSORS)):
        require(
            tensor is None or tensor.dtype == torch.int64,
            f"the reference computes in int64 only, but {getattr(tensor, 'dtype', None)} came at {node.name!r}",
        )
    x = inputs[0]
    if node.op in ("conv", "linear"):
        assert node.weight is not None
        if node.op == "linear":
            acc = (x - node.zeros[0]) @ node.weight.T
        else:
            padded = F.pad(x, node.padding, value=node.zeros[0]) - node.zeros[0]
            acc = F.conv2d(padded, node.weight, None, node.stride, 0, node.dilation, node.groups)
        return requantise(node, acc, model.rounding, check=True)
    if node.op == "add":
        return add(node, inputs, model.rounding)
    return moves(node, inputs)


def requantise(node: Node, acc: Tensor, rounding: Rounding, *, check: bool = False) -> Tensor:
    """Bias, dyadic multiply, zero point and clamp of an accumulator, in 64 bits."""
    shape = (-1, 1, 1) if acc.ndim == 4 else (-1,)
    acc = acc.long()
    if node.bias is not None:
        acc = acc + node.bias.reshape(shape)
    if check:
        fits = bool((acc >= -(2**31)).all()) and bool((acc < 2**31).all())
        require(fits, f"the accumulator of {node.name!r} leaves 32 bits")
    if node.b is None or node.c is None:
        return acc
    return (dyadic(acc, node.b.reshape(shape), node.c.reshape(shape), rounding) + node.zero).clamp(
        node.lower, node.upper
    )


def add(node: Node, inputs: list[Tensor], rounding: Rounding) -> Tensor:
    """A sum of two grids, rounded once."""
    assert node.b is not None and node.c is not None
    b1, b2 = (int(value) for value in node.b)
    total = (inputs[0].long() - node.zeros[0]) * b1 + (inputs[1].long() - node.zeros[1]) * b2
    shift = node.c.to(total.device)
    return shifted(total + (node.zero << shift), shift, rounding).clamp(node.lower, node.upper)


def moves(node: Node, inputs: list[Tensor]) -> Tensor:
    """Operations that only move or compare codes."""
    x = inputs[0]
    if node.op == "concat":
        return torch.cat(inputs, 1)
    if node.op == "flatten":
        return x.flatten(1)
    if node.op == "channels":
        return x[:, list(node.index)]
    if node.op == "upsample":
        return x.repeat_interleave(node.kernel[0], 2).repeat_interleave(node.kernel[1], 3)
    if node.op == "clamp":
        return x.clamp(node.lower, node.upper)
    if node.op == "pad":
        return F.pad(x, node.padding, value=node.zeros[0])
    assert node.op == "maxpool", node.op
    padded = F.pad(x, node.padding, value=-(2**15))
    (high, wide), (down, right), (dy, dx) = node.kernel, node.stride, node.dilation
    out: Tensor | None = None
    for i in range(high):
        for j in range(wide):
            rows, cols = node.shape[1:]
            part = padded[:, :, i * dy : i * dy + (rows - 1) * down + 1 : down]
            part = part[:, :, :, j * dx : j * dx + (cols - 1) * right + 1 : right]
            out = part if out is None else torch.maximum(out, part)
    assert out is not None
    return out
