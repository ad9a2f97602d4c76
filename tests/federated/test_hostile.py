"""Broken and hostile clients: refused with a sentence, and the sums stay what they are."""

import re
from dataclasses import replace

import pytest
import torch
from federated.problems import clients, federation, net
from federated.quadratics import Problem, local
from torch import nn

from jostle import JostleError
from jostle.federated import FedAvg, FedDyn, Federation, FedSpeed, Local, Memory, Scaffold
from jostle.federated.memory import LostState

PROBLEM = Problem()
NAN = float("nan")


class Spoiler:
    """A network that spoils what client 2 sends, keeping its replies to send them again."""

    def __init__(self, spoil) -> None:
        self.spoil, self.kept = spoil, []

    def __call__(self, reply):
        return self.spoil(self, reply) if reply.client == 2 else [reply]


def stale(self, reply):
    self.kept.append(reply)
    return self.kept[-2:-1]


SPOILT = {
    "nan": (lambda _, r: [replace(r, delta=r.delta * NAN)], "NaN or infinity"),
    "infinite": (lambda _, r: [replace(r, delta=r.delta / 0)], "NaN or infinity"),
    "short": (lambda _, r: [replace(r, delta=r.delta[:2])], r"delta must be \(4,\)"),
    "precision": (lambda _, r: [replace(r, delta=r.delta.float())], "torch.float32"),
    "twice": (lambda _, r: [r, replace(r, delta=10 * r.delta)], "a second reply to round"),
    "stale": (stale, "a reply to round"),
    "extra": (lambda _, r: [replace(r, uploads={"evil": r.delta})], "uploads must be"),
    "stepless": (lambda _, r: [replace(r, steps=0)], "steps must be at least 1"),
    "stranger": (lambda _, r: [replace(r, client=99)], "is not of this federation"),
    "vanished": (lambda _, r: [], None),
}


@pytest.mark.study
@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_replies_leave_the_sums_alone(kind) -> None:
    spoil, sentence = SPOILT[kind]
    fed = PROBLEM.federation(fraction=0.6, transport=Spoiler(spoil), on_bad_client="drop")
    course = fed.start(FedDyn(prox_mu=1.0), local())
    for _ in range(30):
        course.advance()
        total = torch.zeros(4, dtype=torch.float64)
        for i, memory in course.memories.items():
            if course.server.last(i) >= 0:
                total += settled(memory, course.server.last(i))
        assert (course.server.vectors["hbar"] - total / 5).abs().max() < 1e-12
    refused = [one for row in course.history for one in row["refused"]]
    if sentence is not None:
        assert refused and all(re.search(sentence, one) for one in refused)
    assert (2 in course.server.accepted) == (kind == "twice")
    assert bool(torch.isfinite(course.server.x).all())


def settled(memory: Memory, accepted: int) -> torch.Tensor:
    """What the client will start from when it is next asked, without asking it."""
    held = memory.pending if memory.pending_round == accepted else memory.committed
    return held["h"]


@pytest.mark.study
def test_a_nan_is_an_error_that_names_client_round_and_step() -> None:
    held = clients((8, 8, 8))
    held[1][0][5] = NAN
    fed = Federation(net(), nn.functional.cross_entropy, held, fraction=1.0, engine="batched")
    with pytest.raises(
        JostleError, match=r"client 1: delta holds NaN or infinity in round 0, first after local step \d"
    ):
        fed.start(FedSpeed(), Local(batch_size=4)).advance()
    forgiving = Federation(net(), nn.functional.cross_entropy, held, fraction=1.0, on_bad_client="drop")
    row = forgiving.start(FedSpeed(), Local(batch_size=4)).advance()
    assert row["accepted"] == 2 and "client 1" in row["refused"][0]


@pytest.mark.study
def test_a_client_that_lost_its_vectors_resets_the_federation_and_the_limit_is_right() -> None:
    course = PROBLEM.federation().start(FedDyn(prox_mu=2.0), local())
    for _ in range(20):
        course.advance()
    course.memories[3] = Memory()
    row = course.advance()
    assert row["reset"] and "has lost its state" in row["refused"][0] and course.server.generation == 1
    for _ in range(110):
        course.advance()
    assert (course.server.x - PROBLEM.minimiser()).abs().max() < 1e-12


def test_without_a_reset_the_others_go_on() -> None:
    course = PROBLEM.federation(on_lost_state="refuse").start(FedDyn(prox_mu=1.0), local())
    for _ in range(5):
        course.advance()
    course.memories[3] = Memory()
    rows = [course.advance() for _ in range(3)]
    assert [row["accepted"] for row in rows] == [4, 4, 4] and course.server.generation == 0


@pytest.mark.study
@pytest.mark.parametrize("algorithm", [FedDyn(prox_mu=1.0), Scaffold()], ids=lambda a: a.name)
def test_a_server_with_copies_gives_back_what_was_lost(algorithm) -> None:
    whole = PROBLEM.federation().start(algorithm, local())
    broken = PROBLEM.federation(keep_states=True).start(algorithm, local())
    for t in range(20):
        if t == 10:
            broken.memories[3] = Memory()
        whole.advance()
        broken.advance()
    assert torch.equal(whole.server.x, broken.server.x)


@pytest.mark.study
def test_forgetting_silently_spoils_the_limit() -> None:
    """The reason for all this: a client that starts again from zero, unknown to the server."""
    course = PROBLEM.federation().start(FedDyn(prox_mu=1.0), local())
    for _ in range(50):
        course.advance()
    course.memories[3] = Memory(round=course.server.last(3))
    for _ in range(60):
        course.advance()
    assert (course.server.x - PROBLEM.minimiser()).abs().max() > 0.01


def test_memory_in_two_phases(tmp_path) -> None:
    one, two = {"h": torch.ones(2)}, {"h": torch.full((2,), 2.0)}
    memory = Memory()
    memory.propose(0, one)
    assert memory.recall(0) == one
    memory.propose(4, two)
    memory.save(tmp_path / "m.safetensors")
    for accepted, wanted in ((0, one), (4, two)):
        again = Memory.load(tmp_path / "m.safetensors")
        assert torch.equal(again.recall(accepted)["h"], wanted["h"])
    with pytest.raises(LostState, match="accepted round 7 of this client, whose memory ends with round 0"):
        Memory.load(tmp_path / "m.safetensors").recall(7)
    assert Memory.load(tmp_path / "absent.safetensors").recall(-1) == {}
    assert Memory.load(tmp_path / "m.safetensors").recall(-1, generation=1) == {}
    with pytest.raises(JostleError, match="must not go back"):
        Memory(generation=2).recall(-1, generation=1)
    (tmp_path / "m.safetensors").write_bytes(b"junk")
    with pytest.raises(JostleError, match="cannot be read"):
        Memory.load(tmp_path / "m.safetensors")


@pytest.mark.study
def test_empty_clients() -> None:
    held = clients((6, 0, 6))
    fed = Federation(net(), nn.functional.cross_entropy, held, fraction=1.0)
    row = fed.start(FedSpeed(), Local()).advance()
    assert row["accepted"] == 2 and row["refused"] == ["client 1: holds no data"]
    with pytest.raises(JostleError, match="client 1 holds no data"):
        Federation(net(), nn.functional.cross_entropy, held, fraction=1.0, on_empty="error").start(
            FedSpeed(), Local()
        ).advance()


@pytest.mark.study
def test_a_diverged_server_says_so() -> None:
    with pytest.raises(JostleError, match="not finite|NaN or infinity"):
        federation(engine="sequential").run(FedAvg(), rounds=60, lr=1e6, weight_decay=1.0, clip_mode=None)
