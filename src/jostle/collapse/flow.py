"""The gradient flow of the central path: how collapse grows in time, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from jostle.collapse.accumulator import Basis, structure
from jostle.collapse.objective import Objective
from jostle.core.errors import JostleError, require
from jostle.files import write_json


@dataclass(frozen=True, eq=False)
class Flow:
    """A solution of the flow at given times, and whether it did what the theorem says.

    `within`, `between`: `Tr S_W`, `Tr S_B`, with their exact time derivatives `within_rate`, `between_rate`.
    `nc1_trace`, `nc1`, `nc2`: as in [`NCReport`][jostle.collapse.NCReport]. `falls`: (a) `nc1_trace` strictly
    decreases. `shrinks`: (b) `exp(2 lam_h t) Tr S_W` does not increase. `spreads`: (c) `exp(2 lam_h t) Tr
    S_B` strictly increases. All of it on the CPU, where SciPy integrates.
    """

    times: Float[Tensor, " T"]
    within: Float[Tensor, " T"]
    between: Float[Tensor, " T"]
    within_rate: Float[Tensor, " T"]
    between_rate: Float[Tensor, " T"]
    nc1_trace: Float[Tensor, " T"]
    nc1: Float[Tensor, " T"]
    nc2: Float[Tensor, " T"]
    falls: bool
    shrinks: bool
    spreads: bool
    _states: np.ndarray = field(repr=False)
    _reduced: "_Reduced" = field(repr=False)

    def numbers(self) -> dict[str, Any]:
        """The theorem's three statements, and the metrics at the start and at the end."""
        shown = ("within", "between", "nc1_trace", "nc1", "nc2")
        ends = {
            f"t={float(self.times[i]):g}": {name: float(getattr(self, name)[i]) for name in shown}
            for i in (0, -1)
        }
        return {"falls": self.falls, "shrinks": self.shrinks, "spreads": self.spreads, **ends}

    def record(self) -> dict[str, Any]:
        """All but the features, as a JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in values.items()}

    def save(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.record())

    def features(self, index: int) -> Float[Tensor, "d N"]:
        """`H` at `times[index]`, ordered by class, on the device of `H0`."""
        return self._reduced.features(self._states[:, index])


def flow(model: Objective, H0: Tensor, times: Sequence[float] | Tensor, *, rtol: float = 1e-10) -> Flow:
    """Integrate `dH/dt = -W*(H)^T (W*(H) H - Y) - lam_h H`; see `TiedModel.flow`."""
    H0 = model.checked(H0, "H0")
    t = np.asarray(times.cpu() if isinstance(times, Tensor) else times, dtype=np.float64)
    require(
        t.ndim == 1 and len(t) >= 2 and bool(t[0] == 0) and bool((np.diff(t) > 0).all()),
        "times must begin with 0 and increase, with at least one more",
    )
    reduced = _Reduced(model, H0)
    found = solve_ivp(
        reduced.slope,
        (0.0, float(t[-1])),
        reduced.start,
        method="DOP853",
        t_eval=t,
        rtol=rtol,
        atol=rtol * 1e-2,
    )
    if not found.success:
        raise JostleError(f"the flow could not be integrated: {found.message}")
    rows = np.array([reduced.measure(state) for state in found.y.T]).T
    within, between, within_rate, between_rate, nc1, nc2 = torch.from_numpy(rows)
    grown = torch.from_numpy(np.exp(2 * model.lam_h * t))
    return Flow(
        times=torch.from_numpy(t),
        within=within,
        between=between,
        within_rate=within_rate,
        between_rate=between_rate,
        nc1_trace=within / between,
        nc1=nc1,
        nc2=nc2,
        falls=bool(((within / between).diff() < 0).all()),
        # What does not change at all may differ by the integrator's error.
        shrinks=bool(((grown * within).diff() <= 10 * rtol * (grown * within)[:-1]).all()),
        spreads=bool(((grown * between).diff() > 0).all()),
        _states=found.y,
        _reduced=reduced,
    )


class _Reduced:
    """The flow without its idle coordinates.

    Deviations from the class means evolve by one linear map for all, `dV/dt = -(W*^T W* + lam_h) V`, and
    enter `W*` through `V V^T` only. So `V = L Q` with constant orthonormal rows `Q`, and `L` has at most
    `min(d, N)` columns: the cost of a step does not depend on `N`. Where `N < d`, the flow stays in the
    column space of `H0`, and is written in a basis of it.
    """

    def __init__(self, model: Objective, H0: Tensor) -> None:
        self.model = model
        self.device = H0.device
        H = H0.cpu().numpy()
        d, N = H.shape
        self.columns, H = np.linalg.qr(H) if d > N else (np.eye(d), H)
        means = H.reshape(len(H), model.K, model.n).mean(2)
        deviations = H - np.repeat(means, model.n, 1)
        rows, upper = np.linalg.qr(deviations.T)
        self.rows = rows.T
        self.shape = (len(H), upper.shape[0])
        self.start = np.concatenate([upper.T.ravel(), means.ravel()])

    def split(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = self.shape[0] * self.shape[1]
        return state[:size].reshape(self.shape), state[size:].reshape(self.shape[0], self.model.K)

    def classifier(self, L: np.ndarray, means: np.ndarray) -> np.ndarray:
        n, lam = self.model.n, self.model.lam_w
        gram = L @ L.T + n * (means @ means.T) + n * lam * np.eye(len(L))
        return cho_solve(cho_factor(gram, overwrite_a=True), n * means).T

    def slope(self, t: float, state: np.ndarray) -> np.ndarray:
        L, means = self.split(state)
        W = self.classifier(L, means)
        lam = self.model.lam_h
        dL = -W.T @ (W @ L) - lam * L
        dM = W.T @ (np.eye(self.model.K) - W @ means) - lam * means
        return np.concatenate([dL.ravel(), dM.ravel()])

    def measure(self, state: np.ndarray) -> tuple[float, ...]:
        """`Tr S_W`, `Tr S_B`, their rates, both by the formulae, `nc1`, `nc2`."""
        L, means = self.split(state)
        W = self.classifier(L, means)
        K, N, lam = self.model.K, self.model.N, self.model.lam_h
        centred = means - means.mean(1, keepdims=True)
        within, between = (L**2).sum() / N, (centred**2).sum() / K
        within_rate = -2 * ((W @ L) ** 2).sum() / N - 2 * lam * within
        between_rate = 2 / K * (centred * (W.T @ (np.eye(K) - W @ means))).sum() - 2 * lam * between
        basis = Basis(torch.from_numpy(means.T.copy()), torch.from_numpy(np.full(K, self.model.n)), "class")
        whitened = basis.whiten.T @ basis.span.T @ torch.from_numpy(L.copy())
        nc1 = float(whitened.square().sum()) / N / K
        nc2 = structure(basis.centred @ basis.centred.T, simplex=True)
        return within, between, within_rate, between_rate, nc1, nc2

    def features(self, state: np.ndarray) -> Tensor:
        L, means = self.split(state)
        H = self.columns @ (L @ self.rows + np.repeat(means, self.model.n, 1))
        return torch.from_numpy(H).to(self.device)
