"""`jostle.federated` beside a plain loop over clients, and beside Flower's simulation.

    python benchmarks/federated.py            # the engines
    python benchmarks/federated.py flower     # a round of Flower's simulation on Ray (needs jostle[federated])

One process, one thread, float32, the fastest of several rounds of FedSpeed. The plain loop is written here in the style
of the papers' simulators: a module and an optimiser a client, the correction as a loss, clipping, one client after
another. Both start from the same model and see the same batches; the largest difference of the results is printed.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import copy
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from jostle import __version__
from jostle.federated import Federation, FedSpeed, Local
from jostle.federated.clients import Plan
from jostle.lab.runs import environment

MU, RHO, LR, DECAY, CLIP = 0.1, 0.1, 0.1, 1e-3, 10.0
ROUNDS = 4


def plain_client(
    model: nn.Module, h: Tensor, start: Tensor, data: tuple[Tensor, Tensor], plan: Plan
) -> Tensor:
    """FedSpeed at one client as the simulators write it; returns the client's model as a vector."""
    model = copy.deepcopy(model)
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, weight_decay=DECAY + MU)
    loss_fn, correction = nn.CrossEntropyLoss(), h - start
    for k in range(len(plan)):
        x, y = data[0][plan.at(k)], data[1][plan.at(k)]
        optimiser.zero_grad()
        loss_fn(model(x), y).backward()
        norm = torch.norm(torch.stack([p.grad.norm(2) for p in model.parameters()]), 2)
        with torch.no_grad():
            steps = [p.grad * (RHO / (norm + 1e-7)) for p in model.parameters()]
            for p, e in zip(model.parameters(), steps, strict=True):
                p.add_(e)
        optimiser.zero_grad()
        loss_fn(model(x), y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), steps, strict=True):
                p.sub_(e)
        vector = torch.cat([p.reshape(-1) for p in model.parameters()])
        (MU * torch.sum(vector * correction)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def plain_round(
    model: nn.Module, x: Tensor, h: Tensor, data: list[tuple[Tensor, Tensor]], plans: list[Plan]
) -> tuple[Tensor, Tensor]:
    """All clients of a round, one after another; returns the server's model and the corrections."""
    ends = torch.stack([plain_client(model, h[i], x, data[i], plans[i]) for i in range(len(data))])
    h = h + (ends - x)
    return ends.mean(0) + h.mean(0), h


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def problem(
    model: nn.Module, shape: tuple[int, ...], clients: int, samples: int
) -> list[tuple[Tensor, Tensor]]:
    """Random data: what is timed does not depend on it."""
    g = torch.Generator().manual_seed(0)
    return [
        (torch.randn(samples, *shape, generator=g), torch.randint(10, (samples,), generator=g))
        for _ in range(clients)
    ]


CASES = {
    "MLP 64-32-10, 40 clients": (
        lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), (64,), 40, 20, 10
    ),
    "MLP 64-32-10, 10 clients": (
        lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), (64,), 10, 20, 10
    ),
    "linear 784-10, 10 clients": (lambda: nn.Linear(784, 10), (784,), 10, 20, 20),
    "MLP 784-32-10, 10 clients": (
        lambda: nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)), (784,), 10, 20, 20
    ),
    "CNN 8-16, 28x28, 10 clients": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 10),
        ), (1, 28, 28), 10, 4, 20,
    ),
    "MLP 784-200-200-10, 10 clients": (
        lambda: nn.Sequential(
            nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
        ), (784,), 10, 8, 20,
    ),
}  # fmt: skip
"""Name: network, input shape, clients, local steps, batch."""


def engines() -> None:
    """Plain loop against our engines, round by round."""
    print(f"{'model':34s} {'D':>8s}    plain  sequential  batched  auto | plain over each of ours")
    for name, (make, shape, clients, steps, batch) in CASES.items():
        torch.manual_seed(0)
        model = make()
        data = problem(model, shape, clients, steps * batch)
        local = Local(
            lr=LR, epochs=1, batch_size=batch, weight_decay=DECAY, max_norm=CLIP, clip_mode="official"
        )
        seconds, models, courses = {}, {}, {}
        for engine in ("sequential", "batched", "auto"):
            fed = Federation(model, nn.functional.cross_entropy, data, fraction=1.0, engine=engine, seed=0)
            courses[engine] = fed.start(FedSpeed(prox_mu=MU, rho=RHO), local)
        x, h = courses["auto"].server.x, torch.zeros(clients, len(courses["auto"].server.x))
        plain = []
        # Round by round in turn, so that a disturbance of the machine meets all of them.
        for t in range(2 + ROUNDS):
            plans = [Plan.draw(0, t, i, steps * batch, 1, batch) for i in range(clients)]
            started = time.perf_counter()
            x, h = plain_round(model, x, h, data, plans)
            plain.append(time.perf_counter() - started)
            for engine, course in courses.items():
                started = time.perf_counter()
                course.advance()
                seconds.setdefault(engine, []).append(time.perf_counter() - started)
                models[engine] = course.server.x
        # The first two rounds warm up: graphs are recorded, and auto chooses.
        fastest = min(plain[2:])
        ours = {engine: min(times[2:]) for engine, times in seconds.items()}
        gap = max(float((models[e] - x).abs().max()) for e in models)
        row = " ".join(f"{1e3 * value:7.1f}ms" for value in (fastest, *ours.values()))
        ratios = " ".join(f"{fastest / value:5.2f}" for value in ours.values())
        chosen = courses["auto"].engine
        print(
            f"{name:34s} {len(x):8,d} {row} | {ratios}  ({chosen}; largest difference {gap:.0e})", flush=True
        )


def flower(rounds: int = 20, clients: int = 5) -> None:
    """A round of Flower's simulation on Ray, and of our engine, on one tiny problem with one result."""
    from flwr.simulation import run_simulation

    from jostle.federated.flower import make_client_app, make_server_app, make_strategy

    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    data = problem(model, (64,), clients, 80)
    local = Local(lr=LR, epochs=2, batch_size=10, weight_decay=DECAY)
    algorithm = FedSpeed(prox_mu=MU, rho=RHO)
    strategy = make_strategy(algorithm, model, clients, local=local, fraction=1.0, seed=0)
    started = time.perf_counter()
    run_simulation(
        make_server_app(lambda context: strategy, rounds=rounds),
        make_client_app(algorithm, lambda: model, lambda i: data[i]),
        clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}, "init_args": {"num_cpus": 2}},
    )
    whole = time.perf_counter() - started
    theirs = [row["seconds"] for row in strategy.history][2:]
    fed = Federation(model, nn.functional.cross_entropy, data, fraction=1.0, engine="batched", seed=0)
    course = fed.start(algorithm, local)
    ours = [course.advance()["seconds"] for _ in range(rounds)][2:]
    gap = float((course.server.x - strategy.server.x).abs().max())
    print(f"Flower's simulation, {clients} clients: a round {1e3 * median(theirs):.1f} ms "
          f"(start to end {whole:.1f} s); "
          f"our batched engine {1e3 * median(ours):.2f} ms: {median(theirs) / median(ours):.1f} times less; largest "
          f"difference {gap:.0e}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    here = environment(0)
    print(
        f"jostle {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {here['processor']}"
    )
    if sys.argv[1:] == ["flower"]:
        flower()
    else:
        engines()
