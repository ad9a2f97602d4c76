"""Memory networks, their time constants, and what breaks them (arXiv 2309.12927)."""

from jostle.timescales.adapters import CellNetwork, GatedRNN
from jostle.timescales.autocorrelation import Autocorrelation, autocorrelation
from jostle.timescales.comparing import Comparison, compare
from jostle.timescales.curricula import Curriculum, Direct, MultiHead, SingleHead, Sliding
from jostle.timescales.evaluating import accuracy_matrix, stream_accuracy
from jostle.timescales.fitting import TimescaleFit, fit_timescales, tau_as_decay
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.measuring import Dimensionality, NetworkTimescales, dimensionality, network_timescales
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.perturbing import (
    Ablation,
    Sweep,
    ablate,
    ablation,
    choose_neurons,
    default_sizes,
    perturb,
    perturbation_sweep,
)
from jostle.timescales.recordings import RecordingTimescales
from jostle.timescales.records import CurriculumRun
from jostle.timescales.retraining import retrain_generalisation
from jostle.timescales.snapshots import Snapshot
from jostle.timescales.starting import adam, replicas, seeded, sgd
from jostle.timescales.tasks import NDMS, MemoryTask, NParity, blind_accuracy
from jostle.timescales.training import train_curriculum
from jostle.timescales.verbs import VERBS, measure, train

__all__ = [
    "NDMS",
    "VERBS",
    "Ablation",
    "Autocorrelation",
    "CellNetwork",
    "Comparison",
    "Curriculum",
    "CurriculumRun",
    "Dimensionality",
    "Direct",
    "GatedRNN",
    "LeakyRNN",
    "MemoryNetwork",
    "MemoryTask",
    "MultiHead",
    "NParity",
    "NetworkTimescales",
    "RecordingTimescales",
    "SingleHead",
    "Sliding",
    "Snapshot",
    "Sweep",
    "TimescaleFit",
    "ablate",
    "ablation",
    "accuracy_matrix",
    "adam",
    "autocorrelation",
    "blind_accuracy",
    "choose_neurons",
    "compare",
    "default_sizes",
    "dimensionality",
    "fit_timescales",
    "measure",
    "network_timescales",
    "perturb",
    "perturbation_sweep",
    "replicas",
    "retrain_generalisation",
    "seeded",
    "sgd",
    "stream_accuracy",
    "tau_as_decay",
    "train",
    "train_curriculum",
]
