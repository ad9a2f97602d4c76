"""From a user's network to a program: traced by `torch.export`, constants folded, layers fused."""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import frozen
from jostle.quantization.moving import Mover
from jostle.quantization.program import INF, LAYERS, Layer, Program, Step
from jostle.quantization.rewriting import fold_input
from jostle.quantization.walking import clamp_ends, module_of, name_of, needed, pair, where

_SAME = {
    "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "to", "dropout", "dropout_", "feature_dropout",
    "_assert_tensor_metadata",
}  # fmt: skip
_CLAMPS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"}
_VIEWS = {"flatten", "view", "reshape", "_unsafe_view", "squeeze"}
SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, clamp, add, cat, max and average pooling, mean over space, flatten, pad, "
    "dropout, splits and shuffles of channels, nearest upsampling by whole factors"
)


def trace(model: nn.Module, example: Tensor) -> Program:
    """Trace a convolutional network and fuse convolution, batch normalisation and activation.

    The model runs once on `example`, in eval mode; it is not changed, and the program holds copies of its
    weights. What happens to the input before the first layer must be affine per channel (a normalisation) and
    becomes the input's grid or part of the first layer. A layer that is used twice becomes two.

    **Arguments:** `model`: takes images in [0, 1]. `example`: a batch (images, channels, height, width).
    **Returns:** a [`Program`][jostle.quantization.program.Program].
    **Raises:** `JostleError` that names the first operation that has no integer form.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> [step.op for step in trace(net, torch.zeros(1, 1, 4, 4)).steps]
    ['input', 'conv', 'flatten', 'linear']
    """
    require(
        example.ndim == 4,
        f"example must be a batch (images, channels, height, width), but shape {tuple(example.shape)} came",
    )
    for name, value in model.state_dict().items():
        require(
            not value.is_floating_point() or bool(value.isfinite().all()),
            f"the model has NaN or infinite values in {name!r}",
        )
    with frozen(model), torch.no_grad():
        try:
            exported = torch.export.export(model, (example.repeat(2, 1, 1, 1)[:2],), strict=False)
        except (
            Exception
        ) as error:  # torch.export runs the user's own forward code: it may fail in any way it likes
            raise JostleError(
                f"the model could not be traced: {str(error).strip().splitlines()[0] if str(error) else error!r}; "
                "its forward pass must not depend on the values of tensors"
            ) from error
    return _Tracer(exported).program()


