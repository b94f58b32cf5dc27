"""A share of a core, as the kernel gives it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import quota
from benchmarks.installation import BenchmarkError
from benchmarks.process import cpu_s
from benchmarks.quota import limited


def test_a_process_has_no_more_than_its_share() -> None:
    """It spends a fifth of a core while the block lasts, and the group is gone afterwards."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        try:
            with limited(busy.pid, 0.2):
                began, spent_s = time.monotonic(), cpu_s(busy.pid)
                while time.monotonic() - began < 1.0:
                    time.sleep(0.05)
                share = (cpu_s(busy.pid) - spent_s) / (time.monotonic() - began)
        except BenchmarkError as error:
            pytest.skip(str(error))
    finally:
        busy.kill()
        busy.wait()
    assert share < 0.3
    assert list(Path("/sys/fs/cgroup").glob(f"**/vigie-benchmark-{os.getpid()}-{busy.pid}")) == []


def test_a_group_that_takes_no_limit_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where groups can be made and have no such limit, none is left."""
    (tmp_path / "cgroup.controllers").touch()
    monkeypatch.setattr(quota, "_GROUPS", tmp_path)
    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(BenchmarkError, match="no such limit"), limited(os.getpid(), 0.5):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["cgroup.controllers"]


def refused(path: Path, *_: object) -> int:
    """What a kernel says to a file that it does not have."""
    raise PermissionError(f"no such limit: {path.name}")


def test_where_no_share_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sentence."""
    monkeypatch.setattr(quota, "_GROUPS", tmp_path)
    with pytest.raises(BenchmarkError, match="cannot be given a share"), limited(os.getpid(), 0.5):
        pass
