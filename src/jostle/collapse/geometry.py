"""The shapes of collapse: simplex frames, orthogonal frames, and what a nudge is made of relative to them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require


def etf(K: int, d: int) -> Float[Tensor, "d K"]:
    """A simplex equiangular tight frame: `K` unit vectors in `d` dimensions that are as far apart as can be.

    `M = sqrt(K/(K-1)) Q (I - 11^T/K)` with `Q^T Q = I` (Papyan, Han & Donoho 2020). Any two columns have the
    cosine `-1/(K-1)`.

    **Arguments:** `K`: vectors, at least 2. `d`: dimensions, at least `K - 1`.
    **Returns:** `(d, K)`, float64, columns of norm 1.
    **Raises:** `JostleError` if they do not fit.

    >>> frame = etf(3, 2)
    >>> (frame.T @ frame).round(decimals=3)
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    require(K >= 2, f"K must be at least 2 classes, but {K} came")
    require(d >= K - 1, f"d must be at least K - 1 = {K - 1} for a simplex of {K} vectors, but {d} came")
    frame = torch.zeros(d, K, dtype=torch.float64)
    frame[: K - 1] = null_complement(torch.full((K,), 1 / math.sqrt(K), dtype=torch.float64)).T
    return frame * math.sqrt(K / (K - 1))


def frame(K: int, d: int, generator: torch.Generator) -> Float[Tensor, "d K"]:
    """A random orthonormal frame `R` with `R^T R = I`, uniform over all of them.

    **Arguments:** `K`: vectors. `d`: dimensions, at least `K`. `generator`: on the CPU.
    **Raises:** `JostleError` if `d < K`.

    >>> R = frame(2, 5, torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(R.T @ R, torch.eye(2, dtype=torch.float64)))
    True
    """
    require(d >= K, f"d must be at least K = {K} for an orthonormal frame, but {d} came")
    q, r = torch.linalg.qr(torch.randn(d, K, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


def procrustes_frame(H: Float[Tensor, "d N"], K: int) -> tuple[Float[Tensor, "d K"], float]:
    """The collapsed configuration `sqrt(rho) R (x) 1_n^T` that lies nearest to given features.

    With the SVD `U S V^T` of the class means, `R = U V^T` and `sqrt(rho) = Tr(S)/K` (orthogonal Procrustes,
    Schoenemann 1966).

    **Arguments:** `H`: features ordered by class, `n = N/K` columns a class. `K`: classes.
    **Returns:** `(R, rho)`.
    **Raises:** `JostleError` if `d < K` or `K` does not divide `N`.

    >>> R, rho = procrustes_frame(2 * torch.eye(3, dtype=torch.float64).repeat_interleave(4, 1), 3)
    >>> rho, bool(torch.allclose(R, torch.eye(3, dtype=torch.float64)))
    (4.0, True)
    """
    means = class_means(H, K)
    require(H.shape[0] >= K, f"d must be at least K = {K} for an orthonormal frame, but {H.shape[0]} came")
    left, sizes, right = torch.linalg.svd(means, full_matrices=False)
    return left @ right, float(sizes.mean()) ** 2


def class_means(H: Float[Tensor, "d N"], K: int) -> Float[Tensor, "d K"]:
    """Means of features that are ordered by class, `N/K` columns a class.

    >>> class_means(torch.tensor([[1.0, 3.0, 5.0, 5.0]]), 2)
    tensor([[2., 5.]])
    """
    require(
        H.ndim == 2 and H.shape[1] % K == 0 and H.shape[1] > 0,
        f"H must be (d, K n) with columns ordered by class, but {tuple(H.shape)} came with K = {K}",
    )
    return H.reshape(H.shape[0], K, -1).mean(2)


def bank(features: Float[Tensor, "N d"], labels: Int[Tensor, " N"]) -> Float[Tensor, "d N"]:
    """Features as the theory writes them: columns, ordered by class, float64.

    **Arguments:** `features`: one a row. `labels`: the classes 0 to K-1, each equally often.
    **Raises:** `JostleError` if the classes are not balanced: the theory does not cover that (`metrics`
    does).

    >>> bank(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([1, 0, 1, 0]))
    tensor([[2., 4., 1., 3.]], dtype=torch.float64)
    """
    require(
        len(features) == len(labels) > 0,
        f"features and labels must be equally long and not empty, but {len(features)} and {len(labels)} came",
    )
    counts = labels.bincount()
    require(
        bool((counts == counts[0]).all()),
        "labels must hold each class equally often for the tied model, but the counts are "
        f"{counts.tolist()[:20]}; `metrics` takes unbalanced classes",
    )
    return features[labels.argsort(stable=True)].T.double()


@dataclass(frozen=True)
class Energies:
    """The squared size of a nudge in the five subspaces that answer differently; they sum to the whole.

    `within_in`, `within_out`: deviations from the class means, inside and outside the span of the frame.
    `mean_out`: class means, outside the span. `mean_sym`, `mean_skew`: class means inside the span, the part
    that stretches the frame and the part that rotates it.
    """

    within_in: float
    within_out: float
    mean_out: float
    mean_sym: float
    mean_skew: float

    @property
    def total(self) -> float:
        """The sum, `||dH0||^2`."""
        return self.within_in + self.within_out + self.mean_out + self.mean_sym + self.mean_skew


def decompose(dH0: Float[Tensor, "d N"], R: Float[Tensor, "d K"]) -> Energies:
    """What a perturbation of features is made of: the report of which part of it survives a tied layer.

    **Arguments:** `dH0`: ordered by class. `R`: the frame that defines the collapse (not a re-estimated one).
    **Returns:** [`Energies`][jostle.collapse.Energies].

    >>> R = torch.eye(3, 2, dtype=torch.float64)
    >>> turn = torch.tensor([[0.0, 0, 1, 1], [-1, -1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    >>> decompose(turn, R).mean_skew
    4.0
    """
    K = R.shape[1]
    require(dH0.shape[0] == R.shape[0], f"dH0 must have the {R.shape[0]} rows of R, but {dH0.shape[0]} came")
    n = dH0.shape[1] // K
    means = class_means(dH0, K)
    inside = R.T @ means
    within = dH0 - means.repeat_interleave(n, 1)
    projected = R.T @ within
    sym = (inside + inside.T) / 2
    return Energies(
        within_in=_energy(projected),
        within_out=_energy(within - R @ projected),
        mean_out=n * _energy(means - R @ inside),
        mean_sym=n * _energy(sym),
        mean_skew=n * _energy(inside - sym),
    )


def null_complement(unit: Float[Tensor, " K"]) -> Float[Tensor, "K K-1"]:
    """An orthonormal basis of what is orthogonal to a unit vector, by one Householder reflection.

    >>> basis = null_complement(torch.tensor([0.6, 0.8], dtype=torch.float64))
    >>> basis.flatten().abs().round(decimals=3).tolist()
    [0.8, 0.6]
    """
    reflector = unit.clone()
    # The sign that adds: no cancellation.
    reflector[0] += math.copysign(1.0, float(unit[0]))
    reflector /= reflector.norm()
    eye = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    return (eye - 2 * torch.outer(reflector, reflector))[:, 1:]


def _energy(part: Tensor) -> float:
    return float(part.square().sum())
