"""The sharpest direction against the whole Hessian of small networks, where it can be had."""

import pytest
import torch
from federated.problems import clients, net
from helpers import plain
from torch import nn

from jostle import JostleError
from jostle.federated import loss_along, sharpness

ENTROPY = nn.functional.cross_entropy
X, Y = (torch.cat(part) for part in zip(*clients((9, 14, 5)), strict=True))


def hessian(model: nn.Module, loss, x=X, y=Y) -> torch.Tensor:
    """All of it."""
    parameters = list(model.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach()

    def value(v):
        parts = dict(
            zip(dict(model.named_parameters()), v.split([p.numel() for p in parameters]), strict=True)
        )
        shaped = {name: part.view(model.get_parameter(name).shape) for name, part in parts.items()}
        return loss(torch.func.functional_call(model, shaped, (x,)), y)

    return torch.autograd.functional.hessian(value, start)


@pytest.mark.study
def test_it_is_the_largest_eigenvalue(monkeypatch) -> None:
    model, before = net(), nn.utils.parameters_to_vector(net().parameters())
    values, vectors = torch.linalg.eigh(hessian(model, ENTROPY))
    monkeypatch.setattr("jostle.federated.flatness._BATCH", 10)  # batches of unequal size
    found = sharpness(model, ENTROPY, X, Y, tolerance=1e-10)
    assert found.value == pytest.approx(float(values[-1]), rel=1e-8)
    assert float((found.direction @ vectors[:, -1]).abs()) == pytest.approx(1.0, abs=1e-8)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before) and model.training
    rough = sharpness(model, ENTROPY, X, Y, tolerance=1e-2, seed=4)
    assert rough.value == pytest.approx(float(values[-1]), rel=1e-2)


def test_single_precision_and_frozen_parameters() -> None:
    model = net()
    model[0].requires_grad_(False)
    wanted = torch.linalg.eigvalsh(hessian(model, ENTROPY)[-27:, -27:])[-1]  # of the last layer: 8*3 + 3
    found = sharpness(model.float(), ENTROPY, X.float(), Y, tolerance=1e-6)
    assert found.value == pytest.approx(float(wanted), rel=1e-4)
    assert found.direction.shape == (27,) and found.direction.dtype == torch.float32


def test_convolutions_with_group_normalisation() -> None:
    """The layers of the paper's network, whose gradients cannot be differentiated forwards."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x = torch.randn(12, 1, 6, 6, dtype=torch.float64)
    wanted = torch.linalg.eigvalsh(hessian(model, ENTROPY, x, Y[:12]))[-1]
    assert sharpness(model, ENTROPY, x, Y[:12], tolerance=1e-8).value == pytest.approx(
        float(wanted), rel=1e-7
    )


def test_the_loss_along_it_bends_as_the_eigenvalue_says() -> None:
    model, r = net(), 1e-3
    found = sharpness(model, ENTROPY, X, Y, tolerance=1e-10)
    left, here, right = loss_along(model, ENTROPY, X, Y, found.direction, (-r, 0.0, r))
    assert here == pytest.approx(float(ENTROPY(model(X), Y)), abs=1e-12)
    assert (left + right - 2 * here) / r**2 == pytest.approx(found.value, rel=1e-4)
    assert torch.equal(
        nn.utils.parameters_to_vector(model.parameters()), nn.utils.parameters_to_vector(net().parameters())
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(x=X[:0], y=Y[:0]), "x must hold at least one sample"),
        (dict(x=X[:3]), "x and y must be equally many, but 3 and 28 came"),
        (dict(tolerance=0.0), r"tolerance must lie in \(0, 1\), but 0.0 came"),
        (dict(model=net().requires_grad_(False)), "all are frozen"),
        (dict(model=nn.Linear(1, 1, bias=False)), "at least 2 trainable parameters, but 1 came"),
    ],
)
def test_what_is_refused(change, sentence) -> None:
    given = {"model": net(), "x": X, "y": Y, "tolerance": 1e-3, **change}
    with pytest.raises(JostleError, match=sentence):
        plain(sharpness)(given["model"], ENTROPY, given["x"], given["y"], tolerance=given["tolerance"])


def test_broken_networks_and_directions_are_refused() -> None:
    broken = net()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(JostleError, match="finite parameters"):
        sharpness(broken, ENTROPY, X, Y)
    with pytest.raises(JostleError, match="the sharpest direction was not found"):  # linear: there is none
        sharpness(net()[0], lambda output, y: output.mean(), X, Y)
    with pytest.raises(JostleError, match=r"direction must be \(75,\), but \(3,\) came"):
        plain(loss_along)(net(), ENTROPY, X, Y, torch.ones(3), [0.0])
