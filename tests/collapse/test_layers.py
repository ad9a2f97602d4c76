"""Collapse by layer in real and odd networks, and the monitor that a training does not notice."""

import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jostle.collapse import Monitor, collect, measure, metrics
from jostle.core.errors import JostleError
from jostle.zoo import load_data
from tests.helpers import plain


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Convolution, tokens and dropout in one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.act(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(40, 1, 8, 8, generator=gen(1)), torch.arange(40) % 4


@pytest.mark.parametrize("passes", [1, 2])
def test_layers_are_those_of_the_features_in_memory(net: nn.Module, data, passes) -> None:
    found = measure(net, data, ("conv", "act"), passes=passes, batch=7)
    assert list(found.layers) == ["conv", "act", "features"]
    net.eval()
    with torch.no_grad():
        conv = net.conv(data[0])
        act = net.norm(conv).relu()
    for name, maps in (("conv", conv), ("act", act), ("features", act)):
        wanted = metrics(maps.mean((2, 3)), data[1])
        for key in ("nc1", "nc1_trace", "nc2", "cdnv"):
            assert getattr(found.layers[name], key) == pytest.approx(getattr(wanted, key), rel=1e-4)
        assert found.layers[name].pooling == "gap" and found.layers[name].passes == passes
    with torch.no_grad():
        logits = net(data[0])
    assert found.accuracy == float((logits.argmax(1) == data[1]).double().mean())
    head = metrics(act.mean((2, 3)), data[1], net.fc.weight, net.fc.bias)
    assert found.last.nc3 == pytest.approx(head.nc3, rel=1e-5)
    assert found.layers["conv"].nc3 is None
    if passes == 2:
        assert found.last.nc4 == head.nc4 and found.last.ncc == head.ncc


def test_flattened_maps_are_another_measurement(net: nn.Module, data) -> None:
    pooled, flat = (measure(net, data, ("conv",), pooling=p).layers["conv"] for p in ("gap", "flatten"))
    assert pooled.dim == 6 and flat.dim == 6 * 36 and flat.pooling == "flatten"
    assert pooled.nc1_trace != pytest.approx(flat.nc1_trace, rel=0.01)


@pytest.mark.study
def test_every_form_of_data_gives_the_same(net: nn.Module, data) -> None:
    wanted = measure(net, data).numbers()
    loader = DataLoader(TensorDataset(*data), batch_size=9, shuffle=True)
    batches = list(zip(data[0].split(11), data[1].split(11), strict=True))
    for other in (loader, batches):
        found = measure(net, other).numbers()
        assert found["features"]["nc1"] == pytest.approx(wanted["features"]["nc1"], rel=1e-5)
    digits = load_data("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    images = torch.stack([digits[i][0] for i in range(len(digits))])
    a, b = measure(plain, digits), measure(plain, (images, digits.labels))
    assert a.last.nc1 == pytest.approx(b.last.nc1, rel=1e-6) and a.last.samples == 1797


def test_the_model_is_left_as_it_was(net: nn.Module, data) -> None:
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    measure(net, DataLoader(TensorDataset(*data), batch_size=8, shuffle=True))
    assert net.training and net.fc.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.conv._forward_hooks and not net.fc._forward_pre_hooks
    with pytest.raises(JostleError):
        measure(net, (torch.full((4, 1, 8, 8), math.nan), torch.arange(4)))
    assert net.training and not net.conv._forward_hooks


def test_tokens_are_averaged() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(5, 5)
            self.head = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.mix(x)[:, 0])

    model, x = Tokens(), torch.rand(12, 7, 5, generator=gen(0))
    found = measure(model, (x, torch.arange(12) % 3), ("mix",)).layers["mix"]
    with torch.no_grad():
        wanted = metrics(model.mix(x).mean(1), torch.arange(12) % 3)
    assert found.nc1 == pytest.approx(wanted.nc1, rel=1e-4)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_wide_head_is_cut_to_the_classes_there(data, passes) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1000))
    with torch.no_grad():
        model[3].bias[:4] += 10.0  # the head knows the first four of its classes
    found = measure(model, data, passes=passes)
    with torch.no_grad():
        h = model[:3](data[0])
    wanted = metrics(h, data[1], model[3].weight[:4], model[3].bias[:4])
    assert found.last.K == 4 and found.last.nc3 == pytest.approx(wanted.nc3, rel=1e-5)
    assert found.last.nc4 == (wanted.nc4 if passes == 2 else None)


