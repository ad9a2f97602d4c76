"""What a certification will cost, before it is paid for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jostle.core.errors import require
from jostle.smoothing.procedures import Procedure


@dataclass(frozen=True)
class Simulated:
    """A procedure run on inputs of known `p_A`: what it certifies, and the draws it uses, selection included."""

    p: Float[np.ndarray, " inputs"]
    radius: Float[np.ndarray, " inputs"]
    certain: np.ndarray
    draws: np.ndarray

    def certified(self, radius: float) -> float:
        """Share of the inputs that are certified at a radius."""
        return float((self.certain & (self.radius >= radius)).mean())


def simulate(
    procedure: Procedure,
    p: Sequence[float] | Float[np.ndarray, " inputs"],
    generator: np.random.Generator,
    *,
    n0: int = 100,
) -> Simulated:
    """Run a procedure on binomial counts instead of a network.

    Every other draw goes to one other class, the hardest case for the selection.

    **Arguments:** `procedure`: of any kind. `p`: one `p_A` an input, in [0, 1]. `generator`: draws the counts.
    `n0`: selection draws.
    **Returns:** [`Simulated`][jostle.smoothing.Simulated].

    >>> from jostle.smoothing import Sequential
    >>> found = simulate(Sequential(0.5, radii=(0.0, 0.5)), [0.999, 0.5], np.random.default_rng(0))
    >>> found.radius.tolist(), bool(found.draws[0] < 1000)
    ([0.5, 0.0], True)
    """
    share = np.asarray(p, dtype=np.float64)
    require(bool(((share >= 0) & (share <= 1)).all()), "p must lie in [0, 1] everywhere, but it does not")
    rows = []
    for one in share:
        hits = int(generator.binomial(n0, one))
        top = 0 if 2 * hits >= n0 else 1
        track = procedure.begin(top, np.array([hits, n0 - hits]))
        n, counts, done = 0, np.zeros(2, dtype=np.int64), False
        while not done:
            more = track.next_look - n
            fresh = int(generator.binomial(more, one))
            counts += (fresh, more - fresh)
            n = track.next_look
            done = track.look(counts, n)
        rows.append((track.radius, track.certain, n0 + n))
    radius, certain, draws = (np.array(column) for column in zip(*rows, strict=True))
    return Simulated(share, radius, certain, draws)
