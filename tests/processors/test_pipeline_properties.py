"""Properties of the whole way of the data: any bytes end exactly once, and the cut of the batches never shows."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from processors.pipeline import PartitionState, Turn, run, run_together
from processors.territory import BinFull, LampDark, Rules, Silent
from schemas.contracts import DOMAINS, Domain, contract_of
from schemas.framing import single_object_prefix
from schemas.records import Batch
from schemas.rejects import Reason
from schemas.writers import own_writers
from tests.support.batches import (
    HOUR,
    MINUTE,
    RECEIVED_MS,
    Ran,
    batch,
    cut,
    encoded,
    event,
    raw_bytes,
    reference,
    state_of,
)
from tests.support.blocks import blocks_of
from tests.support.city import CITY, HERE, NOWHERE, THERE, TOWN, city, town

#: Derandomized: the same examples in every run, so a failure here is the commit's and not the day's.
quick = settings(derandomize=True, deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))

domains = st.sampled_from(DOMAINS)

_POSITIONS: Final = (
    (None, None), HERE, THERE, NOWHERE, (HERE[1], HERE[0]), (0.0, 0.0), (math.nan, 43.6), (-140.25, 1.0), (3.87, 43.61),
)  # fmt: skip
_CHOICES: Final[dict[Domain, dict[str, Sequence[Any]]]] = {
    "sensor": {
        "asset_id": ("bin-00017", "drop-off-0004", "new"), "sensor_type": ("bin", "drop_off"),
        "fill_level": (0.1, 0.95, 0.7, 0.95, None, math.nan, 62.0), "temperature_c": (20.0, 95.0, 21.0, None, -999.0),
    },
    "lighting": {
        "asset_id": ("lamp-00001", "lamp-00002", "new"), "power_state": ("on", "off", "unknown"),
        "lamp_status": ("ok", "defective_lamp"), "power_w": (0.0, 71.2, 70.0, None, -5.0),
    },
    "roadway": {
        "asset_id": ("count-0001", "new", "new", "new"), "observation_type": ("traffic", "pavement"),
        "mobility_type": ("car", "bicycle"), "count": (0.0, 12.5, None, -1.0), "uptime_ratio": (0.0, 0.9, None),
    },
    "report": {
        "asset_id": ("", "lamp-00001"), "service_code": ("trash", "noise"), "status": ("received", "done"),
    },
}  # fmt: skip


@st.composite
def values(draw: st.DrawFn, domain: Domain, base_ms: int = RECEIVED_MS - 3 * HOUR) -> dict[str, Any]:
    """One value of the contract, near an instant: plausible or not, late or not, sometimes with another's identity."""
    changes = {name: draw(st.sampled_from(choices)) for name, choices in _CHOICES[domain].items()}
    longitude, latitude = draw(st.sampled_from(_POSITIONS))
    shift = draw(st.sampled_from((0, 0, 0, -3 * HOUR, 12 * HOUR))) + draw(st.integers(0, 15 * MINUTE))
    return event(
        domain,
        **changes,
        event_id=f"e-{draw(st.integers(0, 60))}",
        source=draw(st.sampled_from(("a", "b"))),
        jurisdiction_id=draw(st.sampled_from((CITY, CITY, CITY, TOWN, "123456789"))),
        longitude=longitude,
        latitude=latitude,
        observed_at=base_ms + shift,
    )


@st.composite
def corrupted(draw: st.DrawFn, domain: Domain) -> bytes:
    """A record of a stranger's, with bytes changed, added or taken away."""
    sound = event(domain, event_id="~" * 12, source="stranger", observed_at=RECEIVED_MS - 2 * HOUR)
    whole = bytearray(encoded(domain, [sound])[0])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(whole) - 1)))
        match draw(st.sampled_from(("flip", "cut", "insert"))):
            case "flip" if whole:
                whole[at] ^= draw(st.integers(1, 255))
            case "cut":
                del whole[at : at + draw(st.integers(1, 20))]
            case _:
                whole[at:at] = draw(st.binary(min_size=1, max_size=12))
    return bytes(whole)


