"""Weights from files: what is read, what is refused, what does not fit."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jostle.core.errors import JostleError
from jostle.zoo.weights import fill, read_state, require_finite


class Bomb:
    """What unpickling would run."""

    def __reduce__(self):
        return (Path("touched").touch, ())


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_round_trip(tmp_path, suffix, nest):
    source, target = net(), net()
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict() if nest is None else {nest: source.state_dict(), "epoch": 3}, path)
    fill(target, read_state(path), "file")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


@pytest.mark.parametrize("content", [{"weights": Bomb()}, Bomb()])
def test_pickles_are_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "evil.pth")
    Path("bare.pt").write_bytes(pickle.dumps(content))
    for name in ("evil.pth", "bare.pt"):
        with pytest.raises(JostleError, match=f"{name} holds pickled objects, which are not loaded"):
            read_state(name)
    assert not Path("touched").exists()


def test_whole_pickled_model_is_refused(tmp_path):
    torch.save(net(), tmp_path / "model.pt")
    with pytest.raises(JostleError, match=r"holds pickled objects.*save model.state_dict"):
        read_state(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x00" * 64])
def test_broken_files(tmp_path, suffix, content):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(JostleError, match=rf"w{suffix} (is not a readable|holds pickled)"):
        read_state(tmp_path / f"w{suffix}")


def test_absent_and_foreign_files(tmp_path):
    with pytest.raises(JostleError, match=r"none.pth does not exist"):
        read_state(tmp_path / "none.pth")
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(JostleError, match=r"a .safetensors, .pth or .pt file, but 'w.h5' came"):
        read_state(tmp_path / "w.h5")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    for name in ("none.pt", "list.pt"):
        with pytest.raises(JostleError, match=r"holds no state dict"):
            read_state(tmp_path / name)


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module.model."])
def test_prefixes_of_wrappers_come_off(prefix):
    source, target = net(), net()
    if prefix == "module.model.":  # taken off one after the other, whatever their order
        prefix = "model.module."
    fill(target, {prefix + key: value for key, value in source.state_dict().items()}, "file")
    assert torch.equal(target[2].weight, source[2].weight)


def test_part_called_model_keeps_its_name():
    source, target = nn.Module(), nn.Module()
    source.model, target.model = nn.Linear(2, 2), nn.Linear(2, 2)
    fill(target, source.state_dict(), "file")
    assert torch.equal(target.model.weight, source.model.weight)


def test_misfits_name_the_first_tensor():
    state = net().state_dict()
    with pytest.raises(JostleError, match=r"from file lack '2.bias', which the model has"):
        fill(net(), {key: value for key, value in state.items() if key != "2.bias"}, "file")
    with pytest.raises(JostleError, match=r"from file hold '3.bias', which the model lacks"):
        fill(net(), state | {"3.bias": torch.ones(1)}, "file")
    with pytest.raises(JostleError, match=r"'0.weight' of shape \(5, 3\), but the model wants \(4, 3\)"):
        fill(net(), state | {"0.weight": torch.ones(5, 3)}, "file")


def test_misfit_changes_nothing():
    target = net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(JostleError):
        fill(target, {key: value + 1 for key, value in before.items()} | {"2.bias": torch.ones(9)}, "file")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_counter_of_batch_norm_may_be_absent():
    state = {key: value for key, value in net().state_dict().items() if "num_batches" not in key}
    target = net()
    fill(target, state, "file")
    assert torch.equal(target[0].weight, state["0.weight"])


def test_fresh_classifier_takes_the_body_only():
    source, target = net(), net()
    target[2] = nn.Linear(4, 7)
    head = target[2].weight.clone()
    fill(target, source.state_dict(), "file", fresh=7)
    assert torch.equal(target[0].weight, source[0].weight) and torch.equal(target[2].weight, head)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers(value):
    model = net()
    require_finite(model, "file")
    with torch.no_grad():
        model[2].bias[1] = value
    with pytest.raises(JostleError, match=r"file has NaN or infinite values in '2.bias'"):
        require_finite(model, "file")


def test_broken_buffer():
    model = net()
    model[1].running_mean[0] = float("nan")
    with pytest.raises(JostleError, match=r"file has NaN values in '1.running_mean'"):
        require_finite(model, "file")
