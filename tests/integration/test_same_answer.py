"""Same log, same answer: window totals and alert histories do not depend on how and by whom a log is read.

What is compared, byte for byte: every column of the view `windows`, and of `alert_transitions` all but topic, epoch,
partition and offset. An offset there says how far the partition had been read when the transition was made, which is a
matter of batches; partitions are the same, but a shuffled log has other offsets.

What the promise needs: a record comes within the allowed disorder and the idle grace of its event time, or is late by
the log itself (behind its partition's watermark). Of a record that comes behind the wall clock in a quiet partition
nobody can say afterwards whether it was late.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from processors.territory import LampDark, Rules
from schemas.contracts import RAW_TOPICS, Domain, contract_of
from schemas.framing import encode
from streams.simulation.publish import publish
from streams.simulation.records import Record
from streams.territory.files import versioned, write
from tests.support.batches import event
from tests.support.city import CITY, HERE, city
from tests.support.gateway import gateway
from tests.support.kafka import Kafka, real_kafka
from tests.support.load import Load
from tests.support.pipeline import Command
from tests.support.world import Answer, World, stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_SECOND: Final = 1_000
_WEEK: Final = 7 * 86_400 * _SECOND
#: Draws of the load, a step apart, and a pause in between, in which time has to pass by itself.
_DRAWS: Final = 18
_STEP: Final = 1_200
_PAUSE_AFTER, _PAUSE = 9, 5 * _SECOND
#: How far event time must have come before an answer is looked at: beyond every deadline that the log sets.
_BEYOND: Final = 6 * _SECOND
#: How often snapshots tell how far time has come without records; elsewhere the settings are those that ship.
_SETTINGS: Final = {"zone_watch_interval_s": 1}
#: A lamp that is off has to be on, whatever the hour; but for so long it may be off.
_RULES: Final = Rules(lamp_dark=LampDark(sun_below_deg=90.0, hold_s=3.0), lamp_lit_by_day=None)
#: Silent after four of these.
_FOOTFALL_INTERVAL_S: Final = 1.0

_STATES: Final = {
    ("bin_full", "firing"), ("bin_full", "resolved"), ("bin_fire", "firing"), ("bin_fire", "resolved"),
    ("lamp_defective", "firing"), ("lamp_defective", "resolved"), ("silent", "firing"), ("silent", "resolved"),
    ("lamp_dark", "pending"), ("lamp_dark", "firing"), ("lamp_dark", "resolved"), ("lamp_dark", "expired"),
}  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A record of the log: when it goes out and the event time in it, milliseconds since 1970."""

    due_ms: int
    event_ms: int
    record: Record

    @property
    def is_late(self) -> bool:
        """Whether it is late in whatever order its neighbours come. (Clocks of 1970 are refused.)"""
        return 120 * _SECOND < self.due_ms - self.event_ms < 2 * _WEEK


def log(start_ms: int) -> list[Sent]:
    """All domains, dirt, duplicates, events of last week, alerts that come and go, holds that last and that do not, an
    asset that falls silent, and a pause. In the order of publication; event time begins at `start_ms`."""
    load = Load(seed=23)
    sent = [_made(start_ms, *one) for one in _BY_HAND]
    for number in range(_DRAWS):
        now_ms = start_ms + (number + 1) * _STEP + (_PAUSE if number > _PAUSE_AFTER else 0)
        drawn = _due(load.draw(now_ms), now_ms)
        sent += [one for one in drawn if number % 5 == 2 or not one.is_late]
    # Late, all that its asset ever says, and the first to come after the pause.
    late = _made(start_ms, -_WEEK, "roadway", {"asset_id": "count-0001"})
    sent.append(replace(late, due_ms=start_ms + (_PAUSE_AFTER + 1) * _STEP + _PAUSE))
    return sorted(sent, key=lambda one: one.due_ms)


def _due(records: list[Record], now_ms: int) -> Iterator[Sent]:
    """A draw as it goes out: each record at its event time, late ones and dirt with the one before them."""
    due_ms = now_ms - _STEP
    for record in records:
        if now_ms - _STEP < record.at_ms <= now_ms:
            due_ms = record.at_ms
        yield Sent(due_ms, record.at_ms, record)


