"""Domains from folders: the official split lists, and what does not fit together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jostle import JostleError
from jostle.style import Domain, Protocol, load_domains, trial
from jostle.style.domains import Parts, official_parts
from tests.helpers import plain

NAMES = [f"{kind}/pic_{i:02d}" for kind in ("cat", "dog") for i in range(6)]


@pytest.fixture
def folder(tmp_path):
    """Two domains of twelve pictures, and lists that name them with another suffix, as copies of PACS do."""
    for domain in ("photo", "sketch"):
        for i, name in enumerate(NAMES):
            path = tmp_path / "images" / domain / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * i, dtype=np.uint8)).save(path)
        lists = tmp_path / "lists"
        lists.mkdir(exist_ok=True)
        for part, chosen in (("train", [0, 1, 2, 3, 6, 7, 8, 9]), ("crossval", [4, 10]), ("test", range(10))):
            lines = [f"{domain}/{NAMES[i]}.jpg {1 + i // 6}" for i in chosen]
            (lists / f"{domain}_{part}_kfold.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_official_lists_say_who_is_trained_and_tested_on(folder):
    data, lists = str(folder / "images"), str(folder / "lists")
    domains = load_domains(data, ("photo", "sketch"), size=8, lists=lists)
    parts = domains["photo"].parts
    assert isinstance(parts, Parts)
    assert parts.train.tolist() == [0, 1, 2, 3, 6, 7, 8, 9] and parts.held.tolist() == [4, 10]
    seen = []

    def build():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        net.register_forward_pre_hook(lambda m, i: seen.append(i[0]) if m.training else None)
        return net

    protocol = Protocol(epochs=1, batch=4, split="official", mirror=False)
    record, _ = trial(build, domains, ["photo"], ["sketch"], "erm", 0, protocol)
    assert record.total == {"sketch": 10}
    shades = sorted((255 * torch.cat(seen)[:, 0, 0, 0]).round().div(20).int().tolist())
    assert shades == [0, 1, 2, 3, 6, 7, 8, 9]
    few = load_domains(data, ("sketch",), size=8, lists=lists, limits=[3])["sketch"]
    assert len(few) == 3 and few.parts is None
    with pytest.raises(JostleError, match="split lists"):
        trial(
            build, load_domains(data, ("photo", "sketch"), size=8), ["photo"], ["sketch"], "erm", 0, protocol
        )


def test_without_a_test_list_all_are_tested_on_and_the_bad_picture_is_skipped(tmp_path):
    paths = [f"PACS.zip::sketch/dog/{name}.png" for name in ("a", "b", "c")]
    for part, names in (("train", ("a", "n02103406_4068-1")), ("crossval", ("c",))):
        (tmp_path / f"sketch_{part}_kfold.txt").write_text("".join(f"sketch/dog/{n}.png 1\n" for n in names))
    parts = official_parts(paths, "sketch", str(tmp_path))
    assert (parts.train.tolist(), parts.held.tolist(), parts.test.tolist()) == ([0], [2], [0, 1, 2])
    with pytest.raises(JostleError, match=r"sketch_train_kfold.txt lists sketch/dog/a.png, which is not"):
        official_parts(paths[1:], "sketch", str(tmp_path))
    with pytest.raises(JostleError, match=r"photo_train_kfold.txt does not exist"):
        official_parts(paths, "photo", str(tmp_path))
    (tmp_path / "sketch_train_kfold.txt").write_text("\n")
    with pytest.raises(JostleError, match="names no image"):
        official_parts(paths, "sketch", str(tmp_path))


def test_parts_travel_with_a_domain():
    parts = Parts(torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 1]))
    domain = Domain(torch.rand(2, 1, 3, 3), torch.tensor([0, 1]), parts=parts)
    assert domain.to("cpu").parts is parts and domain.subset(torch.tensor([0])).parts is None
    assert plain(len)(domain) == 2
