"""Tracing of what only moves codes about: channels that are split, sliced or shuffled, and images made larger."""

from typing import Any

import torch
from torch import Tensor, fx

from jostle.core.errors import require
from jostle.quantization.walking import Walker, where

_SPLITS = {"chunk", "split", "split_with_sizes"}
_VIEWS = {"view", "reshape", "_unsafe_view"}


class Mover(Walker):
    """A walker that knows channels' places: a split has several outputs, a shuffle is a view, transposed and viewed."""

    def __init__(self, exported: Any):
        super().__init__(exported)
        self.parts: dict[fx.Node, list[range]] = {}
        self.grouped: dict[fx.Node, tuple[str, Tensor]] = {}

    def moved(self, node: fx.Node, name: str) -> bool:
        """Take care of `node` if it moves channels or repeats pixels; whether it did."""
        x = next(iter(node.args), None)
        if not isinstance(x, fx.Node):
            return False
        if name in _SPLITS:
            self._split(node, x)
        elif x in self.parts:  # an output of a split
            self._channels(node, self.input(x, 0), torch.tensor(self.parts[x][int(node.args[1])]))  # type: ignore[arg-type]
        elif name == "slice":
            self._slice(node, x)
        elif name == "channel_shuffle":
            order = torch.arange(self.shape(x)[0]).reshape(int(node.args[1]), -1)  # type: ignore[arg-type]
            self._channels(node, self.input(node, 0), order.T.flatten())
        elif name in _VIEWS and x in self.value and self._splits_channels(node, x):
            order = torch.arange(self.shape(x)[0]).reshape(self.shape(node)[:2])
            self.grouped[node] = (self.value[x], order)
        elif x in self.grouped:
            self._regroup(node, name, x)
        elif name == "upsample_nearest2d":
            self._upsample(node, x)
        else:
            return False
        return True

    def _channels(self, node: fx.Node, source: str, order: Tensor) -> None:
        self.emit(node, "channels", (source,), index=tuple(order.tolist()))

    def _split(self, node: fx.Node, x: fx.Node) -> None:
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        require(
            dim in (1, -len(self.shape(x))) and x in self.value,
            f"{node.name!r}{where(node)} splits along axis {dim}; only channels (1) will do",
        )
        start, self.parts[node] = 0, []
        for part in node.meta["val"]:
            self.parts[node].append(range(start, start + part.shape[1]))
            start += part.shape[1]

    def _slice(self, node: fx.Node, x: fx.Node) -> None:
        dim, start, end, step = (*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :])
        require(
            bool(dim == 1) and x in self.value,
            f"{node.name!r}{where(node)} slices along axis {dim}; only channels (1) will do",
        )
        order = torch.arange(self.shape(x)[0])[slice(start, end, step)]  # type: ignore[misc]
        self._channels(node, self.value[x], order)

    def _splits_channels(self, node: fx.Node, x: fx.Node) -> bool:
        before, after = self.shape(x), self.shape(node)
        return len(before) == 3 and len(after) == 4 and before[1:] == after[2:]

    def _regroup(self, node: fx.Node, name: str, x: fx.Node) -> None:
        source, order = self.grouped[x]
        if name in ("contiguous", "clone"):
            self.grouped[node] = source, order
        elif name == "transpose" and {int(d) for d in node.args[1:]} == {1, 2}:  # type: ignore[arg-type]
            self.grouped[node] = source, order.T
        else:
            place = self.shape(node)
            require(
                name in _VIEWS and len(place) == 3 and place[0] == order.numel(),
                f"{node.name!r}{where(node)} reshapes channels to {place}; only a shuffle of channels will do",
            )
            self._channels(node, source, order.flatten())

    def _upsample(self, node: fx.Node, x: fx.Node) -> None:
        before, after = self.shape(x)[1:], self.shape(node)[1:]
        factors = tuple(b // a for a, b in zip(before, after, strict=True))
        require(
            all(a * f == b for a, b, f in zip(before, after, factors, strict=True)),
            f"{node.name!r}{where(node)} brings {before} to {after}; only whole factors will do",
        )
        self.emit(node, "upsample", (self.input(node, 0),), kernel=factors)
