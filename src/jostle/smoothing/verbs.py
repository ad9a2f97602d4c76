"""What the command line offers: certify, predict, plan and compare a network of yours; train one that certifies."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.smoothing.certificates import Certificates
from jostle.smoothing.checks import check
from jostle.smoothing.comparators import METHODS
from jostle.smoothing.encoders import TimedViT
from jostle.smoothing.fitting import Recipe, finetune, fit
from jostle.smoothing.noise import Kind
from jostle.smoothing.objectives import OBJECTIVES, Consistency
from jostle.smoothing.planning import simulate
from jostle.smoothing.procedures import dense_radii
from jostle.smoothing.rrcm import RRCM, Pretraining
from jostle.smoothing.saving import load_encoder, write_network
from jostle.smoothing.smoothed import SmoothedClassifier
from jostle.smoothing.views import AffineViews, ColourViews
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
Method = Literal["sequential", "fixed", "anytime", "betting", "union", "stages", "input-specific"]
Device = Literal["auto", "cpu", "cuda"]


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

    **Arguments:** `model`: on images in [0, 1], normalising inside. `data`: images; labels only for the record.
    `sigma`: of the noise, in units of [0, 1]. `keep`: the file; if it holds some of these certificates, the rest is
    done. `method`: how to certify. `radii`: the grid; none: 0, 0.25, 0.5 ... `dense`: steps of 0.05 sigma instead.
    `alpha`, `n0`, `n_max`: as in Cohen's procedure. `limit`: images, spread evenly over the data and so over its
    classes; 0 takes all. `noise`: gaussian, or discrete on 8-bit images. `batch`: rows a
    forward pass; 0 chooses. `device`: where the model runs. `seed`: of the draws.
    **Returns:** the certificates.
    """
    where = _device(device)
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

    **Arguments:** `model`, `data`, `sigma`, `limit`, `device`, `seed`: as for `certify`. `n`: draws an image. `alpha`:
    chance of a wrong answer.
    """
    chosen = spread(len(data), limit)
    few = data.subset(chosen)
    found = SmoothedClassifier(model.to(_device(device)), sigma).predict(few, n=n, alpha=alpha, seed=seed)
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
    images: int = 500,
    probe: int = 40,
    device: Device = "auto",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What each method would cost on these images, from a few hundred draws of a few of them.

    `p_A` of `probe` images is estimated from 300 draws each, the procedures are simulated with it, and the draws are
    turned into time by the speed of the probe. The estimates are rough near 1, where they make things look easier.

    **Arguments:** `model`, `data`, `sigma`, `radii`, `alpha`, `n0`, `n_max`, `device`, `seed`: as for `certify`.
    `images`: how many will be certified. `probe`: how many are tried now.
    **Returns:** by method: draws an image, minutes in all, and the share that would be certified at all.
    """
    few = data.subset(spread(len(data), probe))
    smoothed = SmoothedClassifier(model.to(_device(device)), sigma)
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

    **Arguments:** `certificates`: by name, each with labels.
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


def verify(*, seed: int = 0) -> dict[str, float]:
    """Closed-form checks of the certifier on this machine: linear models whose radius is known.

    **Arguments:** `seed`: of the draws.
    **Returns:** certificates made, those that were false (at most one in a thousand may be), the mean gap to the exact
    radius, and draws a second.
    """
    return check(seed)


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network: its weights, how it was made, and what the training saw last."""

    suffix: ClassVar[str] = ".safetensors"

    loss: float
    steps: int
    details: dict[str, Any]
    state: dict[str, Tensor]

    def numbers(self) -> dict[str, Any]:
        """The last loss and the settings."""
        return {"loss": self.loss, "steps": self.steps, **self.details}

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, with the settings in its metadata."""
        write_network(self.state, self.details, Path(path))


