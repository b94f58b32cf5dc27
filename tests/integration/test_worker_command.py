"""`vigie init`, `check` and `worker` against brokers and databases that are there, away, or come and go."""

from __future__ import annotations

import signal
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from processors.territory import Territory
from schemas.contracts import DOMAINS, RAW_TOPICS
from streams.simulation.city import simulate
from tests.support.kafka import Kafka
from tests.support.pipeline import (
    Command,
    broker_in_process,
    committed_offsets,
    end_offsets,
    failed,
    rows,
    send,
    succeeded,
    vigie,
)

pytestmark = pytest.mark.integration

_POSITIONS: Final = " UNION ALL ".join(
    f"SELECT topic, partition, offset FROM {table}" for table in (*(f"events_{d}" for d in DOMAINS), "rejects")
)
#: Rows and distinct positions of everything stored or refused, then the next offset that each partition has reached.
_POSITION_COUNT: Final = f"SELECT count(), uniqExact(topic, partition, offset) FROM ({_POSITIONS})"
_REACHED: Final = f"SELECT topic, partition, max(offset) + 1, count() FROM ({_POSITIONS}) GROUP BY topic, partition"
_STORED: Final = "SELECT " + " + ".join(f"(SELECT count() FROM events_{domain})" for domain in DOMAINS)
_WINDOW_EVENTS: Final = "SELECT sum(count) FROM windows WHERE layer = 'quartier' AND endsWith(metric, '.events')"


def nobody() -> str:
    """A host:port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.kafka
def test_check_before_and_after_init(kafka: Kafka, synthetic_folder: Path, tmp_path: Path) -> None:
    """Before `vigie init`, check and worker name what is missing and what to run; after it, all is well."""
    settings = {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
        "territories": synthetic_folder,
    }
    told = failed(vigie("check", folder=tmp_path, settings=settings), "vigie init", *RAW_TOPICS.values())
    assert "no tables of ours" in told
    failed(vigie("worker", folder=tmp_path, settings=settings), "vigie init", *RAW_TOPICS.values())
    succeeded(vigie("init", folder=tmp_path, settings=settings))
    done = succeeded(vigie("check", folder=tmp_path, settings=settings))
    answers = [line.split() for line in done.out.splitlines()[1:]]
    assert [answer[0] for answer in answers] == ["ok"] * 5
    assert kafka.bootstrap in done.out
    assert "Vigie-sur-Mer" in done.out


def test_check_with_nothing_running(tmp_path: Path) -> None:
    """Each thing that is away is named, with its address, the reason, and the setting to look at."""
    kafka, clickhouse, registry = nobody(), nobody(), nobody()
    settings = {
        "kafka_bootstrap": kafka,
        "clickhouse_url": f"http://somebody:secret@{clickhouse}",
        "schema_registry_url": f"http://{registry}",
    }
    told = failed(
        vigie("check", folder=tmp_path, settings=settings),
        f"Kafka at {kafka} does not answer",
        "VIGIE_KAFKA_BOOTSTRAP",
        "VIGIE_CLICKHOUSE_URL",
        "VIGIE_SCHEMA_REGISTRY_URL",
        "VIGIE_TERRITORIES",
    )
    assert told.count("\nno ") == 4
    assert "secret" not in told


def test_kafka_away_at_start(synthetic_folder: Path, tmp_path: Path) -> None:
    """The worker says that it waits for Kafka, and gives up after the time it is given, with exit code 1."""
    settings = {
        "kafka_bootstrap": nobody(),
        "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
        "territories": synthetic_folder,
        "start_timeout_s": 3,
    }
    with Command("worker", folder=tmp_path, settings=settings) as worker:
        worker.wait_for_text("waiting for Kafka")
        failed(worker.wait(30), str(settings["kafka_bootstrap"]), "VIGIE_KAFKA_BOOTSTRAP")


@pytest.mark.kafka
def test_kafka_comes_after_a_while(kafka: Kafka, synthetic_folder: Path, tmp_path: Path) -> None:
    """A broker that answers within the time given is waited for: the worker then goes on by itself."""
    settings = {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
        "territories": synthetic_folder,
    }
    succeeded(vigie("init", folder=tmp_path, settings=settings))
    kafka.kill()
    with Command("worker", "--until-caught-up", folder=tmp_path, settings=settings) as worker:
        worker.wait_for_text("waiting for Kafka")
        kafka.restart()
        assert succeeded(worker.wait())


def test_clickhouse_away_at_start(synthetic_folder: Path, tmp_path: Path) -> None:
    """The same for a ClickHouse server; the password in its URL is never told."""
    with broker_in_process() as bootstrap:
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"http://vigie:secret@{nobody()}/city",
            "territories": synthetic_folder,
            "start_timeout_s": 3,
        }
        with Command("worker", folder=tmp_path, settings=settings) as worker:
            worker.wait_for_text("waiting for ClickHouse")
            told = failed(worker.wait(60), "ClickHouse")
    assert "secret" not in told


def test_registry_away_at_start(synthetic_folder: Path, tmp_path: Path) -> None:
    """The same for a schema registry that is configured."""
    with broker_in_process() as bootstrap:
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
            "territories": synthetic_folder,
            "schema_registry_url": f"http://{nobody()}",
            "start_timeout_s": 3,
        }
        with Command("worker", folder=tmp_path, settings=settings) as worker:
            worker.wait_for_text("waiting for the schema registry")
            failed(worker.wait(60), str(settings["schema_registry_url"]))


@pytest.mark.kafka
def test_stopped_and_started_again(
    kafka: Kafka, synthetic_city: Territory, synthetic_folder: Path, tmp_path: Path
) -> None:
    """SIGTERM finishes what is begun and ends with exit code 0; the next start loses nothing and doubles nothing."""
    now = datetime.now(UTC)
    city = simulate(synthetic_city, seed=5, start=now - timedelta(days=1), end=now, events=30_000, wall_now=lambda: now)
    records = list(city.records())
    directory = tmp_path / "clickhouse"
    settings = {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"chdb://{directory}",
        "territories": synthetic_folder,
        # Small batches and quick flushes, so that the stop falls among them.
        "batch_records": 200,
        "flush_interval_s": 0.2,
        "log_batches": "false",
    }
    succeeded(vigie("init", folder=tmp_path, settings=settings))
    part = len(records) // 3
    send(records[:part], kafka.bootstrap)
    with Command("worker", folder=tmp_path / "first", settings=settings) as worker:
        worker.wait_for(lambda: bool(committed_offsets(kafka.bootstrap)), "it had committed something")
        sending = threading.Thread(target=send, args=(records[part:], kafka.bootstrap))
        sending.start()
        worker.interrupt(signal.SIGTERM)
        done = worker.wait(40)
        sending.join()
    assert succeeded(done)
    assert "Traceback" not in done.text
    (reached,) = rows(directory, _REACHED)
    stored = {(topic, partition): end for topic, partition, end, _ in reached}
    assert committed_offsets(kafka.bootstrap) == stored, "what is stored is committed, and no more"
    assert sum(count for *_, count in reached) == sum(stored.values()), "there are no holes"
    assert sum(stored.values()) < len(records), "the stop came before the end"

    succeeded(vigie("worker", "--until-caught-up", folder=tmp_path / "second", settings=settings))
    ((counted,), ((window_events,),), ((events,),)) = rows(directory, _POSITION_COUNT, _WINDOW_EVENTS, _STORED)
    assert counted == (len(records), len(records)), "every record is there, and none twice"
    assert window_events == events
    assert committed_offsets(kafka.bootstrap) == end_offsets(kafka.bootstrap)
