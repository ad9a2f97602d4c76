"""The integer program: bits a layer that lose the least within limits of size, bit operations and latency."""

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

from jostle.core.errors import JostleError, require
from jostle.quantization.costs import CostTable
from jostle.quantization.sensitivities import Sensitivity

KINDS = {"size": "size_mb", "bops": "bops_g", "latency": "latency_ms"}


@dataclass(frozen=True)
class Plan:
    """Bits by layer, and what they cost.

    `objective`: the sum of the sensitivities. `used`, `limits`: size in MiB, bit operations in G, latency in ms.
    `pinned_by_doubt`: layers kept at most bits because their trace is known worse than its own size. `notes`:
    sentences for a reader.
    """

    bits: dict[str, int]
    objective: float
    used: dict[str, float]
    limits: dict[str, float]
    gap: float
    pinned_by_doubt: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def slack(self) -> dict[str, float]:
        """What is left of each limit."""
        return {name: limit - self.used[name] for name, limit in self.limits.items()}

    def numbers(self) -> dict[str, Any]:
        """The plan as numbers."""
        return {
            "objective": self.objective,
            **{f"{name} used": value for name, value in self.used.items()},
            **{f"{name} limit": value for name, value in self.limits.items()},
            "layers of most bits": sum(b == max(self.bits.values()) for b in self.bits.values()),
            "pinned by doubt": len(self.pinned_by_doubt),
            "bits": dict(self.bits),
            **{f"note {i + 1}": note for i, note in enumerate(self.notes)},
        }


def allocate(
    sensitivity: Sensitivity,
    costs: CostTable,
    *,
    size_mb: float | None = None,
    bops_g: float | None = None,
    latency_ms: float | None = None,
    fixed: Mapping[str, int] | None = None,
    ties: Sequence[Sequence[str]] | None = None,
) -> Plan:
    """Choose bits for every layer (HAWQ-V3, section 3.4): `min sum Omega_i(b)` within the limits, solved by HiGHS.

    Layers that read one activation get the same bits if activations follow the weights. The first and last layer
    keep the most bits unless `fixed` says otherwise. A layer whose sensitivity has a standard error above its mean is
    never given fewer bits on the strength of it: it is pinned to the most bits, and the plan says so; where the
    limits don't allow that, its upper bound decides.

    **Arguments:** `sensitivity`, `costs`: of the same network and bits. `size_mb`: of all weights, in 2^20 bytes.
    `bops_g`: bit operations in 10^9. `latency_ms`: sum of the layers' measured times. `fixed`: bits of layers that
    are not free; `{}` frees all. `ties`: groups of layers of the same bits; by default those of the cost table.
    **Raises:** `JostleError` if no limit is given, a layer is unknown, ties and fixed bits contradict each other, or
    the limits cannot be met (with the least that each can be).
    """
    names, bits = list(sensitivity.layers), tuple(sensitivity.bits)
    require(
        names == list(costs.layers) and bits == tuple(costs.bits),
        "sensitivity and costs must be of the same layers and bits",
    )
    limits = {"size": size_mb, "bops": bops_g, "latency": latency_ms}
    given = {kind: float(limit) for kind, limit in limits.items() if limit is not None}
    require(bool(given), "allocate needs at least one limit: size_mb, bops_g or latency_ms")
    top = max(bits)
    fixed = {names[0]: top, names[-1]: top} if fixed is None else dict(fixed)
    for name, value in fixed.items():
        require(name in names, f"fixed names {name!r}, which is no layer of the network")
        require(
            value in bits,
            f"fixed gives {name!r} {value} bits, but the candidates are {', '.join(map(str, bits))}",
        )
    groups = [list(group) for group in (costs.ties if ties is None else ties)]
    omega = sensitivity.bound()
    tables = {kind: costs.table(kind) for kind in given}
    doubtful: list[str] = []
    pinned = dict(fixed)
    while True:
        try:
            chosen, gap = solve(omega, tables, given, names=names, bits=bits, fixed=pinned, ties=groups)
        except InfeasibleLimits:
            if not doubtful:
                raise
            chosen, gap = solve(omega, tables, given, names=names, bits=bits, fixed=fixed, ties=groups)
            doubtful = []
            break
        more = [
            n
            for n, b in zip(names, chosen, strict=True)
            if b < top and n in sensitivity.doubtful and n not in pinned
        ]
        if not more:
            break
        doubtful += more
        pinned |= dict.fromkeys(more, top)
    at = [bits.index(b) for b in chosen]
    rows = range(len(names))
    used = {kind: float(sum(table[i][at[i]] for i in rows)) for kind, table in costs.tables().items()}
    notes = []
    if doubtful:
        notes.append(
            f"{len(doubtful)} layers keep {top} bits: the standard error of their sensitivity exceeds its mean"
        )
    left = [n for n, b in zip(names, chosen, strict=True) if b < top and n in sensitivity.doubtful]
    if left:
        notes.append(
            f"{len(left)} layers of doubtful sensitivity had to be demoted on its upper bound: {', '.join(left[:4])}"
        )
    if "latency" in given and all(len({*row}) == 1 for row in costs.table("latency").tolist()):
        notes.append("this engine takes the same time for all bits: a limit of latency decides nothing")
    return Plan(
        dict(zip(names, chosen, strict=True)),
        float(sum(sensitivity.omega[i][at[i]] for i in rows)),
        used,
        given,
        gap,
        tuple(doubtful),
        tuple(notes),
    )


