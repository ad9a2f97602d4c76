"""How the clients of a round are run on this machine: one after another, or all in one batched pass."""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from jostle.core.errors import JostleError
from jostle.federated.clients import Plan
from jostle.federated.dropout import Noise, listen, masks
from jostle.federated.flat import FlatModel
from jostle.federated.local import Gradient
from jostle.federated.randomness import DROPOUT, torch_stream

Engine = Literal["sequential", "batched", "auto"]


def gradient_of(flat: FlatModel, engine: Engine) -> Gradient:
    """The gradient that an engine takes."""
    return flat.batched if engine == "batched" else flat.one


def chunks(active: Sequence[int], engine: Engine, size: int | None) -> list[list[int]]:
    """The active clients as they run together.

    >>> chunks([1, 4, 5], "batched", 2), chunks([1, 4], "sequential", None)
    ([[1, 4], [5]], [[1], [4]])
    """
    step = 1 if engine == "sequential" else size or max(1, len(active))
    return [list(active[i : i + step]) for i in range(0, len(active), step)]


def noise_of(
    flat: FlatModel,
    seed: int,
    t: int,
    ids: Sequence[int],
    data: Sequence[tuple[Tensor, Tensor]],
    plans: list[Plan],
) -> Callable[[int, int], Noise] | None:
    """Dropout masks that depend on seed, round, client and step alone; `None` for a network without dropout."""
    if flat.dropout is None:
        x = data[0][0]
        flat.dropout = bool(listen(flat.module, x[plans[0].at(0).to(x.device)]))
    if not flat.dropout:
        return None
    shapes: dict[int, list[tuple[torch.Size, float]]] = {}

    def make(i: int, k: int) -> Noise:
        chosen = plans[i].at(k)
        if len(chosen) not in shapes:
            x = data[i][0]
            shapes[len(chosen)] = listen(flat.module, x[chosen.to(x.device)])
        return masks(shapes[len(chosen)], torch_stream(DROPOUT, seed, t, ids[i], k), flat.kind, flat.device)

    return make


def choose(
    flat: FlatModel,
    data: Sequence[tuple[Tensor, Tensor]],
    plans: Sequence[Plan],
    noise: Callable[[int, int], Noise] | None = None,
) -> tuple[Engine, str]:
    """Time both engines on one step of these clients, and take the faster.

    **Returns:** the engine, and why the batched one cannot be had, if it cannot.
    """
    if len(plans) == 1:  # nothing to batch
        return "sequential", ""
    size = min(plan.width(0) for plan in plans)
    x, y = (torch.stack([held[part][:size] for held in data]) for part in (0, 1))
    v = flat.start.expand(len(plans), -1).contiguous()
    drop: Noise = ()
    if noise is not None:
        masks_of = [tuple(mask[:size] for mask in noise(i, 0)) for i in range(len(plans))]
        drop = tuple(torch.stack(one) for one in zip(*masks_of, strict=True))

    def together() -> None:
        flat.batched(v, x, y, drop)

    def apart() -> None:
        for i in range(len(plans)):
            flat.one(v[i : i + 1], x[i : i + 1], y[i : i + 1], tuple(mask[i : i + 1] for mask in drop))

    try:
        together()
    except JostleError as error:
        return "sequential", str(error)
    flat.record(v, x, y, drop)
    apart()
    return ("batched" if _best(together, flat.device) <= _best(apart, flat.device) else "sequential"), ""


def _best(work: Callable[[], None], device: torch.device, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        _settle(device)
        started = time.perf_counter()
        work()
        _settle(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
