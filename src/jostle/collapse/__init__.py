"""Neural collapse: every usual metric of it, and how it answers a nudge."""

from jostle.collapse.accumulator import Accumulator
from jostle.collapse.alone import nc1
from jostle.collapse.decay import DecayStudy, decay
from jostle.collapse.embedding import Spectra, cka, class_spectra
from jostle.collapse.flow import Flow
from jostle.collapse.geometry import Energies, bank, decompose, etf, frame, procrustes_frame
from jostle.collapse.greedy import Grown, greedy, grow
from jostle.collapse.layers import Measured, collect, measure
from jostle.collapse.metrics import metrics
from jostle.collapse.minimise import Minimum
from jostle.collapse.monitor import Monitor
from jostle.collapse.networks import Recipe
from jostle.collapse.objective import Collapsed
from jostle.collapse.predict import Fit, Prediction, fit_beta, predict_nc
from jostle.collapse.probe import Survival, Sweep, flow, response, sweep, tied_to
from jostle.collapse.report import NCReport
from jostle.collapse.response import Factors, Response, factors
from jostle.collapse.spectrum import Level
from jostle.collapse.tied import TiedModel

VERBS = (measure, factors, flow, response, sweep, greedy, decay)

__all__ = [
    "VERBS",
    "Accumulator",
    "Collapsed",
    "DecayStudy",
    "Energies",
    "Factors",
    "Fit",
    "Flow",
    "Grown",
    "Level",
    "Measured",
    "Minimum",
    "Monitor",
    "NCReport",
    "Prediction",
    "Recipe",
    "Response",
    "Spectra",
    "Survival",
    "Sweep",
    "TiedModel",
    "bank",
    "cka",
    "class_spectra",
    "collect",
    "decay",
    "decompose",
    "etf",
    "factors",
    "fit_beta",
    "flow",
    "frame",
    "greedy",
    "grow",
    "measure",
    "metrics",
    "nc1",
    "predict_nc",
    "procrustes_frame",
    "response",
    "sweep",
    "tied_to",
]
