"""Tables of certificates: figures, files, and a certification that was cut off."""

import pytest
import torch
from torch import nn

from jostle.core.errors import JostleError
from jostle.smoothing import Certificates, SmoothedClassifier


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, 6, generator=torch.Generator().manual_seed(0))


def certify(net, images, **changes):
    labels = torch.arange(len(images)) % 3
    return SmoothedClassifier(net, changes.pop("sigma", 0.25), batch=64).certify(
        images, labels=labels, n_max=1000, radii=(0.0, 0.1, 0.25), **changes
    )


def table(prediction, radius, label):
    count = len(label)
    integers = {
        name: torch.zeros(count, dtype=torch.int64) for name in ("name", "candidate", "hits", "draws", "used")
    }
    return Certificates(
        **integers,
        label=torch.tensor(label),
        prediction=torch.tensor(prediction),
        radius=torch.tensor(radius, dtype=torch.float64),
        p_lower=torch.zeros(count, dtype=torch.float64),
        settings={"alpha": 0.001, "sigma": 0.5, "method": "fixed", "grid": [0.0, 0.5]},
    )


def test_certified_accuracy_counts_right_answers_with_the_radius():
    found = table([0, 1, -1, 2], [0.5, 0.4999, 0.0, 1.0], [0, 1, 2, 0])
    assert [found.accuracy(r) for r in (0.0, 0.4999, 0.5, 0.51)] == [0.5, 0.5, 0.25, 0.0]
    assert [found.certified(r) for r in (0.0, 0.5, 1.0)] == [0.75, 0.5, 0.25]
    assert found.average_radius() == pytest.approx((0.5 + 0.4999) / 4)
    assert found.abstained == 0.25
    low, high = found.interval(0.0)
    assert low < 0.5 < high
    assert found.numbers()["false certificates to expect at most"] == pytest.approx(0.004)


def test_without_labels_there_is_a_certified_share_and_no_accuracy():
    found = table([0, -1], [0.5, 0.0], [-1, -1])
    assert found.accuracy() == 0.0 and found.certified() == 0.5
    assert "average certified radius" not in found.numbers()
    assert found.numbers()["certified share at radius"] == {"0": 0.5, "0.5": 0.5}


def test_accuracy_does_not_increase_with_the_radius(net, images):
    found = certify(net, images)
    shares = [found.accuracy(r / 20) for r in range(10)]
    assert shares == sorted(shares, reverse=True)


def test_a_file_gives_back_the_table(net, images, tmp_path):
    found = certify(net, images)
    found.save(tmp_path / "c.parquet")
    again = Certificates.load(tmp_path / "c.parquet")
    assert again.settings == found.settings and torch.equal(again.radius, found.radius)
    assert again.numbers() == found.numbers()
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(tmp_path / "c.parquet").column_names
    assert {"name", "label", "prediction", "radius", "correct", "p_lower", "used"} <= set(columns)
    assert {"alpha", "sigma", "n_max", "n0", "seed", "method", "dtype"} <= set(again.settings)


def test_a_cut_off_certification_goes_on_with_the_same_numbers(net, images, tmp_path, monkeypatch):
    from jostle.smoothing.certificates import Ledger

    whole = certify(net, images)
    monkeypatch.setattr(Ledger, "every", -1.0)
    done = []

    def stop(count, total, sentence):
        done.append(sentence)
        if count == 5:
            raise KeyboardInterrupt

    keep = tmp_path / "c.parquet"
    with pytest.raises(KeyboardInterrupt):
        certify(net, images, keep=keep, callback=stop)
    assert 1 <= len(Certificates.load(keep)) < 12
    rows = []
    again = certify(net, images, keep=keep, callback=lambda count, total, sentence: rows.append(count))
    assert len(set(rows)) < 12 and rows[-1] == 12
    for name in ("name", "label", "prediction", "radius", "hits", "used"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert Certificates.load(keep).numbers() == whole.numbers()
    # All is there: nothing is drawn again.
    certify(net, images, keep=keep, callback=lambda *_: pytest.fail("drawn again"))


def test_progress_is_told_before_the_first_image_is_done(net, images, monkeypatch):
    from jostle.smoothing import smoothed

    monkeypatch.setattr(smoothed._Progress, "every", -1.0)
    told = []
    found = certify(net, images, callback=lambda *row: told.append(row))
    counts = [done for done, _, _ in told]
    assert counts[0] == 0 and counts == sorted(counts) and told[0][2].endswith("draws")
    assert any(", about " in sentence and sentence.endswith("left") for _, _, sentence in told)
    assert told[-1] == (12, 12, f"{int(found.used.sum()):,} draws")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"sigma": 0.5}, "sigma 0.25"), ({"alpha": 0.01}, "alpha 0.001"), ({"seed": 1}, "seed 0")],
)
def test_a_file_of_other_settings_is_refused(net, images, tmp_path, change, says):
    keep = tmp_path / "c.parquet"
    certify(net, images[:2], keep=keep)
    with pytest.raises(JostleError, match=says):
        certify(net, images[:2], keep=keep, **change)


def test_a_file_of_other_images_or_weights_is_refused(net, images, tmp_path):
    keep = tmp_path / "c.parquet"
    certify(net, images[:2], keep=keep)
    with pytest.raises(JostleError, match="inputs"):
        certify(net, images[2:4], keep=keep)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(JostleError, match="weights"):
        certify(other, images[:2], keep=keep)


def test_broken_files_are_named(net, images, tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"nonsense")
    with pytest.raises(JostleError, match="not a table of certificates"):
        certify(net, images, keep=tmp_path / "b.parquet")
    with pytest.raises(JostleError, match="must end in .parquet"):
        certify(net, images, keep=tmp_path / "b.csv")
    with pytest.raises(JostleError, match="folder that does not exist"):
        certify(net, images, keep=tmp_path / "no" / "b.parquet")
    with pytest.raises(JostleError, match="do not exist"):
        Certificates.load(tmp_path / "none.parquet")
