"""Nudges: push weights or time constants a given relative distance, remove neurons, and watch the memory
answer."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require
from jostle.timescales.evaluating import stream_accuracy
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.starting import seeded
from jostle.timescales.tasks import MemoryTask

Kind = Literal["weights", "weights_mult", "weights_subspace", "tau_abs", "tau_signed", "tau_add"]
Array = np.ndarray
KINDS: tuple[Kind, ...] = ("weights", "weights_mult", "weights_subspace", "tau_abs", "tau_signed", "tau_add")


def perturb(network: MemoryNetwork, kind: Kind, size: float, generator: torch.Generator) -> MemoryNetwork:
    r"""A copy of a network, pushed. With `D` standard normal of the parameter's shape:

    - `weights`: $W + \epsilon \|W\|_F D / \|D\|_F$; the diagonal stays zero, so the true relative size is
      $\epsilon \sqrt{1 - d}$ with d the diagonal's share of $\|D\|^2$.
    - `weights_mult`: $W (1 + \epsilon\, U(0, 1))$ entry by entry.
    - `weights_subspace`: $\epsilon \|W\|_F\, U \operatorname{diag}(D) V^\top / \|D\|$ along W's own singular
      vectors.
    - `tau_abs`: $\tau + \epsilon \|\tau\|_2 |D| / \|D\|_2$, which only lengthens; `tau_signed` with D;
      `tau_add`: $\tau + \epsilon D$.

    Definitions of arXiv 2309.12927's released code; `weights_subspace` is a control of ours.

    **Arguments:** `network`: is left as it is. `kind`. `size`: epsilon, at least 0. `generator`: source of D.
    **Raises:** `JostleError` for a negative size, or a time constant asked of a network that has none.

    >>> net = LeakyRNN(10, generator=torch.Generator().manual_seed(0))
    >>> pushed = perturb(net, "tau_abs", 0.1, torch.Generator().manual_seed(1))
    >>> round(float(((pushed.tau - net.tau).norm() / net.tau.norm()).detach()), 6)
    0.1
    """
    require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}, but {kind!r} came")
    require(size >= 0 and math.isfinite(size), f"size must be finite and at least 0, but {size} came")
    pushed = copy.deepcopy(network)
    if size == 0:
        return pushed
    with torch.no_grad():
        if kind.startswith("weights"):
            for weight in pushed.recurrent():
                _push_weights(weight, kind, size, generator)
                if isinstance(pushed, LeakyRNN):
                    weight *= pushed.mask
        else:
            require(isinstance(pushed, LeakyRNN), f"{kind} needs a network with time constants")
            assert isinstance(pushed, LeakyRNN)
            tau = pushed.tau[: len(pushed.tau_raw)].clone()
            noise = _normal(tau, generator)
            if kind == "tau_add":
                pushed.set_tau(tau + size * noise)
            else:
                direction = noise.abs() if kind == "tau_abs" else noise
                pushed.set_tau(tau + size * tau.norm() * direction / noise.norm())
    return pushed


def ablate(
    network: MemoryNetwork,
    neurons: Sequence[int],
    mode: Literal["remove", "released", "readout"] = "remove",
) -> MemoryNetwork:
    """A copy of a network without some neurons.

    **Arguments:** `neurons`: which. `mode`: `"remove"` holds their activity at zero, in the recurrence and in
    every head. `"released"` does what the released code does, for comparison: rows and columns of the
    recurrent weights, the input weights and head **0** are zeroed, but their biases still drive them and the
    other heads still read them. `"readout"` only hides them from all heads.
    **Raises:** `JostleError` for a neuron that is not there, or for all of them.

    >>> net = ablate(LeakyRNN(4), [2])
    >>> bool((net.states(torch.ones(1, 9))[0][..., 2] == 0).all())
    True
    """
    gone = sorted(set(neurons))
    require(
        all(0 <= i < network.hidden for i in gone),
        f"neurons must lie in 0 ... {network.hidden - 1}, got {gone}",
    )
    require(len(gone) < network.hidden, "neurons names all neurons: nothing would be left")
    cut = copy.deepcopy(network)
    with torch.no_grad():
        if mode == "remove":
            cut.alive[gone] = 0
        elif mode == "readout":
            cut.head_weight[..., gone] = 0
        else:
            require(isinstance(cut, LeakyRNN), "mode 'released' needs a LeakyRNN")
            assert isinstance(cut, LeakyRNN)
            cut.weight[gone] = 0
            cut.weight[:, gone] = 0
            cut.input_weight[gone] = 0
            cut.head_weight[0][:, gone] = 0
    return cut


@dataclass(frozen=True)
class Sweep:
    """Accuracy of one network under perturbations of growing size.

    **Arguments:** `sizes`: epsilon, 0 first. `accuracy`: one row a size, one column a draw of perturbation
    and input.
    """

    kind: str
    sizes: tuple[float, ...]
    accuracy: Float[Array, "sizes draws"]

    @property
    def relative(self) -> Float[Array, "sizes draws"]:
        """`(acc - 1/2) / (acc_0 - 1/2)`, with `acc_0` the unperturbed network's mean over draws."""
        return (self.accuracy - 0.5) / (self.accuracy[0].mean() - 0.5)


