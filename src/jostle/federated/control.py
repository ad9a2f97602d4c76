"""The algorithms with control variates: SCAFFOLD and FedGamma."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.federated.algorithm import Ascending, Replies, Round
from jostle.federated.averaging import FedAvg


@dataclass(frozen=True)
class Scaffold(FedAvg):
    """Control variates that cancel the clients' drift (Karimireddy et al. 2020, arXiv 1910.06378, option II).

    A step is `g1 + c - c_i`; then `c_i <- c_i - c - Delta_i/(K_i*lr)`, and `c <- c + sum_S p_i (change of c_i)`,
    so that `c = sum_i p_i c_i` at all times. Every client uses the `c` of the start of the round. The change of
    `c_i` follows from what the server knows, so nothing travels up beside `Delta_i`.

    >>> Scaffold().client_slots
    ('c',)
    """

    client_slots: ClassVar[tuple[str, ...]] = ("c",)
    broadcast: ClassVar[tuple[str, ...]] = ("c",)

    @property
    def name(self) -> str:
        return "SCAFFOLD"

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {"c": torch.zeros_like(x)}

    def offset(self, round: Round) -> Tensor | None:
        return round.server["c"] - round.client["c"]

    def client_update(
        self, delta: Float[Tensor, "s D"], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"c": round.client["c"] + _change(round.server["c"], delta, round.steps, round.lr)}, {}

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c = server["c"] + replies.total(_change(server["c"], replies.delta, replies.steps, round.lr))
        return super().server_update(x, server, replies, round)[0], {"c": c}


@dataclass(frozen=True)
class FedGamma(Ascending, Scaffold):
    """SCAFFOLD with the gradient at the end of an ascent step (Dai et al. 2023, IEEE TNNLS).

    **Arguments:** `rho`, `ascent`: as for FedSAM.

    >>> FedGamma().needs_ascent
    True
    """

    @property
    def name(self) -> str:
        return "FedGamma"


def _change(c: Tensor, delta: Tensor, steps: Tensor, lr: float) -> Tensor:
    """How far a client's control variate moves in a round: `-c - Delta_i/(K_i*lr)`."""
    return -c - delta / (steps * lr)
