"""Memory networks, their time constants, and what breaks them (arXiv 2309.12927)."""

from jostle.timescales.adapters import CellNetwork, GatedRNN
from jostle.timescales.autocorrelation import Autocorrelation, autocorrelation
from jostle.timescales.curricula import Curriculum, Direct, MultiHead, SingleHead, Sliding
from jostle.timescales.fitting import TimescaleFit, fit_timescales, tau_as_decay
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.tasks import NDMS, MemoryTask, NParity, blind_accuracy
from jostle.timescales.training import CurriculumRun, adam, replicas, seeded, sgd, train_curriculum

__all__ = [
    "NDMS",
    "CellNetwork",
    "Curriculum",
    "CurriculumRun",
    "Direct",
    "GatedRNN",
    "LeakyRNN",
    "MemoryNetwork",
    "MemoryTask",
    "MultiHead",
    "NParity",
    "SingleHead",
    "Sliding",
    "adam",
    "blind_accuracy",
    "replicas",
    "seeded",
    "sgd",
    "train_curriculum",
]
