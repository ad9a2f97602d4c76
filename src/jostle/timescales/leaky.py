"""The leaky cell: neurons with time constants of their own, trained with the weights or truly frozen."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackNoConvergence, eigs
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.timescales.networks import MemoryNetwork, uniform
from jostle.timescales.scan import Folded, Nonlinearity, activate_, scan, trace

Placement = Literal["inside", "outside", "continuous"]


class LeakyRNN(MemoryNetwork):
    r"""A recurrent network of leaky neurons, with time constants $\tau_i$ in steps and $a_i = 1/\max(\tau_i,
    1)$.

    - `inside`: $r_t = \phi((1-a) r_{t-1} + a (W r_{t-1} + b + w x_t + b_w))$, the model of the paper's main
      results.
    - `outside`: $r_t = (1-a) r_{t-1} + a \phi(W r_{t-1} + b + w x_t + b_w)$.
    - `continuous`: as `outside` with $a = 1/\max(k \tau, 1)$ and every input held for `k = substeps` steps.

    From Khajehabdollahi et al., arXiv 2309.12927, and the code they released. The diagonal of `W` is masked
    in the model, so that its gradient is exactly zero; a time constant at or below its bound means no leak at
    all.

    **Arguments:** `hidden`: neurons. `heads`: readouts, one for each N a curriculum will ask (one for a
    single head). `tau`: initial time constants in steps: a range to draw from, a number, or one number a
    neuron. `train_tau`: whether they are trained; `False` freezes them. `shared_tau`: one time constant for
    all neurons. `bound`: `"clamp"` (faithful: below 1 the gradient is zero, so a neuron that falls there
    stays) or `"softplus"` ($\tau = 1 + \mathrm{softplus}$, which never sticks). `placement`, `nonlinearity`,
    `slope` (of the leaky ReLU's negative side): as above. `self_connections`: whether `W` has a diagonal.
    `init`: of `W`. `substeps`: `k`, or several to draw from at each training step; only for `continuous`.
    `generator`: source of all initial values.
    **Raises:** `JostleError` for a time constant below the bound or not finite, or settings that do not fit.

    >>> net = LeakyRNN(hidden=20, heads=3, generator=torch.Generator().manual_seed(0))
    >>> net(torch.ones(4, 9), heads=[0, 1, 2]).shape
    torch.Size([4, 3, 2])
    """

    mask: Tensor

    def __init__(
        self,
        hidden: int = 500,
        heads: int = 1,
        *,
        tau: float | tuple[float, float] | Sequence[float] | Tensor = (1.0, 2.0),
        train_tau: bool = True,
        shared_tau: bool = False,
        bound: Literal["clamp", "softplus"] = "clamp",
        placement: Placement = "inside",
        nonlinearity: Nonlinearity = "leaky_relu",
        slope: float = 0.01,
        self_connections: bool = False,
        init: Literal["uniform", "orthogonal", "identity"] = "uniform",
        substeps: int | tuple[int, ...] = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(hidden, heads, generator)
        require(placement in ("inside", "outside", "continuous"), f"placement {placement!r} is not known")
        require(
            placement != "inside" or nonlinearity != "sigmoid",
            "nonlinearity 'sigmoid' needs placement 'outside': inside, a silent neuron would sit at 1/2",
        )
        require(0 < slope <= 1, f"slope must lie in (0, 1], but {slope} came")
        ks = (substeps,) if isinstance(substeps, int) else tuple(substeps)
        require(min(ks) >= 1, f"substeps must be at least 1, but {min(ks)} came")
        require(placement == "continuous" or ks == (1,), "substeps other than 1 need placement 'continuous'")
        self.placement: Placement = placement
        self.nonlinearity: Nonlinearity = nonlinearity
        self.slope, self.bound, self.substeps = slope, bound, ks
        self.self_connections = self_connections
        weight = uniform((hidden, hidden), hidden, generator)
        if init == "orthogonal":
            nn.init.orthogonal_(weight, generator=generator)
        elif init == "identity":
            require(self_connections, "init 'identity' needs self_connections=True: it lives on the diagonal")
            nn.init.eye_(weight)
        mask = torch.ones(hidden, hidden) if self_connections else 1 - torch.eye(hidden)
        self.register_buffer("mask", mask)
        self.weight = nn.Parameter(weight.detach() * mask)
        self.bias = uniform((hidden,), hidden, generator)
        self.input_weight = uniform((hidden,), 1, generator)
        self.input_bias = uniform((hidden,), 1, generator)
        raw = _first_tau(tau, 1 if shared_tau else hidden, generator)
        floor = 1 / max(ks) if placement == "continuous" else 1.0
        require(
            bool(torch.isfinite(raw).all()) and float(raw.min()) >= floor,
            f"tau must be finite and at least {floor:g}, but {float(raw.min()):g} came",
        )
        self.tau_raw = nn.Parameter(raw, requires_grad=train_tau)
        if bound == "softplus":
            self.set_tau(raw)

    @property
    def tau(self) -> Float[Tensor, " hidden"]:
        """The time constants as they are stored, in steps; with `clamp` they may lie below their bound."""
        raw = self.tau_raw if self.bound == "clamp" else 1 + nn.functional.softplus(self.tau_raw)
        return raw.expand(self.hidden)

    @property
    def effective_tau(self) -> Float[Tensor, " hidden"]:
        """The time constants as they act, in steps: never below one (sub)step."""
        k = self.substeps[0]
        return 1 / (k * self.leak(k))

    def set_tau(self, tau: Float[Tensor, "..."]) -> None:
        """Write time constants in steps; with `softplus` they are kept above 1."""
        with torch.no_grad():
            if self.bound == "softplus":
                tau = torch.log(torch.expm1((tau - 1).clamp(min=1e-4)))
            self.tau_raw.copy_(tau)

    def leak(self, substeps: int = 1) -> Float[Tensor, " hidden"]:
        """The leak rates `a`, in (0, 1]."""
        scale = substeps if self.placement == "continuous" else 1
        steps = scale * self.tau
        # Not `clamp`, whose gradient at exactly the bound is zero in some versions of torch and one in
        # others.
        return 1 / torch.where(steps < 1, torch.ones_like(steps), steps)

    def recurrent_matrix(self) -> Float[Tensor, "hidden hidden"]:
        """The recurrent weights as they act: masked, and cut where neurons are ablated."""
        return self.weight * self.mask

    def fold(self, substeps: int = 1) -> Folded:
        """This network alone, in the form that [`scan`][jostle.timescales.scan.scan] runs."""
        return fold([self], substeps)

    def initial_state(
        self, batch: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """`0.1 U(0, 1)` for every neuron and sequence, afresh at every call."""
        where = generator.device if generator is not None else self.bias.device
        draw = torch.rand(batch, self.hidden, generator=generator, dtype=self.bias.dtype, device=where)
        return 0.1 * draw.to(self.bias.device)

    def step(
        self, x: Float[Tensor, " batch"], state: Float[Tensor, "batch hidden"], substeps: int = 1
    ) -> Float[Tensor, "batch hidden"]:
        """One step as the textbook has it; slower than `states` and equal to it."""
        a = self.leak(substeps)
        drive = (
            state @ self.recurrent_matrix().T + self.bias + x[:, None] * self.input_weight + self.input_bias
        )
        if self.placement == "inside":
            return activate_((1 - a) * state + a * drive, self.nonlinearity, self.slope)
        return (1 - a) * state + a * activate_(drive, self.nonlinearity, self.slope)

    def states(
        self,
        x: Float[Tensor, "batch time"],
        state: Float[Tensor, "batch hidden"] | None = None,
        generator: torch.Generator | None = None,
        substeps: int | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], Float[Tensor, "batch hidden"]]:
        """Run over a batch of sequences; `substeps` (default the first of the network's) as in the class."""
        k = self.substeps[0] if substeps is None else substeps
        start = (self.initial_state(len(x), generator) if state is None else state) * self.alive
        x = x.to(start.dtype).repeat_interleave(k, 1)[None]
        if torch.is_grad_enabled():
            seen = scan(self.fold(k), start[None], x, self.nonlinearity, self.slope, every=True)
        else:
            seen = trace(self.fold(k), start[None], x, self.nonlinearity, self.slope)
        seen = seen[k - 1 :: k, 0]
        return seen, seen[-1]

    def final(
        self,
        x: Float[Tensor, "batch time"],
        generator: torch.Generator | None = None,
        substeps: int | None = None,
    ) -> Float[Tensor, "batch hidden"]:
        """The neurons after the last step, without keeping what came before in the graph."""
        k = self.substeps[0] if substeps is None else substeps
        start = self.initial_state(len(x), generator) * self.alive
        x = x.to(start.dtype).repeat_interleave(k, 1)[None]
        return scan(self.fold(k), start[None], x, self.nonlinearity, self.slope)[0]

    def recurrent(self) -> list[nn.Parameter]:
        """The one recurrent matrix."""
        return [self.weight]

    def spectral_radius(self) -> float:
        """Largest modulus of the eigenvalues of `diag(1-a) + diag(a) W`, the network linearised where phi is
        1."""
        with torch.no_grad():
            a = self.leak(self.substeps[0])
            matrix = torch.diag(1 - a) + a[:, None] * self.recurrent_matrix()
            return largest_modulus(matrix.double().cpu().numpy())


def fold(nets: Sequence[LeakyRNN], substeps: int = 1) -> Folded:
    """Networks of one size and placement, stacked and with the leak folded into the matrix where it can be.

    `inside`: `A = diag(1-a) + diag(a) W`, `c = a (b + b_w)`, `w = a w_in`; gradients of all parameters come
    from these three by autograd, outside of the loop over time.

    >>> fold([LeakyRNN(5), LeakyRNN(5)]).matrix.shape
    torch.Size([2, 5, 7])
    """
    first = nets[0]

    def stacked(name: str) -> Tensor:
        return getattr(first, name)[None] if len(nets) == 1 else torch.stack([getattr(n, name) for n in nets])

    matrix = stacked("weight") * first.mask
    drive = torch.stack([stacked("input_weight"), stacked("bias") + stacked("input_bias")], -1)
    leak = first.leak(substeps)[None] if len(nets) == 1 else torch.stack([n.leak(substeps) for n in nets])
    # A silent neuron starts at zero. Without a leak, or without a row, it stays there.
    alive = stacked("alive")
    leak = leak * alive
    if first.placement != "inside":
        return Folded(torch.cat([matrix, drive], -1), leak)
    matrix = torch.cat([matrix, drive], -1) * leak[..., None]
    matrix.diagonal(dim1=1, dim2=2).add_(alive - leak)
    return Folded(matrix, None)


def largest_modulus(matrix: Float[np.ndarray, "size size"]) -> float:
    """Largest modulus of the eigenvalues, of a large matrix by a few of them only.

    >>> largest_modulus(np.diag([0.5, -2.0]))
    2.0
    """
    size = len(matrix)
    if size > 200:
        with suppress(ArpackNoConvergence):  # several, or it may settle on the second largest
            few = eigs(matrix, k=6, which="LM", v0=np.ones(size), return_eigenvectors=False)
            return float(np.abs(few).max())
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _first_tau(
    tau: float | tuple[float, float] | Sequence[float] | Tensor, size: int, generator: torch.Generator | None
) -> Tensor:
    if isinstance(tau, int | float):
        return torch.full((size,), float(tau))
    if isinstance(tau, tuple) and len(tau) == 2:
        low, high = tau
        require(math.isfinite(low) and low <= high, f"tau must be a range (low, high), but {tau} came")
        return torch.empty(size).uniform_(low, high, generator=generator)
    values = torch.as_tensor(tau, dtype=torch.get_default_dtype()).flatten().clone()
    require(len(values) == size, f"tau must hold {size} numbers, but {len(values)} came")
    return values
