"""FedSpeed and its nearest kin: FedDyn, FedSMOO, FedADMM. Their clients keep a prox-correction."""

import warnings
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.federated.algorithm import Ascending, Replies, Round, sam

Aggregation = Literal["all", "active"]


@dataclass(frozen=True)
class FedSpeed(Ascending):
    """Proximal local steps with a correction and an ascent (Sun et al. 2023, arXiv 2302.10429, Algorithm 1).

    A local step from `v`: `g1 = grad F(v)`, `e = rho*g1/(|g1| + 1e-7)`, `g2 = grad F(v + e)` on the same
    minibatch, `q = (1-alpha)*g1 + alpha*g2`, and `v <- v - lr*(q + mu*h_i + mu*(v - x) + wd*v)`. Then
    `h_i <- h_i + Delta_i`; the server keeps `hbar = sum_i p_i h_i` by `hbar <- hbar + sum_S p_i Delta_i` and takes
    `x <- mean_S v_i + hbar`. The paper's correction is `g_i = -mu*h_i`.

    **Arguments:** `prox_mu`: strength `mu` of the proximal term, above 0; the reciprocal of the paper's `lambda`
    (the official program calls *this* `lamb`). `rho`: ascent radius. `alpha`: share of `g2`, in [0, 1]; 0 is
    FedDyn. `prox_lambda`: the paper's `lambda = 1/mu`, instead of `prox_mu`. `aggregation`: `"all"`, or
    `"active"`: the correction is averaged over the active clients only, as the printed algorithm has it, which
    does not converge when some are absent. `ascent`: `"normalized"`, or `"raw"` for `e = rho*g1` as printed.
    **Raises:** `JostleError` for settings out of range, or `prox_mu` and `prox_lambda` at once.

    >>> FedSpeed(prox_lambda=10.0).pull
    0.1
    """

    prox_mu: float | None = None
    alpha: float = 1.0
    prox_lambda: float | None = field(default=None, repr=False)
    aggregation: Aggregation = "all"

    client_slots: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.prox_mu is None or self.prox_lambda is None,
            "prox_mu and prox_lambda are reciprocals: give one of them, but both came",
        )
        if self.prox_lambda is not None:
            require(self.prox_lambda > 0, f"prox_lambda must be above 0, but {self.prox_lambda} came")
        mu = 0.1 if self.prox_mu is None else self.prox_mu
        mu = 1 / self.prox_lambda if self.prox_lambda is not None else mu
        require(
            mu > 0,
            f"prox_mu must be above 0, but {mu} came: the correction is undefined without a proximal term "
            "(FedSAM and FedAvg have none)",
        )
        # Frozen: one of the two names is left, so that equal settings compare equal.
        object.__setattr__(self, "prox_mu", mu)
        object.__setattr__(self, "prox_lambda", None)
        require(0 <= self.alpha <= 1, f"alpha must lie in [0, 1], but {self.alpha} came")
        require(
            self.aggregation in ("all", "active"),
            f"aggregation must be 'all' or 'active', but {self.aggregation!r} came",
        )

    @property
    def needs_ascent(self) -> bool:
        return self.rho > 0 and self.alpha > 0

    @property
    def pull(self) -> float:
        assert self.prox_mu is not None
        return self.prox_mu

    def check(self, lr: float) -> None:
        require(
            lr * self.pull < 2,
            f"lr * prox_mu must be below 2, but {lr} * {self.pull} came: the local steps would diverge",
        )
        if lr * self.pull > 1:
            warnings.warn(f"lr * prox_mu is {lr * self.pull:g}, above 1: local steps overshoot", stacklevel=3)

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {"hbar": torch.zeros_like(x)}

    def direction(
        self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], g2: Tensor | None, round: Round
    ) -> Tensor:
        if g2 is None or self.alpha == 1:
            return super().direction(v, g1, g2, round)
        return (1 - self.alpha) * g1 + self.alpha * g2

    def offset(self, round: Round) -> Tensor | None:
        return self.pull * (round.client["h"] - round.start)

    @property
    def uploads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The printed aggregation needs the corrections themselves."""
        return ("h",) if self.aggregation == "active" else ()

    def client_update(
        self, delta: Float[Tensor, "s D"], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        h = round.client["h"] + delta
        return {"h": h}, ({"h": h} if self.aggregation == "active" else {})

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        hbar = server["hbar"] + replies.total(replies.delta)
        lift = hbar if self.aggregation == "all" else replies.mean(replies.uploads["h"])
        return x + replies.mean(replies.delta) + lift, {**server, "hbar": hbar}


@dataclass(frozen=True)
class FedDyn(FedSpeed):
    """FedSpeed without the ascent (Acar et al. 2021, arXiv 2111.04263).

    **Arguments:** as for FedSpeed.

    >>> FedDyn(prox_mu=0.1).needs_ascent
    False
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha == 0, f"alpha of FedDyn is 0, but {self.alpha} came: FedSpeed takes another")


