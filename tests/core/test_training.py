"""The training loop: it is the plain loop, it resumes exactly, it says what is wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jostle import JostleError
from jostle.core.training import Trainer, fabric_here, minibatches, on_fabric


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


OPTIMISERS: dict[str, Callable] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adam": lambda p: torch.optim.AdamW(p, 0.01),
}


def trainer(kind: str, clip: float | None = None) -> Trainer:
    model = net()
    optimiser = OPTIMISERS[kind](model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 40)
    return Trainer(model, optimiser, loss, schedule=schedule, clip=clip)


def batches(skip: int = 0):
    return minibatches(*data(), size=8, epochs=6, generator=torch.Generator().manual_seed(1), skip=skip)


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_it_is_the_plain_loop(kind: str, clip: float | None) -> None:
    fit = trainer(kind, clip)
    losses: list[float] = []
    fit.run(batches(), lambda t: losses.append(t.last))
    model = net()
    optimiser = OPTIMISERS[kind](model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 40)
    wanted = []
    for batch in batches():
        optimiser.zero_grad()
        value = loss(model, batch)
        value.backward()
        wanted.append(value.item())
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()
    assert losses == wanted and fit.step == len(wanted) == 42
    for ours, theirs in zip(fit.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_resumed_training_gives_the_same_bits(kind: str, tmp_path) -> None:
    whole = trainer(kind)
    whole.run(batches())
    first = trainer(kind)

    class Killed(Exception):
        pass

    def save(t: Trainer) -> None:
        if t.step == 17:
            torch.save(t.state_dict(), tmp_path / "at17.pt")
            raise Killed

    with pytest.raises(Killed):
        first.run(batches(), save)
    second = trainer(kind)
    second.load_state_dict(torch.load(tmp_path / "at17.pt", weights_only=True))
    second.run(batches(skip=second.step))
    assert second.step == whole.step and second.last == whole.last
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_with_its_step() -> None:
    fit = trainer("sgd")
    bad = (torch.full((2, 3), float("nan")), torch.zeros(2, 1))
    with pytest.raises(JostleError, match="the loss is nan at step 1"):
        fit.run([(torch.ones(2, 3), torch.ones(2, 1)), bad])


@pytest.mark.study
def test_with_fabric() -> None:
    fabric = pytest.importorskip("lightning.fabric")
    plain = trainer("sgd")
    plain.run(batches())
    runner = fabric.Fabric(accelerator="cpu", devices=1)
    runner.launch()
    with on_fabric(runner):
        fit = trainer("sgd")
    assert fabric_here() is None
    fit.run(batches())
    for ours, theirs in zip(fit.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert fit.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


def test_minibatches_shuffle_on_the_cpu_whatever_the_default_device() -> None:
    def order() -> list[list[int]]:
        draw = torch.Generator().manual_seed(0)
        return [b.tolist() for (b,) in minibatches(x, size=4, epochs=2, generator=draw)]

    x = torch.arange(10)
    wanted = order()
    with torch.device("meta"):
        assert order() == wanted


def test_minibatches_pass_over_everything_once_an_epoch() -> None:
    x = torch.arange(10)
    seen = list(minibatches(x, 2 * x, size=4, epochs=3, generator=torch.Generator().manual_seed(0)))
    assert [len(a) for a, _ in seen] == [4, 4, 2] * 3
    for epoch in range(3):
        part = torch.cat([a for a, _ in seen[3 * epoch : 3 * epoch + 3]])
        assert sorted(part.tolist()) == list(range(10))
    assert all(bool((b == 2 * a).all()) for a, b in seen)
    rest = list(minibatches(x, 2 * x, size=4, epochs=3, generator=torch.Generator().manual_seed(0), skip=4))
    torch.testing.assert_close(rest, seen[4:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trainer("sgd", clip=0.0), "clip must be above 0"),
        (
            lambda: next(minibatches(torch.ones(3), size=0, epochs=1, generator=torch.Generator())),
            "size must be",
        ),
        (
            lambda: next(
                minibatches(torch.ones(3), torch.ones(2), size=1, epochs=1, generator=torch.Generator())
            ),
            r"first axis, but lengths \[3, 2\] came",
        ),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(JostleError, match=message):
        make()


@pytest.mark.parametrize(("count", "wanted"), [(50, [8] * 12), (48, [8] * 12), (7, [])])
def test_the_smaller_last_batch_can_be_left_out(count: int, wanted: list[int]) -> None:
    def draw(**options):
        generator = torch.Generator().manual_seed(1)
        return [
            b for (b,) in minibatches(torch.arange(count), size=8, epochs=2, generator=generator, **options)
        ]

    found = draw(drop_last=True)
    assert [len(batch) for batch in found] == wanted
    kept = [batch for batch in draw() if len(batch) == 8]
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    # Going on after a stop counts the batches that are there.
    later = draw(drop_last=True, skip=3)
    assert all(torch.equal(a, b) for a, b in zip(found[3:], later, strict=True))
