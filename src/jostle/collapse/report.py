"""What is measured of one layer's features: every form of neural collapse."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from jostle.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class NCReport:
    """Neural-collapse metrics of one set of features. Small is collapsed, for all but `nc4` and `ncc`.

    | field | definition |
    | --- | --- |
    | `nc1` | `Tr(S_W S_B^+)/K`, the popular form (Papyan, Han & Donoho 2020) |
    | `nc1_trace` | `Tr S_W / Tr S_B`, the form of the theory (Tirer, Huang & Niles-Weed 2023) |
    | `nc2` | distance of the Gram matrix of the centred class means, at norm 1, from the simplex's |
    | `nc2_of` | the same of the uncentred means from the orthogonal frame's: what a bias-free head reaches |
    | `nc3`, `nc3_of` | the same of `W` times the (un)centred means; `None` without a head |
    | `nc4` | share of samples whose prediction is the class of the nearest mean; `None` without predictions |
    | `ncc` | accuracy of the nearest class mean; `None` after a single pass |
    | `cdnv` | mean over pairs of `(v_k + v_l) / (2 ||m_k - m_l||^2)` (Galanti, Gyorgy & Hutter 2022) |

    `within`, `between`: `Tr S_W` and `Tr S_B`; `within_in`: the part of `Tr S_W` in the span of the class
    means. `counts`, `mean_norms`, `gram` (of the centred means), `singular_values` (of the centred means),
    `effective_rank` (the exponential of their entropy). `weighting`: whether `S_B` and the global mean weigh
    classes or samples. `rank_tol`: singular values below this share of the largest were left out of `nc1`.
    `cdnv_exponent`: of the distance in `cdnv`, 2 as usual.
    `samples`, `dim`, `passes`, `pooling` (of convolutional maps), `notes`: warnings.
    """

    nc1: float
    nc1_trace: float
    nc2: float
    nc2_of: float
    nc3: float | None
    nc3_of: float | None
    nc4: float | None
    ncc: float | None
    cdnv: float
    within: float
    within_in: float
    between: float
    effective_rank: float
    counts: Int[Tensor, " K"]
    mean_norms: Float[Tensor, " K"]
    gram: Float[Tensor, "K K"]
    singular_values: Float[Tensor, " r"]
    samples: int
    dim: int
    passes: int
    weighting: str
    pooling: str = "none"
    rank_tol: float = 0.0
    cdnv_exponent: float = 2.0
    notes: tuple[str, ...] = ()

    @property
    def K(self) -> int:
        """How many classes there are."""
        return len(self.counts)

    @property
    def within_out(self) -> float:
        """The part of `Tr S_W` outside the span of the class means."""
        return max(self.within - self.within_in, 0.0)

    @property
    def cosines(self) -> Float[Tensor, "K K"]:
        """Cosines between the centred class means; `-1/(K-1)` off the diagonal at collapse."""
        sizes = self.gram.diagonal().clamp_min(0).sqrt()
        return self.gram / (sizes[:, None] * sizes).clamp_min(1e-300)

    def numbers(self) -> dict[str, float | int | None]:
        """The scalars by name."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), float | int | None)}

    def record(self) -> dict[str, Any]:
        """All fields, as a JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: v.tolist() if isinstance(v, Tensor) else list(v) if k == "notes" else v
            for k, v in values.items()
        }

    def to_json(self) -> str:
        """All fields as strict JSON; infinity becomes null."""
        return json.dumps(
            {
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in self.record().items()
            }
        )

    def save(self, path: Path) -> None:
        """Write all fields as JSON, whole or not at all."""
        write_json(path, self.record())

    def plot(self, names: Sequence[str] | None = None) -> "Figure":
        """The class means beside the ideal simplex, and each pair's angle less the ideal one.

        **Arguments:** `names`: of the classes; their numbers by default.
        **Returns:** a matplotlib figure.
        """
        from jostle.collapse import figures

        return figures.geometry(self, names)

    def __str__(self) -> str:
        shown = ("nc1", "nc1_trace", "nc2", "nc3", "nc4", "cdnv")
        parts = [f"{k} {v:.4g}" for k in shown if (v := getattr(self, k)) is not None]
        return f"K={self.K} d={self.dim} N={self.samples}: " + ", ".join(parts)
