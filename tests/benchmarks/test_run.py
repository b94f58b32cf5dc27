"""A session ends with figures only when every worker counted the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import run
from benchmarks.outputs import Outputs, outputs
from benchmarks.processes import BenchmarkError
from benchmarks.workers import JOBS, OURS, JobName, Place, Run, Setting

_KEY = b'["lighting","district","A","lamp.events",0]'


class Fake:
    """A worker that has counted so many events in its one window; a negative number stands for one that fails."""

    jobs = JOBS

    def __init__(self, name: str, counts: int) -> None:
        self.name = name
        self._counts = counts

    def set_up(self) -> Mapping[str, str]:
        return {"fake": "1"}

    def run(self, setting: Setting, job: JobName, place: Place, repeat: int) -> tuple[Run, Outputs]:
        assert not list(place.folder.iterdir())
        if self._counts < 0:
            raise BenchmarkError(f"{self.name}, job {job}: exit code 1")
        stored = setting.events if job == "store" else 0
        taken = Run(job, self.name, repeat, setting.events, stored, 2.0 if self.name == OURS else 4.0, 5.0, 4.5, 100.0)
        return taken, outputs(self.name, {_KEY: b"[%d,0,0,0]" % self._counts}, in_steps=self.name == OURS)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command with these workers by name; no Kafka, no records, no floors."""

    @contextmanager
    def kafka(**_: object) -> Iterator[object]:
        yield SimpleNamespace(bootstrap="nowhere:1", create_topic=lambda name, partitions: None)

    monkeypatch.setattr(run, "kafka_available", lambda: None)
    monkeypatch.setattr(run, "real_kafka", kafka)
    monkeypatch.setattr(run, "publish", lambda setting, folder, seed: {"bytes": setting.events, "seed": seed})
    monkeypatch.setattr(run, "FLOORS", {})
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})

    def ran(*options: str, **counts: int) -> Result:
        monkeypatch.setattr(run, "WORKERS", {name: Fake(name, number) for name, number in counts.items()})
        return CliRunner().invoke(run.main, ["--events", "1000", "--repeats", "2", *options])

    return ran


def test_equal_counts_give_figures(session: Any, tmp_path: Path) -> None:
    """Medians and ratios of each job, every run, and the word that all agreed."""
    done = session(vigie=1000, peer=1000)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results" / "latest.json").read_text("utf-8"))
    assert found["outputs_agreed"] is True
    assert found["windows_compared"] == 1
    assert found["jobs"]["store"]["ours"] == {"events_per_s": 500.0, "peak_rss_mib": 100.0, "cpu_s": 4.5}
    assert found["jobs"]["windows"]["ratios"] == {"peer": 2.0}
    assert found["versions"]["peer"] == {"fake": "1"}
    assert len(found["runs"]) == 8
    assert {"at", "machine", "commit", "load", "cores", "floors"} <= found.keys()


def test_the_parts_stand_beside_the_peers(session: Any, tmp_path: Path) -> None:
    """The product and its parts are both ours: neither is the other's peer, and each has its ratios."""
    done = session(vigie=1000, vigie_parts=1000, peer=1000)
    assert done.exit_code == 0, done.output
    store = json.loads((tmp_path / "results" / "latest.json").read_text("utf-8"))["jobs"]["store"]
    assert store["parts"]["events_per_s"] == 250.0
    assert (store["ratios"], store["parts_ratios"]) == ({"peer": 2.0}, {"peer": 1.0})
    rows = [line for line in done.output.splitlines() if line.startswith("│ peer ")]
    assert [("2.0 ×" in row, "1.0 ×" in row) for row in rows] == [(True, True)] * len(JOBS)


def test_one_count_off_ends_it_without_figures(session: Any, tmp_path: Path) -> None:
    """Exit code 1, the window and both counts, no table and no file."""
    done = session(vigie=1000, peer=1000, other=1001)
    assert done.exit_code == 1
    assert "other" in done.output and "1,001" in done.output
    assert "Job windows" not in done.output
    assert not (tmp_path / "results").exists()


def test_a_worker_that_fails_ends_it(session: Any, tmp_path: Path) -> None:
    """It is named, and nothing is written."""
    done = session(vigie=1000, peer=-1)
    assert done.exit_code == 1
    assert "peer, job windows: exit code 1" in done.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("options", [("--only", "vigie"), ("--job", "store")])
def test_a_part_of_it_is_shown_and_not_kept(session: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
    """What is kept has everything in it, from one session."""
    done = session(*options, vigie=1000, peer=1000)
    assert done.exit_code == 0, done.output
    assert "500" in done.output
    assert not (tmp_path / "results").exists()
