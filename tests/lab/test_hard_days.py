"""What days do to a study: each of the nine is killed, stopped, left without space and handed broken files."""

import json
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from tiny import KILLED, TINY, Process, forked, in_place_of_lite, told, typed

from jostle import lab
from jostle.lab import sweeps
from jostle.quantization import study as quantization

pytestmark = pytest.mark.study
every_study = pytest.mark.parametrize("key", TINY)


class Unbroken:
    """A run that nothing befell: what it says, and after how many seconds of computing it had done what."""

    def __init__(self, key: str, root: Path) -> None:
        code, printed = Process(["run", key, *typed(TINY[key])], root, times=root / "times.json").end()
        assert code == 0, printed
        assert "settings changed: " in " ".join(printed.split())
        self.told = told(_folder(root, key))
        self.times = json.loads((root / "times.json").read_text())
        self.stages = {n: t for n, t in self.times.items() if n.endswith(".pt") and ".partial" not in n}
        self.stretches = list(pairwise([0.0, *sorted(self.times.values())]))

    def left(self, moment: float, folder: Path | None) -> float:
        """How long it takes to where this run was at `moment`, for a process that takes up what lies in `folder`."""
        kept = [] if folder is None else list(folder.glob("checkpoints/*.pt"))
        if not kept:
            return max(moment, 1e-3)
        begun = self.times["begun"]
        done = max((self.stages[path.name] for path in kept if path.name in self.stages), default=begun)
        amid = [torch.load(path, weights_only=True) for path in kept if path.name.endswith(".partial.pt")]
        spent = sum(state["seconds"] for state in amid if isinstance(state, dict) and "seconds" in state)
        return begun + max(0.0, moment - done - spent)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unbroken]:
    """`unbroken(key)`: the unbroken run of a study, once for all tests."""
    kept: dict[str, Unbroken] = {}

    def of(key: str) -> Unbroken:
        if key not in kept:
            kept[key] = Unbroken(key, tmp_path_factory.mktemp(key))
        return kept[key]

    return of


def _folder(root: Path, key: str) -> Path | None:
    found = [path.parent for path in root.glob(f"{key}/*/config.json")]
    return found[0] if found else None


def _finished(root: Path, key: str) -> bool:
    folder = _folder(root, key)
    return folder is not None and all((folder / name).exists() for name in ("result.json", "report.html"))


def _words(key: str, folder: Path | None) -> list[str]:
    return ["run", key, *typed(TINY[key])] if folder is None else ["run", "--resume", str(folder)]


def _befallen(key: str, root: Path, whole: Unbroken, fate: str, moment: float, code: int) -> str:
    """Start the study or take it up, and let `fate` meet it where the unbroken run was at `moment`."""
    before, haste = root.with_name("before"), 1.0
    while True:
        shutil.rmtree(before, ignore_errors=True)
        if root.exists():
            shutil.copytree(root, before)
        folder = _folder(root, key)
        ended, printed = Process(_words(key, folder), root, fate, haste * whole.left(moment, folder)).end()
        if ended == code:
            return printed
        assert ended == 0, printed
        # It was done sooner than the unbroken run: again, and earlier.
        moment *= 0.8
        if (
            fate == "kill"
        ):  # may come before anything begins: what is nearly done may end sooner than it began then
            haste *= 0.8
        assert moment > 1e-3, f"nothing came of {fate}"
        shutil.rmtree(root)
        if before.exists():
            shutil.copytree(before, root)


@every_study
def test_killed_at_ten_random_moments_and_resumed(key, unbroken, tmp_path):
    whole, root, dice = unbroken(key), tmp_path / "runs", random.Random(f"kill {key}")
    # In a random stretch between two finished stages, so that long stages do not draw all of them.
    for moment in sorted(dice.uniform(*dice.choice(whole.stretches)) for _ in range(10)):
        if not _finished(root, key):  # else the last kill came after all was done
            _befallen(key, root, whole, "kill", moment, KILLED)
    if not _finished(root, key):
        code, printed = Process(_words(key, _folder(root, key)), root).end()
        assert code == 0, printed
    found, wanted = told(_folder(root, key)), whole.told
    assert found["files"] == wanted["files"], set(found["files"]) ^ set(wanted["files"])
    assert found == wanted


