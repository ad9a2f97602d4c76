"""A study of one training, as a script: `shared_training.py run toy ...` is `jostle run toy ...`.

Processes that are started for it import it again, so the study is entered on import.
"""

import os
import signal
import sys
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from jostle.core.training import Trainer, fabric_here, minibatches
from jostle.lab import Claim, Run, Stage, Study
from jostle.lab.rooms import ROOMS, Room


@dataclass(frozen=True)
class Config:
    """`kill`: the step before which the process that keeps the folder dies, once a folder."""

    epochs: int = 3
    clip: float = 0.5
    kill: int = -1
    double: bool = True
    device: str = "cpu"
    seed: int = 0


def run(config: Config, run: Run) -> dict:
    generator = run.generator("data")
    kind = torch.float64 if config.double else torch.float32
    x = torch.randn(47, 3, generator=generator, dtype=torch.float64).to(kind)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(kind)

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (net(batch[0]) - batch[1]).square().mean()

    def work(stage: Stage) -> dict:
        stage.every = 0.0
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        fit, losses = Trainer(net, optimiser, loss, clip=config.clip), []
        if (kept := stage.load()) is not None:
            fit.load_state_dict(kept["fit"])
            losses = list(kept["losses"])
        first = fabric_here() is None or fabric_here().is_global_zero

        def after(fit: Trainer) -> None:
            losses.append(fit.last)
            stage.save({"fit": fit.state_dict(), "losses": losses})
            dead = run.folder / "dead"
            if first and fit.step == config.kill and not dead.exists():
                dead.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        # Shares of 4 and 3 rows, and of 3 and 2 at the end of an epoch.
        order = run.generator("order")
        fit.run(minibatches(x, y, size=7, epochs=config.epochs, generator=order, skip=fit.step), after)
        return {"losses": losses, "state": dict(net.state_dict())}

    made = run.stage("training", work)
    world = 1 if fabric_here() is None else fabric_here().world_size
    return {
        "losses": made["losses"],
        "weights": [w.tolist() for w in made["state"].values()],
        "world": world,
    }


CLAIMS = (Claim("TOY", "it learns", "—", "quick", lambda m: "", lambda m: m["losses"][-1] < m["losses"][0]),)
ROOMS["toy"] = Room("toy", "Shared training", "None", 2024, "2401.00001", "A training on several processes.")
sys.modules["jostle.toy"] = ModuleType("jostle.toy")
sys.modules["jostle.toy.study"] = ModuleType("jostle.toy.study")
sys.modules["jostle.toy.study"].STUDY = Study(  # type: ignore[attr-defined]
    "toy", {"quick": Config()}, run, CLAIMS, data_parallel=True
)

if __name__ == "__main__":
    from jostle.cli import main

    sys.exit(main(sys.argv[1:]))
