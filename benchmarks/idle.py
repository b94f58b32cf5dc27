"""A worker with nothing to do: what it uses, and how soon it works after it was started.

    python -m benchmarks.idle [--quick] [--seed 1] [--keep]

With the settings that ship, an embedded ClickHouse and the synthetic city, on one core; Kafka is on the other.

idle     processor time and memory without a single event, over a minute, after it has settled
ready    from exec until a record would be processed: of a fresh installation, and of one that starts again
stored   from exec until the first event is stored, where events wait in Kafka

Writes results/latest-idle.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import READY_S, BenchmarkError, Installation, installed, two_cores
from benchmarks.load import Wire, publish
from benchmarks.open_loop import base, last_hour
from benchmarks.process import VIGIE, ProcessError, cpu_s, end_when_told, memory_mib, run
from benchmarks.stamped import Stamped
from streams.settings import Settings
from streams.simulation.avro import varint
from streams.territory.files import load
from tests.support.kafka import KafkaError

IDLE_S: Final = 60.0
SETTLE_S: Final = 15.0
QUICK_IDLE_S: Final = 8.0
QUICK_SETTLE_S: Final = 4.0
STARTS: Final = 5
QUICK_STARTS: Final = 2
#: Records that wait when a worker starts.
WAITING: Final = 1_000


def idle(place: Installation, settle_s: float, idle_s: float) -> dict[str, float]:
    """What a worker uses that has nothing to do, and what its start took, in a fresh installation."""
    began = time.time()
    with place.worker(name="idle") as worker:
        worker.until_ready()
        ready = worker.notes("ready")[0]
        time.sleep(settle_s)
        pid = worker.process.pid
        used, at = cpu_s(pid), time.monotonic()
        time.sleep(idle_s)
        share = (cpu_s(pid) - used) / (time.monotonic() - at)
        found = {"cpu_percent": 100 * share, "rss_mib": memory_mib(pid), "peak_rss_mib": memory_mib(pid, "VmHWM")}
        worker.process.stop()
    return {**found, "first_ready_s": ready["at_ms"] / 1_000 - began, "first_ready_cpu_s": ready["cpu_s"]}


def start(place: Installation, number: int, records: Sequence[Stamped]) -> dict[str, float]:
    """Seconds from exec until ready, and until the first row was stored, where these records wait."""
    stamp = varint(time.time_ns() // 1_000_000)
    first = number * len(records)
    waiting = [Wire(one.topic, one.key, one.value(first + i, stamp)) for i, one in enumerate(records)]
    publish(place.kafka.bootstrap, waiting)
    began = time.time()
    with place.worker(name=f"start-{number}") as worker:
        worker.process.until(lambda: bool(worker.notes("insert")), "it stored its first event", READY_S)
        # Ready is looked at every few milliseconds, and noted after the insert at times.
        worker.until_ready()
        ready, insert = (worker.notes(what)[0]["at_ms"] / 1_000 for what in ("ready", "insert"))
        worker.process.stop()
    return {"ready_s": ready - began, "stored_s": insert - began}


def table(found: Mapping[str, Any]) -> Table:
    """The figures, one a row."""
    out = Table(title="A worker with nothing to do, one core")
    out.add_column("what")
    out.add_column("", justify="right")
    out.add_row("CPU of a core, idle", f"{found['idle']['cpu_percent']:.1f} %")
    out.add_row("memory, idle", f"{found['idle']['rss_mib']:,.0f} MiB")
    out.add_row("memory, peak", f"{found['idle']['peak_rss_mib']:,.0f} MiB")
    out.add_row("exec to ready, fresh installation", f"{found['idle']['first_ready_s']:.2f} s")
    out.add_row("exec to ready, median", f"{found['ready_s']:.2f} s")
    out.add_row("exec to first event stored, median", f"{found['stored_s']:.2f} s")
    return out


@click.command()
@click.option("--quick", is_flag=True, help="A few seconds of idleness, two starts: does it run.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(quick: bool, seed: int, keep: bool) -> None:
    """Measure a worker with nothing to do."""
    end_when_told()
    console = Console()
    settle_s, idle_s = (QUICK_SETTLE_S, QUICK_IDLE_S) if quick else (SETTLE_S, IDLE_S)
    try:
        cores = two_cores()
        head = kept.head(quick)
        with tempfile.TemporaryDirectory(prefix="vigie-idle-", ignore_cleanup_errors=True) as name:
            territory = Path(name) / "territory"
            run([*VIGIE, "territory", "synth", "--out", str(territory), "--seed", str(seed)], Path(name) / "synth")
            # Its pages are part of what ships; a test's workers go without.
            shipped = {"web_port": Settings.model_fields["web_port"].default}
            with installed(Path(name), cores, territory, shipped) as place:
                records = base(last_hour(load(territory)[0], seed))[:WAITING]
                place.init()
                at_rest = idle(place, settle_s, idle_s)
                starts = [start(place, number, records) for number in range(QUICK_STARTS if quick else STARTS)]
    except (BenchmarkError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    medians = {key: round(statistics.median(one[key] for one in starts), 3) for key in ("ready_s", "stored_s")}
    found = {
        "settle_s": settle_s, "idle_s": idle_s, "idle": {key: round(value, 3) for key, value in at_rest.items()},
        **medians, "starts": [{key: round(value, 3) for key, value in one.items()} for one in starts],
    }  # fmt: skip
    console.print(table(found))
    kept.write("idle", {**head, **found}, keep)


if __name__ == "__main__":
    main()
