"""Recipes of our own, beside the paper's: what a data-free perturbation reaches with a better range prior."""

from dataclasses import dataclass

from jostle.universal.objective import Objective
from jostle.universal.priors import Prior, RangePrior


@dataclass(frozen=True)
class Recipe:
    """A prior, an objective and a number of steps, under one name."""

    prior: Prior
    objective: Objective
    steps: int


# The paper's range prior with two changes. Its noise is resized with an anti-aliasing filter and cut to 0.7 of its
# strength: noise that is weak and smooth lets delta be heard in the first layers, where white noise drowns it.
# And the raw convolutions are tapped: there a ReLU6 at its bound cannot hide growth. docs/universal.md has the
# ablation.
RECIPES = {
    "ours": Recipe(RangePrior(strength=0.7, smooth=True), Objective(taps="conv"), 300),
}
