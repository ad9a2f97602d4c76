"""`jostle.collapse` beside the pseudo-inverse form of NC1, and the cost of the exact response.

    python benchmarks/collapse.py

One process, one thread, the best of several runs; both sides in float64, then both in float32, the peer's default
(ours is float64). The peer is the pinv form of NC1 as in rhubarbwu/neural-collapse (MIT), which is not on PyPI: its
formula is written out here, with `S_B` divided by K where it divides by d.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor

from jostle import __version__
from jostle.collapse import Accumulator, TiedModel, metrics
from jostle.collapse import nc1 as nc1_alone
from jostle.lab.runs import environment

D = 512


def rhubarbwu_pinv_nc1(means: Tensor, centre: Tensor, within: Tensor) -> float:
    """`Tr(pinv(S_B) S_W)/K` with `S_B = Mc^T Mc / K`, both `d x d`, as the peer writes it."""
    centred = means - centre
    between = centred.mT @ centred / len(means)
    return float(torch.trace(torch.linalg.pinv(between, hermitian=False) @ within)) / len(means)


def rhubarbwu_covariance(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """The `d x d` within-class covariance that the peer accumulates."""
    deviations = features - means[labels]
    return deviations.mT @ deviations / len(features)


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def nc1(K: int, dtype: torch.dtype) -> None:
    """NC1 from accumulated statistics, and from features."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(K).repeat_interleave(50)
    centres = torch.randn(K, D, generator=generator, dtype=dtype)
    features = centres[labels] + 0.3 * torch.randn(len(labels), D, generator=generator, dtype=dtype)
    means = features.reshape(K, 50, D).mean(1)
    within = rhubarbwu_covariance(features, labels, means)
    streamed = Accumulator(K, D, one_pass=True, dtype=dtype)
    streamed.update(features, labels)
    theirs = rhubarbwu_pinv_nc1(means, means.mean(0), within)
    found = (nc1_alone(streamed), streamed.compute().nc1, metrics(features, labels, dtype=dtype).nc1)
    gap = max(abs(value / theirs - 1) for value in found)
    peer = best(lambda: rhubarbwu_pinv_nc1(means, means.mean(0), within), 5)
    ours, all_metrics = best(lambda: nc1_alone(streamed), 20), best(streamed.compute, 20)
    print(
        f"NC1 from statistics, d={D}, K={K}, {dtype}: peer {1e3 * peer:.1f} ms, "
        f"ours {1e3 * ours:.2f} ms, {peer / ours:.0f} times faster;"
    )
    print(
        f"  with all other metrics {1e3 * all_metrics:.2f} ms, {peer / all_metrics:.0f} times; "
        f"relative difference {gap:.1e}"
    )

    def whole() -> float:
        mean = torch.zeros(K, D, dtype=dtype).index_add_(0, labels, features) / 50
        return rhubarbwu_pinv_nc1(mean, mean.mean(0), rhubarbwu_covariance(features, labels, mean))

    peer, ours = best(whole, 5), best(lambda: metrics(features, labels, dtype=dtype), 10)
    print(
        f"  from {len(labels):,} features: peer {1e3 * peer:.1f} ms, ours {1e3 * ours:.1f} ms, "
        f"{peer / ours:.0f} times"
    )


def response() -> None:
    """The exact response at collapse, against conjugate gradients for the same answer."""
    model = TiedModel(K=100, n=50, d=D, lam_w=0.005, lam_h=0.005, beta=1.0)
    at = model.collapsed(torch.Generator().manual_seed(0))
    nudge = torch.randn(D, model.N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    closed = best(lambda: model.response(nudge, at), 20)
    solve = best(lambda: model.response(nudge, at, "cg"), 2)
    gap = float((model.response(nudge, at).dH - model.response(nudge, at, "cg").dH).abs().max())
    print(f"response, d={D}, K=100, n=50: closed form {1e3 * closed:.1f} ms, CG {solve:.2f} s, "
          f"{solve / closed:.0f} times; largest difference {gap:.1e}; a dense solve would need "
          f"{8 * (D * model.N) ** 2 / 2**40:.0f} TiB")  # fmt: skip


def streaming() -> None:
    """Throughput of the accumulators, and what they keep."""
    features = torch.randn(20_000, D, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20_000) % 100
    for one_pass in (False, True):
        acc = Accumulator(100, D, one_pass=one_pass)
        started = time.perf_counter()
        for h, y in zip(features.split(256), labels.split(256), strict=True):
            acc.update(h, y)
        seconds = time.perf_counter() - started
        kept = sum(
            t.numel() for t in (acc.means, acc.traces, acc.counts) + ((acc.scatter,) if one_pass else ())
        )
        print(f"streaming, one_pass={one_pass}: {len(labels) / seconds:,.0f} samples/s in batches of 256,"
              f" {8 * kept / 2**20:.2f} MiB kept")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = environment(0)
    print(
        f"jostle {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{here['processor']}"
    )
    for classes in (10, 100):
        for precision in (torch.float64, torch.float32):
            nc1(classes, precision)
    response()
    streaming()
