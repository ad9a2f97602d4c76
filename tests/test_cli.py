import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import PHOTO_NET

from jostle.cli import _USAGE, _named, main
from jostle.cli_types import options_of
from jostle.core.errors import JostleError
from jostle.zoo import Images, load_model

NET = f"""{PHOTO_NET}
def not_a_net():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's folder: a network of his own and a few pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(NET)
    generator = torch.Generator().manual_seed(0)
    for kind in ("cat", "dog"):
        for i in range(3):
            (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
            pixels = (torch.rand(40, 50, 3, generator=generator) * 255).byte().numpy()
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{i}.png")
    return tmp_path


def said(capsys, *words: str) -> tuple[int, str, str]:
    code = main(words)
    out = capsys.readouterr()
    return code, " ".join(out.out.split()), " ".join(out.err.split())


def test_it_tells_what_there_is(capsys):
    code, out, _ = said(capsys)
    assert code == 0 and "jostle run METHOD" in out and "universal" in out
    assert all(len(line) <= 80 for line in _USAGE.splitlines())  # as it stands on a narrow terminal
    code, out, _ = said(capsys, "list")
    assert code == 0 and "1801.08092" in out
    code, out, _ = said(capsys, "zoo")
    assert code == 0 and "efficientnet-lite0" in out and "photographs" in out and "citylearn-2022" in out
    code, out, _ = said(capsys, "universal")
    assert code == 0 and "jostle universal craft" in out
    code, out, _ = said(capsys, "run", "--help")
    assert code == 0 and "--resume RUN" in out
    with pytest.raises(SystemExit, match="0"):
        main(["universal", "evaluate", "--help"])
    out = capsys.readouterr().out
    assert ">>>" not in out and "][" not in out and "Arguments:" not in out
    assert "torchvision:NAME" in out and "`" not in out  # what can be typed, in plain text


@pytest.mark.filterwarnings("ignore:the model gives every clean image the same class")  # they are noise
def test_images_are_as_large_as_the_perturbation_for_a_model_without_a_size(own, capsys):
    (own / "mynet.py").write_text(NET.replace("net.input_shape = (3, 32, 32)", ""))
    save_file({"delta": torch.zeros(3, 24, 24)}, "none.safetensors")
    code, out, _ = said(
        capsys, "universal", "evaluate", "--model", "mynet.py:build", "--perturbations", "none.safetensors",
        "--data", "photos",
    )  # fmt: skip
    assert code == 0 and "rate 0" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "method must be one of"),
        (["list", "more"], "list takes no 'more'"),
        (["zoo", "moon"], "zoo takes no 'moon'"),
        (["run"], "run needs a method"),
        (["run", "universal", "--preset", "huge"], "preset must be one of quick, gpu, paper"),
        (["run", "--resume", "nowhere"], "not a run folder"),
        (["run", "universal", "--preset"], "--preset needs a value"),
        (["report", "nowhere"], "not a run folder"),
        (["demo", "nothing"], "method must be one of"),
        (["demo", "--jobs", "two"], "--jobs must be a whole number"),
        (["demo", "--preset", "gpu"], "demo takes methods and --jobs"),
        (["universal", "fly"], "universal has no verb 'fly'"),
        (
            ["run", "universal", "--stepps", "3"],
            "Unrecognized options: --stepps, 3; perhaps you meant: --steps (",
        ),
        (["run", "universal", "--steps", "few"], "parsing --steps"),
        (["run", "universal", "--engine", "mill"], "invalid choice 'mill' for argument '--engine'"),
        (["collapse", "measure"], "Missing from jostle collapse measure: --model, --data ("),
        (["collapse", "factors", "--lam-w"], "Missing value for argument '--lam-w'"),
        (["universal", "craft", "--model", "efficientnet-lite9"], "model must be"),
        (["universal", "craft", "--model", "absent.py:build"], "does not exist"),
        (["universal", "craft", "--model", "mynet.py:not_a_net"], "must return"),
        (["universal", "craft", "--model", "mynet.py:build", "--budget.radius", "10"], "0-255 units"),
        (["universal", "craft", "--model", "mynet.py:build", "--prior", "snow"], "prior must be"),
        (
            [
                "universal",
                "evaluate",
                "--model",
                "mynet.py:build",
                "--perturbations",
                "no.safetensors",
                "--data",
                "photos",
            ],
            "exist",
        ),
        (
            ["universal", "craft", "--model", "mynet.py:build", "--out", "delta.npz"],
            "must end in .safetensors",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(own, capsys, words, sentence):
    code, _, err = said(capsys, *words)
    assert code != 0 and sentence in err and "Traceback" not in err


@pytest.mark.study
def test_an_unknown_option_fails_without_a_traceback(own):
    done = subprocess.run(
        [sys.executable, "-m", "jostle", "universal", "craft", "--model", "mynet.py:build", "--eps", "1"],
        capture_output=True, text=True, cwd=own, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr and "--eps" in done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore:the model gives every clean image")  # random weights
def test_a_users_network_and_pictures_from_craft_to_evaluation(own, capsys):
    code, out, _ = said(
        capsys, "universal", "craft", "--model", "mynet.py:build", "--budget.radius", "0.1", "--steps", "5",
        "--seed", "3", "--out", "uap.safetensors",
    )  # fmt: skip
    assert code == 0 and "written: uap.safetensors" in out
    delta = load_file(own / "uap.safetensors")["delta"]
    assert delta.shape == (1, 3, 32, 32) and float(delta.abs().max()) <= 0.1 + 1e-7
    code, out, _ = said(
        capsys, "universal", "evaluate", "--model", "mynet.py:build", "--perturbations", "uap.safetensors",
        "--data", "photos", "--out", "found.json",
    )  # fmt: skip
    assert code == 0
    found = json.loads((own / "found.json").read_text())["delta"]
    assert found["count"] == 6 and 0 <= found["rate"] <= 1


def test_the_same_seed_gives_the_same_file(own, capsys):
    for name in ("a", "b"):
        said(
            capsys,
            "universal",
            "craft",
            "--model",
            "mynet.py:build",
            "--steps",
            "3",
            "--out",
            f"{name}.safetensors",
        )
    assert torch.equal(load_file(own / "a.safetensors")["delta"], load_file(own / "b.safetensors")["delta"])


@dataclass(frozen=True)
class Size:
    side: int = 3
    label: str = "small"


def test_options_follow_the_types():
    def area(
        scale: float, size: Size = Size(), hidden: torch.Tensor | None = None, fine: bool = False
    ) -> float:
        return scale * size.side**2

    made = options_of(area)
    given = made.kind(scale=2.0)
    assert made.call(given, lambda done, total, figure: None) == 18.0
    assert set(made.kind.__dataclass_fields__) == {"scale", "size", "fine"}


def test_leading_words_are_the_options_without_a_default():
    def date(stars: str, radius: float, seed: int = 0) -> str:
        """A date."""
        return f"{stars} {radius} {seed}"

    kind = options_of(date).kind
    assert _named(kind, ["a.csv", "8", "--seed", "3"]) == ["--stars", "a.csv", "--radius", "8", "--seed", "3"]
    assert _named(kind, ["a.csv", "--radius", "8"]) == ["--stars", "a.csv", "--radius", "8"]
    assert _named(kind, ["--stars", "a.csv"]) == ["--stars", "a.csv"]
    assert _named(kind, ["a", "8", "9"]) == [
        "--stars",
        "a",
        "--radius",
        "8",
        "9",
    ]  # the parser refuses the rest


def test_a_network_among_several_has_weights_of_its_own(own):
    (own / "lr=0.1").mkdir()  # folders may have an = of their own
    (own / "lr=0.1" / "mynet.py").write_text(NET)
    save_file(
        {name: torch.zeros_like(value) for name, value in load_model("mynet.py:build").state_dict().items()},
        "zero.safetensors",
    )

    def biases(models: Mapping[str, torch.nn.Module]) -> dict[str, bool]:
        return {name: all(not p.any() for p in model.parameters()) for name, model in models.items()}

    made = options_of(biases)
    given = made.kind(models=("lr=0.1/mynet.py:build", "lr=0.1/mynet.py:build=zero.safetensors"))
    assert list(made.call(given, lambda *_: None).values()) == [False, True]


@dataclass
class Judge:
    input_shape: tuple[int, int, int]

    @classmethod
    def load(cls, path: Path) -> "Judge":
        return cls((3, 24, 24))


def test_images_are_as_large_as_what_judges_them_says(own):
    def size(judge: Judge, data: Images) -> tuple[int, ...]:
        return tuple(data.tensors()[0].shape[1:])

    made = options_of(size)
    assert made.call(made.kind(judge=Path("x"), data="photos"), lambda *_: None) == (3, 24, 24)


@dataclass(frozen=True)
class Words:
    text: str

    @classmethod
    def load(cls, path: Path) -> "Words":
        return cls(path.read_text())


def test_files_of_one_name_in_two_folders_stay_two(tmp_path):
    def count(many: Mapping[str, Words]) -> dict[str, int]:
        return {name: len(words.text) for name, words in many.items()}

    paths = tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt", tmp_path / "b" / "y.txt"
    for size, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_text("." * size)
    made = options_of(count)
    call = lambda *chosen: made.call(made.kind(many=chosen), lambda done, total, figure: None)  # noqa: E731
    assert call(*paths[1:]) == {"x": 1, "y": 2}
    assert call(*paths[:2]) == {str(paths[0]): 0, str(paths[1]): 1}
    with pytest.raises(JostleError, match="many must be different files"):
        call(paths[0], paths[0])


def test_what_cannot_be_typed_is_said():
    def needs(tensor: torch.Tensor) -> None:
        pass

    with pytest.raises(JostleError, match="needs needs tensor"):
        options_of(needs)