@dataclass(frozen=True)
class FedSMOO(FedSpeed):
    """FedSpeed with a dual for the ascent too, so that clients climb alike (Sun et al. 2023, arXiv 2305.11584).

    `e = rho*(g1 - m_i - s)/(|g1 - m_i - s| + 1e-7)`, `m_i <- m_i + e - s` each step; the server takes
    `s = rho*M/(|M| + 1e-7)` with `M = mean_S m_i`, as the official program does; the rest is FedSpeed with
    `alpha = 1`.

    **Arguments:** as for FedSpeed; the ascent is normalised and `alpha` is 1.

    >>> FedSMOO().broadcast
    ('s',)
    """

    client_slots: ClassVar[tuple[str, ...]] = ("h", "m")
    broadcast: ClassVar[tuple[str, ...]] = ("s",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha == 1, f"alpha of FedSMOO is 1, but {self.alpha} came")
        require(self.ascent == "normalized", "the ascent of FedSMOO is normalized, but 'raw' came")

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {**super().server_init(x), "s": torch.zeros_like(x)}

    @property
    def uploads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().uploads, "m")

    def perturb(self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], round: Round) -> Tensor:
        s = round.server["s"]
        e = sam(g1 - round.client["m"] - s, self.rho)
        round.client["m"] = round.client["m"] + e - s
        return e

    def client_update(
        self, delta: Float[Tensor, "s D"], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        state, up = super().client_update(delta, round)
        m = round.client["m"]
        return {**state, "m": m}, {**up, "m": m}

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, server = super().server_update(x, server, replies, round)
        mean = replies.mean(replies.uploads["m"])
        return x, {**server, "s": sam(mean[None], self.rho)[0]}


@dataclass(frozen=True)
class FedADMM(FedDyn):
    """Consensus ADMM with inexact local solves and partial participation (Wang, Marella & Anderson 2022,
    arXiv 2203.15104; Gong, Li & Freris 2022, arXiv 2204.03529, with their server step `|S|/m`).

    The clients do what FedDyn's do; `u_i = v_i + h_i` is kept at its last value for every client, absent or not,
    and the server takes `x = sum_i p_i u_i`. So it differs from FedDyn only in whose models are averaged.

    **Arguments:** `prox_mu`: the penalty, above 0.

    >>> FedADMM(prox_mu=0.1).client_slots
    ('h', 'last')
    """

    client_slots: ClassVar[tuple[str, ...]] = ("h", "last")
    # Vectors are zero at the start, models are not: `last` counts from where the federation began.
    broadcast: ClassVar[tuple[str, ...]] = ("origin",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.aggregation == "all", "the aggregation of FedADMM is 'all', but 'active' came")

    @property
    def uploads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("change",)

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {"origin": x.clone()}

    def client_update(
        self, delta: Float[Tensor, "s D"], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        last = round.start + delta - round.server["origin"]
        state = {"h": round.client["h"] + delta, "last": last}
        return state, {"change": last - round.client["last"] + delta}

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return x + replies.total(replies.uploads["change"]), server
