"""What a worker finds when it starts: offsets moved by hand, snapshots that are gone, damaged or of other versions,
topics created anew, and what a killed one had begun. However it was, the end is as if nothing had happened."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import shapely
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from processors.territory import Territory
from schemas.contracts import DOMAINS, RAW_TOPICS
from streams import broker
from streams.territory.files import load, versioned, write
from tests.support import other_version
from tests.support.gateway import Gateway, gateway
from tests.support.kafka import Kafka
from tests.support.load import MOST_PER_PARTITION, Load, territory
from tests.support.oracles import Place
from tests.support.pipeline import Command, Done, send
from tests.support.proxy import FaultProxy
from tests.support.world import Answer, World, said, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_DRAWS: Final = 30
_SETTINGS: Final = {
    # So slow that there is a midst to be stopped in, and snapshots of only a part of what is stored.
    "batch_records": 5,
    "linger_s": 0.02,
    "flush_interval_s": 0.1,
    "snapshot_interval_s": 1,
    "chunk_records": 2 * MOST_PER_PARTITION,
    # Alerts follow from the records alone, so that all worlds tell the same.
    "idle_grace_s": 600,
    "zone_watch_interval_s": 600,
    "drain_timeout_s": 20,
}
#: A worker that was killed is replaced by its successor at once, instead of after its session.
_SUCCEEDED: Final[Mapping[str, Any]] = {"instance_id": "worker"}
#: How the one reads that is not to be interrupted.
_FAST: Final[Mapping[str, Any]] = {"batch_records": 500}
_TABLES: Final = (*(f"events_{domain}" for domain in DOMAINS), "rejects")
_POSITIONS: Final = " UNION ALL ".join(
    f"SELECT topic, epoch, partition, offset FROM {table} FINAL" for table in _TABLES
)
_VERSIONS: Final = " UNION ALL ".join(
    f"SELECT topic, partition, territory_version, offset FROM events_{domain} FINAL" for domain in DOMAINS
)


@dataclass(frozen=True)
class Setting:
    """A log that is complete, and what a world makes of it when nothing happens."""

    kafka: Kafka
    gateway: Gateway
    territory: Path
    folder: Path
    records: int
    undisturbed: Answer


def records(draws: int, seed: int = 31) -> list[Any]:
    """So many draws of the load, a second apart; the last one ends now."""
    load, now_ms = Load(seed), int(time.time() * 1_000)
    return [record for number in range(draws, 0, -1) for record in load.draw(now_ms - number * 1_000)]


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def setting(
    module_kafka: Kafka, shared_gateway: Gateway, load_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("undisturbed")
    where = module_kafka.bootstrap, shared_gateway.url, load_folder, folder
    with world("undisturbed", *where, {**_SETTINGS, **_FAST}) as made:
        sent = send(records(_DRAWS), module_kafka.bootstrap)
        made.work_off()
        assert made.faults() == []
        yield Setting(module_kafka, shared_gateway, load_folder, folder, sent, made.answer())


@pytest.fixture
def disturbed(setting: Setting, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of its own for a test, at the beginning of the same log."""
    group = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    where = setting.kafka.bootstrap, setting.gateway.url, setting.territory, tmp_path
    with world(group, *where, _SETTINGS) as made:
        yield made


def interrupted(made: World, number: signal.Signals, **changes: Any) -> Command:
    """Have a worker begin, and end it in the midst of the log. The worker, for what it wrote."""
    epochs, total = made.epochs(), sum(made.ends().values())
    enough = sum(made.reached(epochs).values()) + total // 8
    with made.worker(**changes) as worker:

        def is_in_the_midst() -> bool:
            ((there,),) = made.rows(f"SELECT count() FROM ({_POSITIONS.replace('FINAL', '')})")
            return enough < sum(made.reached(epochs).values()) < int(there)

        worker.wait_for(is_in_the_midst, "some of it was in snapshots, and some more was stored")
        worker.interrupt(number)
        code = worker.process.wait(60)
        assert code == (0 if number == signal.SIGTERM else -number), worker.text[-3_000:]
    assert sum(made.reached(epochs).values()) < total, "the end came before that of the log"
    return worker


def count(made: World) -> int:
    """How many records are stored or rejected."""
    return int(made.rows(f"SELECT count() FROM ({_POSITIONS})")[0][0])


def assert_as_if_nothing_had_happened(made: World, setting: Setting) -> None:
    """Every record once, windows and alerts as they are in the world that was not disturbed."""
    assert made.faults() == []
    assert count(made) == setting.records
    assert setting.undisturbed.differences(made.answer())[:20] == []
    assert made.committed() == made.ends()


# --- offsets


