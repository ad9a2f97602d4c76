"""Attacks on an agent's sensors: their harm, their stealth, and what hardens the agent."""

from jostle.observation.attacks import (
    ACG,
    APGD,
    FGSM,
    MAD,
    PGD,
    Attack,
    Bifurcation,
    Info,
    MinQ,
    MinValue,
    Noise,
    Targeted,
)
from jostle.observation.budget import Budget, suggest_budget
from jostle.observation.building import BatteryBuilding, Building, Curves
from jostle.observation.district import CALENDAR, FEATURES, District, load_district, modern_schema
from jostle.observation.envs import AttackedEnv, AttackedVectorEnv
from jostle.observation.kpis import kpis
from jostle.observation.losses import bifurcated, dl, gaussian_kl, gdl, regression
from jostle.observation.objectives import (
    Bifurcate,
    Classify,
    Diverge,
    Goal,
    LowestQ,
    LowestValue,
    Regress,
    Toward,
)
from jostle.observation.policy import Policy, wrap_policy
from jostle.observation.wrapped import MinDistortion, Timed, Transfer

VERBS = ()

__all__ = [
    "ACG",
    "APGD",
    "CALENDAR",
    "FEATURES",
    "FGSM",
    "MAD",
    "PGD",
    "Attack",
    "AttackedEnv",
    "AttackedVectorEnv",
    "BatteryBuilding",
    "Bifurcate",
    "Bifurcation",
    "Budget",
    "Building",
    "Classify",
    "Curves",
    "Diverge",
    "District",
    "Goal",
    "Info",
    "LowestQ",
    "LowestValue",
    "MinDistortion",
    "MinQ",
    "MinValue",
    "Noise",
    "Policy",
    "Regress",
    "Targeted",
    "Timed",
    "Toward",
    "Transfer",
    "bifurcated",
    "dl",
    "gaussian_kl",
    "gdl",
    "kpis",
    "load_district",
    "modern_schema",
    "regression",
    "suggest_budget",
    "wrap_policy",
]
