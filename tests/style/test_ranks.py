"""Two processes that train one network: what they must agree on, and what stays each one's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import jostle
from jostle.style import batch_uncertainty, channel_statistics

pytestmark = pytest.mark.study  # two more processes that import torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two gloo processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("two_processes.py")
    source = str(Path(jostle.__file__).parents[1])
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(folder / "store"), str(folder / f"{rank}.pt")],
            env={"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PATH": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_all_ranks_take_the_same_branches(ranks):
    first, second = ranks
    assert first["branches"] == second["branches"] and set(first["branches"]) == {0, 1, 2}
    assert first["mixed"] == second["mixed"] and set(first["mixed"]) == {True, False}


def test_the_replicas_stay_equal_though_their_noise_differs(ranks):
    first, second = ranks
    assert torch.equal(first["parameters"], second["parameters"])
    assert not any(torch.equal(a, b) for a, b in zip(first["outputs"], second["outputs"], strict=True))


def test_the_first_scales_are_those_of_the_joint_batch(ranks):
    step, s_mu, s_sigma = ranks[0]["first"]
    joint = torch.cat(
        [
            torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(10 * step + rank))
            for rank in range(2)
        ]
    )
    wanted = batch_uncertainty(*channel_statistics(joint))
    torch.testing.assert_close((s_mu, s_sigma), wanted, rtol=1e-5, atol=1e-7)
    assert torch.equal(s_mu, ranks[1]["first"][1]) and torch.equal(s_sigma, ranks[1]["first"][2])
    assert torch.equal(ranks[0]["half-normal"], ranks[1]["half-normal"])


def test_checkpointing_asks_twice_and_gets_the_same_branch(ranks):
    first, second = (run["asked"] for run in ranks)
    assert first == second and len(first) == 24
    assert first[0::2] == first[1::2] and len(set(first)) == 12
