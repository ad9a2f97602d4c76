"""The floating-point network as an ONNX graph with folded batch normalisation: what integers are timed against."""

from typing import Any

import numpy as np
import torch

from jostle.core.errors import optional
from jostle.quantization.network import Quantised
from jostle.quantization.program import INF, LAYERS


@torch.no_grad()
def float_graph(network: Quantised, *, normalise: bool = True) -> Any:
    """Build the ONNX model of a network without quantisation, from pixels 0 to 255 in float32 to logits.

    The normalisation of the input lies in the first layer's weights where it can, as in the integer model. Peers that
    quantise ONNX graphs start from it.

    **Arguments:** `normalise`: whether the graph takes pixels; else it takes `scale (pixel - zero)` of its input step.
    **Returns:** an `onnx.ModelProto` with input `pixels` (batch, channels, height, width), float32.
    """
    onnx = optional("onnx", "quantization")
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def op(kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(onnx.helper.make_node(kind, inputs, [output], output, **attributes))

    program = network.program
    for step in program.steps:
        inputs, (left, right, top, bottom) = list(step.inputs), step.padding
        window = {
            "kernel_shape": list(step.kernel), "strides": list(step.stride), "pads": [top, left, bottom, right],
        }  # fmt: skip
        clamps = step.clamp != (-INF, INF) and step.op != "clamp"
        out = f"{step.name}.raw" if clamps else step.name
        if step.op == "input" and not normalise:
            op("Identity", ["pixels"], out)
        elif step.op == "input":
            op("Sub", ["pixels", constant("input.zero", step.zero)], "input.shifted")
            op("Mul", ["input.shifted", constant("input.scale", step.scale)], out)
        elif step.op in LAYERS:
            weight, bias = (part.cpu().numpy() for part in network.layer(step.name).folded())
            named = [inputs[0], constant(f"{step.name}.weight", weight), constant(f"{step.name}.bias", bias)]
            if step.op == "conv":
                op("Conv", named, out, dilations=list(step.dilation), group=step.groups, **window)
            else:
                op("Gemm", named, out, transB=1)
        elif step.op == "add":
            op("Add", inputs, out)
        elif step.op == "concat":
            op("Concat", inputs, out, axis=1)
        elif step.op == "flatten":
            op("Flatten", inputs, out, axis=1)
        elif step.op == "maxpool":
            op("MaxPool", inputs, out, dilations=list(step.dilation), **window)
        elif step.op == "avgpool":
            op("AveragePool", inputs, out, count_include_pad=1, **window)
        elif step.op == "requant":
            op("Identity", inputs, out)
        elif step.op == "channels":
            places = onnx.numpy_helper.from_array(np.array(step.index), f"{step.name}.index")
            constants.append(places)
            op("Gather", [inputs[0], f"{step.name}.index"], out, axis=1)
        elif step.op == "upsample":
            factors = constant(f"{step.name}.factors", [1, 1, *step.kernel])
            op(
                "Resize", [inputs[0], "", factors], out, mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
        elif step.op == "pad":
            pads = onnx.numpy_helper.from_array(
                np.array([0, 0, top, left, 0, 0, bottom, right]), f"{step.name}.pads"
            )
            constants.append(pads)
            op("Pad", [inputs[0], f"{step.name}.pads"], out)
        if clamps or step.op == "clamp":
            source = out if clamps else inputs[0]
            low, high = step.clamp
            if (low, high) == (0.0, INF):
                op("Relu", [source], step.name)
            else:
                ends = [
                    "" if abs(end) == INF else constant(f"{step.name}.{side}", end)
                    for side, end in (("low", low), ("high", high))
                ]
                op("Clip", [source, *ends], step.name)
    kind = onnx.TensorProto.FLOAT
    shape, last = program.steps[0].shape, program[program.output].shape
    graph = onnx.helper.make_graph(
        nodes,
        "jostle-float",
        [onnx.helper.make_tensor_value_info("pixels", kind, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info(program.output, kind, ["batch", *last])],
        constants,
    )
    return onnx.helper.make_model(
        graph, producer_name="jostle", opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
