import inspect
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal.segmentation import (
    Confusion,
    bootstrap,
    class_accuracy,
    evaluate_segmentation,
    gfr,
    iou,
    mean_iou,
    pixel_accuracy,
    weighted_iou,
)


def naive(truth, prediction, classes, ignore=255):
    h = np.zeros((classes, classes), int)
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != ignore:
            h[t, p] += 1
    return h


@pytest.fixture
def maps():
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(5, (6, 9, 8), generator=g)
    truth[torch.rand(truth.shape, generator=g) < 0.2] = 255
    return truth, torch.randint(5, truth.shape, generator=g)


def test_metrics_equal_a_naive_loop(maps):
    truth, prediction = maps
    tally = Confusion(7)
    for half in (slice(0, 2), slice(2, 6)):
        tally.add(truth[half], prediction[half])
    h = naive(truth, prediction, 7)
    assert np.array_equal(tally.counts.numpy(), h)
    assert np.array_equal(tally.per_image[3].numpy(), naive(truth[3], prediction[3], 7))
    each = [h[c, c] / (h[c].sum() + h[:, c].sum() - h[c, c]) for c in range(5)]
    assert iou(tally.counts)[:5].tolist() == pytest.approx(each)
    assert torch.isnan(iou(tally.counts)[5:]).all()
    assert mean_iou(tally.counts) == pytest.approx(np.mean(each))
    assert mean_iou(tally.counts, absent="zero") == pytest.approx(np.sum(each) / 7)
    assert pixel_accuracy(tally.counts) == pytest.approx(np.trace(h) / h.sum())
    assert class_accuracy(tally.counts) == pytest.approx(np.mean([h[c, c] / h[c].sum() for c in range(5)]))
    assert weighted_iou(tally.counts) == pytest.approx(sum(h[c].sum() * each[c] for c in range(5)) / h.sum())


def test_metrics_take_many_matrices_at_once(maps):
    tally = Confusion(5)
    tally.add(*maps)
    for metric in (pixel_accuracy, class_accuracy, mean_iou, weighted_iou):
        assert metric(tally.per_image).tolist() == pytest.approx(
            [float(metric(matrix)) for matrix in tally.per_image]
        )


@pytest.mark.parametrize(
    "truth, prediction, sentence",
    [
        ([[0, 5]], [[0, 1]], "truth must hold labels of 0..4 or 255"),
        ([[0, 1]], [[0, 7]], "prediction must hold labels"),
        ([[0, -1]], [[0, 1]], "but -1..0 came"),
    ],
)
def test_labels_beyond_the_classes_are_refused(truth, prediction, sentence):
    with pytest.raises(JostleError, match=sentence):
        Confusion(5).add(torch.tensor(truth), torch.tensor(prediction))


def test_gfr():
    assert gfr(1.0) == 0 and gfr(0.0) == 1 and gfr(30.0, best=40.0) == 0.25
    with pytest.raises(JostleError, match="best must be above 0"):
        gfr(0.5, best=0.0)


class Pixel(nn.Module):
    """Class 0, 1 or 2 by the pixel's brightness."""

    def forward(self, x):
        x = x[:, :1]
        return OrderedDict(out=-torch.cat([(x - at).abs() for at in (0.0, 0.5, 1.0)], 1), aux=x)


def batches(count=3):
    g = torch.Generator().manual_seed(1)
    pairs = []
    for _ in range(count):
        masks = torch.randint(3, (2, 6, 6), generator=g)
        pairs.append((masks[:, None] * 0.5, masks))
    return pairs


def test_zero_perturbation_changes_nothing():
    report = evaluate_segmentation(Pixel(), torch.zeros(1, 1, 6, 6), batches()).metrics()
    assert report["clean.miou"] == 1 and report["agreement.miou"] == 1
    assert report["gfr.miou"] == 0 and report["gfr.pixel"] == 0


