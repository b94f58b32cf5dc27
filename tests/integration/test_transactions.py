"""Producers that write in transactions: markers stand where no record is, records may be given up later, and a
transaction may stay open. Whatever they do, every record that is in the log ends once, and nothing waits for a marker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer

from schemas.contracts import RAW_TOPICS
from streams import broker
from streams.ledger import Place
from streams.settings import load
from tests.support.batches import encoded, event
from tests.support.gateway import gateway
from tests.support.kafka import Kafka
from tests.support.pipeline import Command, succeeded, vigie
from tests.support.world import World, said, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_TOPIC: Final = RAW_TOPICS["sensor"]
_SETTINGS: Final[dict[str, object]] = {
    "partitions": 1,
    "watchdog_s": 8,
    "flush_interval_s": 0.2,
    "snapshot_interval_s": 0.5,
    "idle_grace_s": 0.5,
    "zone_watch_interval_s": 0.5,
    # A worker that was killed is replaced by its successor at once, instead of after its session.
    "instance_id": "worker",
}
_STORED: Final = "SELECT count() FROM events_sensor FINAL"
_PASSED: Final = f"SELECT toUnixTimestamp64Milli(max(watermark)) FROM snapshots WHERE topic = '{_TOPIC}'"


class Sender:
    """Writes events to one partition, in transactions or, without a name, as others do."""

    def __init__(self, bootstrap: str, name: str | None = None) -> None:
        transactional = {} if name is None else {"transactional.id": name}
        self._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **transactional})
        self._name = name or "plain"
        self._sent = 0
        if name is not None:
            self._producer.init_transactions(30)

    def send(self, count: int) -> None:
        """Send so many events and wait until they are in the log."""
        for _ in range(count):
            self._sent += 1
            one = event(event_id=f"{self._name}-{self._sent}", observed_at=int(time.time() * 1_000) - 500)
            self._producer.produce(_TOPIC, encoded("sensor", [one])[0], key=b"k", partition=0)
        assert self._producer.flush(30) == 0

    def begin(self) -> None:
        self._producer.begin_transaction()

    def commit(self) -> None:
        self._producer.commit_transaction(30)

    def abort(self) -> None:
        self._producer.abort_transaction(30)


@pytest.fixture
def made(kafka: Kafka, load_folder: Path, tmp_path: Path) -> Iterator[World]:
    with (
        gateway(tmp_path / "gateway") as server,
        world("transactions", kafka.bootstrap, server.url, load_folder, tmp_path, _SETTINGS) as one,
    ):
        yield one


@contextmanager
def transaction(sender: Sender) -> Iterator[None]:
    sender.begin()
    yield
    sender.commit()


def stored(made: World) -> int:
    return int(made.rows(_STORED)[0][0])


def wait_for_stored(made: World, worker: Command, count: int) -> None:
    worker.wait_for(lambda: stored(made) == count, f"{count} were stored")


def audited(made: World, *arguments: str) -> dict[str, Any]:
    """What the audit answers; it finds no difference."""
    done = vigie("audit", "--json", *arguments, folder=made.folder / "audit", settings=made.settings)
    answer: dict[str, Any] = json.loads(succeeded(done).out)
    return answer


def test_what_kafka_tells_of_a_log_with_transactions(kafka: Kafka) -> None:
    """Its end is behind records of an open transaction, which the worker has read; and a record behind a marker is
    found at once, whatever is open meanwhile."""
    settings, place = load(kafka_bootstrap=kafka.bootstrap, partitions=1), Place(_TOPIC, 0)
    broker.create_topics(settings)
    done, kept = Sender(kafka.bootstrap, "done"), Sender(kafka.bootstrap, "open")

    def is_end(offset: int) -> bool:
        return broker.end_offsets(settings)[place] == (0, offset)

    with transaction(done):
        done.send(2)
    wait_for(lambda: is_end(3), "the marker was there")
    kept.begin()
    kept.send(1)
    with transaction(done):
        done.send(1)
    wait_for(lambda: is_end(6), "everything was there")
    assert [broker.first_offset_from(settings, place, offset) for offset in (1, 2, 3, 4)] == [1, 3, 3, 4]
    kept.abort()


def test_a_worker_reads_what_transactions_leave(kafka: Kafka, made: World) -> None:
    """A partition that ends with a marker is read to its end; a restart while a transaction is open goes on where it
    was; a worker that is to end when it has caught up does; and the account adds up."""
    sender, other, plain = Sender(kafka.bootstrap, "one"), Sender(kafka.bootstrap, "other"), Sender(kafka.bootstrap)
    with made.worker() as worker:
        with transaction(sender):
            sender.send(10)
        sender.begin()
        sender.send(5)
        sender.abort()
        wait_for_stored(made, worker, 15)
        # Longer than the watchdog allows; and time passes, which it does only behind the last record.
        quiet_ms = int(time.time() * 1_000) + 10_000
        worker.wait_for(lambda: made.rows(_PASSED)[0][0] > quiet_ms, "time passed")
        other.begin()
        other.send(4)
        wait_for_stored(made, worker, 19)
        end = made.ends()[_TOPIC, 0]
        worker.wait_for(lambda: made.reached()[_TOPIC, 0] == end, "it was in a snapshot")
        worker.process.kill()
        worker.process.wait()
    with made.worker() as worker:
        worker.wait_for(lambda: len(said(worker, "resumed")) == len(RAW_TOPICS), "it went on")
        for _ in range(3):
            with transaction(sender):
                sender.send(2)
            plain.send(1)
        wait_for_stored(made, worker, 28)
        assert said(worker, "read again") == []
        stopped(worker)
    answer = audited(made)
    assert (answer["totals"]["records"], answer["totals"]["stored"]) == (28, 28)
    other.commit()
    with made.worker("--until-caught-up") as worker:
        succeeded(worker.wait())
    answer = audited(made, "--strict-end")
    assert (answer["totals"]["records"], answer["totals"]["stored"], answer["totals"]["missing"]) == (28, 28, 0)


def test_many_small_transactions(kafka: Kafka, made: World) -> None:
    """Nearly every batch begins behind a marker: none costs a question, and none is read twice."""
    sender = Sender(kafka.bootstrap, "one")
    with made.worker(batch_records=7) as worker:
        worker.wait_for(lambda: "begun" in worker.text, "it had begun")
        for number in range(60):
            sender.begin()
            sender.send(1 + number % 3)
            sender.abort() if number % 5 == 0 else sender.commit()
        wait_for_stored(made, worker, 120)
        assert said(worker, "read again") == []
        stopped(worker)
    with made.worker("--until-caught-up", batch_records=7) as worker:
        succeeded(worker.wait())
    assert audited(made, "--strict-end")["totals"]["stored"] == 120
