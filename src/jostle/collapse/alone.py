"""NC1 by itself, for those who watch it often."""

import torch

from jostle.collapse.accumulator import Accumulator, Basis
from jostle.core.errors import require

SQUARED = 1e-3
"""From this ratio of the smallest to the largest pivot, normal equations keep ten digits."""


def nc1(statistics: Accumulator) -> float:
    """`Tr(S_W S_B^+)/K` alone, from statistics of one pass, without a factorisation of anything `d` long.

    With `C` the centred means weighted so that `S_B = C^T C`, and `n` the unit vector that they all leave out
    (`n^T C = 0`): `S_B^+ = Y^T Y` with `Y = (C C^T + g n n^T)^-1 C` for any `g > 0`, so a Cholesky factor of
    `K x K` is all it takes: `O(K d^2)`. Where the means are nearly dependent it takes the slower, safer way of
    [`Accumulator.compute`][jostle.collapse.Accumulator.compute].

    **Arguments:** `statistics`: an [`Accumulator`][jostle.collapse.Accumulator] made with `one_pass=True`.
    **Returns:** NC1; infinite where all class means are equal.
    **Raises:** `JostleError` if the statistics hold no scatter matrix, or a class has no sample.

    >>> import torch
    >>> seen = Accumulator(2, 3, one_pass=True)
    >>> seen.update(torch.tensor([[1.0, 0, 0], [3, 0, 0], [-2, 1, 0], [-2, -1, 0]]), torch.tensor([0, 0, 1, 1]))
    >>> round(nc1(seen), 4)
    0.0625
    """
    scatter, counts, K = statistics.scatter, statistics.counts, statistics.K
    require(scatter is not None, "statistics must be of one pass: make the Accumulator with one_pass=True")
    assert scatter is not None
    require(int(counts.min()) > 0, "every class must have a sample, but at least one has none")
    total = int(counts.sum())
    if statistics.weighting == "class":
        centred = (statistics.means - statistics.means.mean(0)) * K**-0.5
        gram = centred @ centred.T
        lifted = gram + gram.trace() / K**2  # n has equal entries
    else:
        share = counts.to(scatter.dtype) / total
        root = share.sqrt()
        centred = (statistics.means - share @ statistics.means) * root[:, None]
        gram = centred @ centred.T
        lifted = gram + gram.trace() / K * torch.outer(root, root)
    factor, failed = torch.linalg.cholesky_ex(lifted)
    low, high = (float(pivot) for pivot in factor.diagonal().aminmax())
    if int(failed) or not low > SQUARED * high:
        basis = Basis(statistics.means, counts, statistics.weighting)
        if basis.between == 0:
            return float("inf")
        rows = (basis.span @ basis.whiten).T
    else:
        rows = torch.cholesky_solve(centred, factor)
    return float(torch.vdot((rows @ scatter).reshape(-1), rows.reshape(-1))) / (total * K)
