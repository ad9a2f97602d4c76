"""Several studies side by side: none disturbs the others, and all is said at the end."""

import os
import sys
from io import StringIO

import pytest
from rich.console import Console

from jostle import lab
from jostle.core.errors import JostleError
from jostle.files import read_json
from jostle.lab import demo
from jostle.lab.rooms import ROOMS, Room


@pytest.fixture
def pair(toy, monkeypatch, tmp_path):
    """Two rooms: the toy, and one whose process breaks."""
    monkeypatch.setitem(ROOMS, "broken", Room("broken", "Broken", "None", 2024, "2401.00002", "It breaks."))
    commands = {
        "toy": [sys.executable, toy.__file__, str(tmp_path)],
        "broken": [sys.executable, "-c", "import sys; sys.exit('it broke at once')"],
    }
    monkeypatch.setattr(demo, "_command", lambda key, preset: commands[key])
    return tmp_path


@pytest.mark.study
def test_a_study_that_breaks_does_not_stop_the_others(pair):
    output = StringIO()
    ended = lab.tour(["broken", "toy"], root=pair, jobs=2, console=Console(file=output, width=200))
    assert [(one.key, one.state) for one in ended] == [("broken", "failed"), ("toy", "finished")]
    assert ended[1].claims == {"holds": 1, "fails": 1, "not-tested": 1}
    said = output.getvalue()
    assert "broken: failed after" in said and "it broke at once" in said
    assert "claims: 1 holds, 1 fails, 1 not tested at this scale" in said
    (folder,) = (pair / "toy").iterdir()
    assert read_json(folder / "status.json")["state"] == "finished"


@pytest.mark.study
def test_the_display_shows_what_each_study_is_at(pair):
    output = StringIO()
    lab.tour(["toy"], root=pair, console=Console(file=output, force_terminal=True, width=160))
    assert "walking" in output.getvalue() and "toy" in output.getvalue()


@pytest.mark.study
def test_stopped_by_hand_it_leaves_no_process_behind(pair, monkeypatch):
    pids = []
    start = demo._Tour._start

    def remembered(self, key):
        process = start(self, key)
        pids.append(process.pid)
        return process

    def interrupted(self, task, key):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo._Tour, "_start", remembered)
    monkeypatch.setattr(demo._Tour, "_show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.tour(["toy"], root=pair, console=Console(file=StringIO()))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_what_cannot_be_run_is_a_sentence_before_anything_starts(toy, monkeypatch, tmp_path):
    needy = Room("needy", "Needy", "None", 2024, "2401.00003", "It needs.", ("no_such_package",))
    monkeypatch.setitem(ROOMS, "needy", needy)
    with pytest.raises(JostleError, match="needy needs no_such_package; type: pip install"):
        lab.tour(["toy", "needy"], root=tmp_path)
    with pytest.raises(JostleError, match="method must be one of"):
        lab.tour(["toi"], root=tmp_path)
    with pytest.raises(JostleError, match="jobs must be at least 1, but 0 came"):
        lab.tour(["toy"], root=tmp_path, jobs=0)
    assert not list(tmp_path.iterdir())
