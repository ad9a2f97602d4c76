"""What a comparison of methods shows: accuracy pooled and macro, paired over seeds, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import optional, require
from jostle.core.statistics import Interval, t_interval


@dataclass(frozen=True)
class Trial:
    """One training run, tested on every target domain.

    `method`, `seed`, `sources`: what was run. `correct`, `total`: images a target. `validation`: accuracy on
    the held-out images of the sources, in percent, NaN without any. `seconds`: what it took. `history`: a row
    an epoch, the loss and the state of the learnt scales.
    """

    method: str
    seed: int
    sources: tuple[str, ...]
    correct: Mapping[str, int]
    total: Mapping[str, int]
    validation: float
    seconds: float
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracy a target, in percent."""
        return {name: 100 * self.correct[name] / self.total[name] for name in self.total}

    @property
    def macro(self) -> float:
        """Mean over the targets of their accuracies, in percent: each domain counts alike."""
        return sum(self.accuracy.values()) / len(self.total)

    @property
    def pooled(self) -> float:
        """Accuracy over all target images in one set, in percent, as the Dassl evaluator has it: large
        domains
        count most."""
        return 100 * sum(self.correct.values()) / sum(self.total.values())


@dataclass(frozen=True)
class Summary:
    """A method over its seeds, and paired with a baseline: the same seeds, batches and augmentations.

    `difference`, `pooled_difference`: method minus baseline a seed, in points of macro and of pooled accuracy.
    `wins`: in how many seeds its macro accuracy was above. `targets`: the accuracy a target domain.
    """

    method: str
    macro: Interval
    pooled: Interval
    difference: Interval
    pooled_difference: Interval
    wins: int
    targets: Mapping[str, Interval]


def summarise(trials: Sequence[Trial], baseline: str = "erm") -> dict[str, Summary]:
    """Turn trials into one row a method.

    With several choices of sources (leave one domain out), a seed's macro accuracy is its mean over them.

    **Arguments:** `trials`: every method with the same seeds and sources. `baseline`: the method that the
    others are paired with.
    **Raises:** `JostleError` if the baseline is missing, or the methods were not run on the same seeds.

    >>> runs = [Trial(m, s, ("a",), {"b": c}, {"b": 10}, 0.0, 0.0)
    ...         for m, s, c in [("erm", 0, 5), ("erm", 1, 6), ("dsu", 0, 6), ("dsu", 1, 8)]]
    >>> print(summarise(runs)["dsu"].difference)
    15.0 [-48.5, 78.5]
    """
    methods = list(dict.fromkeys(trial.method for trial in trials))
    require(baseline in methods, f"baseline must be among {', '.join(methods)}, but {baseline!r} came")
    scores = {name: _by_seed([trial for trial in trials if trial.method == name]) for name in methods}
    base = scores[baseline]
    out = {}
    for name, mine in scores.items():
        require(
            mine.keys() == base.keys(),
            f"{name} ran on seeds {sorted(mine)} and {baseline} on {sorted(base)}: they cannot be paired",
        )
        seeds = sorted(mine)
        gaps = [mine[seed]["macro"] - base[seed]["macro"] for seed in seeds]
        targets = [key for key in mine[seeds[0]] if key not in ("macro", "pooled")]
        out[name] = Summary(
            name,
            t_interval([mine[seed]["macro"] for seed in seeds]),
            t_interval([mine[seed]["pooled"] for seed in seeds]),
            t_interval(gaps),
            t_interval([mine[seed]["pooled"] - base[seed]["pooled"] for seed in seeds]),
            sum(gap > 0 for gap in gaps),
            {key: t_interval([mine[seed][key] for seed in seeds]) for key in targets},
        )
    return out


def paired(
    trials: Sequence[Trial], method: str, other: str, score: Literal["macro", "pooled"] = "macro"
) -> Interval:
    """`method` minus `other` in macro or pooled accuracy, seed by seed, in points.

    >>> runs = [Trial(m, s, ("a",), {"b": c}, {"b": 10}, 0.0, 0.0) for m, s, c in [("x", 0, 5), ("y", 0, 6)]]
    >>> round(paired(runs, "y", "x").mean, 6)
    10.0
    """
    mine = _by_seed([trial for trial in trials if trial.method == method])
    theirs = _by_seed([trial for trial in trials if trial.method == other])
    shared = sorted(mine.keys() & theirs.keys())
    require(bool(shared), f"{method} and {other} share no seed, so they cannot be paired")
    return t_interval([mine[seed][score] - theirs[seed][score] for seed in shared])


def _by_seed(trials: Sequence[Trial]) -> dict[int, dict[str, float]]:
    """For each seed the macro and pooled accuracy, the mean over the choices of sources, and that of each
    target.
    """
    out: dict[int, dict[str, float]] = {}
    for seed in {trial.seed for trial in trials}:
        mine = [trial for trial in trials if trial.seed == seed]
        names = dict.fromkeys(name for trial in mine for name in trial.total)
        out[seed] = {
            "macro": float(np.mean([trial.macro for trial in mine])),
            "pooled": float(np.mean([trial.pooled for trial in mine])),
            **{
                name: float(np.mean([trial.accuracy[name] for trial in mine if name in trial.total]))
                for name in names
            },
        }
    return out


def proxy_a_distance(
    source: Float[Tensor, "n features"], target: Float[Tensor, "m features"], seed: int = 0
) -> float:
    """How well a linear classifier tells two sets of features apart: `2 (1 - 2 min error)`, between 0 and 2.

    The least error of linear support vector machines with `C` of eight values from 1e-5 to 1e3, each trained
    on one half and tested on the other (Ben-David et al. 2007; the official code's grid). Needs scikit-learn.

    **Arguments:** `source`, `target`: at least four rows each. `seed`: of the split.
    **Raises:** `MissingExtra` without scikit-learn.

    >>> import torch
    >>> near = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> proxy_a_distance(near, near + 100)
    2.0
    """
    require(min(len(source), len(target)) >= 4, "source and target must hold at least four rows each")
    svm = optional("sklearn.svm", "zoo").LinearSVC
    rows = np.concatenate([source.detach().cpu().numpy(), target.detach().cpu().numpy()]).astype(np.float64)
    rows = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12)
    sides = np.repeat([0, 1], [len(source), len(target)])
    order = np.random.default_rng(seed).permutation(len(rows))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    errors = []
    for strength in np.logspace(-5, 3, 8):
        model = svm(C=strength, dual=False, max_iter=5000).fit(rows[train], sides[train])
        errors.append(float(np.mean(model.predict(rows[test]) != sides[test])))
    return 2 * (1 - 2 * min(errors))