class _Tracer(Mover):
    def program(self) -> Program:
        """Walk the graph."""
        for node in self.graph.nodes:
            if node.op == "call_function":
                self.fold(node)
        prefix = self.prefix()
        output = ""
        for node in self.graph.nodes:
            if node.op == "output":
                results = node.args[0]
                require(
                    len(results) == 1 and isinstance(results[0], fx.Node),
                    f"the model must return one tensor, but {len(results)} came",
                )
                require(results[0] in self.value, "the model's output does not depend on its input")
                output = self.value[results[0]]
            elif node.op == "call_function" and node not in prefix and node not in self.constant:
                self._visit(node)
        wanted = needed(self.steps, output)
        steps = [step for step in self.steps if step.name in wanted]
        program = Program(
            steps, {n: layer for n, layer in self.layers.items() if n in wanted}, output, self.notes
        )
        require(bool(program.names), "the model has no convolution or linear layer")
        fold_input(program, self.gain, self.offset)
        return program

    def _visit(self, node: fx.Node) -> None:
        name = name_of(node)
        if self.moved(node, name):
            return
        if name in _SAME:
            self.value[node] = self.input(node, 0)
        elif name in ("conv2d", "linear"):
            self._layer(node, name)
        elif name == "batch_norm":
            self._norm(node)
        elif name in _CLAMPS:
            self._clamp(node, name)
        elif name in ("add", "add_"):
            require(
                node.kwargs.get("alpha", 1) == 1 and all(isinstance(a, fx.Node) for a in node.args[:2]),  # type: ignore[arg-type]
                f"{node.name!r} adds a number or a multiple, which has no integer form here",
            )
            self.need_traced(node)
            pair = self.input(node, 0), self.input(node, 1)
            shapes = [self.shape(self.node(node, i)) for i in (0, 1)]
            require(
                shapes[0] == shapes[1], f"{node.name!r} adds tensors of shapes {shapes[0]} and {shapes[1]}"
            )
            self.emit(node, "add", pair)
        elif name == "cat":
            parts = node.args[0]
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            rank = len(self.shape(node)) + 1
            require(
                dim in (1, 1 - rank),
                f"{node.name!r} concatenates along axis {dim}; only channels (1) will do",
            )
            self.need_traced(node)
            self.emit(node, "concat", tuple(self.value[n] for n in parts))  # type: ignore[union-attr,index]
        elif name == "max_pool2d":
            self._max_pool(node)
        elif name in ("avg_pool2d", "adaptive_avg_pool2d", "mean"):
            self._average(node, name)
        elif name in _VIEWS:
            self._view(node)
        elif name in ("pad", "constant_pad_nd"):
            self._pad(node)
        else:
            raise JostleError(
                f"{node.name!r} ({node.target}{where(node)}) has no integer form; supported are {SUPPORTED}"
            )
        first = next(iter(node.args), None)
        if name.endswith("_") and isinstance(first, fx.Node):
            self.value[first] = self.value[node]  # later readers see what was written in place

    def _layer(self, node: fx.Node, name: str) -> None:
        args = dict(
            zip(
                ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
                node.args,
                strict=False,
            )
        )
        args |= node.kwargs
        weight_node, bias_node = args["weight"], args.get("bias")
        require(
            weight_node in self.constant and (bias_node is None or bias_node in self.constant),
            f"{node.name!r}{where(node)} has weights that depend on the input",
        )
        weight = self.constant[weight_node].float()  # type: ignore[index]
        bias = None if bias_node is None else self.constant[bias_node].float()  # type: ignore[index]
        title = module_of(node) or self.title[weight_node].removesuffix(".weight")  # type: ignore[index]
        if title in self.layers:
            count = 2 + sum(other.startswith(f"{title}#") for other in self.layers)
            self.notes.append(f"layer {title!r} is used {count} times; each use has weights of its own now")
            title = f"{title}#{count}"
        source = self.input(node, 0)
        self.layers[title] = Layer(weight, bias)
        if name == "linear":
            require(len(self.shape(node)) == 1, f"{title!r} must see vectors; flatten its input first")
            self.emit(node, "linear", (source,), title)
            return
        kernel = (weight.shape[2], weight.shape[3])
        dilation = pair(args.get("dilation", 1))
        padding: Any = args.get("padding", 0)
        if isinstance(padding, str):
            total = [dilation[i] * (kernel[i] - 1) if padding == "same" else 0 for i in (0, 1)]
            sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        else:
            high, wide = pair(padding)
            sides = (wide, wide, high, high)
        before = self.step(source)
        if before.op == "pad" and len(self.node(node, 0).users) == 1:
            sides = tuple(a + b for a, b in zip(sides, before.padding, strict=True))
            source = before.inputs[0]
        self.emit(
            node,
            "conv",
            (source,),
            title,
            stride=pair(args.get("stride", 1)),
            padding=sides,
            dilation=dilation,
            kernel=kernel,
            groups=int(args.get("groups", 1)),  # type: ignore[arg-type]
        )

    def _norm(self, node: fx.Node) -> None:
        x, gain, shift, mean, variance = node.args[:5]
        eps = float(node.args[7])  # type: ignore[arg-type]
        channels = self.shape(self.node(node, 0))[0]
        require(mean in self.constant, f"{node.name!r}{where(node)} keeps no running statistics")
        mean, variance = self.constant[mean].float(), self.constant[variance].float()  # type: ignore[index]
        gain = mean.new_ones(channels) if gain is None else self.constant[gain].float()  # type: ignore[index]
        shift = mean.new_zeros(channels) if shift is None else self.constant[shift].float()  # type: ignore[index]
        before = self.step(self.input(node, 0))
        alone = before.op in LAYERS and before.clamp == (-INF, INF) and len(x.users) == 1  # type: ignore[union-attr]
        if alone and self.layers[before.name].norm is None:
            self.layers[before.name].attach(gain, shift, mean, variance, eps)
            self.value[node] = before.name
            return
        # With no layer to fold into: an affine map a channel is a depthwise 1x1 convolution.
        require(
            len(self.shape(node)) == 3, f"{node.name!r}{where(node)} normalises vectors that no layer made"
        )
        title = module_of(node) or node.name
        factor = gain * torch.rsqrt(variance + eps)
        self.layers[title] = Layer(factor.reshape(-1, 1, 1, 1), shift - mean * factor)
        self.emit(node, "conv", (before.name,), title, groups=channels)

    def _clamp(self, node: fx.Node, name: str) -> None:
        ends = clamp_ends(node, name)
        require(ends[0] <= 0 <= ends[1], f"{node.name!r} clamps to {ends}, which does not hold 0")
        x = self.node(node, 0)
        before = self.step(self.input(node, 0))
        free = before.op in (*LAYERS, "add", "avgpool") and before.clamp == (-INF, INF)
        if free and not self._others(before.name, x, node, in_place=name.endswith("_")):
            self.change(before.name, clamp=ends)
            self.value[node] = before.name
        else:
            self.emit(node, "clamp", (before.name,), clamp=ends)

    def _others(self, name: str, x: fx.Node, node: fx.Node, *, in_place: bool) -> bool:
        """Whether anybody but `node` reads the step's output; after an in-place write they read what was written."""
        for known in [n for n, value in self.value.items() if value == name]:
            for user in known.users:
                written = in_place and known is x and self.order[user] > self.order[node]
                if user is not node and self.value.get(user) != name and not written:
                    return True
        return False

    def _max_pool(self, node: fx.Node) -> None:
        keys = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
        args: dict[str, Any] = dict(zip(keys, node.args, strict=False)) | dict(node.kwargs)
        kernel = pair(args["kernel_size"])
        stride = pair(args.get("stride") or kernel)
        dilation, (high, wide) = pair(args.get("dilation", 1)), pair(args.get("padding", 0))
        size, out = self.shape(self.node(node, 0))[1:], self.shape(node)[1:]
        # `ceil_mode` is more padding at the far ends, which a maximum does not see.
        far = [
            max(p, (o - 1) * s + d * (k - 1) + 1 - n - p)
            for n, o, k, s, d, p in zip(size, out, kernel, stride, dilation, (high, wide), strict=True)
        ]
        self.emit(
            node,
            "maxpool",
            (self.input(node, 0),),
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=(wide, far[1], high, far[0]),
        )

    def _average(self, node: fx.Node, name: str) -> None:
        size = self.shape(self.node(node, 0))
        require(len(size) == 3, f"{node.name!r} averages over something else than height and width")
        stride: tuple[int, int]
        padding = (0, 0, 0, 0)
        if name == "avg_pool2d":
            keys = (
                "input",
                "kernel_size",
                "stride",
                "padding",
                "ceil_mode",
                "count_include_pad",
                "divisor_override",
            )
            args: dict[str, Any] = dict(zip(keys, node.args, strict=False)) | dict(node.kwargs)
            kernel = pair(args["kernel_size"])
            stride = pair(args.get("stride") or kernel)
            high, wide = pair(args.get("padding", 0))
            padding = (wide, wide, high, high)
            require(
                bool(args.get("count_include_pad", True)) or high == wide == 0,
                f"{node.name!r} pads without counting (count_include_pad=False): borders would need other multipliers",
            )
            floor = [(size[i + 1] + 2 * (high, wide)[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
            require(
                self.shape(node)[1:] == tuple(floor) and args.get("divisor_override") is None,
                f"{node.name!r} averages with ceil_mode or a divisor of its own, which has no integer form here",
            )
        elif name == "mean":
            dims = {int(d) % (len(size) + 1) for d in node.args[1]}  # type: ignore[union-attr]
            require(
                dims == {2, 3}, f"{node.name!r} takes the mean over axes {sorted(dims)}; only (2, 3) will do"
            )
            kernel = stride = (size[1], size[2])
        else:
            out = self.shape(node)[1:]
            if out == size[1:]:
                self.value[node] = self.input(node, 0)
                return
            require(
                size[1] % out[0] == 0 and size[2] % out[1] == 0,
                f"{node.name!r} pools {size[1:]} to {out}, in windows of several sizes; choose another input size",
            )
            kernel = stride = (size[1] // out[0], size[2] // out[1])
        self.emit(node, "avgpool", (self.input(node, 0),), kernel=kernel, stride=stride, padding=padding)
        if name == "mean" and len(self.shape(node)) == 1:
            pooled = self.value[node]
            self.change(pooled, shape=(size[0], 1, 1))
            self.steps.append(Step(f"{pooled}.flat", "flatten", (pooled,), (size[0],)))
            self.value[node] = f"{pooled}.flat"

    def _view(self, node: fx.Node) -> None:
        before, after = self.shape(self.node(node, 0)), self.shape(node)
        if before == after:
            self.value[node] = self.input(node, 0)
            return
        whole = node.meta["val"].shape[0] == self.node(node, 0).meta["val"].shape[0]
        require(
            whole and len(after) == 1 and math.prod(before) == after[0],
            f"{node.name!r}{where(node)} reshapes {before} to {after}; only flattening will do",
        )
        self.emit(node, "flatten", (self.input(node, 0),))

    def _pad(self, node: fx.Node) -> None:
        sides: Any = node.args[1]
        value = (
            node.args[-1]
            if len(node.args) > (3 if name_of(node) == "pad" else 2)
            else node.kwargs.get("value")
        )
        mode = node.args[2] if name_of(node) == "pad" and len(node.args) > 2 else "constant"
        require(
            bool(mode == "constant" and not value and len(sides) == 4 and min(sides) >= 0),
            f"{node.name!r}{where(node)} pads with something else than zeros around height and width",
        )
        self.emit(node, "pad", (self.input(node, 0),), padding=tuple(int(s) for s in sides))
