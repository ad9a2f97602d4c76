"""Layer-wise training, the decay study, and what the theory says of measured features."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from jostle.collapse import (
    Recipe,
    TiedModel,
    bank,
    decay,
    factors,
    fit_beta,
    greedy,
    grow,
    metrics,
    predict_nc,
)
from jostle.collapse.networks import mlp, standardise, train
from jostle.core.errors import JostleError
from jostle.zoo import load_data


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(model: TiedModel, size: float, seed: int = 0) -> torch.Tensor:
    H = model.collapsed(gen(1)).H
    return H + size * torch.randn(H.shape, generator=gen(seed), dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_predicted_collapse_is_found_near_collapse(beta: float) -> None:
    model = TiedModel(4, 20, 10, 0.3, 0.2, beta)
    labels = torch.arange(4).repeat_interleave(20)
    gaps = []
    for size in (1e-2, 1e-3):
        H0 = near(model, size)
        told = predict_nc(metrics(H0.T, labels), 0.3, 0.2, beta)
        found = metrics(model.minimise(H0, tolerance=1e-14).H.T, labels)
        gaps.append(max(abs(told.nc1_trace / found.nc1_trace - 1), abs(told.nc1 / found.nc1 - 1)))
        assert gaps[-1] < 3 * told.error
    assert gaps[1] < 0.2 * gaps[0]


def test_prediction_warns_far_from_collapse() -> None:
    h = torch.randn(40, 6, generator=gen(0))
    with pytest.warns(UserWarning, match="not near collapse"):
        predict_nc(metrics(h, torch.arange(40) % 4), 0.3, 0.2, 1.0)
    with pytest.raises(JostleError, match="beta must be above 0"):
        factors(0.3, 0.2, 0.0)


def test_the_tie_between_two_layers_is_recovered() -> None:
    labels = torch.arange(4).repeat_interleave(20)
    model = TiedModel(4, 20, 10, 0.3, 0.2, 5.0)
    H0 = near(model, 1e-5)
    found = fit_beta(H0.T, model.minimise(H0, tolerance=1e-14).H.T, labels)
    assert found.identified and not found.reason
    assert (found.beta, found.lam_w, found.lam_h) == pytest.approx((5.0, 0.3, 0.2), rel=1e-3)
    assert found.within_in == pytest.approx(factors(0.3, 0.2, 5.0).within_in, rel=1e-4)


def test_a_tie_that_is_not_there_is_not_claimed() -> None:
    labels = torch.arange(4).repeat_interleave(20)
    model = TiedModel(4, 20, 10, 0.3, 0.2, 5.0)
    H0 = near(model, 1e-3)
    H = model.minimise(H0).H
    grown = fit_beta(H.T, H0.T, labels)
    assert not grown.identified and "does not shrink" in grown.reason and grown.beta is None
    flat = model.collapsed(gen(1)).H
    assert "no variability" in fit_beta(flat.T, H.T, labels).reason


def test_the_two_decays_act_on_their_own_parts() -> None:
    x, y = torch.zeros(8, 5), torch.arange(8) % 2
    for features_times, head_times, moved in ((3.0, 0.0, 0), (0.0, 3.0, 3)):
        model = mlp((5, 4), 2, gen(0))
        before = [p.detach().clone() for p in (model[0].weight, model[3].weight)]
        recipe = Recipe(epochs=3, rate=1e-3, decay=1.0, batch=8)
        # Inputs of zero leave the first weight without a gradient of its own.
        train(model, model[3], x, y, recipe, gen(1), features_times=features_times, head_times=head_times)
        after = (model[0].weight, model[3].weight)
        # Momentum 0.9, rate 1e-3, 1e-4, 1e-5 a step each: 1 - decay * (lr sum with momentum).
        if moved == 0:
            shrunk = float((after[0].detach() / before[0]).mean())
            v, scale = 0.0, 1.0
            for lr in (1e-3, 1e-4, 1e-5):
                v = 0.9 * v + 3.0 * scale
                scale -= lr * v
            assert shrunk == pytest.approx(scale, rel=1e-5)
        else:
            assert torch.equal(after[0], before[0])


def test_growing_leaves_the_features_below_alone() -> None:
    x = torch.randn(60, 5, generator=gen(0))
    y = torch.arange(60) % 3
    kept = x.clone()
    state = torch.get_rng_state()
    first, second = (grow(x, y, width=8, recipe=Recipe(3, batch=16), generator=gen(4)) for _ in range(2))
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[2], second[2]) and first[3].nc3 is not None
    assert torch.equal(first[0](x), first[2]) and not first[0].training


def test_greedy_and_decay_report_every_part(tmp_path) -> None:
    digits = load_data("digits").subset(range(300))
    grown = greedy(digits, depth=2, width=16, recipe=Recipe(3, batch=32), generator=gen(0))
    assert len(grown.reports) == 3 and grown.reports[0].dim == 64 and len(grown.blocks) == 2
    grown.save(tmp_path / "g.json")
    assert len(json.loads((tmp_path / "g.json").read_text())) == 3
    seen: list[str] = []
    study = decay(
        digits, widths=(16,), recipe=Recipe(3, batch=32), callback=lambda i, n, text: seen.append(text)
    )
    assert len(seen) == 5 and study.shift("baseline") == 0
    at = {name: found.last.nc1_trace for name, found in study.variants.items()}
    assert study.effect("features") == pytest.approx((at["features x0"] - at["features x2"]) / 2)
    assert abs(study.ratio()) == pytest.approx(
        abs((at["features x0"] - at["features x2"]) / (at["last x0"] - at["last x2"]))
    )
    study.save(tmp_path / "d.json")
    assert set(json.loads((tmp_path / "d.json").read_text())) == set(study.variants)


@pytest.mark.study
def test_each_greedy_layer_collapses_real_digits_further() -> None:
    digits = load_data("digits")
    grown = greedy(digits, depth=4, width=128, recipe=Recipe(9), generator=gen(0))
    curve = grown.curve("nc1_trace")
    assert all(b < a for a, b in pairwise(curve))


def test_pixels_are_brought_to_unit_deviation() -> None:
    x = standardise(torch.rand(50, 3, 4, 4, generator=gen(0)) * torch.tensor([1.0, 5.0, 9.0])[:, None, None])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.study
def test_real_digits_answer_as_predicted() -> None:
    digits = load_data("digits")
    x = torch.stack([digits[i][0] for i in range(600)]).flatten(1)
    y = digits.labels[:600]
    chosen = torch.cat([(y == k).nonzero().flatten()[:20] for k in range(10)])
    H0 = bank(x[chosen], y[chosen])
    model = TiedModel(10, 20, 64, 0.05, 0.05, 2.0)
    at = model.minimise(H0, tolerance=1e-13)
    nudge = torch.randn(H0.shape, generator=gen(0), dtype=torch.float64)
    answer = model.response(nudge, at)
    gaps = []
    for t in (1e-4, 1e-5):
        moved = model.minimise(H0 + t * nudge, start=at.H, tolerance=1e-13).H - at.H
        gaps.append(float((moved - t * answer.dH).norm()))
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)
    assert replace(model, beta=1000.0).minimise(H0).steps < at.steps + at.newton_steps


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"epochs": 2}, "epochs must be"), ({"rate": 0.0}, "rate must be"), ({"batch": 1}, "batch must be")],
)
def test_recipes_out_of_range_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(JostleError, match=sentence):
        Recipe(**change)
