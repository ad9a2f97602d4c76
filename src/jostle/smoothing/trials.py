"""One method trained and certified at one noise level: the unit of the study, without its bookkeeping."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import frozen
from jostle.smoothing.certificates import Certificates
from jostle.smoothing.denoised import Denoised, EncoderDenoiser, fit_denoiser
from jostle.smoothing.encoders import Encoder, TimedClassifier, TimedConv, TimedMLP, TimedViT
from jostle.smoothing.fitting import Recipe, finetune
from jostle.smoothing.objectives import (
    MACER,
    Consistency,
    Gaussian,
    Objective,
    SmoothAdv,
    SmoothMix,
    Stability,
)
from jostle.smoothing.rrcm import RRCM
from jostle.smoothing.smoothed import SmoothedClassifier
from jostle.zoo import load_data

Network = Literal["mlp", "conv", "vit"]

PRETRAININGS: dict[str, dict[str, float]] = {
    "rrcm": {},
    "contrast": {"consistency": 0.0},
    "path": {"contrast": 0.0},
}
"""Methods that start from a pre-trained encoder, and what they change in the pre-training: `contrast` is MoCo-v3-like,
`path` has the consistency along the noise alone."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Images in [0, 1] and labels: all training images for pre-training, labelled ones, and those to certify."""

    unlabelled: Float[Tensor, "unlabelled channels height width"]
    images: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    test_images: Float[Tensor, "test channels height width"]
    test_labels: Int[Tensor, " test"]
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


def load_splits(
    data: str,
    test: str | None,
    *,
    size: int,
    labelled: int,
    certified: int,
    generator: torch.Generator,
    device: torch.device,
) -> Splits:
    """Load a data set and part it; the test part is drawn from `data` if there is no `test`.

    **Arguments:** `data`, `test`: as for `zoo.load_data`. `size`: side in pixels, 0 for the images' own. `labelled`:
    training images with labels, as many a class; 0 for all. `certified`: test images, spread over the classes.
    `generator`: draws the parts. `device`: where they go.
    """
    every = load_data(data, size=size or None)
    images, labels = every.tensors()
    order = torch.randperm(len(images), generator=generator)
    if test is None:
        require(certified < len(images), f"{data} has {len(images)} images: too few to certify {certified}")
        held, order = order[:certified], order[certified:]
        test_images, test_labels = images[held], labels[held]
    else:
        held_out = load_data(test, size=size or None)
        chosen = torch.arange(min(certified, len(held_out))) * len(held_out) // min(certified, len(held_out))
        test_images, test_labels = held_out.subset(chosen).tensors()
    images, labels = images[order], labels[order]
    some = torch.arange(len(images))
    if labelled:
        each = max(1, labelled // len(every.classes))
        some = torch.cat([(labels == k).nonzero()[:each, 0] for k in range(len(every.classes))])
    return Splits(
        images.to(device),
        images[some].to(device),
        labels[some].to(device),
        test_images.to(device),
        test_labels.to(device),
        every.classes,
    )


def build_encoder(
    kind: Network, shape: tuple[int, int, int], width: int, depth: int, patch: int, seed: int
) -> Encoder:
    """A fresh encoder, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return TimedMLP(shape[0] * shape[1] * shape[2], 2 * width, width, depth)
        if kind == "conv":
            return TimedConv(shape[0], width, depth)
        return TimedViT(shape, patch=patch, width=width, depth=depth, heads=max(1, width // 64))


def pretraining(method: str, plan: RRCM) -> RRCM:
    """The plan of a method's pre-training."""
    return replace(plan, **PRETRAININGS[method])  # type: ignore[arg-type]


def objective_of(method: str, lam: float) -> Objective:
    """What a method minimises; pre-trained ones are fine-tuned with consistency."""
    if method in ("consistency", *PRETRAININGS):
        return Consistency(lam)
    plain: dict[str, Callable[[], Objective]] = {
        "gaussian": Gaussian,
        "stability": Stability,
        "macer": MACER,
        "smoothadv": SmoothAdv,
        "smoothmix": SmoothMix,
    }
    require(
        method in plain,
        f"method must be one of {', '.join([*plain, 'denoised', *PRETRAININGS])}, but {method!r} came",
    )
    return plain[method]()


def train_method(
    method: str,
    encoder: Encoder,
    splits: Splits,
    sigma: float,
    lam: float,
    recipe: Recipe,
    generator: torch.Generator,
    callback: Callable[[int, int, str], None] | None = None,
) -> nn.Module:
    """A classifier of noisy images by one of the methods; `encoder` is where it starts."""
    arguments = (splits.images, splits.labels)
    count = len(splits.classes)
    if method != "denoised":
        objective = objective_of(method, lam)
        return finetune(
            encoder, *arguments, sigma, objective, recipe, generator, classes=count, callback=callback
        )
    # As good as no noise: the classifier behind a denoiser sees clean images.
    clean = finetune(
        encoder, *arguments, 0.01, Gaussian(), recipe, generator, classes=count, callback=callback
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        denoiser = EncoderDenoiser(copy.deepcopy(encoder), splits.shape, sigma).to(splits.images.device)
    fit_denoiser(
        denoiser, splits.unlabelled, sigma, generator, steps=recipe.steps, batch=recipe.batch, lr=recipe.lr
    )
    return Denoised(denoiser, clean).eval()


def empty_method(method: str, fresh: Callable[[], Encoder], splits: Splits, sigma: float) -> nn.Module:
    """A network of the kind that `train_method` gives, to load weights into."""
    count = len(splits.classes)
    if method == "denoised":
        return Denoised(EncoderDenoiser(fresh(), splits.shape, sigma), TimedClassifier(fresh(), count, 0.01))
    return TimedClassifier(fresh(), count, sigma)


class Half(nn.Module):
    """A network run in bfloat16, as it was trained: what is certified is what is deployed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x).float()


def certify_method(
    model: nn.Module, splits: Splits, sigma: float, *, half: bool, seed: int, **settings: Any
) -> Certificates:
    """Certify the test images; noise is drawn where the model is."""
    whole = Half(model) if half else model
    smoothed = SmoothedClassifier(whole, sigma, classes=len(splits.classes), noise_on="model")
    return smoothed.certify(splits.test_images, labels=splits.test_labels, seed=seed, **settings)


def images_a_second(model: nn.Module, images: Tensor, rounds: int = 5, seconds: float = 0.3) -> float:
    """Forward passes a second over a batch, the best of a few rounds and of as many as fit in some time."""
    best, end = float("inf"), time.perf_counter() + seconds
    with frozen(model), torch.inference_mode():
        while rounds > 0 or time.perf_counter() < end:
            rounds -= 1
            began = time.perf_counter()
            out = model(images)
            float(out.sum())  # waits for a device with a queue
            best = min(best, time.perf_counter() - began)
    return len(images) / best
