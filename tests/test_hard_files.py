"""Every verb of every method meets broken files of its user: one sentence that names them, and nothing is left."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PHOTO_NET
from torch import nn

from jostle.cli import main
from jostle.cli_types import options_of
from jostle.lab.rooms import ROOMS

pytestmark = pytest.mark.study

NET = f"""{PHOTO_NET}
def broken():
    net = build()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = float("nan")
    return net
"""

VERBS = {f"{key} {f.__name__}": f for key in ROOMS for f in importlib.import_module(f"jostle.{key}").VERBS}
FIELDS = {name: {f.name: f for f in dataclasses.fields(options_of(f).kind)} for name, f in VERBS.items()}

WORKS: dict[str, str] = {
    "model": "net.py:build",
    "models": "net.py:build",
    "data": "photos",
    "query": "photos",
    "gallery": "photos",
    "domains": "day night",
    "sigma": "0.5",
    "layer": "0",
    "setting": "lr",
    "values": "0.1",
    "env": "Pendulum-v1",
    "target": "3",
    "perturbation": "delta.safetensors",
    "perturbations": "delta.safetensors",
    "encoder": "encoder.safetensors",
    "agent": "agent.safetensors",
    "snapshot": "snapshot.safetensors",
    "integers": "integers.npz",
    "asymmetry": "profile.csv",
    "velocities": "profile.csv",
    "stars": "stars.csv",
    "recording": "series.npy",
    "clean": "series.npy",
    "shown": "series.npy",
    "certificates": "certificates.parquet",
    "split": "split.npz",
    "weights": "delta.safetensors",
}
"""What a verb is given for an option that it must have."""
FEW = {"clients": "2", "epochs": "1", "steps": "2"}
"""What keeps a verb short, or as small as the user's folder."""
FILES = {
    "weights": ".safetensors",
    "perturbation": ".safetensors",
    "perturbations": ".safetensors",
    "encoder": ".safetensors",
    "agent": ".safetensors",
    "snapshot": ".safetensors",
    "integers": ".npz",
    "split": ".npz",
    "onnx": ".onnx",
    "asymmetry": ".csv",
    "velocities": ".csv",
    "stars": ".csv",
    "recording": ".npy",
    "certificates": ".parquet",
    "resume": ".safetensors",
}
"""Options that name a file that is read."""
IMAGES = ("data", "query", "gallery")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a network, pictures, and one good file of every kind."""
    from jostle.federated.verbs import split
    from jostle.observation import Agent
    from jostle.quantization import quantize, to_integer
    from jostle.smoothing.encoders import TimedViT
    from jostle.smoothing.saving import write_network
    from jostle.smoothing.verbs import certify
    from jostle.timescales import LeakyRNN
    from jostle.timescales.snapshots import Snapshot
    from jostle.universal import UniversalPerturbation
    from jostle.zoo import load_data, load_model

    here = tmp_path_factory.mktemp("own")
    (here / "net.py").write_text(NET)
    draw = np.random.default_rng(0)
    kinds = [
        "photos/cat",
        "photos/dog",
        *(f"both/{time}/{kind}" for time in ("day", "night") for kind in ("cat", "dog")),
    ]
    for kind in kinds:
        (here / kind).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / kind / f"{i}.png")
    UniversalPerturbation(torch.zeros(1, 3, 32, 32), {}, ()).save(here / "delta.safetensors")
    shape = {"shape": (3, 32, 32), "patch": 8, "width": 8, "depth": 1, "heads": 1}
    vit = TimedViT((3, 32, 32), patch=8, width=8, depth=1, heads=1)
    write_network(vit.state_dict(), {"kind": "encoder", **shape}, here / "encoder.safetensors")
    Agent(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), "tanh").save(here / "agent.safetensors")
    Snapshot(LeakyRNN(8), "parity", 2, 0).save(here / "snapshot.safetensors")
    net = load_model(f"{here / 'net.py'}:build")
    some = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    to_integer(quantize(net, some)).save(here / "integers.npz")
    photos = load_data(here / "photos")
    certify(net, photos, sigma=0.5, keep=here / "certificates.parquet", n_max=200, limit=2)
    split(photos, clients=2).save(here / "split.npz")
    (here / "profile.csv").write_text("z,a,e\n" + "".join(f"{z / 10},0.1,0.01\n" for z in range(-10, 11)))
    (here / "stars.csv").write_text("z,vz\n" + "".join(f"{z / 10},{z}\n" for z in range(-10, 11)))
    np.save(here / "series.npy", draw.standard_normal((2000, 2)))
    return here


@pytest.fixture
def said(own, monkeypatch, capsys) -> Iterator[Callable[..., str]]:
    """`said(verb, option=value)`: the one sentence with which a verb refuses, that leaves the folder as it was."""
    monkeypatch.chdir(own)

    def refuse(verb: str, **given: str) -> str:
        words = [*verb.split()]
        fields = FIELDS[verb]
        wanted = {name: WORKS[name] for name, field in fields.items() if field.default is dataclasses.MISSING}
        wanted |= {name: value for name, value in FEW.items() if name in fields} | given
        if "domains" in fields:
            wanted["data"] = "both"
        for name, value in wanted.items():
            words += [f"--{name}", *value.split()]
        before = sorted(own.rglob("*"))
        code = main(words)
        out, err = capsys.readouterr()
        text = " ".join((out + err).split())
        assert code == 2, text
        assert "Traceback" not in text and text.count("jostle: ") - text.count("jostle: note: ") == 1, text
        assert sorted(own.rglob("*")) == before
        return text.replace(" ", "")

    yield refuse


def _having(*names: str) -> list[Any]:
    return [(verb, name) for verb, fields in FIELDS.items() for name in names if name in fields]


@pytest.mark.parametrize(("verb", "option"), _having("model", "models"))
def test_a_network_with_nan_weights(said, verb, option):
    assert "NaN" in said(verb, **{option: "net.py:broken"})


@pytest.mark.parametrize("verb", [verb for verb, option in _having("weights") if "model" in FIELDS[verb]])
def test_a_weights_file_with_nan(said, own, verb):
    from safetensors.torch import save_file

    state = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Flatten(), nn.Linear(150, 2)
    ).state_dict()
    state["4.bias"][0] = float("nan")
    save_file(state, own / "nan.safetensors")
    assert "nan.safetensorshasNaN" in said(verb, model="net.py:build", weights="nan.safetensors")


# federated split looks at labels alone.
@pytest.mark.parametrize(("verb", "option"), [c for c in _having(*IMAGES) if c[0] != "federated split"])
@pytest.mark.parametrize("kind", ["torn", "text"])
def test_a_corrupt_image_in_a_folder(said, own, verb, option, kind):
    folder = "both/day" if "domains" in FIELDS[verb] else "photos"
    first = own / folder / "cat" / "0.png"
    whole = first.read_bytes()
    try:
        first.write_bytes(whole[: len(whole) // 2] if kind == "torn" else b"not a picture")
        assert "cat/0.png" in said(verb, **{option: "photos"})
    finally:
        first.write_bytes(whole)


@pytest.mark.parametrize(
    ("verb", "option"),
    [c for c in _having(*WORKS) if WORKS[c[1]].endswith(".safetensors") and c[1] != "weights"],
)
def test_nan_in_a_file_of_ours(said, own, verb, option):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(own / WORKS[option], "pt") as file:
        about, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, own / "nan.safetensors", about)
    words = said(verb, **{option: "nan.safetensors"})
    assert "nan.safetensors" in words and "NaN" in words


@pytest.mark.parametrize(
    ("verb", "option"), [case for case in _having(*FILES) if case != ("disk check", "stars")]
)
@pytest.mark.parametrize("kind", ["absent", "empty", "text", "torn"])
@pytest.mark.filterwarnings("ignore:.*[Ee]mpty input file:UserWarning")
def test_a_file_that_is_not_what_it_should_be(said, own, verb, option, kind):
    path = own / f"bad{FILES[option]}"
    if kind == "torn":
        good = own / WORKS.get(option, "delta.safetensors")
        path.write_bytes(good.read_bytes()[:-40] if path.suffix != ".csv" else b"\xff\xfe\x00,,\n" * 9)
    elif kind != "absent":
        path.write_bytes({"empty": b"", "text": b"what is this?\n" * 40}[kind])
    try:
        assert path.name in said(verb, **{option: path.name})
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("verb", "option", "path"),
    [
        ("smoothing certify", "keep", "/proc/nowhere/c.parquet"),
        ("federated run", "checkpoint", "/proc/nowhere/c.safetensors"),
        ("federated run", "log", "/proc/nowhere/c.jsonl"),
        *((verb, "out", "/proc/nowhere/out") for verb in VERBS),
    ],
)
def test_a_place_that_cannot_be_written(said, verb, option, path):
    words = said(verb, **{option: path})
    assert "/proc/nowhere" in words or "outmustendin" in words
