"""Would anybody notice? Tests that compare what sensors showed with what they should show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jostle.core.errors import require
from jostle.files import write_json
from jostle.observation.mmd import MMD, mmd

Array = NDArray[np.float64]
Test = Literal["mmd", "variation", "ks", "mannwhitney", "acf", "zscore", "consistency"]
TESTS: tuple[Test, ...] = ("mmd", "variation", "ks", "mannwhitney", "acf", "zscore", "consistency")


@dataclass(frozen=True, eq=False)
class Stealth:
    """What each detector says of a log of shown observations against a clean one.

    `mmd`, `variation`: the discrepancy of the observations, and of their absolute changes from step to step.
    `p`: p-values a feature, Holm-corrected over the features, by test (`ks`, `mannwhitney`, `acf`).
    `statistic`: the uncorrected effect a feature (KS distance, Mann-Whitney's probability of superiority,
    the difference of the lag-1 autocorrelations of the changes). `zscore`: largest absolute z-score a feature,
    against the clean log. `broken`: share of steps a physical rule is violated, by rule.
    """

    suffix: ClassVar[str] = ".json"

    mmd: MMD | None = None
    variation: MMD | None = None
    p: dict[str, Array] = field(default_factory=dict)
    statistic: dict[str, Array] = field(default_factory=dict)
    zscore: Array | None = None
    broken: dict[str, float] = field(default_factory=dict)

    def caught(self, alpha: float = 0.05) -> dict[str, bool]:
        """Which detectors reject at level `alpha`; a rule of physics that is broken at all is a catch."""
        found = {}
        for name, test in (("mmd", self.mmd), ("variation", self.variation)):
            if test is not None:
                found[name] = test.p <= alpha
        found |= {name: bool((p <= alpha).any()) for name, p in self.p.items()}
        return found | {f"consistency: {name}": share > 0 for name, share in self.broken.items()}

    def numbers(self) -> dict[str, Any]:
        """All outcomes as plain numbers."""
        out: dict[str, Any] = {}
        for name, test in (("mmd", self.mmd), ("variation", self.variation)):
            if test is not None:
                out[name] = {"unbiased": test.unbiased, "torchdrift": test.torchdrift, "p": test.p}
        out["least p"] = {name: float(p.min()) for name, p in self.p.items()}
        if self.zscore is not None:
            out["largest z-score"] = float(self.zscore.max())
        return out | {"broken": dict(self.broken), "caught": self.caught()}

    def save(self, path: Path) -> None:
        """Write the outcomes, feature by feature, as JSON."""
        rows = {"p": self.p, "statistic": self.statistic, "zscore": self.zscore}
        write_json(Path(path), {**self.numbers(), "by feature": rows})


def stealth(
    clean: Any,
    shown: Any,
    tests: Sequence[Test] = TESTS,
    *,
    block: int = 24,
    permutations: int = 1000,
    rows: int = 2000,
    generator: np.random.Generator | None = None,
    paired: bool = False,
    rules: "dict[str, Any] | None" = None,
) -> Stealth:
    """Compare the observations that an agent was shown with clean ones.

    MMD on many features is a weak detector: report the tests a feature and the physical ones beside it.

    **Arguments:** `clean`, `shown`: `(steps, features)`, in time order. `tests`: of `TESTS`. `block`: steps that
    are permuted together (24: days). `permutations`: of MMD. `rows`: MMD takes so many steps of each log at
    most, whole blocks spread evenly. `generator`: for the permutations. `paired`: the logs are of the same
    steps, and only blocks of the same place change sides. `rules`: for `consistency`: from a name to a
    function of `shown` that gives one boolean a step, true where a rule of physics is broken; see
    [`rules_for`][jostle.observation.rules_for].
    **Returns:** [`Stealth`][jostle.observation.Stealth].
    **Raises:** `JostleError` if a log is too short, holds NaN, or the features differ.
    """
    x, y = (np.asarray(one, dtype=np.float64) for one in (clean, shown))
    for name, one in (("clean", x), ("shown", y)):
        require(
            one.ndim == 2 and len(one) >= 3,
            f"{name} must be (steps, features), at least 3 steps: {one.shape}",
        )
        require(bool(np.isfinite(one).all()), f"{name} must be finite, but it holds NaN or infinity")
    require(x.shape[1] == y.shape[1], f"the features differ: {x.shape[1]} and {y.shape[1]}")
    unknown = set(tests) - set(TESTS)
    require(not unknown, f"tests must be of {', '.join(TESTS)}, but {sorted(unknown)} came")
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {"permutations": permutations, "generator": generator, "paired": paired}
    if "mmd" in tests:
        found["mmd"] = mmd(_thin(x, block, rows), _thin(y, block, rows), block=block, **settings)
    if "variation" in tests:
        a, b = (np.abs(np.diff(one, axis=0)) for one in (x, y))
        found["variation"] = mmd(_thin(a, block, rows), _thin(b, block, rows), block=block, **settings)
    p: dict[str, Array] = {}
    statistic: dict[str, Array] = {}
    for name in ("ks", "mannwhitney", "acf"):
        if name in tests:
            pairs = [_TWO[name](x[:, j], y[:, j]) for j in range(x.shape[1])]
            statistic[name] = np.array([value for value, _ in pairs])
            p[name] = holm(np.array([value for _, value in pairs]))
    if "zscore" in tests:
        found["zscore"] = zscores(x, y)
    if "consistency" in tests and rules:
        found["broken"] = {name: float(np.mean(rule(y))) for name, rule in rules.items()}
    return Stealth(p=p, statistic=statistic, **found)


def holm(p: Array) -> Array:
    """Holm's step-down correction for several tests.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty_like(p)
    out[order] = np.minimum(scaled, 1.0)
    return out


