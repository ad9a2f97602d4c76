"""How the minimiser answers: the Hessian by the features with the classifier solved for, as an operator."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from jostle.collapse.objective import Objective, Ridge, shrink
from jostle.core.errors import JostleError, require

DENSE_LIMIT = 4000


class Schur:
    """`S = A_HH - A_HW A_WW^-1 A_WH`, the Schur complement of the Hessian of `K n f`, matrix-free.

    A product costs `O(d N K + d^2 K)`, a factorisation `O(d^2 N)` once: no `dN x dN` matrix.

    **Arguments:** `model`: the objective. `W`, `H`: where the Hessian is taken.
    """

    def __init__(self, model: Objective, W: Float[Tensor, "K d"], H: Float[Tensor, "d N"]) -> None:
        self.model, self.W, self.H = model, W, H
        self.residual = W @ H - model.targets(H.device)
        self.ridge = Ridge(model, H)

    def classifier_change(self, dH: Float[Tensor, "d N"]) -> Float[Tensor, "K d"]:
        """`dW = -A_WW^-1 A_WH dH`: how the best classifier follows the features."""
        return -self.ridge.solve(self.W @ dH @ self.H.T + self.residual @ dH.T)

    def __call__(self, X: Float[Tensor, "d N"]) -> Float[Tensor, "d N"]:
        """`S X`."""
        dW = self.classifier_change(X)
        shift = self.model.lam_h + self.model.beta
        return self.W.T @ (self.W @ X + dW @ self.H) + dW.T @ self.residual + shift * X

    def matvec(self, x: np.ndarray) -> np.ndarray:
        """`S` on column-stacked vectors."""
        return stack(self(unstack(x, self.H)))

    def linear_operator(self) -> LinearOperator:
        """`S` for SciPy."""
        size = self.H.numel()
        return operator(size, self.matvec)

    def solve(self, X: Float[Tensor, "d N"], rtol: float = 1e-13) -> Float[Tensor, "d N"]:
        """`S^-1 X` by conjugate gradients, preconditioned with the block `A_HH`.

        **Raises:** `JostleError` if they do not converge: `S` is then not positive, and the point no minimum.
        """
        shift = self.model.lam_h + self.model.beta
        size = self.H.numel()
        prepare = operator(size, lambda x: stack(shrink(self.W, shift, unstack(x, self.H))))
        found, code = cg(self.linear_operator(), stack(X), rtol=rtol, maxiter=2000, M=prepare)
        answer = unstack(found, self.H)
        if code != 0:
            # At the floor of rounding the residual stalls above `rtol`: what counts is that it is small.
            left = float((self(answer) - X).norm() / X.norm())
            require(
                left < max(1e-9, 10 * rtol),
                f"conjugate gradients stopped with a residual of {left:.1e}: the Hessian is not "
                "positive here, "
                "so this is no minimum of the tied model; raise beta or minimise first",
            )
        return answer

    def dense(self) -> Float[Tensor, "dN dN"]:
        """`S` as a matrix with columns stacked, block by block as the theorem writes it; for small problems.

        **Raises:** `JostleError` above 4,000 features in all.
        """
        model, W, H = self.model, self.W, self.H
        K, d, N = model.K, model.d, model.N
        if d * N > DENSE_LIMIT:
            raise JostleError(
                f"d N must be at most {DENSE_LIMIT} for a dense solve, but {d * N} came; use 'cg'"
            )
        kron = torch.kron

        def eye(size: int) -> Tensor:
            return torch.eye(size, dtype=H.dtype, device=H.device)

        a_hh = kron(eye(N), W.T @ W) + (model.lam_h + model.beta) * eye(d * N)
        a_ww = kron(H @ H.T + model.n * model.lam_w * eye(d), eye(K))
        # P vec(W) = vec(W^T), with columns stacked: entry (k, j) of W goes from j K + k to k d + j.
        commute = eye(K * d).reshape(d, K, K * d).transpose(0, 1).reshape(K * d, K * d)
        a_hw = kron(self.residual.T.contiguous(), eye(d)) @ commute + kron(H.T.contiguous(), W.T.contiguous())
        return a_hh - a_hw @ torch.linalg.solve(a_ww, a_hw.T)


def operator(size: int, product: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
    """A symmetric operator for SciPy, from its product with a vector."""
    return LinearOperator((size, size), matvec=product, rmatvec=product, dtype=np.float64)  # pyright: ignore


def stack(X: Float[Tensor, "d N"]) -> np.ndarray:
    """`vec X`: the columns under one another."""
    return X.T.contiguous().reshape(-1).cpu().numpy()


def unstack(x: np.ndarray | Tensor, like: Float[Tensor, "d N"]) -> Float[Tensor, "d N"]:
    """Undo `stack`, on the device of `like`."""
    if not isinstance(x, Tensor):
        x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))
    return x.to(like.device).reshape(-1, len(like)).T
