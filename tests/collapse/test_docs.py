"""The page's examples run, one after another, as a reader would type them."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "collapse.md"


def test_the_page_runs(capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) >= 3
    assert "of the rounding error's energy survives" in capsys.readouterr().out
