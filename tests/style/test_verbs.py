"""The verbs, through the functions that the command line calls."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jostle import JostleError
from jostle.style import ablate, attack, bench, persons, report, retrieve, train
from jostle.style.domains import load_domains
from jostle.zoo import load_data


class Net(nn.Sequential):
    input_shape = (1, 8, 8)

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))


@pytest.mark.study
def test_train_attack_and_report(tmp_path):
    digits = load_data("digits").subset(range(600))
    net = Net()
    result = train(net, digits, at=("1",), epochs=3, lr=0.05, mirror=False, keep_layers=True)
    assert result.accuracy > 60 and "1" in result.scales
    result.save(tmp_path / "w.safetensors")
    rows = report(tmp_path / "w.safetensors")
    assert rows["1"]["n_adv"] > 0 and rows["1"]["mean_mu"] == pytest.approx(result.scales["1"]["mean_mu"])
    curve = attack(net, digits, "1", radii=(0.0, 2.0, 8.0), images=40, steps=4)
    assert curve.accuracy[0] > 60 and curve.accuracy[-1] < curve.accuracy[0]
    curve.save(tmp_path / "curve.json")
    plain = train(Net(), digits, kind="dsu", at=("1",), epochs=1)
    plain.save(tmp_path / "plain.safetensors")
    assert set(plain.state) == set(Net().state_dict())
    with pytest.raises(JostleError, match="no AdvStyle"):
        report(tmp_path / "plain.safetensors")


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 30, (8, 8, 3))
    Image.fromarray((value * 60 + noise).astype(np.uint8)).save(path)


def test_retrieval_from_folders_named_as_market_is(tmp_path):
    for person in (1, 2, 3):
        paint(tmp_path / "query" / "all" / f"{person:04d}_c1s1_000001_00.png", person)
        for camera in (1, 2):
            paint(tmp_path / "gallery" / "all" / f"{person:04d}_c{camera}s1_000002_00.png", person)
    paint(tmp_path / "gallery" / "all" / "-1_c1s1_000001_00.png", 1)
    gallery = load_data(tmp_path / "gallery", size=8)
    ids, cameras = persons(gallery)
    assert sorted(ids.tolist()) == [-1, 1, 1, 2, 2, 3, 3] and set(cameras.tolist()) == {1, 2}
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = retrieve(model, load_data(tmp_path / "query", size=8), gallery, layer="0")
    assert found.queries == 3 and 0 < found.mean_ap <= 100
    found.save(tmp_path / "found.json")
    with pytest.raises(JostleError, match="files"):
        persons(load_data("digits"))


def test_domains_must_share_their_classes(tmp_path):
    for domain, kinds in (("art", "ab"), ("photo", "ac")):
        for kind in kinds:
            paint(tmp_path / domain / kind / "0.png", 1)
    with pytest.raises(JostleError, match="do not share the class b, c"):
        load_domains(str(tmp_path), ("art", "photo"), size=8)
    assert load_domains(str(tmp_path), ("art",), size=4)["art"].images.shape == (2, 3, 4, 4)


NETWORK = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7))
"""


@pytest.fixture
def two_domains(tmp_path):
    for domain in ("art", "photo"):
        for kind, value in (("a", 1), ("b", 3)):
            for i in range(6):
                paint(tmp_path / "data" / domain / kind / f"{i}.png", value)
    (tmp_path / "net.py").write_text(NETWORK)
    return {
        "data": str(tmp_path / "data"), "domains": ("art", "photo"), "network": f"{tmp_path}/net.py:build",
        "at": ("1",), "seeds": 2, "epochs": 2, "batch": 4, "lr": 0.01, "size": 8, "device": "cpu",
    }  # fmt: skip


@pytest.mark.study
def test_bench_pairs_methods_on_your_own_domains(two_domains, tmp_path):
    found = bench(methods=("erm", "jitter", "direction"), **two_domains)
    assert list(found.methods) == ["erm", "jitter", "direction"]
    assert found.methods["erm"]["difference"]["mean"] == 0 and found.methods["erm"]["macro"]["count"] == 2
    assert found.numbers()["erm"].endswith("+0.0 [+0.0, +0.0], above in 0 of 2 seeds")
    found.save(tmp_path / "bench.json")
    with pytest.raises(JostleError, match="magic"):
        bench(methods=("erm", "magic"), **two_domains)


@pytest.mark.study
def test_ablate_changes_one_thing_at_a_time(two_domains):
    found = ablate(what=("lam", "ascent"), source="art", **two_domains)
    assert list(found.methods) == ["advstyle", "advstyle-lambda0", "advstyle-lambda1", "inner-ascent"]
    assert set(found.methods["advstyle"]["targets"]) == {"photo"}
