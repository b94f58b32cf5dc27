"""A disk that fills: the worker stops and says so, and nothing is acknowledged that is not stored."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from processors.territory import Territory
from schemas.contracts import DOMAINS
from streams.simulation.city import simulate
from tests.support.kafka import Kafka
from tests.support.pipeline import committed_offsets, end_offsets, failed, rows, send, succeeded, vigie

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_DISK_MIB: Final = 96
#: Records that are stored before the disk is full.
_BEFORE: Final = 10_000
_LEFT_BYTES: Final = 4 * 1024 * 1024
_POSITIONS: Final = " UNION ALL ".join(
    f"SELECT topic, partition, offset FROM {table}" for table in (*(f"events_{d}" for d in DOMAINS), "rejects")
)
_EACH: Final = f"SELECT topic, partition, uniqExact(offset), max(offset) + 1 FROM ({_POSITIONS}) GROUP BY 1, 2"
_OFFSETS: Final = f"SELECT DISTINCT topic, partition, offset FROM ({_POSITIONS})"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, in memory and small. Skips the test where none may be mounted."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command: no file system of its own can be made here")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"no file system of its own may be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take the space that is there, but for a little."""
    space = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, space.f_bavail * space.f_frsize - _LEFT_BYTES)


def test_disk_full(kafka: Kafka, synthetic_city: Territory, synthetic_folder: Path, tmp_path: Path) -> None:
    """Exit code 1 and a message that says what to do; committed offsets never pass what is stored.

    With space again, the next worker stores the rest: nothing is missing.
    """
    now = datetime.now(UTC)
    city = simulate(synthetic_city, seed=9, start=now - timedelta(days=1), end=now, events=60_000, wall_now=lambda: now)
    records = list(city.records())
    with small_disk(tmp_path / "disk") as disk:
        directory = disk / "clickhouse"
        settings = {
            "kafka_bootstrap": kafka.bootstrap,
            "clickhouse_url": f"chdb://{directory}",
            "territories": synthetic_folder,
            "log_batches": "false",
            # Many flushes, so that some fit and one does not.
            "batch_records": 300,
            "flush_interval_s": 0.1,
        }
        succeeded(vigie("init", folder=tmp_path, settings=settings))
        send(records[:_BEFORE], kafka.bootstrap)
        succeeded(vigie("worker", "--until-caught-up", folder=tmp_path / "before", settings=settings))
        before = committed_offsets(kafka.bootstrap)
        assert sum(before.values()) == _BEFORE

        fill(disk)
        send(records[_BEFORE:], kafka.bootstrap)
        full = vigie("worker", "--until-caught-up", folder=tmp_path / "full", settings=settings)
        failed(full, "ClickHouse refused inserting", "free some space and start again")
        (disk / "ballast").unlink()
        (positions,) = rows(directory, _OFFSETS)
        committed = committed_offsets(kafka.bootstrap)
        acknowledged = {(*place, offset) for place, end in committed.items() for offset in range(end)}
        assert acknowledged <= set(positions), "what is acknowledged is stored"
        assert all(committed[place] >= end for place, end in before.items()), "nothing is taken back"
        assert len(positions) < len(records), "the disk was full before the end"

        succeeded(vigie("worker", "--until-caught-up", folder=tmp_path / "after", settings=settings))
        (each,) = rows(directory, _EACH)
    assert {(topic, partition): end for topic, partition, _, end in each} == end_offsets(kafka.bootstrap)
    assert all(count == end for *_, count, end in each), "there are no holes"
    assert sum(end for *_, end in each) == len(records)
