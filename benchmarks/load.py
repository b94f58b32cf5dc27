"""Records of the simulated city, published to Kafka as fast as it takes them.

    python -m benchmarks.load --bootstrap H:P --events N --seed 1 --territory DIR

Writes the synthetic territory of that seed into DIR, publishes N clean records of its simulated city (event times up to
now) to the raw topics, which it creates with four partitions and broker time where they are missing, and writes one
line of JSON to standard output: {"records", "by_topic", "bytes", "make_s", "publish_s"}.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.contracts import RAW_TOPICS

PARTITIONS: Final = 4
FLUSH_TIMEOUT_S: Final = 120.0
SPANS_H: Final = (1, 2, 4, 8, 16, 32, 64)
#: The simulation makes about as many as it is asked for.
MARGIN: Final = 1.05


class LoadError(Exception):
    """The load could not be made or published as asked for."""


@dataclass(frozen=True)
class Wire:
    """One record as Kafka will hold it."""

    topic: str
    key: bytes
    value: bytes


def city(territory_folder: Path, *, events: int, seed: int) -> list[Wire]:
    """Write the synthetic territory, and return `events` clean records of its city, in the order they are due.

    The span ends now and is the shortest power of two of hours in which the city says so much. Raises LoadError when
    no span of up to 64 hours does.
    """
    # Imported here, so that the rest of this module can be used without the simulation.
    from streams.simulation.city import simulate
    from streams.territory import files
    from streams.territory.synth import synthesize

    territory = synthesize(seed)
    files.write(territory, territory_folder)
    now = datetime.now(UTC)
    asked = round(events * MARGIN)
    for hours in SPANS_H:
        simulation = simulate(
            territory, seed=seed, start=now - timedelta(hours=hours), end=now, events=asked, wall_now=lambda: now
        )
        if simulation.expected_events >= asked * (2 - MARGIN):
            break
    records: list[Wire] = []
    clean = 0
    for record in simulation.records():
        # A clean record is one that the truth counts as clean.
        if simulation.truth.clean > clean and record.value is not None:
            clean = simulation.truth.clean
            records.append(Wire(record.topic, record.key, record.value))
            if len(records) == events:
                return records
    raise LoadError(f"the city gave {len(records)} of {events} records in {hours} hours")


def create_topics(bootstrap: str, topics: Iterable[str]) -> None:
    """Create what is missing of the topics, with broker time. Raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"message.timestamp.type": "LogAppendTime"}
    wanted = [NewTopic(name, num_partitions=PARTITIONS, replication_factor=1, config=config) for name in topics]
    for future in admin.create_topics(wanted).values():
        try:
            future.result(timeout=30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def publish(bootstrap: str, records: Sequence[Wire]) -> float:
    """Publish all records and return the seconds it took. Raises LoadError if any was not taken."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            # Java's partitioner, which most publishers in the field use.
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            # A broker that has just started says for a while that it is still loading: worth no line.
            "log_level": 3,
            "queue.buffering.max.messages": 500_000,
        }
    )
    failed: Counter[str] = Counter()

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed[error.name()] += 1

    began = time.monotonic()
    for record in records:
        while True:
            with contextlib.suppress(BufferError):
                producer.produce(record.topic, record.value, record.key, on_delivery=delivered)
                break
            producer.poll(0.1)
    left = producer.flush(FLUSH_TIMEOUT_S)
    if left or failed:
        raise LoadError(
            f"{left} records were not delivered within {FLUSH_TIMEOUT_S:.0f} s, others failed: {dict(failed)}"
        )
    return time.monotonic() - began


@click.command()
@click.option("--bootstrap", required=True, help="host:port of Kafka.")
@click.option("--events", required=True, type=click.IntRange(min=1), help="How many records.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--territory", required=True, type=click.Path(path_type=Path), help="Folder to write the territory into.")
def main(bootstrap: str, events: int, seed: int, territory: Path) -> None:
    """Publish records of the simulated city."""
    began = time.monotonic()
    records = city(territory, events=events, seed=seed)
    made = time.monotonic() - began
    create_topics(bootstrap, RAW_TOPICS.values())
    published = publish(bootstrap, records)
    report = {
        "records": len(records),
        "by_topic": dict(sorted(Counter(record.topic for record in records).items())),
        "bytes": sum(len(record.value) + len(record.key) for record in records),
        "make_s": round(made, 2),
        "publish_s": round(published, 2),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
