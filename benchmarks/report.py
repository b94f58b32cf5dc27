"""What is told and kept of a session: medians, extremes, ratios, and every single figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table

from benchmarks.floors import FLOORS, FloorRun
from benchmarks.machine import commit, machine
from benchmarks.processes import ROOT
from benchmarks.workers import JOBS, OURS, PARTS, JobName, Run

_TITLES: Final[Mapping[JobName, str]] = {
    "windows": "Job windows: decode, locate, count in windows, publish them",
    "store": "Job store: the same, and every event a row in ClickHouse",
}


def median(runs: Sequence[Run]) -> dict[str, float]:
    """Medians of one worker's runs of one job."""
    return {
        "events_per_s": round(statistics.median(run.events_per_s for run in runs), 1),
        "peak_rss_mib": round(statistics.median(run.peak_rss_mib for run in runs), 1),
        "cpu_s": round(statistics.median(run.cpu_s for run in runs), 2),
    }


def by_worker(runs: Sequence[Run], job: JobName) -> dict[str, list[Run]]:
    """The runs of a job, ours first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.job == job:
            found.setdefault(run.worker, []).append(run)
    return found


def _job(runs: Sequence[Run], job: JobName) -> dict[str, Any]:
    found = {worker: median(own) for worker, own in by_worker(runs, job).items()}
    ours, parts = found.pop(OURS), found.pop(PARTS, None)
    told = {"ours": ours, "peers": found, "ratios": _ratios(ours, found)}
    return told if parts is None else {**told, "parts": parts, "parts_ratios": _ratios(parts, found)}


def _ratios(ours: Mapping[str, float], peers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {worker: round(ours["events_per_s"] / peer["events_per_s"], 2) for worker, peer in peers.items()}


def floor_medians(runs: Sequence[Run], floors: Sequence[FloorRun]) -> dict[str, dict[str, Any]]:
    """By floor: the job it stands under, events per second, microseconds per event, and how many times that ours
    takes (None where ours did not run)."""
    measured: dict[str, list[float]] = {}
    for one in floors:
        measured.setdefault(one.floor, []).append(one.us_per_event)
    us = {name: statistics.median(found) for name, found in measured.items()}
    us |= {
        name: sum(us[part] for part in floor.parts)
        for name, floor in FLOORS.items()
        if floor.parts and us.keys() >= set(floor.parts)
    }
    ours = {job: median(by_worker(runs, job)[OURS]) for job in JOBS if OURS in by_worker(runs, job)}
    return {
        name: {
            "job": floor.job,
            "events_per_s": round(1e6 / us[name], 1),
            "us_per_event": round(us[name], 3),
            "ours_times": round(1e6 / ours[floor.job]["events_per_s"] / us[name], 2) if floor.job in ours else None,
        }
        for name, floor in FLOORS.items()
        if name in us
    }


def result(
    runs: Sequence[Run],
    floors: Sequence[FloorRun],
    *,
    load: Mapping[str, Any],
    cores: Mapping[str, int],
    versions: Mapping[str, Mapping[str, Any]],
    windows: int,
) -> dict[str, Any]:
    """What is kept of a whole session in which all outputs agreed. `windows`: how many were compared, key by key."""
    here = machine()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": here,
        "versions": {OURS: here.pop("packages"), **versions},
        "commit": commit(ROOT),
        "load": dict(load),
        "cores": dict(cores),
        "jobs": {job: _job(runs, job) for job in JOBS},
        "outputs_agreed": True,
        "windows_compared": windows,
        "floors": floor_medians(runs, floors),
        "runs": [{**asdict(run), "events_per_s": round(run.events_per_s, 1)} for run in runs],
        "floor_runs": [asdict(one) for one in floors],
    }


def job_table(runs: Sequence[Run], job: JobName) -> Table:
    """One row per worker: medians, extremes, and how many times as fast as it ours is, and ours doing the job alone."""
    out = Table(title=_TITLES[job])
    found = by_worker(runs, job)
    ours = {name: median(found[name])["events_per_s"] for name in (OURS, PARTS) if name in found}
    times = {OURS: "vigie is", PARTS: "its parts are"}
    for name in ("worker", "events/s", "min - max", *(times[own] for own in ours), "peak MiB", "CPU s"):
        out.add_column(name, justify="left" if name == "worker" else "right", no_wrap=True)
    for worker, own in found.items():
        medians, speeds = median(own), [run.events_per_s for run in own]
        out.add_row(
            worker,
            f"{medians['events_per_s']:,.0f}",
            f"{min(speeds):,.0f} - {max(speeds):,.0f}",
            *("" if worker in times else f"{own / medians['events_per_s']:.1f} ×" for own in ours.values()),
            f"{medians['peak_rss_mib']:,.0f}",
            f"{medians['cpu_s']:.1f}",
        )
    return out


def floor_table(runs: Sequence[Run], floors: Sequence[FloorRun]) -> Table:
    """One row per floor: what the same bytes cost at least, and how many times that ours takes for its whole job."""
    out = Table(title="Floors: the same bytes on the same core")
    for name in ("floor", "events/s", "µs/event", "vigie takes"):
        out.add_column(name, justify="left" if name == "floor" else "right", no_wrap=True)
    for name, found in floor_medians(runs, floors).items():
        out.add_row(
            FLOORS[name].title,
            f"{found['events_per_s']:,.0f}",
            f"{found['us_per_event']:.2f}",
            "" if found["ours_times"] is None else f"{found['ours_times']:.1f} ×",
            end_section=FLOORS[name].last,
        )
    return out