def test_committed_offsets_are_advice(disturbed: World, setting: Setting) -> None:
    """Offsets that somebody rewinds in Kafka, or moves forward, make no record counted twice and none left out: every
    worker goes on where the snapshots end, and reads nothing again that was handed over."""
    interrupted(disturbed, signal.SIGTERM)
    first = disturbed.reached()
    assert disturbed.committed() == {place: end for place, end in first.items() if end}
    move(disturbed, dict.fromkeys(disturbed.ends(), 0))
    rewound = interrupted(disturbed, signal.SIGTERM)
    assert where_resumed(rewound) == first
    second = disturbed.reached()
    move(disturbed, disturbed.ends())
    assert where_resumed(disturbed.work_off(**_FAST)) == second
    assert_as_if_nothing_had_happened(disturbed, setting)


def where_resumed(worker: Done | Command) -> dict[Place, int]:
    """Where a worker went on, if nothing was stored beyond that."""
    lines = said(worker, "resumed")
    assert all(line["tail"] == 0 for line in lines)
    return {(line["topic"], line["partition"]): line["next_offset"] for line in lines}


def move(made: World, offsets: dict[Place, int]) -> None:
    """Set the group's committed offsets, as `kafka-consumer-groups --reset-offsets` does."""
    admin = AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0})
    wanted = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
    (future,) = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(made.group, wanted)]).values()
    assert all(place.error is None for place in future.result(timeout=30).topic_partitions)


# --- snapshots


def test_killed(disturbed: World, setting: Setting) -> None:
    """After SIGKILL what was stored beyond the last snapshot is not stored again, and nothing of it is left out."""
    interrupted(disturbed, signal.SIGKILL, **_SUCCEEDED)
    done = disturbed.work_off(**_FAST, **_SUCCEEDED)
    assert sum(line["tail"] for line in said(done, "resumed")) > 0, "there was something beyond the snapshots"
    assert_as_if_nothing_had_happened(disturbed, setting)


def test_snapshots_deleted(disturbed: World, setting: Setting) -> None:
    """Without snapshots the last chunk of each partition is taken back and read again."""
    interrupted(disturbed, signal.SIGKILL, **_SUCCEEDED)
    disturbed.sink.delete("snapshots", "1")
    assert_read_again(disturbed, setting)


def test_snapshots_damaged(disturbed: World, setting: Setting) -> None:
    """A snapshot whose bytes are not what they were is told and not used; the last chunk is read again."""
    interrupted(disturbed, signal.SIGKILL, **_SUCCEEDED)
    flipped = "char(bitXor(reinterpretAsUInt8(substring(state, length(state), 1)), 1))"
    disturbed.sink.command(
        "INSERT INTO snapshots SELECT * REPLACE (taken_at + INTERVAL 1 MINUTE AS taken_at, "
        f"concat(substring(state, 1, length(state) - 1), {flipped}) AS state) FROM snapshots FINAL WHERE topic != ''"
    )
    done = assert_read_again(disturbed, setting)
    assert {line["error"] for line in said(done, "snapshot is of no use")} == {
        "the snapshot is damaged: its checksum does not fit"
    }


def assert_read_again(made: World, setting: Setting) -> Done:
    """The next worker begins at the last chunks, and all is right but lateness: nobody knows how far time had come."""
    done = made.work_off(**_FAST, **_SUCCEEDED)
    begun = {(line["topic"], line["partition"]): line["next_offset"] for line in said(done, "begun")}
    assert begun.keys() == made.ends().keys()
    assert any(begun.values()), "only the last chunk is read again"
    assert said(done, "resumed") == []
    assert made.faults() == []
    assert count(made) == setting.records
    assert setting.undisturbed.alerts == made.answer().alerts
    return done


def test_another_code_version(disturbed: World, setting: Setting) -> None:
    """An upgrade, and the way back: what lies beyond the snapshot is taken back and made by the new code, in a chunk
    of its own; alerts go on under their names."""
    program = (sys.executable, other_version.__file__, "another")
    interrupted(disturbed, signal.SIGKILL, **_SUCCEEDED)
    interrupted(disturbed, signal.SIGKILL, program=program, **_SUCCEEDED)
    assert disturbed.rows("SELECT DISTINCT code_version FROM snapshots FINAL") == [("another",)]
    done = disturbed.work_off(**_FAST, **_SUCCEEDED)
    assert {line["same_versions"] for line in said(done, "resumed")} >= {False}
    assert sum(line["tail"] for line in said(done, "resumed")) > 0, "there was something to take back"
    assert_as_if_nothing_had_happened(disturbed, setting)


