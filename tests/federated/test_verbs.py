"""The command line's verbs, as a user calls them."""

import json

import pytest
import torch
from torch import nn

from jostle import JostleError, cli, zoo
from jostle.federated import Split, bench, by_name, compare, run, split, sweep
from jostle.federated.experiments import flip_and_crop
from jostle.federated.family import FAMILY
from jostle.federated.networks import network

FEW = zoo.load_data("digits").subset(range(240))
SMALL = dict(clients=6, rounds=2, batch_size=10)


@pytest.mark.study
def test_run_by_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    words = ["federated", "split", "--data", "digits", "--clients", "12", "--out", "s.npz"]
    assert cli.main(words) == 0
    words = ["federated", "run", "--data", "digits", "--model", "mine.py:build", "--split", "s.npz", "--rounds", "3",
             "--algorithm", "scaffold", "--fraction", "0.5", "--log", "rounds.jsonl", "--out", "w.safetensors"]  # fmt: skip
    assert cli.main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2] and rows[-1]["active"] == 6
    net = zoo.load_model("mine.py:build", "w.safetensors")
    assert sum(p.numel() for p in net.parameters()) == 650
    assert cli.main(["federated", "run", "--data", "digits", "--clients", "0"]) == 2
    assert "clients must lie in 1 to" in capsys.readouterr().err


@pytest.mark.study
def test_running_statistics_and_vectors_in_files_by_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))\n"
    )
    words = ["federated", "run", "--data", "digits", "--model", "mine.py:build", "--clients", "6", "--fraction", "0.5",
             "--local-epochs", "1", "--rounds", "2"]  # fmt: skip
    assert cli.main(words) == 2
    assert "buffers='average' or 'local'" in capsys.readouterr().err
    words += ["--buffers", "average", "--state-dir", "clients"]
    assert cli.main([*words, "--checkpoint", "c.safetensors", "--out", "w.safetensors"]) == 0
    net = zoo.load_model("mine.py:build", "w.safetensors")
    assert float(net[2].running_mean.abs().max()) > 0
    assert {path.suffix for path in (tmp_path / "clients").iterdir()} == {".json", ".safetensors"}
    assert cli.main([*words, "--resume", "c.safetensors", "--rounds", "3", "--log", "rounds.jsonl"]) == 0
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 3
    assert cli.main(words) == 2
    assert "holds the vectors of another run" in " ".join(capsys.readouterr().err.split())


@pytest.mark.study
def test_run_resumes(tmp_path) -> None:
    path = tmp_path / "c.safetensors"
    whole = run(FEW, **{**SMALL, "rounds": 4}, engine="batched")
    run(FEW, **SMALL, engine="batched", checkpoint=path)
    again = run(FEW, **{**SMALL, "rounds": 4}, engine="batched", resume=path)
    assert torch.equal(whole.course.server.x, again.course.server.x)


@pytest.mark.study
def test_compare_and_sweep() -> None:
    seen = []
    found = compare(
        FEW, ("fedavg", "fedspeed"), seeds=2, target=0.99, callback=lambda *a: seen.append(a), **SMALL
    )
    assert list(found) == ["fedavg", "fedspeed"] and [s[0] for s in seen] == [1, 2, 3, 4]
    assert found["fedavg"]["rounds_to_target"] is None and found["fedavg"]["standard_error"] >= 0
    dealt = split(FEW, clients=6)
    again = compare(FEW, ("fedspeed",), seeds=2, split=dealt, target=0.99, **SMALL)
    assert again["fedspeed"] == found["fedspeed"]
    swept = sweep(FEW, "local_epochs", (1, 2), **SMALL)
    assert swept["1"]["accuracy"] != swept["2"]["accuracy"]
    with pytest.raises(JostleError, match=r"whole numbers, but \[1.5\] came"):
        sweep(FEW, "local_epochs", (1, 1.5), **SMALL)
    assert bench(FEW, clients=6, rounds=1)["ratio"] > 0


def test_a_split_is_kept_whole(tmp_path) -> None:
    made = split(FEW, clients=6, test_share=0.25)
    again = Split.load(made.save(tmp_path / "s.npz"))
    assert all(torch.equal(a, b) for a, b in zip(made.parts, again.parts, strict=True))
    assert torch.equal(made.test, again.test) and len(made.test) == 60
    held = torch.cat([*made.parts, made.test])
    assert len(held.unique()) == len(held)
    (tmp_path / "s.npz").write_bytes(b"junk")
    with pytest.raises(JostleError, match="cannot be read"):
        Split.load(tmp_path / "s.npz")
    with pytest.raises(JostleError, match="it is of another set"):
        run(FEW.subset(range(50)), split=made, rounds=1)


def test_names() -> None:
    assert by_name("fedspeed", alpha=0.5).alpha == 0.5 and by_name("feddyn", alpha=0.5).alpha == 0.0
    assert {by_name(name).name.lower() for name in FAMILY} == set(FAMILY)
    with pytest.raises(JostleError, match="algorithm must be one of"):
        by_name("fedavgg")
    with pytest.raises(JostleError, match="no algorithm has a setting 'colour'"):
        by_name("fedavg", colour=1)


@pytest.mark.parametrize(
    ("name", "shape", "count"), [("mlp", (1, 28, 28), 25450), ("cnn", (3, 16, 16), 10314)]
)
def test_networks(name, shape, count) -> None:
    net = network(name, shape, 10, seed=0)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net(torch.rand(2, *shape)).shape == (2, 10)
    other = network(name, shape, 10, seed=1)
    assert not torch.equal(next(net.parameters()), next(other.parameters()))


@pytest.mark.study
def test_the_papers_network() -> None:
    net = network("resnet18", (3, 32, 32), 10, seed=0)
    assert sum(p.numel() for p in net.parameters()) == 11_181_642
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    length = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).norm()
    assert 100 < float(length) < 125  # the default start, at which the official clip bites


def test_augmentation_moves_pixels_and_keeps_shapes() -> None:
    x = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = flip_and_crop(x, torch.Generator().manual_seed(1))
    assert out.shape == x.shape
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    # A quarter is neither mirrored nor moved, a quarter only mirrored (and a shift by nothing adds to both).
    assert 0.15 < float(same.float().mean()) < 0.36 and 0.15 < float(mirrored.float().mean()) < 0.36
    assert torch.equal(out, flip_and_crop(x, torch.Generator().manual_seed(1)))
