"""Training steps and timescale fits against a literal per-step autograd loop and SciPy; one thread, one
process.

The peer loop is written in the style of the authors' released code: one sequence and one label at a time, one
autograd step a time step, all allocated heads evaluated at every step. Prints ratios of CPU time.
"""

import argparse
import platform
import time

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
    """The released cell and heads: separate linear layers, the diagonal written into the data at each
    call."""

    def __init__(self, hidden: int, heads: int = 100) -> None:
        super().__init__()
        self.inputs, self.loop = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.heads = nn.ModuleList([nn.Linear(hidden, 2) for _ in range(heads)])
        self.tau = nn.Parameter(1 + torch.rand(hidden))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        r = 0.1 * torch.rand(x.shape[1], self.loop.out_features)
        for x_t in x:
            self.loop.weight.data.fill_diagonal_(0)
            a = 1 / self.tau.clamp(min=1)
            r = nn.functional.leaky_relu((1 - a) * r + a * (self.loop(r) + self.inputs(x_t)), 0.01)
        return [head(r) for head in self.heads]


def released_step(net: Released, optimiser: torch.optim.Optimizer, N: int, batch: int, length: int) -> None:
    sequences = [torch.bernoulli(torch.full((length,), float(torch.rand(1)))) for _ in range(batch)]
    labels = [[int(s[-M:].sum()) % 2 for s in sequences] for M in range(2, N + 1)]
    out = net(torch.stack(sequences, 1)[..., None])
    loss = torch.stack(
        [nn.functional.cross_entropy(o, torch.tensor(y)) for o, y in zip(out, labels, strict=False)]
    )
    optimiser.zero_grad()
    loss.sum().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    optimiser.step()


def training(hidden: int, batch: int, N: int, networks: int, steps: int) -> tuple[float, float]:
    """CPU seconds for each time step of one network's training: the released loop's, and ours.

    Turn about, both warm. By the lengths that each side drew: a step's cost is proportional to its length.
    """
    Fixed.top = N
    net = Released(hidden)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.1, nesterov=True)
    nets = replicas(lambda g: LeakyRNN(hidden, 100, generator=g), networks)
    task = _Counted()

    def ours(rounds: int) -> tuple[float, int]:
        before, started = task.total, time.process_time()
        train_curriculum(nets, task, Fixed(), batch=batch, steps=10 * rounds, max_steps=rounds)
        return time.process_time() - started, task.total - before

    def theirs(rounds: int) -> tuple[float, int]:
        law = [task.length(N, float(u)) for u in torch.rand(rounds)]
        started = time.process_time()
        for length in law:
            released_step(net, optimiser, N, batch, length)
        return time.process_time() - started, sum(law)

    ours(2), theirs(1)
    took = np.array([[ours(steps), theirs(max(1, steps // 2))] for _ in range(3)]).sum(0)
    return took[1, 0] / took[1, 1], took[0, 0] / took[0, 1]


class _Counted(NParity):
    """Parity that counts the time steps it hands out."""

    total: int = 0

    def sample(self, batch, Ns, generator, length=None):  # type: ignore[no-untyped-def]
        x, y = super().sample(batch, Ns, generator, length)
        object.__setattr__(self, "total", self.total + x.shape[1])
        return x, y


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
        print(
            f"{name}: per time step {theirs * 1e3:.3f} ms against {ours * 1e3:.3f} ms: {theirs / ours:.1f} x"
        )
    scipy_time, mine, won = fitting(250)
    print(
        f"fits: {scipy_time * 1e3:.2f} ms a curve against {mine * 1e3:.3f} ms: {scipy_time / mine:.1f} x; ",
        end="",
    )
    print(f"never worse on {won:.1%} of fits")


if __name__ == "__main__":
    main()