def default_sizes(kind: Kind) -> tuple[float, ...]:
    """The paper's sizes: 0 and 10 from 1e-2 to 1e1 for weights, 0 and 13 from 1e-3 to 1e1 for time constants.

    >>> len(default_sizes("weights")), len(default_sizes("tau_abs"))
    (11, 14)
    """
    points = np.geomspace(1e-2, 1e1, 10) if kind.startswith("weights") else np.geomspace(1e-3, 1e1, 13)
    return (0.0, *points.tolist())


def perturbation_sweep(
    network: MemoryNetwork,
    task: MemoryTask,
    N: int,
    *,
    kind: Kind = "weights",
    sizes: Sequence[float] | None = None,
    head: int = 0,
    draws: int = 10,
    steps: int = 1000,
    warmup: int | None = None,
    seed: int = 0,
) -> Sweep:
    """Accuracy on N under perturbations of growing size.

    A draw has one direction and one input for all sizes, so that a curve shows the size and not the luck.

    **Arguments:** `network`, `task`. `N`: what is asked, of `head`. `kind`, `sizes`: of
    [`perturb`][jostle.timescales.perturbing.perturb]; default the paper's; 0 is put in front if it is
    missing. `draws`: of perturbation and input. `steps`, `warmup`: of the stream. `seed`: names the draws.

    >>> from jostle.timescales import NParity
    >>> net = LeakyRNN(10, generator=torch.Generator().manual_seed(0))
    >>> perturbation_sweep(net, NParity(), 2, sizes=[0.1], draws=3, steps=50).accuracy.shape
    (2, 3)
    """
    wanted = tuple(default_sizes(kind) if sizes is None else sizes)
    wanted = wanted if 0.0 in wanted else (0.0, *wanted)
    rows = []
    for draw in range(draws):
        pushed = [perturb(network, kind, size, seeded(seed, f"{kind}/{draw}")) for size in wanted]
        rows.append(_scores(pushed, task, {N: head}, seed, draw, steps, warmup))
    return Sweep(kind, wanted, np.stack(rows, 1))


@dataclass(frozen=True)
class Ablation:
    """Accuracy of one network without one neuron at a time.

    **Arguments:** `base`: with all neurons, one number a draw. `neurons`, `tau`: which neuron was missing,
    and its effective time constant (NaN if it has none). `accuracy`: one row a neuron, one column a draw.
    """

    base: Float[Array, " draws"]
    neurons: tuple[int, ...]
    tau: Float[Array, " neurons"]
    accuracy: Float[Array, "neurons draws"]

    def group(self, neurons: Sequence[int]) -> float:
        """Mean accuracy over some of the neurons, relative to the base: `(acc - 1/2) / (base - 1/2)`."""
        rows = [self.neurons.index(i) for i in neurons]
        return float((self.accuracy[rows].mean() - 0.5) / (self.base.mean() - 0.5))


