"""What a client remembers between its rounds, kept so that a lost reply cannot spoil it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.files import whole

NEVER = -1
"""The round of who has not taken part yet."""


class LostState(JostleError):
    """A client has no state for a round that the server has accepted from it."""


@dataclass
class Memory:
    """A client's vectors in two phases.

    Server and clients hold two halves of one sum. After a round the client keeps its new vectors as *pending*; the
    server's next message names the last round whose reply it accepted, and only then the pending vectors are
    committed; otherwise they are dropped. So both halves always tell the same story, whatever was lost on the way.

    `committed`: vectors after round `round`, empty before the first. `pending`: after round `pending_round`.
    `generation`: the server's count of resets; vectors of an earlier one are void.

    >>> import torch
    >>> memory = Memory()
    >>> memory.propose(0, {"h": torch.ones(2)})
    >>> memory.recall(accepted=-1)  # the reply was lost
    {}
    >>> memory.propose(1, {"h": torch.ones(2)})
    >>> memory.recall(accepted=1)
    {'h': tensor([1., 1.])}
    """

    committed: dict[str, Tensor] = field(default_factory=dict)
    round: int = NEVER
    pending: dict[str, Tensor] = field(default_factory=dict)
    pending_round: int = NEVER
    generation: int = 0

    def recall(self, accepted: int, generation: int = 0) -> dict[str, Tensor]:
        """Settle what is pending and give the vectors to start from; none for zeros.

        **Arguments:** `accepted`: the last round whose reply the server accepted, -1 for none.
        **Raises:** `LostState` if that round's vectors are not here.
        """
        if generation != self.generation:
            require(
                generation > self.generation,
                f"the server's generation must not go back, but {generation} came after {self.generation}",
            )
            self.committed, self.round, self.generation = {}, NEVER, generation
            self.pending, self.pending_round = {}, NEVER
        if self.pending_round != NEVER and self.pending_round == accepted:
            self.committed, self.round = self.pending, self.pending_round
        self.pending, self.pending_round = {}, NEVER
        if self.round != accepted:
            raise LostState(
                f"the server accepted round {accepted} of this client, whose memory "
                + (f"ends with round {self.round}" if self.round != NEVER else "is empty")
            )
        return self.committed

    def propose(self, round: int, vectors: Mapping[str, Tensor]) -> None:
        """Keep the vectors after `round` as pending."""
        self.pending, self.pending_round = dict(vectors), round

    def restore(self, round: int, vectors: Mapping[str, Tensor], generation: int = 0) -> None:
        """Take back from the server's copy what was lost here."""
        self.committed, self.round, self.generation = dict(vectors), round, generation
        self.pending, self.pending_round = {}, NEVER

    def tensors(self) -> dict[str, Tensor]:
        """All vectors, under names that say which phase they are in."""
        return {
            **{f"committed.{name}": value for name, value in self.committed.items()},
            **{f"pending.{name}": value for name, value in self.pending.items()},
        }

    def numbers(self) -> dict[str, int]:
        """Rounds and generation."""
        return {"round": self.round, "pending_round": self.pending_round, "generation": self.generation}

    @classmethod
    def rebuilt(cls, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> "Memory":
        """What `tensors` and `numbers` describe."""
        split: dict[str, dict[str, Tensor]] = {"committed": {}, "pending": {}}
        for name, value in tensors.items():
            phase, _, slot = name.partition(".")
            split[phase][slot] = value
        return cls(
            split["committed"],
            int(numbers["round"]),
            split["pending"],
            int(numbers["pending_round"]),
            int(numbers["generation"]),
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        from safetensors.torch import save

        note = {"memory": json.dumps(self.numbers())}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.tensors().items()}
        with whole(path) as draft:
            draft.write_bytes(save(tensors, metadata=note))

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Read what `save` wrote; an absent file is an empty memory.

        **Raises:** `JostleError` if the file is broken.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).exists():
            return cls()
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                return cls.rebuilt(tensors, json.loads((file.metadata() or {})["memory"]))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise JostleError(
                f"the client's memory {path} cannot be read ({type(error).__name__}); delete it and let the "
                "server reset or restore"
            ) from error
