"""Five strongly convex quadratics in four dimensions, as a federation: all answers are known."""

from jostle.federated import Local
from jostle.federated.quadratics import Quadratics as Problem

__all__ = ["Problem", "local"]


def local(epochs: int = 3, lr: float = 0.25, **settings) -> Local:
    """Full-batch local steps, as many as epochs, neither clipped nor decayed."""
    return Local(
        **{"lr": lr, "epochs": epochs, "batch_size": 1, "weight_decay": 0.0, "clip_mode": None, **settings}
    )