def _made(start_ms: int, after_ms: int, domain: Domain, changes: Mapping[str, Any]) -> Sent:
    at_ms = start_ms + after_ms
    value = event(domain, **{"event_id": f"by-hand-{after_ms}-{changes['asset_id']}", "observed_at": at_ms, **changes})
    key = f"{CITY}|{value['asset_id']}".encode()
    return Sent(at_ms, at_ms, Record(RAW_TOPICS[domain], key, encode(contract_of(domain), value), at_ms))


def _bin(number: int, level: float) -> dict[str, Any]:
    return {"asset_id": f"tied-{number}", "fill_level": level, "longitude": HERE[0], "latitude": HERE[1]}


def _lamp(state: str) -> dict[str, Any]:
    return {"asset_id": "lamp-00002", "power_state": state}


_FOOTFALL: Final = {"asset_id": "footfall-01", "sensor_type": "footfall", "motion_count": 3, "period_s": 60.0}
#: Milliseconds after the start, domain, and what is not ordinary about the event.
_BY_HAND: Final[list[tuple[int, Domain, Mapping[str, Any]]]] = [
    # Of one instant, zone and metric: which of them is the last must not depend on which comes first.
    *((5_000, "sensor", _bin(number, level)) for number, level in enumerate((0.31, 0.62, 0.47))),
    # Off for two seconds is allowed; off when the pause begins is not, and has to be told in it.
    (1_500, "lighting", _lamp("on")),
    (4_000, "lighting", _lamp("off")),
    (6_000, "lighting", _lamp("on")),
    (11_500, "lighting", _lamp("off")),
    (20_000, "lighting", _lamp("on")),
    # Speaks every second, and nothing from before the pause until after it.
    *((1_000 * second, "sensor", _FOOTFALL) for second in (1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22)),
]


def shuffled(sent: list[Sent], seed: int) -> list[Sent]:
    """The same records in another order, the log being shorter than the allowed disorder: each topic's late events
    stay where they are among the others, which change places as they like between them.

    A late event is judged by how far its partition has come, so it has to find the same behind it.
    """
    draw = random.Random(seed)
    mixed = []
    for topic in RAW_TOPICS.values():
        block: list[Sent] = []
        for one in (one for one in sent if one.record.topic == topic):
            if one.is_late:
                draw.shuffle(block)
                mixed += [*block, one]
                block = []
            else:
                block.append(one)
        draw.shuffle(block)
        mixed += block
    return mixed


def send(sent: list[Sent], kafka: Kafka, *, live: bool = False) -> None:
    """Publish the log, at once or when each record is due."""
    records = [replace(one.record, at_ms=one.due_ms) for one in sent]
    publish(
        records,
        kafka.bootstrap,
        pace=(lambda due_ms: due_ms / 1_000 - time.time()) if live else None,
        stop=lambda: False,
        on_progress=lambda _: None,
    )


@pytest.fixture(scope="module")
def territory_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("territory") / "small"
    small = city(_RULES)
    interval = pl.when(pl.col("asset_id") == "footfall-01").then(_FOOTFALL_INTERVAL_S)
    assets = small.assets.with_columns(interval.otherwise("report_interval_s").alias("report_interval_s"))
    write(versioned(replace(small, assets=assets)), folder)
    return folder


class Runs:
    """Worlds under way side by side, and what they answered."""

    def __init__(self, clickhouse: str, territory: Path, folder: Path, stack: ExitStack) -> None:
        self.answers: dict[str, Answer] = {}
        self._where = clickhouse, territory, folder
        self._stack = stack
        self._running: dict[str, tuple[World, list[Command]]] = {}

    def begin(self, name: str, kafka: Kafka, *, workers: int = 1, **settings: object) -> World:
        """A new group reads the log of a broker from its beginning."""
        group = "".join(letter if letter.isalnum() else "_" for letter in name)
        made = self._stack.enter_context(world(group, kafka.bootstrap, *self._where, {**_SETTINGS, **settings}))
        commands = [self._stack.enter_context(made.worker()) for _ in range(workers)]
        self._running[name] = made, commands
        return made

    def end(self, until_ms: int) -> None:
        """Wait until every world has read everything and time has come to `until_ms`; stop and question each."""
        for name, (made, workers) in self._running.items():
            made.wait_until_caught_up(workers[0])
            wait_for(partial(has_passed, made, until_ms), f"{name}: time had passed")
            stopped(*workers)
            assert made.faults() == [], name
            self.answers[name] = made.answer()
        self._running.clear()

    def assert_equal(self, capsys: pytest.CaptureFixture[str]) -> Answer:
        """All answers are the same, byte for byte. Their hashes are told."""
        with capsys.disabled():
            lines = [f"{name:<24} windows {w} alerts {a}" for name, (w, a) in _hashes(self.answers)]
            sys.stdout.write("\n" + "\n".join(lines) + "\n")
        first, *others = self.answers.values()
        for name, other in list(self.answers.items())[1:]:
            assert first.differences(other)[:20] == [], name
        assert all(first == other for other in others)
        return first


