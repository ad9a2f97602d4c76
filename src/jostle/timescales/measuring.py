"""Timescales and dimensionality of a working network: drive it, and accumulate what its units do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.timescales.autocorrelation import Autocorrelation, normalised
from jostle.timescales.fitting import TimescaleFit, fit_timescales
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.tasks import MemoryTask

Array = np.ndarray
_BLOCK = 2_000_000  # numbers of activity held at a time


@dataclass(frozen=True)
class NetworkTimescales:
    """Timescales of the units of a driven network, and of its summed activity, in steps.

    **Arguments:** `curves`, `fit`: of the units. `population`, `population_fit`: of their sum.
    """

    curves: Autocorrelation
    fit: TimescaleFit
    population: Autocorrelation
    population_fit: TimescaleFit

    def summary(self, min_weight: float = 0.0) -> dict[str, float]:
        """The paper's statistics, over the units with `tau_net > 1`, and what that filter hides.

        **Arguments:** `min_weight`: also leave out two-exponential fits whose slow part weighs less.
        **Returns:** `mean` and `sd` over the units kept (NaN if none), `kept` (their share), `median` over
        all units, `double` (share of two-exponential fits), `doubtful` (share at a bound, or with a slow part
        below 2 %), `population` (the summed activity's timescale).
        """
        fit, tau = self.fit, self.fit.tau
        kept = (np.nan_to_num(tau) > 1) & ~(fit.double & (np.nan_to_num(fit.slow_weight) < min_weight))
        return {
            "mean": float(tau[kept].mean()) if kept.any() else float("nan"),
            "sd": float(tau[kept].std(ddof=1)) if kept.sum() > 1 else float("nan"),
            "kept": float(kept.mean()),
            "median": float(np.nanmedian(tau)) if np.isfinite(tau).any() else float("nan"),
            "double": float(fit.double.mean()),
            "doubtful": float((~fit.good()).mean()),
            "population": float(self.population_fit.tau[0]),
        }


def network_timescales(
    network: MemoryNetwork,
    task: MemoryTask | Float[Tensor, "trials time"],
    *,
    generator: torch.Generator,
    steps: int = 100_000,
    trials: int = 10,
    burn_in: int = 500,
    max_lag: int = 30,
    fit_lags: int = 30,
) -> NetworkTimescales:
    """Drive a network with the task's random bits and fit the autocorrelation of every unit.

    The autocovariance is accumulated block by block, so memory does not grow with `steps`. With `p ~ U(0, 1)`
    a trial, the few draws of p dominate the spread between measurements: use one `generator` to compare
    networks.

    **Arguments:** `network`. `task`: whose bits drive it; or inputs of your own, whose first `burn_in` steps
    are not recorded (`steps` and `trials` are then theirs). `generator`: source of bits and initial states.
    `steps`: kept a trial, after `burn_in` steps. `trials`. `max_lag`: of the curves, `fit_lags`: of the fits, in steps.
    **Returns:** curves and fits of the units, and of their sum.
    **Raises:** `JostleError` if the network diverges, or for a series too short for its lags.

    >>> from jostle.timescales import LeakyRNN, NParity
    >>> net = LeakyRNN(6, generator=torch.Generator().manual_seed(0))
    >>> bits = torch.Generator().manual_seed(1)
    >>> found = network_timescales(net, NParity(p=0.5), generator=bits, steps=2000)
    >>> found.fit.tau.shape
    (6,)
    """
    require(max_lag >= fit_lags, f"max_lag must be at least fit_lags = {fit_lags}, but {max_lag} came")
    steps = task.shape[1] - burn_in if isinstance(task, Tensor) else steps
    require(steps > max_lag, f"steps must be more than max_lag = {max_lag}, but {steps} came")
    seen = _Autocovariance(max_lag)
    for states in _activity(network, task, generator, steps, trials, burn_in):
        seen.add(torch.cat([states, states.sum(-1, keepdim=True)], -1))
    curves = seen.finish()
    fit = fit_timescales(curves, fit_lags=fit_lags)
    units, population = slice(None, -1), slice(-1, None)
    return NetworkTimescales(curves.of(units), fit.of(units), curves.of(population), fit.of(population))


@dataclass(frozen=True)
class Dimensionality:
    """How many directions a network's activity fills, averaged over trials.

    **Arguments:** `components`: the smallest number of principal components that explain the wanted share of
    the variance. `participation`: the participation ratio $(\\sum \\lambda)^2 / \\sum \\lambda^2$.
    """

    components: float
    participation: float


def dimensionality(
    network: MemoryNetwork,
    task: MemoryTask | Float[Tensor, "trials time"],
    *,
    generator: torch.Generator,
    explained: float = 0.9,
    steps: int = 10_000,
    trials: int = 10,
    burn_in: int = 500,
) -> Dimensionality:
    """Principal components of a driven network's activity, trial by trial.

    **Arguments:** as [`network_timescales`][jostle.timescales.measuring.network_timescales]; `explained`: the
    share of the variance that the components must explain, in (0, 1).

    >>> from jostle.timescales import LeakyRNN, NParity
    >>> net = LeakyRNN(6, generator=torch.Generator().manual_seed(0))
    >>> found = dimensionality(net, NParity(p=0.5), generator=torch.Generator().manual_seed(1), steps=500)
    >>> 1 <= found.components <= 6
    True
    """
    require(0 < explained < 1, f"explained must lie in (0, 1), but {explained} came")
    total, products, shift, count = 0.0, 0.0, None, 0
    for states in _activity(network, task, generator, steps, trials, burn_in):
        shift = states[0].double() if shift is None else shift
        block = states.double() - shift
        total = total + block.sum(0)
        products = products + torch.einsum("tbi,tbj->bij", block, block)
        count += len(block)
    mean = torch.as_tensor(total) / count
    covariance = torch.as_tensor(products) / count - mean[:, :, None] * mean[:, None]
    power = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(-1)
    share = power.cumsum(-1) / power.sum(-1, keepdim=True)
    components = (share < explained).sum(-1) + 1
    participation = power.sum(-1) ** 2 / (power**2).sum(-1)
    return Dimensionality(float(components.double().mean()), float(participation.mean()))


def _activity(
    network: MemoryNetwork,
    task: MemoryTask | Tensor,
    generator: torch.Generator,
    steps: int,
    trials: int,
    burn_in: int,
) -> Iterator[Float[Tensor, "time trials hidden"]]:
    if isinstance(task, Tensor):
        require(task.shape[1] > burn_in, f"inputs must be longer than burn_in = {burn_in} steps")
        inputs = task
    else:
        inputs = task.encode(task.bits(trials, burn_in + steps, generator))
    state = network.initial_state(len(inputs), generator)
    block = max(100, _BLOCK // (len(inputs) * network.hidden))
    pieces: Sequence[Tensor] = [inputs[:, :burn_in], *inputs[:, burn_in:].split(block, 1)]
    for index, piece in enumerate(pieces):
        if piece.shape[1] == 0:
            continue
        with torch.no_grad():
            states, state = network.states(piece, state)
        require(
            bool(torch.isfinite(states[-1]).all()), "the network's activity diverges: it has no timescale"
        )
        if index:
            yield states


class _Autocovariance:
    """Autocovariance at a few lags of a series that comes in blocks.

    `C(k) = [S(k) - m (head(k) + tail(k)) + (T-k) m^2] / (T-k)`: products at lag k, the trial's mean, and the
    sums of all but the last and the first k samples. All is taken relative to the first sample, so that
    nothing cancels.
    """

    def __init__(self, max_lag: int) -> None:
        self.max_lag = max_lag
        self.shift: Tensor | None = None
        self.samples = 0

    def add(self, block: Float[Tensor, "time trials units"]) -> None:
        """Take in a block of the series."""
        if self.shift is None:
            self.shift = block.mean(0)
            shape = (self.max_lag + 1, *self.shift.shape)
            self.products = torch.zeros(shape, dtype=torch.float64, device=block.device)
            self.total = torch.zeros_like(self.products[0])
            self.kept = block[:0]
            self.first = block[:0]
        block = block - self.shift
        self.total += block.sum(0, dtype=torch.float64)
        joined = torch.cat([self.kept, block])
        held = len(self.kept)
        for lag in range(self.max_lag + 1):
            start = max(held - lag, 0)
            # Pairs whose later sample is new; single precision is summed in double, piece by piece.
            late = joined[start + lag :]
            self.products[lag] += (joined[start : start + len(late)] * late).sum(0, dtype=torch.float64)
        if len(self.first) < self.max_lag:
            self.first = torch.cat([self.first, block])[: self.max_lag]
        self.kept = joined[-self.max_lag :]
        self.samples += len(block)

    def finish(self) -> Autocorrelation:
        """The autocorrelation, averaged over trials."""
        mean = self.total / self.samples
        zero = torch.zeros_like(mean)[None]
        head = torch.cat([zero, self.first.double().cumsum(0)])
        tail = torch.cat([zero, self.kept.double().flip(0).cumsum(0)])
        pairs = (self.samples - torch.arange(self.max_lag + 1, device=mean.device, dtype=mean.dtype))[
            :, None, None
        ]
        covariance = (self.products - mean * (2 * self.total - head - tail)) / pairs + mean**2
        # A unit that never moves leaves only rounding noise of its own size.
        assert self.shift is not None
        noise = (self.shift.abs().double().max(0).values * 1e-6) ** 2
        result = covariance.mean(1)
        result[:, result[0] <= noise] = 0
        return normalised(result.T.cpu().numpy(), self.samples)
