"""A study trains on several processes as on one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jostle import lab
from jostle.core.errors import JostleError, MissingExtra
from jostle.lab import Processes

SCRIPT = str(Path(__file__).with_name("shared_training.py"))


def command(*words: str) -> list[str]:
    return [sys.executable, SCRIPT, "run", *words]


def jostle(root: Path, *words: str, code: int = 0) -> str:
    pytest.importorskip("lightning.fabric")
    done = subprocess.run(
        command(*words),
        env={**os.environ, "JOSTLE_RUNS": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def found(root: Path) -> dict:
    (folder,) = (root / "toy").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    return json.loads((folder / "result.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("alone")
    jostle(root, "toy")
    return found(root)


def same(one: dict, other: dict) -> bool:
    return one["losses"] == pytest.approx(other["losses"], rel=1e-12) and all(
        a == pytest.approx(b, rel=1e-12)
        for a, b in zip(one["weights"][1::2], other["weights"][1::2], strict=True)
    )


@pytest.mark.study
def test_two_processes_have_the_loss_of_one_also_after_a_kill(alone, tmp_path):
    said = jostle(tmp_path, "toy", "--devices", "2", "--kill", "9", code=2)
    assert "jostle: the run stopped" in said and "Traceback" not in said
    (folder,) = (tmp_path / "toy").iterdir()
    assert (folder / "dead").exists()
    jostle(tmp_path, "--resume", str(folder))
    shared = found(tmp_path)
    assert len(shared["losses"]) == 21 and shared["world"] == 2
    assert same(shared, alone)


@pytest.mark.study
def test_two_nodes_have_the_loss_of_one(alone, tmp_path):
    pytest.importorskip("lightning.fabric")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
             "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(port),
             *command("toy", "--nodes", "2")[1:]],
            env={**os.environ, "JOSTLE_RUNS": str(tmp_path / str(rank))},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert not (tmp_path / "1").exists()  # only the first keeps a folder
    assert "report:" in ends[0][0] and ends[1][0] == ""
    assert same(found(tmp_path / "0"), alone)


@pytest.mark.study
def test_half_precision_stays_near(tmp_path):
    for name, precision in (("single", "32-true"), ("half", "bf16-mixed")):
        jostle(tmp_path / name, "toy", "--no-double", "--epochs", "1", "--precision", precision)
    single, half = found(tmp_path / "single")["losses"], found(tmp_path / "half")["losses"]
    assert half == pytest.approx(single, rel=0.1) and half != pytest.approx(single, rel=1e-4)


@pytest.mark.study
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"devices": 0}, "devices must be at least 1, but 0 came"),
        ({"nodes": 0}, "nodes must be at least 1, but 0 came"),
        ({"precision": "int3"}, "precision must be 32-true, bf16-mixed or 16-mixed, but 'int3' came"),
        ({"nodes": 2}, "nodes is 2, but this process stands alone: start the command on every node"),
    ],
)
def test_wrong_settings_are_a_sentence(wrong, sentence, tmp_path):
    with pytest.raises(JostleError, match=sentence):
        lab.run("collapse", root=tmp_path, processes=Processes(**wrong))
    assert not list(tmp_path.iterdir())


def test_more_gpus_than_there_are(tmp_path):
    with pytest.raises(JostleError, match=r"devices must be at most \d+ here, but 99 came"):
        lab.run("collapse", root=tmp_path, processes=Processes(99), device="cuda")


def test_a_study_without_such_training_says_so(toy, tmp_path):
    with pytest.raises(JostleError, match="toy has no training that devices, nodes or precision could serve"):
        lab.run("toy", root=tmp_path, processes=Processes(2))


def test_a_missing_fabric_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(MissingExtra, match=r"jostle\[fabric\]"):
        lab.run("collapse", root=tmp_path, processes=Processes(2))
