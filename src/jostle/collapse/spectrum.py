"""The eigenvalues of the response at collapse, with their multiplicities and the subspaces they belong to."""

from dataclasses import dataclass
from typing import Literal

from jostle.collapse.objective import Objective
from jostle.core.errors import require

Block = Literal["kk", "kl", "full"]


@dataclass(frozen=True)
class Level:
    """One step of the stair: a value, how often it occurs, and what lives there."""

    value: float
    multiplicity: int
    subspace: str


def spectrum(model: Objective, block: Block = "full", *, exact: bool = True) -> list[Level]:
    """Eigenvalues of `F` or of its diagonal block; singular values of its off-diagonal block."""
    require(block in ("kk", "kl", "full"), f"block must be kk, kl or full, but {block!r} came")
    require(model.rho > 0 and model.d >= model.K, f"d must be at least K = {model.K}, but {model.d} came")
    require(model.beta > 0, "beta must be above 0: without a tie the given features do not matter")
    K, n, d, b, s, g, lam = model.K, model.n, model.d, model.beta, model.s, model.g, model.lam_h

    def kept(rate: float) -> float:
        return b / (b + rate) if exact else 1 - rate / b

    half = (1 + kept(2 * g)) / 2
    stairs = {
        "full": [
            (1.0, K * (d - K), "class means outside the span"),
            (1.0, K * (K - 1) // 2, "class means, rotation of the frame"),
            (kept(lam), K * (n - 1) * (d - K), "within classes, outside the span"),
            (kept(2 * g), K * (K + 1) // 2, "class means, stretch of the frame"),
            (kept(s), K * K * (n - 1), "within classes, inside the span"),
        ],
        "kk": [
            (1.0, d - K, "the class's mean outside the span"),
            (kept(lam), (n - 1) * (d - K), "within the class, outside the span"),
            (half, K - 1, "the class's mean towards the other means"),
            (kept(2 * g), 1, "the class's mean along itself"),
            (kept(s), K * (n - 1), "within the class, inside the span"),
        ],
        "kl": [
            (1 - half, 1, "the two means, mixed"),
            (0.0, d * n - 1, "all else"),
        ],
    }
    return sorted((Level(*row) for row in stairs[block] if row[1] > 0), key=lambda level: -level.value)