def test_another_territory(disturbed: World, setting: Setting, tmp_path: Path) -> None:
    """Other zones: what is in a snapshot keeps the old ones, what comes after it has the new ones, and windows are
    what is stored, zone by zone."""
    interrupted(disturbed, signal.SIGKILL, **_SUCCEEDED)
    folder = tmp_path / "redrawn"
    write(versioned(redrawn(territory())), folder)
    reached = disturbed.reached()
    done = disturbed.work_off(territories=folder, **_FAST, **_SUCCEEDED)
    assert sum(line["tail"] for line in said(done, "resumed")) > 0, "there was something to take back"
    assert disturbed.faults() == []
    assert count(disturbed) == setting.records
    assert setting.undisturbed.alerts == disturbed.answer().alerts
    newest = load(folder)[0].version
    found = disturbed.rows(
        f"SELECT topic, partition, territory_version, min(offset), max(offset) FROM ({_VERSIONS}) GROUP BY ALL"
    )
    assert len({version for _, _, version, _, _ in found}) == 2
    for topic, partition, version, first, last in found:
        assert first >= reached[topic, partition] if version == newest else last < reached[topic, partition]


def redrawn(small: Territory) -> Territory:
    """The territory with the border between the quarters moved across the place where most things are."""
    moved = np.array([shapely.affinity.translate(polygon, 0.015, 0.0) for polygon in small.geometries], dtype=object)
    return replace(small, geometries=moved)


def test_what_a_killed_worker_had_begun_comes_late(disturbed: World, setting: Setting) -> None:
    """Inserts that a killed worker had under way reach ClickHouse when its successor has long taken over: they lose."""
    with FaultProxy(setting.gateway.url.removeprefix("http://")) as proxy:
        url = f"http://{proxy.address}/{disturbed.group}"
        enough, epochs = setting.records // 6, disturbed.epochs()
        with disturbed.worker(clickhouse_url=url, **_SUCCEEDED) as worker:
            worker.wait_for(lambda: sum(disturbed.reached(epochs).values()) > enough, "some of it was in snapshots")
            proxy.half_open()
            time.sleep(0.5)
            worker.interrupt(signal.SIGKILL)
            worker.process.wait(30)
        with disturbed.worker(**_SUCCEEDED) as worker:
            begun = sum(disturbed.reached(epochs).values())
            worker.wait_for(lambda: sum(disturbed.reached(epochs).values()) > begun, "the successor had taken over")
            assert proxy.connections > 0, "something was under way"
            proxy.heal()
            wait_for(lambda: proxy.connections == 0, "it had arrived")
            disturbed.wait_until_caught_up(worker)
            stopped(worker)
    assert_as_if_nothing_had_happened(disturbed, setting)


# --- topics created anew


@pytest.mark.parametrize("how", ["ended", "running", "held"])
def test_topics_created_anew(
    how: str, kafka: Kafka, shared_gateway: Gateway, load_folder: Path, tmp_path: Path
) -> None:
    """Offsets begin again and are told apart from the old ones: all of both logs is there, once; under a running worker
    too, and under one that comes to itself when the new topics are longer than the old ones (others are shorter)."""
    shorter = {RAW_TOPICS["roadway"], RAW_TOPICS["report"]}
    first, second = records(10), records(20, seed=32)
    second = [one for number, one in enumerate(second) if number < len(second) // 4 or one.topic not in shorter]
    with world(f"anew_{how}", kafka.bootstrap, shared_gateway.url, load_folder, tmp_path, _SETTINGS) as made:
        old = made.epochs()
        send(first, kafka.bootstrap)
        with made.worker() as worker:
            made.wait_until_caught_up(worker)
            old_ends = made.ends()
            if how == "ended":
                stopped(worker)
            elif how == "held":
                worker.interrupt(signal.SIGSTOP)
            recreate(made)
            send(second, kafka.bootstrap)
            if how == "held":
                worker.interrupt(signal.SIGCONT)
            if how != "ended":
                made.wait_until_caught_up(worker)
                stopped(worker)
        if how == "ended":
            made.work_off(**_FAST)
        new = made.epochs()
        positions = made.rows(
            "SELECT topic, epoch, partition, count(), uniqExact(offset), max(offset) + 1 "
            f"FROM ({_POSITIONS}) GROUP BY topic, epoch, partition"
        )
        found = {(topic, epoch, number): tuple(counts) for topic, epoch, number, *counts in positions}
        expected = {
            (topic, epochs[topic], number): (end, end, end)
            for epochs, ends in ((old, old_ends), (new, made.ends()))
            for (topic, number), end in ends.items()
        }
        assert found == expected
        assert made.faults_of_what_follows(made.stored()) == []


def recreate(made: World) -> None:
    """Delete the raw topics and create them again under their names."""
    admin = AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0})
    for future in admin.delete_topics(list(RAW_TOPICS.values())).values():
        future.result(timeout=30)
    until = time.monotonic() + 30
    while set(broker.create_topics(made.parsed())) != set(RAW_TOPICS.values()):
        assert time.monotonic() < until, "the topics could not be created again"
        time.sleep(0.1)
