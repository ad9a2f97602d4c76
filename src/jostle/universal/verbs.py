"""What the command line offers beside crafting and judging."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from jostle.universal.defences import DEFENCES, defended
from jostle.universal.evaluate import Fooling, evaluate
from jostle.universal.perturbation import UniversalPerturbation
from jostle.zoo import Images


@runtime_checkable
class Picture(Protocol):
    """What can be drawn into a file: a figure of matplotlib, which is not imported to say so."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """Draw into the file `fname`."""


def defend(
    model: nn.Module,
    perturbation: UniversalPerturbation,
    data: Images | Tensor | Iterable[Any],
    *,
    callback: Callable[[int, int, str], None] | None = None,
) -> dict[str, Fooling]:
    """Fooling rates behind each of the paper's defences, and without one (GD-UAP, claim C4).

    **Arguments:** `model`: on [0, 1] images. `perturbation`: what is defended against, as `craft` made it.
    `data`: what is judged on: zoo images, a tensor `(n, C, H, W)`, or batches of images or of `(images,
    labels)`. `callback`: `(done, total, figure)` after each defence.
    **Returns:** a [`Fooling`][jostle.universal.Fooling] a defence; its `clean_top1` is what the defence leaves of
    the accuracy.

    >>> import torch
    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()  # the brightest channel
    >>> images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> sorted(defend(net, UniversalPerturbation(torch.zeros(1, 3, 8, 8)), images))[:3]
    ['bilateral', 'bits-2', 'bits-3']
    """
    found = {}
    for done, name in enumerate(("none", *DEFENCES), start=1):
        guarded = model if name == "none" else defended(model, name)
        (found[name],) = evaluate(guarded, perturbation, data).values()
        if callback is not None:
            callback(done, len(DEFENCES) + 1, f"{name}: {found[name].rate:.1%}")
    return found


def show(perturbation: UniversalPerturbation) -> Picture:
    """A figure of the perturbation and its spectrum; `--out picture.png` keeps it.

    **Arguments:** `perturbation`: as `craft` made it.
    """
    from jostle.universal.figures import show as draw

    return draw(perturbation)
