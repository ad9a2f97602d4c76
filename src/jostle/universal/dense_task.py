"""A segmentation task that can be made anywhere: digits before photographs, on a classifier's frozen trunk."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jostle.universal.dense import DenseNet, segmentation_loss, train_head
from jostle.universal.scenes import CLASSES, make_scenes
from jostle.universal.segmentation import bootstrap, evaluate_segmentation
from jostle.universal.stochastic import Callback
from jostle.zoo import Images, load_data

SIDE = 96


class Task(NamedTuple):
    """A trained segmenter, and batches of unseen scenes (unseen digits on unseen photographs)."""

    net: DenseNet
    batches: list[tuple[Tensor, Tensor]]


def segmentation_task(
    trunk: nn.Module,
    photographs: Images,
    generator: torch.Generator,
    *,
    scenes: int,
    unseen: int = 500,
    noise: float = 0.0,
    callback: Callback | None = None,
) -> Task:
    """Make scenes, train a head on the trunk's features, and keep what it never saw.

    **Arguments:** `trunk`: takes images in [0, 1]; stays as it is. `photographs`: backgrounds; a quarter of them are
    kept for the unseen scenes. `scenes`: to train on, at least 1; 6,000 give a segmenter worth attacking. `unseen`:
    to judge on. `noise`: largest sd of Gaussian noise that the head is trained under, in
    [0, 1] units; a head trained on clean images alone is broken by any noise, and cannot tell it from a perturbation.
    `callback`: `(done, total, figure)` of the training.
    """
    digits, labels = load_data("mnist5k").tensors()
    order = torch.randperm(len(digits), generator=generator)
    known, new = order[:4000], order[4000:]
    pictures = photographs.tensors()[0]
    # Views of one photograph stay together: what is unseen must not have been seen from another side.
    owner = photographs.groups if photographs.groups is not None else torch.arange(len(pictures))
    owners = owner.unique()
    owners = owners[torch.randperm(len(owners), generator=generator)]
    shown = torch.isin(owner, owners[: max(1, int(0.75 * len(owners)))])
    train = make_scenes(
        pictures[shown], digits[known, 0], labels[known], count=scenes, size=SIDE, generator=generator
    )
    test = make_scenes(
        pictures[~shown], digits[new, 0], labels[new], count=unseen, size=SIDE, generator=generator
    )
    net = DenseNet(trunk, CLASSES, (3, SIDE, SIDE), generator=generator)
    train_head(
        net,
        train.images,
        train.masks,
        segmentation_loss(),
        generator=generator,
        noise=noise,
        callback=callback,
    )
    return Task(net, list(zip(test.images.split(50), test.masks.split(50), strict=True)))


def judge_segmentation(
    task: Task, deltas: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """Mean IoU against the truth and against the clean prediction, with bootstrap intervals over images.

    **Returns:** by perturbation, and `clean`: `miou`, its `interval`, `agreement` and `agreement interval`.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, delta in deltas.items():
        report = evaluate_segmentation(task.net, delta, task.batches)
        metrics = report.metrics()
        if "clean" not in found:
            found["clean"] = {
                "miou": metrics["clean.miou"],
                "interval": list(bootstrap(report.clean, generator)),
            }
        found[name] = {
            "miou": metrics["perturbed.miou"],
            "interval": list(bootstrap(report.perturbed, generator)),
            "agreement": metrics["agreement.miou"],
            "agreement interval": list(bootstrap(report.agreement, generator)),
        }
    return found