def _sentence(printed: str, *parts: str) -> None:
    """That what was printed is one sentence of ours beside notes, and says so."""
    words = " ".join(printed.split())
    assert "Traceback" not in words and words.count("jostle: ") - words.count("jostle: note: ") == 1, printed
    for part in parts:
        assert part in words.replace("- ", "-"), printed


@every_study
def test_a_full_disk_ctrl_c_and_broken_files_lose_nothing(key, unbroken, tmp_path):
    whole, root, dice = unbroken(key), tmp_path / "runs", random.Random(f"harm {key}")
    stages = whole.stages.values()
    printed = _befallen(key, root, whole, "full", dice.uniform(whole.times["begun"], max(stages)), 2)
    _sentence(printed)
    assert "could not write" in printed or "the system said" in printed
    # When something is kept; a single stage keeps it task by task.
    begin = min(stages) if len(stages) > 1 else (whole.times["begun"] + max(stages)) / 2
    _sentence(_befallen(key, root, whole, "stop", dice.uniform(begin, max(stages)), 130), "stopped by hand")
    folder = _folder(root, key)
    assert folder is not None
    assert json.loads((folder / "status.json").read_text()) == {
        "state": "interrupted",
        "message": "stopped by hand",
    }

    def refused(*parts: str) -> None:
        code, printed = Process(_words(key, folder), root).end()
        assert code == 2, printed
        _sentence(printed, *parts)

    config = folder / "config.json"
    written = config.read_text()
    record = json.loads(written)
    for text, sentence in (
        (written[: len(written) // 2], "is not valid JSON"),
        (json.dumps({**record, "config": {**record["config"], "sead": 1}}), "config has no field 'sead'"),
        (
            json.dumps({**record, "config": {**record["config"], "seed": "1"}}),
            "'seed' must be int, but '1' came",
        ),
    ):
        config.write_text(text)
        refused(sentence)
    config.write_text(written)

    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    refused("could not write in the run folder")
    (folder / ".lock").rmdir()

    kept = sorted(folder.glob("checkpoints/*"))
    for kind in {path.suffix for path in kept}:
        torn = dice.choice([path for path in kept if path.suffix == kind])
        torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
        refused("cannot be read", "delete it")
        torn.unlink()
    code, printed = Process(_words(key, folder), root).end()
    assert code == 0, printed
    assert told(folder) == whole.told


@every_study
@pytest.mark.filterwarnings("ignore:the series has")
def test_workers_give_the_numbers_of_one_process(key, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "parallel", forked)
    monkeypatch.setattr(Figure, "savefig", lambda _, where, **how: Path(where).write_text("a picture"))
    monkeypatch.setattr(quantization, "load_model", in_place_of_lite)
    made = lab.run(key, root=tmp_path, **TINY[key])
    assert told(made.folder) == unbroken(key).told


@pytest.mark.parametrize("key", TINY)
def test_a_place_that_takes_no_folder_is_a_sentence(key, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        code, printed = Process(["run", key], place).end()
        assert code == 2
        _sentence(printed, "could not make the run folder")


@pytest.mark.parametrize(
    ("key", "settings", "sentence"),
    [
        (
            "universal",
            {"data": "photographs"},
            "data must have the model's channels, 1, but photographs has 3",
        ),
        ("universal", {"seeds": 0}, "seeds must be at least 1, but 0 came"),
        ("federated", {"interval_seeds": 9}, "interval_seeds must be at most seeds"),
        ("quantization", {"repeats": 1}, "repeats must be at least 5, but 1 came"),
        ("collapse", {"decay_epochs": 2}, "decay_epochs must be at least 3, but 2 came"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_work(key, settings, sentence, tmp_path):
    code, printed = Process(["run", key, *typed({**TINY[key], **settings})], tmp_path).end()
    assert code == 2
    _sentence(printed, sentence)
    assert not list(tmp_path.rglob("*.pt"))
