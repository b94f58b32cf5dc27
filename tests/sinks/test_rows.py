"""Frames of the stages as rows of the tables: nothing lost on the way, one table per partition of ClickHouse."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contracts import DOMAINS, Domain, contract, contract_of, examples
from schemas.rejects import Reason, rejects
from sinks.clickhouse import Sink
from sinks.rows import (
    CODED,
    Origin,
    ZoneMaps,
    alert_table,
    asset_states,
    coded,
    event_tables,
    names_of,
    offset_of,
    placed,
    reject_table,
    version_of,
    window_tables,
)
from tests.support.batches import HOUR, RECEIVED_MS, Ran, batch_of, event, reference
from tests.support.city import CITY, TOWN, city, ms, town

ORIGIN = Origin("city.raw.sensor", 2, "T1", 5)
VERSIONS = {CITY: "c-1", TOWN: "t-1"}


def ran(values: list[dict[str, Any]], domain: Domain = "sensor") -> Ran:
    return Ran([batch_of(values, domain, partition=2)], reference(city(), town()))


def tables(found: Ran, domain: Domain = "sensor") -> dict[date, pa.Table]:
    origin = Origin(found.outcomes[0].batch.topic, 2, "T1", 5)
    frame = placed(found.outcomes[0].events, origin, VERSIONS)
    return dict(event_tables(frame, domain, ZoneMaps(found.shared.locator.sets)))


def state_table(values: list[dict[str, Any]], domain: Domain = "sensor") -> pa.Table:
    found = ran(values, domain)
    frame = placed(found.outcomes[0].events, ORIGIN, VERSIONS)
    return asset_states([frame], domain, ZoneMaps(found.shared.locator.sets))


def states(values: list[dict[str, Any]], domain: Domain = "sensor") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = state_table(values, domain).to_pylist()
    return sorted(made, key=lambda row: str(row["asset_id"]))


def test_texts_of_few_values_are_coded() -> None:
    """The same rows as before, with one dictionary a column however many parts a block is made of."""
    (table,) = tables(ran([event(event_id=str(number)) for number in range(20)])).values()
    parts = pa.concat_tables([table, table.slice(0, 7), table.slice(7)])
    made: Any = coded(parts)
    assert made.to_pylist() == parts.to_pylist()
    dictionaries = {name for name in made.column_names if pa.types.is_dictionary(made[name].type)}
    assert dictionaries == CODED & set(table.column_names) > {"kind", "source", "topic", "sensor_type"}
    for name in dictionaries:
        first, *others = (chunk.dictionary for chunk in made[name].chunks)
        assert all(first.equals(other) for other in others), name
    assert coded(table.slice(0, 0)).equals(table.slice(0, 0))


def test_what_is_coded_is_what_the_tables_keep_coded(clickhouse: Sink) -> None:
    """Of every table that whole blocks of frames go to, neither more nor less."""
    names = [*(f"events_{domain}" for domain in DOMAINS), "window_rows", "asset_state"]
    told = ", ".join(f"'{name}'" for name in names)
    found = clickhouse.rows(
        "SELECT DISTINCT name FROM system.columns WHERE database = currentDatabase() "
        f"AND table IN ({told}) AND type = 'LowCardinality(String)'"
    )
    assert {name for (name,) in found} == CODED


def test_events_are_split_by_event_date() -> None:
    """A block lies in one date partition, because ClickHouse stores one that spans two in two steps."""
    midnight = ms("2026-09-14T00:00:00")
    shifts = (0, -1, 5, -24 * HOUR, -24 * HOUR - 1)
    values = [event(event_id=str(i), observed_at=midnight + shift) for i, shift in enumerate(shifts)]
    found = tables(ran(values))
    assert list(found) == [date(2026, 9, 12), date(2026, 9, 13), date(2026, 9, 14)]
    assert [table["event_id"].to_pylist() for table in found.values()] == [["4"], ["1", "3"], ["0", "2"]]


def test_a_row_says_where_it_comes_from() -> None:
    """Topic, epoch, partition, offset and chunk name the record, the term its writer; the territory's version names
    the zones."""
    (table,) = tables(ran([event(event_id="1"), event(event_id="2", jurisdiction_id=TOWN)])).values()
    place = {"topic": "city.raw.sensor", "epoch": "T1", "partition": 2, "chunk": 0, "term": 5}
    names = [*place, "offset", "territory_version"]
    assert table.select(names).to_pylist() == [
        place | {"offset": 0, "territory_version": "c-1"}, place | {"offset": 1, "territory_version": "t-1"},
    ]  # fmt: skip
    assert [dict(zones or ()) for zones in table["zones"].to_pylist()] == [
        {"quarter": "Q02", "sector": "NEW"}, {"district": "Q01"},
    ]  # fmt: skip


def test_layers_without_a_zone_are_left_out() -> None:
    """A map says the zones there are; an event in none has an empty map, and sets that come later are found too."""
    found = ran([event(event_id="1", asset_id="footfall-01", sensor_type="footfall")])
    maps = ZoneMaps(found.shared.locator.sets)
    frame = found.outcomes[0].events
    assert [dict(m) for m in maps.take(frame["zone_set"]).to_pylist()] == [{}]
    later = found.shared.locator.sets.number(CITY, ("Q99", ""))
    assert [dict(m) for m in maps.take(frame["zone_set"] * 0 + later).to_pylist()] == [{"quarter": "Q99"}]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_good_example_fits_its_table(clickhouse: Sink, domain: Domain) -> None:
    """What the pipeline makes of a contract's examples is stored and read back as it was, field by field, nulls too."""
    given = [example["value"] for example in examples(contract_of(domain).name, "good")]
    named = [value | {"event_id": f"{value['event_id'][:100]}/{i}"} for i, value in enumerate(given)]
    values = [value | _left_out(domain, value) for value in named]
    found = ran(values, domain)
    for day, table in tables(found, domain).items():
        clickhouse.insert(f"events_{domain}", table, str(day))
    fields = [f.name for f in contract_of(domain).fields]
    kept = [*fields, "kind", "quality", "failed", "late", "location_quality", "offset", "received_at"]
    kept += ["nearest_asset_id", "nearest_asset_m"] if domain == "report" else []
    back = clickhouse.rows(f"SELECT {', '.join(kept)} FROM events_{domain} ORDER BY offset")
    made = found.events.select(kept).rows()
    assert [_plain(row) for row in back] == [_plain(row) for row in made]


