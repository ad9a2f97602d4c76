"""Engines that run an integer model: onnxruntime (the default), torch on any device, and Apache TVM."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from jostle.core.errors import JostleError, optional, require
from jostle.quantization.integer import (
    IntegerModel,
    Node,
    add,
    check_pixels,
    moves,
    requantise,
    to_pixels,
    walk,
)
from jostle.quantization.machine import saturates
from jostle.quantization.onnx_export import onnx_graph

EngineName = Literal["onnxruntime", "torch", "tvm"]


class Deployed(ABC):
    """An integer model on an engine.

    **Attributes:** `model`: the integer model. `name`: of the engine.
    """

    name: str
    model: IntegerModel

    @abstractmethod
    def run(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Int[Tensor, "batch ..."]:
        """The output's codes, int64 on the CPU."""

    @abstractmethod
    def tensors(self, pixels: UInt8[Tensor, "batch channels height width"]) -> dict[str, Int[Tensor, "..."]]:
        """Every tensor that the engine can hand out, by name, int64 on the CPU."""

    def logits(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch ..."]:
        """The output as real numbers, for images in [0, 1]."""
        return self.model.real(self.run(to_pixels(images)))

    def prepared(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Callable[[], Any]:
        """The engine's own call on these images and nothing around it, which is what is timed."""
        return partial(self.run, pixels)


def deploy(
    model: IntegerModel, engine: EngineName = "onnxruntime", *, device: str = "cpu", threads: int = 1
) -> Deployed:
    """Put an integer model on an engine.

    `onnxruntime`: the fast one on CPUs. `torch`: any device of torch, integer matrix products and 64-bit
    requantising; carries residual streams of 16 bits. `tvm`: compiled by Apache TVM (extra `tvm`), weights of 4 bits
    packed two to a byte.

    **Arguments:** `device`: for torch. `threads`: for onnxruntime; torch's and TVM's are set globally.
    **Raises:** `JostleError` if the engine is unknown, not installed, or cannot hold the model.

    >>> from torch import nn
    >>> from jostle.quantization import quantize, to_integer
    >>> images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> integers = to_integer(quantize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), images))
    >>> bool((deploy(integers, "torch").logits(images) == integers.logits(images)).all())
    True
    """
    if engine == "onnxruntime":
        return OnnxRuntime(model, threads)
    if engine == "torch":
        return TorchEngine(model, device)
    require(engine == "tvm", f"engine must be onnxruntime, torch or tvm, but {engine!r} came")
    from jostle.quantization.tvm_engine import Tvm

    return Tvm(model)


def session(graph: Any, threads: int = 1) -> Any:
    """An onnxruntime session of an ONNX graph, with pinned threads."""
    runtime = optional("onnxruntime", "quantization")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(
            graph.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has many kinds of errors of its own
        raise JostleError(f"onnxruntime does not take the graph: {str(error).splitlines()[0]}") from error


class OnnxRuntime(Deployed):
    """An integer model in onnxruntime; the graph that hands out all tensors is made when it is first asked for."""

    name = "onnxruntime"

    def __init__(self, model: IntegerModel, threads: int = 1):
        self.model, self.threads = model, threads
        if saturates() and any(node.kind == "layer" and node.bits == 8 for node in model.nodes):
            warnings.warn(
                "this processor has no 8-bit dot products: sums of pairs may saturate with weights of 8 bits; "
                "verify on your images, or use weight_bits=7, which cannot saturate",
                stacklevel=3,
            )
        self.session = session(onnx_graph(model), threads)
        self._watched: Any = None

    def run(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Int[Tensor, "batch ..."]:
        """The output's codes."""
        # As few calls as can be: with cold caches each takes some 50 us.
        try:
            codes = self.session.run([self.model.output], {"pixels": _array(pixels)})[0]
        except Exception:  # of onnxruntime, which does not say what is wanted here
            check_pixels(self.model, pixels)
            raise
        return torch.from_numpy(codes.astype("int64"))

    def prepared(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Callable[[], Any]:
        """The session's call, from array to array."""
        return partial(self.session.run, None, {"pixels": _array(pixels)})

    def tensors(self, pixels: UInt8[Tensor, "batch channels height width"]) -> dict[str, Int[Tensor, "..."]]:
        """Every tensor, from a graph of the same nodes that hands all of them out."""
        names = [node.name for node in self.model.nodes]
        if self._watched is None:
            self._watched = session(onnx_graph(self.model, outputs=names), self.threads)
        found = self._watched.run(names, {"pixels": _array(pixels)})
        return {name: torch.from_numpy(value).long() for name, value in zip(names, found, strict=True)}


def _array(pixels: Tensor) -> Any:
    try:
        return pixels.numpy()
    except TypeError:  # on a GPU
        return pixels.numpy(force=True)


class TorchEngine(Deployed):
    """An integer model in torch, on any device: 8-bit matrix products into 32 bits, requantised in 64.

    Convolutions become matrix products of their columns (`torch._int_mm`); those a channel, and averages, are sums of
    products of shifted images in 32 bits. No floating point takes part.
    """

    name = "torch"

    def __init__(self, model: IntegerModel, device: str | torch.device = "cpu"):
        self.model, self.device = model, torch.device(device)
        self.constants = {
            node.name: {key: _moved(getattr(node, key), self.device) for key in ("weight", "bias", "b", "c")}
            for node in model.nodes
        }

    def run(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Int[Tensor, "batch ..."]:
        """The output's codes."""
        return self.tensors(pixels)[self.model.output]

    def tensors(self, pixels: UInt8[Tensor, "batch channels height width"]) -> dict[str, Int[Tensor, "..."]]:
        """Every tensor."""
        found = walk(self.model, pixels.to(self.device), self._step)
        return {name: value.cpu().long() for name, value in found.items()}

    def _step(self, model: IntegerModel, node: Node, inputs: list[Tensor]) -> Tensor:
        from dataclasses import replace

        here = replace(node, **self.constants[node.name])
        x = inputs[0].int()
        if node.op == "conv":
            assert here.weight is not None
            padded = F.pad(x, node.padding, value=node.zeros[0]) - node.zeros[0]
            acc = self._channelwise(here, padded) if _channelwise(here) else self._grouped(here, padded)
            return requantise(here, acc, model.rounding).int()
        if node.op == "linear":
            assert here.weight is not None
            return requantise(here, int_mm(x - node.zeros[0], here.weight.T), model.rounding)
        if node.op == "add":
            return add(here, inputs, model.rounding).int()
        return moves(here, [value.int() for value in inputs])

    def _channelwise(self, node: Node, padded: Tensor) -> Tensor:
        assert node.weight is not None
        weight = node.weight.int()
        acc: Tensor | None = None
        for i, j, part in windows(node, padded):
            product = part * weight[:, 0, i, j].reshape(1, -1, 1, 1)
            acc = product if acc is None else acc + product
        assert acc is not None
        return acc

    def _grouped(self, node: Node, padded: Tensor) -> Tensor:
        assert node.weight is not None
        outs = []
        for x, weight in zip(padded.chunk(node.groups, 1), node.weight.chunk(node.groups, 0), strict=True):
            columns = torch.stack(
                [part for _, _, part in windows(node, x)], 2
            )  # batch, in, kernel, rows, cols
            batch, _, _, rows, cols = columns.shape
            matrix = columns.permute(0, 3, 4, 1, 2).reshape(batch * rows * cols, -1)
            product = int_mm(matrix, weight.reshape(len(weight), -1).T)
            outs.append(product.reshape(batch, rows, cols, -1).permute(0, 3, 1, 2))
        return torch.cat(outs, 1)


def windows(node: Node, padded: Tensor) -> Any:
    """The input as each position of the kernel sees it: (row, column, shifted image)."""
    rows, cols = node.shape[1:]
    (down, right), (dy, dx) = node.stride, node.dilation
    for i in range(node.kernel[0]):
        for j in range(node.kernel[1]):
            part = padded[:, :, i * dy : i * dy + (rows - 1) * down + 1 : down]
            yield i, j, part[:, :, :, j * dx : j * dx + (cols - 1) * right + 1 : right]


def int_mm(left: Int[Tensor, "m k"], right: Int[Tensor, "k n"]) -> Int[Tensor, "m n"]:
    """An exact product of codes less their zero point (-255 to 255) and 8-bit weights, in 32 bits.

    The left factor does not fit 8 bits: it is split as `left = 2 (left >> 1) + (left & 1)`, two 8-bit products.
    Sides are padded to what GPUs want: 8, and more than 16 rows.
    """
    m, k, n = left.shape[0], left.shape[1], right.shape[1]
    rows, inner, cols = max(17, m), -(-k // 8) * 8, -(-n // 8) * 8
    rows += -rows % 8
    left = F.pad(left, (0, inner - k, 0, rows - m))
    weights = F.pad(right.to(torch.int8), (0, cols - n, 0, inner - k)).contiguous()
    half = torch._int_mm((left >> 1).to(torch.int8).contiguous(), weights)
    rest = torch._int_mm((left & 1).to(torch.int8).contiguous(), weights)
    return (2 * half + rest)[:m, :n]


def _channelwise(node: Node) -> bool:
    return node.weight is not None and node.weight.shape[1] == 1 and node.weight.shape[0] == node.groups


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
