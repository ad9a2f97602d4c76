"""Find layers inside a module: by kind, by name, or by a rule of the user's own."""

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from jostle.core.errors import JostleError, require

Kind = Literal["conv", "linear", "norm", "activation", "block"]
Where = Kind | Sequence[str] | Callable[[str, nn.Module], bool]
"""A kind of layer, dotted names, or a rule `(name, module) -> bool`."""

CONVS = (nn.modules.conv._ConvNd,)
NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Softsign, nn.Tanh, nn.Hardtanh, nn.Hardswish,
)  # fmt: skip
_FUNCTIONS = {
    F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish,
    torch.relu, torch.relu_, torch.tanh, F.hardtanh,
}  # fmt: skip
_METHODS = {"relu", "relu_", "tanh", "tanh_"}
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class Tap:
    """A place to listen at: the output of a module's call, or a function of that output.

    `name`: the module. `call`: which of its calls in a forward pass, from 0; `None` for each of them.
    `after`: applied to what is recorded, for activations that are functions and not modules.
    """

    name: str
    call: int | None = None
    after: Callable[[Tensor], Tensor] | None = None


def find(module: nn.Module, where: Where) -> list[Tap]:
    """The taps of a module that `where` names, in the order in which they run where that is known.

    `conv`, `linear`, `norm`: modules of these kinds. `activation`: the non-linearity that follows each
    convolution (each linear layer, where there is no convolution), found by tracing with `torch.fx` or, where a
    network cannot be traced, by the order of its modules; gates of squeeze-and-excitation are passed over.
    `block`: the outermost repeated building blocks (residual blocks, transformer blocks).

    **Raises:** `JostleError` if nothing matches, or a name is not there (with the nearest names).

    >>> from torch import nn
    >>> find(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()), "activation")
    [Tap(name='1', call=0, after=None)]
    """
    modules = dict(module.named_modules())
    if callable(where):
        found = [Tap(name) for name, child in modules.items() if where(name, child)]
        require(bool(found), "where matched no layer of the model")
        return found
    if not isinstance(where, str):
        require(len(where) > 0, "where must name at least one layer, but an empty list came")
        return [Tap(_named(modules, name)) for name in where]
    if where == "activation":
        found = _traced_activations(module)
        if found is None:
            found = _ordered_activations(modules)
    elif where == "block":
        found = [Tap(name) for name in _blocks(modules)]
    else:
        kinds: dict[str, tuple[type, ...]] = {"conv": CONVS, "linear": (nn.Linear,), "norm": NORMS}
        require(
            where in kinds,
            f"where must be conv, linear, norm, activation, block, a list of layer names or a rule, but {where!r} came",
        )
        found = [Tap(name) for name, child in modules.items() if isinstance(child, kinds[where])]
    other = "'activation'" if where == "block" else "'block'"
    require(
        bool(found),
        f"where={where!r} matched no layer of {type(module).__name__}; try {other}, or give layer names, such as "
        "those of dict(model.named_modules())",
    )
    return found


def is_activation(module: nn.Module) -> bool:
    """Whether a module is a non-linearity that acts on each entry by itself."""
    return isinstance(module, ACTIVATIONS) or type(module).__name__.lower().endswith(
        ("swish", "relu", "gelu")
    )


def _acts_within(module: nn.Module) -> bool:
    """Whether a module acts on each entry: a non-linearity, or a normalisation that ends in one (as timm's)."""
    return is_activation(module) or (
        isinstance(module, NORMS) and any(is_activation(child) for child in module.children())
    )


def _named(modules: dict[str, nn.Module], name: str) -> str:
    if name in modules:
        return name
    near = difflib.get_close_matches(name, modules, n=3)
    hint = f"; near it are {', '.join(near)}" if near else ""
    raise JostleError(f"the model has no layer {name!r}{hint}")


def _blocks(modules: dict[str, nn.Module]) -> list[str]:
    weights = (*CONVS, nn.Linear, nn.MultiheadAttention)
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.MultiheadAttention)
    count = Counter(
        type(child)
        for child in modules.values()
        if not isinstance(child, plain) and sum(isinstance(inner, weights) for inner in child.modules()) >= 2
    )
    repeated = {kind for kind, times in count.items() if times >= 2}
    kinds = repeated - {
        type(child) for child in modules.values() if type(child) in repeated and _holds_a_row(child, repeated)
    }
    # What occurs inside a block, such as an attention or a gate, is a part of one also where it stands alone.
    kinds -= {
        type(inner)
        for child in modules.values()
        if type(child) in kinds
        for inner in child.modules()
        if type(inner) is not type(child)
    }
    chosen: list[str] = []
    for name, child in modules.items():
        inside = any(name.startswith(outer + ".") for outer in chosen)
        if name and type(child) in kinds and not inside:
            chosen.append(name)
    return chosen


