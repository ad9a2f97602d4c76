"""Files are written whole or not at all."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from jostle.core.errors import JostleError
from jostle.files import plain, read_json, whole, write_json, write_text


def test_an_exception_leaves_the_old_content_and_no_draft(tmp_path):
    path = tmp_path / "page.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), whole(path) as draft:
        draft.write_text("new, but")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.txt"]


def test_a_kill_leaves_the_old_content(tmp_path):
    path = tmp_path / "page.txt"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from jostle.files import whole\n"
        "with whole(Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"


def test_the_draft_keeps_the_suffix_and_folders_are_made(tmp_path):
    with whole(tmp_path / "a" / "b" / "figure.svg") as draft:
        assert draft.suffix == ".svg"
        draft.write_text("<svg/>")
    assert (tmp_path / "a" / "b" / "figure.svg").read_text() == "<svg/>"


def test_a_bad_folder_is_a_sentence(tmp_path):
    write_text(tmp_path / "file", "not a folder")
    with pytest.raises(JostleError, match=r"could not write .*page.txt: "):
        write_text(tmp_path / "file" / "page.txt", "text")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(JostleError, match=r"could not write .*: Permission denied"):
            write_text(tmp_path / "page.txt", "text")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_a_sentence_and_nothing_is_lost(tmp_path):
    path = tmp_path / "page.txt"
    write_text(path, "old")
    with (
        pytest.raises(JostleError, match=r"could not write .*: No space left on device"),
        whole(path) as draft,
    ):
        draft.symlink_to("/dev/full")
        draft.write_text("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.txt"]


def test_json_is_strict_and_takes_tensors_arrays_and_paths(tmp_path):
    value = {
        1: (np.float32(0.5), float("nan")),
        "t": torch.eye(2),
        "n": np.int64(3),
        "p": tmp_path,
        "b": np.bool_(True),
    }
    write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text()
    expected = {"1": [0.5, None], "t": [[1.0, 0.0], [0.0, 1.0]], "n": 3, "p": str(tmp_path), "b": True}
    assert json.loads(text) == expected == plain(value)
    assert "NaN" not in text


def test_a_broken_or_absent_json_file_is_a_sentence(tmp_path):
    with pytest.raises(JostleError, match=r"could not read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": 1, ')
    with pytest.raises(JostleError, match=r"half\.json is not valid JSON"):
        read_json(tmp_path / "half.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JostleError, match=r"bytes\.json is not valid JSON"):
        read_json(tmp_path / "bytes.json")
