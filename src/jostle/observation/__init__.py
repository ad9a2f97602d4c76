"""Attacks on an agent's sensors: their harm, their stealth, and what hardens the agent."""

from jostle.observation import needs as _needs  # noqa: F401  # isort: skip  (it says what to install)

from jostle.observation.adversary import AdversaryEnv, LearnedAdversary, learn_adversary
from jostle.observation.attack import Attack, Info, Shown
from jostle.observation.attacks import (
    ACG,
    APGD,
    FGSM,
    MAD,
    PGD,
    Bifurcation,
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
from jostle.observation.envs import AttackedEnv, AttackedVectorEnv, DiscretizedVectorEnv
from jostle.observation.evaluate import Episodes, Report, Row, evaluate
from jostle.observation.fitting import Candidate, Clone, Proxy, clone, fit_proxy
from jostle.observation.harden import harden
from jostle.observation.kpis import kpis
from jostle.observation.learning import Agent, learn_agent
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
from jostle.observation.rules import ScaledPendulum, self_consumption, swing_up
from jostle.observation.stealth import Stealth, stealth
from jostle.observation.wrapped import MinDistortion, Timed, Transfer, WorstCorner

from jostle.observation import verbs as _verbs  # isort: skip  (after the names that it uses)

VERBS = (_verbs.attack, _verbs.sweep, _verbs.stealth, _verbs.audit, _verbs.certify, _verbs.train)

__all__ = [
    "ACG",
    "APGD",
    "CALENDAR",
    "FEATURES",
    "FGSM",
    "MAD",
    "MMD",
    "PGD",
    "VERBS",
    "ActionBounds",
    "AdversaryEnv",
    "Agent",
    "Attack",
    "AttackedEnv",
    "AttackedVectorEnv",
    "BatteryBuilding",
    "Bifurcate",
    "Bifurcation",
    "Budget",
    "Building",
    "Candidate",
    "Classify",
    "Clone",
    "Curves",
    "DiscretizedVectorEnv",
    "District",
    "Diverge",
    "Episodes",
    "Goal",
    "Info",
    "LearnedAdversary",
    "LowestQ",
    "LowestValue",
    "MinDistortion",
    "MinQ",
    "MinValue",
    "Noise",
    "Policy",
    "Proxy",
    "Regress",
    "Report",
    "Row",
    "ScaledPendulum",
    "Shown",
    "Stealth",
    "Targeted",
    "Timed",
    "Toward",
    "Transfer",
    "WorstCorner",
    "bifurcated",
    "bounds",
    "clone",
    "dl",
    "evaluate",
    "fit_proxy",
    "gaussian_kl",
    "gdl",
    "harden",
    "kpis",
    "learn_adversary",
    "learn_agent",
    "load_district",
    "mmd",
    "modern_schema",
    "regression",
    "rules_for",
    "self_consumption",
    "stealth",
    "suggest_budget",
    "swing_up",
    "wrap_policy",
]