def zscores(clean: Array, shown: Array) -> Array:
    """The largest absolute z-score of each feature, by mean and deviation of the clean log; 0 for constant ones.

    A constant feature that leaves its constant scores infinity.
    """
    mean, sd = clean.mean(0), clean.std(0)
    far = np.abs(shown - mean).max(0)
    flat = sd <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    return np.where(flat, np.where(far > 1e-9, np.inf, 0.0), far / np.where(flat, 1.0, sd))


def ljung_box(x: Array, lags: int = 24) -> tuple[float, float]:
    """Ljung and Box's test that a series has no autocorrelation up to `lags`: `Q` and its p-value.

    `Q = n (n + 2) sum_k r_k^2 / (n - k)`, chi-squared with `lags` degrees of freedom (Biometrika 65, 1978).
    """
    n = len(x)
    require(n > lags + 1, f"x must be longer than lags + 1 = {lags + 1}, but {n} values came")
    r = autocorrelation(x, lags)
    q = float(n * (n + 2) * (r**2 / (n - np.arange(1, lags + 1))).sum())
    return q, float(stats.chi2.sf(q, lags))


def autocorrelation(x: Array, lags: int) -> Array:
    """Autocorrelation at lags 1 to `lags`; 0 for a constant series.

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0]), 1)
    array([-0.75])
    """
    centred = x - x.mean()
    scale = float(centred @ centred)
    if scale == 0:
        return np.zeros(lags)
    return np.array([centred[k:] @ centred[:-k] for k in range(1, lags + 1)]) / scale


def _ks(x: Array, y: Array) -> tuple[float, float]:
    found: Any = stats.ks_2samp(x, y, method="asymp")
    return float(found.statistic), float(found.pvalue)


def _mann_whitney(x: Array, y: Array) -> tuple[float, float]:
    if np.ptp(np.concatenate([x, y])) == 0:
        return 0.5, 1.0
    found: Any = stats.mannwhitneyu(x, y, alternative="two-sided", method="asymptotic")
    return float(found.statistic) / (len(x) * len(y)), float(found.pvalue)


def _lag_one(x: Array, y: Array) -> tuple[float, float]:
    """Whether the changes of two series have the same lag-1 autocorrelation (Fisher's z)."""
    a, b = (autocorrelation(np.diff(one), 1)[0] for one in (x, y))
    z = (np.arctanh(np.clip(b, -0.999999, 0.999999)) - np.arctanh(np.clip(a, -0.999999, 0.999999))) / np.sqrt(
        1 / max(len(x) - 4, 1) + 1 / max(len(y) - 4, 1)
    )
    return float(b - a), float(2 * stats.norm.sf(abs(z)))


_TWO = {"ks": _ks, "mannwhitney": _mann_whitney, "acf": _lag_one}


def _thin(x: Array, block: int, rows: int) -> Array:
    """At most `rows` rows: whole blocks, spread evenly, at the same places in logs of one length."""
    count = len(x) // block
    keep = max(min(count, rows // block), 1)
    chosen = np.linspace(0, count - 1, keep).astype(int)
    return np.concatenate([x[i * block : (i + 1) * block] for i in chosen]) if count else x
