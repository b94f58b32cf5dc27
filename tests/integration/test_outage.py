"""ClickHouse or Kafka away, silent, or failing in the midst of an answer: fetching waits, memory stays, nothing is
lost, and everything goes on by itself."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.contracts import DOMAINS, RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.simulation.records import Record
from tests.support.batches import event
from tests.support.city import CITY
from tests.support.gateway import Gateway, gateway
from tests.support.kafka import Kafka
from tests.support.load import Load
from tests.support.pipeline import Command, dead_letters, send
from tests.support.proxy import FaultProxy
from tests.support.world import World, said, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_QUIET: Final = {
    # An attempt on a dead connection ends soon.
    "clickhouse_timeout_s": 2,
    "flush_interval_s": 0.2,
    "snapshot_interval_s": 0.5,
    # Alerts follow from the records alone.
    "idle_grace_s": 600,
    "zone_watch_interval_s": 600,
}

#: Twenty minutes of a hundred events a second, and what comes before.
_MISSED: Final = 20 * 60 * 100
_BEFORE: Final = 20_000
_FLUSH_ROWS, _BATCH_RECORDS, _FETCH_BYTES = 1_000, 200, 65_536
_SMALL: Final[Mapping[str, Any]] = {
    "flush_rows": _FLUSH_ROWS,
    "batch_records": _BATCH_RECORDS,
    "fetch_bytes": _FETCH_BYTES,
    "log_batches": "true",
}
#: Processed and not stored: three flushes, the five batches that had arrived by then, and one more of each topic, which
#: its last block may make twice as large.
_PROCESSED: Final = 3 * _FLUSH_ROWS + (5 + 2 * len(DOMAINS)) * _BATCH_RECORDS
#: Fetched and not processed: of each topic four batches that Faust keeps, one before them and one behind.
_FETCHED: Final = 6 * len(DOMAINS) * _BATCH_RECORDS
#: What a record takes in memory at most, in whatever form, and what Python keeps of what it has been given.
_RECORD_BYTES: Final = 2_048
_ALLOWANCE_BYTES: Final = 40 * 1_048_576
#: A fetch brings at least one batch of the producer, which is packed, and is kept as it came and unpacked.
_PRODUCED_BYTES: Final = 1_048_576


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path / "gateway") as running:
        yield running


@pytest.fixture
def proxy(server: Gateway) -> Iterator[FaultProxy]:
    with FaultProxy(server.url.removeprefix("http://")) as between:
        yield between


@pytest.fixture
def made(kafka: Kafka, server: Gateway, proxy: FaultProxy, load_folder: Path, tmp_path: Path) -> Iterator[World]:
    """A world whose workers reach ClickHouse through the proxy; the test itself needs none."""
    through = {"clickhouse_url": f"http://{proxy.address}/outage"}
    with world("outage", kafka.bootstrap, server.url, load_folder, tmp_path, {**_QUIET, **through}) as one:
        yield one


def many(first: int, count: int) -> Iterator[Record]:
    """So many ordinary events of all domains, each of an identity of its own."""
    now_ms, nobody = int(time.time() * 1_000), "0" * 12
    bodies = [
        (RAW_TOPICS[domain], encode(contract_of(domain), event(domain, event_id=nobody, observed_at=now_ms)))
        for domain in DOMAINS
    ]
    for number in range(first, first + count):
        topic, body = bodies[number % len(bodies)]
        yield Record(
            topic, b"%s|%d" % (CITY.encode(), number), body.replace(nobody.encode(), b"%012d" % number), now_ms
        )


def memory_bytes(worker: Command) -> int:
    """The most memory that a process has held so far."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text("utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024


def processed(worker: Command) -> int:
    """How many records have been through the stages."""
    return sum(line["rows"] for line in said(worker, "batch"))


