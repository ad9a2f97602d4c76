"""Compare conditions: the network is the sample, not the repeated draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jostle.core.errors import require


@dataclass(frozen=True)
class Comparison:
    """Two conditions: their names, means, numbers of samples, the difference of means, and its p value."""

    conditions: tuple[str, str]
    means: tuple[float, float]
    samples: tuple[int, int]
    difference: float
    p: float


def compare(
    conditions: Mapping[str, Sequence[ArrayLike]],
    *,
    test: Literal["welch", "permutation"] = "welch",
    pooled: bool = False,
) -> list[Comparison]:
    """Every pair of conditions, two-sided.

    Repeated draws of one network are not independent: by default each network counts once, by its mean.

    **Arguments:** `conditions`: for each, one array of draws a network. `test`: Welch's t test, or an exact
    permutation test of the difference of means. `pooled`: count every draw as a sample, as the paper's figure
    does.
    **Raises:** `JostleError` if a condition has fewer than two samples.

    >>> found = compare({"a": [[1.0, 1.1], [1.2, 1.3]], "b": [[2.0, 2.1], [2.2, 2.3]]})
    >>> found[0].samples, round(found[0].difference, 6)
    ((2, 2), -1.0)
    """
    samples = {
        name: np.concatenate([np.ravel(n) for n in networks])
        if pooled
        else np.array([np.mean(np.asarray(n, dtype=float)) for n in networks])
        for name, networks in conditions.items()
    }
    for name, values in samples.items():
        require(len(values) >= 2, f"condition {name!r} needs at least two samples, but {len(values)} came")
    found = []
    for one, other in combinations(samples, 2):
        x, y = samples[one], samples[other]
        p = _permutation(x, y) if test == "permutation" else _welch(x, y)
        means = float(x.mean()), float(y.mean())
        found.append(Comparison((one, other), means, (len(x), len(y)), means[0] - means[1], p))
    return found


def _welch(x: np.ndarray, y: np.ndarray) -> float:
    if x.std() == 0 and y.std() == 0:  # no spread to measure a difference by
        return 1.0 if x.mean() == y.mean() else 0.0
    spread = [value for one in (x, y) for value in (one.mean(), one.std(ddof=1), len(one))]
    # From these, since from the samples SciPy warns where all of one side are the same.
    return float(np.asarray(stats.ttest_ind_from_stats(*spread, equal_var=False))[1])


def _permutation(x: np.ndarray, y: np.ndarray) -> float:
    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> ArrayLike:
        return a.mean(axis) - b.mean(axis)

    result = stats.permutation_test((x, y), difference, n_resamples=9999, rng=np.random.default_rng(0))
    return float(result.pvalue)
