"""How much AdvStyle costs: against the literal arithmetic of the official code, and within a training step.

Run: python benchmarks/style.py. Prints ratios; both sides run in turn in one process, on one thread.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from jostle.style import AdvStyle, enabled, grad_reverse, insert, restyle

SHAPE = (32, 64, 56, 56)


def literal(x: Tensor, s_mu: Tensor, s_sigma: Tensor, e_mu: Tensor, e_sigma: Tensor) -> Tensor:
    """The adversarial branch as the official module writes it."""
    mu = x.mean(dim=[2, 3], keepdim=True)
    var = x.var(dim=[2, 3], keepdim=True)
    sig = (var + 1e-6).sqrt()
    x_normed = (x - mu) / sig
    new_mu = e_mu * grad_reverse(s_mu, 10.0) + mu
    new_sig = e_sigma * grad_reverse(s_sigma, 10.0) + sig
    return x_normed * new_sig + new_mu


def timed(*works: Callable[[], None], rounds: int = 9) -> list[float]:
    """Median seconds of each, run in turn so that a busy machine hits all alike."""
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for row, work in zip(seconds, works, strict=True):
            start = time.process_time()
            work()
            row.append(time.process_time() - start)
    return [statistics.median(row) for row in seconds]


def module() -> None:
    """Forward and backward of the module alone."""
    torch.manual_seed(0)
    x, g = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    scales = [torch.rand(1, SHAPE[1], 1, 1, requires_grad=True) for _ in range(2)]
    noise = [torch.randn(SHAPE[0], SHAPE[1], 1, 1) for _ in range(2)]
    flat = [part.detach().reshape(part.shape[1]).requires_grad_() for part in scales]
    thin = [part.reshape(SHAPE[:2]) for part in noise]

    def plan(mu: Tensor, sigma: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return thin[1] * grad_reverse(b, 10.0), thin[0] * grad_reverse(a, 10.0)

    def theirs() -> list[Tensor]:
        return list(torch.autograd.grad(literal(x, *scales, *noise), [x, *scales], g))

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad(restyle(x, plan, *flat), [x, *flat], g))

    for a, b in zip(theirs(), ours(), strict=True):
        error = float((a.flatten() - b.flatten()).norm() / a.norm())
        print(f"  gradients differ by {error:.1e} (relative)")
    slow, fast = timed(lambda: (theirs(), None)[1], lambda: (ours(), None)[1])
    print(f"module on {SHAPE}: literal {1e3 * slow:.1f} ms, ours {1e3 * fast:.1f} ms")
    print(f"  ratio {fast / slow:.2f} (target 0.55)")


def step() -> None:
    """A ResNet18 training step with the module at three places, its adversarial branch always on."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).train()
    places = ["maxpool", "layer1", "layer2"]
    handle = insert(model, places, "advstyle", probs=(0.0, 1.0, 0.0))
    x, y = torch.randn(8, 3, 224, 224), torch.arange(8) % 7

    def train(on: bool) -> None:
        with enabled(model, on):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()

    base, styled = timed(lambda: train(False), lambda: train(True), rounds=7)
    print(
        f"ResNet18 step, 8 images of 224 px, at {', '.join(handle.names)}: {1e3 * base:.0f} ms without, "
        f"{1e3 * styled:.0f} ms with, overhead {100 * (styled / base - 1):.1f} % (target 8 %)"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}")
    print(f"{AdvStyle(SHAPE[1])}")
    module()
    step()
