"""The command line's functions on files of a user's own."""

import json

import numpy as np
import pytest
import torch

from jostle.cli import main
from jostle.core.errors import JostleError
from jostle.timescales import LeakyRNN, MemoryTask, NParity, Snapshot, measure, snapshots, train, training
from jostle.timescales.verbs import ablation, drive, retrain, sweep


def recording(samples=20000):
    from scipy.signal import lfilter

    noise = np.random.default_rng(0).normal(size=(samples, 2))
    return np.stack([lfilter([1], [1, -np.exp(-1 / t)], noise[:, i]) for i, t in enumerate((4.0, 12.0))], 1)


class Last(NParity):
    """The last bit itself."""

    def labels_in_time(self, bits, N):
        return bits[:, N - 1 :].long()

    labels = MemoryTask.labels


@pytest.fixture
def knows(monkeypatch):
    monkeypatch.setitem(snapshots.TASKS, "parity", Last)
    found = train(hidden=12, max_N=3, max_steps=600, patience=50, batch=64)
    assert found.N == 3
    return found


def test_a_network_that_remembers_is_perturbed(knows):
    found = sweep(knows, kind="tau_abs", draws=2)
    assert list(found["relative"])[:2] == ["0", "0.001"]
    assert found["relative"]["0"] == pytest.approx(1)
    assert found["accuracy"] > 0.95
    assert set(ablation(knows, count=3, draws=2)) == {"N", "accuracy", "without_one_fast", "without_one_slow"}


@pytest.mark.study
def test_every_curriculum_has_the_heads_that_it_asks(monkeypatch):
    little = {"hidden": 4, "max_steps": 1, "batch": 4}
    made = {
        "multi": (5, 4),
        "single": (5, 1),
        "direct": (5, 1),
        "sliding": (13, 15),
    }  # its last window: 7 to 16
    for curriculum, (max_N, heads) in made.items():
        assert train(curriculum=curriculum, max_N=max_N, **little).network.heads == heads
    with pytest.raises(JostleError, match="max_N must be at least 11, where sliding begins"):
        train(curriculum="sliding", **little)
    monkeypatch.setitem(snapshots.TASKS, "parity", Last)
    once = train(curriculum="direct", hidden=12, max_N=4, max_steps=400, patience=50, batch=64)
    assert (once.N, once.head, once.record["status"]) == (4, 0, "finished")
    assert ablation(once, count=3, draws=2)["accuracy"] > 0.95


@pytest.mark.study
def test_the_shell_writes_what_the_verbs_make(tmp_path, capsys):
    np.savetxt(tmp_path / "rates.csv", recording(5000), delimiter=",")
    for name in ("units.csv", "units.json"):
        assert (
            main(["timescales", "measure", str(tmp_path / "rates.csv"), "--out", str(tmp_path / name)]) == 0
        )
    assert len((tmp_path / "units.csv").read_text().splitlines()) == 3
    assert len(json.loads((tmp_path / "units.json").read_text())["units_table"]["tau"]) == 2
    net = str(tmp_path / "net.safetensors")
    how = ["--hidden", "6", "--max-steps", "4", "--patience", "2", "--batch", "8"]
    assert main(["timescales", "train", *how, "--out", net]) == 0
    drive = ["timescales", "drive", net, "--steps", "2500", "--trials", "2", "--max-lag", "40"]
    assert main([*drive, "--out", str(tmp_path / "neurons.csv")]) == 0
    assert len((tmp_path / "neurons.csv").read_text().splitlines()) == 7
    assert "tau of unit.5" in capsys.readouterr().out
    assert main(["timescales", "measure", str(tmp_path / "rates.csv"), "--out", "x.txt"]) == 2
    assert ".csv or .json" in capsys.readouterr().err


@pytest.mark.study
def test_a_network_of_the_users_own_is_probed_from_its_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom jostle import timescales as ts\n"
        "def net():\n    torch.manual_seed(0)\n    return ts.CellNetwork(torch.nn.GRUCell(1, 5), 5, 3)\n"
        "def known():\n    return ts.Snapshot(net(), 'parity', 3, 1)\n"
        "def other():\n    return 3\n"
    )
    seen = drive(Snapshot.load(f"{tmp_path}/mine.py:net"), steps=2500, trials=2, max_lag=40)
    assert seen.numbers()["units"] == 5
    knows = Snapshot.load(f"{tmp_path}/mine.py:known")
    assert retrain(knows, target=4, epochs=1, steps=2, batch=8)["N"] == 3
    with pytest.raises(JostleError, match="time constants"):
        ablation(knows)
    with pytest.raises(JostleError, match="only a LeakyRNN"):
        knows.save(tmp_path / "mine.safetensors")
    with pytest.raises(JostleError, match="must give a Snapshot"):
        Snapshot.load(f"{tmp_path}/mine.py:other")


