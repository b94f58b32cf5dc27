"""The in-process broker is no toy: the same records give the same rows there and on real Apache Kafka."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from processors.territory import Territory
from schemas.contracts import DOMAINS, RAW_TOPICS
from streams.simulation.city import simulate
from streams.simulation.records import Record, Truth
from tests.support.kafka import Kafka
from tests.support.pipeline import (
    alert_messages,
    broker_in_process,
    committed_offsets,
    dead_letters,
    end_offsets,
    everything,
    rows,
    send,
    succeeded,
    vigie,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_EVENTS: Final = 20_000
#: Silence and hot spots that depend on when somebody looks are the business of other tests.
_SETTINGS: Final = {"idle_grace_s": 600, "zone_watch_interval_s": 600, "log_batches": "false"}

_PLACE: Final = "topic, partition, offset"
#: What is stored, in an order that everything has. `received_at` and `epoch` are the broker's own.
_TABLES: Final = {
    **{f"events_{d}": f"SELECT * EXCEPT (received_at, epoch) FROM events_{d} ORDER BY {_PLACE}" for d in DOMAINS},
    "windows": "SELECT * FROM windows ORDER BY ALL",
    "window_rows": "SELECT * EXCEPT (version, epoch) FROM window_rows FINAL ORDER BY ALL",
    "asset_state": "SELECT * EXCEPT (received_at) FROM asset_state FINAL ORDER BY ALL",
    "rejects": f"SELECT {_PLACE}, stage, reason, detail FROM rejects ORDER BY {_PLACE}",
    "alert_transitions": "SELECT * EXCEPT (epoch, offset) FROM alert_transitions ORDER BY fingerprint, starts_at, "
    "sequence, transition_id",
    "snapshots": "SELECT topic, partition, next_offset, watermark, code_version, hex(state) FROM snapshots FINAL "
    "WHERE topic != '' ORDER BY topic, partition",
}


@dataclass(frozen=True)
class Ran:
    """What a worker made of the records: the rows of every table, and what it left on real Kafka."""

    tables: dict[str, list[tuple[Any, ...]]]
    raw: list[KafkaMessage]
    letters: list[KafkaMessage]
    alerts: list[KafkaMessage]
    committed: dict[tuple[str, int], int]
    ends: dict[tuple[str, int], int]


@pytest.fixture(scope="module")
def simulated(synthetic_city: Territory) -> tuple[list[Record], Truth]:
    """A simulated day that ends now, with dirt, and the truth about it."""
    now = datetime.now(UTC).replace(microsecond=0)
    city = simulate(
        synthetic_city, seed=11, start=now - timedelta(days=1), end=now, events=_EVENTS, wall_now=lambda: now
    )
    return list(city.records()), city.truth


def work(bootstrap: str, territory: Path, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Run a worker until everything in the topics is stored; the rows of every table."""
    settings = {
        **_SETTINGS,
        "kafka_bootstrap": bootstrap,
        "clickhouse_url": f"chdb://{folder / 'clickhouse'}",
        "territories": territory,
    }
    succeeded(vigie("worker", "--until-caught-up", folder=folder, settings=settings))
    return dict(zip(_TABLES, rows(folder / "clickhouse", *_TABLES.values()), strict=True))


@pytest.fixture
def on_kafka(kafka: Kafka, simulated: tuple[list[Record], Truth], synthetic_folder: Path, tmp_path: Path) -> Ran:
    records, _ = simulated
    settings = {"kafka_bootstrap": kafka.bootstrap, "clickhouse_url": f"chdb://{tmp_path / 'kafka' / 'clickhouse'}"}
    first = succeeded(vigie("init", folder=tmp_path / "init", settings=settings))
    assert all(topic in first.out for topic in RAW_TOPICS.values())
    again = succeeded(vigie("init", folder=tmp_path / "init", settings=settings))
    assert "topics created: none" in again.out
    assert "tables: up to date" in again.out
    assert "warning" not in again.text
    send(records, kafka.bootstrap)
    tables = work(kafka.bootstrap, synthetic_folder, tmp_path / "kafka")
    return Ran(
        tables,
        everything(kafka.bootstrap, list(RAW_TOPICS.values())),
        dead_letters(kafka.bootstrap),
        alert_messages(kafka.bootstrap),
        committed_offsets(kafka.bootstrap),
        end_offsets(kafka.bootstrap),
    )


