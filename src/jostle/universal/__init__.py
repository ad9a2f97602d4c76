"""Data-free universal perturbations: one image that fools a network, made without any data (GD-UAP)."""

from jostle.universal.craft import Crafting, craft, prepare
from jostle.universal.deepfool import deepfool, deepfool_uap
from jostle.universal.defences import DEFENCES, TenCrop, defended
from jostle.universal.depth import DepthReport, depth_errors, disparity_to_depth, evaluate_depth
from jostle.universal.evaluate import Fooling, data_curve, evaluate, fooling_rate, transfer
from jostle.universal.files import read_authors, read_port, write_authors, write_port
from jostle.universal.layermax import layermax_uap
from jostle.universal.noise import shuffled, sign_noise, spectral_noise, uniform_noise
from jostle.universal.objective import Objective
from jostle.universal.perturbation import UniversalPerturbation, perturb, spectrum
from jostle.universal.priors import DataPrior, NoPrior, Prior, RangePrior, SmoothPrior
from jostle.universal.recipes import RECIPES, Recipe
from jostle.universal.schedule import SCHEDULES, Schedule
from jostle.universal.segmentation import Confusion, SegmentationReport, evaluate_segmentation, gfr, mean_iou
from jostle.universal.sgd import cosine_uap, sgd_uap
from jostle.universal.singular import singular_uap
from jostle.universal.verbs import defend, show

VERBS = (craft, evaluate, transfer, defend, show)

__all__ = [
    "DEFENCES",
    "RECIPES",
    "SCHEDULES",
    "Confusion",
    "Crafting",
    "DataPrior",
    "DepthReport",
    "Fooling",
    "NoPrior",
    "Objective",
    "Prior",
    "RangePrior",
    "Recipe",
    "Schedule",
    "SegmentationReport",
    "SmoothPrior",
    "TenCrop",
    "UniversalPerturbation",
    "cosine_uap",
    "craft",
    "data_curve",
    "deepfool",
    "deepfool_uap",
    "defend",
    "defended",
    "depth_errors",
    "disparity_to_depth",
    "evaluate",
    "evaluate_depth",
    "evaluate_segmentation",
    "fooling_rate",
    "gfr",
    "layermax_uap",
    "mean_iou",
    "perturb",
    "prepare",
    "read_authors",
    "read_port",
    "sgd_uap",
    "show",
    "shuffled",
    "sign_noise",
    "singular_uap",
    "spectral_noise",
    "spectrum",
    "transfer",
    "uniform_noise",
    "write_authors",
    "write_port",
]