class InfeasibleLimits(JostleError):
    """No choice of bits meets the limits; the sentence says which of them, and what can be reached."""


def solve(
    omega: Float[np.ndarray, "layers bits"],
    costs: Mapping[str, Float[np.ndarray, "layers bits"]],
    limits: Mapping[str, float],
    *,
    names: Sequence[str],
    bits: Sequence[int],
    fixed: Mapping[str, int] = {},
    ties: Sequence[Sequence[str]] = (),
) -> tuple[list[int], float]:
    """The 0-1 program: one variable a layer and width, `sum_b x_ib = 1`, solved to optimality.

    **Returns:** the bits of each layer, and the solver's gap.
    **Raises:** `JostleError` if it cannot be met.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_matrix

    layers, widths = omega.shape
    require(
        bool(np.isfinite(omega).all())
        and all(bool(np.isfinite(t).all() and (t >= 0).all()) for t in costs.values()),
        "sensitivities must be finite, and costs finite and at least 0",
    )
    low, high = np.zeros(layers * widths), np.ones(layers * widths)
    index = {name: i for i, name in enumerate(names)}
    for name, value in fixed.items():
        for j, b in enumerate(bits):
            low[index[name] * widths + j] = high[index[name] * widths + j] = float(b == value)
    rows: list[np.ndarray] = []
    lower: list[float] = []
    upper: list[float] = []

    def constrain(row: np.ndarray, least: float, most: float) -> None:
        rows.append(row)
        lower.append(least)
        upper.append(most)

    for i in range(layers):
        row = np.zeros((layers, widths))
        row[i] = 1
        constrain(row.ravel(), 1, 1)
    for group in ties:
        held = {fixed[name] for name in group if name in fixed}
        require(len(held) < 2, f"layers {', '.join(group)} are tied, but fixed gives them different bits")
        for one, two in pairwise(group):
            for j in range(widths):
                row = np.zeros((layers, widths))
                row[index[one], j], row[index[two], j] = 1, -1
                constrain(row.ravel(), 0, 0)
    for kind, table in costs.items():
        # Both sides in units of the limit: the solver's tolerances are absolute.
        scale = max(limits[kind], float(table.max()), 1e-300)
        constrain((table / scale).ravel(), -np.inf, limits[kind] / scale * (1 + 1e-12))
    matrix = lil_matrix(np.array(rows)).tocsr()
    # Sensitivities may be far below the solver's tolerances: brought to the size of 1.
    spread = float((omega.max(1) - omega.min(1)).max()) or 1.0
    with _quiet():
        found = milp(
            (omega / spread).ravel(),
            constraints=LinearConstraint(matrix, lower, upper),  # type: ignore[arg-type]
            bounds=Bounds(low, high),  # type: ignore[arg-type]
            integrality=np.ones(layers * widths),
            options={"mip_rel_gap": 0.0, "presolve": True},
        )
    if found.x is None:
        _explain(costs, limits, index, bits, fixed, ties)
    choice = found.x.reshape(layers, widths).argmax(1)
    return [bits[j] for j in choice], float(getattr(found, "mip_gap", 0.0) or 0.0)


def _flush() -> None:
    with suppress(AttributeError, OSError, TypeError):  # no C library by that name: then its lines stay
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS prints stray lines on the process's own standard output, whatever its options say."""
    sys.stdout.flush()
    _flush()
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard output: nothing to silence
        yield
        return
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        _flush()  # what C keeps back would come out later
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _explain(costs: Any, limits: Any, index: Any, bits: Any, fixed: Any, ties: Any) -> NoReturn:
    """Say which limit cannot be met, and the least that it can be."""
    least = {}
    for kind, table in costs.items():
        group = {name: {name} for name in index}
        for members in ties:
            joined = set().union(*(group[name] for name in members))
            for name in joined:
                group[name] = joined
        total, done = 0.0, set()
        for name in index:
            if name in done:
                continue
            done |= group[name]
            held = {fixed[n] for n in group[name] if n in fixed}
            allowed = [j for j, b in enumerate(bits) if not held or b in held]
            total += min(sum(float(table[index[n], j]) for n in group[name]) for j in allowed)
        least[kind] = total
    binding = [kind for kind in costs if least[kind] > limits[kind]]
    said = ", ".join(f"{KINDS[kind]} at least {least[kind]:.4g} (limit {limits[kind]:.4g})" for kind in costs)
    which = f"{KINDS[binding[0]]} is too small" if binding else "they cannot be met together"
    raise InfeasibleLimits(f"no choice of bits meets the limits, {which}: reachable are {said}")


