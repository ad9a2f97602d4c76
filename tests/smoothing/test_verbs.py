"""The verbs, from Python and from the shell, on a model and images that only the test knows."""

import numpy as np
import pytest
import torch
from PIL import Image

from jostle import cli
from jostle.core.errors import JostleError
from jostle.smoothing import (
    Certificates,
    compare,
    load_classifier,
    plan,
    predict,
    pretrain,
    spread,
    train,
    tune,
    verify,
)
from jostle.smoothing.rrcm import RRCM
from jostle.zoo import load_data, load_model

NET = """
import torch
from torch import nn

class Bright(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.head.weight.data = torch.tensor([[-20.0, 0.0, 20.0], [20.0, 0.0, -20.0]])
        self.head.bias.data.zero_()

    def forward(self, x):
        return self.head(x.mean((2, 3)))

def build():
    return Bright()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of red and blue images and a file with a network that tells them apart."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(60, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel] += 25
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


ARGUMENTS = ["--model", "net.py:build", "--data", "images", "--sigma", "0.5"]


def test_certify_from_the_shell_goes_on_and_says_what_is_there(own, capsys):
    words = ["smoothing", "certify", *ARGUMENTS, "--n-max", "2000", "--keep", "c.parquet", "--device", "cpu"]
    assert cli.main([*words, "--limit", "4"]) == 0
    out = capsys.readouterr().out
    assert "certified accuracy at radius" in out and "draws an input" in out
    found = Certificates.load(own / "c.parquet")
    assert found.label.tolist() == [0, 0, 1, 1] and found.name.tolist() == [0, 3, 6, 9]
    assert found.paths is not None and found.paths[0].endswith("blue/0.png")
    stamp = (own / "c.parquet").read_bytes()
    assert cli.main([*words, "--limit", "4"]) == 0
    assert Certificates.load(own / "c.parquet").radius.tolist() == found.radius.tolist()
    assert len(stamp) > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sigma", "64"], "0-255"),
        (["--sigma", "0"], "sigma must be above 0"),
        (["--alpha", "2"], "alpha must lie in"),
        (["--radii", "3.0"], "the draws needed are"),
        (["--keep", "c.csv"], "must end in .parquet"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(own, capsys, words, says):
    given = ["smoothing", "certify", *ARGUMENTS, "--n-max", "1000", "--device", "cpu"]
    assert cli.main([*given, *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert says in err and "Traceback" not in err


def test_a_model_of_nan_is_named(own, capsys):
    (own / "net.py").write_text(NET.replace("[[-20.0", "[[float('nan')"))
    assert cli.main(["smoothing", "certify", *ARGUMENTS]) == 2
    assert "NaN" in capsys.readouterr().err


@pytest.mark.study
def test_plan_predict_and_compare(own):
    model, data = load_model("net.py:build"), load_data("images", size=8)
    found = predict(model, data, sigma=0.25, n=200, device="cpu")
    assert found.numbers()["accuracy"] > 0.7 and len(found.numbers()["prediction"]) == 12
    costs = plan(model, data, sigma=0.25, n_max=5000, probe=6, images=100, device="cpu")
    assert costs["fixed"]["draws an image"] == 5100
    assert costs["sequential"]["draws an image"] < 5100 and costs["sequential"]["minutes"] > 0
    from jostle.smoothing import certify

    tables = {
        f"sigma {sigma:g}": certify(
            model,
            data,
            sigma=sigma,
            n_max=1000,
            radii=(0.0, 0.25),
            keep=own / f"{sigma}.parquet",
            device="cpu",
        )
        for sigma in (0.25, 0.5)
    }
    rows = compare(tables)
    assert rows["best"]["at 0"] in tables and rows["sigma 0.25"]["at 0"] >= rows["sigma 0.25"]["at 0.25"]


@pytest.mark.study
def test_verify_finds_no_more_false_certificates_than_it_may():
    found = verify(count=60)
    assert found["certificates"] == 60 and found["false"] <= 1
    assert 0 < found["mean gap to the exact radius"] < 0.05


def test_train_on_own_images(own):
    model = load_model("net.py:build")
    with torch.no_grad():
        model.head.weight.zero_()
    data = load_data("images", size=8)
    made = train(model, data, sigma=0.25, objective="gaussian", steps=60, lr=0.2, device="cpu")
    made.save(own / "w.safetensors")
    assert (
        predict(load_model("net.py:build", own / "w.safetensors"), data, sigma=0.25, device="cpu").numbers()[
            "accuracy"
        ]
        > 0.7
    )


@pytest.mark.study
def test_pretrain_tune_and_certify_through_files(own):
    data = load_data("images", size=8)
    settings = RRCM(steps=4, warmup=1, hidden=16, out=8)  # fewer images than its batch: all of them
    pretrain(data, patch=4, width=16, depth=1, heads=2, plan=settings, device="cpu").save(
        own / "e.safetensors"
    )
    made = tune(own / "e.safetensors", data, sigma=0.25, lam=1.0, steps=60, lr=0.02, decay=1.0, device="cpu")
    made.save(own / "t.safetensors")
    model = load_classifier(own / "t.safetensors")
    again = model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in made.state.items())
    assert predict(model, data, sigma=0.25, n=200, device="cpu").numbers()["accuracy"] > 0.5
    with pytest.raises(JostleError, match="must hold an encoder"):
        tune(own / "t.safetensors", data, sigma=0.25)
    with pytest.raises(JostleError, match="does not exist"):
        load_classifier(own / "none.safetensors")
    with pytest.raises(JostleError, match="takes images of shape"):
        tune(own / "e.safetensors", load_data("digits"), sigma=0.25, device="cpu")


def test_items_are_spread_over_the_classes():
    assert spread(500, 5).tolist() == [0, 100, 200, 300, 400]
    assert spread(3, 10).tolist() == spread(3, 0).tolist() == [0, 1, 2]
