"""The worst style within a budget: how far channel statistics must move before a network errs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jostle.core.ascent import ascend
from jostle.core.budgets import L2, Linf
from jostle.core.errors import require
from jostle.core.taps import Taps, frozen, replaced
from jostle.files import write_json
from jostle.style.insertion import enabled
from jostle.style.restyle import EPS, batch_uncertainty, channel_statistics, restyle

Norm = Literal["L2", "Linf"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Reference:
    """How far styles scatter over a data set at a layer: the unit in which a style budget is measured."""

    layer: str
    mu: Float[Tensor, " channels"]
    sigma: Float[Tensor, " channels"]


def fit_reference(
    model: nn.Module, batches: Iterable[Tensor], layer: str, *, eps: float = EPS, channel_dim: int = 1
) -> Reference:
    """The scatter of the styles of a data set behind a layer: `sqrt(Var(mu) + eps)`, `sqrt(Var(sigma) +
    eps)`.

    **Arguments:** `model`: left as it was. `batches`: images, at least two in all; the training set. `layer`:
    a dotted name. `eps`, `channel_dim`: as in
    [`channel_statistics`][jostle.style.restyle.channel_statistics].
    **Raises:** `JostleError` if the layer is not there, or there are not two images.

    >>> net = nn.Sequential(nn.Identity())
    >>> fit_reference(net, [torch.tensor([[[[1.0, 3.0]]], [[[3.0, 5.0]]]])], "0").mu
    tensor([1.4142])
    """
    found = []
    # Style layers sleep in evaluation mode; the tap reads what the layer itself gives.
    with frozen(model), torch.no_grad(), Taps(model, [layer]) as taps:
        for batch in batches:
            model(batch)
            found.append(channel_statistics(taps.values[0], eps=eps, channel_dim=channel_dim))
    count = sum(len(mu) for mu, _ in found)
    require(count >= 2, f"batches must hold at least two images to measure their scatter, but {count} came")
    mu, sigma = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Reference(layer, *batch_uncertainty(mu, sigma, eps))


@dataclass(frozen=True, eq=False)
class WorstStyle:
    """What an attack found.

    `robust`: samples that no style on the way fooled. `delta_mu`, `delta_sigma`: the shifts of the statistics
    at the largest loss, `(batch, channels)` or, shared, `(1, channels)`. `loss`: there, a sample.
    """

    robust: Bool[Tensor, " batch"]
    delta_mu: Float[Tensor, "rows channels"]
    delta_sigma: Float[Tensor, "rows channels"]
    loss: Float[Tensor, " batch"]


def worst_style(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    reference: Reference,
    radius: float,
    *,
    norm: Norm = "L2",
    shared: bool = False,
    steps: int = 20,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    eps: float = EPS,
    channel_dim: int = 1,
) -> WorstStyle:
    """Move the channel statistics behind a layer so that the loss is largest.

    Maximises the cross-entropy over `d_mu`, `d_sigma` with `y = (1 + d_sigma / sigma) (x - mu) + mu + d_mu`,
    under `||(d_mu / S_mu, d_sigma / S_sigma)||_p <= radius` and `sigma + d_sigma >= 0`, by projected ascent
    from zero and from random points, in steps of `2.5 radius / steps`. A sample counts as fooled as soon as
    one iterate fools it, and the search ends when all are.

    **Arguments:** `model`: any network of class scores, left as it was. `x`, `y`: inputs and classes.
    `reference`: layer and units, from [`fit_reference`][jostle.style.attack.fit_reference]. `radius`: at
    least 0. `norm`: `"L2"` or `"Linf"`. `shared`: one style for all samples, instead of one each. `steps`,
    `restarts`: at least 1; `generator` is needed for more than one restart.
    **Raises:** `JostleError` for settings out of range or an unknown layer.

    >>> net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 2))
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> found = worst_style(net, x, y, fit_reference(net, [x], "0"), 1.0)
    >>> found.delta_mu.shape
    torch.Size([3, 1])
    """
    require(norm in ("L2", "Linf"), f"norm must be L2 or Linf, but {norm!r} came")
    require(radius >= 0, f"radius must be at least 0, but {radius} came")
    require(
        len(x) == len(y) and len(x) > 0,
        f"x and y must be of one length above 0, but {len(x)} and {len(y)} came",
    )
    seen: list[Tensor] = []
    with frozen(model), enabled(model, False):
        with torch.no_grad(), Taps(model, [reference.layer]) as taps:
            clean = model(x)
            _, sigma = channel_statistics(taps.values[0], eps=eps, channel_dim=channel_dim)
        fooled = clean.argmax(1) != y
        units = torch.stack([reference.mu, reference.sigma]).to(sigma)
        if radius == 0:
            zero = torch.zeros(1 if shared else len(x), units.shape[1], device=x.device)
            return WorstStyle(~fooled, zero, zero, F.cross_entropy(clean, y, reduction="none"))
        lowest = -(sigma / units[1])
        if shared:
            lowest = lowest.amax(0, keepdim=True)
        lower = torch.stack([torch.full_like(lowest, -torch.inf), lowest], dim=1)
        budget = (L2 if norm == "L2" else Linf)(radius, lower=lower)

        def moved(value: Tensor) -> Tensor:
            return restyle(
                value,
                lambda mu, sigma, u: (u[:, 1].expand_as(sigma), u[:, 0].expand_as(mu)),
                seen[-1] * units,
                eps=eps,
                channel_dim=channel_dim,
            )

        def objective(u: Tensor) -> Tensor:
            nonlocal fooled
            seen.append(u)
            out = model(x)
            fooled = fooled | (out.detach().argmax(1) != y)
            seen.clear()
            loss = F.cross_entropy(out, y, reduction="none")
            return loss.mean() if shared else loss

        with replaced(model, {reference.layer: moved}):
            found = ascend(
                objective,
                torch.zeros_like(lower),
                budget,
                steps=steps,
                restarts=restarts,
                generator=generator,
                stop=lambda values: fooled,
            )
            with torch.no_grad():
                seen.append(found.delta)
                out = model(x)
    if shared:  # one style is the answer, and it is judged at that style alone
        fooled = out.argmax(1) != y
    delta = found.delta * units
    return WorstStyle(~fooled, delta[:, 0], delta[:, 1], F.cross_entropy(out, y, reduction="none"))


@dataclass(frozen=True)
class StyleCurve:
    """Accuracy against the style budget, behind one layer.

    `radii`: in units of the reference scatter. `accuracy`: in percent, one a radius. `count`: images.
    """

    layer: str
    norm: Norm
    radii: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: int

    def save(self, path: Path) -> None:
        """Write the curve as JSON."""
        write_json(Path(path), {name: getattr(self, name) for name in self.__dataclass_fields__})


def style_curve(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    reference: Reference,
    radii: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
    *,
    norm: Norm = "L2",
    steps: int = 20,
    batch: int = 64,
    channel_dim: int = 1,
    callback: Progress | None = None,
) -> StyleCurve:
    """Robust accuracy against the style budget: the share of samples that no style within it fooled.

    A sample that a smaller budget fooled is fooled by every larger one, so only the others are searched. It
    is an upper bound on the true robust accuracy, as every attack's.

    **Arguments:** `radii`: rising, from 0. `batch`: images at a time. Others as for
    [`worst_style`][jostle.style.attack.worst_style]. `callback`: `(done, total, figure)` after each radius.
    """
    require(list(radii) == sorted(radii) and len(radii) > 0, f"radii must rise, but {tuple(radii)} came")
    alive = torch.arange(len(y))
    out = []
    for done, radius in enumerate(radii):
        kept = [
            part[
                worst_style(
                    model,
                    x[part],
                    y[part],
                    reference,
                    radius,
                    norm=norm,
                    steps=steps,
                    channel_dim=channel_dim,
                ).robust.cpu()
            ]
            for part in alive.split(batch)
            if len(part)
        ]
        alive = torch.cat(kept) if kept else alive
        out.append(100 * len(alive) / len(y))
        if callback is not None:
            callback(done + 1, len(radii), f"{out[-1]:.1f} % at {radius:g}")
    return StyleCurve(reference.layer, norm, tuple(float(radius) for radius in radii), tuple(out), len(y))
