"""Two looks at embeddings beside the collapse metrics: the spectrum of each class, and how alike two layers are."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.collapse.accumulator import effective_rank
from jostle.core.errors import require


@dataclass(frozen=True, eq=False)
class Spectra:
    """How the samples of each class spread about their mean.

    `values`: singular values of the deviations over `sqrt(n_k)`, from the largest, zeros at the end; the
    squares of a row are the eigenvalues of the class's covariance. `effective_ranks`: the exponential of their
    entropy (Roy & Vetterli 2007); 0 for a class without spread.
    """

    values: Float[Tensor, "K r"]
    effective_ranks: Float[Tensor, " K"]


def class_spectra(
    features: Float[Tensor, "N d"], labels: Int[Tensor, " N"], *, K: int | None = None
) -> Spectra:
    """The singular values of each class: whether its variability lies in a few directions or in all.

    `nc1` adds all of it up; two layers with the same `nc1` may differ here.

    **Arguments:** `features`: one a row, of any floating precision; computed in float64. `labels`: 0 to `K -
    1`. `K`: classes; by default the largest label and one.
    **Returns:** [`Spectra`][jostle.collapse.Spectra].
    **Raises:** `JostleError` for labels out of range, an empty class, features that are not finite.

    >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 3.0], [3.0, 3.0]])
    >>> found = class_spectra(h, torch.tensor([0, 0, 1, 1]))
    >>> found.values.tolist(), found.effective_ranks.tolist()
    ([[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0])
    """
    h = _checked(features, "features")
    require(
        len(h) == len(labels),
        f"features and labels must be equally long, but {len(h)} and {len(labels)} came",
    )
    K = int(labels.max()) + 1 if K is None else K
    require(
        int(labels.min()) >= 0 and int(labels.max()) < K,
        f"labels must lie in 0 to {K - 1}, but {int(labels.min())} to {int(labels.max())} came",
    )
    counts = labels.bincount(minlength=K)
    empty = (counts == 0).nonzero().flatten().tolist()
    require(not empty, f"every class must have a sample, but class {', '.join(map(str, empty[:5]))} has none")
    values = h.new_zeros(K, min(h.shape[1], int(counts.max())))
    for k in range(K):
        rows = h[labels == k]
        found = torch.linalg.svdvals(rows - rows.mean(0)) / len(rows) ** 0.5
        values[k, : len(found)] = found
    return Spectra(values, h.new_tensor([effective_rank(row) for row in values]))


def cka(X: Float[Tensor, "N d_x"], Y: Float[Tensor, "N d_y"]) -> float:
    """Linear centred kernel alignment: how alike two layers see the same samples, from 0 to 1.

    `||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)` of the centred features (Kornblith, Norouzi, Lee & Hinton 2019,
    section 3). It is 1 for features that differ by a rotation, a shift and a scale. At collapse it compares
    the class means alone.

    **Arguments:** `X`, `Y`: features of the same samples in the same order, one a row; widths may differ.
    **Raises:** `JostleError` for unequal lengths, features that are not finite or do not vary.

    >>> X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> round(cka(X, 2 * X.flip(1) + 1), 6)
    1.0
    """
    x, y = _checked(X, "X"), _checked(Y, "Y")
    require(len(x) == len(y), f"X and Y must hold the same samples, but {len(x)} and {len(y)} came")
    x, y = x - x.mean(0), y - y.mean(0)
    for name, part in (("X", x), ("Y", y)):
        require(bool(part.any()), f"{name} must vary between samples, but all rows are equal")
    # Scaled first, so that fourth powers neither overflow nor vanish.
    x, y = x / x.norm(), y / y.norm()
    if len(x) < max(x.shape[1], y.shape[1]):
        a, b = x @ x.T, y @ y.T
        return float((a * b).sum() / (a.norm() * b.norm()))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def _checked(features: Tensor, name: str) -> Tensor:
    require(
        features.ndim == 2 and len(features) > 0,
        f"{name} must be (samples, d) and not empty, but {tuple(features.shape)} came",
    )
    h = features.detach().double()
    require(bool(h.isfinite().all()), f"{name} must be finite, but it holds NaN or infinity")
    return h
