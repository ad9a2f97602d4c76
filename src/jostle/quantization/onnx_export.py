"""The integer model as an ONNX graph whose engine cannot but compute the same integers."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jostle.core.errors import optional, require
from jostle.files import whole
from jostle.quantization.dyadic import float_exact
from jostle.quantization.integer import IntegerModel, Node

MICROSOFT = "com.microsoft"


def onnx_graph(model: IntegerModel, *, outputs: list[str] | None = None) -> Any:
    """Build the ONNX model: QLinearConv, QLinearAdd, MatMulInteger, and what moves codes.

    Convolutions are given unit scales for input and output and `b/2^16` for the weights, so that the engine derives
    no scale of its own; with the theorem of [`float_exact`][jostle.quantization.dyadic.float_exact] its
    `rne(acc scale)` is the integer result. Sums get ratios of 12 bits. Averages are convolutions with ones.

    **Arguments:** `outputs`: tensors to hand out, by name; the model's output alone by default.
    **Returns:** an `onnx.ModelProto` with input `pixels` (batch, channels, height, width), uint8.
    **Raises:** `JostleError` if the model rounds otherwise than half to even, or holds codes of more than 8 bits.
    """
    onnx = optional("onnx", "quantization")
    require(
        model.rounding == "half_even",
        f"onnxruntime rounds half to even, but the model rounds {model.rounding}; quantise with half_even",
    )
    wide = [n.name for n in model.nodes if n.op != "linear" and n.upper - n.lower > 255]
    require(
        not wide,
        f"onnxruntime's kernels hold 8 bits, but {(wide or [''])[0]!r} has more; use residual_bits=8, or engine torch",
    )
    build = _Builder(onnx, model)
    for node in model.nodes:
        build.add(node)
    kinds = onnx.TensorProto
    names = outputs or [model.output]
    shown = []
    for name in names:
        node = model[name]
        kind = kinds.INT32 if node.op == "linear" and node.b is None else build.code_type(node)
        shown.append(onnx.helper.make_tensor_value_info(name, kind, ["batch", *node.shape]))
    pixels = onnx.helper.make_tensor_value_info("pixels", kinds.UINT8, ["batch", *model.input_shape])
    graph = onnx.helper.make_graph(build.nodes, "jostle", [pixels], shown, build.initialisers)
    made = onnx.helper.make_model(
        graph,
        producer_name="jostle",
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MICROSOFT, 1)],
        ir_version=9,
    )
    final = model[model.output]
    onnx.helper.set_model_props(made, {"output_scale": repr(final.scale), "output_zero": str(final.zero)})
    return made


def export(model: IntegerModel, path: Path) -> None:
    """Write the ONNX graph to a file.

    **Raises:** `JostleError` as [`onnx_graph`][jostle.quantization.onnx_export.onnx_graph] does.
    """
    made = onnx_graph(model)
    with whole(Path(path)) as draft:
        draft.write_bytes(made.SerializeToString())


def certified(model: IntegerModel) -> bool:
    """Whether every multiplier is such that engines in float32 are exact for every accumulator, by the theorem."""
    return model.rounding == "half_even" and all(
        float_exact(node.b, int(node.c.max()), node.upper) and int(node.c.min()) == int(node.c.max())
        for node in model.nodes
        if node.op in ("conv", "linear") and node.b is not None and node.c is not None
    )


class _Builder:
    def __init__(self, onnx: Any, model: IntegerModel):
        self.onnx, self.model = onnx, model
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self.known: dict[tuple[Any, ...], str] = {}
        self.signed = model.nodes[0].lower < 0

    def code_type(self, node: Node) -> int:
        kinds = self.onnx.TensorProto
        return kinds.INT8 if self.signed else kinds.UINT8

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initialisers.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float | int, kind: Any) -> str:
        key = (value, np.dtype(kind).name)
        if key not in self.known:
            self.known[key] = self.constant(f"const.{key[1]}.{value}", np.asarray(value, dtype=kind))
        return self.known[key]

    def code(self, value: int) -> str:
        return self.scalar(value, np.int8 if self.signed else np.uint8)

    def op(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> None:
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        )

    def add(self, node: Node) -> None:
        """Append what computes `node`."""
        name, inputs = node.name, list(node.inputs)
        if node.op == "input":
            self.entry(node)
        elif node.op == "conv":
            self.conv(node, inputs[0], self.clamped(node))
        elif node.op == "linear":
            self.linear(node)
        elif node.op == "add":
            self.sum(node)
        elif node.op == "concat":
            self.op("Concat", inputs, name, axis=1)
        elif node.op == "flatten":
            self.op("Flatten", inputs, name, axis=1)
        elif node.op == "channels":
            places = self.constant(f"{name}.index", np.array(node.index, dtype=np.int64))
            self.op("Gather", [inputs[0], places], name, axis=1)
        elif node.op == "upsample":
            factors = self.constant(f"{name}.factors", np.array([1, 1, *node.kernel], dtype=np.float32))
            self.op(
                "Resize", [inputs[0], "", factors], name, mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
        elif node.op == "clamp":
            self.op("Clip", [inputs[0], self.code(node.lower), self.code(node.upper)], name)
        elif node.op == "maxpool":
            left, right, top, bottom = node.padding
            self.op(
                "MaxPool", inputs, name, kernel_shape=list(node.kernel), strides=list(node.stride),
                dilations=list(node.dilation), pads=[top, left, bottom, right],
            )  # fmt: skip
        else:
            assert node.op == "pad", node.op
            left, right, top, bottom = node.padding
            pads = self.constant(
                f"{name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right], dtype=np.int64)
            )
            self.op("Pad", [inputs[0], pads, self.code(node.zeros[0])], name)

    def entry(self, node: Node) -> None:
        if not self.signed:
            self.op("Identity", ["pixels"], node.name)
            return
        # Signed codes are pixels less 128: in 32 bits, for there is no 8-bit subtraction that goes below 0.
        kinds = self.onnx.TensorProto
        self.op("Cast", ["pixels"], "pixels.wide", to=kinds.INT32)
        self.op("Add", ["pixels.wide", self.scalar(node.lower, np.int32)], "pixels.signed")
        self.op("Cast", ["pixels.signed"], node.name, to=kinds.INT8)

    def clamped(self, node: Node) -> str:
        """Where a kernel writes: the node's own name, or a name that a Clip reads, if 8 bits alone do not clamp."""
        full = (-128, 127) if self.signed else (0, 255)
        if (node.lower, node.upper) == full:
            return node.name
        return f"{node.name}.raw"

    def finish(self, node: Node, output: str) -> None:
        if output != node.name:
            self.op("Clip", [output, self.code(node.lower), self.code(node.upper)], node.name)

    def conv(self, node: Node, source: str, output: str) -> None:
        left, right, top, bottom = node.padding
        self.qlinear_conv(
            node, source, output, _array(node.weight, np.int8), kernel_shape=list(node.kernel),
            strides=list(node.stride), dilations=list(node.dilation), pads=[top, left, bottom, right],
            group=node.groups,
        )  # fmt: skip
        self.finish(node, output)

    def qlinear_conv(
        self, node: Node, source: str, output: str, weight: np.ndarray, **attributes: Any
    ) -> None:
        assert node.b is not None and node.c is not None
        scales = (node.b.double() * 2.0 ** (-node.c.double())).numpy().astype(np.float32)
        one, name = self.scalar(1.0, np.float32), node.name
        self.op(
            "QLinearConv",
            [
                source, one, self.code(node.zeros[0]),
                self.constant(f"{name}.weight", weight), self.constant(f"{name}.scale", scales),
                self.constant(f"{name}.weight_zero", np.zeros(len(scales), np.int8)),
                one, self.code(node.zero), self.constant(f"{name}.bias", _array(node.bias, np.int32)),
            ],
            output,
            **attributes,
        )  # fmt: skip

    def linear(self, node: Node) -> None:
        name, source = node.name, node.inputs[0]
        weight = _array(node.weight, np.int8)
        if node.b is not None:
            # Inside a network: a 1x1 convolution on vectors, which ends in the same certified multiply.
            shape = self.constant(f"{name}.shape", np.array([0, -1, 1, 1], dtype=np.int64))
            self.op("Reshape", [source, shape], f"{name}.column")
            self.qlinear_conv(
                node, f"{name}.column", f"{name}.out", weight[:, :, None, None], kernel_shape=[1, 1]
            )
            output = self.clamped(node)
            self.op("Flatten", [f"{name}.out"], output, axis=1)
            self.finish(node, output)
            return
        matrix = self.constant(f"{name}.weight", np.ascontiguousarray(weight.T))
        zero = self.scalar(0, np.int8)
        self.op("MatMulInteger", [source, matrix, self.code(node.zeros[0]), zero], f"{name}.product")
        self.op("Add", [f"{name}.product", self.constant(f"{name}.bias", _array(node.bias, np.int32))], name)

    def sum(self, node: Node) -> None:
        assert node.b is not None and node.c is not None
        one = self.scalar(1.0, np.float32)
        scales = [self.scalar(float(b) / 2 ** int(node.c), np.float32) for b in node.b.tolist()]
        output = self.clamped(node)
        zeros = [self.code(zero) for zero in node.zeros]
        self.op(
            "QLinearAdd",
            [
                node.inputs[0],
                scales[0],
                zeros[0],
                node.inputs[1],
                scales[1],
                zeros[1],
                one,
                self.code(node.zero),
            ],
            output,
            domain=MICROSOFT,
        )
        self.finish(node, output)


def _array(tensor: Tensor | None, kind: Any) -> np.ndarray:
    assert tensor is not None
    return tensor.cpu().numpy().astype(kind)
