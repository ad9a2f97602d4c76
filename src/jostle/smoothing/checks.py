"""Checks of the certifier against models whose radius is known in closed form, on the user's own machine."""

import math
import time

import torch
from torch import Tensor, nn

from jostle.smoothing.smoothed import SmoothedClassifier


class Halfspace(nn.Module):
    """Class 1 where `way . x > offset`; the smoothed radius is the distance to the plane, whatever the noise.

    **Arguments:** `way`: the normal, of any length. `offset`: a number.

    >>> Halfspace(torch.tensor([1.0, 0.0]), 0.5)(torch.tensor([[0.75, 0.0]]))
    tensor([[-0.2500,  0.2500]])
    """

    way: Tensor

    def __init__(self, way: Tensor, offset: float) -> None:
        super().__init__()
        self.register_buffer("way", way)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        """Logits of both sides."""
        side = x.flatten(1) @ self.way - self.offset
        return torch.stack([-side, side], dim=1)

    def radius(self, x: Tensor) -> Tensor:
        """The exact radius of each image, in float64."""
        way = self.way.double()
        return (x.flatten(1).double() @ way - self.offset).abs() / way.norm()


def check(seed: int = 0, count: int = 1000, alpha: float = 1e-3) -> dict[str, float]:
    """Certify `count` images of a half-space with the sequential test, and compare with the exact radii.

    >>> check(count=20)["false"]
    0.0
    """
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.3 * (torch.rand(count, 16, generator=generator) - 0.5)
    model = Halfspace(torch.ones(16) / 4, 2.0)
    exact = model.radius(x)
    radii = tuple(0.025 * i for i in range(15))
    began = time.perf_counter()
    found = SmoothedClassifier(model, 0.5).certify(x, radii=radii, alpha=alpha, n_max=20_000, seed=seed)
    seconds = time.perf_counter() - began
    gap = (exact - found.radius)[found.prediction >= 0]
    return {
        "certificates": float(count),
        "false": float((found.radius > exact).sum()),
        "false, expected at most": alpha * count,
        "mean gap to the exact radius": float(gap.mean()) if len(gap) else math.nan,
        "draws a second": float(found.used.sum()) / seconds,
    }
