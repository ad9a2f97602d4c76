"""All is computed where the features are: with `meta` as the default device, a tensor made elsewhere fails."""

import pytest
import torch

from jostle.collapse import (
    Accumulator,
    TiedModel,
    bank,
    cka,
    class_spectra,
    decompose,
    fit_beta,
    flow,
    measure,
    metrics,
    procrustes_frame,
    response,
    sweep,
)
from jostle.collapse.networks import mlp, standardise

MODEL = TiedModel(K=3, n=4, d=5, lam_w=0.3, lam_h=0.2, beta=20.0)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", ["closed", "cg", "dense", "large-beta"])
def test_the_response(method: str) -> None:
    at, nudge = MODEL.collapsed(gen(0)), randn(5, 12)
    wanted = MODEL.response(nudge, at, method)
    with torch.device("meta"):
        found = MODEL.response(nudge, at, method)
        again = MODEL.collapsed(at.R)
    assert torch.equal(found.dH, wanted.dH) and torch.equal(found.dW, wanted.dW)
    assert torch.equal(again.H, at.H)


@pytest.mark.parametrize("d", [5, 20])  # more and fewer samples than dimensions
def test_the_minimiser_and_the_flow(d: int) -> None:
    model = TiedModel(K=3, n=4, d=d, lam_w=0.3, lam_h=0.2, beta=0.5)
    H0 = randn(d, 12)
    wanted, flowed = model.minimise(H0, curvature=True), model.flow(H0, [0.0, 1.0])
    with torch.device("meta"):
        found, again = model.minimise(H0, curvature=True), model.flow(H0, [0.0, 1.0])
    assert torch.equal(found.H, wanted.H) and found.curvature == wanted.curvature
    assert torch.equal(again.features(1), flowed.features(1)) and torch.equal(again.nc1, flowed.nc1)


def test_the_metrics() -> None:
    h, y, W = randn(30, 5), torch.arange(30) % 3, randn(3, 5, seed=1)
    acc = Accumulator(3, 5, one_pass=True)
    acc.update(h, y)
    wanted, streamed = metrics(h, y, W), acc.compute(W)
    with torch.device("meta"):
        found, again = metrics(h, y, W, W[:, 0]), acc.compute(W)
        parts = decompose(bank(h, y), procrustes_frame(bank(h, y), 3)[0])
        tie = fit_beta(h, 0.5 * h, y)
    assert found.nc1 == wanted.nc1 and found.cdnv == wanted.cdnv and again.nc1 == streamed.nc1
    assert parts.total == pytest.approx(float(h.square().sum())) and not tie.identified


def test_the_tied_model_of_ones_own_features() -> None:
    data = (torch.rand(30, 1, 2, 2, generator=gen(0)), torch.arange(30) % 3)

    def ask() -> list[float]:
        h, y = data[0].flatten(1), data[1]
        return [
            float(flow(data, points=3).nc1[-1]),
            response(data, beta=3.0, generator=gen(1)).share,
            sweep(data, beta=(3.0,)).reports[0].nc1,
            float(class_spectra(h, y).effective_ranks[0]),
            cka(h, h[:, :2]),
        ]

    wanted = ask()
    with torch.device("meta"):
        assert ask() == wanted


def test_the_layers() -> None:
    x, y = standardise(torch.rand(30, 1, 2, 2, generator=gen(0))).flatten(1), torch.arange(30) % 3
    model = mlp((4, 6), 3, gen(1))
    wanted = measure(model, (x, y))
    with torch.device("meta"):
        found = measure(model, (x, y))
    assert found.last.nc1 == wanted.last.nc1 and list(found.layers) == list(wanted.layers)