def _left_out(domain: Domain, value: dict[str, Any]) -> dict[str, Any]:
    contract_ = contract_of(domain)
    return {f.name: f.symbols[0] if f.symbols else None for f in contract_.fields if f.name not in value}


def _plain(row: tuple[Any, ...]) -> list[Any]:
    return [value.replace(tzinfo=value.tzinfo or UTC) if isinstance(value, datetime) else value for value in row]


@pytest.mark.parametrize("at_ms", [2**62, -(2**62), 2**63 - 1, -(2**63), 32_472_144_000_000])
def test_instants_beyond_the_calendar_do_not_stop_an_insert(clickhouse: Sink, at_ms: int) -> None:
    """Nobody validates when a closure ends; the year 9999 is stored as ClickHouse can, and its neighbours too."""
    closure = event("roadway", observation_type="closure", closure_start_at=at_ms, closure_end_at=at_ms)
    for day, table in tables(ran([closure, event("roadway", event_id="2")], "roadway"), "roadway").items():
        clickhouse.insert("events_roadway", table, str(day))
    assert clickhouse.rows("SELECT count(), countIf(closure_end_at IS NULL) FROM events_roadway") == [(2, 1)]


# --- states of assets


def test_the_newest_reading_of_each_asset_is_its_state() -> None:
    """By event time, and among equals by offset: a late reading does not turn the state back."""
    at = RECEIVED_MS - HOUR
    (state,) = states(
        [
            event(event_id="1", observed_at=at, fill_level=0.2),
            event(event_id="2", observed_at=at, fill_level=0.3),
            event(event_id="3", observed_at=at - 1, fill_level=0.9),
        ]
    )
    assert dict(state["measures"]) == {"fill_level": 0.3}
    assert (state["asset_id"], state["kind"], state["domain"]) == ("bin-00017", "bin", "sensor")


