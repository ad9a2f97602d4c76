"""The engine against its peers, in one process on one model: ratios of time, and differences of result.

    pip install --no-deps torchattacks foolbox eagerpy GitPython gitdb smmap six \\
        adversarial-robustness-toolbox adv-lib       # without what they pin: old requests, visdom
    python benchmarks/universal.py engine            # PGD and projections against torchattacks, foolbox, ART, adv-lib
    python benchmarks/universal.py engine --fast     # without the batch of 64 photographs

Everybody runs in turn (A B C D, D C B A, ...) on one thread, and CPU time is taken, so that a busy machine disturbs
them little and all alike; a ratio is of medians. jostle runs with its model frozen (`core.taps.frozen`), as its
rooms do: that spares autograd the weights. On Linux the allocator is told to keep its pages: else most of the time
at batch 64 is the kernel's, for the network's own memory, and noise. A peer that is not installed is left out.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jostle import L1, L2, Linf, ascend
from jostle.core.rules import Steepest
from jostle.core.taps import frozen

Attack = Callable[[int], Tensor]
"""From a number of steps to the perturbed images."""

PACKAGES = ("jostle", "torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "adv-lib")


def engine(fast: bool = False) -> None:
    """PGD time a step, and the projection on the L1 ball."""
    print(
        "PGD, CPU milliseconds a step (ratio to jostle: above 1, jostle is faster; largest difference of results)\n"
    )
    torch.manual_seed(0)
    small, large = small_cnn().eval(), efficientnet().eval()
    policy = nn.Sequential(nn.Flatten(), nn.Linear(28, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    cases = [
        ("MLP 28-64-5", policy, (1, 1, 4, 7), 20, 61),
        ("small CNN, 3x32x32", small, (1, 3, 32, 32), 20, 61),
        ("small CNN, 3x32x32", small, (64, 3, 32, 32), 5, 15),
        ("EfficientNet-Lite0, 3x224x224", large, (1, 3, 224, 224), 3, 15),
        ("EfficientNet-Lite0, 3x224x224", large, (64, 3, 224, 224), 2, 3),
    ]
    for name, model, shape, steps, turns in cases[: 4 if fast else 5]:
        for norm in ("Linf", "L2"):
            compare(f"{name}, batch {shape[0]}, {norm}", attacks(model, shape, norm), steps, turns)
    print("\nProjection on the L1 ball, CPU milliseconds\n")
    for rows, entries in ((1, 150_528), (4, 3_072)):
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(rows, entries, generator=generator)
        compare(f"{rows} x {entries:,} floats, radius 20", l1_projections(u, 20.0), 1, 21)


def compare(title: str, contestants: dict[str, Attack], steps: int, turns: int) -> None:
    """Run everybody in turn and print one line for each."""
    results = {name: attack(steps) for name, attack in contestants.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            start = time.process_time()
            contestants[name](steps)
            times[name].append((time.process_time() - start) / steps * 1e3)
    print(title)
    for name in names:
        ratio = statistics.median(times[name]) / statistics.median(times["jostle"])
        gap = (results[name] - results["jostle"]).abs().max().item()
        middle, least = statistics.median(times[name]), min(times[name])
        print(
            f"  {name:24s} {middle:10.3f}  (least {least:10.3f})   ratio {ratio:7.3f}   difference {gap:.1e}"
        )


def attacks(model: nn.Module, shape: tuple[int, ...], norm: str) -> dict[str, Attack]:
    """The same PGD, without a random start, by everybody who is installed."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(shape, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    radius, size = (8 / 255, 2 / 255) if norm == "Linf" else (0.5 * (shape[-1] / 32), 0.1 * (shape[-1] / 32))
    budget = (Linf if norm == "Linf" else L2)(radius, lower=0.0, upper=1.0)

    def ours(select: str) -> Attack:
        # To know the best iterate of each picture takes a loss of each picture; the last needs only their sum.
        reduction = "none" if select == "best" else "sum"

        def loss(u: Tensor) -> Tensor:
            return F.cross_entropy(model(x + u), y, reduction=reduction)

        def run(steps: int) -> Tensor:
            start, rule = torch.zeros_like(x), Steepest(size)
            with frozen(model):
                return x + ascend(loss, start, budget, steps=steps, rule=rule, x=x, select=select).delta

        return run

    out = {"jostle": ours("last")}
    try:
        import torchattacks

        kind = torchattacks.PGD if norm == "Linf" else torchattacks.PGDL2
        out["torchattacks"] = lambda steps: kind(model, radius, size, steps, random_start=False)(x, y)
    except ImportError:
        print("(torchattacks is not installed)")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD if norm == "Linf" else foolbox.attacks.L2PGD

        def by_foolbox(steps: int) -> Tensor:
            run = attack(abs_stepsize=size, steps=steps, random_start=False)
            return run.run(wrapped, x, y, epsilon=radius)

        out["foolbox"] = by_foolbox
    except ImportError:
        print("(foolbox is not installed)")
    try:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classes = int(model(x[:1]).shape[1])
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), shape[1:], classes, clip_values=(0.0, 1.0), device_type="cpu"
        )

        def by_art(steps: int) -> Tensor:
            run = ProjectedGradientDescentPyTorch(
                classifier,
                norm=np.inf if norm == "Linf" else 2,
                eps=radius,
                eps_step=size,
                max_iter=steps,
                batch_size=shape[0],
                verbose=False,
            )
            return torch.from_numpy(run.generate(x.numpy(), y.numpy()))

        out["ART"] = by_art
    except ImportError:
        print("(ART is not installed)")
    out["jostle, best iterate"] = ours("best")

    def floor(steps: int) -> Tensor:
        with frozen(model):
            for _ in range(steps):
                leaf = x.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        return x

    out["gradients alone"] = floor  # no step, no projection: nobody can be faster
    return out


def l1_projections(u: Tensor, radius: float) -> dict[str, Attack]:
    """The projection of the rows of `u` on the L1 ball, by everybody who is installed."""
    out: dict[str, Attack] = {"jostle": lambda _: L1(radius).project(u)}
    try:
        from adv_lib.utils.projections import l1_ball_euclidean_projection

        out["adv-lib"] = lambda _: l1_ball_euclidean_projection(u, radius)
    except ImportError:
        print("(adv-lib is not installed)")
    try:
        from art.utils import projection_l1_1, projection_l1_2

        if u.shape[1] < 10_000:  # its time grows with the square of the entries
            out["ART projection_l1_1"] = lambda _: torch.from_numpy(projection_l1_1(u.numpy(), radius))
            out["ART projection_l1_2"] = lambda _: torch.from_numpy(projection_l1_2(u.numpy(), radius))
    except ImportError:
        print("(ART is not installed)")
    return out


def small_cnn() -> nn.Module:
    """Three convolutions and a head, for 32 x 32 pictures."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with random weights: what is timed does not depend on them."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def _processor() -> str:
    if platform.system() != "Linux":
        return platform.processor()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("engine",))
    parser.add_argument("--fast", action="store_true", help="leave out the batch of 64 photographs")
    options = parser.parse_args()
    for package in PACKAGES:
        try:
            print(f"{package} {importlib.metadata.version(package)}", end="; ")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} absent", end="; ")
    torch.set_num_threads(1)
    print(f"{_processor()}, 1 thread\n")
    engine(options.fast)


if __name__ == "__main__":
    if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ:
        keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        main()
