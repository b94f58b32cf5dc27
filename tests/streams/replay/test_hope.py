"""Which dead letters are good now: judged as the worker judges, at the time they would be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from schemas.registry import Writers
from sinks.clickhouse import Sink
from sinks.rows import ZoneMaps
from sinks.store import store_records
from streams.intake import Intake
from streams.replay.hope import Hope
from streams.replay.letters import Letter
from streams.replay.provenance import marks
from streams.settings import load
from tests.sinks.test_store import block_of
from tests.streams.replay.post import letter
from tests.support.batches import DAY, HOUR, RECEIVED_MS, Ran, batch_of, encoded, event, reference
from tests.support.city import TOWN, TOWN_PLACE, city, town


@dataclass
class Still:
    """A clock that stands where it is put."""

    ms: int = RECEIVED_MS

    def now_ms(self) -> int:
        return self.ms

    def event_ms(self, wall_ms: int) -> int:
        return wall_ms


def verdicts(
    sink: Sink, letters: Sequence[Letter], *, now_ms: int = RECEIVED_MS, both: bool = True, **changes: Any
) -> list[str | None]:
    """What is said of each letter, in the order of the letters; by offset, which must differ."""
    shared = reference(*((city(), town()) if both else (city(),)))
    given: dict[str, Any] = {"before": set(), "chunk": 65_536, "tries_sink": False, **changes}
    before = given.pop("before")
    hope = Hope(Intake(load(), shared, Writers()), sink, Still(now_ms), before, **given)
    said = {one.told.offset: why for one, why in hope.sorted(letters)}
    assert len(said) == len(letters)
    return [said[one.told.offset] for one in letters]


def body(**changes: Any) -> bytes:
    return encoded("sensor", [event(**changes)])[0]


def of_town(number: int = 0) -> bytes:
    longitude, latitude = TOWN_PLACE
    return body(event_id=f"t-{number}", jurisdiction_id=TOWN, longitude=longitude, latitude=latitude)


def test_a_mended_territory_makes_its_records_good(clickhouse: Sink) -> None:
    """And no others: what is still wrong is named by what is wrong with it now."""
    letters = [
        letter(of_town(), offset=0),
        letter(body(event_id="x", jurisdiction_id="111111111"), offset=1),
        letter(b"nonsense", offset=2, reason="decode"),
        letter(body(event_id=""), offset=3, reason="contract"),
    ]
    still = ["still unknown_jurisdiction", "still decode", "still contract"]
    assert verdicts(clickhouse, letters, both=False) == ["still unknown_jurisdiction", *still]
    assert verdicts(clickhouse, letters) == [None, *still]


def test_the_time_is_that_of_the_sending(clickhouse: Sink) -> None:
    """What was too far ahead is not for ever, and what waits for too long becomes too old."""
    (ahead,) = [letter(body(observed_at=RECEIVED_MS + HOUR), reason="future")]
    assert verdicts(clickhouse, [ahead]) == ["still future"]
    assert verdicts(clickhouse, [ahead], now_ms=RECEIVED_MS + HOUR) == [None]
    assert verdicts(clickhouse, [ahead], now_ms=RECEIVED_MS + 500 * DAY) == ["now quality"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"retries": 1}, None),
        ({"retries": 2}, "retried 2 times already"),
        ({"retries": 7}, "retried 2 times already"),
        ({"reason": "duplicate"}, "still duplicate"),
        ({"has_value": False}, "its value was not kept"),
        ({"topic": "orders"}, "of a topic that is not read"),
        ({"reason": "sink"}, "refused by ClickHouse (--reason sink tries them)"),
    ],
)
def test_what_is_left_alone_whatever_it_holds(clickhouse: Sink, changes: dict[str, Any], why: str | None) -> None:
    """The value is good today; but for what is told of it, it would be sent."""
    assert verdicts(clickhouse, [letter(of_town(), **changes)]) == [why]


def test_what_clickhouse_refused_is_tried_when_it_is_asked_for(clickhouse: Sink) -> None:
    """Only ClickHouse can say whether it has become better."""
    assert verdicts(clickhouse, [letter(of_town(), reason="sink")], tries_sink=True) == [None]


def test_once_and_no_more(clickhouse: Sink) -> None:
    """Sent before: not again, nor another letter of the same event. The same event twice among the letters, as its
    sender sent it: once. Stored meanwhile, having come another way: not at all."""
    letters = [
        letter(of_town(1), offset=1),
        letter(of_town(1), offset=2),
        letter(of_town(2), offset=3),
        letter(of_town(2), offset=4),
        letter(body(event_id="e-5"), offset=5),
    ]
    ran = Ran([batch_of([event(event_id="e-5")])], reference())
    store_records(block_of(ran), clickhouse, ZoneMaps(ran.shared.locator.sets), {"999999999": "v"})
    assert verdicts(clickhouse, letters, before={letters[0].refused}) == [
        "sent again before", "now duplicate", None, "now duplicate", "stored meanwhile",
    ]  # fmt: skip


def test_what_a_worker_refused_again_is_no_duplicate_of_itself(clickhouse: Sink) -> None:
    """The letter of a retry bears where its record was refused first, which is the letter that was sent."""
    first = letter(of_town(1), offset=1)
    one = first.refused
    headers = marks(b"run", one.topic, one.partition, one.offset, one.received_ms)
    again = letter(of_town(1), offset=70, retries=1, headers=headers)
    foreign = letter(of_town(1), offset=71, retries=1)
    assert verdicts(clickhouse, [first, again, foreign], before={one}) == ["sent again before", None, "now duplicate"]


def test_many_letters_are_judged_in_their_order(clickhouse: Sink) -> None:
    """However many there are at a time: duplicates are found within a chunk's length, and those sent stay in order."""
    letters = [letter(of_town(number % 2_500), offset=number) for number in range(5_000)]
    found = verdicts(clickhouse, letters)
    assert found[:2_500] == [None] * 2_500 and set(found[2_500:]) == {"now duplicate"}
    assert verdicts(clickhouse, letters, chunk=1)[2_500:] != found[2_500:]
