"""The three clip modes: when they agree, when they differ, and which is free of the origin."""

import pytest
import torch
from federated.quadratics import Problem, local
from torch import nn

from jostle.federated import FedAvg, Federation, FedSpeed, Local

PROBLEM = Problem()


def path(start, clip_mode, shift=None, max_norm=1.0):
    problem = Problem()
    if shift is not None:
        for i, (x, y) in enumerate(problem.clients):
            moved = x.clone()
            moved[0, :, -1] += shift
            problem.clients[i] = (moved, y)
        start = start + shift
    steps = local(3, clip_mode=clip_mode, max_norm=max_norm)
    course = problem.federation(start).start(FedSpeed(prox_mu=1.0), steps)
    models = []
    for _ in range(4):
        course.advance()
        models.append(course.server.x)
    return torch.stack(models)


@pytest.mark.filterwarnings("ignore:the mean correction is longer")
def test_clipping_the_loss_alone_does_not_know_the_origin() -> None:
    shift = torch.tensor([3.0, -2.0, 5.0, 1.0], dtype=torch.float64)
    loss, official = (
        (path(PROBLEM.start, mode, shift) - shift - path(PROBLEM.start, mode)).abs().max()
        for mode in ("loss", "official")
    )
    assert loss < 1e-12 and official > 0.1


def test_long_models_are_shrunk_by_the_official_clip() -> None:
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(64, 10)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(60)

    def move(mode):
        fed = Federation(model, nn.functional.cross_entropy, [(x, torch.arange(40) % 10)], fraction=1.0)
        assert fed.flat.D == 650
        course = fed.start(FedSpeed(prox_mu=1.0), Local(clip_mode=mode, epochs=1, batch_size=20))
        course.advance()
        return course.server.x

    assert (move("official") - move(None)).norm() > 1


def test_short_gradients_are_left_alone() -> None:
    one, two, three = (path(PROBLEM.start, mode, max_norm=1e6) for mode in ("loss", "official", None))
    assert (one - three).abs().max() < 1e-13 and (two - three).abs().max() < 1e-13


@pytest.mark.parametrize("mode", ["loss", "official"])
def test_a_clipped_step_has_its_length(mode) -> None:
    course = PROBLEM.federation().start(FedAvg(), local(1, 1.0, clip_mode=mode, max_norm=0.01))
    course.advance()
    assert course.history[0]["divergence"] ** 0.5 == pytest.approx(0.01, rel=1e-3)
