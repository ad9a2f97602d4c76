"""A trained network in a file: weights, settings, and what it was trained on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from jostle.core.errors import JostleError, require
from jostle.files import write_tensors
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.tasks import NDMS, MemoryTask, NParity
from jostle.zoo.networks import user_function
from jostle.zoo.weights import require_finite

TaskName = Literal["parity", "dms"]
TASKS: dict[str, type[MemoryTask]] = {"parity": NParity, "dms": NDMS}
_SETTINGS = ("placement", "nonlinearity", "slope", "bound", "substeps", "self_connections")


@dataclass(frozen=True)
class Snapshot:
    """A network with the task it knows.

    **Arguments:** `network`: leaky, or any other. `task`: `"parity"` or `"dms"`. `N`: the largest N it
    passed, 0 for none. `head`: the readout that answers it. `record`: numbers of its training.

    >>> Snapshot(LeakyRNN(4), "parity", 3, 0).numbers()["N"]
    3
    """

    network: MemoryNetwork
    task: TaskName = "parity"
    N: int = 0
    head: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)

    suffix: ClassVar[str] = ".safetensors"

    def memory_task(self) -> MemoryTask:
        """The task, with its own law of inputs."""
        return TASKS[self.task]()

    def numbers(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        net = self.network
        found = {"task": self.task, "N": self.N, "hidden": net.hidden}
        if isinstance(net, LeakyRNN):
            tau = net.tau.detach()
            found |= {
                "tau_mean": float(tau.mean()),
                "tau_max": float(tau.max()),
                "radius": net.spectral_radius(),
            }
        return {**found, **self.record}

    def save(self, path: Path) -> None:
        """Write it as safetensors.

        **Raises:** `JostleError` if the network is not a `LeakyRNN`: only its settings are known.
        """
        net = self.network
        require(isinstance(net, LeakyRNN), f"only a LeakyRNN is saved, but a {type(net).__name__} came")
        assert isinstance(net, LeakyRNN)
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
    def load(cls, path: str | Path) -> "Snapshot":
        """Read what `save` wrote; or take what a function of yours gives, named `FILE.py:FUNCTION`: a `Snapshot`,
        or a network.

        **Raises:** `JostleError` if the file is absent or something else.
        """
        if ".py:" in str(path):
            made = user_function(str(path), "snapshot")()
            if isinstance(made, MemoryNetwork):
                return cls(made)
            kind = type(made).__name__
            require(
                isinstance(made, cls), f"{path} must give a Snapshot or a memory network, but a {kind} came"
            )
            return made
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
