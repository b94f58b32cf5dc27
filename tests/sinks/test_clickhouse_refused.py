"""Rows that ClickHouse refuses for what is in them: found, named and left out, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import OperationalError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinks import clickhouse as module
from sinks.clickhouse import Refused, Sink, SinkAwayError, SinkError
from sinks.errors import TABLE, Origin, Treatment

_TABLE: Final = "readings"


@pytest.fixture
def readings(clickhouse: Sink) -> Iterator[Sink]:
    """The sink, with a table of numbers below 1 000 that stand for secrets."""
    clickhouse.command(
        f"CREATE OR REPLACE TABLE {_TABLE} (n Int64, value Int64, CONSTRAINT in_range CHECK value < 1000) "
        "ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield clickhouse
    clickhouse.command(f"DROP TABLE {_TABLE} SYNC")


def block(count: int, *bad: int) -> pa.Table:
    """So many rows; those at `bad` are out of range."""
    values = [777_777 if n in bad else 1 for n in range(count)]
    return pa.table({"n": pa.array(range(count), pa.int64()), "value": pa.array(values, pa.int64())})


def stored(sink: Sink) -> list[int]:
    return [n for (n,) in sink.rows(f"SELECT n FROM {_TABLE} ORDER BY n")]


def test_refused_rows_are_found_and_all_others_stored(readings: Sink) -> None:
    """At either end, side by side or alone: each is named, and its neighbours lose nothing."""
    bad = (0, 17, 18, 500, 998, 999)
    refused = readings.insert(_TABLE, block(1_000, *bad), "a")
    assert refused == tuple(Refused(n, "469 VIOLATED_CONSTRAINT in `in_range`") for n in bad)
    assert stored(readings) == [n for n in range(1_000) if n not in bad]


def test_a_block_with_refused_rows_is_stored_once(readings: Sink) -> None:
    """Sent again after a crash it gives the same answer and stores nothing twice."""
    first = readings.insert(_TABLE, block(100, 3, 50), "a")
    assert readings.insert(_TABLE, block(100, 3, 50), "a") == first
    assert stored(readings) == [n for n in range(100) if n not in (3, 50)]


@dataclass
class Failing:
    """The real client, until it is away: after so many inserts."""

    client: Any
    inserts: int

    def insert_arrow(self, *args: Any, **kwargs: Any) -> Any:
        if self.inserts == 0:
            raise OperationalError("Error executing HTTP request")
        self.inserts -= 1
        return self.client.insert_arrow(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


def test_a_search_may_be_cut_off_anywhere_and_begun_again(readings: Sink) -> None:
    """ClickHouse goes away in the middle of the halving, at every one of its inserts: the next attempt stores the rest,
    and rows that had gone through are not stored again."""
    rows, bad = block(16, 0, 5), (0, 5)
    for inserts in range(12):
        readings.command(f"TRUNCATE TABLE {_TABLE}")
        cut_off = replace(readings, client=Failing(readings.client, inserts), retry_budget_s=0.01)
        names = f"attempt {inserts}"
        with pytest.raises(SinkAwayError):
            cut_off.insert(_TABLE, rows, names)
        assert [refused.row for refused in readings.insert(_TABLE, rows, names)] == list(bad)
        assert stored(readings) == [n for n in range(16) if n not in bad]


def test_parts_of_a_smaller_block_under_the_same_names_are_not_taken_for_repeats(readings: Sink) -> None:
    """A worker that skips what it finds stored sends fewer rows under the same names; the same row numbers are other
    rows then, and a part taken for one that is stored would be lost without a word."""
    rows = block(8, 0)
    for inserts in (5, 6):
        readings.command(f"TRUNCATE TABLE {_TABLE}")
        cut_off = replace(readings, client=Failing(readings.client, inserts), retry_budget_s=0.01)
        with pytest.raises(SinkAwayError):
            cut_off.insert(_TABLE, rows, str(inserts))
        before = stored(readings)
        left = rows.take([n for n in range(8) if n not in before])
        assert 0 < len(left) < 8
        assert [refused.row for refused in readings.insert(_TABLE, left, str(inserts))] == [0]
        assert stored(readings) == list(range(1, 8))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 40), data=st.data())
def test_every_row_is_stored_or_refused(readings: Sink, count: int, data: st.DataObject) -> None:
    """Whichever rows are bad: in = stored + refused, each row exactly one of them."""
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=min(count, module.ALL_REFUSED - 1)))
    readings.command(f"CREATE OR REPLACE TABLE {_TABLE} AS {_TABLE}")
    refused = readings.insert(_TABLE, block(count, *bad), "a")
    assert [row.row for row in refused] == sorted(bad)
    assert stored(readings) == sorted(set(range(count)) - bad)


def test_a_block_without_a_row_to_spare_is_stored_whole_or_not_at_all(readings: Sink) -> None:
    """Totals and snapshots: one row left out would be a wrong number that nobody looks for."""
    with pytest.raises(SinkError, match="refused inserting into readings: 469 VIOLATED_CONSTRAINT in `in_range`"):
        readings.insert_whole(_TABLE, block(8, 3), "a")
    assert stored(readings) == []
    for _ in range(2):
        readings.insert_whole(_TABLE, block(8), "a")
        assert readings.insert(_TABLE, block(8), "a") == ()
    readings.insert_whole(_TABLE, block(0), "b")
    assert stored(readings) == list(range(8))


# --- it is not the rows


def test_a_table_that_refuses_every_row_stops(readings: Sink) -> None:
    """A topic must not be drained into the dead letters because a table is wrong."""
    rows = block(module.ALL_REFUSED, *range(module.ALL_REFUSED))
    with pytest.raises(SinkError, match="refused 10 of 10 rows for readings, too many to blame the rows") as caught:
        readings.insert(_TABLE, rows, "a")
    assert not isinstance(caught.value, SinkAwayError)
    assert stored(readings) == []


def test_a_few_rows_may_all_be_bad(readings: Sink) -> None:
    """A quiet topic brings one record at a time; a worker that stopped at it would stop at it again for ever."""
    rows = block(2, 0, 1)
    assert [refused.row for refused in readings.insert(_TABLE, rows, "a")] == [0, 1]


def test_very_many_refused_rows_stop(readings: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are good: so many bad ones are a fault of the table or of the contract."""
    monkeypatch.setattr(module, "MOST_REFUSED", 5)
    with pytest.raises(SinkError, match="refused 6 of 100 rows"):
        readings.insert(_TABLE, block(100, *range(10, 90)), "a")
    readings.insert(_TABLE, block(100, *range(5)), "b")
    assert stored(readings)[-1] == 99


