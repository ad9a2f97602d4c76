"""Clients whose vectors lie in files: the same numbers, also after a kill in the middle of a round."""

import gc
from pathlib import Path

import pytest
import torch
from federated.problems import RAGGED, clients, federation, net
from federated.test_engines import STEPS
from torch import nn

from jostle import JostleError
from jostle.federated import FedAvg, Federation, FedSMOO, FedSpeed, Local, Memory, Scaffold, losing
from jostle.federated.shelf import Shelf

STATEFUL = [FedSpeed(), Scaffold(), FedSMOO()]
RUN = dict(lr=0.2, local_epochs=2, batch_size=4)


@pytest.mark.study
@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("algorithm", STATEFUL, ids=lambda a: a.name)
def test_files_change_no_bit(algorithm, engine, tmp_path) -> None:
    courses = [
        federation(RAGGED, engine=engine, transport=losing(0.3, seed=1), state_dir=folder).start(
            algorithm, STEPS
        )
        for folder in (None, tmp_path)
    ]
    for course in courses:
        for _ in range(6):
            course.advance()
    one, two = courses
    assert torch.equal(one.server.x, two.server.x)
    assert list(two.memories) == sorted(one.memories) and len(two.memories) >= 4
    for client, memory in one.memories.items():
        again = two.memories[client]
        assert again.numbers() == memory.numbers()
        assert all(torch.equal(v, memory.tensors()[k]) for k, v in again.tensors().items())


class Killed(BaseException):
    """Nobody catches it, like a kill."""


@pytest.mark.parametrize("algorithm", STATEFUL, ids=lambda a: a.name)
@pytest.mark.parametrize("moment", [0, 7])
def test_a_kill_within_a_round(algorithm, moment, tmp_path) -> None:
    """Before the first checkpoint there is none; later some clients have worked in the round that is done again."""
    sent = []

    def deadly(reply):
        sent.append(reply)
        if len(sent) > moment:
            raise Killed
        return [reply]

    made = dict(engine="sequential", fraction=0.5)
    whole = federation(RAGGED, **made).run(algorithm, rounds=6, **RUN)
    kept, folder = tmp_path / "c.safetensors", tmp_path / "clients"
    with pytest.raises(Killed):
        federation(RAGGED, **made, transport=deadly, state_dir=folder).run(
            algorithm, rounds=6, checkpoint=kept, **RUN
        )
    again = federation(RAGGED, **made, state_dir=folder)
    if moment == 0:
        assert not kept.exists()
        with pytest.raises(
            JostleError, match="the vectors of another run: resume .*, or name an empty folder"
        ):
            again.run(algorithm, rounds=6, **RUN)
        return
    found = again.run(algorithm, rounds=6, resume=kept, **RUN)
    assert torch.equal(found.course.server.x, whole.course.server.x)
    assert [row["accepted"] for row in found.history] == [3] * 6


def test_a_checkpoint_holds_the_server_alone(tmp_path) -> None:
    course = federation(state_dir=tmp_path).start(FedSpeed(), STEPS)
    course.advance()
    tensors, numbers = course.state()
    assert set(tensors) == {"server.x", "server.vector.hbar"} and numbers["clients"] == {}


@pytest.mark.study
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_only_clients_at_work_are_mapped(tmp_path) -> None:
    def mapped() -> bool:
        gc.collect()
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    course = federation(state_dir=tmp_path, fraction=1.0).start(FedSpeed(), STEPS)
    for _ in range(2):
        course.advance()
    assert not mapped()
    memory = course.memories[3]
    assert mapped()
    memory.recall(course.server.last(3))
    before = memory.committed["h"].clone()
    course.advance()  # which writes the file anew: who still looks at the old one sees the old one
    assert torch.equal(memory.committed["h"], before)
    assert not torch.equal(course.memories[3].recall(course.server.last(3))["h"], before)


def test_folders_and_checkpoints_that_do_not_belong_together(tmp_path) -> None:
    kept = tmp_path / "c.safetensors"
    first = federation(state_dir=tmp_path / "a", fraction=1.0).start(FedSpeed(), STEPS)
    first.advance()
    first.save(kept)
    other = federation(state_dir=tmp_path / "b", fraction=1.0).start(FedSpeed(), STEPS)
    other.advance()
    for folder in ("b", "nothing"):
        with pytest.raises(JostleError, match="is not the folder of the checkpoint's run"):
            federation(state_dir=tmp_path / folder, fraction=1.0).start(FedSpeed(), STEPS).load(kept)
    with pytest.raises(JostleError, match="lie in its run's state_dir, but no state_dir came"):
        federation(fraction=1.0).start(FedSpeed(), STEPS).load(kept)
    in_memory = federation(fraction=1.0).start(FedSpeed(), STEPS)
    in_memory.advance()
    in_memory.save(tmp_path / "m.safetensors")
    with pytest.raises(JostleError, match="is not the folder"):
        federation(state_dir=tmp_path / "a", fraction=1.0).start(FedSpeed(), STEPS).load(
            tmp_path / "m.safetensors"
        )
    # One round beyond the checkpoint both phases are there; two are too many.
    first.advance()
    federation(state_dir=tmp_path / "a", fraction=1.0).start(FedSpeed(), STEPS).load(kept)
    first.advance()
    with pytest.raises(
        JostleError, match="does not fit the checkpoint: client 0: the server accepted round 0"
    ):
        federation(state_dir=tmp_path / "a", fraction=1.0).start(FedSpeed(), STEPS).load(kept)


def test_two_places_for_the_same_vectors() -> None:
    with pytest.raises(
        JostleError, match="keep_states would hold in main memory what state_dir keeps in files"
    ):
        federation(keep_states=True, state_dir="nowhere")


def test_a_lost_file_resets_the_federation(tmp_path) -> None:
    course = federation(state_dir=tmp_path, fraction=1.0).start(FedSpeed(), STEPS)
    course.advance()
    del course.memories[2]
    assert 2 not in course.memories and len(course.memories) == 5
    row = course.advance()
    assert row["reset"] and "client 2: has lost its state" in row["refused"][0]
    row = course.advance()
    assert row["accepted"] == 6 and all(course.memories[one].generation == 1 for one in range(6))
    with pytest.raises(KeyError):
        del course.memories[99]


def test_a_nan_is_found_from_the_files_too(tmp_path) -> None:
    held = clients()
    held[1][0][5] = float("nan")
    fed = Federation(net(), nn.functional.cross_entropy, held, fraction=1.0, state_dir=tmp_path)
    with pytest.raises(
        JostleError, match="client 1: delta holds NaN or infinity in round 0, first after local step"
    ):
        fed.start(FedSpeed(), Local(batch_size=4)).advance()


def test_clients_that_keep_nothing(tmp_path) -> None:
    course = federation(state_dir=tmp_path).start(FedAvg(), STEPS)
    for _ in range(3):
        course.advance()
    assert isinstance(course.memories, Shelf) and all(m.tensors() == {} for m in course.memories.values())
    assert isinstance(course.memories[next(iter(course.memories))], Memory)