def test_a_clock_is_not_a_unit(tmp_path):
    x = recording(3000)
    np.savetxt(
        tmp_path / "timed.csv", np.c_[0.5 * np.arange(3000), x], delimiter=",", header="t,a,b", comments=""
    )
    np.savetxt(tmp_path / "plain.csv", x, delimiter=",")
    with pytest.warns(UserWarning, match="clock"):
        timed = measure(tmp_path / "timed.csv", max_lag=40)
    np.testing.assert_array_equal(timed.fit.tau, measure(tmp_path / "plain.csv", max_lag=40).fit.tau)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_a_recording_is_measured_from_any_format(tmp_path, suffix):
    path = tmp_path / f"rates{suffix}"
    x = recording()
    if suffix == ".npy":
        np.save(path, x)
    elif suffix == ".npz":
        np.savez(path, rates=x)
    else:
        np.savetxt(path, x, delimiter=",", header="a,b", comments="")
    found = measure(path, step=5.0, max_lag=60)
    np.testing.assert_allclose(found.fit.single[:, 0], [4, 12], rtol=0.25)
    assert found.table()["tau"][0] == 5 * found.fit.tau[0]
    assert found.numbers()["units"] == 2
    found.save(tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("unit,tau,double")
    found.save(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["good"] == found.numbers()["good"]
    with pytest.raises(JostleError, match=r"out must end in \.csv or \.json"):
        found.save(tmp_path / "out.txt")


def test_files_that_are_no_recording_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros(5), b=np.zeros(5))
    (tmp_path / "words.csv").write_text("a\nb\nc\n")
    (tmp_path / "semicolons.csv").write_text("1;2\n3;4\n5;6\n")
    (tmp_path / "empty.csv").write_text("")
    np.save(tmp_path / "complex.npy", np.ones(500) * 1j)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, word in [
        ("gone.npy", "could not read"),
        ("two.npz", "a, b"),
        ("rates.mat", "must end in"),
        ("objects.npy", "numeric array"),
        ("words.csv", "commas"),
        ("semicolons.csv", "commas"),
        ("empty.csv", "empty"),
        ("complex.npy", "real"),
    ]:
        with pytest.raises(JostleError, match=word):
            measure(tmp_path / name)


@pytest.mark.study
def test_a_trained_network_is_kept_and_probed(tmp_path):
    done = []
    kept = train(
        hidden=12, max_N=3, max_steps=20, patience=10, batch=16, callback=lambda *now: done.append(now)
    )
    assert [now[0] for now in done] == [10, 20]
    kept.save(tmp_path / "net.safetensors")
    again = Snapshot.load(tmp_path / "net.safetensors")
    assert again.numbers() == kept.numbers()
    for a, b in zip(kept.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(JostleError, match="passed no N"):
        sweep(again)
    knows = Snapshot(again.network, "parity", 3, 1)
    with pytest.raises(JostleError, match="at chance"):
        sweep(knows, draws=2)
    with pytest.raises(JostleError, match="at chance"):
        ablation(knows, count=3, draws=2)
    seen = drive(again, steps=2500, trials=2, max_lag=40)
    assert seen.numbers()["units"] == 12
    seen.save(tmp_path / "units.csv")
    assert len((tmp_path / "units.csv").read_text().splitlines()) == 13
    found = retrain(knows, target=4, epochs=2, steps=5, batch=8, callback=lambda *now: done.append(now))
    assert [now[0] for now in done[2:]] == [5, 10]
    assert 0.3 < found["accuracy"] < 0.7
    with pytest.raises(JostleError, match="target"):
        retrain(knows, target=1)


@pytest.mark.study
def test_a_training_that_was_killed_goes_on_as_if_unbroken(tmp_path, monkeypatch):
    how = {"hidden": 8, "max_N": 3, "patience": 5, "batch": 16}
    whole, cut = train(max_steps=24, **how), tmp_path / "cut.pt"
    step = training._step

    def killed(run, *rest):
        if run.steps == 13:
            raise MemoryError
        step(run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_step", killed)
        with pytest.raises(MemoryError):
            train(max_steps=24, checkpoint=cut, **how)
    done = []
    rest = train(max_steps=24, checkpoint=cut, resume=cut, callback=lambda *now: done.append(now[0]), **how)
    assert done == [15, 20]  # the checkpoint was of step 10
    # At its end, between two tests, it is kept once more: an end in two parts is the same, too.
    train(max_steps=17, checkpoint=tmp_path / "part.pt", **how)
    parts = train(max_steps=24, resume=tmp_path / "part.pt", **how)
    for other in (rest, parts, train(max_steps=24, resume=cut, **how)):
        assert other.numbers() == whole.numbers()
        for a, b in zip(
            whole.network.state_dict().values(), other.network.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b)
    with pytest.raises(JostleError, match="seed = 0, but 1 came"):
        train(max_steps=24, resume=cut, seed=1, **how)
    cut.write_bytes(cut.read_bytes()[:1000])
    for name, word in [("cut.pt", "cannot be read"), ("gone.pt", "does not exist")]:
        with pytest.raises(JostleError, match=word):
            train(resume=tmp_path / name, **how)
    torch.save({"kind": "other", "settings": {}, "state": {}}, tmp_path / "other.pt")
    with pytest.raises(JostleError, match="not of a training"):
        train(resume=tmp_path / "other.pt", **how)


def test_settings_of_a_network_survive_its_file(tmp_path):
    net = LeakyRNN(
        5,
        2,
        tau=2.5,
        train_tau=False,
        shared_tau=True,
        placement="continuous",
        substeps=(2, 4),
        nonlinearity="tanh",
    )
    Snapshot(net, "dms", 4, 1, {"steps": 3}).save(tmp_path / "net.safetensors")
    again = Snapshot.load(tmp_path / "net.safetensors")
    assert (again.task, again.N, again.head, again.record) == ("dms", 4, 1, {"steps": 3})
    assert again.network.substeps == (2, 4)
    assert not again.network.tau_raw.requires_grad
    x = torch.ones(2, 5)
    start = net.initial_state(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.states(x, start)[1], again.network.states(x, start)[1])


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for name in ("x.safetensors", "gone.safetensors"):
        with pytest.raises(JostleError, match="not a network"):
            Snapshot.load(tmp_path / name)
