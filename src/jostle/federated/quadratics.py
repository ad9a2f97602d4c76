"""Strongly convex quadratics as a federation: a problem whose answer is known."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.federated.federation import Federation


class Point(nn.Module):
    """A model that is its parameters: `F_i(v) = (v - b_i)^T A_i (v - b_i)/2`; a sample holds `A_i` and `b_i`."""

    def __init__(self, at: Float[Tensor, " d"]) -> None:
        super().__init__()
        self.v = nn.Parameter(at.clone())

    def forward(self, x: Float[Tensor, "n d e"]) -> Float[Tensor, " n"]:
        """The value of each sample's quadratic."""
        off = self.v - x[:, :, -1]
        return 0.5 * torch.einsum("ni,nij,nj->n", off, x[:, :, :-1], off)


def value(output: Tensor, targets: Tensor) -> Tensor:
    """The mean value; there is nothing to hit."""
    return output.mean()


class Quadratics:
    """`clients` random quadratics in `d` dimensions.

    **Arguments:** `seed`, `clients`, `d`.

    >>> problem = Quadratics()
    >>> float(torch.stack([problem.gradient(i, problem.minimiser()) for i in range(5)]).sum(0).abs().max()) < 1e-12
    True
    """

    def __init__(self, seed: int = 0, clients: int = 5, d: int = 4) -> None:
        g = torch.Generator().manual_seed(seed)
        root = torch.randn(clients, d, d, generator=g, dtype=torch.float64)
        self.A = root @ root.mT / d + 0.5 * torch.eye(d, dtype=torch.float64)
        self.b = torch.randn(clients, d, generator=g, dtype=torch.float64)
        self.start = torch.randn(d, generator=g, dtype=torch.float64)
        self.clients = [
            (torch.cat([A, b[:, None]], 1)[None], torch.zeros(1)) for A, b in zip(self.A, self.b, strict=True)
        ]

    def federation(self, start: Tensor | None = None, **settings: Any) -> Federation:
        """The federation, with everybody active unless told otherwise."""
        settings = {"fraction": 1.0, "engine": "batched", "seed": 0, **settings}
        return Federation(Point(self.start if start is None else start), value, self.clients, **settings)

    def gradient(self, i: int, v: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """Of client `i`."""
        return self.A[i] @ (v - self.b[i])

    def minimiser(self, extra: Tensor | float = 0.0) -> Float[Tensor, " d"]:
        """Of the mean objective; `extra` is added to the matrices."""
        A = self.A + extra
        return torch.linalg.solve(A.sum(0), torch.einsum("mij,mj->i", A, self.b))
