"""A bar for people who watch, and silence for everybody else."""

import time
from io import StringIO

from rich.console import Console

from jostle.files import read_json
from jostle.lab.progress import SINK, track


def _shown(terminal: bool) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=100)
    with track("crafting [images]", None, console) as advance:
        advance("fooling 12 %", total=4)
        advance("fooling [all] 40 %", steps=2)
    return output.getvalue()


def test_silent_when_the_output_is_not_a_terminal():
    assert _shown(False) == ""


def test_a_terminal_shows_title_count_and_the_latest_figure():
    shown = _shown(True)
    assert "crafting [images]" in shown
    assert "3/4" in shown
    assert "fooling [all] 40 %" in shown


def test_a_count_may_be_given_instead_of_steps():
    output = StringIO()
    with track("walking", 10, Console(file=output, force_terminal=True, width=100)) as advance:
        advance(done=7)
    assert "7/10" in output.getvalue()


def test_a_process_that_is_watched_says_how_it_stands(monkeypatch, tmp_path):
    monkeypatch.setenv(SINK, str(tmp_path / "now.json"))
    with track("crafting", 8, Console(file=StringIO())) as advance:
        assert read_json(tmp_path / "now.json") == {"title": "crafting", "done": 0, "total": 8, "figure": ""}
        time.sleep(0.25)
        advance("fooling 12 %", steps=3)
    assert read_json(tmp_path / "now.json") == {
        "title": "crafting",
        "done": 3,
        "total": 8,
        "figure": "fooling 12 %",
    }
