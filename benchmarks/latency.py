"""From Kafka to a row that can be read, and to a webhook: an open loop at several rates.

    python -m benchmarks.latency [--quick] [--rate N ...] [--partitions 4] [--seed 1] [--keep]

The worker (with its embedded ClickHouse) has the first core; Kafka, the load, the receiver and the reader share the
second.

A load sends simulated records at an exact rate, dated when they are sent, whoever keeps up. After a warm-up rows are
looked at; then alarms are sent as well: readings that must raise an alert at once (bins on fire, bins full), known
beforehand, at instants in step with nothing. Both clocks begin with the broker's time of the record (`LogAppendTime`,
whole milliseconds, the same for a batch of a partition) and end when

row      ClickHouse has answered the insert: from then on every query sees the row. The worker's own process notes it
         (`benchmarks.noted`), because nobody else can open an embedded directory. Resolution: a millisecond.
alert    the receiver has the whole request. Resolution: a millisecond. When the worker had sent it to the topic of
         alerts, from which webhooks are told, stands beside it.

That an answered insert can be read is checked in a run of its own, through `vigie gateway` on the second core: a reader
outside asks for the last offsets every 20 ms, and how much later than the answer it saw each row is printed.

Every rate is measured with the settings that ship and with those of somebody who wants it fast and pays for it
(`FAST`). An alert waits for VIGIE_DISORDER_S of event time by design: 1 s as it ships, nothing in `FAST`, where
readings that come out of order are judged as they come. Writes results/latest-latency.json and, with --keep, a copy.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, two_cores
from benchmarks.latency_case import Case, measure
from benchmarks.phases import Phases
from benchmarks.process import VIGIE, ProcessError, end_when_told, run
from schemas.contracts import ALERT_TOPIC
from streams.settings import Settings
from tests.support.gateway import GatewayError
from tests.support.kafka import KafkaError

RATES: Final = (1_000, 10_000, 50_000)
CHECKED_RATE: Final = 10_000
PHASES: Final = Phases(warm_up_s=20, rows_s=60, alarms_s=75)
ALARMS: Final = 300
QUICK_RATES: Final = (1_000,)
QUICK_PHASES: Final = Phases(warm_up_s=5, rows_s=10, alarms_s=10)
QUICK_ALARMS: Final = 20
#: What somebody sets who wants to know at once, and has processor time and disk to spare for small inserts.
FAST: Final[Mapping[str, object]] = {"flush_interval_s": 0.1, "linger_s": 0.02, "disorder_s": 0}


def cases(rates: Sequence[int], phases: Phases, alarms: int, partitions: int) -> list[Case]:
    """Every rate as it ships and fast, and the check by a reader outside."""
    checked = CHECKED_RATE if CHECKED_RATE in rates else rates[0]
    found = [
        Case(name, rate, phases, alarms, "embedded", settings, partitions)
        for rate in rates
        for name, settings in (("shipped", {}), ("fast", FAST))
    ]
    return [*found, Case("shipped, gateway", checked, phases, alarms, "gateway", {}, partitions)]


def shipped() -> dict[str, float]:
    """The settings that decide about latency, as they ship."""
    return {name: float(Settings.model_fields[name].default) for name in FAST}


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Two rows a case, three with a reader outside: milliseconds, how many were measured, share of its core in use."""
    out = Table(title="From the record in Kafka, ms", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("events/s", "settings", "until", "p50", "p95", "p99", "max", "of", "CPU"):
        out.add_column(name, justify="left" if name in ("settings", "until") else "right", no_wrap=True)
    for one in found:
        told = [("row", one["row_ms"], one["worker"]["worker_cpu"]), ("alert", one["alert_ms"], None)]
        if "read_by_another_ms" in one:
            told.insert(1, ("reader", one["read_by_another_ms"], one["worker"]["gateway_cpu"]))
        for number, (what, spread, cpu) in enumerate(told):
            if spread is None:
                continue
            head = (f"{one['rate']:,}", one["case"]) if number == 0 else ("", "")
            figures = [f"{spread[point]:,.0f}" for point in ("p50", "p95", "p99", "max")]
            out.add_row(*head, what, *figures, f"{spread['count']:,}", "" if cpu is None else f"{cpu:.0%}")
    return out


def remarks(one: Mapping[str, Any]) -> list[str]:
    """What a reader of a case's figures must know."""
    found = []
    if one["producer_behind"]:
        late = one["producer_late_ms"]["p99"]
        found.append(f"the producer fell behind: 1 % of its records left more than {late:,.0f} ms late")
    if one["alert_ms"]:
        sent, told = one["alert_sent_ms"], one["alert_ms"]
        found.append(f"alerts were in {ALERT_TOPIC} after {sent['p50']:,.0f} of {told['p50']:,.0f} ms (p50)")
    says = one["worker_says_ms"]
    found.append(f"the worker itself says {says['p50']:,.0f} ms (p50), {says['p99']:,.0f} ms (p99)")
    if "after_the_answer_ms" in one:
        after, lag = one["after_the_answer_ms"], one["reader_lag_ms"]
        found.append(
            f"the reader saw rows {after['p50']:,.0f} ms (p50), {after['p99']:,.0f} ms (p99) after the insert was "
            f"answered; its resolution is {lag['p50']:,.0f} ms (p50), {lag['p99']:,.0f} ms (p99)"
        )
    return found


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_RATES[0]} events/s, short phases: does it run.")
@click.option(
    "--rate", "rates", multiple=True, type=click.IntRange(min=10), help=f"Events per second.  [default: {RATES}]"
)
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 256), help="Of each raw topic.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory, its city and the alarms.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(quick: bool, rates: tuple[int, ...], partitions: int, seed: int, keep: bool) -> None:
    """Measure latencies under an open loop."""
    end_when_told()
    console = Console()
    phases, alarms = (QUICK_PHASES, QUICK_ALARMS) if quick else (PHASES, ALARMS)
    found: list[dict[str, Any]] = []
    folder = Path(tempfile.mkdtemp(prefix="vigie-latency-"))
    try:
        cores = two_cores()
        head = kept.head(quick)
        territory = folder / "territory"
        run([*VIGIE, "territory", "synth", "--out", str(territory), "--seed", str(seed)], folder / "synth")
        for number, case in enumerate(cases(rates or (QUICK_RATES if quick else RATES), phases, alarms, partitions)):
            found.append(measure(case, cores, territory, folder / str(number), seed))
            console.print(f"{case.rate:,} events/s, {case.name}: {'; '.join(remarks(found[-1]))}")
    except (BenchmarkError, GatewayError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table(found))
    console.print(
        f"Warm-up {phases.warm_up_s:g} s, rows over {phases.rows_s:g} s, {alarms} alarms over {phases.alarms_s:g} s. "
        f"Alerts wait for VIGIE_DISORDER_S ({shipped()['disorder_s']:g} s as it ships) of event time by design."
    )
    told = {"seed": seed, "phases": vars(phases), "alarms": alarms, "shipped": shipped(), "fast": dict(FAST)}
    kept.write("latency", {**head, **told, "cores": vars(cores), "cases": found}, keep)


if __name__ == "__main__":
    main()
