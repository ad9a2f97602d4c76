"""Collapse metrics of features in memory, and what a tied layer would make of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.collapse.accumulator import Accumulator, Weighting
from jostle.collapse.report import NCReport
from jostle.core.errors import require

_ROWS = 4096


def metrics(
    features: Float[Tensor, "N d"],
    labels: Int[Tensor, " N"],
    weight: Float[Tensor, "K d"] | None = None,
    bias: Float[Tensor, " K"] | None = None,
    *,
    K: int | None = None,
    weighting: Weighting = "class",
    rank_tol: float = 0.0,
    cdnv_exponent: float = 2.0,
    dtype: torch.dtype = torch.float64,
) -> NCReport:
    """Every usual form of neural collapse, of one set of features.

    The definitions are those of [`NCReport`][jostle.collapse.NCReport]. `Tr(S_W S_B^+)` comes from a rank `K
    - 1` factorisation of the class means: no `d x d` matrix is ever formed.

    **Arguments:** `features`: one a row, of any floating precision. `labels`: 0 to `K - 1`. `weight`, `bias`:
    of the classifier head, for `nc3` and `nc4`. `K`: classes; from the head or the largest label by default.
    `weighting`: whether the between-class scatter weighs classes or samples. `rank_tol`: directions of the
    class means whose singular value is below this share of the largest are left out of `nc1`.
    `cdnv_exponent`: of the distance in `cdnv`. `dtype`: computed in.
    **Returns:** [`NCReport`][jostle.collapse.NCReport].
    **Raises:** `JostleError` for labels out of range, an empty class, features that are not finite.

    >>> h = torch.eye(3).repeat(4, 1) + 0.01 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    >>> report = metrics(h, torch.arange(3).repeat(4), weight=torch.eye(3))
    >>> report.nc1 < 1e-3, report.nc2 < 0.02, report.nc4
    (True, True, 1.0)
    """
    require(features.ndim == 2, f"features must be (samples, d), but {tuple(features.shape)} came")
    require(
        len(features) == len(labels) > 0,
        f"features and labels must be equally long and not empty, but {len(features)} and {len(labels)} came",
    )
    require(features.is_floating_point(), f"features must be floats, but {features.dtype} came")
    if K is None:
        K = len(weight) if weight is not None else int(labels.max()) + 1
    if weight is not None:
        require(
            tuple(weight.shape) == (K, features.shape[1]),
            f"weight must be ({K}, {features.shape[1]}), a row a class, but {tuple(weight.shape)} came",
        )
    acc = Accumulator(
        K,
        features.shape[1],
        weighting=weighting,
        rank_tol=rank_tol,
        cdnv_exponent=cdnv_exponent,
        device=features.device,
        dtype=dtype,
    )
    for h, y in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
        acc.update(h, y)
    for h, y in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
        predicted = None
        if weight is not None:
            logits = h.detach().to(dtype) @ weight.detach().to(h.device, dtype).T
            predicted = (logits if bias is None else logits + bias.detach().to(h.device, dtype)).argmax(1)
        acc.second_pass(h, y, predicted)
    return acc.compute(weight)
