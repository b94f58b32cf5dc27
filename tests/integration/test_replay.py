"""`vigie replay` on real Kafka: an hour of a topic into another one, killed and taken up again, stopped, and
refused."""

from __future__ import annotations

import random
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from itertools import count as counting
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from benchmarks.process import memory_mib
from schemas.contracts import RAW_TOPICS
from sinks.clickhouse import Sink, connect
from sinks.replays import Run, run_of
from streams.cli.replay import replay
from streams.replay.offsets import Offsets
from streams.replay.provenance import ORIGIN_HEADER, RUN_HEADER, origin
from streams.settings import load
from tests.support.gateway import Gateway, gateway
from tests.support.kafka import Kafka
from tests.support.pipeline import Command, Done, committed_offsets, failed, succeeded, vigie

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

#: A live topic whose records bear their senders' time: the broker's cannot be forged.
_TOPIC: Final = RAW_TOPICS["sensor"]
_PARTITIONS: Final = 4
_BEGIN_MS: Final = 1_789_430_400_000  # 2026-09-15T00:00:00Z
_HOUR_MS: Final = 3_600_000
_HOUR: Final = ("--from", "2026-09-15T01:00:00Z", "--to", "2026-09-15T02:00:00Z")
#: Of three hours; an eighth of them in the first one and another in the last.
_RECORDS: Final = 80_000
_SHARES: Final = (0.0, 0.125, 0.875, 1.0)
_HOURS: Final = (0.0, 1.0, 2.0, 3.0)
_STALE_S: Final = 10

#: A record: partition, offset, key, value, headers, time.
Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...], int]
_numbers: Final = counting()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def sink(server: Gateway) -> Iterator[Sink]:
    with closing(connect(server.url)) as one:
        yield one


@pytest.fixture(scope="module")
def log(module_kafka: Kafka) -> list[Row]:
    """What the live topic holds: three hours of records, and at the end those of a transaction that was given up."""
    # What is so old would be deleted in the midst of the test.
    config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    module_kafka.create_topic(_TOPIC, partitions=_PARTITIONS, config=config)
    client = {"bootstrap.servers": module_kafka.bootstrap, "log_level": 0}
    producer = Producer({**client, "linger.ms": 20, "enable.idempotence": True})
    for number in range(_RECORDS):
        key = None if number % 1_000 == 7 else b"%d|bin-%d" % (213_400_017 if number % 3 else 999_999_999, number % 97)
        value = None if number % 1_000 == 8 else b"%d" % number + b"x" * 60
        headers: Any = [("ce_id", b"%d" % number), ("ce_id", b"again"), ("empty", None)] if number % 5 else []
        # Neighbours in a partition are not quite in the order of their times.
        at_ms = _BEGIN_MS + int(np.interp((number ^ 4) / _RECORDS, _SHARES, _HOURS) * _HOUR_MS)
        while True:
            try:
                producer.produce(_TOPIC, value, key, number % _PARTITIONS, timestamp=at_ms, headers=headers)
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(60) == 0
    # The partition ends with an offset that holds no record.
    giving_up = Producer({**client, "transactional.id": "t"})
    giving_up.init_transactions(30)
    giving_up.begin_transaction()
    giving_up.produce(_TOPIC, b"given up", b"213400017|bin-1", 0, timestamp=_BEGIN_MS + _HOUR_MS)
    giving_up.flush(30)
    giving_up.abort_transaction(30)
    return contents(module_kafka, _TOPIC)


