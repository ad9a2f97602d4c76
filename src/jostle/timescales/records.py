"""What is kept of networks in training: where each stands, every test it took, its checkpoints."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.timescales.curricula import Curriculum, Ns
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.tasks import MemoryTask


@dataclass
class Learner:
    """One network on its way through a curriculum."""

    network: MemoryNetwork
    curriculum: Curriculum
    optimiser: torch.optim.Optimizer
    draws: torch.Generator
    active: Ns
    status: str = "learning"
    clipped: Tensor = field(default_factory=lambda: torch.zeros(()))
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)

    @property
    def heads(self) -> list[int]:
        """The heads that answer the active Ns."""
        return [self.curriculum.head(N, self.active) for N in self.active]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's parameters, on the processor."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}


@dataclass
class CurriculumRun:
    """Networks in training, and all that was recorded of them.

    `rows` holds one record for each test: network, newest N, steps, seconds, accuracy of the newest N and of
    the mean over active heads (on the sequences that were needed to decide), whether the gate was passed,
    mean, SD and maximum of the raw and mean of the effective time constants, the share of neurons at or below
    the bound (with the faithful clamp those below it are stuck), the share of steps whose gradient was
    clipped, and the spectral radius where a gate was passed.
    """

    learners: list[Learner]
    task: MemoryTask
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    lengths: torch.Generator = field(default_factory=torch.Generator)

    @property
    def networks(self) -> list[MemoryNetwork]:
        """The networks as they are now."""
        return [learner.network for learner in self.learners]

    def solved(self, network: int = 0) -> int:
        """The largest N that a network has passed; 0 if none."""
        return max((row["N"] for row in self.rows if row["network"] == network and row["passed"]), default=0)

    def steps_to(self, N: int, network: int = 0) -> int | None:
        """The step at which a network passed N, or `None`."""
        passed = [r["steps"] for r in self.rows if r["network"] == network and r["passed"] and r["N"] >= N]
        return min(passed, default=None)

    def checkpoint(self, N: int, network: int = 0) -> MemoryNetwork:
        """A copy of a network as it was when it passed N.

        **Raises:** `JostleError` if it did not, or that checkpoint was not kept.
        """
        learner = self.learners[network]
        kept = ", ".join(map(str, learner.kept)) or "none"
        require(N in learner.kept, f"network {network} has no checkpoint of N = {N}; there are: {kept}")
        network_copy = copy.deepcopy(learner.network)
        network_copy.load_state_dict(learner.kept[N])
        return network_copy

    def table(self) -> dict[str, list[Any]]:
        """The record as columns, ready for `pandas.DataFrame(run.table())`."""
        return {name: [row[name] for row in self.rows] for name in (self.rows[0] if self.rows else ())}

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs: tensors, numbers, strings, and lists and dicts of these."""
        return {
            "task": self.task.name,
            "steps": self.steps,
            "seconds": self.seconds,
            "rows": self.rows,
            "lengths": self.lengths.get_state(),
            "learners": [
                {
                    "about": _about(learner),
                    "network": learner.network.state_dict(),
                    "optimiser": learner.optimiser.state_dict(),
                    "draws": learner.draws.get_state(),
                    "active": list(learner.active),
                    "status": learner.status,
                    "clipped": learner.clipped,
                    "kept": learner.kept,
                    "last": learner.last,
                }
                for learner in self.learners
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned.

        **Raises:** `JostleError` if it belongs to another task, curriculum or kind of network.
        """
        require(
            state["task"] == self.task.name,
            f"resume holds a training on {state['task']}, but the task is {self.task.name}",
        )
        wanted, came = [_about(learner) for learner in self.learners], [r["about"] for r in state["learners"]]
        require(wanted == came, f"resume holds the networks {came}, but {wanted} are to be trained")
        self.steps, self.seconds, self.rows = state["steps"], state["seconds"], list(state["rows"])
        self.lengths.set_state(state["lengths"])
        for learner, record in zip(self.learners, state["learners"], strict=True):
            learner.network.load_state_dict(record["network"])
            learner.optimiser.load_state_dict(record["optimiser"])
            learner.draws.set_state(record["draws"])
            learner.active, learner.status = tuple(record["active"]), record["status"]
            learner.clipped = record["clipped"].to(learner.clipped)
            learner.kept, learner.last = dict(record["kept"]), record["last"]


def _about(learner: Learner) -> str:
    network = learner.network
    placement = f", {network.placement}, {network.nonlinearity}" if isinstance(network, LeakyRNN) else ""
    kind = f"{type(network).__name__}({network.hidden}, {network.heads} heads{placement})"
    return f"{kind} by {learner.curriculum}"