def junk(domain: Domain) -> st.SearchStrategy[bytes | None]:
    """Anything that may stand in a topic beside what belongs there."""
    framed = st.binary(max_size=60).map(lambda body: single_object_prefix(contract_of(domain).schema) + body)
    return st.one_of(st.none(), st.binary(max_size=80), framed, corrupted(domain))


@st.composite
def logs(draw: st.DrawFn) -> tuple[Domain, list[bytes | None]]:
    """A partition's records: good, doubtful and bad ones in any order."""
    domain = draw(domains)
    sound = values(domain, base_ms=0)
    found = draw(st.lists(st.one_of(sound, sound, sound, junk(domain)), min_size=1, max_size=60))
    records: list[bytes | None] = []
    for number, one in enumerate(found):
        if isinstance(one, dict):
            at = RECEIVED_MS - (10 * 60 - 10 * number) * MINUTE
            records += encoded(domain, [one | {"observed_at": one["observed_at"] + at}])
        else:
            records.append(one)
    return domain, records


RULES: Final = Rules(
    bin_full=BinFull(raise_at=0.8, clear_at=0.6), lamp_dark=LampDark(hold_s=60.0), silent=Silent(intervals=1.5)
)


@quick
@given(log=logs(), chunk_records=st.integers(1, 70), limit=st.sampled_from((120, 1_000)))
def test_every_record_ends_exactly_once(log: tuple[Domain, list[bytes | None]], chunk_records: int, limit: int) -> None:
    """Any bytes: an event or a reject with one of the known reasons, never both, never neither, never an exception."""
    domain, records = log
    shared = reference(city(RULES), town(), chunk_records=chunk_records, max_record_bytes=limit)
    ran = Ran([batch(records, domain, first_offset=1_000)], shared)
    assert sum(len(outcome.batch) for outcome in ran.outcomes) == len(records)
    ended = [*ran.events["offset"], *(offset for offset, *_ in ran.refused)]
    assert sorted(ended) == list(range(1_000, 1_000 + len(records)))
    assert {reason for _, _, reason, _ in ran.refused} <= set(Reason)
    too_large = [1_000 + i for i, record in enumerate(records) if record is not None and len(record) > limit]
    assert [offset for offset, _, reason, _ in ran.refused if reason == Reason.TOO_LARGE] == too_large
    for outcome in ran.outcomes:
        rows = [*outcome.events["row"], *outcome.refused["row"]]
        assert sorted(rows) == list(range(len(outcome.batch)))


@quick
@given(log=logs(), chunk_records=st.integers(1, 70))
def test_the_windows_hold_every_stored_event_once_in_each_layer(
    log: tuple[Domain, list[bytes | None]], chunk_records: int
) -> None:
    """The sum of `events` over one layer, "no zone" included, is the number of stored events, whatever they say."""
    domain, records = log
    ran = Ran([batch(records, domain)], reference(city(RULES), chunk_records=chunk_records))
    if ran.events.is_empty():
        assert ran.taken == []
        return
    counts = ran.windows.filter(pl.col("metric").str.ends_with(".events")).group_by("layer").agg(pl.col("count").sum())
    assert dict(counts.iter_rows()) == {"quarter": len(ran.events), "sector": len(ran.events)}
    late = ran.windows.filter(pl.col("metric").str.ends_with(".events"), layer="quarter")["late"].sum()
    assert late == ran.events["late"].sum()


