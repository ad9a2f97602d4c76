"""Paired training: four streams of randomness, the split, the inner ascent, and what is refused."""

import dataclasses

import pytest
import torch
from torch import nn

from jostle import JostleError
from jostle.style import (
    METHODS,
    AdvStyle,
    Domain,
    Method,
    Protocol,
    dg_benchmark,
    insert,
    style_layers,
    summarise,
    trial,
)
from jostle.style.protocol import fit, split, stream
from tests.helpers import plain

PLACES = ("0",)


def domain(seed, shift=0.0, count=40):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 6, 6, generator=generator) + shift
    images[:, :, :3] += 2 * labels[:, None, None, None]
    return Domain(images, labels)


DOMAINS = {"a": domain(0), "b": domain(1, 0.5), "c": domain(2, -0.5)}
SHORT = Protocol(epochs=2, batch=8, lr=0.05)


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 2)
    )


# Colours and ResNets have tests of their own.
@pytest.mark.study
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"jitter", "grayscale", "advstyle-early"}))
def test_every_method_runs_and_repeats_itself(method):
    first, model = trial(build, DOMAINS, ["a"], ["b", "c"], method, 3, SHORT, PLACES)
    again, _ = trial(build, DOMAINS, ["a"], ["b", "c"], method, 3, SHORT, PLACES)
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(again, seconds=0.0)
    assert set(first.total) == {"b", "c"} and 0 <= first.validation <= 100 and not model.training
    assert len(first.history) == 2
    learns = METHODS[method].kind == "advstyle"
    assert ("gap" in first.history[-1]) == learns and ("0" in first.history[-1]["scales"]) == learns


@pytest.mark.parametrize("method", ["jitter", "grayscale"])
def test_methods_that_change_colours(method):
    coloured = {name: Domain(d.images.sigmoid().repeat(1, 3, 1, 1), d.labels) for name, d in DOMAINS.items()}

    def made():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))

    first, model = trial(made, coloured, ["a"], ["b"], method, 3, SHORT, PLACES)
    again, _ = trial(made, coloured, ["a"], ["b"], method, 3, SHORT, PLACES)
    plain_run, other = trial(made, coloured, ["a"], ["b"], "erm", 3, SHORT, PLACES)
    assert first.correct == again.correct and not torch.equal(model[0].weight, other[0].weight)
    with pytest.raises(JostleError, match="three channels"):
        trial(build, DOMAINS, ["a"], ["b"], method, 0, SHORT, PLACES)


def test_a_method_has_places_and_a_protocol_of_its_own():
    table = {"one": Method("advstyle", {"probs": (0.0, 1.0, 0.0)}, ("2",), {"ascent": "inner", "epochs": 1})}
    record, model = trial(build, DOMAINS, ["a"], ["b"], "one", 0, SHORT, PLACES, table=table)
    assert len(record.history) == 1 and list(style_layers(model)) == ["2"]
    assert int(style_layers(model)["2"].n_adv) == 5 * 4  # batches of 36 images; three ascents and a descent


def test_methods_see_the_same_batches_and_the_same_weights():
    seen = {}
    for method in ("erm", "dsu", "advstyle-lambda0"):
        inputs = []

        def made(inputs=inputs):
            net = build()
            net.register_forward_pre_hook(lambda m, i: inputs.append(i[0].clone()) if m.training else None)
            inputs.append(net[0].weight.detach().clone())
            return net

        trial(made, DOMAINS, ["a"], ["b"], method, 0, SHORT, PLACES)
        seen[method] = inputs
    for inputs in seen.values():
        assert all(torch.equal(a, b) for a, b in zip(inputs, seen["erm"], strict=True))


def test_streams_are_apart():
    names = ("order", "noise", "augmentation", "initialisation")
    draws = [torch.rand(1, generator=stream(seed, name)).item() for seed in (0, 1) for name in names]
    assert len(set(draws)) == 8


def test_torchs_own_stream_is_handed_back():
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    trial(build, DOMAINS, ["a"], ["b"], "dsu", 0, SHORT, PLACES)
    assert torch.equal(torch.rand(3), wanted)


def test_the_split_is_stratified_and_complete():
    labels = torch.tensor([0] * 30 + [1] * 20)
    train, held = split(labels, 0.1, seed=1)
    assert sorted(torch.cat([train, held]).tolist()) == list(range(50))
    assert labels[held].bincount().tolist() == [3, 2]


def test_inner_ascent_moves_the_scales_by_climbing_only():
    torch.manual_seed(0)
    net = build()
    handle = insert(net, ["0"], example=DOMAINS["a"].images[:2], probs=(0.0, 1.0, 0.0), lam=10.0)
    inner = Protocol(epochs=1, batch=20, lr=0.01, ascent="inner", validation=0.0)
    fit(net, DOMAINS["a"], inner)
    layer = handle.layers["0"]
    assert isinstance(layer, AdvStyle) and int(layer.n_adv) == 2 * 4  # batches; ascents and a descent


def test_selection_on_the_sources():
    record, _ = trial(
        build, DOMAINS, ["a"], ["b"], "erm", 0, dataclasses.replace(SHORT, selection="source_val"), PLACES
    )
    last, _ = trial(build, DOMAINS, ["a"], ["b"], "erm", 0, SHORT, PLACES)
    assert record.validation >= last.validation


@pytest.mark.study
def test_leave_one_out_and_single_source():
    rows = dg_benchmark(build, DOMAINS, ("erm", "dsu"), SHORT, seeds=(0,), at=PLACES)
    assert [row.sources for row in rows if row.method == "erm"] == [("b", "c"), ("a", "c"), ("a", "b")]
    rows = dg_benchmark(build, DOMAINS, ("erm", "dsu"), SHORT, seeds=(0, 1), sources=("a",), at=PLACES)
    assert set(summarise(rows)["dsu"].targets) == {"b", "c"}


def test_scales_that_explode_stop_the_run():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    insert(net, ["0"], example=DOMAINS["a"].images[:2], probs=(0.0, 1.0, 0.0), lam=1e30)
    with pytest.raises(JostleError, match=r"not finite|the loss is"):
        fit(net, DOMAINS["a"], Protocol(epochs=2, batch=8, lr=1.0))
    assert style_layers(net)


def test_what_means_nothing_is_refused():
    one = {**DOMAINS, "single": Domain(torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.long))}
    empty = {**DOMAINS, "empty": Domain(torch.rand(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))}
    for domains, sources, targets, match in [
        (DOMAINS, ["a"], ["a", "b"], "both source and target"),
        (DOMAINS, ["z"], ["b"], "one of a, b, c"),
        (one, ["single"], ["b"], "single class"),
        (empty, ["a"], ["empty"], "empty"),
    ]:
        with pytest.raises(JostleError, match=match):
            plain(trial)(build, domains, sources, targets, "erm", 0, SHORT, PLACES)
    with pytest.raises(JostleError, match="method"):
        trial(build, DOMAINS, ["a"], ["b"], "magic", 0, SHORT, PLACES)
    with pytest.raises(JostleError, match="source_val"):
        Protocol(selection="source_val", validation=0.0)
