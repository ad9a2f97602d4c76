"""Five strongly convex quadratics in four dimensions, as a federation: all answers are known."""

import torch
from torch import Tensor, nn

from jostle.federated import Federation, Local

EXACT = dict(weight_decay=0.0, clip_mode=None)


class Point(nn.Module):
    """The parameters themselves are the model: `F_i(v) = (v - b_i)^T A_i (v - b_i)/2`."""

    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.v = nn.Parameter(at.clone())

    def forward(self, x: Tensor) -> Tensor:
        """The value of the quadratic whose matrix and centre a sample holds, one a sample."""
        A, b = x[:, :, :-1], x[:, :, -1]
        off = self.v - b
        return 0.5 * torch.einsum("ni,nij,nj->n", off, A, off)


def mean(output: Tensor, _: Tensor) -> Tensor:
    """The mean value."""
    return output.mean()


class Problem:
    """`m` clients, each one quadratic."""

    def __init__(self, seed: int = 0, m: int = 5, d: int = 4) -> None:
        g = torch.Generator().manual_seed(seed)
        root = torch.randn(m, d, d, generator=g, dtype=torch.float64)
        self.A = root @ root.mT / d + 0.5 * torch.eye(d, dtype=torch.float64)
        self.b = torch.randn(m, d, generator=g, dtype=torch.float64)
        self.start = torch.randn(d, generator=g, dtype=torch.float64)
        self.clients = [
            (torch.cat([A, b[:, None]], 1)[None], torch.zeros(1)) for A, b in zip(self.A, self.b, strict=True)
        ]

    def federation(self, start: Tensor | None = None, **settings) -> Federation:
        """The federation, with everybody active unless told otherwise."""
        settings = {"fraction": 1.0, "engine": "batched", "seed": 0, **settings}
        return Federation(Point(self.start if start is None else start), mean, self.clients, **settings)

    def gradient(self, i: int, v: Tensor) -> Tensor:
        """Of one client."""
        return self.A[i] @ (v - self.b[i])

    def minimiser(self, extra: Tensor | None = None) -> Tensor:
        """Of the mean objective; `extra` is added to the matrices."""
        A = self.A if extra is None else self.A + extra
        return torch.linalg.solve(A.sum(0), torch.einsum("mij,mj->i", A, self.b))


def local(epochs: int = 7, lr: float = 0.1, **settings) -> Local:
    """Full-batch local steps, as many as epochs, neither clipped nor decayed."""
    return Local(lr=lr, epochs=epochs, batch_size=1, **{**EXACT, **settings})