def test_a_row_error_outside_of_an_insert_stops(readings: Sink) -> None:
    """A query has no rows that could be left out."""
    with pytest.raises(SinkError, match="6 CANNOT_PARSE_TEXT") as caught:
        readings.rows("SELECT toInt64({text:String})", {"text": "secret"})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# --- what the engine refuses


_DOMAINS: Final[dict[str, tuple[str, list[Any], Any, str]]] = {
    "enum": ("Enum8('on' = 1, 'off' = 2)", ["on"], "secret", "691 UNKNOWN_ELEMENT_OF_ENUM in `c`"),
    "number": ("Int64", ["1"], "secret", "6 CANNOT_PARSE_TEXT in `c`"),
    "bool": ("Bool", ["true"], "secret", "467 CANNOT_PARSE_BOOL in `c`"),
    "uuid": ("UUID", ["00000000-0000-0000-0000-000000000000"], "secret", "376 CANNOT_PARSE_UUID in `c`"),
    "address": ("IPv4", ["127.0.0.1"], "secret", "675 CANNOT_PARSE_IPV4 in `c`"),
    "address 6": ("IPv6", ["::1"], "secret", "676 CANNOT_PARSE_IPV6 in `c`"),
    "date as text": ("Date", ["2026-11-21"], "secret", "38 CANNOT_PARSE_DATE in `c`"),
    "instant as text": ("DateTime64(3)", ["2026-11-21 00:00:00"], "secret", "41 CANNOT_PARSE_DATETIME in `c`"),
    "date too late": ("Date", [date(2026, 11, 21)], date(9999, 12, 31), "321 VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
    "decimal": ("Decimal(5, 2)", [Decimal("1.00")], Decimal("99999999.00"), "407 DECIMAL_OVERFLOW in `c`"),
    "long text": ("FixedString(2)", ["ab"], "secret", "131 TOO_LARGE_STRING_SIZE in `c`"),
    "null": ("Int64", [1], None, "349 CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN in `c`"),
    "null text": ("LowCardinality(String)", ["a"], None, "349 CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN in `c`"),
    "computed": ("Int64, d Int64 MATERIALIZED intDiv(1, c)", [1], 0, "153 ILLEGAL_DIVISION"),
    "checked": ("Int64, d UInt8 MATERIALIZED throwIf(c > 9)", [1], 10, "395 FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
}


@pytest.mark.parametrize(("kind", "good", "bad", "message"), _DOMAINS.values(), ids=_DOMAINS.keys())
def test_the_engine_refuses_the_row_and_no_other(
    clickhouse: Sink, kind: str, good: list[Any], bad: Any, message: str
) -> None:
    """Each sort of value that does not fit, in the engine's own numbers; and its message holds nothing of the value."""
    clickhouse.command(f"CREATE OR REPLACE TABLE {_TABLE} (n Int64, c {kind}) ENGINE = MergeTree ORDER BY n")
    try:
        values = [*good * 3, bad, *good]
        rows = pa.table({"n": pa.array(range(5), pa.int64()), "c": values})
        assert clickhouse.insert(_TABLE, rows, "a") == (Refused(3, message),)
        assert stored(clickhouse) == [0, 1, 2, 4]
    finally:
        clickhouse.command(f"DROP TABLE {_TABLE} SYNC")


@pytest.mark.parametrize(
    ("rows", "number"),
    [
        (pa.table({"other": [1]}), 16),
        (pa.table({"n": [[1]]}), 43),
        (pa.table({"n": [{"a": 1}]}), 43),
    ],
    ids=["column", "list", "struct"],
)
def test_a_column_of_the_wrong_kind_is_not_blamed_on_rows(readings: Sink, rows: pa.Table, number: int) -> None:
    """What no row of the block could ever pass is a fault of ours or of the table."""
    many = pa.concat_tables([rows] * module.ALL_REFUSED)
    with pytest.raises(SinkError) as caught:
        readings.insert(_TABLE, many, "a")
    assert not isinstance(caught.value, SinkAwayError)
    assert f"Code: {number}." in str(caught.value)
    assert stored(readings) == []


def test_a_message_of_the_engine_is_not_passed_on(readings: Sink) -> None:
    """Neither the message nor what a log would add to it (its cause) quotes the value of a row."""
    rows = block(module.ALL_REFUSED, *range(module.ALL_REFUSED))
    with pytest.raises(SinkError) as caught:
        readings.insert(_TABLE, rows, "a")
    assert "777777" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_may_be_a_rows_fault_is_listed() -> None:
    """The sorts above are in the table, under the same numbers."""
    listed = {e.number for e in TABLE if e.origin == Origin.CLICKHOUSE and e.treatment == Treatment.REJECT}
    assert {int(message.split()[0]) for *_, message in _DOMAINS.values()} | {469} <= listed