def choose_neurons(network: LeakyRNN, which: Literal["fastest", "slowest"], count: int = 20) -> list[int]:
    """The neurons of smallest or largest time constant.

    >>> choose_neurons(LeakyRNN(4, tau=[1.0, 3.0, 2.0, 1.5]), "slowest", 2)
    [1, 2]
    """
    require(1 <= count <= network.hidden, f"count must lie in 1 ... {network.hidden}, but {count} came")
    order = torch.argsort(network.tau.detach(), stable=True)
    return (order[:count] if which == "fastest" else order.flip(0)[:count]).tolist()


def ablation(
    network: MemoryNetwork,
    task: MemoryTask,
    N: int,
    *,
    neurons: Sequence[int] | Literal["all"] = "all",
    head: int = 0,
    mode: Literal["remove", "released", "readout"] = "remove",
    draws: int = 10,
    steps: int = 1000,
    warmup: int | None = None,
    seed: int = 0,
) -> Ablation:
    """Accuracy on N without one neuron at a time.

    With mode `"remove"` all ablations of a leaky network run as streams of one batch.

    **Arguments:** as [`perturbation_sweep`][jostle.timescales.perturbing.perturbation_sweep] and
    [`ablate`][jostle.timescales.perturbing.ablate]; `neurons`: which to remove, one at a time.

    >>> from jostle.timescales import NParity
    >>> net = LeakyRNN(5, generator=torch.Generator().manual_seed(0))
    >>> ablation(net, NParity(), 2, draws=2, steps=50).accuracy.shape
    (5, 2)
    """
    chosen = list(range(network.hidden)) if neurons == "all" else list(neurons)
    require(all(0 <= i < network.hidden for i in chosen), f"neurons must lie in 0 ... {network.hidden - 1}")
    base, rows = [], []
    for draw in range(draws):
        how = task, {N: head}, seed, draw, steps, warmup
        base.append(_scores([network], *how)[0])
        if mode == "remove" and isinstance(network, LeakyRNN):
            rows.append(_scores([network], *how, silent=chosen))
        else:
            rows.append(_scores([ablate(network, [i], mode) for i in chosen], *how))
    tau = network.effective_tau.detach().cpu().double().numpy() if isinstance(network, LeakyRNN) else None
    return Ablation(
        base=np.stack(base),
        neurons=tuple(chosen),
        tau=np.full(len(chosen), np.nan) if tau is None else tau[chosen],
        accuracy=np.stack(rows, 1),
    )


def _scores(
    networks: Sequence[MemoryNetwork],
    task: MemoryTask,
    heads: Mapping[int, int],
    seed: int,
    draw: int,
    steps: int,
    warmup: int | None,
    silent: Sequence[int] | None = None,
) -> Array:
    """One accuracy a network, or a silent neuron; all hear the input of this draw, so they differ in nothing
    else."""
    generator = seeded(seed, f"input/{draw}", networks[0].head_weight.device)
    found = stream_accuracy(
        networks, task, heads, generator=generator, steps=steps, warmup=warmup, silent=silent
    )
    return found[..., 0].ravel()


def _push_weights(weight: Tensor, kind: str, size: float, generator: torch.Generator) -> None:
    if kind == "weights_mult":
        draw = torch.rand(weight.shape, generator=generator, dtype=weight.dtype, device=generator.device)
        weight *= 1 + size * draw.to(weight.device)
        return
    if kind == "weights":
        direction = _normal(weight, generator)
    else:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        direction = left * _normal(values, generator) @ right
    weight += size * weight.norm() * direction / direction.norm()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return draw.to(like.device)
