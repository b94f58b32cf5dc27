"""Build the peer with Maven, once, into `.cache`.

Needs Java 17 or newer and, where it is not built yet, Maven and (for what Maven does not have yet) the network. What is
built lies in `.cache/kafka_streams/<hash of pom.xml and sources>`: `peer.jar` and `lib/*.jar`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
CACHE: Final = FOLDER.parents[2] / ".cache" / "kafka_streams"
MAIN: Final = "vigie.peer.Main"


class BuildError(Exception):
    """The peer could not be built; the message ends with what Maven printed."""


def command() -> list[str]:
    """What starts the peer, without its options; built first where it is not. Raises BuildError."""
    java_home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else shutil.which("java")
    if java is None:
        raise BuildError("no java on PATH or in JAVA_HOME")
    home = _home()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            _build(home)
    class_path = os.pathsep.join([str(home / "peer.jar"), str(home / "lib" / "*")])
    return [java, f"@{FOLDER / 'jvm.options'}", "-cp", class_path, MAIN]


def _home() -> Path:
    digest = hashlib.sha256()
    for file in [FOLDER / "pom.xml", *sorted((FOLDER / "src" / "main").rglob("*.java"))]:
        digest.update(file.read_bytes())
    return CACHE / digest.hexdigest()[:16]


def _build(home: Path) -> None:
    """`home` appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as name:
        draft = Path(name) / "home"
        maven = ["mvn", "-B", "-q", "-f", str(FOLDER / "pom.xml"), "-DskipTests", f"-Dpeer.build={draft}", "package"]
        try:
            done = subprocess.run(maven, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise BuildError("no mvn on PATH: install Maven, it builds the peer once") from None
        if done.returncode != 0:
            printed = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise BuildError(f"mvn failed with exit code {done.returncode}:\n{printed}")
        kept = Path(name) / "kept"
        kept.mkdir()
        for made in ("peer.jar", "lib"):
            (draft / made).rename(kept / made)
        kept.rename(home)
