"""Certified robustness by randomised smoothing, and networks trained for it (Cohen's procedure, rRCM and relatives)."""

from jostle.smoothing.anytime import Anytime, Betting
from jostle.smoothing.boundary import Boundary, boundary, looks
from jostle.smoothing.bounds import (
    draws_for,
    largest_radius,
    lower_bound,
    radius_of,
    surely_correct,
    threshold_of,
    two_sided_radius,
    upper_bound,
    usual_radii,
)
from jostle.smoothing.certificates import Certificate, Certificates
from jostle.smoothing.comparators import METHODS, InputSpecific, Stages, Union
from jostle.smoothing.denoised import Denoised, EncoderDenoiser, OneStep, diffusion_level, fit_denoiser
from jostle.smoothing.encoders import (
    Backbone,
    Encoder,
    Projector,
    TimedClassifier,
    TimedConv,
    TimedMLP,
    TimedViT,
)
from jostle.smoothing.eprocess import anytime_lower, anytime_upper, log_e
from jostle.smoothing.fitting import Recipe, finetune, fit
from jostle.smoothing.objectives import (
    MACER,
    OBJECTIVES,
    Consistency,
    Gaussian,
    Objective,
    SmoothAdv,
    SmoothMix,
    Stability,
    attack,
    consistency,
)
from jostle.smoothing.planning import Simulated, simulate
from jostle.smoothing.procedures import Fixed, Procedure, Sequential, Track, dense_radii
from jostle.smoothing.rrcm import RRCM, Losses, Pair, Pretraining, info_nce, similarity, warm_cosine
from jostle.smoothing.saving import load_classifier, load_encoder
from jostle.smoothing.schedule import (
    input_scale,
    levels_at,
    noise_grid,
    snapped,
    target_rate,
    time_condition,
    time_embedding,
)
from jostle.smoothing.smoothed import SmoothedClassifier
from jostle.smoothing.teaching import Network, pretrain, train, tune
from jostle.smoothing.verbs import Predictions, certify, compare, plan, predict, spread, verify
from jostle.smoothing.views import AffineViews, ColourViews, Views

VERBS = (certify, predict, plan, compare, verify, train, pretrain, tune)

__all__ = [
    "MACER",
    "METHODS",
    "OBJECTIVES",
    "RRCM",
    "VERBS",
    "AffineViews",
    "Anytime",
    "Backbone",
    "Betting",
    "Boundary",
    "Certificate",
    "Certificates",
    "ColourViews",
    "Consistency",
    "Denoised",
    "Encoder",
    "EncoderDenoiser",
    "Fixed",
    "Gaussian",
    "InputSpecific",
    "Losses",
    "Network",
    "Objective",
    "OneStep",
    "Pair",
    "Predictions",
    "Pretraining",
    "Procedure",
    "Projector",
    "Recipe",
    "Sequential",
    "Simulated",
    "SmoothAdv",
    "SmoothMix",
    "SmoothedClassifier",
    "Stability",
    "Stages",
    "TimedClassifier",
    "TimedConv",
    "TimedMLP",
    "TimedViT",
    "Track",
    "Union",
    "Views",
    "anytime_lower",
    "anytime_upper",
    "attack",
    "boundary",
    "certify",
    "compare",
    "consistency",
    "dense_radii",
    "diffusion_level",
    "draws_for",
    "finetune",
    "fit",
    "fit_denoiser",
    "info_nce",
    "input_scale",
    "largest_radius",
    "levels_at",
    "load_classifier",
    "load_encoder",
    "log_e",
    "looks",
    "lower_bound",
    "noise_grid",
    "plan",
    "predict",
    "pretrain",
    "radius_of",
    "similarity",
    "simulate",
    "snapped",
    "spread",
    "surely_correct",
    "target_rate",
    "threshold_of",
    "time_condition",
    "time_embedding",
    "train",
    "tune",
    "two_sided_radius",
    "upper_bound",
    "usual_radii",
    "verify",
    "warm_cosine",
]