def contents(kafka: Kafka, topic: str) -> list[Row]:
    """What a topic holds, in the order of partitions and offsets. The ends of partitions need not be records."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "test", "enable.partition.eof": True, "log_level": 0,
         "auto.offset.reset": "earliest", "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    )  # fmt: skip
    found, ended = list[Row](), set[int]()
    with closing(consumer):
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        while len(ended) < len(partitions):
            for m in consumer.consume(10_000, timeout=0.1):
                if m.error() is None:
                    one: Any = m
                    headers = tuple(one.headers() or ())
                    found.append((one.partition(), one.offset(), one.key(), one.value(), headers, one.timestamp()[1]))
                else:
                    ended.add(int(m.partition() or 0))
    return sorted(found, key=lambda row: row[:2])


def in_the_hour(log: list[Row]) -> tuple[list[Row], int]:
    """The records of the middle hour; and how many are read for them: in each partition those from the first one of
    that time on, up to the end, because times need not rise."""
    hour = [row for row in log if _BEGIN_MS + _HOUR_MS <= row[5] < _BEGIN_MS + 2 * _HOUR_MS]
    first = [next(row[1] for row in hour if row[0] == number) for number in range(_PARTITIONS)]
    return hour, sum(row[1] >= first[row[0]] for row in log)


def length(kafka: Kafka, topic: str) -> int:
    """How many records have been sent to a topic that has had no others."""
    offsets = _offsets(kafka.bootstrap)
    return sum(offsets.ends(offsets.places(topic)).values())


@cache
def _offsets(bootstrap: str) -> Offsets:
    return Offsets(load(kafka_bootstrap=bootstrap))


def copies(kafka: Kafka, topic: str, run_id: str) -> list[Row]:
    """What a run has sent to a topic, as the records it comes from, in the order of the target: partition and offset
    are those of the header, which must be in order within each partition; its two headers are the last, and left
    out."""
    found = []
    for partition, _, key, value, headers, at_ms in contents(kafka, topic):
        came_from = origin(headers, run_id.encode())
        if came_from is not None:
            assert [name for name, _ in headers[-2:]] == [RUN_HEADER, ORIGIN_HEADER]
            assert (came_from.topic, came_from.partition, came_from.received_ms) == (_TOPIC, partition, at_ms)
            found.append((partition, came_from.offset, key, value, headers[:-2], at_ms))
    return found


def settings(kafka: Kafka, server: Gateway, *targets: str) -> Mapping[str, object]:
    return {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": server.url,
        "replay_topics": ",".join(targets),
        "replay_stale_s": _STALE_S,
    }


def target(kafka: Kafka, partitions: int = _PARTITIONS, **config: str) -> str:
    """An empty topic that keeps the time of records, and records for ever unless it is told otherwise."""
    name = f"lab-{next(_numbers)}"
    named = {setting.replace("_", "."): value for setting, value in {"retention_ms": "-1", **config}.items()}
    kafka.create_topic(name, partitions=partitions, config=named)
    return name


def run(settings: Mapping[str, object], *arguments: str) -> Done:
    """`vigie replay` in this process, which has imported everything already."""
    variables = {f"VIGIE_{name.upper()}": str(value) for name, value in settings.items()}
    done = CliRunner(env=variables).invoke(replay, arguments)
    return Done(done.exit_code, done.stdout, done.stderr)


def id_in(text: str) -> str:
    """The run that a command speaks of."""
    found = re.search(r"\brun (\S+?)[:;\s]", text)
    assert found, text
    return found[1]


def row_of(sink: Sink, run_id: str) -> Run:
    found = run_of(run_id, sink)
    assert found is not None
    return found


def test_an_hour_is_replayed_and_the_live_group_untouched(
    module_kafka: Kafka, server: Gateway, sink: Sink, log: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First it is told what would be sent, then it is sent: the same keys, values, headers, times and order of each
    partition. No offset of the live group moves and no other group appears; and memory does not grow with the run."""
    lab, (hour, read) = target(module_kafka), in_the_hour(log)
    ours = settings(module_kafka, server, lab)
    live = Consumer({"bootstrap.servers": module_kafka.bootstrap, "group.id": "vigie", "enable.auto.commit": False})
    before = {(_TOPIC, number): 1_000 * (number + 1) for number in range(_PARTITIONS)}
    live.commit(offsets=[TopicPartition(*place, offset) for place, offset in before.items()], asynchronous=False)
    live.close()

    dry = succeeded(run(ours, "--topic", _TOPIC, "--to-topic", lab, *_HOUR))
    assert f"{len(hour):,} records would be sent" in dry.out
    assert f"left out: outside the time {read - len(hour):,}" in dry.out
    of_first = [row for row in hour if row[0] == 0]
    assert f"0 {len(of_first):,} {of_first[0][1]:,} {of_first[-1][1]:,}" in " ".join(dry.out.split())
    assert length(module_kafka, lab) == 0

    memory: list[float] = []
    command = ("replay", "--topic", _TOPIC, "--to-topic", lab, *_HOUR, "--no-dry-run")
    with Command(*command, folder=tmp_path / "run", settings=ours) as running:
        running.wait_for_text(f"{_TOPIC} into {lab}")
        while running.process.poll() is None:
            memory.append(memory_of(running.process.pid))
            time.sleep(0.05)
        done = succeeded(running.wait())
    memory = [mib for mib in memory if mib]
    run_id = id_in(done.err)
    assert copies(module_kafka, lab, run_id) == hour
    assert length(module_kafka, lab) == len(hour)

    row = row_of(sink, run_id)
    assert (row.kind, row.state, row.source, row.targets, row.problem) == ("replay", "done", _TOPIC, (lab,), "")
    assert (row.read, row.sent, dict(row.left_out)) == (
        read, len(hour), {"outside the time": read - len(hour)},
    )  # fmt: skip
    assert row.who and row.ended_at is not None and row.ended_at >= row.started_at
    assert committed_offsets(module_kafka.bootstrap) == before
    admin = AdminClient({"bootstrap.servers": module_kafka.bootstrap, "log_level": 0})
    assert {one.group_id for one in admin.list_consumer_groups().result(timeout=30).valid} == {"vigie"}

    halfway = memory[len(memory) // 2]
    assert memory[-1] < 400 and memory[-1] - halfway < 48
    with capsys.disabled():
        told = done.out.splitlines()[-1].partition(";")[0]
        grown = f"{halfway:.0f} MiB halfway, {memory[-1]:.0f} MiB at the end"
        sys.stdout.write(f"\nan hour of {len(hour):,} records, of {read:,} read: {told}; memory {grown}\n")


def test_killed_in_the_middle_and_taken_up_again(
    module_kafka: Kafka, server: Gateway, sink: Sink, log: list[Row], tmp_path: Path
) -> None:
    """After SIGKILL the run is gone on with: nothing is missing then, and nothing there twice. Nobody takes it up while
    its process lives, and nobody goes on with one that is done."""
    lab, (hour, read) = target(module_kafka), in_the_hour(log)
    ours = settings(module_kafka, server, lab)
    # As the records came, 200 times as fast: that would take 18 s.
    command = ("replay", "--topic", _TOPIC, "--to-topic", lab, *_HOUR, "--speed", "200x", "--no-dry-run")
    with Command(*command, folder=tmp_path, settings=ours) as running:
        running.wait_for_text(f"{_TOPIC} into {lab}")
        run_id = id_in(running.text)
        again = ("--resume", run_id, "--speed", "max", "--no-dry-run")
        running.wait_for(lambda: row_of(sink, run_id).sent > 0, "the row told of it")
        failed(run(ours, *again), "is under way", str(running.process.pid))
        # Behind the last cut, so that what was sent since must be looked for.
        told, there = row_of(sink, run_id), length(module_kafka, lab)
        running.wait_for(lambda: length(module_kafka, lab) > there >= told.sent, "more was sent")
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    killed, before = row_of(sink, run_id), length(module_kafka, lab)
    assert 0 < killed.sent <= before < len(hour)
    # Interrupted again while it still passes over what is there, which takes it some seconds: that is not sent anew.
    slowly = ("replay", "--resume", run_id, "--speed", "max", "--rate", "1/s", "--no-dry-run")
    with Command(*slowly, folder=tmp_path / "again", settings=ours) as running:
        running.wait_for(lambda: row_of(sink, run_id).process != killed.process, "it has taken the run up", 60)
        running.wait_for_text(f"run {run_id}: ")
        running.interrupt()
        failed(running.wait(), f"vigie replay --resume {run_id} --no-dry-run", "interrupted")
    assert length(module_kafka, lab) - before <= 5
    succeeded(run(ours, *again))
    assert copies(module_kafka, lab, run_id) == hour
    row = row_of(sink, run_id)
    assert (row.state, row.read, row.sent) == ("done", read, len(hour))
    assert dict(row.left_out) == {"outside the time": read - len(hour)}
    failed(run(ours, "--resume", run_id), "is done", f"{len(hour):,} records")


def test_stopped_by_a_record_too_large_and_by_ctrl_c(
    module_kafka: Kafka, server: Gateway, sink: Sink, tmp_path: Path
) -> None:
    """What a target does not take stops the run before anything behind it, and the row says why. Ctrl-C ends it with
    exit code 1 and the command to go on; with it the rest comes, and the chosen keys only."""
    source, lab = target(module_kafka, partitions=1), target(module_kafka, partitions=1, max_message_bytes="20000")
    producer = Producer({"bootstrap.servers": module_kafka.bootstrap, "log_level": 0, "compression.type": "none"})
    large, count = random.Random(5).randbytes(30_000), 4_000
    for number in range(count):
        value = b"%d " % number + (large if number == 60 else b"small")
        producer.produce(source, value, b"213400017|bin" if number % 2 == 0 else b"999999999|bin")
    assert producer.flush(30) == 0
    wanted = list(range(0, count, 2))
    ours = settings(module_kafka, server, lab)

    def sent() -> list[int]:
        return [int((row[3] or b"").split()[0]) for row in contents(module_kafka, lab)]

    begin = ("--topic", source, "--to-topic", lab, "--jurisdiction", "213400017", "--no-dry-run")
    told = failed(run(ours, *begin), "max.message.bytes", "--resume")
    run_id = id_in(told)
    assert sent() == wanted[: len(sent())] and len(sent()) <= 30
    assert (row_of(sink, run_id).state, "max.message.bytes" in row_of(sink, run_id).problem) == ("failed", True)

    resource = ConfigResource(ResourceType.TOPIC, lab)
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": module_kafka.bootstrap, "log_level": 0})
    (altered,) = admin.incremental_alter_configs([resource]).values()
    altered.result(timeout=30)
    slowly = ("replay", "--resume", run_id, "--rate", "300/s", "--no-dry-run")
    with Command(*slowly, folder=tmp_path / "slowly", settings=ours) as running:
        running.wait_for(lambda: length(module_kafka, lab) > 100, "some were sent")
        running.interrupt()
        failed(running.wait(), f"vigie replay --resume {run_id} --no-dry-run", "interrupted")
    assert row_of(sink, run_id).state == "interrupted"
    assert row_of(sink, run_id).sent == len(sent()) < len(wanted)
    faster = ("--rate", "1e9", "--no-dry-run")
    done = succeeded(run(ours, "--resume", run_id, *faster))
    assert sent() == wanted
    assert f"left out: another jurisdiction {count - len(wanted):,}" in done.out


def memory_of(pid: int) -> float:
    """The most memory that a process has held so far, in MiB; 0 once it has ended."""
    try:
        return memory_mib(pid, "VmHWM")
    except (OSError, ValueError):
        return 0.0


def nowhere() -> str:
    """A host:port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_what_cannot_be_is_refused_with_what_to_do(module_kafka: Kafka, server: Gateway, tmp_path: Path) -> None:
    """A topic that is not there, not allowed, too narrow, compacted, too forgetful, or the source itself; an empty
    time; and a ClickHouse or a Kafka that is away or held by another process: each is told in words, and nothing is
    sent."""
    source, lab, narrow = target(module_kafka), target(module_kafka), target(module_kafka, partitions=2)
    compacted, short = target(module_kafka, cleanup_policy="compact"), target(module_kafka, retention_ms="86400000")
    producer = Producer({"bootstrap.servers": module_kafka.bootstrap, "log_level": 0})
    producer.produce(source, b"value", b"213400017|bin", timestamp=_BEGIN_MS)
    assert producer.flush(30) == 0
    ours = {**settings(module_kafka, server, lab, narrow, compacted, short), "start_timeout_s": 1}

    def asked(*arguments: str, topic: str = source, **changes: object) -> Done:
        return run({**ours, **changes}, "--topic", topic, *arguments)

    real = ("--to-topic", lab, "--no-dry-run")
    failed(asked(topic=f"{source[:-1]}x{source[-1]}"), f"there is {source}")
    failed(asked(topic=RAW_TOPICS["report"]), "vigie init")
    failed(asked("--to-topic", "elsewhere", "--no-dry-run"), "VIGIE_REPLAY_TOPICS", lab, code=2)
    failed(asked("--to-topic", source), "into another topic", code=2)
    failed(asked("--to-topic", narrow), "2 partitions", f"with {_PARTITIONS} partitions")
    failed(asked("--to-topic", compacted), "compacted")
    failed(asked("--partition", "9"), "no 9")
    failed(asked("--to-topic", short, "--no-dry-run"), "retention.ms=-1")
    assert "1 of them are too old" in succeeded(asked("--to-topic", short)).err
    failed(asked(*real, clickhouse_url=f"http://{nowhere()}"), "ClickHouse")
    failed(asked(*real, kafka_bootstrap=nowhere()), "VIGIE_KAFKA_BOOTSTRAP")
    failed(asked("--speed", "fast"), "1x or 10x", code=2)
    failed(asked("--resume", "20260101-000000-abcdef"), "leave the other choices out", code=2)
    late = ("--from", "2027-01-01T00:00:00Z", "--to", "2027-01-02T00:00:00Z")
    assert "0 records would be sent" in succeeded(asked(*late)).out
    assert "read 0 records, sent 0" in succeeded(asked(*late, *real)).out
    assert length(module_kafka, lab) == 0
    # A process can open one embedded directory only: this one needs its own.
    held = {**ours, "clickhouse_url": f"chdb://{server.data}"}
    failed(vigie("replay", "--topic", source, *real, folder=tmp_path, settings=held), "vigie gateway")
