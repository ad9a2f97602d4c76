"""The study's craftings, each a task that a worker can do alone: from plain settings to plain results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jostle.core.budgets import Linf
from jostle.core.errors import require
from jostle.universal.craft import prepare
from jostle.universal.objective import Objective
from jostle.universal.priors import DataPrior, Prior
from jostle.universal.recipes import RECIPES
from jostle.universal.schedule import ScheduleName
from jostle.zoo import Images, load_data, load_model

LOOKS = (1, 10, 25, 50, 75, 100, 150, 300, 1000, 3000, 10_000)


@dataclass(frozen=True)
class Task:
    """One crafting; `shape`: of an image; `seed`: of its draws; the rest as in the study."""

    model: str
    weights: str | None
    method: str
    radius: float
    schedule: ScheduleName
    steps: int
    data_prior: str | None
    substitute: str | None
    shape: tuple[int, int, int]
    seed: int

    @property
    def length(self) -> int:
        """Steps; 0 for the schedule's own."""
        recipe = RECIPES.get(self.method)
        return self.steps or (0 if recipe is None else recipe.steps)


def network(model: str, weights: str | None) -> nn.Module:
    """The network by name; random weights, where it has no others, are the same in every process."""
    torch.manual_seed(0)
    return load_model(model, weights)


def craft_task(
    task: Task, state: Mapping[str, Any] | None, save: Callable[[Callable[[], Any]], None]
) -> dict[str, Any]:
    """Craft: `delta`, `record`, `history`, and `shots`, how it stood at the steps of `LOOKS`.

    `state`: of a crafting that was cut off. `save`: gets what gives such a state, after each step.
    """
    recipe, substitute = RECIPES.get(task.method), None
    if task.substitute is not None:
        substitute = load_data(task.substitute, size=task.shape[1]).subset(range(1000))
    crafting = prepare(
        network(task.model, task.weights),
        Linf(task.radius),
        prior=_prior(task) if recipe is None else recipe.prior,
        objective=Objective() if recipe is None else recipe.objective,
        schedule=task.schedule,
        steps=task.length or None,
        substitute=substitute,
        shape=task.shape,
        generator=torch.Generator().manual_seed(task.seed),
    )
    shots: dict[int, Tensor] = {}
    if state is not None:
        crafting.load_state_dict(state["crafting"])
        shots = state["shots"]
    with crafting:
        while not crafting.done:
            crafting.step()
            if crafting.t in LOOKS:
                shots[crafting.t] = crafting.delta.detach().clone()
            save(lambda: {"crafting": crafting.state_dict(), "shots": dict(shots)})
    up = crafting.result()
    return {"delta": up.delta, "record": up.record, "history": list(up.history), "shots": shots}


def _prior(task: Task) -> Prior | str:
    require(
        task.method in ("none", "range", "smooth", "data"),
        f"methods must be of none, range, smooth, data, {', '.join(RECIPES)}, but {task.method!r} came",
    )
    if task.method != "data":
        return task.method
    assert task.data_prior is not None
    return DataPrior(strided(load_data(task.data_prior, size=task.shape[1]), 500).tensors()[0])


def strided(images: Images, count: int) -> Images:
    """So many images from all over a set."""
    step = max(1, len(images) // count)
    return images.subset(range(0, len(images), step)[:count])
