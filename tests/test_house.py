"""The rules of the house: who imports whom, how long a file may be, what an import loads."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "jostle"
FILES = sorted(SOURCE.rglob("*.py"))
COMMON = {"core", "zoo", "lab"}
ROOMS = {path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name not in COMMON}


def part(path: Path) -> str:
    """The room, `core`, `zoo`, `lab`, or the file's own name at the top."""
    inner = path.relative_to(SOURCE)
    return inner.parts[0] if len(inner.parts) > 1 else inner.stem


def imports(path: Path) -> list[tuple[str, bool]]:
    """What a file imports of jostle, as dotted names below `jostle`, and whether at its top level."""
    module = ["jostle", *path.relative_to(SOURCE).with_suffix("").parts]
    tree = ast.parse(path.read_text("utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        found += [
            (name.removeprefix("jostle."), id(node) in top) for name in names if name.startswith("jostle.")
        ]
    return found


def named(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.study
def test_the_walk_sees_the_house() -> None:
    assert "universal" in ROOMS and len(FILES) > 30
    seen = {name for path in FILES for name, _ in imports(path)}
    assert {"core.errors.require", "core.budgets.Budget"} <= seen


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_run_along_the_arrows(path: Path) -> None:
    here = part(path)
    for name, _ in imports(path):
        there = name.split(".")[0]
        if here == "core":
            assert there in {"core", "files"}, f"core knows no {name}"
        elif here == "zoo":
            assert there in {"core", "zoo", "files"}, f"the zoo knows no {name}"
        elif here == "lab":
            assert there not in ROOMS | {"cli"}, f"the lab knows rooms only through its table, not {name}"
        elif here in ROOMS:
            assert there not in ROOMS - {here}, f"rooms do not know one another: {name}"
            assert there != "cli", f"a room does not know the command line: {name}"
            if there == "lab":
                assert path.name in {"study.py", "claims.py", "figures.py"}, (
                    f"only study.py, claims.py and figures.py know the lab: {name}"
                )
        elif here == "files":
            assert there in {"core", "files"}, f"{name} lies above files"


@pytest.mark.parametrize("path", sorted({p for p in FILES if part(p) == "lab"}), ids=named)
def test_the_lab_names_a_room_in_its_table_only(path: Path) -> None:
    if path.name == "rooms.py":
        return
    texts = [
        node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
    ]
    assert not [
        text for text in texts if isinstance(text, str) and text in {f"jostle.{room}" for room in ROOMS}
    ]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= 400, f"{lines} lines: one idea a file, and at most 400 lines"


def test_every_room_is_in_the_tables() -> None:
    import jostle
    from jostle.lab.rooms import ROOMS as table

    assert set(table) == ROOMS
    assert set(jostle._MODULES) >= ROOMS


@pytest.mark.parametrize("package", ["jostle", *sorted(f"jostle.{name}" for name in COMMON | ROOMS)])
def test_every_public_name_is_there_and_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    names = getattr(module, "__all__", [])
    assert names or package == "jostle.core", f"{package} has no __all__"
    for name in names:
        value = getattr(module, name)
        if callable(value) or isinstance(value, type(sys)):
            assert (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"


@pytest.mark.study
@pytest.mark.parametrize(
    "statement", ["import jostle", "import jostle; jostle.Linf; jostle.ascend; jostle.Taps"]
)
def test_an_import_loads_no_more_than_it_needs(statement: str) -> None:
    heavy = [
        "torchvision",
        "scipy",
        "matplotlib",
        "sklearn",
        "PIL",
        "skimage",
        "joblib",
        "rich",
        "tyro",
        "jinja2",
    ]
    heavy += [f"jostle.{room}" for room in sorted(ROOMS)]
    # What torch itself brings along, on this machine, is not ours.
    code = f"import sys, torch; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "jostle" in out and not set(heavy) & set(out)


def test_importing_jostle_alone_does_not_even_load_torch() -> None:
    code = "import sys, jostle; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
