"""Reach into a module by layer: watch what flows, or replace it; nothing stays behind."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jostle.core.errors import JostleError, require
from jostle.core.layers import Tap, Where, find


class Taps:
    """Record one tensor a call of the layers that `where` names, in the order in which they run.

    A context manager. `values` and `names` belong to the last forward pass. A layer that is called twice gives
    two records, the second named `layer#2`. What an in-place operation would overwrite afterwards is kept safe:
    the first pass finds out where that happens, and only those outputs are cloned from then on. Modules that
    return tuples or dicts give their first tensor.

    **Arguments:** `module`: the network. `where`: `"conv"`, `"linear"`, `"norm"`, `"activation"`, `"block"`, a
    list of dotted names, or a rule `(name, module) -> bool`; see [`find`][jostle.core.layers.find]. `when`:
    `"post"` for outputs, `"pre"` for inputs. `reduce`: applied to each tensor as it passes, so that only what
    it returns is kept.
    **Raises:** `JostleError` if no layer matches.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with Taps(net, ["0", "2"], reduce=lambda a: tuple(a.shape)) as taps:
    ...     _ = net(torch.zeros(5, 2))
    >>> dict(zip(taps.names, taps.values))
    {'0': (5, 3), '2': (5, 1)}
    """

    def __init__(
        self,
        module: nn.Module,
        where: Where = "activation",
        *,
        when: Literal["pre", "post"] = "post",
        reduce: Callable[[Tensor], Any] | None = None,
    ) -> None:
        require(when in ("pre", "post"), f"when must be 'pre' or 'post', but {when!r} came")
        self.module, self.when, self.reduce = module, when, reduce
        self.taps: list[Tap] = find(module, where)
        self.names: list[str] = []
        self.values: list[Any] = []
        self._stack = ExitStack()
        self._calls: Counter[str] = Counter()
        self._overwritten: dict[str, bool] = {}
        self._probes: list[tuple[str, Tensor]] = []

    def __enter__(self) -> "Taps":
        hooks = [self.module.register_forward_pre_hook(self._begin)]
        for name in dict.fromkeys(tap.name for tap in self.taps):
            chosen = {tap.call: tap for tap in self.taps if tap.name == name}
            layer = self.module.get_submodule(name)
            if self.when == "post":
                hooks.append(layer.register_forward_hook(self._watch_output(name, chosen)))
            else:
                hooks.append(layer.register_forward_pre_hook(self._watch_input(name, chosen)))
        hooks.append(self.module.register_forward_hook(self._end))
        for hook in hooks:
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._probes.clear()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self.names, self.values = [], []
        self._calls.clear()
        self._probes.clear()

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for label, handed_on in self._probes:
            self._overwritten[label] = handed_on._version > 0
        self._probes.clear()

    def _watch_output(self, name: str, chosen: Mapping[int | None, Tap]) -> Callable[..., Any]:
        return lambda layer, inputs, output: self._record(name, chosen, output)

    def _watch_input(self, name: str, chosen: Mapping[int | None, Tap]) -> Callable[..., Any]:
        return lambda layer, inputs: self._record(name, chosen, inputs)

    def _record(self, name: str, chosen: Mapping[int | None, Tap], passing: Any) -> Any:
        """Keep the tensor in what passes by; hand on a copy of it where it would be overwritten."""
        call = self._calls[name]
        self._calls[name] += 1
        tap = chosen.get(call, chosen.get(None))
        if tap is None:
            return None
        value = first_tensor(passing, name)
        label = name if call == 0 else f"{name}#{call + 1}"
        kept = value if tap.after is None or self.when == "pre" else tap.after(value)
        if self.reduce is not None:
            kept = self.reduce(kept)
        self.names.append(label)
        self.values.append(kept)
        if not self._overwritten.get(label, True) or not (value.requires_grad or _shares(kept, value)):
            return None  # nobody writes to it, or nobody will look at it again
        twin = value.clone()
        if label not in self._overwritten and not twin.is_inference():
            self._probes.append((label, twin))
        return swap_first(passing, twin)


@contextmanager
def replaced(module: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace the outputs of layers while the context lasts.

    **Arguments:** `changes`: from a layer's dotted name to a function of its output (its first tensor, where it
    returns several).
    **Raises:** `JostleError` if a name is not there.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Identity(), nn.Identity())
    >>> with replaced(net, {"0": lambda a: a + 1}):
    ...     net(torch.zeros(1))
    tensor([1.])
    """
    find(module, list(changes))

    def change(function: Callable[[Tensor], Tensor], name: str) -> Callable[..., Any]:
        return lambda layer, inputs, output: swap_first(output, function(first_tensor(output, name)))

    with ExitStack() as stack:
        for name, function in changes.items():
            hook = module.get_submodule(name).register_forward_hook(change(function, name))
            stack.callback(hook.remove)
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without parameter gradients while the context lasts; all is restored, whatever happens.

    >>> from torch import nn
    >>> net = nn.Linear(1, 1).train()
    >>> with frozen(net):
    ...     net.training, net.weight.requires_grad
    (False, False)
    >>> net.training, net.weight.requires_grad
    (True, True)
    """
    training = [child for child in module.modules() if child.training]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        if training:
            module.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield module
    finally:
        for child in module.modules():
            if child.training:  # switched on meanwhile
                child.training = False
        for child in training:
            child.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


def first_tensor(output: Any, name: str) -> Tensor:
    """The tensor in what a layer returned: itself, or the first of a tuple, list or dict."""
    if isinstance(output, Tensor):
        return output
    inner = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    )
    for item in inner:
        if isinstance(item, Tensor):
            return item
    raise JostleError(f"layer {name!r} returns a {type(output).__name__} that holds no tensor")


def _shares(kept: Any, value: Tensor) -> bool:
    """Whether what is kept holds memory of `value`."""
    try:
        own = value.untyped_storage().data_ptr()
        tensors = (leaf for leaf in tree_leaves(kept) if isinstance(leaf, Tensor))
        return any(tensor.untyped_storage().data_ptr() == own for tensor in tensors)
    except NotImplementedError:  # inside torch.func transforms tensors have no memory of their own
        return True


def swap_first(output: Any, new: Tensor) -> Any:
    """What a layer returned with its first tensor exchanged: the counterpart of
    [`first_tensor`][jostle.core.taps.first_tensor] for forward hooks that change outputs.

    **Arguments:** `output`: a tensor, or a tuple, named tuple, list or mapping that holds one; not changed.
    `new`: what takes the place of its first tensor.

    >>> import torch
    >>> swap_first((None, torch.zeros(1), "rest"), torch.ones(1))
    (None, tensor([1.]), 'rest')
    """
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):
        key = next(key for key, item in output.items() if isinstance(item, Tensor))
        changed: Any = copy(output)
        changed[key] = new
        return changed
    at = next(i for i, item in enumerate(output) if isinstance(item, Tensor))
    items = [*output[:at], new, *output[at + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
