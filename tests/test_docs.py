"""Every Python block of the README and the docs runs, top to bottom, one namespace a page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.study
@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.stem)
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    names: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert blocks


def test_every_method_has_a_page():
    from jostle.lab.rooms import ROOMS

    assert all((ROOT / "docs" / f"{key}.md").is_file() for key in ROOMS)


def test_a_recorded_run_is_put_into_its_page_once(tmp_path, monkeypatch):
    import importlib.util

    from jostle.files import write_json

    spec = importlib.util.spec_from_file_location("record", ROOT / "docs" / "record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DOCS", tmp_path)
    (tmp_path / "toy.md").write_text("# toy\n\nwords\n\n## Limits\n\nmany\n")
    claim = {"id": "T-1", "text": "a | b", "paper": "2", "measured": "3 x", "scale": "quick"}
    environment = {"time": "2026-03-04T15:06:07+00:00", "gpus": [], "cores": 2, "processor": "CPU"}
    write_json(tmp_path / "run" / "config.json", {"study": "toy", "preset": "quick", "config": {}})
    write_json(
        tmp_path / "run" / "environment.json", {**environment, "packages": {"jostle": "0.1", "torch": "2"}}
    )
    for verdict, said in (("holds", "holds"), ("fails", "fails")):
        write_json(tmp_path / "run" / "result.json", {"seconds": 61.0})
        write_json(tmp_path / "run" / "claims.json", [{**claim, "verdict": verdict}])
        text = module.record(tmp_path / "run").read_text()
        assert text.count("## What a recorded run found") == 1 and text.startswith(
            "# toy\n\nwords\n\n## Limits"
        )
        assert f"| T-1 | a \\| b | 2 | 3 x | {said} |" in text
        assert "4 March 2026, 15:06 UTC, 1 min 1 s on 2 cores (CPU); jostle 0.1, torch 2." in text
    write_json(tmp_path / "run" / "config.json", {"study": "toy", "preset": "quick", "changed": {"steps": 3}})
    assert "`jostle run toy --preset quick` (settings changed: steps = 3; " in module.table(tmp_path / "run")
