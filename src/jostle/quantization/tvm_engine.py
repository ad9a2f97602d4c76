"""The integer model compiled by Apache TVM: one tensor expression a node, in integers alone."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from jostle.core.errors import optional
from jostle.quantization.engines import Deployed
from jostle.quantization.integer import IntegerModel, Node


# TVM reads the names of an expression's arguments: lambdas have them whatever decorates the functions they call.
class Tvm(Deployed):
    """An integer model in Apache TVM (extra `tvm`), the engine that the paper deploys on.

    Relax calls one function a node, written as tensor expressions and compiled by LLVM for this machine with TVM's
    default schedules: 64-bit requantising as in the reference, any rounding, any multiplier, streams of 16 bits.
    Weights of up to 4 bits lie two to a byte. It is exact and not fast: the default schedules use no VNNI.

    **Attributes:** `packed_bytes`: of all weights as they are stored.
    """

    name = "tvm"

    def __init__(self, model: IntegerModel):
        self.model = model
        self.tvm = optional("tvm", "tvm")
        self.relax = optional("tvm.relax", "tvm")
        self.te = optional("tvm.te", "tvm")
        self.tir = optional("tvm.tirx", "tvm")
        self.packed_bytes = 0
        self._machines: dict[bool, Any] = {}

    def run(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Int[Tensor, "batch ..."]:
        """The output's codes, an image at a time."""
        return torch.cat([self._call(False, image)[self.model.output] for image in pixels.split(1)])

    def tensors(self, pixels: UInt8[Tensor, "batch channels height width"]) -> dict[str, Int[Tensor, "..."]]:
        """Every tensor."""
        found = [self._call(True, image) for image in pixels.split(1)]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _call(self, everything: bool, image: Tensor) -> dict[str, Tensor]:
        if everything not in self._machines:
            self._machines[everything] = self._compile(everything)
        entry = self.model.nodes[0]
        codes = (image.cpu().short() + entry.lower).numpy().astype(_kind(entry))
        found = self._machines[everything]["main"](self.tvm.runtime.tensor(codes))
        names = [node.name for node in self.model.nodes[1:]] if everything else [self.model.output]
        outputs = list(found) if everything else [found]
        made = {
            name: torch.from_numpy(value.numpy().copy()).long()
            for name, value in zip(names, outputs, strict=True)
        }
        return {entry.name: image.long().cpu() + entry.lower, **made} if everything else made

    def _compile(self, everything: bool) -> Any:
        relax = self.relax
        self.packed_bytes = 0
        build = relax.BlockBuilder()
        entry = self.model.nodes[0]
        source = relax.Var("codes", relax.TensorType((1, *entry.shape), _kind(entry)))
        with build.function("main", [source]):
            with build.dataflow():
                values = {entry.name: source}
                for node in self.model.nodes[1:]:
                    inputs = [values[name] for name in node.inputs]
                    values[node.name] = build.emit_te(self._expression(node), *inputs, *self._constants(node))
                names = [node.name for node in self.model.nodes[1:]]
                wanted = relax.Tuple([values[n] for n in names]) if everything else values[self.model.output]
                result = build.emit_output(wanted)
            build.emit_func_output(result)
        executable = self.tvm.compile(build.get(), target="llvm")
        return relax.VirtualMachine(executable, self.tvm.cpu())

    def _constants(self, node: Node) -> list[Any]:
        arrays = []
        if node.weight is not None:
            weight = node.weight.numpy()
            stored = pack(weight) if _packed(node) else weight.astype(np.int8).reshape(-1)
            self.packed_bytes += stored.nbytes if node.kind == "layer" else 0
            arrays.append(stored)
            assert node.bias is not None
            arrays.append(node.bias.numpy().astype(np.int32))
            if node.b is not None and node.c is not None:
                arrays += [node.b.numpy().astype(np.int64), node.c.numpy().astype(np.int64)]
        if node.op == "channels":
            arrays.append(np.array(node.index, dtype=np.int32))
        return [self.relax.const(array) for array in arrays]

    def _expression(self, node: Node) -> Any:
        make = {
            "conv": self._conv, "linear": self._linear, "add": self._add, "concat": self._concat,
            "flatten": self._flatten, "clamp": self._clamp, "pad": self._pad, "maxpool": self._maxpool,
            "channels": self._channels, "upsample": self._upsample,
        }[node.op]  # fmt: skip
        return lambda *tensors: make(node, *tensors)

    def _weight(self, node: Node, stored: Any, at: Any) -> Any:
        """A weight as a 32-bit integer, from its place in the flat array; of a half byte, if they are packed."""
        if not _packed(node):
            return stored[at].astype("int32")
        half = (stored[at // 2].astype("int32") >> (4 * (at % 2))) & 15
        return (half ^ 8) - 8

    def _padded(self, x: Any, node: Node, value: int) -> Any:
        """The input in 32 bits with `value` around it."""
        left, right, top, bottom = node.padding
        batch, channels, high, wide = (int(side) for side in x.shape)
        shape = (batch, channels, high + top + bottom, wide + left + right)

        def at(n: Any, c: Any, i: Any, j: Any) -> Any:
            code = x[
                n,
                c,
                self.te.max(0, self.te.min(i - top, high - 1)),
                self.te.max(0, self.te.min(j - left, wide - 1)),
            ]
            inside = self.tir.all(i >= top, i < top + high, j >= left, j < left + wide)
            return self.tir.Select(inside, code.astype("int32"), self.tir.const(value, "int32"))

        return (
            self.te.compute(shape, lambda n, c, i, j: at(n, c, i, j), name="padded")
            if any(node.padding)
            else self._wide(x)
        )

    def _wide(self, x: Any) -> Any:
        return self.te.compute(x.shape, lambda *i: x[i].astype("int32"), name="wide")

    def _conv(self, node: Node, x: Any, stored: Any, bias: Any, b: Any, c: Any) -> Any:
        assert node.weight is not None
        te, zero = self.te, node.zeros[0]
        outer, inner, rows, cols = node.weight.shape
        per = outer // node.groups
        padded = self._padded(x, node, zero)
        k, u, v = te.reduce_axis((0, inner)), te.reduce_axis((0, rows)), te.reduce_axis((0, cols))
        (down, right), (dy, dx) = node.stride, node.dilation

        def product(n: Any, o: Any, i: Any, j: Any) -> Any:
            code = padded[n, (o // per) * inner + k, i * down + u * dy, j * right + v * dx]
            weight = self._weight(node, stored, ((o * inner + k) * rows + u) * cols + v)
            return te.sum((code - zero) * weight, axis=[k, u, v])

        acc = te.compute((1, *node.shape), lambda n, o, i, j: product(n, o, i, j), name="acc")
        return te.compute(
            (1, *node.shape),
            lambda n, o, i, j: self._requantised(node, acc[n, o, i, j] + bias[o], b[o], c[o]),
            name="out",
        )

    def _linear(self, node: Node, x: Any, stored: Any, bias: Any, b: Any = None, c: Any = None) -> Any:
        assert node.weight is not None
        te, zero, inner = self.te, node.zeros[0], node.weight.shape[1]
        k = te.reduce_axis((0, inner))
        acc = te.compute(
            (1, *node.shape),
            lambda n, o: te.sum(
                (x[n, k].astype("int32") - zero) * self._weight(node, stored, o * inner + k), axis=k
            ),
            name="acc",
        )
        if b is None:
            return te.compute((1, *node.shape), lambda n, o: acc[n, o] + bias[o], name="out")
        return te.compute(
            (1, *node.shape),
            lambda n, o: self._requantised(node, acc[n, o] + bias[o], b[o], c[o]),
            name="out",
        )

    def _add(self, node: Node, x: Any, y: Any) -> Any:
        assert node.b is not None and node.c is not None
        b1, b2, shift = int(node.b[0]), int(node.b[1]), int(node.c)
        one, two = node.zeros

        def at(*i: Any) -> Any:
            total = (x[i].astype("int64") - one) * self._64(b1) + (y[i].astype("int64") - two) * self._64(b2)
            moved = self._shifted(total + self._64(node.zero << shift), self._64(shift))
            return self._clamped(node, moved)

        return self.te.compute((1, *node.shape), lambda *i: at(*i), name="out")

    def _concat(self, node: Node, *parts: Any) -> Any:
        starts = np.cumsum([0, *(int(part.shape[1]) for part in parts)]).tolist()
        # Behind a ReLU a signed grid holds codes from 0 on, of another type than those beside them.
        kind = _kind(node)

        def at(n: Any, c: Any, i: Any, j: Any) -> Any:
            value = parts[-1][n, self.te.max(c - starts[-2], 0), i, j].astype(kind)
            for part, start, end in reversed(list(zip(parts[:-1], starts[:-2], starts[1:-1], strict=True))):
                place = self.te.max(0, self.te.min(c - start, end - start - 1))
                value = self.tir.Select(c < end, part[n, place, i, j].astype(kind), value)
            return value

        return self.te.compute((1, *node.shape), lambda n, c, i, j: at(n, c, i, j), name="out")

    def _flatten(self, node: Node, x: Any) -> Any:
        if len(x.shape) == 2:
            return self.te.compute((1, *node.shape), lambda n, k: x[n, k], name="out")
        high, wide = int(x.shape[2]), int(x.shape[3])
        return self.te.compute(
            (1, *node.shape), lambda n, k: x[n, k // (high * wide), (k // wide) % high, k % wide], name="out"
        )

    def _channels(self, node: Node, x: Any, index: Any) -> Any:
        return self.te.compute((1, *node.shape), lambda n, c, i, j: x[n, index[c], i, j], name="out")

    def _upsample(self, node: Node, x: Any) -> Any:
        down, right = node.kernel
        return self.te.compute(
            (1, *node.shape), lambda n, c, i, j: x[n, c, i // down, j // right], name="out"
        )

    def _clamp(self, node: Node, x: Any) -> Any:
        return self.te.compute(
            (1, *node.shape), lambda *i: self._clamped(node, x[i].astype("int64")), name="out"
        )

    def _pad(self, node: Node, x: Any) -> Any:
        padded = self._padded(x, node, node.zeros[0])
        return self.te.compute((1, *node.shape), lambda *i: padded[i].astype(_kind(node)), name="out")

    def _maxpool(self, node: Node, x: Any) -> Any:
        te = self.te
        padded = self._padded(x, node, -(2**15))
        u, v = te.reduce_axis((0, node.kernel[0])), te.reduce_axis((0, node.kernel[1]))
        (down, right), (dy, dx) = node.stride, node.dilation
        best = te.compute(
            (1, *node.shape),
            lambda n, c, i, j: te.max(padded[n, c, i * down + u * dy, j * right + v * dx], axis=[u, v]),
            name="best",
        )
        return te.compute((1, *node.shape), lambda *i: best[i].astype(_kind(node)), name="out")

    def _requantised(self, node: Node, acc: Any, b: Any, c: Any) -> Any:
        moved = self._shifted(acc.astype("int64") * b, c)
        return self._clamped(node, moved + self._64(node.zero))

    def _shifted(self, product: Any, shift: Any) -> Any:
        """`product / 2^shift` in the model's rounding, as `dyadic.shifted` has it."""
        low = product >> shift
        if self.model.rounding == "truncate":
            return low
        zero, one = self._64(0), self._64(1)
        half = self.tir.Select(shift > zero, one << self.te.max(shift - one, zero), zero)
        if self.model.rounding == "half_up":
            return (product + half) >> shift
        rest = product - (low << shift)
        tie = self.tir.all(rest == half, (low & one) == one)
        return low + self.tir.Select(self.tir.all(self.tir.any(rest > half, tie), shift > zero), one, zero)

    def _clamped(self, node: Node, value: Any) -> Any:
        return self.te.max(self.te.min(value, self._64(node.upper)), self._64(node.lower)).astype(_kind(node))

    def _64(self, value: int) -> Any:
        return self.tir.const(value, "int64")


def pack(weight: Int[np.ndarray, "..."]) -> UInt8[np.ndarray, " bytes"]:
    """Weights of 4 bits, two to a byte, the first in the low half.

    >>> pack(np.array([1, -1, 7])).tolist()
    [241, 7]
    """
    flat = weight.reshape(-1).astype(np.int64) & 15
    if len(flat) % 2:
        flat = np.append(flat, 0)
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)


def _packed(node: Node) -> bool:
    return node.kind == "layer" and node.bits <= 4


def _kind(node: Node) -> str:
    """The type of a node's codes."""
    if node.op == "linear" and node.b is None:
        return "int32"
    if node.upper - node.lower > 255 or (node.lower < 0 and node.upper > 127):
        return "int16"
    return "int8" if node.lower < 0 else "uint8"
