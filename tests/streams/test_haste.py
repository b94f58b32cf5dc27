"""When nobody waits for company: an alert is about to be raised, or has been sent and is to be told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
from faust.types import TP

from processors.pipeline import new_state
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, domain_of
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams.clock import monotonic_s
from streams.haste import Haste
from streams.ledger import Entry, Ledger, Place
from streams.transport import Fetched
from tests.streams.lives import life, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import batch, reference

_LINGER_S = 0.4
_NOW_MS = 1_789_430_400_000


def held(ledger: Ledger, place: Place) -> Entry:
    """An entry of the ledger, whose event time has come to `_NOW_MS`."""
    state = new_state(place.topic, place.partition, domain_of(place.topic), reference())
    entry = Entry(state, Origin(place.topic, place.partition), 0)
    entry.state.watermark_ms = _NOW_MS
    ledger.hold(place, entry)
    return entry


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def haste(ledger: Ledger) -> Haste:
    return Haste(ledger, _LINGER_S)


def test_nobody_is_in_haste_where_nothing_is_expected(ledger: Ledger, haste: Haste) -> None:
    """Batches gather as long as they do, and a fetch rests for a quarter of that."""
    entry = held(ledger, SENSOR)
    haste.look(entry, _NOW_MS, _NOW_MS)
    assert (haste.near_s(), haste.near_s(SENSOR.topic), haste.pause_s) == (None, None, _LINGER_S / 4)
    assert haste.most_s(7.0) == 7.0


def test_the_first_of_what_is_expected_is_waited_for_and_no_longer(ledger: Ledger, haste: Haste) -> None:
    """By batches of its own topic, and by whoever fetches: 60 ms from now, and a moment for what is to be fetched."""
    entry = held(ledger, SENSOR)
    held(ledger, LAMPS)
    entry.state.coming = frozenset((_NOW_MS + 900, _NOW_MS + 60))
    haste.look(entry, _NOW_MS, _NOW_MS)
    assert haste.near_s(SENSOR.topic) == pytest.approx(0.08, abs=0.03)
    assert haste.most_s(0.02, SENSOR.topic) == 0.02
    assert haste.most_s(7.0, SENSOR.topic) == pytest.approx(0.08, abs=0.03)
    assert haste.near_s(LAMPS.topic) is None
    assert haste.pause_s == pytest.approx(0.08, abs=0.03)
    entry.state.coming = frozenset()
    haste.look(entry, _NOW_MS, _NOW_MS)
    assert haste.near_s(SENSOR.topic) is None


def test_of_one_instant_the_first_guess_stands(ledger: Ledger, haste: Haste) -> None:
    """Where time stands still, because one device was ahead of it, haste is over after half a second."""
    entry = held(ledger, SENSOR)
    entry.state.coming = frozenset((_NOW_MS + 60,))
    haste.look(entry, _NOW_MS, _NOW_MS)
    first_s = entry.coming_s
    haste.look(entry, _NOW_MS + 5_000, _NOW_MS + 5_000)
    assert entry.coming_s == first_s
    haste.look(entry, _NOW_MS, _NOW_MS + 40)
    assert entry.coming_s == pytest.approx(first_s - 0.04, abs=0.02), "a better one is taken"
    entry.state.coming = frozenset((_NOW_MS + 90,))
    haste.look(entry, _NOW_MS, _NOW_MS)
    assert entry.coming_s > first_s, "of another instant"


@pytest.mark.parametrize(
    ("age_ms", "left_s"),
    [(300, 0.32), (-5_000, 0.62), (600, 0.02), (900, 0.01), (60_000, 0.01), (60_000_000, 0.01)],
    ids=["some time ago", "a broker ahead of us", "now", "just before", "long before", "a broker far behind us"],
)
def test_what_a_record_has_waited_for_is_counted(ledger: Ledger, haste: Haste, age_ms: int, left_s: float) -> None:
    """The newest record tells how far its partition's time was when the broker had it; not much is believed of that."""
    haste.lingering_s = 5.0
    entry = held(ledger, SENSOR)
    entry.state.coming = frozenset((_NOW_MS + 600,))
    haste.look(entry, _NOW_MS, _NOW_MS + age_ms)
    assert haste.near_s() == pytest.approx(left_s, abs=0.03)


def test_what_does_not_come_is_not_hastened_for_ever(ledger: Ledger, haste: Haste) -> None:
    """Devices may date their records long before they send them."""
    entry = held(ledger, SENSOR)
    entry.state.coming = frozenset((_NOW_MS + 400,))
    haste.look(entry, _NOW_MS, _NOW_MS + 1_000)
    entry.coming_s -= 0.5
    assert haste.near_s() is None


