"""What the command line offers for a network of yours: certify, predict, plan, compare, and check the certifier."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.smoothing.certificates import Certificates
from jostle.smoothing.checks import check
from jostle.smoothing.comparators import METHODS
from jostle.smoothing.inputs import Device, device_of
from jostle.smoothing.noise import Kind
from jostle.smoothing.planning import simulate
from jostle.smoothing.procedures import dense_radii
from jostle.smoothing.smoothed import SmoothedClassifier
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
Method = Literal["sequential", "fixed", "anytime", "betting", "union", "stages", "input-specific"]


def certify(
    model: nn.Module,
    data: Images,
    *,
    sigma: float,
    keep: Path = Path("certificates.parquet"),
    method: Method = "sequential",
    radii: tuple[float, ...] = (),
    dense: bool = False,
    alpha: float = 1e-3,
    n0: int = 100,
    n_max: int = 100_000,
    limit: int = 500,
    noise: Kind = "gaussian",
    batch: int = 0,
    device: Device = "auto",
    seed: int = 0,
    callback: Progress | None = None,
) -> Certificates:
    """Certify a network's smoothed answers on images, into a parquet file that a second call goes on with.

    **Arguments:** `model`: a classifier of images in [0, 1], normalising inside. `data`: images; labels only
    for the record. `sigma`: of the noise, above 0, in units of images in [0, 1]. `keep`: the parquet file; if
    it holds some of these certificates, the rest is done. `method`: how draws are spent: tests on a grid
    (`sequential`), all of them (`fixed`, Cohen's), bounds that hold at every moment (`anytime`, `betting`),
    or, to compare, `union`, `stages`, `input-specific`. `radii`: the grid to certify; none for 0, 0.25, 0.5
    and so on, as far as the draws reach (for `sigma` at most 0.1 in steps of half of it). `dense`: steps of
    0.05 `sigma` instead of `radii`. `alpha`: chance at most of a false certificate, in (0, 1). `n0`: draws an
    image that choose the class, at least 1. `n_max`: draws an image that estimate, at most. `limit`: how many
    images, spread evenly over the data and so over its classes; 0 takes all. `noise`: gaussian, or discrete
    on 8-bit images. `batch`: rows a forward pass; 0 chooses. `device`: where the model runs; `auto` takes a
    GPU if there is one. `seed`: of the draws.
    **Returns:** the certificates.
    """
    where = device_of(device)
    smoothed = SmoothedClassifier(
        model.to(where),
        sigma,
        noise=noise,
        noise_on="cpu" if where.type == "cpu" else "model",
        batch=batch or None,
    )
    chosen = spread(len(data), limit)
    grid = dense_radii(sigma, n_max, alpha) if dense else radii or None
    return smoothed.certify(
        data.subset(chosen),
        method=method,
        radii=grid,
        alpha=alpha,
        n0=n0,
        n_max=n_max,
        seed=seed,
        names=chosen.tolist(),
        keep=keep,
        callback=callback,
    )


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers of a smoothed classifier; -1 is an abstention."""

    prediction: Int[Tensor, " images"]
    label: Int[Tensor, " images"]
    sigma: float

    def numbers(self) -> dict[str, Any]:
        """Accuracy and abstentions; the answers themselves go to the file that `--out` names."""
        return {
            "images": len(self.prediction),
            "sigma": self.sigma,
            "accuracy": float((self.prediction == self.label).double().mean()),
            "abstained": float((self.prediction < 0).double().mean()),
            "prediction": self.prediction.tolist(),
        }


def predict(
    model: nn.Module,
    data: Images,
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 1e-3,
    limit: int = 500,
    device: Device = "auto",
    seed: int = 0,
) -> Predictions:
    """The smoothed classifier's answers, with abstentions, without radii (Cohen's PREDICT).

    **Arguments:** `model`: a classifier of images in [0, 1], normalising inside. `data`: images, with labels
    for the accuracy. `sigma`: of the noise, above 0, in units of images in [0, 1]. `n`: draws an image, at
    least 1. `alpha`: chance at most of a wrong answer, in (0, 1). `limit`: how many images, spread evenly
    over the data and so over its classes; 0 takes all. `device`: where the model runs; `auto` takes a GPU if
    there is one. `seed`: of the draws.
    """
    chosen = spread(len(data), limit)
    few = data.subset(chosen)
    found = SmoothedClassifier(model.to(device_of(device)), sigma).predict(few, n=n, alpha=alpha, seed=seed)
    return Predictions(found, few.labels, sigma)


def plan(
    model: nn.Module,
    data: Images,
    *,
    sigma: float,
    radii: tuple[float, ...] = (),
    alpha: float = 1e-3,
    n0: int = 100,
    n_max: int = 100_000,
    images: int = 0,
    probe: int = 40,
    device: Device = "auto",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What each method would cost on these images, from a few hundred draws of a few of them.

    `p_A` of `probe` images is estimated from 300 draws each, the procedures are simulated with it, and the draws are
    turned into time by the speed of the probe. The estimates are rough near 1, where they make things look easier.

    **Arguments:** `model`: a classifier of images in [0, 1], normalising inside. `data`: images such as will
    be certified. `sigma`: of the noise, above 0, in units of images in [0, 1]. `radii`: the grid to certify;
    none for 0, 0.25, 0.5 and so on, as far as the draws reach (for `sigma` at most 0.1 in steps of half of
    it). `alpha`: chance at most of a false certificate, in (0, 1). `n0`: draws an image that choose the
    class, at least 1. `n_max`: draws an image that estimate, at most. `images`: how many will be certified;
    0: as many as `certify` would take. `probe`: how many are tried now. `device`: where the model runs;
    `auto` takes a GPU if there is one. `seed`: of the draws.
    **Returns:** by method: draws an image, minutes in all, and the share that would be certified at all.
    """
    images = images or len(spread(len(data), 500))
    few = data.subset(spread(len(data), probe))
    smoothed = SmoothedClassifier(model.to(device_of(device)), sigma)
    smoothed.counts(few.subset([0]), n=50)  # the first pass pays for what is set up once
    began = time.perf_counter()
    counts = smoothed.counts(few, n=300, seed=seed)
    speed = int(counts.sum()) / (time.perf_counter() - began)
    share = (counts.amax(1).double().numpy() + 0.5) / 301
    rows = {}
    for name in ("fixed", "sequential", "anytime"):
        procedure = METHODS[name](sigma, alpha, n_max, radii or None)
        found = simulate(procedure, np.repeat(share, 5), np.random.default_rng(seed), n0=n0)
        draws = float(found.draws.mean())
        rows[name] = {
            "draws an image": draws,
            "minutes": draws * images / speed / 60,
            "certified at all": float(found.certain.mean()),
        }
    return rows


def compare(certificates: Mapping[str, Certificates]) -> dict[str, dict[str, Any]]:
    """Tables of certificates side by side: accuracy at each radius, ACR, draws, and who is best where.

    The best over several sigmas at each radius compares classifiers; no single one of them has that curve.

    **Arguments:** `certificates`: tables that `certify` wrote, each with labels; from Python by name.
    """
    rows: dict[str, dict[str, Any]] = {}
    grid = sorted({r for table in certificates.values() for r in table.settings["grid"]})
    for name, table in certificates.items():
        require(
            bool((table.label >= 0).all()), f"{name} has certificates without labels: there is no accuracy"
        )
        rows[name] = {
            "sigma": table.settings["sigma"],
            "inputs": len(table),
            "ACR": table.average_radius(),
            "draws an input": float(table.used.double().mean()),
            **{f"at {r:g}": table.accuracy(r) for r in grid},
        }
    rows["best"] = {f"at {r:g}": max(rows, key=lambda name: rows[name][f"at {r:g}"]) for r in grid}
    return rows


def verify(*, count: int = 1000, seed: int = 0) -> dict[str, float]:
    """Closed-form checks of the certifier on this machine: linear models whose radius is known.

    **Arguments:** `count`: certificates to make, at least 1. `seed`: of the draws.
    **Returns:** certificates made, those that were false (at most one in a thousand may be), the mean gap to the exact
    radius, and draws a second.
    """
    require(count >= 1, f"count must be at least 1, but {count} came")
    return check(seed, count)


def spread(count: int, limit: int) -> Int[Tensor, " chosen"]:
    """Indices of `limit` items spread evenly over `count`: over sorted classes, as Cohen's every hundredth image.

    >>> spread(10, 4).tolist()
    [0, 2, 5, 7]
    """
    require(limit >= 0, f"limit must be at least 0, but {limit} came")
    few = count if limit == 0 else min(limit, count)
    return torch.arange(few) * count // few
