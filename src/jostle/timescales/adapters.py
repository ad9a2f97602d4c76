"""Other cells in the same harness: torch's LSTM, GRU and RNN, and a cell of the user's own."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.timescales.networks import MemoryNetwork


class GatedRNN(MemoryNetwork):
    """torch's own LSTM, GRU or plain (tanh) RNN with readouts, from a zero state.

    **Arguments:** `kind`: which. `hidden`, `heads`: as everywhere. `generator`: source of the initial
    weights.

    >>> GatedRNN("gru", hidden=6, heads=2)(torch.ones(3, 5), heads=[1]).shape
    torch.Size([3, 1, 2])
    """

    def __init__(
        self,
        kind: Literal["lstm", "gru", "rnn"] = "lstm",
        hidden: int = 500,
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        require(kind in kinds, f"kind must be one of {', '.join(kinds)}, but {kind!r} came")
        super().__init__(hidden, heads, generator)
        self.cell = kinds[kind](1, hidden)
        for parameter in self.cell.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5, generator=generator)

    def initial_state(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """Zeros, for an LSTM one for the output and one for its cell."""
        zero = self.head_weight.new_zeros(batch, self.hidden)
        return (zero, zero) if isinstance(self.cell, nn.LSTM) else zero

    def step(self, x: Float[Tensor, " batch"], state: Any) -> Any:
        """One step of the cell."""
        return self._run(x[:, None], state)[1]

    def states(
        self, x: Float[Tensor, "batch time"], state: Any = None, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], Any]:
        """Run over a batch of sequences, in torch's fused loop unless a unit is ablated."""
        if not bool(self.alive.all()):
            return super().states(x, state, generator)
        return self._run(x, self.initial_state(len(x)) if state is None else state)

    def _run(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        layered = tuple(part[None] for part in state) if isinstance(state, tuple) else state[None]
        seen, last = self.cell(x.T[..., None].to(self.head_weight.dtype), layered)
        return seen, tuple(part[0] for part in last) if isinstance(last, tuple) else last[0]

    def recurrent(self) -> list[nn.Parameter]:
        """The hidden-to-hidden weights of all gates."""
        return [self.cell.get_parameter("weight_hh_l0")]


class CellNetwork(MemoryNetwork):
    """A cell of the user's own, with readouts: all that trains, measures and perturbs works on it.

    **Arguments:** `cell`: a module called as `cell(x, state) -> state` with `x` of shape `(batch, 1)`, such
    as `torch.nn.GRUCell(1, 64)`. `hidden`: recorded units. `heads`: readouts. `initial`: `initial(batch) ->
    state`; default zeros `(batch, hidden)`, two of them for an `LSTMCell`. `units`: what is recorded of a
    state; default the state, or the first of a tuple. `recurrent`: names of the recurrent weights in the
    cell, for weight perturbations. An ablation multiplies each tensor of the state by a mask of `hidden`
    numbers.

    >>> net = CellNetwork(nn.GRUCell(1, 8), hidden=8, heads=2)
    >>> net(torch.ones(3, 5), heads=[0, 1]).shape
    torch.Size([3, 2, 2])
    """

    def __init__(
        self,
        cell: nn.Module,
        hidden: int,
        heads: int = 1,
        *,
        initial: Callable[[int], Any] | None = None,
        units: Callable[[Any], Tensor] | None = None,
        recurrent: tuple[str, ...] = ("weight_hh",),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(hidden, heads, generator)
        self.cell, self._initial, self._units, self._names = cell, initial, units, recurrent

    def initial_state(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """What `initial` gives, or zeros."""
        if self._initial is not None:
            return self._initial(batch)
        zero = self.head_weight.new_zeros(batch, self.hidden)
        return (zero, zero) if isinstance(self.cell, nn.LSTMCell) else zero

    def step(self, x: Float[Tensor, " batch"], state: Any) -> Any:
        """One call of the cell."""
        return self.cell(x[:, None].to(self.head_weight.dtype), state)

    def units(self, state: Any) -> Float[Tensor, "batch hidden"]:
        """What `units` gives, or the state, or the first of a tuple."""
        seen = super().units(state) if self._units is None else self._units(state)
        require(
            seen.shape[-1] == self.hidden,
            f"hidden must be the {seen.shape[-1]} units that the cell's state gives, but {self.hidden} came",
        )
        return seen

    def recurrent(self) -> list[nn.Parameter]:
        """The weights that were named."""
        held = dict(self.cell.named_parameters())
        for name in self._names:
            require(name in held, f"recurrent names {name!r}, but the cell has {', '.join(held)}")
        return [held[name] for name in self._names]
