"""Alerts that outlive their state: what was told is gone on with, never told a second time, never left open."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from processors.alerts import AlertBook, Transition, to_record
from processors.pipeline import PartitionState, Reference, advance
from processors.rebuild import adopt, regain_time, reopen
from processors.territory import BinFull, LampDark, Rules, Silent
from schemas.contracts import Domain
from tests.processors.restarts import Lives, in_order
from tests.processors.test_snapshot import ordered_log
from tests.support.batches import HOUR, MINUTE, RECEIVED_MS, batch_of, cut, event, process, reference, state_of
from tests.support.city import CITY, city

RULES: Final = Rules(
    bin_full=BinFull(raise_at=0.8, clear_at=0.6),
    lamp_dark=LampDark(hold_s=1_200.0),
    silent=Silent(intervals=2, dead_after_s=6 * 3_600),
)
T0: Final = RECEIVED_MS - 20 * HOUR
#: Midnight of the examples: the sun is down.
NIGHT: Final = RECEIVED_MS - 2 * HOUR


def newest(transitions: Iterable[Transition]) -> list[dict[str, Any]]:
    """The newest transition of each alert, as it is stored."""
    return list({t.fingerprint: to_record(t) for t in in_order(list(transitions))}.values())


class Told:
    """A partition, and all that is told of it, over two lives."""

    def __init__(self, domain: Domain = "sensor", rules: Rules = RULES) -> None:
        self.domain: Domain = domain
        self.shared: Reference = reference(city(rules), disorder_ms=0)
        self.state: PartitionState = state_of(batch_of([event(domain)], domain), self.shared)
        self.transitions: list[Transition] = []
        self._offset = 0

    def say(self, *changes: dict[str, Any]) -> list[tuple[str, str]]:
        """Events arrive; (rule, state) of what follows once time has passed them."""
        values = []
        for change in changes:
            self._offset += 1
            values.append(event(self.domain, **{"event_id": f"e-{self._offset}"} | change))
        one = batch_of(values, self.domain, first_offset=self._offset)
        made = [t for outcome in process(one, self.state, self.shared) for t in outcome.transitions]
        return self._note([*made, *advance(self.state, values[-1]["observed_at"] + 1, self.shared)])

    def wait_until(self, now_ms: int) -> list[tuple[str, str]]:
        return self._note(advance(self.state, now_ms, self.shared))

    def lose_everything(self, rules: Rules | None = None) -> None:
        """A new process that has the stored alerts and nothing else."""
        if rules is not None:
            self.shared = reference(city(rules), disorder_ms=0)
        self.state = state_of(batch_of([event(self.domain)], self.domain), self.shared)
        adopt(self.state, newest(self.transitions))

    def _note(self, made: Sequence[Transition]) -> list[tuple[str, str]]:
        self.transitions += made
        return [(t.alertname, t.state) for t in made]


def full(at: int, level: float, asset: str = "drop-off-0004") -> dict[str, Any]:
    return {"observed_at": at, "fill_level": level, "asset_id": asset, "sensor_type": "drop_off"}


def lamp(at: int, power: str) -> dict[str, Any]:
    return {"observed_at": at, "power_state": power, "asset_id": "lamp-00002"}


def test_what_was_raised_is_resolved_once() -> None:
    """Raise, lose the state, clear: one end, under the same name, with the old beginning and the next number."""
    city_of = Told()
    assert city_of.say(full(T0, 0.9)) == [("bin_full", "firing")]
    city_of.lose_everything()
    assert city_of.say(full(T0 + MINUTE, 0.95)) == [], "what lasts is not raised a second time"
    assert city_of.say(full(T0 + 2 * MINUTE, 0.1)) == [("bin_full", "resolved")]
    begun, ended = map(to_record, city_of.transitions)
    assert (ended["fingerprint"], ended["starts_at"], ended["sequence"]) == (begun["fingerprint"], T0, 2)
    assert ended["ends_at"] == T0 + 2 * MINUTE
    assert city_of.say(full(T0 + 3 * MINUTE, 0.9)) == [("bin_full", "firing")]
    assert to_record(city_of.transitions[-1])["sequence"] == 3
    assert len({t.transition_id for t in city_of.transitions}) == 3


def test_rows_that_are_read_again_ring_no_bell() -> None:
    """Without a snapshot rows are read a second time: neither what they raised nor what they cleared is told again."""
    for levels, then in (((0.1, 0.9), []), ((0.9, 0.1), []), ((0.9, 0.1, 0.9), [("bin_full", "resolved")])):
        city_of = Told()
        rows = [full(T0 + n * MINUTE, level) for n, level in enumerate(levels)]
        city_of.say(*rows)
        city_of.lose_everything()
        assert city_of.say(*rows) == []
        assert city_of.say(full(T0 + HOUR, 0.1)) == (then or [("bin_full", "resolved")] if levels[-1] > 0.5 else [])


def test_other_assets_begin_in_learning() -> None:
    """Of what no alert speaks nothing is known: the next reading that calls for an alert raises it."""
    city_of = Told()
    city_of.say(full(T0, 0.9))
    city_of.lose_everything()
    assert city_of.say(full(T0 + MINUTE, 0.9, "new")) == [("bin_full", "firing")]
    assert to_record(city_of.transitions[-1])["sequence"] == 1


def test_a_pending_alert_goes_on_waiting() -> None:
    """It fires when its hold has passed, counted from its own beginning."""
    city_of = Told("lighting")
    assert city_of.say(lamp(NIGHT, "off")) == [("lamp_dark", "pending")]
    city_of.lose_everything()
    assert city_of.say(lamp(NIGHT, "off"), lamp(NIGHT + 19 * MINUTE, "off")) == []
    assert city_of.say(lamp(NIGHT + 20 * MINUTE, "off")) == [("lamp_dark", "firing")]
    fired = to_record(city_of.transitions[-1])
    assert (fired["at"], fired["starts_at"], fired["sequence"]) == (NIGHT + 20 * MINUTE, NIGHT, 2)
    assert city_of.say(lamp(NIGHT + HOUR, "on")) == [("lamp_dark", "resolved")]


def test_a_pending_alert_that_ends_expires() -> None:
    """Nobody is told resolved who was never told firing, whoever remembers it."""
    city_of = Told("lighting")
    city_of.say(lamp(NIGHT, "off"))
    city_of.lose_everything()
    assert city_of.say(lamp(NIGHT + 5 * MINUTE, "on")) == [("lamp_dark", "expired")]


def silent_city() -> Told:
    """Two readings of an asset that should speak every half hour, then silence that has been told of."""
    city_of = Told()
    rows = [{"observed_at": T0, "fill_level": 0.1}, {"observed_at": T0 + 30 * MINUTE, "fill_level": 0.1}]
    assert city_of.say(*rows) == []
    assert city_of.wait_until(T0 + 2 * HOUR) == [("silent", "firing")]
    return city_of


def test_silence_ends_when_the_asset_speaks() -> None:
    """Read again, its last words do not end its silence; a new one does, with how long it had said nothing."""
    city_of = silent_city()
    city_of.lose_everything()
    assert (
        city_of.say({"observed_at": T0, "fill_level": 0.1}, {"observed_at": T0 + 30 * MINUTE, "fill_level": 0.1}) == []
    )
    assert city_of.wait_until(T0 + 3 * HOUR) == []
    assert city_of.say({"observed_at": T0 + 4 * HOUR, "fill_level": 0.1}) == [("silent", "resolved")]
    told = to_record(city_of.transitions[-1])
    assert (told["starts_at"], told["sequence"], told["value"]) == (T0 + 90 * MINUTE, 2, 3.5 * 3_600)
    assert city_of.wait_until(T0 + 6 * HOUR) == [("silent", "firing")]


def test_a_silent_asset_dies_once() -> None:
    """Its death is counted from its last word, and told once, in whichever life it comes."""
    city_of = silent_city()
    city_of.lose_everything()
    assert city_of.wait_until(T0 + 6 * HOUR + 30 * MINUTE) == []
    assert city_of.wait_until(T0 + 6 * HOUR + 31 * MINUTE) == [("silent", "firing")]
    assert to_record(city_of.transitions[-1])["at"] == T0 + 6 * HOUR + 30 * MINUTE
    city_of.lose_everything()
    assert city_of.state.detectors.step(None, T0 + 11 * HOUR).is_empty(), "nor found"
    assert city_of.wait_until(T0 + 12 * HOUR) == []
    assert city_of.say({"observed_at": T0 + 13 * HOUR}) == [("silent", "resolved")]
    assert to_record(city_of.transitions[-1])["value"] == 12.5 * 3_600


def test_a_silence_that_has_ended_is_not_told_again() -> None:
    """Its gap is read again and is known; the next one is counted from the asset's last word."""
    city_of = silent_city()
    rows = [{"observed_at": T0 + 30 * MINUTE, "fill_level": 0.1}, {"observed_at": T0 + 4 * HOUR, "fill_level": 0.1}]
    assert city_of.say(rows[1]) == [("silent", "resolved")]
    city_of.lose_everything()
    assert city_of.say(*rows) == []
    assert city_of.wait_until(T0 + 5 * HOUR + 1) == [("silent", "firing")]
    assert to_record(city_of.transitions[-1])["starts_at"] == T0 + 5 * HOUR


