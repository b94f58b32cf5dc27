"""Where the processor time of a worker goes that catches up, or keeps up: with a clock at each of its steps.

    python -m benchmarks.profile [--events 400000] [--rate N [--for 40] | --workers N [--share 0.25]]
        [--seed 1] [--keep]

It is job `store` of `benchmarks.run`: the same records, territory, core and command. With `--rate` it is the load of
`benchmarks.latency`, so many events a second for so many seconds, dated when they are sent. With `--workers` so many
find the records of a town of `benchmarks.scale` together, on one core, with ClickHouse behind a gateway on the other,
and what they spend is added up. With `--share` each of them may have so much of their core and no more, from when it
has partitions: none waits for another, as on cores of their own, and `events_per_s` of two stands beside that of one.

Microseconds are processor time for one event, of the thread that called, so that of an insert only what ClickHouse does
in it counts, and what Polars and ClickHouse do in threads of their own stands below, by thread. Writes
results/latest-profile.json (latest-profile-at-N.json with `--rate`, latest-profile-of-N.json with `--workers`, to
which `--share` adds `-at-SHARE`) and, with --keep, a dated copy.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, Cores, Installation, installed, two_cores
from benchmarks.process import VIGIE, ProcessError, end_when_told, module, run, started
from benchmarks.quota import limited
from benchmarks.run import EVENTS
from benchmarks.scale import BASE
from benchmarks.scale_point import PATIENT, SETTLED_S, START_S, publish_town, stopped
from sinks.clickhouse import connect
from tests.support.gateway import gateway
from tests.support.kafka import KafkaError, pinned
from tests.support.pipeline import GROUP, committed_offsets

#: Making records takes a few seconds, and the last of them must have been stored when the worker is stopped.
_MAKE_S: Final = 120.0
_HOLDERS: Final = (
    "SELECT uniqExact(holder) FROM (SELECT argMax(owner, term) AS holder FROM owners WHERE topic != '' "
    "GROUP BY topic, partition)"
)


def measure(cores: Cores, folder: Path, events: int, seed: int) -> dict[str, Any]:
    """Publish, let a worker catch up, read its clocks. Raises BenchmarkError, ProcessError, KafkaError."""
    territory, told = folder / "territory", folder / "told.json"
    with installed(folder, cores, territory) as place:
        options = {"--bootstrap": place.kafka.bootstrap, "--events": events, "--seed": seed, "--territory": territory}
        run(module("benchmarks.load", *(part for option in options.items() for part in option)), folder / "load")
        place.init()
        summary = folder / "summary.json"
        command = module("benchmarks.profiled", told, "--until-caught-up", "--summary", summary)
        run(command, folder / "worker", core=cores.worker, settings=place.all_settings)
    return _read([(told, summary)], events)


def measure_at(rate: float, seconds: float, cores: Cores, folder: Path, seed: int) -> dict[str, Any]:
    """Let a worker keep up with so many events a second, read its clocks. Raises as `measure` does."""
    territory, told, summary = folder / "territory", folder / "told.json", folder / "summary.json"
    run([*VIGIE, "territory", "synth", "--out", str(territory), "--seed", str(seed)], folder / "synth")
    with installed(folder, cores, territory) as place:
        options = {"--bootstrap": place.kafka.bootstrap, "--territory": territory, "--seed": seed, "--rate": rate}
        options |= {"--warm-up": 0, "--rows": seconds, "--alarms": 0, "--alarm-count": 0}
        command = module("benchmarks.open_loop", *(part for option in options.items() for part in option))
        place.init()
        with (
            started(command, folder / "load", core=cores.others) as load,
            started(
                module("benchmarks.profiled", told, "--summary", summary),
                folder / "worker",
                core=cores.worker,
                settings=place.all_settings,
            ) as worker,
        ):
            load.until(lambda: "made" in load.told(), "its records were made", _MAKE_S)
            load.say("go")
            sent = int(json.loads(load.end(seconds + _MAKE_S).splitlines()[-1])["sent"])
            worker.until(lambda: _committed(place) >= sent, "it had stored what was sent", _MAKE_S)
            worker.stop()
    return _read([(told, summary)], sent)


def measure_together(
    workers: int, share: float | None, cores: Cores, folder: Path, events: int, seed: int
) -> dict[str, Any]:
    """Let several workers of one core catch up together, each with that share of it at the most; read their clocks.

    Raises as `measure` does.
    """
    told = [(folder / f"told-{number}.json", folder / f"summary-{number}.json") for number in range(workers)]
    with ExitStack() as stack:
        place = stack.enter_context(installed(folder, cores, folder / "territory", PATIENT))
        with pinned({cores.others}):
            served = stack.enter_context(gateway(folder))
        place = replace(place, settings={**place.settings, "clickhouse_url": served.url})
        place.init()
        # The town, without its records: workers read it when they start.
        publish_town(BASE.assets, BASE.zones, 0, place, seed)
        running = []
        for number, (clocks, summary) in enumerate(told):
            command = module("benchmarks.profiled", clocks, "--summary", summary)
            at = folder / f"worker-{number}"
            running.append(stack.enter_context(started(command, at, core=cores.worker, settings=place.all_settings)))
        with closing(connect(served.url)) as sink:
            running[0].until(lambda: sink.rows(_HOLDERS)[0][0] == workers, "all of them had partitions", _MAKE_S)
        time.sleep(SETTLED_S)
        with stopped(running):
            publish_town(BASE.assets, BASE.zones, events, place, seed)
            limits = stack.enter_context(ExitStack())
            for worker in running:
                limits.enter_context(limited(worker.pid, share) if share else nullcontext())
        running[0].until(lambda: _committed(place) >= events, "they had stored what was sent", START_S)
        limits.close()
        for worker in running:
            worker.stop()
    return _read(told, events)


def _committed(place: Installation) -> int:
    """How many records of the raw topics, which begin at offset 0, the worker is done with."""
    return sum(committed_offsets(place.kafka.bootstrap, GROUP).values())


def _read(told: Sequence[tuple[Path, Path]], events: int) -> dict[str, Any]:
    """What the clocks of the workers say of so many events, each of which must have been stored."""
    clocks, summaries = ([json.loads(one[at].read_text("utf-8")) for one in told] for at in (0, 1))
    stored = sum(summary["stored"] for summary in summaries)
    if stored != events:
        raise BenchmarkError(f"{stored} of {events} records were stored; all are clean")
    # They find their records at the same moment.
    seconds = max(summary["seconds"] for summary in summaries)
    shares = {"shares": [round(one["stored"] / events, 3) for one in summaries]} if len(told) > 1 else {}
    return {
        "events": events, "seconds": seconds, "events_per_s": round(events / seconds, 1), **shares,
        **added_up(clocks, events),
    }  # fmt: skip


def added_up(clocks: Sequence[Mapping[str, Any]], events: int) -> dict[str, Any]:
    """Processor time of several workers together: of the processes, by thread, and by step with that for one event."""
    threads, steps = Counter[str](), dict[str, Counter[str]]()
    for one in clocks:
        threads.update(one["threads"])
        for step in one["steps"]:
            steps.setdefault(step["step"], Counter()).update({k: v for k, v in step.items() if k != "step"})
    return {
        "cpu_s": round(sum(one["cpu_s"] for one in clocks), 3),
        "threads": {name: round(cpu_s, 3) for name, cpu_s in threads.most_common()},
        "steps": [
            {"step": name, **{k: round(v, 4) for k, v in step.items()},
             "us_per_event": round(step["cpu_s"] * 1e6 / events, 3)}
            for name, step in sorted(steps.items(), key=lambda one: -one[1]["cpu_s"])
        ],
    }  # fmt: skip


def table(found: Mapping[str, Any]) -> Table:
    """A row for each step, then one for each thread."""
    events = found["events"]
    out = Table(title=f"Processor time of {events:,} events, one core: {found['events_per_s']:,.0f} events/s")
    out.add_column("step or thread")
    for name in ("calls", "CPU s", "us/event"):
        out.add_column(name, justify="right")
    for step in found["steps"]:
        out.add_row(step["step"], f"{step['calls']:,}", f"{step['cpu_s']:.2f}", f"{step['us_per_event']:.2f}")
    out.add_section()
    for name, cpu_s in found["threads"].items():
        out.add_row(f"thread {name}", "", f"{cpu_s:.2f}", f"{cpu_s * 1e6 / events:.2f}")
    out.add_section()
    out.add_row("process", "", f"{found['cpu_s']:.2f}", f"{found['cpu_s'] * 1e6 / events:.2f}")
    return out


@click.command()
@click.option("--events", default=EVENTS, show_default=True, type=click.IntRange(min=1_000), help="Records to publish.")
@click.option("--rate", type=click.FloatRange(min=10), help="Keep up with so many events per second instead.")
@click.option("--for", "seconds", default=40.0, show_default=True, help="With --rate: for so many seconds.")
@click.option("--workers", type=click.IntRange(min=1), help="So many together, with ClickHouse behind a gateway.")
@click.option("--share", type=click.FloatRange(0.1, 1), help="With --workers: so much of a core for each of them.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(
    events: int,
    rate: float | None,
    seconds: float,
    workers: int | None,
    share: float | None,
    seed: int,
    keep: bool,
) -> None:
    """Show what each step of the worker costs."""
    if rate and workers:
        raise click.UsageError("--rate and --workers are two profiles: one at a time")
    if share and not workers:
        raise click.UsageError("--share is of several workers: name --workers")
    if share and workers and share * workers > 1:
        raise click.UsageError(f"{workers} workers share one core: --share {1 / workers:g} at the most")
    end_when_told()
    console = Console()
    head = kept.head(False)
    try:
        with tempfile.TemporaryDirectory(prefix="vigie-profile-", ignore_cleanup_errors=True) as name:
            cores, folder = two_cores(), Path(name)
            if workers:
                found = measure_together(workers, share, cores, folder, events, seed)
            elif rate:
                found = measure_at(rate, seconds, cores, folder, seed)
            else:
                found = measure(cores, folder, events, seed)
    except (BenchmarkError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    console.print(table(found))
    name = f"profile-at-{rate:.0f}" if rate else f"profile-of-{workers}" if workers else "profile"
    if share:
        name, head = f"{name}-at-{share:g}", {**head, "share": share}
    kept.write(name, {**head, "seed": seed, **found}, keep)


if __name__ == "__main__":
    main()