@quick
@given(domain=domains, data=st.data())
def test_bad_records_do_not_harm_their_neighbours(domain: Domain, data: st.DataObject) -> None:
    """The good records of a batch become the same events with any junk between them as without it."""
    good = encoded(domain, data.draw(st.lists(values(domain), min_size=1, max_size=20)))
    places = data.draw(st.lists(st.tuples(st.integers(0, len(good)), junk(domain)), max_size=12))
    mixed: list[bytes | None] = list(good)
    kept = list(range(len(good)))
    for at, dirt in sorted(places, key=lambda place: -place[0]):
        mixed.insert(at, dirt)
        kept = [offset + (offset >= at) for offset in kept]
    shared = reference(city(RULES), town())
    alone = Ran([batch(good, domain)], shared)
    among = Ran([batch(mixed, domain)], shared)
    moved = {offset: kept[offset] for offset in range(len(good))}
    found = among.events.filter(pl.col("offset").is_in(kept))
    # What a corrupted record that still makes sense may change is the watermark, and so who is late.
    ours = [name for name in found.columns if name not in ("offset", "watermark", "late")]
    assert_frame_equal(found.select(ours), alone.events.select(ours))
    assert found["offset"].to_list() == [moved[offset] for offset in alone.events["offset"]]
    refused = [(moved[offset], *rest) for offset, *rest in alone.refused]
    assert [reject for reject in among.refused if reject[0] in kept] == refused


@quick
@given(
    log=logs(),
    sizes=st.lists(st.integers(1, 15), max_size=12),
    blocks=st.lists(st.integers(1, 15), max_size=12),
    chunk_records=st.integers(1, 40),
)
def test_the_cut_of_the_batches_never_shows(
    log: tuple[Domain, list[bytes | None]], sizes: list[int], blocks: list[int], chunk_records: int
) -> None:
    """Events, rejects, window rows and alert transitions of a log are the same however it was published and fetched."""
    domain, records = log
    offsets = [3 * i + (i % 7 == 0) for i in range(len(records))]
    whole = batch(records, domain, offsets=offsets)
    limits: dict[str, Any] = {"chunk_records": chunk_records, "disorder_ms": 10 * MINUTE}
    once = Ran([whole], reference(city(RULES), town(), **limits), take_after_each=False)
    parts = Ran(cut(blocks_of(whole, blocks), sizes), reference(city(RULES), town(), **limits))
    assert_frame_equal(parts.events, once.events)
    assert parts.refused == once.refused
    assert parts.transitions == once.transitions
    assert parts.state.watermark_ms == once.state.watermark_ms
    if once.taken:
        assert raw_bytes(parts.windows) == raw_bytes(once.windows)
    else:
        assert parts.taken == []


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Domain, list[tuple[list[Batch], frozenset[int]]]]:
    """Logs of several partitions of a topic, each cut somehow, and offsets that ClickHouse has refused of them."""
    domain, logs_of_it = draw(domains), []
    for number in range(draw(st.integers(2, 4))):
        found = draw(st.lists(st.one_of(values(domain), values(domain), junk(domain)), min_size=1, max_size=25))
        records = [encoded(domain, [one])[0] if isinstance(one, dict) else one for one in found]
        offsets = [3 * i + (i % 7 == 0) for i in range(len(records))]
        whole = batch(records, domain, partition=number, offsets=offsets)
        sizes = draw(st.lists(st.integers(1, 12), max_size=6))
        logs_of_it.append((cut(whole, sizes), draw(st.frozensets(st.sampled_from(offsets), max_size=3))))
    return domain, logs_of_it


