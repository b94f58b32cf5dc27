"""The connection to ClickHouse: tables that only move forward, blocks stored once, errors that say what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from schemas.contracts import DOMAINS, Domain, contract, contract_of
from sinks.clickhouse import Sink, SinkAwayError, SinkError, connect
from sinks.errors import clickhouse_number
from tests.support.tables import columns

_ROOT: Final = Path(__file__).resolve().parents[2]

#: Columns of an event table beside the contract's.
_EXTRA: Final = {
    "kind": "LowCardinality(String)",
    "received_at": "DateTime64(3, 'UTC')",
    "location_quality": "LowCardinality(String)",
    "zones": "Map(String, String)",
    "quality": "UInt8",
    "failed": "UInt64",
    "late": "Bool",
    "territory_version": "LowCardinality(String)",
    "topic": "LowCardinality(String)",
    "epoch": "LowCardinality(String)",
    "partition": "UInt16",
    "offset": "Int64",
    "chunk": "Int64",
    "term": "UInt32",
}
_NEAREST: Final = {"nearest_asset_id": "Nullable(String)", "nearest_asset_m": "Nullable(Float64)"}


# --- tables


@pytest.mark.parametrize("domain", DOMAINS)
def test_event_tables_have_the_fields_of_their_contract(clickhouse: Sink, domain: Domain) -> None:
    """Exactly the contract's fields and what the stages add; a column may be null where a field may, and only there."""
    found = columns(clickhouse, f"events_{domain}")
    extra = _EXTRA | (_NEAREST if domain == "report" else {})
    fields = contract_of(domain).fields
    assert set(found) == {f.name for f in fields} | set(extra)
    assert {name: found[name] for name in extra} == extra
    for f in fields:
        assert ("Nullable(" in found[f.name]) == f.nullable, f.name
        plain = found[f.name].replace("LowCardinality(", "").replace("Nullable(", "").rstrip(")")
        kind = {"Float64": "Float64", "Int64": "Int64", "Boolean": "Bool", "String": "String"}.get(
            str(f.dtype), "DateTime64(3, 'UTC'"
        )
        assert plain == kind, f.name


def test_the_transition_table_has_the_fields_of_the_alert(clickhouse: Sink) -> None:
    """Alerts are stored as they are published, with the place in the log that made them."""
    found = columns(clickhouse, "alert_transitions")
    alert = contract("Alert")
    assert set(found) == {f.name for f in alert.fields} | {"topic", "epoch", "partition", "offset"}
    for f in alert.fields:
        assert ("Nullable(" in found[f.name]) == f.nullable, f.name


def test_rejects_hold_no_payload(clickhouse: Sink) -> None:
    """Where and why, never what: a refused record may be anybody's data, and its bytes are in the dead-letter topic."""
    assert set(columns(clickhouse, "rejects")) == {
        "topic", "epoch", "partition", "offset", "term", "received_at", "stage", "reason", "detail",
    }  # fmt: skip


def test_every_table_that_takes_blocks_remembers_their_tokens(clickhouse: Sink) -> None:
    """Without a window of remembered blocks a retried insert would be stored twice until the next merge."""
    tables = clickhouse.rows(
        "SELECT name FROM system.tables WHERE database = 'default' AND engine LIKE '%MergeTree%' "
        "AND create_table_query NOT LIKE '%non_replicated_deduplication_window = 1000%'"
    )
    assert {name for (name,) in tables} == {"migrations", "zones", "assets"}, "written at start only"


# --- inserts


def reject_rows(*offsets: int) -> pa.Table:
    count = len(offsets)
    return pa.table(
        {
            "topic": ["city.raw.sensor"] * count,
            "partition": pa.array([0] * count, pa.uint16()),
            "offset": pa.array(offsets, pa.int64()),
            "received_at": pa.array([1_789_430_400_000] * count, pa.timestamp("ms", "UTC")),
            "stage": ["decode"] * count,
            "reason": ["decode"] * count,
            "detail": [""] * count,
        }
    )


def stored(sink: Sink) -> list[int]:
    return [offset for (offset,) in sink.rows("SELECT offset FROM rejects ORDER BY offset")]


def test_a_block_is_stored_once_under_its_names(clickhouse: Sink) -> None:
    """The same names mean the same block: sent again, it is dropped; under other names equal rows are stored."""
    for _ in range(3):
        clickhouse.insert("rejects", reject_rows(1, 2), "a/0:1-2")
    assert stored(clickhouse) == [1, 2]
    clickhouse.insert("rejects", reject_rows(1, 2), "a/0:1-3")
    assert stored(clickhouse) == [1, 1, 2, 2]


