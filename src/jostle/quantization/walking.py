"""The graph of an exported network: its constants, its normalised input, and the steps found so far."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from jostle.core.errors import require
from jostle.quantization.program import INF, Layer, Step

_PREFIX = {"sub", "add", "mul", "div", "rsub", "select", "unsqueeze", "slice", "cat", "sub_", "div_", "mul_"}


class Walker:
    """What tracing knows while it walks: which nodes are constants, and which step each of the others became."""

    def __init__(self, exported: Any):
        signature = exported.graph_signature
        self.graph: fx.Graph = exported.graph_module.graph
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.constant: dict[fx.Node, Tensor] = {}
        self.title: dict[fx.Node, str] = {}
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        named |= dict(signature.inputs_to_lifted_tensor_constants)
        stores = {**exported.constants, **exported.state_dict}
        self.source: fx.Node | None = None
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in named:
                self.constant[node] = stores[named[node.name]].detach()
                self.title[node] = named[node.name]
            elif node.op == "placeholder":
                self.source = node
        assert self.source is not None
        self.value: dict[fx.Node, str] = {}
        self.steps: list[Step] = []
        self.layers: dict[str, Layer] = {}
        self.notes: list[str] = []

    def fold(self, node: fx.Node) -> None:
        """Evaluate a node whose inputs are all known: reparametrised weights, for example."""
        inputs = node.all_input_nodes
        if not inputs or any(source not in self.constant for source in inputs):
            return
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.constant[n])
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        result = target(*args, **kwargs)
        if isinstance(result, Tensor):
            self.constant[node] = result
            self.title[node] = node.name

    def prefix(self) -> set[fx.Node]:
        """The nodes between the input and the first layer, evaluated into a gain and an offset a channel."""
        source = self.source
        assert source is not None
        inside: set[fx.Node] = {source}
        for node in self.graph.nodes:
            if node.op != "call_function" or name_of(node) not in _PREFIX | {"clone", "contiguous", "to"}:
                continue
            inputs = node.all_input_nodes
            if any(n in inside for n in inputs) and all(n in inside or n in self.constant for n in inputs):
                inside.add(node)
        # A cast leaves an assertion behind, which reads the tensor and makes nothing of it.
        idle = {node for node in self.graph.nodes if name_of(node) == "_assert_tensor_metadata"}
        frontier = [n for n in inside if any(user not in inside | idle for user in n.users)]
        shape = tuple(source.meta["val"].shape)
        require(
            len(frontier) == 1,
            "the model uses its input in several forms before the first layer; give it one normalisation",
        )
        last, channels = frontier[0], shape[1]
        ones = torch.ones(1, channels, *shape[2:], dtype=torch.float64)
        draws = torch.rand(ones.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        at_zero, at_one, at_random = (self._evaluate(last, x, inside) for x in (0 * ones, ones, draws))
        fits = at_zero.shape == ones.shape
        if fits:
            self.offset = at_zero[0, :, 0, 0]
            self.gain = at_one[0, :, 0, 0] - self.offset
            wanted = draws * self.gain.reshape(1, -1, 1, 1) + self.offset.reshape(1, -1, 1, 1)
            fits = bool(torch.allclose(at_random, wanted, rtol=1e-4, atol=1e-5)) and bool(
                (self.gain != 0).all()
            )
        require(fits, f"what the model does to its input before {last.name!r} is not affine in each channel")
        self.steps.append(Step("input", "input", (), (channels, *shape[2:])))
        for node in inside:
            self.value[node] = "input"
        return inside

    def _evaluate(self, last: fx.Node, x: Tensor, inside: set[fx.Node]) -> Tensor:
        known: dict[fx.Node, Any] = {}
        for node in sorted(inside, key=lambda n: self.order[n]):
            if node is self.source:
                known[node] = x
                continue
            args, kwargs = map_arg(
                (node.args, node.kwargs),
                lambda n: known[n] if n in known else self.constant[n].to(x.device).double(),
            )
            target: Callable[..., Any] = node.target  # type: ignore[assignment]
            known[node] = known[node.all_input_nodes[0]] if name_of(node) == "to" else target(*args, **kwargs)
        return known[last].double()

    def emit(self, node: fx.Node, op: Any, inputs: tuple[str, ...], title: str = "", **fields: Any) -> None:
        name = title or node.name
        self.steps.append(Step(name, op, inputs, self.shape(node), **fields))
        self.value[node] = name

    def change(self, name: str, **changes: Any) -> None:
        at = next(i for i, step in enumerate(self.steps) if step.name == name)
        self.steps[at] = replace(self.steps[at], **changes)

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def node(self, node: fx.Node, at: int) -> fx.Node:
        found = node.args[at]
        assert isinstance(found, fx.Node)
        return found

    def input(self, node: fx.Node, at: int) -> str:
        source = node.args[at]
        require(
            source in self.value,
            f"{node.name!r}{where(node)} reads something that is no image or feature map",
        )
        return self.value[source]  # type: ignore[index]

    def need_traced(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            require(source in self.value, f"{node.name!r}{where(node)} mixes features with a constant tensor")

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(int(side) for side in node.meta["val"].shape[1:])


def needed(steps: list[Step], output: str) -> set[str]:
    wanted = {output, "input"}
    for step in reversed(steps):
        if step.name in wanted:
            wanted |= set(step.inputs)
    return wanted


def name_of(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).rpartition(".")[2]


def where(node: fx.Node) -> str:
    module = module_of(node)
    return f" in {module!r}" if module else ""


def module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    found = list(stack.values())
    return str(found[-1][0]) if found else ""


def pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = [int(v) for v in value]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def clamp_ends(node: fx.Node, name: str) -> tuple[float, float]:
    rest = list(node.args[1:])
    if name in ("relu", "relu_"):
        return 0.0, INF
    if name == "relu6":
        return 0.0, 6.0
    if name.startswith("hardtanh"):
        low = rest[0] if rest else node.kwargs.get("min_val", -1.0)
        high = rest[1] if len(rest) > 1 else node.kwargs.get("max_val", 1.0)
    else:
        low = rest[0] if rest else node.kwargs.get("min")
        high = rest[1] if len(rest) > 1 else node.kwargs.get("max")
    return -INF if low is None else float(low), INF if high is None else float(high)  # type: ignore[arg-type]
