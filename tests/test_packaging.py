"""What is shipped: the wheel runs from anywhere, the locks hold what is asked for, `make setup` says what it misses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_ROOT: Final = Path(__file__).resolve().parents[1]
_PACKAGES: Final = ("schemas", "processors", "sinks", "streams")
_NOT_SHIPPED: Final = ("benchmarks", "deploy", "tests")
_PROJECT: Final[dict[str, Any]] = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_RUN_LOCK: Final = _ROOT / "requirements.lock"
_DEV_LOCK: Final = _ROOT / "requirements-dev.lock"


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked. It is built from a copy, because a build leaves files in the folder it builds from."""
    source, built, unpacked = (tmp_path_factory.mktemp(name) for name in ("source", "built", "unpacked"))
    for folder in (*_PACKAGES, *_NOT_SHIPPED):
        shutil.copytree(_ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, source)
    # Without isolation nothing is fetched: the build backend is in the lock.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source), folder=source)
    (archive,) = built.glob("*.whl")
    assert archive.name == f"vigie-{_PROJECT['version']}-py3-none-any.whl"
    with ZipFile(archive) as packed:
        packed.extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    (path,) = wheel.glob("vigie-*.dist-info/METADATA")
    return HeaderParser().parsestr(path.read_text("utf-8"))


def run(*command: str, folder: Path, **environment: str) -> str:
    """What a command prints, run in a folder. Fails with its output when it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    """Paths of the packages' files below a folder, Python's caches left out."""
    found = (path for package in _PACKAGES for path in (folder / package).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Contracts, their examples, DDL and type markers are package data: a forgotten suffix shows here."""
    assert files(wheel) == files(_ROOT)
    suffixes = {Path(name).suffix for name in files(wheel)}
    assert {".py", ".avsc", ".jsonl", ".sql", ".typed"} <= suffixes


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    """Tests, benchmarks and the folders of a build would land beside other projects' packages."""
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {*_PACKAGES, "vigie"}


def test_the_wheel_says_what_it_is(wheel: Path, metadata: Message) -> None:
    """Name, version, licence with its text, and the Pythons it runs on."""
    assert (metadata["Name"], metadata["Version"]) == ("vigie", _PROJECT["version"])
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", _PROJECT["requires-python"])
    (licence,) = wheel.glob("vigie-*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (_ROOT / "LICENSE").read_bytes()


def test_the_wheel_asks_for_what_the_project_asks_for(metadata: Message) -> None:
    """Drawing and developing are extras; everything else comes with `pip install vigie`."""
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    always = {str(requirement) for requirement in asked if requirement.marker is None}
    assert always == {str(Requirement(line)) for line in _PROJECT["dependencies"]}
    assert set(metadata.get_all("Provides-Extra", [])) == set(_PROJECT["optional-dependencies"])


def test_the_wheel_brings_the_command_and_the_transport(wheel: Path) -> None:
    """Faust finds the batch transport by its entry point, whatever folder the worker is started in."""
    (path,) = wheel.glob("vigie-*.dist-info/entry_points.txt")
    text = path.read_text("utf-8")
    assert "[console_scripts]\nvigie = streams.cli.main:run" in text
    assert "[faust.transports]\nvigie = streams.transport:Transport" in text


def test_the_installed_project_brings_the_transport() -> None:
    """What `make setup` installed is what the wheel would install."""
    (found,) = entry_points(group="faust.transports", name="vigie")
    assert found.value == "streams.transport:Transport"


def test_the_wheel_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    """In a folder that knows nothing of the project, the command names its version and makes the synthetic city."""
    command = (sys.executable, "-c", "from streams.cli.main import run; run()")
    told = run(*command, "--version", folder=tmp_path, PYTHONPATH=str(wheel))
    assert told.strip().endswith(f"version {_PROJECT['version']}")
    run(*command, "territory", "synth", "--out", "city", folder=tmp_path, PYTHONPATH=str(wheel))
    assert (tmp_path / "city" / "territory.yaml").is_file()


_READS_ITS_DATA: Final = """
import processors, schemas, sinks, streams
from schemas.contracts import DOMAINS, contract_of
from sinks.clickhouse import connect, migrate

for package in (processors, schemas, sinks, streams):
    assert package.__file__.startswith(WHEEL), package.__file__
for domain in DOMAINS:
    assert contract_of(domain).schema
sink = connect("chdb://" + FOLDER)
assert migrate(sink)
sink.close()
"""


def test_the_wheel_reads_its_own_data(wheel: Path, tmp_path: Path) -> None:
    """Contracts and tables come out of the wheel, not out of a checkout that happens to be near."""
    named = f"WHEEL, FOLDER = {str(wheel)!r}, {str(tmp_path / 'clickhouse')!r}\n"
    run(sys.executable, "-c", named + _READS_ITS_DATA, folder=tmp_path, PYTHONPATH=str(wheel))
    assert (tmp_path / "clickhouse").is_dir()


# --- the locks


def entries(lock: Path) -> list[str]:
    """The entries of a lock, each on one line with its hashes; comments left out."""
    lines = [line for line in lock.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def pins(lock: Path) -> dict[str, set[Version]]:
    """Versions by distribution: several where a marker tells Pythons apart."""
    found: dict[str, set[Version]] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.partition("--hash")[0].strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry
        found.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    return found


@pytest.mark.parametrize("lock", [_RUN_LOCK, _DEV_LOCK], ids=lambda path: path.name)
def test_every_entry_of_a_lock_has_its_hashes(lock: Path) -> None:
    """pip refuses a file that is not the one that was locked."""
    bare = [entry for entry in entries(lock) if not re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", entry)]
    assert bare == []
    assert entries(lock)


@pytest.mark.parametrize("lock", [_RUN_LOCK, _DEV_LOCK], ids=lambda path: path.name)
def test_a_lock_names_no_registry_and_no_folder(lock: Path) -> None:
    """Whoever has a mirror uses it: the hashes say what is right, not the host."""
    forbidden = re.compile(r"://|--(extra-)?index|--find| @ ")
    assert [line for line in lock.read_text("utf-8").splitlines() if forbidden.search(line)] == []


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """Whoever changes dependencies in pyproject.toml runs `make lock`."""
    extras = _PROJECT["optional-dependencies"]
    asked = {_RUN_LOCK: [*_PROJECT["dependencies"], *extras["draw"]], _DEV_LOCK: extras["dev"]}
    missing = [
        f"{line} in {lock.name}"
        for lock, lines in asked.items()
        for line in lines
        if (wanted := Requirement(line)).name != "vigie"
        and not any(version in wanted.specifier for version in pins(lock).get(canonicalize_name(wanted.name), ()))
    ]
    assert missing == []


def test_what_is_tested_is_what_runs() -> None:
    """The lock of developers holds every version of the lock that a worker runs on, and more."""
    developed = pins(_DEV_LOCK)
    assert {name: versions for name, versions in pins(_RUN_LOCK).items() if developed.get(name) != versions} == {}


# --- the set-up


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on PATH")
def test_the_setup_says_what_it_misses(tmp_path: Path) -> None:
    """Without a Python that fits, one line says which is needed and how to name one; nothing is left behind."""
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(_ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "needs Python 3.11 to 3.14" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()