def test_names_are_of_one_table(clickhouse: Sink) -> None:
    """Two tables take blocks of the same offsets; neither is a repeat of the other."""
    clickhouse.client.command("CREATE TABLE other AS rejects")
    try:
        clickhouse.insert("rejects", reject_rows(1), "a/0:1-1")
        clickhouse.insert("other", reject_rows(1), "a/0:1-1")
        assert clickhouse.rows("SELECT count() FROM other") == [(1,)]
    finally:
        clickhouse.client.command("DROP TABLE other")


def test_a_block_without_rows_is_not_sent(clickhouse: Sink) -> None:
    """Nothing to store is nothing to remember."""
    clickhouse.insert("rejects", reject_rows(), "a/0:1-1")
    clickhouse.insert("rejects", reject_rows(1), "a/0:1-1")
    assert stored(clickhouse) == [1]


def test_a_refused_block_is_an_error_that_is_not_tried_again(clickhouse: Sink) -> None:
    """A table or column that is not there will not appear by waiting: refused at once, with ClickHouse's own words."""
    said: list[str] = []
    sink = replace(clickhouse, retry_budget_s=60.0, on_retry=said.append)
    with pytest.raises(SinkError, match="refused inserting into nowhere") as caught:
        sink.insert("nowhere", reject_rows(1), "a")
    assert not isinstance(caught.value, SinkAwayError)
    assert clickhouse_number(caught.value.__cause__) == 60
    assert said == []


def test_results_come_as_frames_and_rows(clickhouse: Sink) -> None:
    """Parameters are bound by the server, never pasted into the text."""
    sql = "SELECT {text:String} AS text, 2 AS two"
    assert clickhouse.frame(sql, {"text": "a'b"}).rows() == [("a'b", 2)]
    assert clickhouse.rows(sql, {"text": "a'b"}) == [("a'b", 2)]
    assert clickhouse.frame("SELECT offset FROM rejects").is_empty()


# --- what else is done to tables


@pytest.fixture
def patient(clickhouse: Sink) -> Sink:
    """For work that takes its time on a loaded machine."""
    return replace(clickhouse, retry_budget_s=60.0)


@pytest.fixture
def table(clickhouse: Sink) -> Iterator[str]:
    """A table of its own: `number`, and `name` that must not be 'bad'."""
    clickhouse.command(
        "CREATE TABLE numbers_here (number Int64, name String, CONSTRAINT good CHECK name != 'bad') "
        "ENGINE = MergeTree ORDER BY number SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield "numbers_here"
    clickhouse.command("DROP TABLE numbers_here SYNC")


def numbers(*values: int) -> pa.Table:
    return pa.table({"number": pa.array(values, pa.int64()), "name": [f"n{value}" for value in values]})


def test_deleted_rows_are_gone_when_it_returns(patient: Sink, table: str) -> None:
    """Whoever rebuilds reads nothing of what was there before; parameters are bound, never pasted."""
    patient.insert(table, numbers(*range(1_000)), "a")
    patient.delete(table, "number < {below:Int64} AND name != {name:String}", {"below": 990, "name": "n'5"})
    assert patient.rows(f"SELECT count(), min(number) FROM {table}") == [(10, 990)]
    patient.delete(table, "number < 990")
    assert patient.rows(f"SELECT count() FROM {table}") == [(10,)]


def test_deleted_rows_come_back_only_under_another_name(patient: Sink, table: str) -> None:
    """The trap that `delete` warns of: the table remembers the blocks of deleted rows."""
    for names, count in (("a", 3), ("a", 0), ("b", 3)):
        patient.insert(table, numbers(1, 2, 3), names)
        assert patient.rows(f"SELECT count() FROM {table}") == [(count,)]
        patient.delete(table, "1")


def test_a_deletion_is_waited_for_and_not_sent_again(patient: Sink, table: str) -> None:
    """One that does not end within the budget is an error, and has left one piece of work behind, not one a try."""
    patient.insert(table, numbers(1), "a")
    patient.command(f"SYSTEM STOP MERGES {table}")
    with pytest.raises(SinkAwayError, match="has not finished deleting from numbers_here"):
        replace(patient, retry_budget_s=0.2).delete(table, "number = 1")
    mutations = f"SELECT is_done FROM system.mutations WHERE table = '{table}'"
    assert patient.rows(mutations) == [(0,)]
    patient.command(f"SYSTEM START MERGES {table}")
    patient.delete(table, "number = 1")
    assert patient.rows(f"SELECT count() FROM {table}") == [(0,)]


def test_a_deletion_that_cannot_be_is_an_error(clickhouse: Sink) -> None:
    """No rows were deleted, so nothing may be built upon it."""
    with pytest.raises(SinkError, match="refused deleting from nowhere"):
        clickhouse.delete("nowhere", "1")


def test_an_insert_of_any_size_is_one_block(clickhouse: Sink, table: str) -> None:
    """All of it or nothing, and one token: the engine's own blocks end at about a million rows."""
    part = pa.table({"number": pa.array(range(100_000), pa.int64()), "name": pa.repeat("n", 100_000)})
    clickhouse.insert(table, pa.concat_tables([part] * 15), "a")
    assert clickhouse.rows(f"SELECT count() FROM {table}") == [(1_500_000,)]
    inserted = "SELECT max(rows) FROM system.parts WHERE table = {t:String} AND level = 0"
    assert clickhouse.rows(inserted, {"t": table}) == [(1_500_000,)]


def test_several_threads_use_one_sink(clickhouse: Sink, table: str) -> None:
    """Flushes, zone watch and supervision share it: no session that takes one query at a time."""
    with ThreadPoolExecutor(4) as threads:
        blocks = [threads.submit(clickhouse.insert, table, numbers(n), str(n)) for n in range(20)]
        reads = [threads.submit(clickhouse.rows, "SELECT {n:Int64}", {"n": n}) for n in range(20)]
    assert [block.result() for block in blocks] == [()] * 20
    assert [read.result() for read in reads] == [[(n,)] for n in range(20)]
    assert clickhouse.rows(f"SELECT count() FROM {table}") == [(20,)]


# --- what goes wrong at the start


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "must begin with chdb://, http:// or https://, not ftp://"),
        ("", "must begin with"),
        ("localhost:8123", "must begin with"),
        ("http://[half", "cannot be read"),
        ("http://host:port", "cannot be read"),
        ("chdb://", "chdb:///path"),
        ("chdb://relative/folder", "chdb:///path"),
    ],
)
def test_a_wrong_url_says_what_is_expected(url: str, message: str) -> None:
    """A URL that cannot work is an error of the settings: refused at once and not waited for."""
    with pytest.raises(SinkError, match=message) as caught:
        connect(url)
    assert not isinstance(caught.value, SinkAwayError)


