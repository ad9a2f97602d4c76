"""Sensitivities: exact where theory says so, with honest standard errors, and blind to nothing."""

import numpy as np
import pytest
import torch
from quantization.nets import Tiny, pictures, seeded
from torch import nn

from jostle.core.errors import JostleError
from jostle.quantization import quantize
from jostle.quantization.sensitivities import (
    Folded,
    fisher_samples,
    hessian_probes,
    rounding_errors,
    sensitivity,
)

pytest.importorskip("curvlinops", reason="curvature is not installed: pip install 'jostle[quantization]'")


def network(build: object = Tiny, shape: tuple[int, ...] = (1, 28, 28)):
    return quantize(seeded(build), pictures(12, *shape))


def exact_traces(folded: Folded, x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """Diagonal of the Hessian by one second derivative a weight."""
    found = []
    for name in folded.weights:

        def loss(weight: torch.Tensor, name: str = name) -> torch.Tensor:
            state = dict(folded.named_parameters())
            key = next(k for k, v in state.items() if v is folded.weights[name])
            return nn.functional.cross_entropy(
                torch.func.functional_call(folded, {**state, key: weight}, (x,)), y
            )

        hessian = torch.autograd.functional.hessian(loss, folded.weights[name].detach())
        n = folded.weights[name].numel()
        found.append(float(torch.trace(hessian.reshape(n, n))))
    return found


class Smooth(nn.Module):
    """Two linear layers, small enough for whole Hessians."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(9, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x.flatten(1)).relu())


@pytest.mark.study
def test_probes_find_the_trace_within_their_error_and_of_the_predicted_spread() -> None:
    images = pictures(8, 1, 3, 3)
    folded = Folded(quantize(seeded(Smooth), images)).double()
    labels = torch.arange(8) % 3
    images = images.double()
    values = hessian_probes(folded, images, labels, 256, 0.0, torch.Generator().manual_seed(0))
    wanted = exact_traces(folded, images, labels)
    mean, sem = values.mean(0), values.std(0, ddof=1) / 16
    assert values.shape == (256, 2)
    assert bool((np.abs(mean - np.array(wanted)) <= 4 * sem).all())
    # Total over layers: variance 2 (|H|_F^2 - |diag|^2) of the whole Hessian.
    weights = list(folded.weights.values())

    def loss(*given: torch.Tensor) -> torch.Tensor:
        state = dict(folded.named_parameters())
        keys = [next(k for k, v in state.items() if v is w) for w in weights]
        return nn.functional.cross_entropy(
            torch.func.functional_call(folded, {**state, **dict(zip(keys, given, strict=True))}, (images,)),
            labels,
        )

    blocks = torch.autograd.functional.hessian(loss, tuple(w.detach() for w in weights))
    rows = [
        torch.cat([b.reshape(w.numel(), -1) for b in row], 1) for w, row in zip(weights, blocks, strict=True)
    ]
    H = torch.cat(rows)
    predicted = 2 * float(H.square().sum() - H.diag().square().sum())
    assert values.sum(1).var(ddof=1) == pytest.approx(predicted, rel=0.25)


@pytest.mark.study
def test_probes_are_exact_on_a_hessian_of_rank_one() -> None:
    from jostle.quantization.network import QuantConfig, Quantised
    from jostle.quantization.program import Layer, Program, Step

    layer = Layer(torch.tensor([[0.7], [0.0]]), None)
    program = Program(
        [
            Step("input", "input", (), (1, 1, 1), scale=1 / 255),
            Step("flat", "flatten", ("input",), (1,)),
            Step("only", "linear", ("flat",), (2,)),
        ],
        {"only": layer},
        "only",
    )
    folded = Folded(Quantised(program, QuantConfig())).double()
    images, labels = (
        torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double(),
        torch.zeros(6).long(),
    )
    wanted = exact_traces(folded, images, labels)[0]
    # The off-diagonal entry is minus the diagonal ones: v^T H v is 0 or 2 Tr H, never noise beside them.
    values = hessian_probes(folded, images, labels, 40, 0.0, torch.Generator().manual_seed(1))[:, 0]
    assert set(np.round(values / wanted, 9)) == {0.0, 2.0}


def test_fisher_and_hessian_are_one_for_the_last_layer() -> None:
    images = pictures(8, 1, 3, 3).double()
    folded = Folded(quantize(seeded(Smooth), images.float())).double()
    with torch.no_grad():
        log = folded(images).log_softmax(1)
    # The Fisher trace with y ~ p in full: sum over classes instead of a draw.
    total = 0.0
    for k, image in enumerate(images):
        for c in range(3):
            grad = torch.autograd.grad(folded(image[None]).log_softmax(1)[0, c], folded.weights["two"])[0]
            total += float(log[k, c].exp() * grad.square().sum()) / len(images)
    wanted = exact_traces(folded, images, torch.zeros(8).long())[1]
    assert total == pytest.approx(wanted, rel=1e-10)
    deltas = rounding_errors(quantize(seeded(Smooth), images.float()), (4,))
    draws = [
        fisher_samples(
            folded, images, {k: v.double() for k, v in deltas.items()}, (4,), torch.Generator().manual_seed(s)
        )[0][:, 1]
        for s in range(40)
    ]
    means = np.array([d.mean() for d in draws])
    assert abs(means.mean() - wanted) < 4 * means.std(ddof=1) / np.sqrt(len(means))


@pytest.mark.parametrize("method", ["fisher", "fisher_quadratic", "hessian", "kl", "loss", "error"])
def test_every_method_gives_a_row_a_layer_and_fewer_bits_cost_more(method: str) -> None:
    quantised = network()
    images = pictures(6, 1, 28, 28, seed=2)
    labels = torch.arange(6) % 10
    before = {k: v.clone() for k, v in quantised.state_dict().items()}
    found = sensitivity(quantised, images, labels, method=method, bits=(2, 4, 8), probes=4)
    assert found.layers == tuple(quantised.program.names) and found.omega.shape == (5, 3)
    assert bool((found.error[:, 0] > found.error[:, 1]).all()) and bool(
        (found.error[:, 1] > found.error[:, 2]).all()
    )
    if method in ("fisher", "fisher_quadratic", "kl", "error"):
        assert bool((found.omega >= 0).all()) and found.omega[:, 0].sum() > found.omega[:, 2].sum()
    if method != "error":
        assert bool((found.omega_sem > 0).any())
    assert all(torch.equal(v, quantised.state_dict()[k]) or bool(v.isnan().all()) for k, v in before.items())
    again = sensitivity(quantised, images, labels, method=method, bits=(2, 4, 8), probes=4)
    assert bool((again.omega == found.omega).all())
    assert found.numbers()["stem"]["parameters"] == 72


def test_the_formula_of_the_paper_trace_over_n_times_the_sum_of_squares() -> None:
    quantised = network()
    found = sensitivity(quantised, pictures(4, 1, 28, 28), method="fisher", bits=(4,))
    deltas = rounding_errors(quantised, (4,))
    for i, name in enumerate(found.layers):
        n = quantised.layer(name).weight.numel()
        wanted = found.trace[i] / n * float(deltas[name, 4].double().square().sum())
        assert found.omega[i, 0] == pytest.approx(wanted)


@pytest.mark.study
def test_more_probes_make_the_error_smaller_and_stop_when_it_is_small() -> None:
    quantised = network(Smooth, (1, 3, 3))
    images = pictures(8, 1, 3, 3)
    few = sensitivity(quantised, images, method="hessian", probes=8, tolerance=0.0)
    many = sensitivity(quantised, images, method="hessian", probes=64, tolerance=0.0)
    assert (many.samples, few.samples) == (64, 8) and many.sem.mean() < 0.6 * few.sem.mean()
    early = sensitivity(quantised, images, method="hessian", probes=64, tolerance=10.0)
    assert early.samples == 4


@pytest.mark.study
def test_bad_requests() -> None:
    from helpers import plain

    with pytest.raises(JostleError, match="method must be one of fisher"):
        plain(sensitivity)(network(), pictures(1, 1, 28, 28), method="guess")
    with pytest.raises(JostleError, match="at least one image"):
        sensitivity(network(), torch.zeros(0, 1, 28, 28))
    with pytest.raises(JostleError, match="probes must be at least 2"):
        sensitivity(network(), pictures(1, 1, 28, 28), method="hessian", probes=1)