def test_a_rule_that_is_off_by_then_is_withdrawn() -> None:
    """What nothing would ever end is ended when the state is taken over."""
    city_of = silent_city()
    city_of.say(full(T0 + 2 * HOUR, 0.9))
    city_of.lose_everything(Rules(bin_full=None, silent=None))
    assert sorted(city_of.wait_until(T0 + 3 * HOUR)) == [("bin_full", "resolved"), ("silent", "resolved")]
    assert city_of.wait_until(T0 + 4 * HOUR) == []


def test_a_book_of_zones() -> None:
    """Zone alerts have no detector state of their own: the book knows again which zones are raised."""
    hot = {
        "transition_id": "x", "fingerprint": "0123456789abcdef", "sequence": 5, "alertname": "report_hot_spot",
        "jurisdiction_id": CITY, "domain": "report", "asset_id": None, "zone_layer": "quarter", "zone_code": "Q01",
        "category": "trash", "severity": "warning", "state": "firing", "at": T0, "starts_at": T0, "ends_at": None,
        "value": 9.0, "threshold": 1.0, "summary": "",
    }  # fmt: skip
    book = AlertBook()
    book.adopt([hot, hot | {"fingerprint": "1" * 16, "zone_code": "Q02", "ends_at": T0, "state": "resolved"}])
    assert book.raised("report_hot_spot", CITY) == {("Q01", "trash")}
    state = state_of(batch_of([event("report")], "report"), reference())
    adopt(state, [hot])
    assert state.alerts.raised("report_hot_spot", CITY) == {("Q01", "trash")}


