"""The settings of the study, and the conditions that it trains: a curriculum and the network that goes through it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from jostle.timescales.adapters import GatedRNN
from jostle.timescales.curricula import Curriculum, Direct, MultiHead, SingleHead, Sliding
from jostle.timescales.leaky import LeakyRNN
from jostle.timescales.networks import MemoryNetwork
from jostle.timescales.scan import Nonlinearity
from jostle.timescales.tasks import NDMS, MemoryTask, NParity

PLANS: dict[str, Curriculum] = {"multi": MultiHead(), "single": SingleHead(), "sliding": Sliding(10, 5)}


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    `task`: `parity` (the sum of the last N bits, modulo 2) or `dms` (whether the bit N-1 steps before the
    last equals it). `conditions`: curricula to compare, among multi, single, sliding. `hidden`: neurons of
    each network. `placement`: whether the leak is `inside` or `outside` of phi. `nonlinearity`: phi of the
    leaky neurons; `sigmoid` needs the leak outside. `networks`: how many are trained in each condition.
    `max_N`: a network that passed it is finished. `budget`: optimiser steps for each network. `seconds`:
    wall-clock seconds for each training, 0 for no limit. `batch`: sequences a step (64 for gated cells).
    `patience`: steps between tests (300 for gated cells). `test_batches`: batches a test, at most.

    `measured`: the Ns at which tau_net is measured. `trials`: streams of bits that tau_net is measured over.
    `samples`: steps that tau_net is measured over in each trial. `draws`: of perturbation and input in every
    evaluation. `scored`: steps that are scored in each draw, four times as many for forgetting. `removed`:
    neurons of either end of tau, and random ones, that are ablated one at a time.

    `start_N`: the N whose networks are retrained. `targets`: later Ns to retrain for, each alone; none, no
    retraining. `epochs`: of each retraining. `epoch`: steps of an epoch of retraining.

    `fixed_taus`: frozen time constants of controls, in steps; none, no such controls. `direct_N`: N of a
    control that learns it without a curriculum; 0 for none. `outside`: train controls with the leak outside
    of phi. `gated`: torch's own cells to train as controls; none, no such controls. `jobs`: measurements of
    trained networks at a time, through `engine`.
    """

    seed: int = 0
    device: str = "cpu"
    task: Literal["parity", "dms"] = "parity"
    conditions: tuple[str, ...] = ("multi", "single")
    hidden: int = 100
    placement: Literal["inside", "outside"] = "inside"
    nonlinearity: Nonlinearity = "leaky_relu"
    networks: int = 3
    max_N: int = 8
    budget: int = 4000
    seconds: float = 0.0
    batch: int = 64
    patience: int = 100
    test_batches: int = 32
    measured: tuple[int, ...] = (2, 4, 6, 8)
    trials: int = 3
    samples: int = 4000
    draws: int = 10
    scored: int = 1000
    removed: int = 20
    start_N: int = 0
    targets: tuple[int, ...] = ()
    epochs: int = 20
    epoch: int = 600
    fixed_taus: tuple[float, ...] = ()
    direct_N: int = 0
    outside: bool = False
    gated: tuple[Literal["lstm", "gru"], ...] = ()
    jobs: int = 2
    engine: Literal["loky", "ray", "dask"] = "loky"

    @property
    def memory_task(self) -> MemoryTask:
        """The task of leaky networks, with its own law of inputs."""
        return NParity() if self.task == "parity" else NDMS()

    @property
    def gated_task(self) -> MemoryTask:
        """The task of gated networks: inputs of -1 and 1, fair."""
        return type(self.memory_task)(p=0.5, signed=True)

    @property
    def kept(self) -> set[int]:
        """The Ns whose checkpoints are kept: all small ones, then every other, then every fifth."""
        return {*self.measured, *range(2, 17), *range(18, 41, 2), *range(45, 102, 5)}


@dataclass(frozen=True)
class Condition:
    """A curriculum, and what is special about the networks that go through it."""

    name: str
    plan: Curriculum
    tau: float | None = None
    outside: bool = False
    gated: Literal["lstm", "gru"] | None = None

    def maker(self, config: Config) -> Callable[[torch.Generator], MemoryNetwork]:
        """Makes a network of this condition from a generator."""
        heads = max(config.max_N, config.direct_N) - 1

        def make(generator: torch.Generator) -> MemoryNetwork:
            if self.gated is not None:
                return GatedRNN(self.gated, config.hidden, heads, generator=generator)
            return LeakyRNN(
                config.hidden,
                heads,
                tau=(1.0, 2.0) if self.tau is None else self.tau,
                train_tau=self.tau is None,
                placement="outside" if self.outside else config.placement,
                nonlinearity=config.nonlinearity,
                generator=generator,
            )

        return make


def main_conditions(config: Config) -> list[Condition]:
    """Those that the study compares."""
    return [Condition(name, PLANS[name]) for name in config.conditions]


def leaky_controls(config: Config) -> list[Condition]:
    """Controls on the same task.

    >>> [control.name for control in leaky_controls(Config(fixed_taus=(2.0,), direct_N=9))]
    ['multi tau=2', 'single tau=2', 'direct(9)']
    """
    both = ("multi", "single")
    found = [Condition(f"{name} tau={tau:g}", PLANS[name], tau) for tau in config.fixed_taus for name in both]
    found += [Condition(f"{name} outside", PLANS[name], outside=True) for name in both if config.outside]
    return found + (
        [Condition(f"direct({config.direct_N})", Direct(config.direct_N))] if config.direct_N else []
    )


def gated_controls(config: Config) -> list[Condition]:
    """Controls of gated cells.

    >>> [control.name for control in gated_controls(Config(gated=("gru",)))]
    ['multi gru', 'single gru']
    """
    return [
        Condition(f"{name} {cell}", PLANS[name], gated=cell)
        for cell in config.gated
        for name in ("multi", "single")
    ]
