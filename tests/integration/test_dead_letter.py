"""`vigie dead-letter` on real Kafka: records of every reject reason through real workers, and those that are good
again."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.contracts import DEAD_LETTER_TOPIC, DOMAINS, RAW_TOPICS, Domain, contract_of
from schemas.framing import encode
from schemas.rejects import Reason
from sinks.dead_letters import REPLAY_HEADER
from sinks.replays import Refused, Run, store_run
from streams.cli.dead_letter import dead_letter
from streams.clock import utc_now
from streams.ledger import Place
from streams.replay.journal import Cut
from streams.replay.provenance import ORIGIN_HEADER, RUN_HEADER, origin
from streams.territory.files import versioned, write
from tests.support.batches import event
from tests.support.city import CITY, TOWN, TOWN_PLACE, town
from tests.support.gateway import gateway
from tests.support.kafka import Kafka
from tests.support.pipeline import Command, Done, environment, everything, succeeded
from tests.support.world import World, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

#: Of each kind of dirt; fewer of what ClickHouse refuses, which it is asked for row by row.
_EACH: Final = 50
_CURSED: Final = 5
#: Of what the town sends; the rest is of its lamps.
_OF_SENSORS: Final = 25
_MOST_BYTES: Final = 20_000
_SECRET: Final = "jeanne.martin@example.org"
_DAY_MS: Final = 86_400_000
_SETTINGS: Final[dict[str, object]] = {
    "max_record_bytes": _MOST_BYTES,
    "flush_interval_s": 0.2,
    "snapshot_interval_s": 0.5,
    # A worker that was stopped is replaced by its successor at once.
    "instance_id": "worker",
    "replay_stale_s": 15,
}


@dataclass(frozen=True)
class Sent:
    """A record to publish, and why it must be refused; None: it must not. `event_id` is that of its event, if any."""

    reason: Reason | None
    domain: Domain
    event_id: str
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


def records(now_ms: int) -> list[Sent]:
    """Dirt of every reason, clean records among it, and what the town sent, of which no worker has been told yet."""
    rng = random.Random(11)
    made: list[Sent] = []
    for number in range(_EACH):
        for reason in Reason:
            if reason == Reason.SINK and number >= _CURSED:
                continue
            domain: Domain = "report" if reason == Reason.OUT_OF_AREA else rng.choice(DOMAINS)
            good = clean("sensor" if reason == Reason.SINK else domain, f"{reason}-{number}", now_ms)
            made.append(good)
            made.append(dirty(reason, good, number, now_ms))
        of_town = clean("lighting" if number % 2 else "sensor", f"town-{number}", now_ms, jurisdiction_id=TOWN)
        key, headers = f"{TOWN}|{_SECRET}-{number}".encode(), [("ce_id", b"%d" % number), ("ce_id", None)]
        made.append(replace(of_town, reason=Reason.UNKNOWN_JURISDICTION, key=key, headers=headers))
    return made


def clean(domain: Domain, event_id: str, now_ms: int, **changes: Any) -> Sent:
    place = dict(zip(("longitude", "latitude"), TOWN_PLACE, strict=True)) if TOWN in changes.values() else {}
    value = event(domain, event_id=event_id, observed_at=now_ms - 60_000, **place, **changes)
    return Sent(None, domain, event_id, encode(contract_of(domain), value), f"{CITY}|{_SECRET}-{event_id}".encode())


def dirty(reason: Reason, good: Sent, number: int, now_ms: int) -> Sent:
    """A record made from a clean one such that it must be refused for that reason."""
    body, event_id = good.value or b"", f"dirty-{good.event_id}"

    def changed(**changes: Any) -> bytes:
        value = event(good.domain, event_id=event_id, observed_at=now_ms - 60_000)
        return encode(contract_of(good.domain), value | changes)

    value: bytes | None
    match reason:
        case Reason.DECODE:
            value = (body[:-3], None, b"", _SECRET.encode(), body[:10] + b"\xff" * 20)[number % 5]
        case Reason.UNKNOWN_SCHEMA:
            value = b"\xc3\x01" + b"\x07" * 8 + body[10:]
        case Reason.CONTRACT:
            value = changed(event_id="")
        case Reason.QUALITY:
            value = changed(observed_at=_DAY_MS)
        case Reason.FUTURE:
            value = changed(observed_at=now_ms + _DAY_MS)
        case Reason.OUT_OF_AREA:
            value = changed(longitude=12.5, latitude=41.9)
        case Reason.UNKNOWN_JURISDICTION:
            value = changed(jurisdiction_id="111111111")
        case Reason.DUPLICATE:
            value = body
        case Reason.SINK:
            value = changed(event_id=f"cursed-{number}")
        case Reason.TOO_LARGE:
            value = body + bytes(_MOST_BYTES)
    # Without a key a record has no partition of its own, where a duplicate would meet its original.
    key = good.key if number % 4 or reason == Reason.DUPLICATE else None
    headers: list[tuple[str, bytes | None]] = [("ce_id", b"%d" % number), ("empty", None)] if number % 2 else []
    return replace(good, reason=reason, event_id=event_id, value=value, key=key, headers=headers)


def publish(bootstrap: str, sent: Sequence[Sent]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "partitioner": "murmur2_random"})
    for one in sent:
        headers: Any = one.headers
        producer.produce(RAW_TOPICS[one.domain], one.value, one.key, headers=headers)
    assert producer.flush(30) == 0


@pytest.fixture
def made(kafka: Kafka, load_folder: Path, tmp_path: Path) -> Iterator[World]:
    """A world in which ClickHouse takes no event that is cursed."""
    with (
        gateway(tmp_path / "gateway") as server,
        world("letters", kafka.bootstrap, server.url, load_folder, tmp_path, _SETTINGS) as one,
    ):
        curse = "ALTER TABLE events_sensor ADD CONSTRAINT curse CHECK NOT startsWith(event_id, 'cursed')"
        one.sink.command(curse)
        yield one


class Shell:
    """`vigie dead-letter`, as somebody types it."""

    def __init__(self, made: World, **changes: object) -> None:
        self.settings = {**made.settings, **changes}
        self._variables = {
            name: value for name, value in environment(self.settings).items() if name.startswith("VIGIE_")
        }

    def run(self, *arguments: str) -> Done:
        done = CliRunner(env=self._variables).invoke(dead_letter, list(arguments))
        found = Done(done.exit_code, done.stdout, done.stderr)
        assert _SECRET not in found.text
        return succeeded(found)

    def letters(self) -> int:
        """How many refused records there are."""
        return int(self.stats()["records"])

    def stats(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("stats", "--json", *arguments).out)
        return found

    def retry(self, *arguments: str) -> str:
        """What a retry tells."""
        return self.run("retry", "--no-dry-run", *arguments).out


def by(found: dict[str, Any], *names: str) -> Counter[Any]:
    """Records of stats, counted by these."""
    counted: Counter[Any] = Counter()
    for group in found["groups"]:
        counted[tuple(group[name] for name in names) if len(names) > 1 else group[names[0]]] += group["records"]
    return counted


def retried(made: World) -> list[tuple[Any, Refused]]:
    """Records of the raw topics that a retry has sent, and where each was refused before."""
    found = []
    for message in everything(made.bootstrap, list(RAW_TOPICS.values())):
        headers: Any = message.headers() or ()
        run = dict(headers).get(RUN_HEADER)
        came_from = origin(headers, run) if run else None
        if came_from is not None:
            found.append((message, came_from))
    return found


def stored(made: World, where: str) -> Counter[str]:
    """How often each event is stored."""
    places = "uniqExact(topic, epoch, partition, offset)"
    sql = f"SELECT event_id, {places} FROM merge(currentDatabase(), '^events_') WHERE {where} GROUP BY event_id"
    return Counter(dict(made.rows(sql)))


def test_refused_records_are_told_retried_once_and_left_alone(made: World, tmp_path: Path) -> None:
    """500 dirty records of every reason: each is told under its reason, without a word of what it holds. With the town
    in the territories its records come in, and no others, each once, though a retry is killed; what has been stored
    another way meanwhile does not. What a worker refuses again, having heard of no town, is retried twice and no
    more."""
    sent = records(int(time.time() * 1_000))
    publish(made.bootstrap, sent)
    reasons = Counter(str(one.reason) for one in sent if one.reason is not None)
    clean_ones = len(sent) - reasons.total()
    assert reasons.total() > 500 and set(reasons) == set(Reason)
    folder = tmp_path / "town"
    write(versioned(town()), folder)
    both: dict[str, Any] = {"territories": f"{made.settings['territories']},{folder}"}
    shell, mended = Shell(made), Shell(made, **both)
    by_sensors, by_lamps = ("--topic", RAW_TOPICS["sensor"]), ("--topic", RAW_TOPICS["lighting"])

    with made.worker() as worker:
        worker.wait_for(lambda: shell.letters() == reasons.total(), "every letter had come")
        # A crash sends a dead letter again, as a row that ClickHouse refuses does, and anybody may write to a topic.
        worker.wait_for(lambda: stored(made, "1").total() == clean_ones, "the others were stored")
        known = shell.stats()["repeated"]
        letter: Any = everything(made.bootstrap, [DEAD_LETTER_TOPIC])[0]
        producer, at_ms = Producer({"bootstrap.servers": made.bootstrap, "log_level": 0}), letter.timestamp()[1]
        producer.produce(DEAD_LETTER_TOPIC, letter.value(), letter.key(), timestamp=at_ms, headers=letter.headers())
        producer.produce(DEAD_LETTER_TOPIC, b"hello")
        # Of a partition that no table of ours takes.
        foreign = [(name, b"70000" if name.endswith(".partition") else value) for name, value in letter.headers()]
        producer.produce(DEAD_LETTER_TOPIC, letter.value(), letter.key(), timestamp=at_ms, headers=foreign)
        assert producer.flush(30) == 0
        told = shell.stats()
        assert by(told, "reason") == reasons
        assert by(told, "topic") == Counter(RAW_TOPICS[one.domain] for one in sent if one.reason is not None)
        assert (told["records"], told["repeated"], told["strange"]) == (reasons.total(), known + 1, 2)
        assert by(told, "retried") == {0: reasons.total()}
        listed = shell.run("list", "--json", "--reason", "future", "--limit", "7").out.splitlines()
        assert [json.loads(line)["message"] for line in listed] == ["observed_at is ahead of the broker's time"] * 7
        assert stored(made, "1").total() == clean_ones

        # With the worker's territories nothing has become better.
        assert f"\n0 records good now, {reasons.total()} left out\n" in shell.run("retry").out
        # The worker has not been started anew with the others: it refuses what the retry takes to be good.
        for count in (1, 2):
            assert f"\n{_OF_SENSORS} records sent, " in mended.retry(*by_sensors)
            wait_for(partial(has_retried, mended, count), "they were refused again")
        third = mended.retry(*by_sensors)
        assert "\n0 records sent, " in third and f"retried 2 times already {_OF_SENSORS}" in third
        stopped(worker)

    with made.worker(**both) as worker:
        # Two of them the town has sent again by itself.
        publish(made.bootstrap, [one for one in sent if one.event_id in ("town-3", "town-5")])
        worker.wait_for(lambda: stored(made, f"jurisdiction_id = '{TOWN}'").total() == 2, "they were stored")
        wanted = _EACH - _OF_SENSORS - 2
        row = (
            f"unknown_jurisdiction {2 * _EACH + 2 * _OF_SENSORS} {wanted} sent again before {2 * _OF_SENSORS}, "
            f"still unknown_jurisdiction {_EACH}, retried 2 times already {_OF_SENSORS}, stored meanwhile 2"
        )
        assert row in " ".join(mended.run("retry").out.split())
        slowly = ("dead-letter", "retry", "--no-dry-run", *by_lamps, "--rate", "2/s")
        with Command(*slowly, folder=tmp_path / "killed", settings=mended.settings) as killed:
            killed.wait_for(lambda: len(retried(made)) >= 2 * _OF_SENSORS + 3, "some were sent")
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait()
        before = len(retried(made)) - 2 * _OF_SENSORS
        assert before < wanted
        rest = mended.retry()
        assert f"\n{wanted - before} records sent, " in rest
        assert f"sent again before {2 * _OF_SENSORS + before}" in rest and "stored meanwhile 2" in rest
        came = {f"town-{number}": 1 for number in range(_EACH) if number % 2}
        worker.wait_for(lambda: stored(made, f"jurisdiction_id = '{TOWN}'") == came, "each was stored once")
        assert "\n0 records sent, " in mended.retry()

        # ClickHouse takes what it refused, as soon as its curse is gone and it is asked.
        made.sink.command("ALTER TABLE events_sensor DROP CONSTRAINT curse")
        assert f"\n{_CURSED} records sent, 0 left out\n" in mended.retry("--reason", "sink")
        total = clean_ones + len(came) + _CURSED
        worker.wait_for(lambda: stored(made, "1").total() == total, "those were stored, too")
        stopped(worker)
    assert set(stored(made, "1").values()) == {1}
    as_they_were(made)
    a_retry_of_long_ago_holds_nobody_up(made, mended)
    runs = made.rows("SELECT state, sent FROM replay_runs FINAL WHERE kind = 'retry' ORDER BY started_at")
    counts = [_OF_SENSORS, _OF_SENSORS, 0, before, wanted - before, 0, _CURSED]
    states = ["done", "done", "done", "interrupted", "done", "done", "done"]
    assert runs == [("interrupted", 0), *zip(states, counts, strict=True), ("done", 0)]


def a_retry_of_long_ago_holds_nobody_up(made: World, shell: Shell) -> None:
    """What a retry sent that was cut short may have been deleted since: that is told, and the next one goes on."""
    lamps = Place(RAW_TOPICS["lighting"], 0)
    behind = {lamps: 0}
    long_ago = utc_now() - timedelta(days=30)
    failed_run = Run(
        run_id="long-ago", kind="retry", state="failed", who="op", process="gone", started_at=long_ago,
        source=DEAD_LETTER_TOPIC, targets=(lamps.topic,), selection="{}", plan="{}", cut=Cut(behind=behind).to_json(),
    )  # fmt: skip
    store_run(failed_run, made.sink, "1")
    admin = AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0})
    (deleted,) = admin.delete_records([TopicPartition(lamps.topic, lamps.partition, 3)]).values()
    assert deleted.result(timeout=30).low_watermark == 3
    done = shell.run("retry", "--no-dry-run")
    assert "retry long-ago was cut short" in done.err and "is being deleted already" in done.err
    assert "\n0 records sent, " in done.out


def has_retried(shell: Shell, count: int) -> bool:
    """Whether everything of the town's sensors has been refused after so many retries."""
    return by(shell.stats(), "retried")[count] == _OF_SENSORS


def as_they_were(made: World) -> None:
    """What retries have sent is what was refused, each once, where its key belongs, with three headers more."""
    raw: list[Any] = everything(made.bootstrap, list(RAW_TOPICS.values()))
    first = {Refused(m.topic(), m.partition(), m.offset(), m.timestamp()[1]): m for m in raw}
    origins = [one for _, one in retried(made)]
    assert len(origins) == len(set(origins))
    for message, came_from in retried(made):
        former = first[came_from]
        assert (message.topic(), message.key(), message.value()) == (former.topic(), former.key(), former.value())
        assert message.key() is None or message.partition() == former.partition()
        own = [header for header in former.headers() or () if not header[0].startswith("vigie_")]
        assert (message.headers() or [])[: len(own)] == own
        assert [name for name, _ in message.headers()[len(own) :]] == [REPLAY_HEADER, RUN_HEADER, ORIGIN_HEADER]
        count = int(dict(former.headers() or ()).get(REPLAY_HEADER, b"0"))
        assert dict(message.headers())[REPLAY_HEADER] == b"%d" % (count + 1)