def test_a_known_share_of_pixels_changes():
    delta = torch.zeros(1, 1, 6, 6)
    delta[..., :3] = 0.3  # moves the brightness of half of the pixels over 0.25 or 0.75, but not beyond 1
    pairs = batches()
    report = evaluate_segmentation(Pixel(), delta, pairs)
    below = sum(int((masks[..., :3] < 2).sum()) for _, masks in pairs)
    total = sum(masks.numel() for _, masks in pairs)
    assert report.metrics()["gfr.pixel"] == pytest.approx(below / total)
    assert report.metrics()["perturbed.pixel"] == pytest.approx(1 - below / total)


def test_the_ignored_label_and_the_clamp():
    images, masks = batches(1)[0]
    masks[:, 0] = 255
    seen = []
    report = evaluate_segmentation(
        Pixel(), torch.full((1, 1, 6, 6), 0.6), [(images, masks)], callback=lambda *a: seen.append(a)
    )
    assert report.clean.sum() == 2 * 30 and report.agreement.sum() == 2 * 36
    assert seen[0][:2] == (1, 1) and seen[0][2].startswith("mIoU")

    class Over(nn.Module):
        def forward(self, x):
            return torch.cat([torch.full_like(x, 1.05), x], 1)

    delta = torch.full((1, 1, 6, 6), 0.2)
    ones = [(torch.ones(1, 1, 6, 6), torch.zeros(1, 6, 6, dtype=torch.long))]
    assert evaluate_segmentation(Over(), delta, ones).metrics()["gfr.pixel"] == 0
    assert evaluate_segmentation(Over(), delta, ones, clamp=False).metrics()["gfr.pixel"] == 1


def test_bad_input_is_one_sentence_and_the_model_is_given_back():
    evaluate = inspect.unwrap(evaluate_segmentation)
    delta, pairs = torch.zeros(1, 1, 6, 6), batches(1)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).train()
    with pytest.raises(JostleError, match="is this a classifier"):
        evaluate(classifier, delta, pairs)
    assert classifier.training
    with pytest.raises(JostleError, match=r"delta must have shape \(1, 1, 6, 6\)"):
        evaluate(Pixel(), torch.zeros(1, 1, 5, 6), pairs)
    with pytest.raises(JostleError, match="truth must hold labels"):
        evaluate(Pixel(), delta, [(pairs[0][0], pairs[0][1] + 1)])
    with pytest.raises(JostleError, match="masks must have the prediction's size"):
        evaluate(Pixel(), delta, [(pairs[0][0], pairs[0][1][:, :5])])
    with pytest.raises(JostleError, match="none came"):
        evaluate(Pixel(), delta, [])
    with pytest.raises(JostleError, match="absent must be"):
        inspect.unwrap(mean_iou)(torch.ones(2, 2), absent="drop")


def test_bootstrap_covers_the_spread_of_images():
    g = torch.Generator().manual_seed(0)
    right = torch.randint(60, 100, (200,), generator=g)
    counts = torch.zeros(200, 2, 2, dtype=torch.long)
    counts[:, 0, 0], counts[:, 0, 1] = right, 100 - right
    low, high = bootstrap(counts, torch.Generator().manual_seed(1), metric=pixel_accuracy, draws=2000)
    mean, error = float(right.double().mean()) / 100, float(right.double().std()) / 100 / 200**0.5
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


@pytest.mark.study
@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large", "deeplabv3_resnet50"])
def test_torchvision_segmenters_fit(name):
    from torchvision.models import segmentation

    torch.manual_seed(0)
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=4)
    g = torch.Generator().manual_seed(0)
    images, masks = torch.rand(2, 3, 64, 64, generator=g), torch.randint(4, (2, 64, 64), generator=g)
    report = evaluate_segmentation(model, torch.zeros(1, 3, 64, 64), [(images, masks)])
    assert report.metrics()["agreement.pixel"] == 1
    with torch.no_grad():
        expected = model.eval()(images)["out"].argmax(1)
    assert report.clean.sum(0).sum(0).tolist() == expected.flatten().bincount(minlength=4).tolist()