def in_another_process(url: str) -> str:
    """What `connect` says to a process of its own."""
    code = (
        "import sys\nfrom sinks.clickhouse import SinkError, connect\n"
        "try:\n    connect(sys.argv[1]).close()\nexcept SinkError as error:\n    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_a_second_process_on_the_same_directory_is_told_so(clickhouse: Sink) -> None:
    """One process per embedded directory: the second one learns that, and what to do, in one line."""
    folder = clickhouse.url.removeprefix("chdb://")
    assert in_another_process(clickhouse.url) == (
        f"{folder} is already open in another process: an embedded ClickHouse belongs to one process. If that one is "
        "`vigie gateway`, set VIGIE_CLICKHOUSE_URL to the address it printed. Otherwise stop it; to have both, "
        f"run `vigie gateway --data-dir {folder}` and set VIGIE_CLICKHOUSE_URL=http://127.0.0.1:8123 for both"
    )


def test_a_directory_that_cannot_be_one_is_another_error(tmp_path: Path) -> None:
    """A path that cannot be opened is not blamed on another process, even when its name says `status`."""
    file = tmp_path / "status"
    file.write_text("not a directory", "utf-8")
    said = in_another_process(f"chdb://{file}")
    assert said.startswith(f"{file} cannot be opened as an embedded ClickHouse: ")
    assert "another process" not in said
    assert "\n" not in said


def test_a_second_directory_in_one_process_is_another_error(clickhouse: Sink, tmp_path: Path) -> None:
    """The engine has one directory per process; whoever asks for a second is told which one is open."""
    with pytest.raises(SinkError, match="already initialized with path") as caught:
        connect(f"chdb://{tmp_path}")
    assert clickhouse.url.removeprefix("chdb://") in str(caught.value)


def first_bytes_sent_to(scheme: str) -> bytes:
    """What a client sends first to a port of its own choice."""
    server = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []

    def answer() -> None:
        with server:
            connection, _ = server.accept()
        with connection:
            received.append(connection.recv(4_096))

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(SinkError):
        connect(f"{scheme}://user:secret-word@127.0.0.1:{server.getsockname()[1]}/city", timeout_s=1.0)
    thread.join()
    return received[0]


@pytest.mark.parametrize("scheme", ["https", "clickhouses"])
def test_https_is_encrypted_on_any_port(scheme: str) -> None:
    """The client library goes by the port alone: what was to be encrypted went over the wire with the password."""
    assert first_bytes_sent_to(scheme)[:1] == b"\x16", "not a TLS handshake"


def test_http_is_not() -> None:
    """The test above can tell the difference."""
    assert first_bytes_sent_to("http").startswith((b"POST", b"GET"))
