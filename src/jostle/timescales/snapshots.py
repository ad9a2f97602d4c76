"""A trained leaky network in a file: weights, settings, and what it was trained on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jostle.core.errors import JostleError
from jostle.files import write_tensors
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.tasks import NDMS, MemoryTask, NParity
from jostle.zoo.weights import require_finite

TaskName = Literal["parity", "dms"]
TASKS: dict[str, type[MemoryTask]] = {"parity": NParity, "dms": NDMS}
_SETTINGS = ("placement", "nonlinearity", "slope", "bound", "substeps", "self_connections")


@dataclass(frozen=True)
class Snapshot:
    """A leaky network with the task it knows.

    **Arguments:** `network`. `task`: `"parity"` or `"dms"`. `N`: the largest N it passed, 0 for none. `head`:
    the readout that answers it. `record`: numbers of its training.

    >>> Snapshot(LeakyRNN(4), "parity", 3, 0).numbers()["N"]
    3
    """

    network: LeakyRNN
    task: TaskName
    N: int
    head: int
    record: Mapping[str, Any] = field(default_factory=dict)

    def memory_task(self) -> MemoryTask:
        """The task, with its own law of inputs."""
        return TASKS[self.task]()

    def numbers(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        tau = self.network.tau.detach()
        return {
            "task": self.task,
            "N": self.N,
            "hidden": self.network.hidden,
            "tau_mean": float(tau.mean()),
            "tau_max": float(tau.max()),
            "radius": self.network.spectral_radius(),
            **self.record,
        }

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        net = self.network
        about = {
            "hidden": net.hidden,
            "heads": net.heads,
            "shared_tau": len(net.tau_raw) == 1 < net.hidden,
            "train_tau": net.tau_raw.requires_grad,
            **{name: getattr(net, name) for name in _SETTINGS},
        }
        rest = {name: value for name, value in asdict(self).items() if name != "network"}
        metadata = {"jostle.timescales": json.dumps({"network": about, **rest})}
        write_tensors(path, net.state_dict(), metadata)

    @classmethod
    def load(cls, path: Path) -> "Snapshot":
        """Read what `save` wrote.

        **Raises:** `JostleError` if the file is absent or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as held:
                about = json.loads((held.metadata() or {})["jostle.timescales"])
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            settings = about.pop("network")
            settings["substeps"] = tuple(settings["substeps"])
            network = LeakyRNN(**settings)
            network.load_state_dict(tensors)
            found = cls(network, **about)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise JostleError(f"{path} is not a network of jostle timescales: {error}") from error
        require_finite(network, str(path))
        return found
