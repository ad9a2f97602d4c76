import inspect

import numpy as np
import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal.depth import METRICS, depth_errors, disparity_to_depth, evaluate_depth, garg_crop


def reference(g, p):
    """The released evaluator's metrics, one image."""
    valid = (g > 1e-3) & (g < 80)
    p = np.clip(p, 1e-3, 80)
    g, p = g[valid], p[valid]
    ratio = np.maximum(g / p, p / g)
    return [
        np.mean(np.abs(g - p) / g),
        np.mean((g - p) ** 2 / g),
        np.sqrt(np.mean((g - p) ** 2)),
        np.sqrt(np.mean((np.log(g) - np.log(p)) ** 2)),
        *[np.mean(ratio < 1.25**k) for k in (1, 2, 3)],
    ]


def test_hand_values():
    g, p = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[1.0, 2.5, 2.0]]])
    found = dict(zip(METRICS, depth_errors(g, p)[0].tolist(), strict=True))
    assert found["abs_rel"] == pytest.approx(0.25)
    assert found["sq_rel"] == pytest.approx(0.375)
    assert found["rmse"] == pytest.approx((4.25 / 3) ** 0.5)
    assert found["a1"] == pytest.approx(1 / 3)  # a ratio of 1.25 is not below 1.25


def test_metrics_are_per_image_with_mask_and_clip():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 7, 9, generator=g) * 100  # some beyond 80 m
    truth[torch.rand(truth.shape, generator=g) < 0.3] = 0
    prediction = (truth * torch.exp(0.3 * torch.randn(truth.shape, generator=g)) + 0.01) * 2
    rows = depth_errors(truth.double(), prediction.double())
    for row, t, p in zip(rows, truth.double(), prediction.double(), strict=True):
        assert row.tolist() == pytest.approx(reference(t.numpy(), p.numpy()), rel=1e-12)


def test_garg_crop_is_the_released_one():
    height, width = 375, 1242
    inside = garg_crop(height, width)
    crop = np.array([0.40810811 * height, 0.99189189 * height, 0.03594771 * width, 0.96405229 * width])
    top, bottom, left, right = crop.astype(np.int32)
    expected = np.zeros((height, width), bool)
    expected[top:bottom, left:right] = True
    assert np.array_equal(inside.numpy(), expected)
    truth = torch.full((1, height, width), 5.0)
    prediction = torch.where(inside, 5.0, 50.0)[None]
    assert depth_errors(truth, prediction, garg=True)[0, 0] == 0
    assert depth_errors(truth, prediction)[0, 0] > 1


def test_disparity():
    depth = disparity_to_depth(torch.tensor([[38.88, 0.0]]), 720.0, 0.54)
    assert depth[0, 0] == pytest.approx(10.0) and torch.isinf(depth[0, 1])
    # infinitely far is clipped to 80 m
    assert depth_errors(torch.tensor([[[10.0, 40.0]]]), depth[None])[0, 0] == pytest.approx(0.5)
    with pytest.raises(JostleError, match="disparity must be at least 0"):
        disparity_to_depth(torch.tensor([-1.0]), 720.0, 0.54)
    with pytest.raises(JostleError, match="focal and baseline must be above 0"):
        disparity_to_depth(torch.tensor([1.0]), 0.0, 0.54)


class Shade(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True)


def test_evaluate_depth():
    g = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(3):
        images = 0.2 + 0.6 * torch.rand(2, 3, 5, 6, generator=g)
        pairs.append((images, 8 / images.mean(1)))
    seen = []
    report = evaluate_depth(
        Shade(),
        torch.full((1, 3, 5, 6), 0.1),
        pairs,
        decode=lambda d: disparity_to_depth(d, 16.0, 0.5),
        callback=lambda *a: seen.append(a),
    )
    found = report.metrics()
    assert report.clean.shape == (6, 7) and [s[:2] for s in seen] == [(1, 3), (2, 3), (3, 3)]
    assert found["clean.abs_rel"] == pytest.approx(0, abs=1e-6)
    shade = torch.cat([images.mean(1) for images, _ in pairs])
    assert found["perturbed.abs_rel"] == pytest.approx(float((0.1 / (shade + 0.1)).mean()), rel=1e-5)
    assert found["gfr.a1"] == pytest.approx(float((shade + 0.1 >= 1.25 * shade).double().mean()), abs=1e-6)
    same = evaluate_depth(Shade(), torch.zeros(1, 3, 5, 6), [(x, x.mean(1)) for x, _ in pairs]).metrics()
    assert same["gfr.a1"] == 0 and same["agreement.rmse"] == 0


def test_far_predictions_stay_in_the_agreement():
    class Sky(nn.Module):
        def forward(self, x):
            return 100 + x

    report = evaluate_depth(
        Sky(), torch.zeros(1, 1, 2, 2), [(torch.rand(1, 1, 2, 2), torch.full((1, 2, 2), 9.0))]
    )
    assert report.metrics()["gfr.a1"] == 0


def test_bad_input_is_one_sentence():
    evaluate, errors = inspect.unwrap(evaluate_depth), inspect.unwrap(depth_errors)
    images, truth, delta = torch.rand(2, 1, 4, 4), torch.ones(2, 4, 4), torch.zeros(1, 1, 4, 4)
    with pytest.raises(JostleError, match="prediction must be at least 0 m"):
        errors(truth, -truth)
    with pytest.raises(JostleError, match="truth must be at least 0 m"):
        errors(truth * float("nan"), truth)
    with pytest.raises(JostleError, match="2 of 2 images hold none"):
        errors(0 * truth, truth)
    with pytest.raises(JostleError, match="one shape"):
        errors(truth, truth[:1])
    with pytest.raises(JostleError, match="output must have shape"):
        evaluate(nn.Flatten(), delta, [(images, truth)])
    with pytest.raises(JostleError, match="prediction's shape"):
        evaluate(Shade(), delta, [(images, truth[:, :2])])
    with pytest.raises(JostleError, match="none came"):
        evaluate(Shade(), delta, [])
