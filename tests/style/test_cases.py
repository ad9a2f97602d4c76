"""Domains of PACS as the study prepares them, and the study on a whole network, in 8 bits and half precision."""

import json
import zipfile

import pytest
import torch

from jostle import JostleError, lab
from jostle.style.cases import PACS, network_case, pacs_case
from jostle.style.lite import LiteTail, LiteTrunk
from jostle.style.protocol import Protocol
from jostle.zoo import load_model
from tests.helpers import plain


@pytest.fixture(scope="module")
def few(shared_data, tmp_path_factory):
    """Ten pictures a class and domain of PACS."""
    out = tmp_path_factory.mktemp("pacs") / "few.zip"
    seen: dict[str, int] = {}
    with zipfile.ZipFile(shared_data / "pacs-128.zip") as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            kind = name.rpartition("/")[0]
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= 10:
                new.writestr(name, old.read(name))
    return str(out)


@pytest.mark.study
def test_trunk_and_tail_are_the_whole_network():
    whole, trunk, tail = load_model("efficientnet-lite0"), LiteTrunk(), LiteTail(1000).eval()
    tail.classify = whole.model._fc
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert trunk(x).shape == (2, 24, 16, 16)
        torch.testing.assert_close(tail(trunk(x)), whole(x), rtol=0, atol=1e-4)


@pytest.mark.study
def test_the_plans_of_pacs():
    def plans(**how):
        how = {"source": "each", "leave_one_out": False} | how
        case = network_case("x", "torchvision:resnet18", None, Protocol(), size=64, at="auto", **how)
        return case.plans

    assert plans(source="photo") == ((("photo",), PACS[1:]),)
    assert [a for (a,), _ in plans()] == list(PACS)
    assert [b for _, (b,) in plans(leave_one_out=True)] == list(PACS)
    with pytest.raises(JostleError, match=r"source must be each or one of .*'clay' came"):
        plans(source="clay")
    with pytest.raises(JostleError, match=r"source must be one of .*'clay' came"):
        plain(pacs_case)("x", "clay", Protocol(), size=64, test_limit=None)
    case = plain(pacs_case)("x", "photo", Protocol(), size=64, test_limit=None)
    assert "all test images" in case.note and "{" not in case.note


SMALL = {
    "seeds": 1,
    "epochs": 1,
    "batch": 16,
    "methods": ("erm", "advstyle"),
    "attacked": 7,
    "attack_steps": 1,
}


@pytest.mark.study
def test_folders_of_domains_are_a_study(few, tmp_path):
    run = lab.run("style", root=tmp_path, data=few, jobs=1, test_limit=30, **SMALL)
    found = json.loads((run.folder / "result.json").read_text())["metrics"]
    assert found["methods"]["erm"]["targets"].keys() == set(PACS[1:])


@pytest.mark.study
def test_the_gpu_preset_runs_on_any_network_and_device(few, tmp_path):
    run = lab.run(
        "style", "gpu", root=tmp_path, data=few, network="efficientnet-lite0", weights=None, source="photo",
        size=48, device="cpu", **SMALL,
    )  # fmt: skip
    metrics = json.loads((run.folder / "result.json").read_text())["metrics"]
    assert metrics["protocol"]["half"] and metrics["protocol"]["translate"]
    assert set(metrics["worst_style"]) == {"erm", "advstyle"}