def _hashes(answers: Mapping[str, Answer]) -> list[tuple[str, tuple[str, str]]]:
    return [(name, answer.hashes) for name, answer in answers.items()]


def has_passed(made: World, instant_ms: int) -> bool:
    """Whether event time has come so far in every partition."""
    sql = (
        "SELECT toUnixTimestamp64Milli(min(mark)) FROM (SELECT argMax(watermark, (version, taken_at)) AS mark "
        "FROM snapshots WHERE topic != '' GROUP BY topic, partition)"
    )
    return int(made.rows(sql)[0][0]) >= instant_ms


def holders(made: World) -> int:
    """How many workers hold partitions."""
    sql = (
        "SELECT uniqExact(holder) FROM (SELECT argMax(owner, term) AS holder FROM owners WHERE topic != '' "
        "GROUP BY topic, partition)"
    )
    return int(made.rows(sql)[0][0])


@pytest.fixture
def runs(territory_folder: Path, tmp_path: Path) -> Iterator[Runs]:
    with ExitStack() as stack:
        running = stack.enter_context(gateway(tmp_path / "gateway"))
        yield Runs(running.url, territory_folder, tmp_path, stack)


def assert_tells_enough(answer: Answer, made: World) -> None:
    """The log has in it what the promise is about: without it, equal answers would be worth little."""
    states = {tuple(row) for row in made.rows("SELECT DISTINCT alertname, state FROM alert_transitions")}
    assert states >= _STATES
    counts: dict[str, int] = dict(made.rows("SELECT reason, count() FROM rejects FINAL GROUP BY reason"))
    assert counts["duplicate"] > 10
    assert len(counts) >= 8
    assert made.rows("SELECT sum(late) > 10, uniqExact(jurisdiction_id, layer, zone_code) > 4 FROM windows") == [(1, 1)]
    # As many again, or nearly, where the log happens to lie across the turn of a minute.
    assert len(answer.windows.splitlines()) > 70


def test_live_replayed_and_cut(kafka: Kafka, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Read as it comes by one worker and by three, read afterwards as fast as it goes, in batches of 1, 7 and 5 000:
    one answer."""
    alone = runs.begin("live, 1 worker", kafka)
    together = runs.begin("live, 3 workers", kafka, workers=3)
    wait_for(lambda: (holders(alone), holders(together)) == (1, 3), "every worker had partitions")
    sent = log(int(time.time() * 1_000) + 500)
    end_ms = sent[-1].due_ms + _BEYOND
    send(sent, kafka, live=True)
    assert time.time() * 1_000 - sent[-1].due_ms < 2_000, "the log was to be published at its own pace"
    assert holders(together) == 3, "three workers shared the work"
    runs.end(end_ms)

    runs.begin("replayed", kafka)
    for most in (1, 7, 5_000):
        runs.begin(f"batches of {most}", kafka, batch_records=most, linger_s=0)
    runs.end(end_ms)
    assert_tells_enough(runs.assert_equal(capsys), alone)


def test_shuffled(runs: Runs, kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    """Records that change places within the allowed disorder, those of one asset too, change nothing.

    Which of two duplicates is stored changes, and nobody can tell: they are equal but for their offsets.
    """
    sent = log(int(time.time() * 1_000) - 180 * _SECOND)
    end_ms = sent[-1].due_ms + _BEYOND
    # Records that belong together must not come in one batch, where they would be put in order anyhow.
    settings = {"disorder_s": 60, "batch_records": 10, "linger_s": 0}
    with ExitStack() as stack:
        runs.begin("in order", kafka, **settings)
        send(sent, kafka)
        for seed in (1, 2):
            other = stack.enter_context(real_kafka())
            made = runs.begin(f"shuffled, seed {seed}", other, workers=seed, **settings)
            send(shuffled(sent, seed), other)
        runs.end(end_ms)
        assert_tells_enough(runs.assert_equal(capsys), made)
