"""`vigie audit` as people run it, against a real Kafka: while a worker runs, after one has died, and after damage."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS, contract
from schemas.framing import encode
from sinks import stored
from sinks.clickhouse import Sink, connect
from sinks.rows import Origin
from streams.territory.files import versioned, write
from tests.integration.test_worker_command import nobody
from tests.support.gateway import Gateway, gateway
from tests.support.kafka import Kafka
from tests.support.load import Load, territory
from tests.support.pipeline import GROUP, Command, Done, failed, send, succeeded, vigie

pytestmark = pytest.mark.integration


class Place:
    """A real Kafka and a ClickHouse that several processes may use, with a city to supervise."""

    def __init__(self, kafka: Kafka, database: Gateway, folder: Path) -> None:
        self.kafka, self.folder = kafka, folder
        write(versioned(territory()), folder / "city")
        self.load = Load(seed=11)
        self.settings: Mapping[str, object] = {
            "kafka_bootstrap": kafka.bootstrap,
            "clickhouse_url": database.url,
            "territories": folder / "city",
            "partitions": 1,
            # Chunks close within a draw or two, and are longer than what duplicates have to be known for.
            "chunk_records": 130,
            "snapshot_interval_s": 0.5,
            "log_batches": "false",
        }
        succeeded(self.run("init"))
        self.sink: Sink = connect(database.url, retry_budget_s=5.0)

    def run(self, *arguments: object, **changed: object) -> Done:
        return vigie(*arguments, folder=self.folder, settings={**self.settings, **changed})

    def draw(self, times: int) -> None:
        for _ in range(times):
            send(self.load.draw(int(time.time() * 1_000)), self.kafka.bootstrap)

    def worker(self) -> Command:
        return Command("worker", folder=self.folder / "worker", settings=self.settings)

    def catch_up(self) -> None:
        succeeded(self.run("worker", "--until-caught-up"))

    def epoch(self, topic: str) -> str:
        """The id that Kafka gave the topic, as it stands in the rows."""
        return str(self.sink.rows("SELECT any(epoch) FROM owners WHERE topic = {t:String}", {"t": topic})[0][0])

    def commit(self, topic: str, offset: int) -> None:
        """Move the group's offset of partition 0 by hand."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        wanted = [ConsumerGroupTopicPartitions(GROUP, [TopicPartition(topic, 0, offset)])]
        (moved,) = admin.alter_consumer_group_offsets(wanted).values()
        moved.result(timeout=30)

    def audit(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        """What the command answers as JSON, if it ends with that exit code."""
        done = self.run("audit", "--json", *arguments)
        assert done.code == code, done.text[-6_000:]
        answer: dict[str, Any] = json.loads(done.out)
        return answer


@pytest.fixture
def place(kafka: Kafka, tmp_path: Path) -> Iterator[Place]:
    with gateway(tmp_path / "database") as database:
        found = Place(kafka, database, tmp_path)
        yield found
        found.sink.close()


@contextmanager
def _caught_up(place: Place) -> Iterator[Command]:
    """A worker that has read everything there is, and goes on."""
    with place.worker() as worker:
        waited = "SELECT sum(next_offset) FROM (SELECT argMax(next_offset, version) AS next_offset FROM snapshots "
        waited += "WHERE topic != '' GROUP BY topic, partition)"
        worker.wait_for(lambda: place.sink.rows(waited)[0][0] == place.load.produced, "everything was in a snapshot")
        yield worker


@pytest.mark.kafka
def test_from_the_first_record_to_the_repair(place: Place) -> None:
    """A live worker, a dead one, one that has come after it: no difference. Then damage is found, and repaired.

    One test, because a worker and a Kafka take seconds to start.
    """
    place.draw(6)
    with _caught_up(place) as worker:
        answer = place.audit()
        assert answer["workers"] == 1
        assert answer["totals"]["records"] == place.load.produced
        assert answer["totals"]["stored"] == place.load.stored
        assert answer["totals"]["rejected"] + answer["totals"]["duplicates"] == place.load.refused.total()
        assert answer["totals"]["duplicates"] == place.load.refused["duplicate"]
        # Damage to a chunk that is over can be repaired beside the worker.
        place.sink.client.command("ALTER TABLE window_rows DELETE WHERE chunk = 0 SETTINGS mutations_sync = 2")
        assert {one["kind"] for one in place.audit(code=1)["differences"]} == {"window_rows", "window_totals"}
        assert len(place.audit("--repair")["repaired"]["chunks"]) == len(RAW_TOPICS)
        place.draw(2)
        worker.process.kill()

    # Nobody has come yet: with a worker in prospect nothing is wrong, at the end of the day it is.
    place.audit()
    kinds = {one["kind"] for one in place.audit("--strict-end", code=1)["differences"]}
    assert "not_processed" in kinds
    assert kinds <= {"not_processed", "beyond_snapshot", "window_rows", "window_totals", "alert_not_told"}
    place.catch_up()
    answer = place.audit("--strict-end")
    assert answer["workers"] == 0
    assert answer["totals"]["records"] == place.load.produced
    assert answer["totals"]["transitions_recomputed"] == answer["totals"]["transitions"] > 0

    _kafka_differences(place)


def _kafka_differences(place: Place) -> None:
    """What only Kafka can tell."""
    place.sink.client.command("ALTER TABLE rejects DELETE WHERE topic = 'city.raw.sensor' SETTINGS mutations_sync = 2")
    (missing,) = place.audit("--strict-end", code=1)["differences"]
    assert (missing["kind"], missing["place"]) == ("missing", "city.raw.sensor/0")
    alone = place.audit("--strict-end", "--without-kafka", "--topic", "city.raw.sensor", code=1)
    assert [one["kind"] for one in alone["differences"]] == ["missing_unseen"]

    # An alert that nobody stored, one that nobody told, and a commit beyond the snapshot.
    where = Origin("city.raw.sensor", 0, place.epoch("city.raw.sensor"))
    foreign = stored.newest_transitions(where, 2**62, place.sink)[0] | {"transition_id": "x", "fingerprint": "f"}
    producer = Producer({"bootstrap.servers": place.kafka.bootstrap})
    producer.produce(ALERT_TOPIC, encode(contract("Alert"), foreign), b"f")
    assert producer.flush(10) == 0
    place.sink.client.command(
        "INSERT INTO alert_transitions SELECT * REPLACE ('y' AS transition_id, 'g' AS fingerprint) FROM "
        "(SELECT * FROM alert_transitions WHERE topic = 'city.raw.lighting' AND sequence = 1 LIMIT 1)"
    )
    place.commit("city.raw.report", 10_000)
    found = {one["kind"]: one for one in place.audit("--strict-end", code=1)["differences"]}
    assert set(found) == {
        "missing", "alert_not_stored", "alert_not_told", "alert_unfounded", "committed_too_far",
    }  # fmt: skip
    assert found["alert_not_stored"]["what"] == "transition x (fingerprint f)"
    assert "fingerprint g" in found["alert_not_told"]["what"]
    assert found["committed_too_far"]["counts"]["committed"] == 10_000


def test_an_embedded_database_that_a_worker_has_open(tmp_path: Path) -> None:
    """It is told in words, and not taken for a difference; so are a wrong command line and a broker that is away."""
    settings = {
        "kafka_bootstrap": nobody(),
        "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
        "start_timeout_s": 1,
    }
    failed(vigie("audit", "--without-kafka", folder=tmp_path, settings=settings), "run `vigie init`", code=3)
    with Command("gateway", "--data-dir", tmp_path / "clickhouse", "--port", 0, folder=tmp_path / "gateway") as owner:
        owner.wait_for_text("listening on")
        told = failed(vigie("audit", "--without-kafka", folder=tmp_path, settings=settings), "already open", code=3)
        assert "belongs to one process" in told
    failed(vigie("audit", folder=tmp_path, settings=settings), "VIGIE_KAFKA_BOOTSTRAP", code=3)
    failed(vigie("audit", "--from", "yesterday", folder=tmp_path, settings=settings), "is no instant", code=2)
    failed(vigie("audit", "--from", "2026-09-15T08:00:00", folder=tmp_path, settings=settings), "time zone", code=2)
