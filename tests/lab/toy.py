"""A toy study for the tests of the lab. As a script it runs or resumes itself: `toy.py ROOT [FOLDER]`."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jostle.lab import Claim, Run, Stage, Study
from jostle.lab.rooms import Room

ROOM = Room(
    "toy",
    "Damped response of a toy",
    "A Toy That Is Nudged <and Answers>",
    2024,
    "2401.00001",
    "How a damped system comes to rest after one nudge, and what that says about its stiffness.",
)


@dataclass(frozen=True)
class Nudge:
    radius: float = 0.0392156862745098
    norm: str = "Linf"


@dataclass(frozen=True)
class Config:
    steps: int = 40
    rate: float = 0.1
    layers: tuple[int, ...] = (3, 5)
    limit: int | None = None
    nudge: Nudge = field(default_factory=Nudge)
    fail: bool = False
    pause: float = 0.0
    seed: int = 0


def run(config: Config, run: Run) -> dict:
    import time

    def draw(stage: Stage) -> list[float]:
        values = torch.rand(5, generator=run.generator("draw")).tolist()
        for value in values:
            run.log(stage="draw", value=value)
        return values

    def walk(stage: Stage) -> dict:
        stage.every = 0.0
        generator = run.generator("walk")
        state = {"step": 0, "x": torch.zeros(3, dtype=torch.float64)}
        if (kept := stage.load()) is not None:
            state = {"step": kept["step"], "x": kept["x"]}
            generator.set_state(kept["generator"])
        with run.progress("walking", config.steps) as advance:
            for step in range(state["step"], config.steps):
                nudge = torch.randn(3, generator=generator, dtype=torch.float64)
                state = {"step": step + 1, "x": state["x"] * (1 - config.rate) + config.rate * nudge}
                run.log(stage="walk", step=step, norm=float(state["x"].norm()))
                advance(f"norm {state['x'].norm():.2f}")
                time.sleep(config.pause)
                now = state
                stage.save(lambda now=now: {**now, "generator": generator.get_state()})
        if config.fail:
            raise ArithmeticError("the toy broke")
        return {"x": state["x"]}

    drawn = run.stage("draw", draw)
    run.log(stage="between", drawn=len(drawn))
    end = run.stage("walk", walk)
    tail = run.stage("tail", lambda stage: torch.rand(2, generator=run.generator("tail")).tolist())
    return {
        "drawn": drawn,
        "end": {"norm": float(end["x"].norm()), "x": end["x"]},
        "tail": tail,
        "infinite": math.inf,
    }


CLAIMS = (
    Claim(
        "TOY-1", "it comes to rest", "norm below 1", "quick",
        lambda m: f"{m['end']['norm']:.3f}", lambda m: m["end"]["norm"] < 1,
    ),
    Claim(
        "TOY-2", "it leaves", "norm above 9", "quick",
        lambda m: f"{m['end']['norm']:.3f}", lambda m: m["end"]["norm"] > 9,
    ),
    Claim("TOY-3", "it does so at scale", "not stated", "paper", lambda m: None, lambda m: False),
)  # fmt: skip

STUDY = Study("toy", {"quick": Config(), "paper": Config(steps=400)}, run, CLAIMS)


def enter(setitem) -> None:
    """Enter the toy in the table of rooms, through `setitem(mapping, key, value)`."""
    from types import ModuleType

    from jostle.lab.rooms import ROOMS

    setitem(ROOMS, "toy", ROOM)
    module = ModuleType("jostle.toy.study")
    module.STUDY = STUDY  # type: ignore[attr-defined]
    setitem(sys.modules, "jostle.toy", ModuleType("jostle.toy"))
    setitem(sys.modules, "jostle.toy.study", module)


if __name__ == "__main__":
    from jostle import lab

    enter(lambda mapping, key, value: mapping.__setitem__(key, value))
    if len(sys.argv) == 2:
        lab.run("toy", root=Path(sys.argv[1]), pause=0.01)
    else:
        lab.resume(Path(sys.argv[2]))
