"""Trainings on several GPUs or nodes, through Lightning Fabric: every process runs the study, the first keeps it."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from jostle.core.errors import JostleError, optional
from jostle.core.training import on_fabric
from jostle.lab.rooms import load_study
from jostle.lab.runs import Run
from jostle.lab.study import rebuild


@dataclass(frozen=True)
class Processes:
    """On how many processes a study trains, and in which precision.

    **Arguments:** `devices`: GPUs of a node, or processes where the study runs on CPUs. `nodes`: how many; with more
    than one, start the same command on each by `torchrun` or `srun`. `precision`: of the trainings' forward passes,
    `32-true`, `bf16-mixed` or `16-mixed`.
    """

    devices: int = 1
    nodes: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise JostleError(f"{name} must be at least 1, but {getattr(self, name)} came")
        if self.precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise JostleError(
                f"precision must be 32-true, bf16-mixed or 16-mixed, but {self.precision!r} came"
            )

    def fabric(self, device: str) -> Any:
        """A Fabric for these processes; `device` is the study's own setting.

        **Raises:** `JostleError` where there are fewer GPUs, or where several nodes were asked for and nobody has
        started the other processes.
        """
        Fabric = optional("lightning.fabric", "fabric").Fabric
        gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        if gpu and torch.cuda.device_count() < self.devices:
            raise JostleError(
                f"devices must be at most {torch.cuda.device_count()} here, but {self.devices} came"
            )
        several = self.devices * self.nodes > 1
        if self.nodes > 1 and not started_outside():
            raise JostleError(
                f"nodes is {self.nodes}, but this process stands alone: start the command on every node, as in "
                f"torchrun --nnodes {self.nodes} --nproc-per-node {self.devices} ... -m jostle run ..."
            )
        strategy = ("ddp" if started_outside() else "ddp_spawn") if several else "auto"
        return Fabric(
            accelerator="cuda" if gpu else "cpu",
            devices=self.devices,
            num_nodes=self.nodes,
            precision=self.precision,
            strategy=strategy,
        )


ALONE = Processes()
"""This process, and nothing to ask Fabric for."""


def started_outside() -> bool:
    """Whether `torchrun` or `srun` has started this process and its like."""
    return torch.distributed.is_torchelastic_launched() or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def member(
    fabric: Any,
    keep: Callable[[Run], Any],
    follow: Callable[[Run], Any],
    about: tuple[Path, str, str, dict[str, Any]],
    seen: Path | None,
) -> None:
    """What each process does: the first works in the run's own folder, the others in one that is thrown away.

    **Arguments:** `keep`, `follow`: the work of the first and of the others, importable by name. `about`: the run's
    folder (which only the first uses), method, preset and settings. `seen`: the folder of a run that is resumed:
    all start from its checkpoints.
    """
    folder, key, preset, settings = about
    config = rebuild(type(load_study(key).config(preset)), settings)
    with on_fabric(fabric):
        if fabric.is_global_zero:
            fabric.barrier()  # until the others have seen what was there
            keep(Run(folder, key, preset, config))
            return
        with tempfile.TemporaryDirectory(prefix="jostle-") as scratch:
            if seen is not None and (seen / "checkpoints").is_dir():
                shutil.copytree(seen / "checkpoints", Path(scratch) / "checkpoints")
            fabric.barrier()
            follow(Run(Path(scratch), key, preset, config, console=Console(quiet=True)))
