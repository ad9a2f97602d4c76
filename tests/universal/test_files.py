import numpy as np
import pytest
import torch

from jostle.core.errors import JostleError
from jostle.universal.files import read_authors, read_port, write_authors, write_port


@pytest.fixture
def delta():
    return (torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 10 / 255


def test_authors_layout_by_hand(tmp_path):
    bgr = np.zeros((1, 2, 4, 3), np.float32)
    bgr[0, 1, 3] = (10, -5, 2.55)  # blue, green, red
    np.save(tmp_path / "uap.npy", bgr)
    delta = read_authors(tmp_path / "uap.npy")
    assert delta.shape == (1, 3, 2, 4) and delta.dtype == torch.float32
    assert delta[0, :, 1, 3].tolist() == pytest.approx([0.01, -5 / 255, 10 / 255])
    assert delta.abs().sum() == pytest.approx((10 + 5 + 2.55) / 255)


@pytest.mark.parametrize("write, read", [(write_authors, read_authors), (write_port, read_port)])
def test_round_trip(tmp_path, delta, write, read):
    write(tmp_path / "uap.npy", delta)
    assert torch.allclose(read(tmp_path / "uap.npy"), delta, atol=1e-8)
    assert [path.name for path in tmp_path.iterdir()] == ["uap.npy"]


def test_layouts_on_disk(tmp_path, delta):
    write_authors(tmp_path / "a.npy", delta)
    write_port(tmp_path / "p.npy", delta)
    authors, port = np.load(tmp_path / "a.npy"), np.load(tmp_path / "p.npy")
    assert authors.shape == (1, 5, 7, 3) and port.shape == (1, 3, 5, 7)
    assert np.allclose(authors[0, ..., 0], 255 * port[0, 2])  # blue first


def test_arrays_without_a_batch_axis_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 5, 3), 3.0))
    np.save(tmp_path / "p.npy", np.full((3, 4, 5), 0.01))
    assert read_authors(tmp_path / "a.npy").shape == (1, 3, 4, 5)
    assert read_port(tmp_path / "p.npy").shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    "array, sentence",
    [
        (np.zeros((1, 3, 4, 5)), "read_port's layout"),
        (np.zeros((4, 5)), r"\(H, W, 3\), but \(4, 5\) came"),
        (np.full((4, 5, 3), 0.03), "read_port reads units"),
        (np.full((4, 5, 3), 200.0), "at most 64"),
        (np.full((4, 5, 3), np.nan), "NaN or infinite"),
        (np.zeros((4, 5, 3), complex), "real numbers"),
        (np.zeros((0, 5, 3)), "empty"),
        (np.array([{"a": 1}], dtype=object), "plain numbers"),
    ],
)
def test_authors_reader_refuses(tmp_path, array, sentence):
    np.save(tmp_path / "uap.npy", array, allow_pickle=True)
    with pytest.raises(JostleError, match=sentence) as raised:
        read_authors(tmp_path / "uap.npy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "array, sentence",
    [
        (np.zeros((1, 4, 5, 3)), "read_authors' layout"),
        (np.full((3, 4, 5), 10.0), "read_authors reads units"),
    ],
)
def test_port_reader_refuses(tmp_path, array, sentence):
    np.save(tmp_path / "uap.npy", array)
    with pytest.raises(JostleError, match=sentence):
        read_port(tmp_path / "uap.npy")


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(JostleError, match="there is no file"):
        read_port(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(JostleError, match=r"not a \.npy file"):
        read_port(tmp_path / "text.npy")
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    with pytest.raises(JostleError, match="archive"):
        read_port(tmp_path / "many.npz")


@pytest.mark.parametrize("write", [write_authors, write_port])
def test_writers_refuse_and_leave_nothing(tmp_path, write):
    for bad, sentence in [
        (torch.zeros(1, 1, 4, 4), "shape"),
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (torch.full((1, 3, 4, 4), 10.0), "units of"),
    ]:
        with pytest.raises(JostleError, match=sentence):
            write(tmp_path / "uap.npy", bad)
    assert not list(tmp_path.iterdir())


def test_a_write_that_breaks_keeps_the_old_file(tmp_path, delta, monkeypatch):
    path = tmp_path / "uap.npy"
    write_port(path, delta)

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", broken)
    with pytest.raises(JostleError, match="disk full"):
        write_port(path, delta * 0)
    monkeypatch.undo()
    assert torch.allclose(read_port(path), delta)
    assert [entry.name for entry in tmp_path.iterdir()] == ["uap.npy"]