def test_a_state_holds_what_was_said_and_no_nulls() -> None:
    """Numbers as measures, enums as states, each under the name of its field; what was not said is not there."""
    lamps = [
        event("lighting", event_id="1", power_w=71.5, voltage_v=None),
        event("lighting", event_id="2", asset_id="lamp-00002", power_w=None, voltage_v=231.0, dimming_ratio=0.5),
        event("lighting", event_id="3", asset_id="lamp-00003", power_w=None),
    ]
    one, two, three = states(lamps, "lighting")
    assert dict(one["measures"]) == {"power_w": 71.5}
    assert dict(two["measures"]) == {"voltage_v": 231.0, "dimming_ratio": 0.5}
    assert dict(three["measures"]) == {}
    assert dict(two["states"]) == {"power_state": "off", "lamp_status": "ok"}


def test_a_counter_of_several_kinds_has_a_state_for_each() -> None:
    """Cars and bicycles of one station are two states; so are the same names of two authorities."""
    counted = ("car", "bicycle", "car")
    values = [event("roadway", event_id=str(i), mobility_type=kind) for i, kind in enumerate(counted)]
    found = states(values, "roadway")
    assert sorted(row["kind"] for row in found) == ["traffic.bicycle", "traffic.car"]
    found = states([event(event_id="1"), event(event_id="2", jurisdiction_id=TOWN)])
    assert sorted(row["jurisdiction_id"] for row in found) == [TOWN, CITY]


def test_reports_about_no_asset_have_no_state() -> None:
    """A request without an asset is history, not the state of anything."""
    found = states([event("report", event_id="1"), event("report", event_id="2", asset_id="lamp-00001")], "report")
    assert [row["asset_id"] for row in found] == ["lamp-00001"]


# --- windows, alerts, names


def test_window_rows_are_split_by_month() -> None:
    """A chunk that holds a late event of last month is two blocks, both with the chunk and its version."""
    found = ran([event(event_id="1"), event(event_id="2", observed_at=ms("2026-08-31T23:59:59"))])
    (chunk,) = found.taken
    made = dict(window_tables(chunk.rows, ORIGIN, chunk.first_offset, chunk.last_offset + 1))
    assert list(made) == ["202608", "202609"]
    place = {"topic": "city.raw.sensor", "epoch": "T1", "partition": 2, "chunk": 0, "version": version_of(5, 2)}
    for table in made.values():
        assert table.select(list(place)).to_pylist()[0] == place


@given(st.integers(0, 2**22 - 1), st.integers(0, 2**42 - 1), st.integers(0, 2**22 - 1), st.integers(0, 2**42 - 1))
def test_versions_order_owners_and_then_offsets(term: int, offset: int, other_term: int, other_offset: int) -> None:
    """A newer owner outranks an older one wherever both stand; the offset is given back; it fits the column."""
    one, other = version_of(term, offset), version_of(other_term, other_offset)
    assert (one < other) == ((term, offset) < (other_term, other_offset))
    assert offset_of(one) == offset
    assert one < 2**64


def test_rejects_say_where_they_come_from_and_who_refused_them() -> None:
    """Position, time, stage and reason; the term decides between two owners. No bytes, no key, no value."""
    refused = rejects(pl.Series([3]), "decode", Reason.DECODE, "not Avro").with_columns(
        pl.Series("offset", [103]), pl.Series("received_at", [RECEIVED_MS]).cast(pl.Datetime("ms", "UTC"))
    )
    assert reject_table(refused, ORIGIN).to_pylist() == [
        {
            "topic": "city.raw.sensor", "epoch": "T1", "partition": 2, "term": 5, "offset": 103,
            "received_at": datetime.fromtimestamp(RECEIVED_MS / 1_000, UTC), "stage": "decode", "reason": "decode",
            "detail": "not Avro",
        }
    ]  # fmt: skip


