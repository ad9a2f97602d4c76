"""The near-features model: a last layer and its features, tied to given ones by a quadratic penalty."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.collapse.geometry import frame
from jostle.core.errors import require


@dataclass(frozen=True, eq=False)
class Collapsed:
    """An exactly collapsed configuration: `H = sqrt(rho) R (x) 1_n^T`, `W = sqrt(lam_h/lam_w) sqrt(rho) R^T`.

    It is the minimiser of the tied model whose given features are `H` itself, for every beta.
    """

    R: Float[Tensor, "d K"]
    H: Float[Tensor, "d N"]
    W: Float[Tensor, "K d"]


@dataclass(frozen=True)
class Objective:
    """`f(W, H; H0) = ||WH-Y||^2/2Kn + lam_w ||W||^2/2K + lam_h ||H||^2/2Kn + beta ||H-H0||^2/2Kn`.

    The model (2) of Tirer, Huang & Niles-Weed (2023). Features are columns ordered by class, `n` a class,
    `N = K n` in all; `Y = I_K (x) 1_n^T`. With `beta = 0` it is the unconstrained-features model.

    **Arguments:** `K`: classes, at least 2. `n`: samples a class. `d`: feature size. `lam_w`: of the
    classifier, above 0. `lam_h`: of the features, at least 0. `beta`: of the tie, at least 0.
    """

    K: int
    n: int
    d: int
    lam_w: float
    lam_h: float
    beta: float

    def __post_init__(self) -> None:
        require(self.K >= 2, f"K must be at least 2 classes, but {self.K} came")
        require(self.n >= 1 and self.d >= 1, f"n and d must be at least 1, but {self.n} and {self.d} came")
        require(0 < self.lam_w < math.inf, f"lam_w must be above 0 and finite, but {self.lam_w} came")
        require(0 <= self.lam_h < math.inf, f"lam_h must be at least 0 and finite, but {self.lam_h} came")
        require(0 <= self.beta < math.inf, f"beta must be at least 0 and finite, but {self.beta} came")

    @property
    def N(self) -> int:
        """Samples in all, `K n`."""
        return self.K * self.n

    @property
    def c(self) -> float:
        """`sqrt(lam_h lam_w)`: the share of the targets that is not fitted; from 1 on all collapses to 0."""
        return math.sqrt(self.lam_h * self.lam_w)

    @property
    def s(self) -> float:
        """`sqrt(lam_h/lam_w)`: how fast variability inside the span of the means is taken out."""
        return math.sqrt(self.lam_h / self.lam_w)

    @property
    def g(self) -> float:
        """`2 lam_h (1 - c)`: half of how fast an uneven simplex is made even."""
        return 2 * self.lam_h * (1 - self.c)

    @property
    def rho(self) -> float:
        """`(1 - c) sqrt(lam_w/lam_h)`: the squared norm of each class mean at collapse."""
        require(
            self.lam_h > 0, "lam_h must be above 0 for exact collapse: with 0 the features grow without bound"
        )
        require(
            self.c < 1,
            f"lam_h lam_w must be below 1 for exact collapse, but it is {self.c**2:.4g}: "
            "the only minimiser is zero",
        )
        return (1 - self.c) / self.s

    def targets(self, device: torch.device | None = None) -> Float[Tensor, "K N"]:
        """The one-hot targets `Y`, on the device of the features that they meet."""
        return torch.eye(self.K, dtype=torch.float64, device=device).repeat_interleave(self.n, 1)

    def collapsed(self, R: Float[Tensor, "d K"] | torch.Generator) -> Collapsed:
        """The exactly collapsed minimiser in a frame `R`, given or drawn (Theorem 2.1).

        **Arguments:** `R`: orthonormal columns, or a generator to draw them with.
        **Raises:** `JostleError` if `lam_h` is 0, `lam_h lam_w >= 1`, `d < K`, or `R` is not orthonormal.

        >>> model = Objective(K=3, n=2, d=4, lam_w=0.3, lam_h=0.2, beta=20.0)
        >>> found = model.collapsed(torch.eye(4, 3, dtype=torch.float64))
        >>> bool((found.W @ found.H - (1 - model.c) * model.targets()).abs().max() < 1e-14)
        True
        """
        rho = self.rho
        require(self.d >= self.K, f"d must be at least K = {self.K} for exact collapse, but {self.d} came")
        if isinstance(R, torch.Generator):
            R = frame(self.K, self.d, R)
        require(
            tuple(R.shape) == (self.d, self.K),
            f"R must be ({self.d}, {self.K}), a column a class, but {tuple(R.shape)} came",
        )
        R = R.double()
        eye = torch.eye(self.K, dtype=R.dtype, device=R.device)
        miss = float((R.T @ R - eye).abs().max())
        require(miss < 1e-8, f"R must have orthonormal columns, but R^T R is {miss:.1e} from the identity")
        H = math.sqrt(rho) * R.repeat_interleave(self.n, 1)
        return Collapsed(R, H, self.s * math.sqrt(rho) * R.T)

    def checked(self, H: Tensor, name: str) -> Float[Tensor, "d N"]:
        """`H` in float64, if it has the model's shape and is finite.

        **Raises:** `JostleError` otherwise.
        """
        require(
            tuple(H.shape) == (self.d, self.N),
            f"{name} must be (d, K n) = ({self.d}, {self.N}) with columns ordered by class, "
            f"but {tuple(H.shape)} came",
        )
        H = H.detach().double()
        # The sum is finite if all are (unless it overflows): one pass, where isfinite needs several.
        finite = bool(H.sum().isfinite()) or bool(H.isfinite().all())
        require(finite, f"{name} must be finite, but it holds NaN or infinity")
        return H

    def value(self, W: Tensor, H: Tensor, H0: Tensor) -> float:
        """The objective `f(W, H; H0)`."""
        fit = (W @ H - self.targets(H.device)).square().sum() + self.lam_h * H.square().sum()
        tie = self.beta * (H - H0).square().sum()
        return float((fit + tie) / self.N + self.lam_w * W.square().sum() / self.K) / 2

    def grad(self, W: Tensor, H: Tensor, H0: Tensor) -> tuple[Float[Tensor, "K d"], Float[Tensor, "d N"]]:
        """The gradients of `f` by `W` and by `H`."""
        residual = W @ H - self.targets(H.device)
        by_w = residual @ H.T + self.n * self.lam_w * W
        by_h = W.T @ residual + self.lam_h * H + self.beta * (H - H0)
        return by_w / self.N, by_h / self.N

    def hess_mv(
        self, W: Tensor, H: Tensor, dW: Tensor, dH: Tensor
    ) -> tuple[Float[Tensor, "K d"], Float[Tensor, "d N"]]:
        """The Hessian of `f` times a direction `(dW, dH)`."""
        residual = W @ H - self.targets(H.device)
        change = dW @ H + W @ dH
        by_w = change @ H.T + residual @ dH.T + self.n * self.lam_w * dW
        by_h = dW.T @ residual + W.T @ change + (self.lam_h + self.beta) * dH
        return by_w / self.N, by_h / self.N

    def classifier(self, H: Tensor) -> Float[Tensor, "K d"]:
        """The best classifier of given features, `W*(H) = Y H^T (H H^T + n lam_w I)^-1`."""
        return Ridge(self, H).solve(class_sums(H, self.K))

    def tied(self, W: Tensor, H0: Tensor) -> Float[Tensor, "d N"]:
        """The best features of a given classifier, `(W^T W + (lam_h + beta) I)^-1 (W^T Y + beta H0)`."""
        return shrink(W, self.lam_h + self.beta, W.T @ self.targets(H0.device) + self.beta * H0)


class Ridge:
    """Solves with `G = H H^T + n lam_w I`, from the smaller of a `d x d` and an `N x N` factorisation."""

    def __init__(self, model: Objective, H: Tensor) -> None:
        self.shift = model.n * model.lam_w
        d, N = H.shape
        self.H = H if d > N else None
        gram = H @ H.T if self.H is None else H.T @ H
        eye = torch.eye(min(d, N), dtype=H.dtype, device=H.device)
        self.factor = torch.linalg.cholesky(gram + self.shift * eye)

    def solve(self, rows: Tensor) -> Tensor:
        """`rows G^-1`, for rows of length d."""
        if self.H is None:
            return torch.cholesky_solve(rows.T, self.factor).T
        # Woodbury: G^-1 = (I - H (H^T H + shift I)^-1 H^T) / shift.
        return (rows - torch.cholesky_solve((rows @ self.H).T, self.factor).T @ self.H.T) / self.shift


def class_sums(H: Tensor, K: int) -> Tensor:
    """`Y H^T`: the sum of the features of each class, `(K, d)`."""
    return H.reshape(len(H), K, -1).sum(2).T


def shrink(W: Tensor, shift: float, X: Tensor) -> Tensor:
    """`(W^T W + shift I)^-1 X`, by a solve of the size of the classes (Woodbury)."""
    gram = W @ W.T + shift * torch.eye(len(W), dtype=W.dtype, device=W.device)
    return (X - W.T @ torch.linalg.solve(gram, W @ X)) / shift
