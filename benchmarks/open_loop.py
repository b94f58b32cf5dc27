"""An open loop: records of the simulated city, sent at an exact rate whoever keeps up, dated at the instant of sending.

    python -m benchmarks.open_loop --bootstrap H:P --territory DIR --rate 10000 --warm-up 15 --rows 60 --alarms 60 \
        --alarm-count 240

Records are those of an hour of the city without its faulty assets and without the bins that give alarms, again and
again, each time under new identities. It writes `made` to standard output when they are there and starts when it is
sent a line. In the last phase each alarm is the first and only reading of a bin of its own, by turns on fire and full.
At the end it writes one line of JSON: {"begin_ms", "sent", "seconds", "late_ms", "alarms": [{"asset_id", "rule",
"sent_ms", "appended_ms"}]}. `late_ms` is how long after its due instant each record was handed to the client, and
`appended_ms` the broker's time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import polars as pl
from confluent_kafka import KafkaError, Message, Producer

from benchmarks.figures import spread
from benchmarks.phases import Phases, alarm_instants, due
from benchmarks.stamped import Stamped, asset_of, stamped
from processors.territory import Territory
from schemas.contracts import RAW_TOPICS, contract_of, domain_of
from schemas.framing import encode
from streams.simulation.avro import varint
from streams.simulation.city import Simulation, simulate
from streams.simulation.records import Record
from streams.territory.files import load

_SPAN: Final = timedelta(hours=1)
#: More than any town's assets say in the span: all of them take part.
_ALL_OF_THEM: Final = 100_000_000
#: Between two looks at the clock: on a quiet machine no record is later by more, and the core is not spent on it.
_PAUSE_S: Final = 0.001
_FLUSH_S: Final = 60.0
_CONTAINERS: Final = ("bin", "drop_off")
#: What a reading must say for the rules that ship to raise at once.
_ALARMS: Final = (("bin_fire", {"temperature_c": 300.0}), ("bin_full", {"fill_level": 0.95}))


class LoadError(Exception):
    """The load cannot be made or was not taken."""


@dataclass
class Alarm:
    """One reading that must raise an alert. Instants in milliseconds since 1970, 0 before they are known."""

    asset_id: str
    rule: str
    record: Stamped
    at_s: float
    sent_ms: int = 0
    appended_ms: int = 0

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise LoadError(f"an alarm was not delivered: {error.str()}")
        self.appended_ms = message.timestamp()[1]


@dataclass
class Sent:
    """What has been sent, and how late: the worst of each turn of the loop, for all records of the turn."""

    begin_ms: int = 0
    count: int = 0
    seconds: float = 0.0
    late_s: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def alarms(territory: Territory, instants: Sequence[float], but: frozenset[str]) -> list[Alarm]:
    """An alarm for each instant, each of a container of its own that is none of these assets.

    Raises LoadError when there are not enough.
    """
    known = territory.assets.filter(pl.col("kind").is_in(_CONTAINERS) & ~pl.col("asset_id").is_in(list(but)))
    if len(known) < len(instants):
        raise LoadError(f"{len(instants)} alarms need as many containers, the territory has {len(known)}")
    made = []
    contract = contract_of("sensor")
    nothing: dict[str, Any] = {one.name: one.symbols[0] if one.symbols else None for one in contract.fields}
    chosen = known.select("asset_id", "kind").head(len(instants)).iter_rows()
    for number, ((asset, kind), at_s) in enumerate(zip(chosen, instants, strict=True)):
        rule, reading = _ALARMS[number % len(_ALARMS)]
        head = {"event_id": "0" * 16, "source": "sim/alarms", "jurisdiction_id": territory.jurisdiction_id}
        value = nothing | head | {"asset_id": asset, "observed_at": 0, "sensor_type": kind} | reading
        key = f"{territory.jurisdiction_id}|{asset}".encode()
        record = Record(RAW_TOPICS["sensor"], key, encode(contract, value), 0)
        made.append(Alarm(asset, rule, stamped(record, contract), at_s))
    return made


def last_hour(territory: Territory, seed: int) -> Simulation:
    """The simulated city over the hour that ends now, all of its assets taking part."""
    now = datetime.now(UTC)
    return simulate(territory, seed=seed, start=now - _SPAN, end=now, events=_ALL_OF_THEM, wall_now=lambda: now)


def faulty(city: Simulation) -> frozenset[str]:
    """Assets that the city gives a fault: what they say may raise alerts of its own."""
    return frozenset(fault.asset_id for fault in city.truth.faults if fault.asset_id)


def base(city: Simulation, but: frozenset[str] = frozenset()) -> list[Stamped]:
    """The city's clean records, without those assets and its faulty ones. Raises LoadError when there are none."""
    but = but | faulty(city)
    made = []
    clean = 0
    for record in city.records():
        # A clean record is one that the truth counts as clean.
        if city.truth.clean > clean:
            clean = city.truth.clean
            if asset_of(record.key) not in but:
                made.append(stamped(record, contract_of(domain_of(record.topic))))
    if not made:
        raise LoadError("the city says nothing in an hour")
    return made