def limit(costs: CostTable, kind: str, alpha: float) -> float:
    """The paper's limits: `cost(all least) + alpha (cost(all most) - cost(all least))`, alpha 0.25, 0.5, 0.75.

    **Arguments:** `kind`: `size`, `bops` or `latency`. `alpha`: in [0, 1].
    """
    require(kind in KINDS, f"kind must be size, bops or latency, but {kind!r} came")
    require(0 <= alpha <= 1, f"alpha must lie in [0, 1], but {alpha} came")
    table = costs.table(kind)
    return float(table.min(1).sum() + alpha * (table.max(1).sum() - table.min(1).sum()))


def pareto(
    sensitivity: Sensitivity,
    costs: CostTable,
    kind: str = "size",
    *,
    points: int = 9,
    fixed: Mapping[str, int] | None = None,
) -> list[Plan]:
    """Plans from the tightest limit that can be met to no limit at all.

    **Arguments:** `kind`: of the limit. `points`: how many plans.
    """
    plans = []
    for alpha in np.linspace(0, 1, points):
        try:
            limits: Any = {KINDS[kind]: limit(costs, kind, float(alpha))}
            plans.append(allocate(sensitivity, costs, fixed=fixed, **limits))
        except InfeasibleLimits:
            continue
    return plans


def random_plan(
    costs: CostTable,
    kind: str,
    most: float,
    generator: np.random.Generator,
    fixed: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """What the integer program makes of sensitivities drawn at random: the baseline that knows the costs alone.

    **Raises:** `JostleError` if the limit cannot be met.
    """
    names, bits = list(costs.layers), tuple(costs.bits)
    top = max(bits)
    fixed = {names[0]: top, names[-1]: top} if fixed is None else dict(fixed)
    falling = np.linspace(1, 0, len(bits))
    omega = generator.random(len(names))[:, None] * falling
    chosen, _ = solve(
        omega, {kind: costs.table(kind)}, {kind: most}, names=names, bits=bits, fixed=fixed, ties=costs.ties
    )
    return dict(zip(names, chosen, strict=True))