def test_alerts_that_were_sent_end_a_rest_and_shorten_the_next(haste: Haste) -> None:
    """They are fetched at once, until they have come."""

    async def act() -> tuple[float, float, float]:
        haste.lingering_s = 400.0
        started_s = monotonic_s()
        resting = asyncio.create_task(haste.rest(has_more=False))
        await asyncio.sleep(0.02)
        haste.sent()
        await resting
        rested_s = monotonic_s() - started_s
        hasty_s = haste.pause_s
        async with asyncio.timeout(10):
            await haste.rest(has_more=False)
        haste.told()
        haste.confirmed()
        return rested_s, hasty_s, haste.pause_s

    rested_s, hasty_s, after_s = asyncio.run(act())
    assert rested_s < 10.0
    assert hasty_s == 0.01
    assert after_s == 100.0


def test_haste_lasts_from_when_alerts_are_in_their_topic(haste: Haste) -> None:
    """However long a broker takes to confirm them: what has not come back by then will."""

    async def act() -> tuple[float, float]:
        haste.sent()
        for _ in range(3):
            await asyncio.sleep(0.08)
        calm_s = haste.pause_s
        haste.confirmed()
        return calm_s, haste.pause_s

    assert asyncio.run(act()) == (_LINGER_S / 4, 0.01)


def test_a_rest_is_short_where_there_is_more(haste: Haste) -> None:
    """However long batches gather."""

    async def act() -> float:
        haste.lingering_s = 400.0
        started_s = monotonic_s()
        await haste.rest(has_more=True)
        return monotonic_s() - started_s

    assert 0.02 < asyncio.run(act()) < 10.0


def test_a_worker_foresees_what_its_partitions_hold(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bin burns, and is full, in the last record that was read: told when time has passed it by 2 s."""
    world = offer(World(clickhouse, log()), monkeypatch)

    async def act() -> None:
        with life(world) as one:
            await one.join()
            await one.read(SENSOR, 6)
            assert one.custody.haste.near_s(SENSOR.topic) is None
            await one.read(SENSOR, 1)
            foreseen = one.entry(SENSOR).state.coming
            assert len(foreseen) == 1, "of two rules, at one instant"
            assert one.custody.haste.near_s(SENSOR.topic) == pytest.approx(2.0, abs=1.2)
            assert one.custody.haste.near_s(LAMPS.topic) is None
            await one.read(SENSOR, 1)
            assert one.entry(SENSOR).transitions
            assert not foreseen & one.entry(SENSOR).state.coming

    asyncio.run(act())


def test_small_batches_of_the_topic_do_not_linger_beyond_it(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected of a partition ends the lingering of its topic."""
    world = offer(World(clickhouse, log()), monkeypatch)
    world.settings["linger_s"] = 60.0

    async def act() -> None:
        with life(world) as one:
            await one.join()
            one.entry(SENSOR).coming_ms, one.entry(SENSOR).coming_s = _NOW_MS, monotonic_s() + 0.05
            async with asyncio.timeout(30):
                await one.worker._rhythm.linger(SENSOR.topic, 0.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await one.worker._rhythm.linger(LAMPS.topic, 0.0)

    asyncio.run(act())


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours to tell", "another worker's to tell"])
def test_a_flush_that_sends_alerts_makes_haste(
    is_ours: bool, clickhouse: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when they are in their topic until they come back; dead letters are no reason."""
    world = offer(World(clickhouse, log()), monkeypatch)
    alerts = Place(ALERT_TOPIC, 0)

    async def act() -> None:
        with life(world) as one:
            await one.join(SENSOR, *((alerts,) if is_ours else ()))
            haste = one.custody.haste
            calm_s = haste.pause_s
            await one.read(SENSOR, 3)
            await one.flush()
            assert {message.topic for message in world.produced} == {DEAD_LETTER_TOPIC}
            assert haste.pause_s == calm_s
            await one.read(SENSOR, 9)
            await one.flush()
            assert ALERT_TOPIC in {message.topic for message in world.produced}
            one.entry(SENSOR).coming_ms = None
            assert haste.pause_s == (0.01 if is_ours else calm_s)
            values = [message.value for message in world.produced if message.topic == ALERT_TOPIC]
            told = Fetched(replace(batch(values), topic=ALERT_TOPIC), one.kafka.mark, 0)
            generation = one.kafka.consumer_generation_id
            await one.worker._notify(SimpleNamespace(tp=TP(ALERT_TOPIC, 0), value=told, generation_id=generation))
            assert haste.pause_s == calm_s

    asyncio.run(act())