@pytest.mark.parametrize("passes", [1, 2])
def test_labels_that_do_not_number_the_outputs_of_a_head_are_noticed(data, passes) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1000))
    with torch.no_grad():
        model[3].bias[500:504] += 10.0  # its classes are others than these labels'
    with pytest.warns(UserWarning, match="100% of its predictions are none of these"):
        found = measure(model, data, passes=passes)
    assert found.last.nc3 is None and found.last.nc3_of is None and found.last.nc4 is None
    with torch.no_grad():
        assert found.last.nc1 == pytest.approx(metrics(model[:3](data[0]), data[1]).nc1, rel=1e-5)


def test_warnings_come_once(net: nn.Module) -> None:
    x, y = torch.rand(12, 1, 8, 8, generator=gen(2)), torch.arange(12) % 2
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        measure(net, (x, y), ("conv", "act"))
    assert sum("K = 2" in str(item.message) for item in heard) == 1


def test_collect_gives_what_was_measured(net: nn.Module, data) -> None:
    features, labels = collect(net, data, batch=7)
    assert metrics(features, labels).nc1 == pytest.approx(measure(net, data).last.nc1, rel=1e-6)
    assert collect(net, data, "conv")[0].shape == (40, 6)


def test_what_cannot_be_measured_is_refused(net: nn.Module, data) -> None:
    x, y = data
    cases = [
        ((net, data, ("nowhere",)), {}, "no layer 'nowhere'"),
        ((net, []), {}, "it is empty"),
        ((net, [x]), {}, "batches of"),
        ((net, iter([data])), {}, "more than once"),
        ((net, (x, y[:3])), {}, "equally long"),
        ((net, data), {"passes": 3}, "passes must be 1 or 2"),
        ((net, data), {"pooling": "max"}, "pooling must be"),
        ((net, (x, torch.where(y == 2, 0, y))), {}, "class 2 has none"),
        ((nn.Conv2d(1, 3, 3), data), {}, "no linear layer for a head"),
    ]
    for arguments, options, sentence in cases:
        with pytest.raises(JostleError, match=sentence):
            plain(measure)(*arguments, **options)


def test_saved_with_its_figures(net: nn.Module, data, tmp_path) -> None:
    found = measure(net, data)
    found.save(tmp_path / "user.json")
    kept = json.loads((tmp_path / "user.json").read_text())
    assert kept["layers"]["features"]["nc1"] == found.last.nc1
    for name in ("geometry", "layers"):
        assert (tmp_path / f"user-{name}.png").stat().st_size > 5000
    with pytest.raises(JostleError, match=r"must end in \.json"):
        found.save(tmp_path / "user.txt")


def train(monitored: bool) -> tuple[dict[str, torch.Tensor], Monitor | None]:
    torch.manual_seed(3)
    x, y = torch.rand(40, 1, 8, 8, generator=gen(1)), torch.arange(40) % 4
    model = Net().train()
    loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, loader, every=2) if monitored else None
    for _ in range(4):
        for images, labels in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()
        if monitor is not None:
            monitor()
    return model.state_dict(), monitor


def test_training_does_not_notice_the_monitor(tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        (alone, _), (watched, monitor) = train(False), train(True)
    assert all(torch.equal(alone[k], watched[k]) for k in alone)
    assert monitor is not None and monitor.times == [2, 4] and len(monitor.curve("nc2")) == 2
    monitor.save(tmp_path / "m.json")
    rows = json.loads((tmp_path / "m.json").read_text())
    assert [row["features"]["nc1"] for row in rows] == monitor.curve("nc1")
    with pytest.raises(JostleError, match="every must be at least 1"):
        Monitor(Net(), [], every=0)


def test_on_a_trained_classifier_collapse_grows_with_depth(digits_model) -> None:
    model, x, y = digits_model
    found = measure(model, (x, y))
    curve = found.curve("nc1")
    assert curve[-1] < curve[0] and found.accuracy > 0.9 and found.last.ncc > 0.8
