"""The near-features model with all that can be asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from jostle.collapse.flow import Flow, flow
from jostle.collapse.minimise import Minimum, minimise
from jostle.collapse.objective import Collapsed, Objective
from jostle.collapse.response import Method, Response, respond
from jostle.collapse.schur import operator, stack, unstack
from jostle.collapse.spectrum import Block, Level, spectrum


@dataclass(frozen=True)
class TiedModel(Objective):
    """Features that are free but for a quadratic tie to given ones, and a linear head, both regularised.

    `f(W, H; H0) = ||WH-Y||^2/2Kn + lam_w ||W||^2/2K + lam_h ||H||^2/2Kn + beta ||H-H0||^2/2Kn`, model (2) of
    Tirer, Huang & Niles-Weed, "Perturbation Analysis of Neural Collapse" (2023). It says how far the optimal
    features collapse, and how a nudge of the given features passes on. `H`, `H0`: `(d, K n)`, float64,
    ordered by class ([`bank`][jostle.collapse.bank] makes them from features and labels). Balanced classes
    only.

    **Arguments:** `K`: classes, at least 2. `n`: samples a class. `d`: feature size. `lam_w`: regularisation
    of the classifier, above 0. `lam_h`: of the features, at least 0. `beta`: of the tie, at least 0. The
    numbers are those of the model, an analogy to a network's weight decay and not the same thing.
    **Raises:** `JostleError` for values out of range.

    >>> import torch
    >>> model = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)
    >>> at = model.collapsed(torch.Generator().manual_seed(0))
    >>> nudge = 0.01 * torch.randn(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> found = model.minimise(at.H + nudge)
    >>> predicted = model.response(nudge, at)
    >>> bool((found.H - at.H - predicted.dH).norm() < 0.01 * nudge.norm())
    True
    """

    def minimise(
        self,
        H0: Float[Tensor, "d N"],
        *,
        start: Float[Tensor, "d N"] | None = None,
        tolerance: float = 1e-10,
        max_steps: int = 10_000,
        newton: bool = True,
        curvature: bool = False,
    ) -> Minimum:
        """The minimiser `(W, H)` for given features.

        `W` and `H` in turn, each in closed form, so that the objective never grows; where that is slow (small
        beta), Newton steps by preconditioned conjugate gradients on the Schur complement.

        **Arguments:** `H0`: the given features. `start`: where `H` starts; `H0` by default. `tolerance`: on
        the gradient's norm, in units of `max(1, ||H0||)/Kn`. `max_steps`: alternations. `newton`: whether to
        use it. `curvature`: whether to report the smallest eigenvalue of the Hessian.
        **Returns:** [`Minimum`][jostle.collapse.Minimum]; look at its `converged`.
        **Raises:** `JostleError` for a wrong shape, or features that are not finite.
        """
        return minimise(
            self,
            H0,
            start=start,
            tolerance=tolerance,
            max_steps=max_steps,
            newton=newton,
            curvature=curvature,
        )

    def flow(
        self, H0: Float[Tensor, "d N"], times: Sequence[float] | Float[Tensor, " T"], *, rtol: float = 1e-10
    ) -> Flow:
        """The gradient flow of the features with the best classifier at every moment (Theorem 3.1).

        `dH/dt = -W*(H)^T (W*(H) H - Y) - lam_h H`, by an eighth-order Runge-Kutta method. The minimiser for a
        tie `beta` is an implicit Euler step of size `1/beta` of it, so it follows the flow to `O(beta^-2)`.

        **Arguments:** `H0`: where it starts. `times`: from 0, increasing. `rtol`: of the integrator.
        **Returns:** [`Flow`][jostle.collapse.Flow].
        **Raises:** `JostleError` for a wrong shape or times that do not increase from 0.

        >>> import torch
        >>> model = TiedModel(K=2, n=5, d=3, lam_w=0.1, lam_h=0.1, beta=1.0)
        >>> start = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> model.flow(start, [0.0, 1.0, 2.0]).falls
        True
        """
        return flow(self, H0, times, rtol=rtol)

    def response(
        self, dH0: Float[Tensor, "d N"], at: Collapsed | Minimum, method: Method | None = None
    ) -> Response:
        """How the minimiser answers `H0 -> H0 + dH0`, to first order (Theorem 4.1).

        `vec dH = beta (A_HH - A_HW A_WW^-1 A_WH)^-1 vec dH0`, `vec dW = -A_WW^-1 A_WH vec dH`.

        **Arguments:** `dH0`: the nudge. `at`: the minimiser that is nudged, from `collapsed` or `minimise`.
        `method`: `closed` (exact, at collapse, `O(d N K)`), `cg` (matrix-free, anywhere), `dense` (small
        problems) or `large-beta` (the expansion to `1/beta`, off by `O(beta^-2)`). By default the first that
        fits.
        **Returns:** [`Response`][jostle.collapse.Response].
        **Raises:** `JostleError` for a wrong shape, `beta = 0`, or a point that is no minimum.
        """
        return respond(self, dH0, at, method)

    def operator(self, at: Collapsed | Minimum, method: Method | None = None) -> LinearOperator:
        """`F` with `vec dH = F vec dH0`, for SciPy's solvers; columns stacked."""

        def product(x: np.ndarray) -> np.ndarray:
            return stack(respond(self, unstack(x.reshape(-1), at.H), at, method).dH)

        # F is symmetric: it is beta times the inverse of a symmetric matrix.
        return operator(self.d * self.N, product)

    def spectrum(self, block: Block = "full", *, exact: bool = True) -> list[Level]:
        """The stair of eigenvalues of the response at collapse (Theorem 4.2 and its figure).

        **Arguments:** `block`: `full` for all of `F`; `kk` for its block of one class on itself; `kl` for the
        singular values of a block between two classes. `exact`: for this beta, or the paper's to first order
        in `1/beta`.
        **Returns:** [`Level`][jostle.collapse.Level]s from the largest, with multiplicities that sum to the
        size.
        **Raises:** `JostleError` where there is no exact collapse.

        >>> model = TiedModel(K=4, n=10, d=10, lam_w=2**0.5, lam_h=0.1, beta=100.0)
        >>> [(round(level.value, 4), level.multiplicity) for level in model.spectrum("kk")]
        [(1.0, 6), (0.999, 54), (0.9988, 3), (0.9975, 1), (0.9973, 36)]
        """
        return spectrum(self, block, exact=exact)
