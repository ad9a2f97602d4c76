"""What is counted of certificates for the report: a row a table, paired gains, and draws saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jostle.smoothing.certificates import Certificates
from jostle.smoothing.comparators import METHODS
from jostle.smoothing.planning import simulate

Tables = Mapping[tuple[str, float, int], Certificates]
"""Certificates by method, sigma and seed."""

PAIRS = (("consistency", "gaussian"), ("rrcm", "consistency"), ("rrcm", "gaussian"), ("rrcm", "contrast"))


def row_of(table: Certificates) -> dict[str, Any]:
    """A table in a few figures: ACR, abstentions, draws, and accuracy by radius with its interval at 0."""
    low, high = table.interval()
    return {
        "acr": table.average_radius(),
        "abstained": table.abstained,
        "draws": float(table.used.double().mean()),
        "low": low,
        "high": high,
        "accuracy": {f"{r:g}": table.accuracy(r) for r in table.settings["grid"]},
    }


def credit(table: Certificates) -> Tensor:
    """The radius of each image, 0 where the answer is wrong: what ACR is the mean of."""
    return torch.where(table.correct, table.radius, 0.0)


def gain(tables: Tables, ours: str, theirs: str, sigma: float) -> dict[str, Any]:
    """ACR of one method minus another's on the same images and seeds, with a 95 % interval over images."""
    seeds = list(dict.fromkeys(seed for _, _, seed in tables))
    gaps = [credit(tables[ours, sigma, seed]) - credit(tables[theirs, sigma, seed]) for seed in seeds]
    each = torch.stack(gaps).mean(0)
    mean, half = float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "seeds": [float(gap.mean()) for gap in gaps],
    }


def paired(tables: Tables, methods: Sequence[str]) -> dict[str, Any]:
    """The gains that the claims ask for, by pair of methods and noise level."""
    sigmas = list(dict.fromkeys(sigma for _, sigma, _ in tables))
    pairs = [pair for pair in PAIRS if set(pair) <= set(methods)]
    return {f"{a} - {b} sigma {sigma:g}": gain(tables, a, b, sigma) for a, b in pairs for sigma in sigmas}


def savings(table: Certificates, fixed: Certificates | None, n0: int, seed: int) -> dict[str, Any]:
    """What the sequential test saves: against all draws on the same network, and simulated at n = 100,000.

    **Arguments:** `table`: of the sequential test. `fixed`: of the fixed test on the same images, or None. `n0`:
    selection draws. `seed`: of the simulation.
    """
    found: dict[str, Any] = {"draws": float(table.used.double().mean()), "simulated": {}}
    whole = table
    if fixed is not None:
        whole = fixed
        found["fixed draws"] = float(fixed.used.double().mean())
        found["largest gap"] = max(
            abs(table.certified(r) - fixed.certified(r)) for r in table.settings["grid"]
        )
    # Some sixty images say it: the e-process is looked at hundreds of times an image.
    every = max(1, len(whole) // 60)
    share = ((whole.hits.double() + 0.5) / (whole.draws.double() + 1)).numpy()[::every]
    for name in ("fixed", "stages", "union", "betting", "anytime", "sequential"):
        plan = METHODS[name](whole.settings["sigma"], whole.settings["alpha"], 100_000, None)
        rows = simulate(plan, share, np.random.default_rng(seed), n0=n0)
        found["simulated"][name] = {
            "draws": float(rows.draws.mean()),
            "certified": {f"{r:g}": rows.certified(r) for r in plan.grid},
        }
    return found
