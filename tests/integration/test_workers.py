"""Several workers on one log: they come, go, die, hang and stop, and the answer is that of one worker left alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from schemas.contracts import RAW_TOPICS
from streams.simulation.records import Record
from tests.support.city import CITY
from tests.support.gateway import Gateway, gateway
from tests.support.kafka import Kafka
from tests.support.load import Load
from tests.support.pipeline import Command, dead_letters, failed, send
from tests.support.world import World, said, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_SETTINGS: Final[Mapping[str, Any]] = {
    "batch_records": 50,
    "flush_interval_s": 0.2,
    "snapshot_interval_s": 0.5,
    # Who says nothing for so long has lost its partitions.
    "session_timeout_s": 5,
    "rebalance_timeout_s": 20,
    "drain_timeout_s": 10,
    # Alerts follow from the records alone.
    "idle_grace_s": 600,
    "zone_watch_interval_s": 600,
}
#: Leaving the group, closing connections.
_LEAVING_S: Final = 8
_TERMS: Final = (
    "SELECT topic, partition, argMax(owner, term), max(term), argMax(generation, term) FROM owners WHERE topic != '' "
    "GROUP BY topic, partition"
)
_HOLDERS: Final = "SELECT DISTINCT argMax(owner, term) FROM owners WHERE topic != '' GROUP BY topic, partition"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path / "gateway") as running:
        yield running


class Group:
    """A world, workers by name, and a flow of records that does not stop for what happens to them."""

    def __init__(self, made: World, kafka: Kafka, stack: ExitStack) -> None:
        self.made = made
        self.workers: dict[str, Command] = {}
        self.load = Load(51)
        self.sent = 0
        self._kafka = kafka
        self._stack = stack
        self._over = threading.Event()
        self._flowing: threading.Thread | None = None

    def begin(self, *names: str, **changes: Any) -> None:
        """Start workers under these names, in place of those that had them."""
        for name in names:
            self.workers[name] = self._stack.enter_context(self.made.worker(**changes))

    def wait_for_holders(self, count: int) -> None:
        """Wait until so many workers hold partitions."""
        wait_for(lambda: len(holders(self.made)) == count, f"{count} workers held partitions")

    def wait_for_members(self, count: int) -> None:
        """Wait until Kafka's group has so many members, and they agree on who has what."""
        wait_for(lambda: members(self.made) == count, f"the group had {count} members")

    def flow(self) -> None:
        """Have records come, some hundred a second, until `end`."""
        self._flowing = threading.Thread(target=self._flow)
        self._flowing.start()
        # Whatever becomes of the test, Kafka is there as long as somebody writes to it.
        self._stack.callback(self._flowing.join)
        self._stack.callback(self._over.set)

    def _flow(self) -> None:
        while not self._over.wait(0.25):
            self.sent += send(self.load.draw(int(time.time() * 1_000)), self._kafka.bootstrap)

    def wait_for_progress(self) -> None:
        """Wait until records that come from now on are in snapshots, with all that came before them."""
        before = self.sent
        wait_for(lambda: self.sent > before, "more came")
        ends, epochs = self.made.ends(), self.made.epochs()

        def has_come() -> bool:
            reached = self.made.reached(epochs)
            return all(reached.get(place, 0) >= end for place, end in ends.items())

        wait_for(has_come, "it went on")

    def end(self) -> None:
        """Stop the flow, have everything worked off, stop the workers that run; every one ends well."""
        self._over.set()
        if self._flowing is not None:
            self._flowing.join()
        running = [worker for worker in self.workers.values() if worker.process.poll() is None]
        self.made.wait_until_caught_up(running[0])
        stopped(*running)
        assert sum(self.made.ends().values()) == self.load.produced
        assert self.made.faults() == []


@pytest.fixture
def group(kafka: Kafka, server: Gateway, load_folder: Path, tmp_path: Path) -> Iterator[Group]:
    with ExitStack() as stack:
        where = kafka.bootstrap, server.url, load_folder, tmp_path
        made = stack.enter_context(world("workers", *where, {**_SETTINGS, "partitions": 2}))
        yield Group(made, kafka, stack)