def test_alerts_are_rows_as_they_are_messages(clickhouse: Sink) -> None:
    """Every example of the Alert contract is a row of the transitions, optional fields null."""
    alert = contract("Alert")
    blank = {f.name: "unknown" if f.symbols else None for f in alert.fields}
    given = [blank | example["value"] for example in examples("Alert", "good")]
    clickhouse.insert("alert_transitions", alert_table([(ORIGIN, 41, value) for value in given]), "x")
    places = clickhouse.rows("SELECT DISTINCT topic, epoch, partition, offset FROM alert_transitions")
    assert places == [("city.raw.sensor", "T1", 2, 41)]
    names = [f.name for f in alert.fields]
    back = clickhouse.rows(f"SELECT {', '.join(names)} FROM alert_transitions ORDER BY transition_id")
    for value in given:
        for name in ("at", "starts_at", "ends_at"):
            value[name] = None if value[name] is None else datetime.fromtimestamp(value[name] / 1_000, UTC)
    made = [tuple(value[name] for name in names) for value in sorted(given, key=lambda v: str(v["transition_id"]))]
    assert [_plain(row) for row in back] == [_plain(row) for row in made]


def test_names_of_a_block_do_not_depend_on_the_order_of_its_parts() -> None:
    """The token names topic, epoch, partition, term and offsets of all parts, sorted: the same parts are the same
    block, and what another owner or another topic of that name sends is another one."""
    parts = [(Origin("b", 0, "B", 2), 5, 9), (Origin("a", 1, "A", 1), 0, 4), (Origin("a", 0, "A", 1), 7, 7)]
    assert names_of(parts) == names_of(parts[::-1]) == "a/A/0@1:7-7;a/A/1@1:0-4;b/B/0@2:5-9"
    assert names_of(parts[:2]) != names_of(parts)
    (one,) = parts[:1]
    others = [(Origin("b", 0, "C", 2), 5, 9), (Origin("b", 0, "B", 3), 5, 9), (one[0], 5, 10), (one[0], 4, 9)]
    assert names_of([one]) not in {names_of([other]) for other in others}


def test_events_of_a_large_batch_keep_their_order() -> None:
    """Rows of a day stay in offset order, whatever days stand between."""
    days = [event(event_id=str(i), observed_at=RECEIVED_MS - HOUR - (i % 2) * 24 * HOUR) for i in range(50)]
    for table in tables(ran(days)).values():
        offsets: list[Any] = table["offset"].to_pylist()
        assert offsets == sorted(offsets)
        assert len(offsets) == 25


def test_of_many_batches_each_asset_has_one_state() -> None:
    """The newest wherever it stands; of one instant the last that arrived. Batches without any are none."""
    rng = random.Random(5)
    places = [(rng.randrange(6), RECEIVED_MS - HOUR + rng.randrange(40) * 1_000) for _ in range(120)]
    values = [
        event(event_id=str(n), asset_id=f"bin-{asset:05}", observed_at=at, fill_level=n / 1_000)
        for n, (asset, at) in enumerate(places)
    ]
    frames = [placed(ran(values[n : n + 9]).outcomes[0].events, ORIGIN, VERSIONS) for n in range(0, len(values), 9)]
    # As they were read: each run above begins at offset 0.
    frames = [f.with_columns(pl.col("offset") + 9 * n) for n, f in enumerate(frames)]
    last = {f"bin-{asset:05}": n for n, (asset, _) in sorted(enumerate(places), key=lambda p: p[1][1])}
    table = asset_states([*frames, frames[0].clear()], "sensor", ZoneMaps(reference(city(), town()).locator.sets))
    found = {row["asset_id"]: dict(row["measures"])["fill_level"] for row in table.to_pylist()}
    assert found == {name: n / 1_000 for name, n in last.items()}
    assert table.num_rows == len(found) == 6
