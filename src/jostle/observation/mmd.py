"""Maximum mean discrepancy with a block permutation test: do two logs come from one distribution?"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jostle.core.errors import require

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MMD:
    """The outcome of [`mmd`][jostle.observation.mmd].

    `unbiased`: the estimate, which scatters about 0 (may be negative) when the distributions are equal.
    `biased`: with the diagonals of the kernel. `torchdrift`: the convention of that library, which keeps the
    diagonal and divides by n(n-1): the unbiased one plus `1/(n-1) + 1/(m-1)`; most published values are that
    offset. `p`: of the permutation test. `null`: the statistic (unbiased) under permutation. `bandwidth`: l.
    """

    unbiased: float
    biased: float
    torchdrift: float
    p: float
    null: Array
    bandwidth: float


def mmd(
    x: Any,
    y: Any,
    *,
    permutations: int = 1000,
    block: int = 1,
    generator: np.random.Generator | None = None,
    bandwidth: float | None = None,
    paired: bool = False,
) -> MMD:
    """Squared maximum mean discrepancy with the kernel `exp(-d^2 / (2 l^2))` and its permutation test.

    `MMD^2 = sum_{i!=j} k(x_i, x_j) / (n(n-1)) + sum_{i!=j} k(y_i, y_j) / (m(m-1)) - 2 mean k(x, y)`
    (Gretton et al. 2012), `l` the median distance of the pooled sample. Whole blocks of consecutive rows are
    permuted, for hours of a day are not exchangeable; `p = (1 + #{null >= observed}) / (1 + B)`. The kernel is
    computed once; all permutations are one matrix product.

    **Arguments:** `x`, `y`: `(n, features)` and `(m, features)`, at least 2 rows each, multiples of `block`
    (what is left over at the end is dropped). `permutations`: B, 0 for none. `block`: rows that stay together
    (24: days). `generator`: needed with permutations. `bandwidth`: l, above 0; `None`: the median. `paired`:
    block `i` of `x` may change places with block `i` of `y` only (logs of the same days).
    **Raises:** `JostleError` if a sample is too small or not finite.

    >>> rng = np.random.default_rng(0)
    >>> found = mmd(rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 1, generator=rng, permutations=99)
    >>> found.p
    0.01
    """
    require(block >= 1, f"block must be at least 1, but {block} came")
    a, b = (_sample(name, one, block) for name, one in (("x", x), ("y", y)))
    require(
        a.shape[1] == b.shape[1],
        f"x and y must have as many features, but {a.shape[1]} and {b.shape[1]} came",
    )
    require(permutations == 0 or generator is not None, "generator must be given with permutations")
    require(not paired or len(a) == len(b), "paired samples must be of one length")
    n, m = len(a), len(b)
    kernel, width = _kernel(np.concatenate([a, b]), bandwidth)
    inside = np.zeros(n + m)
    inside[:n] = 1.0
    observed = _statistic(kernel, inside[:, None], n, m)[0]
    diagonal = 1 / (n - 1) + 1 / (m - 1)
    sums = inside @ kernel @ inside, (1 - inside) @ kernel @ (1 - inside), inside @ kernel @ (1 - inside)
    biased = float(sums[0] / n**2 + sums[1] / m**2 - 2 * sums[2] / (n * m))
    null = np.zeros(0)
    if permutations and generator is not None:
        choice = _assignments(n // block, m // block, permutations, generator, paired)
        null = _statistic(kernel, np.repeat(choice, block, axis=0), n, m)
    # Equal up to the last places counts as reached: a permutation may be the observed split itself.
    hits = int((null >= observed - 1e-12).sum())
    return MMD(
        float(observed), biased, float(observed) + diagonal, (1 + hits) / (1 + permutations), null, width
    )


def _statistic(kernel: Array, inside: Array, n: int, m: int) -> Array:
    """The unbiased statistic of many splits at once; `inside`: `(rows, splits)`, 1 for x and 0 for y."""
    out = np.empty(inside.shape[1])
    total = kernel.sum(1)
    everything = float(total.sum())
    for start in range(0, inside.shape[1], 256):
        z = inside[:, start : start + 256]
        within = np.einsum("ij,ij->j", z, kernel @ z)
        across = total @ z - within
        other = everything - within - 2 * across
        part = (within - n) / (n * (n - 1)) + (other - m) / (m * (m - 1)) - 2 * across / (n * m)
        out[start : start + 256] = part
    return out


def _assignments(n: int, m: int, count: int, rng: np.random.Generator, paired: bool) -> Array:
    """Which blocks count as x, `(n + m, count)`."""
    if paired:
        swap = rng.random((n, count)) < 0.5
        return np.concatenate([~swap, swap]).astype(np.float64)
    base = np.zeros((count, n + m))
    base[:, :n] = 1.0
    return rng.permuted(base, axis=1).T.copy()


def _kernel(pooled: Array, bandwidth: float | None) -> tuple[Array, float]:
    centred = pooled - pooled.mean(0)
    squares = (centred * centred).sum(1)
    distance = np.maximum(squares[:, None] + squares[None, :] - 2 * centred @ centred.T, 0.0)
    np.fill_diagonal(distance, 0.0)
    width = bandwidth
    if width is None:
        # The median of distances is the root of that of their squares.
        upper = distance[np.triu_indices(len(pooled), 1)]
        width = float(np.sqrt(np.median(upper)))
        if width == 0:
            warnings.warn(
                "half of all pairs of observations are equal: the median bandwidth is 0, and the mean distance "
                "is taken instead",
                stacklevel=3,
            )
            width = float(np.sqrt(upper).mean()) or 1.0
    require(width > 0, f"bandwidth must be above 0, but {width} came")
    np.multiply(distance, -1 / (2 * width**2), out=distance)
    return np.exp(distance, out=distance), width


def _sample(name: str, values: Any, block: int) -> Array:
    x = np.asarray(values, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    require(x.ndim == 2, f"{name} must have the shape (rows, features), but {x.shape} came")
    x = x[: len(x) // block * block]
    require(len(x) >= 2, f"{name} must hold at least 2 rows and one block of {block}, but it is shorter")
    require(bool(np.isfinite(x).all()), f"{name} must be finite, but it holds NaN or infinity")
    return x
