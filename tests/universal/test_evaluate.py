import pytest
import torch
from helpers import plain
from torch import nn

from jostle.core.errors import JostleError
from jostle.universal import UniversalPerturbation
from jostle.universal.evaluate import Fooling, data_curve, evaluate, fooling_rate, same_images, transfer
from jostle.universal.score import FoolingScore, check_images, image_batches
from jostle.zoo import load_data


class Threshold(nn.Module):
    """Class 1 where the first pixel is above a half."""

    def forward(self, x):
        above = (x[:, 0, 0, 0] > 0.5).float()
        return torch.stack([0.5 - above, above - 0.5], dim=1)


class Constant(nn.Module):
    def forward(self, x):
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)


@pytest.fixture
def images():
    return torch.linspace(0.05, 0.95, 19).reshape(19, 1, 1, 1).expand(19, 1, 2, 2).contiguous()


def test_no_perturbation_fools_nothing(images):
    found = evaluate(Threshold(), torch.zeros(1, 1, 2, 2), images)["delta"]
    assert found.rate == 0 and found.count == 19 and found.interval[0] == pytest.approx(0, abs=1e-12)


def test_the_counted_share_is_found(images):
    # +0.2 moves 0.35, 0.40, 0.45 and 0.50 over the threshold.
    delta = torch.full((1, 1, 2, 2), 0.2)
    expected = int(((images[:, 0, 0, 0] <= 0.5) & (images[:, 0, 0, 0] + 0.2 > 0.5)).sum())
    found = evaluate(Threshold(), {"up": UniversalPerturbation(delta), "none": 0 * delta}, images)
    assert round(found["up"].rate * 19) == expected == 4
    assert found["none"].rate == 0 and found["up"].dominant_label == 1


def test_fooling_counts_against_the_clean_prediction_and_not_the_label():
    clean, perturbed, labels = (
        torch.tensor([0, 0, 1, 2]),
        torch.tensor([0, 3, 3, 2]),
        torch.tensor([5, 0, 1, 2]),
    )
    found = Fooling.of(clean, perturbed, labels)
    assert (found.rate, found.clean_top1, found.perturbed_top1) == (0.5, 0.75, 0.25)
    assert (found.dominant_label, found.dominant_share, found.distinct_labels) == (3, 0.5, 3)


def test_a_constant_model_is_never_fooled_and_warned_of(images):
    with pytest.warns(UserWarning, match="same class"):
        assert fooling_rate(Constant(), images, torch.full((1, 1, 2, 2), 0.3)) == 0


def test_the_last_batch_counts(images):
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(8)]
    assert evaluate(Threshold(), torch.zeros(1, 1, 2, 2), batches)["delta"].count == 19


def test_transfer_has_a_row_a_model(images):
    delta = torch.full((1, 1, 2, 2), 0.2)
    with pytest.warns(UserWarning, match="same class"):
        matrix = transfer({"a": Threshold(), "b": Constant()}, {"d": UniversalPerturbation(delta)}, images)
    assert matrix["a"]["d"].rate > 0 and matrix["b"]["d"].rate == 0


def test_data_curve_hands_over_the_first_images(images):
    seen = []

    def craft_from(pool):
        seen.append(len(pool))
        return torch.full((1, 1, 2, 2), 0.05 * len(pool))

    found = data_curve(craft_from, Threshold(), images[:6], [2, 6], images[6:])
    assert seen == [2, 6] and found[6].rate >= found[2].rate


def test_the_model_is_left_as_it_was(images):
    model = Threshold().train()
    evaluate(model, torch.zeros(1, 1, 2, 2), images)
    assert model.training


@pytest.mark.study
def test_score_gives_up_on_what_cannot_win(digits_model):
    model, images, _ = digits_model
    score = FoolingScore(model, images, (1, 28, 28))
    whole = score(torch.full((1, 1, 28, 28), 0.2))
    assert whole == pytest.approx(fooling_rate(model, images, torch.full((1, 1, 28, 28), 0.2)))
    hopeless = score(torch.zeros(1, 1, 28, 28), beat=0.9)
    assert hopeless == 0.0


def test_same_images_are_seen_through_other_batches(images):
    assert same_images(images, list(images.split(3)))
    assert not same_images(images, images.flip(0))


def test_zoo_images_are_taken_as_they_are(digits_model):
    model, _, _ = digits_model
    data = load_data("mnist5k").subset(range(0, 5000, 250))
    found = evaluate(model, torch.zeros(1, 1, 28, 28), data)["delta"]
    assert found.count == 20 and found.clean_top1 is not None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.zeros(2, 8, 8, 3), r"channels last"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.full((2, 3, 4, 4), float("nan")), "NaN"),
        (torch.full((2, 3, 4, 4), 200.0), r"must lie in \[0, 1\]"),
        (torch.full((2, 3, 4, 4), -1.0), "normalisation outside"),
    ],
)
def test_what_is_no_image_is_refused(wrong, sentence):
    with pytest.raises(JostleError, match=sentence):
        plain(check_images)(wrong)


def test_empty_and_strange_data_are_refused():
    with pytest.raises(JostleError, match="at least one image"):
        list(image_batches([]))
    with pytest.raises(JostleError, match="but int came"):
        list(image_batches(3))


def test_nan_of_the_model_is_named(images):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), float("nan"))

    with pytest.raises(JostleError, match="output holds NaN"):
        evaluate(Broken(), torch.zeros(1, 1, 2, 2), images)