def test_same_rows(
    kafka: Kafka, on_kafka: Ran, simulated: tuple[list[Record], Truth], synthetic_folder: Path, tmp_path: Path
) -> None:
    """Every table is equal but for the broker's own time; dead letters, alerts and offsets on Kafka are as promised."""
    records, truth = simulated
    with broker_in_process() as bootstrap:
        send(records, bootstrap)
        there = work(bootstrap, synthetic_folder, tmp_path / "in-process")
        mock_letters = [_letter(message) for message in dead_letters(bootstrap)]
        mock_alerts = [(message.key(), message.value()) for message in alert_messages(bootstrap)]
    for table, expected in there.items():
        assert expected, f"{table} is empty: nothing is compared"
        assert on_kafka.tables[table] == expected, table
    assert Counter(map(_letter, on_kafka.letters)) == Counter(mock_letters)
    assert Counter((m.key(), m.value()) for m in on_kafka.alerts) == Counter(mock_alerts)

    assert_accounted_for(on_kafka, truth)
    assert_dead_letters(on_kafka)
    assert_alerts(on_kafka)
    assert on_kafka.committed == on_kafka.ends
    assert_broker_time(kafka, on_kafka)


def _letter(message: KafkaMessage) -> tuple[Any, ...]:
    return message.key(), message.value(), tuple(message.headers() or ())


def assert_accounted_for(ran: Ran, truth: Truth) -> None:
    """Stored and refused are what the simulator says they are."""
    stored = sum(len(ran.tables[f"events_{domain}"]) for domain in DOMAINS)
    reasons = Counter(row[4] for row in ran.tables["rejects"])
    assert stored == truth.stored
    assert reasons == {**truth.refused, "duplicate": truth.duplicates}


def assert_dead_letters(ran: Ran) -> None:
    """Each reject is there exactly once, with its headers, and the original key, bytes and broker time."""
    originals = {(m.topic(), m.partition(), m.offset()): m for m in ran.raw}
    rejects = {tuple(row[:3]): row[3:] for row in ran.tables["rejects"]}
    seen = set()
    for letter in ran.letters:
        headers: dict[str, Any] = dict(letter.headers() or ())
        connect = {name.removeprefix("__connect.errors."): str(value, "utf-8") for name, value in headers.items()}
        place = (connect["topic"], int(connect["partition"]), int(connect["offset"]))
        seen.add(place)
        original = originals[place]
        assert (letter.key(), letter.value()) == (original.key(), original.value())
        assert letter.timestamp()[1] == original.timestamp()[1]
        stage, reason, detail = rejects[place]
        assert (connect["stage"], connect["exception.message"]) == (stage, detail)
        assert (headers["vigie_reason"], headers["vigie_replay_count"]) == (reason.encode(), b"0")
    assert len(ran.letters) == len(seen) == len(rejects)


def assert_alerts(ran: Ran) -> None:
    """Each transition is on the alert topic once, under its fingerprint; and there are some."""
    fingerprints = Counter(str(row[1]) for row in ran.tables["alert_transitions"])
    assert Counter((message.key() or b"").decode() for message in ran.alerts) == fingerprints


def assert_broker_time(kafka: Kafka, ran: Ran) -> None:
    """Raw records carry the time at which the broker got them; the topics were made so."""
    assert {message.timestamp()[0] for message in ran.raw} == {TIMESTAMP_LOG_APPEND_TIME}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    asked = [ConfigResource(ResourceType.TOPIC, topic) for topic in RAW_TOPICS.values()]
    for future in admin.describe_configs(asked).values():
        config = future.result(timeout=30)
        assert config["message.timestamp.type"].value == "LogAppendTime"
        assert config["retention.ms"].value == str(7 * 86_400_000)
