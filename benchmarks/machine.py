"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from tests.support.kafka import POM, java_version

PACKAGES: Final = (
    "faust-streaming", "aiokafka", "confluent-kafka", "fastavro", "polars", "shapely", "clickhouse-connect", "chdb",
    "uvloop",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Cores, processor, memory in MiB, system, and the versions of what does the work (null where not installed)."""
    kafka = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([^<]+)", POM.read_text("utf-8"))
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "java": java_version(),
        "kafka": kafka[1] if kafka else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit(root: Path) -> str | None:
    """Short name of the commit, with "-dirty" when tracked files differ from it; None where there is no commit."""
    found = _git(root, "rev-parse", "--short", "HEAD")
    if not found:
        return None
    return f"{found}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else found


def _git(root: Path, *arguments: str) -> str:
    """What git prints, or nothing when it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    """The processor's name, as Linux has it."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except FileNotFoundError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
