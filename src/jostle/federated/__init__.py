"""Federated optimisation: FedSpeed and its family, batched on one machine, deployed on Flower."""

from jostle.federated.algorithm import Algorithm, Ascending, Replies, Round, sam
from jostle.federated.averaging import FedAdam, FedAvg, FedCM, FedProx, FedSAM, MoFedSAM
from jostle.federated.control import FedGamma, Scaffold
from jostle.federated.course import Course
from jostle.federated.family import by_name
from jostle.federated.federation import Federated, Federation
from jostle.federated.fedspeed import FedADMM, FedDyn, FedSMOO, FedSpeed
from jostle.federated.flat import replace_batchnorm
from jostle.federated.flatness import Sharpness, loss_along, sharpness
from jostle.federated.local import Local
from jostle.federated.memory import Memory
from jostle.federated.partition import partition
from jostle.federated.sampling import sample
from jostle.federated.server import Reply, Server, losing
from jostle.federated.splits import Split, split
from jostle.federated.verbs import VERBS as VERBS
from jostle.federated.verbs import bench, compare, run, sweep

__all__ = [
    "Algorithm",
    "Ascending",
    "Course",
    "FedADMM",
    "FedAdam",
    "FedAvg",
    "FedCM",
    "FedDyn",
    "FedGamma",
    "FedProx",
    "FedSAM",
    "FedSMOO",
    "FedSpeed",
    "Federated",
    "Federation",
    "Local",
    "Memory",
    "MoFedSAM",
    "Replies",
    "Reply",
    "Round",
    "Scaffold",
    "Server",
    "Sharpness",
    "Split",
    "bench",
    "by_name",
    "compare",
    "losing",
    "loss_along",
    "partition",
    "replace_batchnorm",
    "run",
    "sam",
    "sample",
    "sharpness",
    "split",
    "sweep",
]
