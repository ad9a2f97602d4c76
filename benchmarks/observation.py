"""How fast the attacks are: against ART's PGD, over a building's year, and the permutation test.

Run: python benchmarks/observation.py [art] [year] [mmd]. ART pins old packages: install it beside jostle in an
environment of its own (pip install --no-deps adversarial-robustness-toolbox, then six and tqdm). Prints ratios; both
sides run in turn in one process, on one thread.
"""

import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from jostle.observation import (
    PGD,
    BatteryBuilding,
    Bifurcation,
    Budget,
    Classify,
    load_district,
    mmd,
    wrap_policy,
)
from jostle.observation.evaluate import roll
from jostle.observation.fitting import network
from jostle.observation.tasks import calendar_masked

FEATURES, STEPS = 31, 40


def timed(*works: Callable[[], object], rounds: int = 7, repeats: int = 5) -> list[float]:
    """Median seconds a call, the works in turn so that a busy machine hits all alike."""
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for row, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            row.append((time.perf_counter() - start) / repeats)
    return [statistics.median(row) for row in seconds]


class Pair(nn.Module):
    """The bifurcation layer on an action, as ART wants it: a classifier of two logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, o: torch.Tensor) -> torch.Tensor:
        """`(x, -x)`."""
        x = self.net(o)
        return torch.cat([x, -x], 1)


class ByAutograd(Bifurcation):
    """The same attack where the closed form does not serve: other layers, norms, losses, a GPU."""

    def _by_hand(self, *_: object) -> None:
        return None


def art() -> None:
    """A 31-64-64-1 tanh policy under steps that never saturate, so that every step is taken."""
    from art.attacks.evasion import ProjectedGradientDescent  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    net = network((FEATURES, 64, 64, 1), torch.Generator().manual_seed(0))
    box, act = Box(0.0, 1.0, (FEATURES,)), Box(-1.0, 1.0, (1,))
    policy = wrap_policy(net, head="tanh", observation_space=box, action_space=act)
    opaque = wrap_policy(lambda o: net(o), head="tanh", observation_space=box, action_space=act)
    pair = wrap_policy(Pair(net), observation_space=box, action_space=Discrete(2))
    theirs = PyTorchClassifier(
        Pair(net), loss=nn.CrossEntropyLoss(), input_shape=(FEATURES,), nb_classes=2, clip_values=(0.0, 1.0)
    )
    o = np.random.default_rng(0).uniform(0.0, 1.0, (256, FEATURES)).astype(np.float32)
    settings: dict[str, Any] = {"steps": STEPS, "decays": 0, "select": "last"}
    for eps, size in ((0.05, 0.01), (0.5, 0.002)):
        other = ProjectedGradientDescent(
            theirs, eps=eps, eps_step=size, max_iter=STEPS, num_random_init=0, batch_size=256, verbose=False
        )
        wanted = other.generate(o)
        for name, who, attack in (
            ("closed form", policy, Bifurcation(Budget(eps), step_size=size, **settings)),
            ("autograd", policy, ByAutograd(Budget(eps), step_size=size, **settings)),
            ("ART's own cross-entropy", pair, PGD(Budget(eps), Classify(), step_size=size, **settings)),
        ):
            gap = np.abs(attack(who, o)[0] - wanted).max()
            print(f"eps {eps}, last iterate, {name}: differs from ART's PGD by at most {gap:.0e}")
    for batch in (1, 256):
        some = o[:batch]
        hand, auto = (kind(Budget(0.5), step_size=0.002, **settings) for kind in (Bifurcation, ByAutograd))
        works = {
            "ART": lambda: other.generate(some),  # noqa: B023
            "autograd": lambda: auto(policy, some),  # noqa: B023
            "autograd through a function that cannot be looked into": lambda: auto(opaque, some),  # noqa: B023
            "closed form": lambda: hand(policy, some),  # noqa: B023
        }
        times = dict(zip(works, timed(*works.values()), strict=True))
        for name, seconds in times.items():
            print(
                f"batch {batch}, {name}: {1e6 * seconds / (STEPS * batch):.1f} us an observation and step, "
                f"{times['ART'] / seconds:.1f} times ART's speed"
            )
    print("  targets: batch 1: 6 times by autograd, 20 by the closed form; batch 256: 2.5 times")


def year() -> None:
    """A year of 64 buildings under 20-step bifurcation; a twelfth is run, and scaled."""
    data = load_district().window(0, 731)
    policy = wrap_policy(
        network((FEATURES, 64, 64, 1), torch.Generator().manual_seed(0)),
        head="tanh",
        observation_space=Box(0.0, 1.0, (FEATURES,)),
        action_space=Box(-1.0, 1.0, (1,)),
    )
    attack = Bifurcation(calendar_masked(0.05), steps=20)
    found = roll(policy, lambda: BatteryBuilding(data, copies=64), attack, range(64))
    print(f"an attacked year: {found.seconds * 12 / 64:.2f} s a copy-year (target 2)")


def permutations() -> None:
    """MMD with 1,000 permutations at n = m = 2,000."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, FEATURES)), rng.normal(size=(2000, FEATURES))
    (seconds,) = timed(lambda: mmd(x, y, permutations=1000, generator=rng), rounds=3, repeats=1)
    print(f"MMD, 1,000 permutations of 2,000 + 2,000 rows: {seconds:.2f} s (target 3)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, numpy {np.__version__}, {platform.processor() or platform.machine()}")
    parts = {"art": art, "year": year, "mmd": permutations}
    for part in sys.argv[1:] or parts:
        parts[part]()
