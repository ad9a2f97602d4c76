"""Draws a second: against the bare forward pass, Cohen's loop and ART, in one process, in turn, on two threads.

Run: python benchmarks/smoothing.py. Without ART (pip install adversarial-robustness-toolbox) its column is left out.
Then the draws that each procedure needs, measured on one network.
"""

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn

from jostle.smoothing import METHODS, Fixed, SmoothedClassifier

SIGMA, INPUTS, DRAWS = 0.5, 8, 12_800


class CohenLoop:
    """Randomised smoothing as the procedure's own loop goes: one input after another, counts in Python a batch."""

    def __init__(self, model: nn.Module, classes: int, batch: int) -> None:
        self.model, self.classes, self.batch = model, classes, batch

    def counts(self, x: Tensor, number: int) -> np.ndarray:
        with torch.no_grad():
            found = np.zeros(self.classes, dtype=int)
            for _ in range(ceil(number / self.batch)):
                size = min(self.batch, number)
                number -= size
                many = x.repeat((size, *[1] * (x.ndim)))
                noise = torch.randn_like(many) * SIGMA
                for answer in self.model(many + noise).argmax(1).cpu().numpy():
                    found[answer] += 1
            return found


def bare(model: nn.Module, shape: tuple[int, ...], batch: int, number: int) -> None:
    """The forward passes alone."""
    rows = torch.rand(batch, *shape)
    with torch.inference_mode():
        for _ in range(number // batch):
            model(rows)


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
    """Median seconds of each, in turn, so that a busy machine hits all alike."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(row) for name, row in seconds.items()}


def models() -> dict[str, tuple[nn.Module, tuple[int, ...], int, int]]:
    """Networks, their inputs, the batch of the peers and how many draws an input."""
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return {
        "linear": (linear.eval(), (1, 8, 8), 1000, DRAWS),
        "MLP": (mlp.eval(), (1, 8, 8), 1000, DRAWS),
        "small CNN": (cnn.eval(), (1, 28, 28), 400, DRAWS // 8),
    }


def throughput() -> None:
    """Draws a second of each way on each network."""
    art = importlib.util.find_spec("art") is not None
    for name, (model, shape, batch, number) in models().items():
        x = torch.rand(INPUTS, *shape)
        smoothed = SmoothedClassifier(model, SIGMA, classes=10)
        loop = CohenLoop(model, 10, batch)
        rows = smoothed._rows(x[0])
        works: dict[str, Callable[[], object]] = {
            "ours": lambda s=smoothed, x=x, n=number: s.counts(x, n=n),
            "forward alone": lambda m=model, s=shape, r=rows, n=number: bare(m, s, r, INPUTS * n),
            "Cohen's loop": lambda c=loop, x=x, n=number: [c.counts(one, n) for one in x],
        }
        if art:
            theirs = art_counts(model, shape, 10, batch)
            works["ART"] = lambda t=theirs, x=x, n=number: [t(one, n) for one in x]
        seconds = timed(works, rounds=5)
        print(f"{name}: {INPUTS} inputs of {number:,} draws, batches of {rows} (peers {batch})")
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


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    throughput()
    savings()
