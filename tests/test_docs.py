"""Every Python block of the README and the docs runs, top to bottom, one namespace a page."""

import ast
import dataclasses
import re
import shlex
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


class Typed(Exception):
    """The command line has understood a command, and would now begin to work."""


def shell_lines(page):
    """The `jostle` commands of a page's code blocks that a person could type as they stand."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"jostle [a-z]", line) and "..." not in line:
                words = shlex.split(line, comments=True)
                yield words[1:]


@pytest.mark.study
@pytest.mark.parametrize("page", [p for p in PAGES if any(shell_lines(p))], ids=lambda p: p.stem)
def test_the_shell_commands_can_be_typed(page, tmp_path, monkeypatch):
    from jostle import cli, lab

    def understood(*words, **settings):
        raise Typed

    options_of = cli.options_of
    monkeypatch.setattr(
        cli, "options_of", lambda function: dataclasses.replace(options_of(function), call=understood)
    )
    for name in ("start", "resume", "tour", "write_index", "write_report"):
        monkeypatch.setattr(lab, name, understood)
    monkeypatch.chdir(tmp_path)
    for words in shell_lines(page):
        if words[0] in ("list", "zoo") or "--help" in words:
            continue
        with pytest.raises(Typed):
            assert cli.main(words) == 0, f"jostle {shlex.join(words)}"


def test_every_method_has_a_page():
    from jostle.lab.rooms import ROOMS

    assert all((ROOT / "docs" / f"{key}.md").is_file() for key in ROOMS)


PACKAGES = ["zoo", "lab", *sorted(p.parent.name for p in (ROOT / "src" / "jostle").glob("*/study.py"))]


def test_there_are_packages_to_look_at():
    from jostle.lab.rooms import ROOMS

    assert set(ROOMS) <= set(PACKAGES)


@pytest.mark.parametrize(
    "package", [p for p in PACKAGES if (ROOT / "src" / "jostle" / p / "__init__.py").exists()]
)
def test_every_public_name_is_in_its_reference(package):
    """A package shows what its `__all__` names, but for names that a module of the package hides."""
    tree = ast.parse((ROOT / "src" / "jostle" / package / "__init__.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    where = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text()
    shown = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert f"jostle.{package}" in shown and f"::: jostle.{package}\n    options" not in page
    hidden = [name for name in names if (ROOT / "src" / "jostle" / package / f"{name}.py").exists()]
    for name in hidden:
        assert where[name] in shown, (
            f"{package}.{name} is hidden by the module of that name: add ::: {where[name]}"
        )
        assert f"[](){{ #jostle.{package}.{name} }}" in page


def top_level(module):
    """The names that a module defines or imports at its top, read and not run; None if there is no such module."""
    path = ROOT / "src" / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return None
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {
                n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return names


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=lambda p: p.stem)
def test_every_name_of_a_reference_exists(page):
    entries = re.findall(
        r"^::: (\S+)(?:\n +options: \{ members: \[([^]]*)\])?", page.read_text(), re.MULTILINE
    )
    assert entries
    for module, members in entries:
        names = top_level(module)
        if names is None:
            inner, _, name = module.rpartition(".")
            assert name in (top_level(inner) or ()), f"there is no {module}"
            continue
        missing = [name for name in filter(None, re.split(r",\s*", members)) if name not in names]
        assert not missing, f"{module} has no {missing}"


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    named = set(re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == pages
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_a_recorded_run_is_put_into_its_page_once(tmp_path, monkeypatch):
    import importlib.util

    from jostle.files import write_json

    spec = importlib.util.spec_from_file_location("record", ROOT / "docs" / "record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DOCS", tmp_path)
    limits = "\n\n## Limits\n\nmany\n"
    (tmp_path / "toy.md").write_text("# toy\n\nwords" + limits)
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
        assert text.count("## What a recorded run found") == 1
        assert text.startswith("# toy\n\nwords\n\n## What a recorded run found\n") and text.endswith(
            " |" + limits
        )
        assert f"| T-1 | a \\| b | 2 | 3 x | {said} |" in text
        assert "4 March 2026, 15:06 UTC, 1 min 1 s on 2 cores (CPU); jostle 0.1, torch 2." in text
    write_json(tmp_path / "run" / "config.json", {"study": "toy", "preset": "quick", "changed": {"steps": 3}})
    assert "`jostle run toy --preset quick` (settings changed: steps = 3; " in module.table(tmp_path / "run")
    (tmp_path / "toy.md").write_text("# toy\n\nwords\n")
    assert module.record(tmp_path / "run").read_text().startswith("# toy\n\nwords\n\n## What a recorded")