def test_clickhouse_away_for_long(
    made: World, kafka: Kafka, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty minutes of events come while ClickHouse is away: fetching stops, memory keeps within what the settings
    say, and with ClickHouse back everything is stored, by itself."""
    partitions = len(DOMAINS) * made.parsed().partitions
    allowed = (_PROCESSED + _FETCHED) * _RECORD_BYTES + partitions * 2 * _PRODUCED_BYTES + _ALLOWANCE_BYTES
    with made.worker(**_SMALL) as worker:
        send(many(0, _BEFORE), kafka.bootstrap)
        made.wait_until_caught_up(worker)
        before = memory_bytes(worker)
        proxy.cut()
        send(many(_BEFORE, _MISSED), kafka.bootstrap)
        worker.wait_for(lambda: _is_told(worker), "it told that ClickHouse is away")
        reached = settled(lambda: processed(worker))
        held = memory_bytes(worker) - before
        assert reached - _BEFORE <= _PROCESSED, "processing stops when so much waits"
        assert made.committed() == made.reached(), "nothing is acknowledged that is not stored"
        assert sum(made.reached().values()) == _BEFORE
        with capsys.disabled():
            sys.stdout.write(
                f"\nwithout ClickHouse: {reached - _BEFORE:,} of {_MISSED:,} events processed, memory + "
                f"{held / 1_048_576:.0f} MiB (allowed {allowed / 1_048_576:.0f})\n"
            )
        assert held < allowed
        proxy.heal()
        made.wait_until_caught_up(worker)
        stopped(worker)
    assert sum(made.ends().values()) == _BEFORE + _MISSED
    assert made.faults() == []


def _is_told(worker: Command) -> bool:
    return "ClickHouse is away" in worker.text


def _has_reset(proxy: FaultProxy, answers: int) -> bool:
    return proxy.resets >= answers


def settled(value: Callable[[], int]) -> int:
    """The value, once it has not changed for two seconds."""
    last, since_s = value(), time.monotonic()

    def is_settled() -> bool:
        nonlocal last, since_s
        now = value()
        if now != last:
            last, since_s = now, time.monotonic()
        return time.monotonic() - since_s > 2.0

    wait_for(is_settled, "nothing more was processed")
    return last


def test_clickhouse_ill(made: World, kafka: Kafka, proxy: FaultProxy, server: Gateway) -> None:
    """Silence on open connections, answers that break off, a server that is killed: one worker outlasts all of them,
    and stores every record once."""
    load = Load(41)

    def flow(draws: int) -> None:
        for _ in range(draws):
            send(load.draw(int(time.time() * 1_000)), kafka.bootstrap)

    with made.worker() as worker:
        flow(3)
        made.wait_until_caught_up(worker)
        proxy.half_open()
        flow(2)
        worker.wait_for(lambda: _is_told(worker), "it told that ClickHouse is away")
        proxy.heal()
        made.wait_until_caught_up(worker)
        for broken in range(1, 6):
            proxy.reset_answer(20)
            flow(1)
            worker.wait_for(partial(_has_reset, proxy, broken), "an answer broke off")
        made.wait_until_caught_up(worker)
        server.kill()
        flow(2)
        server.start()
        made.wait_until_caught_up(worker)
        stopped(worker)
    assert sum(made.ends().values()) == load.produced
    assert made.faults() == []


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_kafka_away(how: str, made: World, kafka: Kafka) -> None:
    """A broker that is restarted, or killed, in the midst of the flow is waited for: the worker goes on by itself, with
    every record stored once and every alert told."""
    load = Load(43)
    records = [record for _ in range(30) for record in load.draw(int(time.time() * 1_000))]
    with made.worker() as worker:
        send(records[:300], kafka.bootstrap)
        made.wait_until_caught_up(worker)
        sending = threading.Thread(target=send, args=(records[300:], kafka.bootstrap))
        sending.start()
        worker.wait_for(lambda: sum(made.reached().values()) > 300, "more had come")
        with contextlib.ExitStack() as later:
            later.callback(sending.join)
            if how == "killed":
                kafka.kill()
                time.sleep(2.0)
                kafka.start()
            else:
                kafka.restart()
        made.wait_until_caught_up(worker)
        stopped(worker)
    assert sum(made.ends().values()) == load.produced
    assert made.faults() == []


@pytest.mark.parametrize("doing", ["nothing", "letters"])
def test_kafka_away_for_longer_than_the_watchdog(doing: str, made: World, kafka: Kafka) -> None:
    """A worker with nothing to do, and one that holds dead letters which nobody confirms, wait for it all the same: for
    the retry budget. With Kafka back everything is told and stored once."""
    load, watchdog_s = Load(44), 20
    with made.worker(watchdog_s=watchdog_s, flush_interval_s=6, log_batches="true") as worker:
        send(load.draw(int(time.time() * 1_000)), kafka.bootstrap)
        made.wait_until_caught_up(worker)
        if doing == "letters":
            # More than the client takes before it lets others wait.
            junk = [Record(RAW_TOPICS["sensor"], f"{CITY}|gate-1".encode(), bytes(4_000), 0) for _ in range(40)]
            load.produced += send(junk, kafka.bootstrap)
            worker.wait_for(lambda: processed(worker) == load.produced, "they were processed")
        kafka.kill()
        away_s = time.monotonic()
        worker.wait_for(lambda: time.monotonic() - away_s > 1.5 * watchdog_s, "it was away for long")
        if doing == "letters":
            worker.wait_for(lambda: bool(said(worker, "waiting for Kafka")), "it waited for the letters")
        kafka.start()
        send(load.draw(int(time.time() * 1_000)), kafka.bootstrap)
        made.wait_until_caught_up(worker)
        stopped(worker)
    assert sum(made.ends().values()) == load.produced
    assert made.faults() == []
    assert len(dead_letters(kafka.bootstrap)) >= sum(len(one) for one in made.stored().rejects.values())
