"""What the command line offers to make a network that certifies: train one of yours, or pre-train and tune rRCM's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.smoothing.encoders import TimedViT
from jostle.smoothing.fitting import Recipe, finetune, fit
from jostle.smoothing.inputs import Device, device_of
from jostle.smoothing.objectives import OBJECTIVES, Consistency
from jostle.smoothing.rrcm import RRCM, Pretraining
from jostle.smoothing.saving import load_encoder, write_network
from jostle.smoothing.views import views_for
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]


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

    **Arguments:** `model`: a classifier of images in [0, 1], with as many classes as `data`. `data`: images
    with labels, all of one size. `sigma`: of the noise, above 0, in units of images in [0, 1]. `objective`:
    with the paper's settings; from Python each can be set. `steps`: of AdamW, at least 1; the rate falls as a
    cosine. `batch`: images a step, at least 1. `lr`: largest learning rate, above 0. `mirror`: flip images
    left to right, one in two. `device`: where the model runs; `auto` takes a GPU if there is one. `seed`: of
    the images' order and the noise.
    **Returns:** the weights, for `--out`.
    """
    where = device_of(device)
    images, labels = (part.to(where) for part in data.tensors())
    recipe = Recipe(steps=steps, batch=batch, lr=lr, warmup=min(50, steps // 10), mirror=mirror)
    generator = torch.Generator().manual_seed(seed)
    losses = fit(model.to(where), images, labels, sigma, OBJECTIVES[objective](), recipe, generator, callback)
    details = {"kind": "classifier", "objective": objective, "sigma": sigma, "images": len(images)}
    return Network(losses[-1], steps, details, dict(model.state_dict()))


PLAN = RRCM()


def pretrain(
    data: Images,
    *,
    patch: int = 4,
    width: int = 384,
    depth: int = 7,
    heads: int = 6,
    plan: RRCM = PLAN,
    device: Device = "auto",
    seed: int = 0,
    callback: Progress | None = None,
) -> Network:
    """Pre-train an rRCM encoder, a small vision transformer, on images without labels.

    **Arguments:** `data`: images, all of one size; labels are not looked at. `patch`: side of a patch in
    pixels, a divisor of the images' sides. `width`: of the transformer's tokens and features, even and a
    multiple of `heads`. `depth`: blocks of the transformer. `heads`: of each block's attention. `plan`: how
    to pre-train; its batch is at most all images. `device`: where the model runs; `auto` takes a GPU if there
    is one. `seed`: of the weights and of all that is drawn.
    **Returns:** the encoder's weights, for `--out` and for `tune`.
    """
    where = device_of(device)
    images, _ = data.tensors()
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TimedViT(shape, patch=patch, width=width, depth=depth, heads=heads).to(where)
    settings = replace(plan, batch=min(plan.batch, len(images)))
    run = Pretraining(
        encoder,
        images.to(where),
        views_for(shape),
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

    **Arguments:** `encoder`: weights that `pretrain` wrote. `data`: images with labels, of the size it was
    trained on. `sigma`: of the noise, above 0, in units of images in [0, 1]. `lam`: weight of the
    disagreement under noise in the loss, at least 0. `eta`: weight of the mean answer's entropy in the loss,
    at least 0. `steps`: of AdamW, at least 1; the rate falls as a cosine. `batch`: images a step, at least 1.
    `lr`: largest learning rate, above 0. `decay`: factor on the rate from each block to the one below, in (0,
    1]; 1 for none. `device`: where the model runs; `auto` takes a GPU if there is one. `seed`: of the new
    weights, the images' order and the noise.
    **Returns:** the classifier's weights, for `--out`.
    """
    where = device_of(device)
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
