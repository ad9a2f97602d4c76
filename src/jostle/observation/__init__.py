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
from jostle.observation.bounds import ActionBounds, bounds
from jostle.observation.budget import Budget, suggest_budget
from jostle.observation.building import BatteryBuilding, Building, Curves
from jostle.observation.consistency import rules_for
from jostle.observation.district import CALENDAR, FEATURES, District, load_district, modern_schema
from jostle.observation.envs import AttackedEnv, AttackedVectorEnv
from jostle.observation.evaluate import Episodes, Report, Row, evaluate
from jostle.observation.kpis import kpis
from jostle.observation.losses import bifurcated, dl, gaussian_kl, gdl, regression
from jostle.observation.mmd import MMD, mmd
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
from jostle.observation.stealth import Stealth, stealth
from jostle.observation.wrapped import MinDistortion, Timed, Transfer

VERBS = ()

__all__ = [
    "ACG",
    "APGD",
    "CALENDAR",
    "FEATURES",
    "FGSM",
    "MAD",
    "MMD",
    "PGD",
    "ActionBounds",
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
    "District",
    "Diverge",
    "Episodes",
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
    "Report",
    "Row",
    "Stealth",
    "Targeted",
    "Timed",
    "Toward",
    "Transfer",
    "bifurcated",
    "bounds",
    "dl",
    "evaluate",
    "gaussian_kl",
    "gdl",
    "kpis",
    "load_district",
    "mmd",
    "modern_schema",
    "regression",
    "rules_for",
    "stealth",
    "suggest_budget",
    "wrap_policy",
]