@quick
@given(crowd=crowds(), chunk_records=st.integers(1, 40))
def test_the_company_of_other_partitions_never_shows(
    crowd: tuple[Domain, list[tuple[list[Batch], frozenset[int]]]], chunk_records: int
) -> None:
    """Each partition becomes what it becomes alone, whichever others it is processed together with."""
    domain, partitions = crowd
    shared = reference(city(RULES), town(), chunk_records=chunk_records, disorder_ms=10 * MINUTE)
    writers = own_writers(contract_of(domain))
    alone, among = (
        [Ran([], shared, state=state_of(batches[0], shared)) for batches, _ in partitions] for _ in range(2)
    )
    for number in range(max(len(batches) for batches, _ in partitions)):
        here = [(i, batches[number], bad) for i, (batches, bad) in enumerate(partitions) if number < len(batches)]
        for i, one, bad in here:
            alone[i].add(run(one, alone[i].state, shared, writers, bad))
        turns = [Turn(one, among[i].state, bad) for i, one, bad in here]
        for (i, *_), outcomes in zip(here, run_together(turns, shared, writers), strict=True):
            among[i].add(outcomes)
    for (batches, bad), mine, theirs in zip(partitions, alone, among, strict=True):
        assert_frame_equal(theirs.events, mine.events)
        assert theirs.refused == mine.refused
        assert {offset for offset, _, reason, _ in mine.refused if reason == Reason.SINK} <= bad
        assert theirs.transitions == mine.transitions
        ended = sorted([*theirs.events["offset"], *(offset for offset, *_ in theirs.refused)])
        assert ended == [offset for one in batches for offset in one.offsets.tolist()]
        assert raw_bytes(theirs.windows) == raw_bytes(mine.windows) if mine.taken else theirs.taken == []
        assert_same_state(theirs.state, mine.state)


def assert_same_state(found: PartitionState, expected: PartitionState) -> None:
    """What is kept is the same: rows that wait as rows, because of the same there may be several files."""
    for part in ("detectors", "alerts", "refusals"):
        is_same = getattr(found, part).snapshot() == getattr(expected, part).snapshot()
        assert is_same, part
    waiting = (pl.read_ipc(io.BytesIO(state.held.snapshot())) for state in (found, expected))
    assert_frame_equal(next(waiting), next(waiting))
    assert (found.watermark_ms, found.seen_from, found.seen) == (
        expected.watermark_ms, expected.seen_from, expected.seen,
    )  # fmt: skip
    assert (found.chunk and found.chunk.first_offset) == (expected.chunk and expected.chunk.first_offset)


def long_log(domain: Domain, seed: int, count: int = 280) -> list[bytes | None]:
    """A day of one partition, five minutes a record, of the same choices."""
    rng = random.Random(seed)
    records: list[bytes | None] = []
    for number in range(count):
        changes = {name: rng.choice(choices) for name, choices in _CHOICES[domain].items()}
        late = rng.choice((0, 0, 0, 0, -3 * HOUR))
        observed = RECEIVED_MS - (count - number) * 5 * MINUTE + late + rng.randrange(4 * MINUTE)
        one = event(domain, **changes, event_id=f"e-{rng.randrange(count)}", observed_at=observed)
        whole = encoded(domain, [one])[0]
        records.append(rng.choice((*[whole] * 9, whole[:-1])))
    return records


@pytest.mark.parametrize(
    ("domain", "rules"),
    [
        ("sensor", {"bin_full", "bin_fire", "silent"}),
        ("lighting", {"lamp_defective", "lamp_dark", "lamp_lit_by_day"}),
        ("roadway", {"silent"}),
        ("report", set()),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 150])
def test_a_day_is_the_same_in_batches_of_any_size(domain: Domain, rules: set[str], size: int) -> None:
    """A log long enough to raise and clear the alerts of its domain, in small, middling and large batches."""
    whole = batch(long_log(domain, seed=5), domain)
    limits: dict[str, Any] = {"chunk_records": 130, "disorder_ms": 10 * MINUTE}
    once = Ran([whole], reference(city(RULES), **limits), take_after_each=False)
    parts = Ran(cut(whole, [size] * len(whole)), reference(city(RULES), **limits))
    assert_frame_equal(parts.events, once.events)
    assert parts.refused == once.refused
    assert parts.transitions == once.transitions
    assert raw_bytes(parts.windows) == raw_bytes(once.windows)
    assert {t.alertname for t in once.transitions} >= rules
    assert {t.state for t in once.transitions} >= ({"firing", "resolved"} if rules else set())
    assert {reason for _, _, reason, _ in once.refused} >= {"decode", "duplicate"}
    assert 0 < once.events["late"].sum() < len(once.events)
