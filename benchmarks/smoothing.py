"""Draws a second: against the bare forward pass, Cohen's loop and ART, in one process, in turn, on two threads.

Run: python benchmarks/smoothing.py. Without ART (pip install adversarial-robustness-toolbox) its column is left out.
Then the draws that each procedure needs, measured on one network. With files of Cohen's published certificates
(github.com/locuslab/smoothing, data/certify/...), `python benchmarks/smoothing.py --sigma 0.5 --logs FILE ...`
simulates the procedures on the images of these instead.
"""

import argparse
import importlib.util
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from jostle.smoothing import METHODS, Fixed, SmoothedClassifier, simulate

SIGMA, INPUTS, DRAWS = 0.5, 8, 51_200


class CohenLoop:
    """Randomised smoothing as the procedure's own loop goes: one input after another, counts in Python a batch."""

    def __init__(self, model: nn.Module, classes: int, batch: int) -> None:
        self.model, self.classes, self.batch = model, classes, batch

    def counts(self, x: Tensor, number: int) -> np.ndarray:
        with torch.no_grad():
            found = np.zeros(self.classes, dtype=int)
            for _ in range(math.ceil(number / self.batch)):
                size = min(self.batch, number)
                number -= size
                many = x.repeat((size, *[1] * (x.ndim)))
                noise = torch.randn_like(many) * SIGMA
                for answer in self.model(many + noise).argmax(1).cpu().numpy():
                    found[answer] += 1
            return found


def bare(model: nn.Module, rows: Tensor, number: int) -> None:
    """The forward passes alone, on the same rows again and again."""
    with torch.inference_mode():
        for _ in range(number // len(rows)):
            model(rows)


def best_batch(model: nn.Module, shape: tuple[int, ...], number: int) -> Tensor:
    """Rows as many as make the bare forward pass fastest: what there is to reach."""
    found: dict[float, Tensor] = {}
    for batch in (32, 128, 400, 1024, 4096):
        rows = torch.rand(batch, *shape)
        work = {"": lambda r=rows: bare(model, r, max(number // 4, len(r)))}
        found[timed(work, rounds=3)[""] / (max(number // 4, batch) // batch * batch)] = rows
    return found[min(found)]


def art_counts(
    model: nn.Module, shape: tuple[int, ...], classes: int, batch: int
) -> Callable[[Tensor, int], object]:
    """ART's smoothing wrapper, through the function with which it certifies."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    wrapped = PyTorchRandomizedSmoothing(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        sample_size=100,
        scale=SIGMA,
        alpha=0.001,
        device_type="cpu",
    )
    return lambda x, number: wrapped._prediction_counts(x.numpy(), n=number, batch_size=batch)


def timed(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Fewest seconds of each, in turn: other work on the machine only adds to them."""
    for work in works.values():
        work()
    seconds = dict.fromkeys(works, math.inf)
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def models() -> dict[str, tuple[nn.Module, tuple[int, ...], int, int]]:
    """Networks, their inputs, the batch of the peers and how many draws an input."""
    torch.manual_seed(0)
    mlp, larger = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))
        for h in (256, 512)
    )
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip
    wide = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return {
        "linear": (linear.eval(), (1, 8, 8), 1000, DRAWS),
        "MLP": (mlp.eval(), (1, 8, 8), 1000, DRAWS),
        "MLP of 512 units": (larger.eval(), (1, 8, 8), 1000, DRAWS // 4),
        "MLP of 28 x 28": (wide.eval(), (1, 28, 28), 400, DRAWS // 8),
        "small CNN": (cnn.eval(), (1, 28, 28), 400, DRAWS // 32),
    }


def throughput(only: str, rounds: int) -> None:
    """Draws a second of each way on each network."""
    art = importlib.util.find_spec("art") is not None
    for name, (model, shape, batch, number) in models().items():
        if only not in name:
            continue
        x = torch.rand(INPUTS, *shape)
        smoothed = SmoothedClassifier(model, SIGMA, classes=10)
        loop = CohenLoop(model, 10, batch)
        rows = best_batch(model, shape, INPUTS * number)
        works: dict[str, Callable[[], object]] = {
            "ours": lambda s=smoothed, x=x, n=number: s.counts(x, n=n),
            "forward alone": lambda m=model, r=rows, n=number: bare(m, r, INPUTS * n),
            "Cohen's loop": lambda c=loop, x=x, n=number: [c.counts(one, n) for one in x],
        }
        if art:
            theirs = art_counts(model, shape, 10, batch)
            works["ART"] = lambda t=theirs, x=x, n=number: [t(one, n) for one in x]
        seconds = timed(works, rounds)
        print(
            f"{name}: {INPUTS} inputs of {number:,} draws, forward alone in batches of {len(rows)}, peers {batch}"
        )
        for way, took in seconds.items():
            print(
                f"  {way:14s} {INPUTS * number / took / 1e3:8.0f} k draws/s, ours {took / seconds['ours']:.2f} times"
            )


def savings() -> None:
    """Draws and time of whole certifications of an MLP on scikit-learn's digits."""
    from jostle.smoothing import Gaussian, Recipe, fit
    from jostle.zoo import load_data

    x, y = load_data("digits").tensors()
    model = models()["MLP"][0]
    generator = torch.Generator().manual_seed(0)
    fit(model, x[:1500], y[:1500], SIGMA, Gaussian(), Recipe(steps=600), generator)
    smoothed = SmoothedClassifier(model, SIGMA)
    print("certification of 50 digits at sigma 0.5, n = 20,000, alpha = 0.001")
    for name in ("fixed", "sequential", "anytime"):
        plan = METHODS[name](SIGMA, n_max=20_000) if name != "fixed" else Fixed(SIGMA, n_max=20_000)
        start = time.perf_counter()
        found = smoothed.certify(x[1500:1550], labels=y[1500:1550], method=plan)
        took = time.perf_counter() - start
        draws = float(found.used.double().mean())
        shares = ", ".join(f"{found.accuracy(r):.2f}" for r in (0.0, 0.5, 1.0))
        print(f"  {name:11s} {draws:8,.0f} draws an image, {took:5.2f} s, accuracy at 0, 0.5, 1: {shares}")


def published(path: Path, sigma: float, rounds: int = 3) -> None:
    """Draws that the procedures need on the images of a published log, taking its radii for the true ones.

    `p_A = Phi(radius / sigma)`, and 1/2 where the log abstains; the radii that are asked for are those of the usual
    tables: 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5 and 3, as far as sigma allows.
    """
    radii = [float(line.split("\t")[3]) for line in path.read_text().splitlines()[1:]]
    share = ndtr(np.array(radii) / sigma)
    grid = tuple(r for r in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0) if r < 3.8 * sigma)
    print(f"{path}: {len(radii)} images, radii {', '.join(f'{r:g}' for r in grid)}")
    found = {}
    for name in ("fixed", "union", "betting", "sequential"):
        plan = METHODS[name](sigma, radii=grid)
        times = 1 if name == "fixed" else rounds
        found[name] = simulate(plan, np.tile(share, times), np.random.default_rng(0))
        gap = max(abs(found[name].certified(r) - found["fixed"].certified(r)) for r in grid)
        draws = found[name].draws.mean()
        print(
            f"  {name:11s} {draws:8,.0f} draws an image, 1/{100_100 / draws:.1f}, certified shares within {gap:.4f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, nargs="+", default=[])
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    for log in given.logs:
        published(log, given.sigma)
    if not given.logs:
        print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
        throughput(given.only, given.rounds)
        if not given.only:
            savings()
