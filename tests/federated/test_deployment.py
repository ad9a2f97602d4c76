"""Flower's own engines: its simulation on Ray, and its deployment over TLS with a client that dies and comes back."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "flower"


def loaded(name: str, path: Path):
    """A file of the docs as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TASK = loaded("fedapp_task", DOCS / "fedapp" / "task.py")


def in_process(rounds: int, transport=None) -> torch.Tensor:
    """The same federation in our engine."""
    from torch import nn

    from jostle.federated import Federation

    fed = Federation(
        TASK.model(), nn.functional.cross_entropy, [TASK.data(i) for i in range(TASK.CLIENTS)],
        fraction=1.0, seed=TASK.SEED, engine="sequential", transport=transport,
    )  # fmt: skip
    course = fed.start(TASK.ALGORITHM, TASK.LOCAL)
    for _ in range(rounds):
        course.advance()
    return course.server.x


def kept(path: Path) -> tuple[torch.Tensor, list[dict]]:
    """Model and history that the ServerApp wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        flat = torch.cat([file.get_tensor(name).reshape(-1) for name, _ in TASK.model().named_parameters()])
        return flat, json.loads(file.metadata()["history"])


@pytest.mark.slow
def test_the_simulation_on_ray(tmp_path) -> None:
    """In a process of its own: Ray's workers and warnings stay there."""
    out = tmp_path / "network.safetensors"
    code = f"""
import sys
sys.path.insert(0, {str(DOCS)!r})
from flwr.simulation import run_simulation
from fedapp.client import app as client
from fedapp.server import strategy
from jostle.federated.flower import make_server_app
made = strategy(None)
run_simulation(make_server_app(lambda context: made, rounds=4), client, 2,
               backend_config={{"client_resources": {{"num_cpus": 1, "num_gpus": 0}}, "init_args": {{"num_cpus": 2}}}})
import json
from safetensors.torch import save_file
state = {{k: v.contiguous() for k, v in made.model().state_dict().items()}}
save_file(state, {str(out)!r}, metadata={{"history": json.dumps(made.history)}})
"""
    paths = [str(DOCS), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found, history = kept(out)
    assert [row["accepted"] for row in history] == [2, 2, 2, 2]
    assert (found - in_process(4)).abs().max() < 1e-12


@pytest.mark.slow
def test_the_deployment_script(tmp_path) -> None:
    """SuperLink and two SuperNodes over TLS, as documented, from the shell."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(DOCS / "deploy.py"), str(tmp_path / "fed")],
        env=env, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    logs = "".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in (tmp_path / "fed").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found, history = kept(tmp_path / "fed" / "network.safetensors")
    assert [row["accepted"] for row in history] == [2] * 5
    assert (found - in_process(5)).abs().max() < 1e-12


@pytest.mark.slow
def test_a_killed_supernode_comes_back(tmp_path, monkeypatch) -> None:
    """Killed without warning in the middle of a run, started again: the model is that of the engine that loses the
    same replies, and the client goes on from its file."""
    deploy = loaded("fedapp_deploy", DOCS / "deploy.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rounds, out, port, running = 6, tmp_path / "network.safetensors", deploy.free_port(), []
    deploy.certificates(tmp_path)
    try:
        link = deploy.superlink(tmp_path, port)
        running.append(link)
        deploy.listening(port, link)
        first, second = (deploy.supernode(tmp_path, port, client) for client in range(2))
        running += [first, second]
        deploy.submit(tmp_path, port, rounds=rounds, out=str(out), timeout=60)
        until, state = time.monotonic() + 300, None
        while state is None and time.monotonic() < until:
            found = list((tmp_path / "state").glob("run-*/client-1.safetensors"))
            state = found[0] if found else None
            time.sleep(0.1)
        assert state is not None, "client 1 has not taken part in 300 s"
        os.killpg(second.pid, signal.SIGKILL)
        second.wait(30)
        assert not out.exists(), "the run was over before the client could be killed"
        running.append(deploy.supernode(tmp_path, port, 1))
        deploy.wait_for(out, 500, link, first, running[-1])
    finally:
        deploy.stop(*reversed(running))
    model, history = kept(out)
    assert len(history) == rounds and history[-1]["missing"] == []
    assert not any(row.get("reset") for row in history)
    gone = {(row["round"], one) for row in history for one in row["missing"]}
    expected = in_process(rounds, lambda reply: [] if (reply.round, reply.client) in gone else [reply])
    assert (model - expected).abs().max() < 1e-12
