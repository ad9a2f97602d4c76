"""What all memory networks share: a state that steps, units to record, one readout of two classes a head."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require


class MemoryNetwork(nn.Module, ABC):
    """A recurrent network with one input channel and one readout of two classes for each head.

    A subclass says how the state starts (`initial_state`), steps (`step`) and is recorded (`units`). All that
    trains, measures and perturbs works on this interface; `states` may be overridden with something faster.

    **Arguments:** `hidden`: recorded units. `heads`: readouts. `generator`: source of the initial weights.
    **Raises:** `JostleError` if `hidden` or `heads` is below 1.
    """

    alive: Tensor

    def __init__(self, hidden: int, heads: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        require(hidden >= 1, f"hidden must be at least 1, but {hidden} came")
        require(heads >= 1, f"heads must be at least 1, but {heads} came")
        self.hidden, self.heads = hidden, heads
        self.head_weight = uniform((heads, 2, hidden), hidden, generator)
        self.head_bias = uniform((heads, 2), hidden, generator)
        self.register_buffer("alive", torch.ones(hidden))

    def initial_state(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """The state before the first step: zeros of shape `(batch, hidden)` unless the network says
        otherwise."""
        return self.head_weight.new_zeros(batch, self.hidden)

    @abstractmethod
    def step(self, x: Float[Tensor, " batch"], state: Any) -> Any:
        """The state after one more input, before ablated units are silenced."""

    @abstractmethod
    def recurrent(self) -> list[nn.Parameter]:
        """The recurrent weights, which `perturb(kind="weights")` pushes."""

    def units(self, state: Any) -> Float[Tensor, "batch hidden"]:
        """What is recorded and read out of a state."""
        return state[0] if isinstance(state, tuple) else state

    def silence(self, state: Any) -> Any:
        """The state with the ablated units at zero."""
        if isinstance(state, tuple):
            return tuple(part * self.alive for part in state)
        return state * self.alive

    def states(
        self, x: Float[Tensor, "batch time"], state: Any = None, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], Any]:
        """Run over a batch of sequences.

        **Arguments:** `x`: the inputs. `state`: where to start; default `initial_state`. `generator`: for the
        latter.
        **Returns:** the units after every step, and the last state.
        """
        state = self.silence(self.initial_state(len(x), generator) if state is None else state)
        seen = []
        for x_t in x.unbind(1):
            state = self.silence(self.step(x_t, state))
            seen.append(self.units(state))
        return torch.stack(seen), state

    def final(
        self, x: Float[Tensor, "batch time"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """The units after the last step, from a fresh initial state."""
        return self.states(x, generator=generator)[0][-1]

    def readout(
        self, units: Float[Tensor, "*batch hidden"], heads: Sequence[int]
    ) -> Float[Tensor, "*batch heads classes"]:
        """Logits of the chosen heads, as one matrix product."""
        top = max(heads)
        require(top < self.heads, f"head {top} is asked, but the network has {self.heads} heads")
        pick: Any = run_of(heads)
        weight, bias = self.head_weight[pick], self.head_bias[pick]
        logits = nn.functional.linear(units, weight.flatten(0, 1), bias.flatten())
        return logits.unflatten(-1, (len(heads), 2))

    def forward(
        self,
        x: Float[Tensor, "batch time"],
        heads: Sequence[int] = (0,),
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch heads classes"]:
        """Logits of the chosen heads at the end of each sequence."""
        return self.readout(self.final(x, generator), heads)


def run_of(numbers: Sequence[int], offset: int = 0) -> slice | list[int]:
    """An index for numbers less `offset`: a slice if they follow one another.

    A slice is free, where a list is copied to the device, which on a GPU waits for all work before it.

    >>> run_of([3, 4, 5]), run_of([3, 5], 1)
    (slice(3, 6, None), [2, 4])
    """
    first = numbers[0] - offset
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(first, first + len(numbers))
    return [number - offset for number in numbers]


def uniform(shape: Sequence[int], fan_in: int, generator: torch.Generator | None = None) -> nn.Parameter:
    """A parameter drawn from `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`, the default of torch's own linear layer.

    >>> bool(uniform((3, 4), 4).abs().max() <= 0.5)
    True
    """
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))
