"""The algorithms whose clients remember nothing: FedAvg, FedProx, FedSAM, FedAdam, FedCM, MoFedSAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.federated.algorithm import Algorithm, Ascending, Replies, Round


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Local SGD, then the mean of the clients' models (McMahan et al. 2017, arXiv 1602.05629).

    `x <- x + server_lr * mean_S Delta`.

    **Arguments:** `server_lr`: of the server, above 0; 1 takes the mean itself.

    >>> FedAvg().name
    'FedAvg'
    """

    server_lr: float = 1.0

    def __post_init__(self) -> None:
        require(self.server_lr > 0, f"server_lr must be above 0, but {self.server_lr} came")

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return x + self.server_lr * replies.mean(replies.delta), server


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg with a pull `prox_mu*(v - x)` to the server's model (Li et al. 2020, arXiv 1812.06127).

    **Arguments:** `prox_mu`: strength, at least 0.

    >>> FedProx(prox_mu=0.1).pull
    0.1
    """

    prox_mu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.prox_mu >= 0, f"prox_mu must be at least 0, but {self.prox_mu} came")

    @property
    def pull(self) -> float:
        return self.prox_mu

    def check(self, lr: float) -> None:
        require(
            lr * self.prox_mu < 2,
            f"lr * prox_mu must be below 2, but {lr} * {self.prox_mu} came: the local steps would diverge",
        )

    def offset(self, round: Round) -> Tensor | None:
        return -self.prox_mu * round.start


@dataclass(frozen=True)
class FedSAM(Ascending, FedAvg):
    """FedAvg whose clients take the gradient at the end of an ascent step (Qu et al. 2022, arXiv 2206.02618).

    **Arguments:** `rho`: radius of the ascent. `ascent`: `"normalized"` or `"raw"`.

    >>> FedSAM(rho=0.1).needs_ascent
    True
    """


@dataclass(frozen=True)
class FedAdam(Algorithm):
    """FedAvg whose server feeds the mean move to Adam, without bias correction (Reddi et al. 2021, 2003.00295).

    `a <- b1*a + (1-b1)*D`, `s <- b2*s + (1-b2)*D^2`, `x <- x + server_lr*a/(sqrt(s) + eps)`, `D = mean_S Delta`.

    **Arguments:** `server_lr`, `eps`: above 0. `beta1`, `beta2`: in [0, 1).

    >>> sorted(FedAdam().server_init(torch.zeros(2)))
    ['first', 'second']
    """

    server_lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 0.01

    def __post_init__(self) -> None:
        for name in ("server_lr", "eps"):
            require(getattr(self, name) > 0, f"{name} must be above 0, but {getattr(self, name)} came")
        for name in ("beta1", "beta2"):
            require(
                0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1), but {getattr(self, name)} came"
            )

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {"first": torch.zeros_like(x), "second": torch.zeros_like(x)}

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        move = replies.mean(replies.delta)
        first = self.beta1 * server["first"] + (1 - self.beta1) * move
        second = self.beta2 * server["second"] + (1 - self.beta2) * move.square()
        step = self.server_lr * first / (second.sqrt() + self.eps)
        return x + step, {"first": first, "second": second}


@dataclass(frozen=True)
class FedCM(FedAvg):
    """Client momentum: each local step mixes in the last round's mean gradient (Xu et al. 2021, arXiv 2106.10874).

    The step is `mix*g1 + (1-mix)*M`, `M = -mean_S Delta/(K*lr)` of the last round, with each client's own `K`.

    **Arguments:** `mix`: share of the fresh gradient, in (0, 1] (`alpha` of the paper).

    >>> FedCM().broadcast
    ('momentum',)
    """

    mix: float = 0.1

    broadcast: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.mix <= 1, f"mix must lie in (0, 1], but {self.mix} came")

    def server_init(self, x: Float[Tensor, " D"]) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(x)}

    def direction(
        self, v: Float[Tensor, "s D"], g1: Float[Tensor, "s D"], g2: Tensor | None, round: Round
    ) -> Tensor:
        return self.mix * super().direction(v, g1, g2, round)

    def offset(self, round: Round) -> Tensor | None:
        return (1 - self.mix) * round.server["momentum"]

    def server_update(
        self, x: Float[Tensor, " D"], server: dict[str, Tensor], replies: Replies, round: Round
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # The rate of this very round is divided out, so no later schedule has to be undone.
        momentum = replies.mean(-replies.delta / (replies.steps * round.lr))
        return super().server_update(x, server, replies, round)[0], {"momentum": momentum}


@dataclass(frozen=True)
class MoFedSAM(Ascending, FedCM):
    """FedCM with the gradient at the end of an ascent step (Qu et al. 2022, arXiv 2206.02618).

    **Arguments:** `rho`, `ascent`: as for FedSAM.

    >>> MoFedSAM(mix=0.1, rho=0.1).needs_ascent
    True
    """
