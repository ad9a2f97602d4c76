"""Data-free universal perturbations: one image that fools a network, made without any data (GD-UAP)."""

from jostle.universal.craft import Crafting, craft, prepare
from jostle.universal.evaluate import Fooling, data_curve, evaluate, fooling_rate, transfer
from jostle.universal.objective import Objective
from jostle.universal.perturbation import UniversalPerturbation, perturb, spectrum
from jostle.universal.priors import DataPrior, NoPrior, Prior, RangePrior, SmoothPrior
from jostle.universal.schedule import SCHEDULES, Schedule

VERBS = (craft, evaluate, transfer)

__all__ = [
    "SCHEDULES",
    "Crafting",
    "DataPrior",
    "Fooling",
    "NoPrior",
    "Objective",
    "Prior",
    "RangePrior",
    "Schedule",
    "SmoothPrior",
    "UniversalPerturbation",
    "craft",
    "data_curve",
    "evaluate",
    "fooling_rate",
    "perturb",
    "prepare",
    "spectrum",
    "transfer",
]