def _holds_a_row(module: nn.Module, kinds: set[type]) -> bool:
    """Whether a module is a row of blocks of one kind, or has one inside: a stage, not a block."""
    for inner in module.modules():
        row = list(inner.children())
        listed = inner is module or isinstance(inner, nn.Sequential | nn.ModuleList)
        if listed and len(row) >= 2 and len({type(child) for child in row}) == 1 and type(row[0]) in kinds:
            return True
    return False


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (*CONVS, *NORMS))
            or is_activation(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


def _traced_activations(module: nn.Module) -> list[Tap] | None:
    """Activations that follow a convolution, by the network's graph; `None` if it cannot be traced."""
    try:
        graph = _Tracer().trace(module)
    except Exception:
        # Tracing runs the user's own forward code on proxies: it may fail in any way it likes.
        return None
    modules = dict(module.named_modules())
    weights = CONVS if any(isinstance(m, CONVS) for m in modules.values()) else (nn.Linear,)
    calls: Counter[str] = Counter()
    index: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            index[node] = calls[str(node.target)]
            calls[str(node.target)] += 1
    taps = []
    for node in graph.nodes:
        if not _acts(node, modules) or not _follows(node, modules, weights):
            continue
        if node.op == "call_module":
            taps.append(Tap(str(node.target), index[node]))
            continue
        source = node.args[0]
        if isinstance(source, fx.Node) and source.op == "call_module":
            taps.append(Tap(str(source.target), index[source], _as_function(node)))
    return taps or None


def _acts(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return _acts_within(modules[str(node.target)])
    return (node.op == "call_function" and node.target in _FUNCTIONS) or (
        node.op == "call_method" and node.target in _METHODS
    )


def _as_function(node: fx.Node) -> Callable[[Tensor], Tensor]:
    rest, options = node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}
    target: Any = node.target
    if node.op == "call_method" or str(getattr(target, "__name__", "")).endswith("_"):
        # The in-place form would overwrite what the network goes on with.
        target = getattr(torch, str(getattr(target, "__name__", target)).rstrip("_"))
    overwrites = any(item is True for item in rest)  # `inplace` given by position
    return lambda value: target(value.clone() if overwrites else value, *rest, **options)


def _follows(node: fx.Node, modules: dict[str, nn.Module], weights: tuple[type, ...]) -> bool:
    """Whether a convolution is the nearest thing with weights before `node`, and not one that gates."""
    stack, seen = list(node.all_input_nodes), set()
    while stack:
        source = stack.pop()
        if source in seen:
            continue
        seen.add(source)
        if source.op == "call_module":
            child = modules[str(source.target)]
            if isinstance(child, weights):
                return not any(_pools(parent, modules) for parent in source.all_input_nodes)
            if _acts(source, modules) or not isinstance(
                child, (*NORMS, nn.Identity, nn.Dropout, nn.Dropout2d)
            ):
                continue
        elif source.op not in ("call_function", "call_method") or _acts(source, modules):
            continue
        stack += source.all_input_nodes
    return False


def _pools(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _POOLS)
    return str(getattr(node.target, "__name__", node.target)) in ("mean", "adaptive_avg_pool2d", "avg_pool2d")


def _ordered_activations(modules: dict[str, nn.Module]) -> list[Tap]:
    within_norms = tuple(f"{name}." for name, child in modules.items() if isinstance(child, NORMS))
    leaves = [
        (name, child)
        for name, child in modules.items()
        if (isinstance(child, NORMS) or not any(child.children())) and not name.startswith(within_norms)
    ]
    weights = CONVS if any(isinstance(child, CONVS) for _, child in leaves) else (nn.Linear,)
    return [
        Tap(name)
        for (_, before), (name, child) in pairwise(leaves)
        if _acts_within(child) and isinstance(before, (*weights, *NORMS)) and not _acts_within(before)
    ]
