"""Training steps and timescale fits against a literal per-step autograd loop and SciPy; one thread, one
process.

The peer loop does operation by operation what the authors' released code does (github.com/LevinaLab/
rnn_timescale_public, their stack of one layer): one sequence and one label at a time; the input layer applied to
the whole sequence, and a step of it taken at each time step; the time constants clamped twice a step, the drive
divided by them; all 100 allocated heads evaluated at the end. Both sides run the same lengths. Prints ratios of CPU
time for each optimiser step of one network, drawing the data included.
"""

import argparse
import platform
import time
from dataclasses import dataclass, field

import numpy as np
import scipy
import torch
from scipy.optimize import curve_fit
from torch import nn

from jostle.timescales import LeakyRNN, MultiHead, NParity, fit_timescales, replicas, train_curriculum


class Fixed(MultiHead):
    """Stays at the Ns of one stage, so that both sides do the same work."""

    top: int = 10

    def first(self) -> tuple[int, ...]:
        return tuple(range(2, Fixed.top + 1))


class Released(nn.Module):
    """The released cell and heads: separate linear layers, self-connections written out of the data at each
    call."""

    def __init__(self, hidden: int, heads: int = 100) -> None:
        super().__init__()
        self.inputs, self.loop = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.heads = nn.ModuleList([nn.Linear(hidden, 2) for _ in range(heads)])
        self.tau = nn.Parameter(1 + torch.rand(hidden))
        self.phi = nn.LeakyReLU()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        r = 0.1 * torch.rand(x.shape[1], self.loop.out_features)
        drive = torch.stack([self.inputs(x)]).mean(0)  # a mean over input layers, of which there is one
        self.loop.weight.data.fill_diagonal_(0)
        for t in range(len(x)):
            kept = (1 - 1 / self.tau.clamp(min=1)) * r
            r = self.phi(kept + (self.loop(r) + drive[t]) / self.tau.clamp(min=1))
        return [head(r) for head in self.heads]


def released_step(net: Released, optimiser: torch.optim.Optimizer, N: int, batch: int, length: int) -> None:
    """One step of the released training."""
    optimiser.zero_grad()
    with torch.no_grad():
        sequences = [(torch.rand(length) < torch.rand(1)) * 1.0 for _ in range(batch)]
        labels = [torch.stack([(s[-M:].sum() % 2).long() for s in sequences]) for M in range(2, N + 1)]
    out = net(torch.stack(sequences)[..., None].transpose(0, 1))
    loss = torch.zeros(())
    for logits, answers in zip(out, labels, strict=False):
        loss = loss + nn.functional.cross_entropy(logits, answers)
    loss.backward()
    loss.item()
    nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    optimiser.step()


@dataclass(frozen=True)
class _Recorded(NParity):
    """Parity that keeps the lengths that were drawn."""

    drawn: list[int] = field(default_factory=list)

    def length(self, N: int, u: float) -> int:
        self.drawn.append(super().length(N, u))
        return self.drawn[-1]


def training(hidden: int, batch: int, N: int, networks: int, steps: int) -> tuple[float, float]:
    """CPU seconds for each optimiser step of one network: the released loop's, and ours; turn about, both warm."""
    Fixed.top = N
    net = Released(hidden)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.1, nesterov=True)
    nets = replicas(lambda g: LeakyRNN(hidden, 100, generator=g), networks)

    def round_of(steps: int, seed: int) -> tuple[float, float]:
        task = _Recorded()
        started = time.process_time()
        train_curriculum(nets, task, Fixed(), batch=batch, steps=steps + 1, max_steps=steps, seed=seed)
        ours = time.process_time() - started
        started = time.process_time()
        for length in task.drawn[::networks]:
            released_step(net, optimiser, N, batch, length)
        return (time.process_time() - started) / steps, ours / steps / networks

    round_of(1, 0)
    theirs, ours = np.mean([round_of(steps, seed) for seed in (1, 2, 3)], 0)
    return theirs, ours


def fitting(count: int) -> tuple[float, float, float]:
    """CPU seconds a curve: SciPy's curve_fit for both models from its default start, and ours; and the share
    of curves on which ours is not the worse."""
    rng = np.random.default_rng(0)
    k = np.arange(31.0)
    c, t1, t2 = rng.uniform(0, 1, (count, 1)), rng.uniform(0.3, 4, (count, 1)), rng.uniform(1, 60, (count, 1))
    y = c * np.exp(-k / t1) + (1 - c) * np.exp(-k / t2)
    y += rng.normal(0, 0.01, y.shape)
    y[:, 0] = 1

    def one(k, a, t):  # type: ignore[no-untyped-def]
        return a * np.exp(-k / t)

    def two(k, a, c, t1, t2):  # type: ignore[no-untyped-def]
        return a * (c * np.exp(-k / t1) + (1 - c) * np.exp(-k / t2))

    fit_timescales(y)
    started = time.process_time()
    ours = fit_timescales(y)
    mine = (time.process_time() - started) / count
    won = 0
    started = time.process_time()
    for row, curve in enumerate(y):
        for which, (model, half) in enumerate([(one, 1), (two, 2)]):
            try:
                best, _ = curve_fit(model, k, curve, bounds=([1e-9] * 2 * half, [1] * half + [100] * half))
            except RuntimeError:
                won += 1
                continue
            won += ours.rss[row, which] <= ((model(k, *best) - curve) ** 2).sum() * (1 + 1e-6)
    return (time.process_time() - started) / count, mine, won / (2 * count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--small", action="store_true", help="leave out H = 500")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, scipy {scipy.__version__}, {platform.processor() or platform.machine()}"
    )
    rows = [(100, 128, 10, 1), (100, 128, 10, 4)]
    rows += [] if options.small else [(500, 256, 10, 1), (500, 256, 30, 1)]
    for hidden, batch, N, networks in rows:
        theirs, ours = training(hidden, batch, N, networks, options.steps if hidden < 500 else 4)
        name = f"H = {hidden}, B = {batch}, N = {N}, {networks} network(s)"
        print(f"{name}: {theirs * 1e3:.1f} ms a step against {ours * 1e3:.1f} ms: {theirs / ours:.1f} x")
    scipy_time, mine, won = fitting(250)
    print(
        f"fits: {scipy_time * 1e3:.2f} ms a curve against {mine * 1e3:.3f} ms: {scipy_time / mine:.1f} x; ",
        end="",
    )
    print(f"never worse on {won:.1%} of fits")


if __name__ == "__main__":
    main()
