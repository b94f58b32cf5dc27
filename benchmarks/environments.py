"""What peers run on: an environment of its own for each, made once under .cache.

Stamps are named after what they stand for: other requirements, another Python or other sources are another stamp.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers.kafka_streams import build
from benchmarks.processes import ROOT, BenchmarkError
from tests.support.kafka import java_version

PEERS: Final = ROOT / "benchmarks" / "peers"
CACHE: Final = ROOT / ".cache" / "peers"

_VERSIONS: Final = """
import importlib.metadata, json, platform, sys
print(json.dumps({"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in sys.argv[1:]}}))
"""


class CannotSetUp(BenchmarkError):
    """A peer's environment could not be made; the message says which, and ends with what the tool printed."""


def python_of(peer: str) -> Path:
    """The Python of a peer's environment, made of its requirements where it is not there yet. Raises CannotSetUp."""
    requirements = PEERS / peer / "requirements.txt"
    home = CACHE / peer
    python = home / "bin" / "python"
    stamp = home / f".made-{_digest([requirements], sys.version, sys.base_prefix)}"
    with _alone(peer):
        if not (stamp.exists() and python.exists()):
            # --clear takes the stamp of what was there before with it.
            _make(peer, [sys.executable, "-m", "venv", "--clear", str(home)])
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
            _make(peer, [*pip, "-r", str(requirements)])
            stamp.touch()
    return python


def versions_of(peer: str) -> dict[str, str]:
    """The versions of what a peer's requirements name, and of its Python. Raises CannotSetUp."""
    names = [line.split("==")[0].split("[")[0].strip() for line in _lines(PEERS / peer / "requirements.txt")]
    found: dict[str, str] = json.loads(_make(peer, [str(python_of(peer)), "-c", _VERSIONS, *names]))
    return found


def kafka_streams(folder: Path) -> list[str]:
    """What starts the peer in Java, without its options; temporary files lie in `folder`. Raises CannotSetUp."""
    java, *rest = _kafka_streams()
    return [java, f"-Djava.io.tmpdir={folder}", *rest]


def versions_of_kafka_streams() -> dict[str, str]:
    """The versions of its jars, and of its Java. Raises CannotSetUp."""
    class_path = _kafka_streams()[-2].split(os.pathsep)
    jars = sorted(jar for part in class_path for jar in Path(part).parent.glob("*.jar"))
    names = (re.fullmatch(r"(.+?)-(\d.*)", jar.stem) for jar in jars)
    return {"java": java_version() or "?", **{found[1]: found[2] for found in names if found}}


def _kafka_streams() -> list[str]:
    try:
        return build.command()
    except build.BuildError as error:
        raise CannotSetUp(f"kafka_streams cannot be set up: {error}") from None


def _lines(requirements: Path) -> Iterator[str]:
    for line in requirements.read_text("utf-8").splitlines():
        if wanted := line.partition("#")[0].strip():
            yield wanted


def _digest(files: Iterable[Path], *also: str) -> str:
    digest = hashlib.sha256("\0".join(also).encode())
    for file in files:
        digest.update(f"{file.relative_to(PEERS)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(peer: str) -> Iterator[None]:
    """One process at a time makes a peer's environment."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(peer: str, command: Sequence[str]) -> str:
    """What a tool prints to standard output. Raises CannotSetUp when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        printed = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        tool = " ".join(Path(part).name for part in command[:3])
        raise CannotSetUp(f"{peer} cannot be set up: {tool} failed with exit code {done.returncode}:\n{printed}")
    return done.stdout