def holders(made: World) -> set[str]:
    """Who holds partitions, by the newest claims."""
    return {str(holder) for (holder,) in made.rows(_HOLDERS)}


def members(made: World) -> int:
    """How many members the group has, once it is in balance; 0 before."""
    admin = AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0})
    try:
        found = admin.describe_consumer_groups([made.group], request_timeout=10)[made.group].result(timeout=20)
    except KafkaException:
        # A broker that has just started has no coordinator yet.
        return 0
    return len(found.members) if found.state == ConsumerGroupState.STABLE else 0


def terms(made: World) -> dict[tuple[str, int], tuple[str, int, int]]:
    """The newest claim of each partition: owner, term, Kafka's generation."""
    return {(topic, partition): (owner, term, kafka) for topic, partition, owner, term, kafka in made.rows(_TERMS)}


def zone_term(made: World) -> int:
    """How often somebody has taken up the watch over the zones."""
    ((term,),) = made.rows("SELECT max(term) FROM owners WHERE topic = ''")
    return int(term)


def holder(group: Group) -> str:
    """The name of the worker that was the last to take over the first partition of the sensors."""
    taken = {
        line["term"]: name
        for name, worker in group.workers.items()
        for what in ("begun", "resumed")
        for line in said(worker, what)
        if (line["topic"], line["partition"]) == (RAW_TOPICS["sensor"], 0)
    }
    return taken[max(taken)]


def assert_as_one_alone(group: Group, load_folder: Path, server: Gateway, tmp_path: Path) -> None:
    """One worker that nobody disturbs makes the same of the log."""
    where = group.made.bootstrap, server.url, load_folder, tmp_path
    with world("alone", *where, {**_SETTINGS, "partitions": 2, "batch_records": 5_000}) as alone:
        alone.work_off()
        assert group.made.answer().differences(alone.answer())[:20] == []


def test_they_come_and_go(group: Group, load_folder: Path, server: Gateway, tmp_path: Path) -> None:
    """Three workers share two partitions of each topic, and perhaps only two have something to do: whoever is killed,
    stopped or joins meanwhile, somebody goes on, and the answer is that of one worker alone."""
    group.begin("a", "b", "c")
    group.wait_for_members(3)
    wait_for(lambda: len(holders(group.made)) >= 2, "two workers or three held partitions")
    group.flow()
    group.wait_for_progress()
    for end in (signal.SIGKILL, signal.SIGTERM):
        name = holder(group)
        group.workers[name].interrupt(end)
        assert group.workers[name].process.wait(60) == (0 if end == signal.SIGTERM else -end)
        group.wait_for_progress()
        group.begin(name)
        group.wait_for_members(3)
    for _ in range(2):
        group.begin("d")
        group.wait_for_members(4)
        group.wait_for_progress()
        stopped(group.workers["d"])
        group.wait_for_members(3)
    group.end()
    assert_as_one_alone(group, load_folder, server, tmp_path)


def test_a_stale_owner_loses(group: Group, load_folder: Path, server: Gateway, tmp_path: Path) -> None:
    """A worker that stands still for longer than its session has lost its partitions; when it moves again, what it had
    begun changes nothing, and it goes on as a member of the group."""
    # Flushes so far apart that there is always something begun.
    group.begin("a", "b", flush_interval_s=1.5)
    group.wait_for_holders(2)
    group.flow()
    group.wait_for_progress()
    name = holder(group)
    group.workers[name].interrupt(signal.SIGSTOP)
    group.wait_for_holders(1)
    group.wait_for_progress()
    group.workers[name].interrupt(signal.SIGCONT)
    group.wait_for_holders(2)
    group.wait_for_progress()
    group.end()
    assert_as_one_alone(group, load_folder, server, tmp_path)