def test_only_a_new_state_adopts() -> None:
    """What is remembered is never mixed with what was told: a state that knows something is left as it is."""
    city_of = silent_city()
    with pytest.raises(ValueError, match="new AssetDetectors"):
        adopt(city_of.state, newest(city_of.transitions))
    with pytest.raises(ValueError, match="new AlertBook"):
        city_of.state.alerts.adopt(newest(city_of.transitions))
    assert city_of.say({"observed_at": T0 + 4 * HOUR}) == [("silent", "resolved")]


@pytest.mark.parametrize("domain", ["sensor", "lighting"])
@pytest.mark.parametrize("lost_at", [23, 80, 151, 199])
def test_a_lost_state_never_rings_twice(domain: Domain, lost_at: int) -> None:
    """A day of two assets, the state lost on the way, some rows read again: what is told is what would have been told,
    each transition under its name; some twice, which receivers see by the name; none that is new."""
    rules = RULES.model_copy(update={"silent": None})
    whole = batch_of(ordered_log(domain, seed=3), domain)
    make: Callable[[], Reference] = lambda: reference(city(rules), disorder_ms=0)  # noqa: E731 - a factory of one line
    once, lives = Lives(make, whole), Lives(make, whole)
    once.take([whole])
    lives.take([whole.part(0, lost_at)])
    told = list(lives.transitions)
    lives.begin_anew()
    adopt(lives.state, newest(told))
    back = random.Random(lost_at).randrange(1, 20)
    lives.take(cut(whole.part(lost_at - back, 200), [7] * 40))
    end = RECEIVED_MS + HOUR
    expected = in_order([*once.transitions, *advance(once.state, end, once.shared)])
    found = {t.transition_id: t for t in [*lives.transitions, *advance(lives.state, end, lives.shared)]}
    assert in_order(list(found.values())) == expected
    assert len(expected) > 20


@pytest.mark.parametrize("domain", ["sensor", "lighting"])
@pytest.mark.parametrize("chunk", [40, 80, 120])
def test_a_chunk_that_is_read_again_tells_the_same(domain: Domain, chunk: int) -> None:
    """Without a snapshot a partition is read again from the first offset of its last chunk. With the alerts told until
    then, its time and the rows that waited, every row and every transition is the same, to the byte."""
    rules = RULES.model_copy(update={"silent": None})
    records = ordered_log(domain, seed=3)
    rng = random.Random(chunk)
    arrival = sorted(records, key=lambda record: record["observed_at"] + rng.randrange(30 * MINUTE))
    whole = batch_of(arrival, domain)
    make: Callable[[], Reference] = lambda: reference(city(rules), disorder_ms=20 * MINUTE, chunk_records=40)  # noqa: E731
    once, lives = Lives(make, whole), Lives(make, whole)
    once.take([whole])
    lives.take([whole.part(0, chunk)])
    told = list(lives.transitions)
    waiting = len(lives.state.held)
    lives.begin_anew()
    adopt(lives.state, newest(told))
    previous = lives.chunk(chunk - 40)
    reopen(
        lives.state, lives.shared, pl.DataFrame(), previous,
        last_offset=chunk - 1, chunk_first=None, seen_from=chunk - 40,
    )  # fmt: skip
    regain_time(lives.state, lives.shared, previous)
    assert len(lives.state.held) == waiting > 0
    lives.take([whole.part(chunk, 200)])
    assert in_order(lives.transitions) == in_order(once.transitions)
    assert_frame_equal(lives.events, once.events)
    assert once.events["late"].sum() > 0


def test_a_partition_that_begins_has_no_time_to_regain() -> None:
    """Before its first chunk there is nothing to read back."""
    state = state_of(batch_of([event()]), reference())
    regain_time(state, reference(), pl.DataFrame())
    assert (state.watermark_ms, len(state.held)) == (0, 0)