def numbered(records: Sequence[Stamped]) -> Iterator[tuple[int, Stamped]]:
    """The records again and again, each time under new numbers."""
    number = 0
    while True:
        for record in records:
            number += 1
            yield number, record


def send(bootstrap: str, records: Sequence[Stamped], planned: Sequence[Alarm], rate: float, total: int) -> Sent:
    """Send `total` records at that rate and the alarms at their instants; returns once the broker has all of them.

    Raises LoadError when some are refused.
    """
    failed: list[str] = []

    def refused(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())

    client = {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 3}
    client |= {"partitioner": "murmur2_random", "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    # One call back a record would take as long as sending it.
    producer = Producer({**client, "delivery.report.only.error": True, "on_delivery": refused})
    reported = Producer(client)
    source = numbered(records)
    waiting = list(reversed(planned))
    sent = Sent(begin_ms=time.time_ns() // 1_000_000)
    began = time.perf_counter()
    while sent.count < total or waiting:
        elapsed = time.perf_counter() - began
        now_ms = time.time_ns() // 1_000_000
        stamp = varint(now_ms)
        while waiting and waiting[-1].at_s <= elapsed:
            alarm = waiting.pop()
            alarm.sent_ms = now_ms
            identity = 2**60 + len(waiting)
            record = alarm.record
            reported.produce(record.topic, record.value(identity, stamp), record.key, on_delivery=alarm.delivered)
        count = due(elapsed, rate, total) - sent.count
        if count > 0:
            sent.late_s.append(elapsed - sent.count / rate)
            sent.counts.append(count)
            for _ in range(count):
                number, record = next(source)
                while True:
                    try:
                        producer.produce(record.topic, record.value(number, stamp), record.key)
                        break
                    except BufferError:
                        producer.poll(0.01)
            sent.count += count
        producer.poll(0)
        reported.poll(0)
        if failed:
            raise LoadError(f"a record was refused: {failed[0]}")
        time.sleep(_PAUSE_S)
    sent.seconds = time.perf_counter() - began
    left = producer.flush(_FLUSH_S) + reported.flush(_FLUSH_S)
    if left or failed:
        raise LoadError(f"{left} records were not taken within {_FLUSH_S:.0f} s, and {len(failed)} were refused")
    return sent


@click.command()
@click.option("--bootstrap", required=True, help="host:port of Kafka.")
@click.option("--territory", required=True, type=click.Path(path_type=Path), help="Folder of the territory.")
@click.option("--seed", default=1, show_default=True, help="Seed of the simulated city and of the alarms' instants.")
@click.option("--rate", required=True, type=click.FloatRange(min=1), help="Records per second.")
@click.option("--warm-up", required=True, type=float, help="Seconds before anything is looked at.")
@click.option("--rows", required=True, type=float, help="Seconds in which rows are looked at.")
@click.option("--alarms", "alarms_s", required=True, type=float, help="Seconds in which alarms are sent as well.")
@click.option("--alarm-count", required=True, type=click.IntRange(min=0), help="How many alarms.")
def main(
    bootstrap: str,
    territory: Path,
    seed: int,
    rate: float,
    warm_up: float,
    rows: float,
    alarms_s: float,
    alarm_count: int,
) -> None:
    """Send the load."""
    place, _ = load(territory)
    phases = Phases(warm_up, rows, alarms_s)
    city = last_hour(place, seed)
    planned = alarms(place, alarm_instants(phases, alarm_count, seed), faulty(city))
    records = base(city, frozenset(alarm.asset_id for alarm in planned))
    sys.stdout.write("made\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sent = send(bootstrap, records, planned, rate, round(rate * phases.end_s))
    late_ms = spread(np.repeat(np.array(sent.late_s), sent.counts) * 1_000)
    told = [
        {"asset_id": a.asset_id, "rule": a.rule, "sent_ms": a.sent_ms, "appended_ms": a.appended_ms} for a in planned
    ]
    report = {
        "begin_ms": sent.begin_ms, "sent": sent.count + len(planned), "seconds": round(sent.seconds, 3),
        "late_ms": late_ms.to_dict(), "alarms": told,
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