def test_a_name_kept_over_a_restart(group: Group) -> None:
    """With static membership a worker that is back within its session finds its partitions where it left them, and
    nobody else hands over anything."""
    named = {"session_timeout_s": 60, "zone_watch_interval_s": 0.2}
    for name in ("a", "b"):
        group.begin(name, instance_id=name, **named)
    group.wait_for_members(2)
    group.wait_for_holders(2)
    group.flow()
    group.wait_for_progress()
    before = terms(group.made)
    stopped(group.workers["a"])
    group.begin("a", instance_id="a", **named)
    group.wait_for_progress()
    after, generation = terms(group.made), max(kafka for _, _, kafka in before.values())
    for place, (owner, term, kafka) in before.items():
        if owner.startswith("a-"):
            assert after[place][0].startswith("a-")
            assert after[place][1:] == (term + 1, generation), "nobody had to agree anew on who has what"
        else:
            assert after[place] == (owner, term, kafka)
    assert {owner[0] for owner, _, _ in before.values()} == {"a", "b"}
    zones = zone_term(group.made)
    for name in ("a", "b"):
        stopped(group.workers[name])
        group.begin(name, instance_id=name, **named)
        group.wait_for_progress()
    # One of them looks after the zones; Kafka tells both that somebody else leads the group.
    wait_for(lambda: zone_term(group.made) > zones > 0, "somebody looked at the zones again")
    group.end()


def test_too_many_are_refused(group: Group, kafka: Kafka) -> None:
    """A flood of records that nobody can read stops the worker, with a message; a new start does not get past it; once
    a person allows it they are dead letters, each of them once."""
    flood = [Record(RAW_TOPICS["sensor"], f"{CITY}|gate-1".encode(), b"garbage", 0) for _ in range(200)]
    sent = send([*group.load.draw(int(time.time() * 1_000)), *flood], kafka.bootstrap)
    group.load.produced += len(flood)
    assert sent == group.load.produced
    for _ in range(2):
        with group.made.worker(max_consecutive_invalid=60) as worker:
            failed(worker.wait(), "city.raw.sensor/", "are refused", "VIGIE_MAX_CONSECUTIVE_INVALID")
        # Of what a fetch brought before the limit was reached some may be told; what other partitions hold goes on.
        flooded = [one for one in dead_letters(kafka.bootstrap) if one.value() == b"garbage"]
        assert len(flooded) < 60, "no start gets past it"
    group.begin("a")
    group.end()
    assert len(dead_letters(kafka.bootstrap)) == sum(len(one) for one in group.made.stored().rejects.values())


def test_a_worker_that_is_stuck_ends(group: Group, server: Gateway, kafka: Kafka) -> None:
    """Records wait and nothing moves, because ClickHouse takes a statement and never answers, for longer than the
    watchdog allows: the worker says so and ends, and its successor has everything."""
    with group.made.worker(clickhouse_timeout_s=100, watchdog_s=4, drain_timeout_s=2) as worker:
        send(group.load.draw(int(time.time() * 1_000)), kafka.bootstrap)
        group.made.wait_until_caught_up(worker)
        with standing_still(server):
            send(group.load.draw(int(time.time() * 1_000)), kafka.bootstrap)
            failed(worker.wait(40), "VIGIE_WATCHDOG_S", "the worker is stuck")
    group.begin("a")
    group.end()


def test_stopped_while_clickhouse_hangs(group: Group, server: Gateway, kafka: Kafka) -> None:
    """Asked to stop while nothing can be stored, a worker ends within its deadline and says what that means; asked a
    second time, at once. Nothing is lost by either."""
    changes = {"clickhouse_timeout_s": 100, "drain_timeout_s": 3}
    group.begin("a", "b", **changes)
    group.wait_for_holders(2)
    group.flow()
    group.wait_for_progress()
    with standing_still(server):
        time.sleep(1.5)
        asked_s = time.monotonic()
        group.workers["a"].interrupt(signal.SIGTERM)
        group.workers["b"].interrupt(signal.SIGINT)
        time.sleep(0.5)
        group.workers["b"].interrupt(signal.SIGINT)
        assert group.workers["b"].wait(2).code == 128 + signal.SIGINT
        failed(group.workers["a"].wait(40), "in time")
        assert time.monotonic() - asked_s < 3 + _LEAVING_S
    group.begin("c")
    group.end()


@contextmanager
def standing_still(server: Gateway) -> Iterator[None]:
    """ClickHouse takes connections and answers nothing."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