def train(
    model: nn.Module,
    data: Images,
    *,
    sigma: float,
    objective: Literal[
        "gaussian", "stability", "consistency", "macer", "smoothadv", "smoothmix"
    ] = "consistency",
    steps: int = 2000,
    batch: int = 128,
    lr: float = 1e-3,
    mirror: bool = False,
    device: Device = "auto",
    seed: int = 0,
    callback: Progress | None = None,
) -> Network:
    """Train or fine-tune a network of yours so that it certifies well at one noise level.

    **Arguments:** `model`: on images in [0, 1], of as many classes as `data`. `data`: images with labels, all of one
    size. `sigma`: of the noise. `objective`: with the paper's settings; from Python each can be set. `steps`, `batch`,
    `lr`: AdamW with a cosine. `mirror`: flip images left to right. `device`, `seed`: as for `certify`.
    **Returns:** the weights, for `--out`.
    """
    where = _device(device)
    images, labels = (part.to(where) for part in data.tensors())
    recipe = Recipe(steps=steps, batch=batch, lr=lr, warmup=min(50, steps // 10), mirror=mirror)
    generator = torch.Generator().manual_seed(seed)
    losses = fit(model.to(where), images, labels, sigma, OBJECTIVES[objective](), recipe, generator, callback)
    details = {"kind": "classifier", "objective": objective, "sigma": sigma, "images": len(images)}
    return Network(losses[-1], steps, details, dict(model.state_dict()))


def pretrain(
    data: Images,
    *,
    patch: int = 4,
    width: int = 384,
    depth: int = 7,
    heads: int = 6,
    plan: RRCM | None = None,
    device: Device = "auto",
    seed: int = 0,
    callback: Progress | None = None,
) -> Network:
    """Pre-train an rRCM encoder, a small vision transformer, on images without labels.

    **Arguments:** `data`: images, all of one size; labels are not looked at. `patch`, `width`, `depth`, `heads`: of the
    transformer. `plan`: see [`RRCM`][jostle.smoothing.RRCM]. `device`, `seed`: as for `certify`.
    **Returns:** the encoder's weights, for `--out` and for `tune`.
    """
    where = _device(device)
    images, _ = data.tensors()
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TimedViT(shape, patch=patch, width=width, depth=depth, heads=heads).to(where)
    settings = plan or RRCM(batch=min(256, len(images)))
    views = ColourViews() if shape[0] == 3 else AffineViews()
    run = Pretraining(
        encoder,
        images.to(where),
        views,
        settings,
        torch.Generator(where).manual_seed(seed),
        half=where.type == "cuda",
    )

    def after(state: Pretraining) -> None:
        if callback is not None:
            contrast, consistency, _ = state.history[-1]
            callback(
                state.trainer.step, settings.steps, f"contrast {contrast:.2f}, consistency {consistency:.2f}"
            )

    run.run(after)
    details = {
        "kind": "encoder",
        "shape": list(shape),
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "crowding": run.history[-1][2],
    }
    return Network(run.trainer.last, settings.steps, details, dict(encoder.state_dict()))


def tune(
    encoder: Path,
    data: Images,
    *,
    sigma: float,
    lam: float = 10.0,
    eta: float = 0.5,
    steps: int = 2000,
    batch: int = 128,
    lr: float = 2e-4,
    decay: float = 0.75,
    device: Device = "auto",
    seed: int = 0,
    callback: Progress | None = None,
) -> Network:
    """Fine-tune a pre-trained encoder into a classifier for one noise level (rRCM's second half).

    To certify it, name a file with `def build(): return jostle.smoothing.load_classifier("tuned.safetensors")`.

    **Arguments:** `encoder`: weights that `pretrain` wrote. `data`: images with labels, of the size it was trained on.
    `sigma`: of the noise. `lam`, `eta`: of the consistency loss. `steps`, `batch`, `lr`, `decay`: AdamW, a cosine, and
    rates that fall with depth. `device`, `seed`: as for `certify`.
    **Returns:** the classifier's weights, for `--out`.
    """
    where = _device(device)
    network, details = load_encoder(encoder)
    images, labels = (part.to(where) for part in data.tensors())
    require(
        list(images.shape[1:]) == details["shape"],
        f"the encoder takes images of shape {tuple(details['shape'])}, but {tuple(images.shape[1:])} came",
    )
    recipe = Recipe(steps=steps, batch=batch, lr=lr, warmup=min(50, steps // 10), decay=decay)
    seen: list[str] = []

    def note(done: int, total: int, sentence: str) -> None:
        seen[:] = [sentence]
        if callback is not None:
            callback(done, total, sentence)

    model = finetune(
        network.to(where),
        images,
        labels,
        sigma,
        Consistency(lam, eta),
        recipe,
        torch.Generator().manual_seed(seed),
        classes=len(data.classes),
        callback=note,
    )
    made = {**details, "kind": "rrcm", "sigma": sigma, "classes": len(data.classes)}
    return Network(float(seen[-1].split()[-1]), steps, made, dict(model.state_dict()))


def spread(count: int, limit: int) -> Int[Tensor, " chosen"]:
    """Indices of `limit` items spread evenly over `count`: over sorted classes, as Cohen's every hundredth image.

    >>> spread(10, 4).tolist()
    [0, 2, 5, 7]
    """
    require(limit >= 0, f"limit must be at least 0, but {limit} came")
    few = count if limit == 0 else min(limit, count)
    return torch.arange(few) * count // few


def _device(name: Device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require(name != "cuda" or torch.cuda.is_available(), "device is 'cuda', but there is none")
    return torch.device(name)
