"""The connection to ClickHouse: tables that only move forward, blocks stored once, errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from schemas.contracts import DOMAINS, Domain, contract, contract_of
from sinks import clickhouse as module
from sinks.clickhouse import Sink, SinkAwayError, SinkError, connect, error_code, migrate, migrations

_ROOT: Final = Path(__file__).resolve().parents[2]

#: Columns of an event table beside the contract's.
_EXTRA: Final = {
    "kind": "LowCardinality(String)",
    "received_at": "DateTime64(3, 'UTC')",
    "location_quality": "LowCardinality(String)",
    "zones": "Map(LowCardinality(String), LowCardinality(String))",
    "quality": "UInt8",
    "failed": "UInt64",
    "late": "Bool",
    "territory_version": "LowCardinality(String)",
    "topic": "LowCardinality(String)",
    "partition": "UInt16",
    "offset": "Int64",
    "chunk": "Int64",
}
_NEAREST: Final = {"nearest_asset_id": "Nullable(String)", "nearest_asset_m": "Nullable(Float64)"}


def columns(sink: Sink, table: str) -> dict[str, str]:
    return dict(sink.rows("SELECT name, type FROM system.columns WHERE table = {t:String}", {"t": table}))


# --- tables


def test_migrations_are_numbered_without_gaps() -> None:
    """They are applied in the order of their names, and each holds something to apply."""
    names = [name for name, statements in migrations() if statements]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert names == sorted(names)


def test_every_migration_is_safe_to_run_twice(clickhouse: Sink) -> None:
    """A process killed between a statement and its entry runs it again: every statement says IF NOT EXISTS."""
    for _, statements in migrations():
        for statement in statements:
            assert "IF NOT EXISTS" in statement
            clickhouse.client.command(statement)


def test_migrating_again_applies_nothing(clickhouse: Sink) -> None:
    """Each worker migrates at its start; only the first has something to do."""
    assert migrate(clickhouse) == []
    done = clickhouse.rows("SELECT name FROM migrations FINAL ORDER BY name")
    assert [name for (name,) in done] == [name for name, _ in migrations()]


def test_a_changed_migration_is_refused(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was applied is history: a file that says something else now is named, and nothing is applied."""
    changed = dict(migrations())
    changed["0003_events_roadway"] = [*changed["0003_events_roadway"], "SELECT 1"]
    monkeypatch.setattr(module, "migrations", lambda: iter(changed.items()))
    message = "0003_events_roadway was applied in another form; undo its change and add a new file"
    with pytest.raises(SinkError, match=message):
        migrate(clickhouse)


def test_a_new_migration_is_applied_alone(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade runs what is new, once."""
    shipped = [*migrations(), ("9999_new", ["CREATE TABLE IF NOT EXISTS later (a Int8) ENGINE = Memory"])]
    monkeypatch.setattr(module, "migrations", lambda: iter(shipped))
    try:
        assert migrate(clickhouse) == ["9999_new"]
        assert migrate(clickhouse) == []
        assert columns(clickhouse, "later") == {"a": "Int8"}
    finally:
        clickhouse.client.command("DROP TABLE IF EXISTS later")
        clickhouse.client.command("DELETE FROM migrations WHERE name = '9999_new'")


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
    """Alerts are stored as they are published."""
    found = columns(clickhouse, "alert_transitions")
    alert = contract("Alert")
    assert set(found) == {f.name for f in alert.fields}
    for f in alert.fields:
        assert ("Nullable(" in found[f.name]) == f.nullable, f.name


def test_rejects_hold_no_payload(clickhouse: Sink) -> None:
    """Where and why, never what: a refused record may be anybody's data, and its bytes are in the dead-letter topic."""
    assert set(columns(clickhouse, "rejects")) == {
        "topic", "partition", "offset", "received_at", "stage", "reason", "detail",
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
    assert error_code(caught.value.__cause__ or caught.value) == 60
    assert said == []


def test_results_come_as_frames_and_rows(clickhouse: Sink) -> None:
    """Parameters are bound by the server, never pasted into the text."""
    sql = "SELECT {text:String} AS text, 2 AS two"
    assert clickhouse.frame(sql, {"text": "a'b"}).rows() == [("a'b", 2)]
    assert clickhouse.rows(sql, {"text": "a'b"}) == [("a'b", 2)]
    assert clickhouse.frame("SELECT offset FROM rejects").is_empty()


# --- what goes wrong


@dataclass
class Scripted:
    """A client that does, one call after the other, what its script says: raise an error, or answer."""

    script: list[Exception | None]
    tokens: list[str] = field(default_factory=list)

    def insert_arrow(self, table: str, rows: pa.Table, settings: dict[str, Any]) -> None:
        self.tokens.append(settings["insert_deduplication_token"])
        assert settings["async_insert"] == 0
        if (step := self.script.pop(0)) is not None:
            raise step


def scripted(*script: Exception | None, budget_s: float = 30.0) -> tuple[Sink, Scripted, list[str]]:
    said: list[str] = []
    client = Scripted(list(script))
    return Sink(client, "http://nowhere", budget_s, said.append), client, said


_AWAY: Final[dict[str, Callable[[], Exception]]] = {
    "no connection": lambda: OperationalError("Error connection refused executing HTTP request"),
    "connection reset": lambda: ConnectionResetError("reset"),
    "time out": lambda: TimeoutError("timed out"),
    "too many queries": lambda: DatabaseError("Received ClickHouse exception, code: 202", code=202),
    "memory limit": lambda: DatabaseError("Code: 241. DB::Exception: Memory limit (total) exceeded", code=241),
    "too many parts": lambda: DatabaseError("Code: 252. DB::Exception: Too many parts", code=252),
    "proxy without a server": lambda: DatabaseError("HTTP driver received HTTP status 502, server response: Bad"),
}


@pytest.mark.parametrize("error", _AWAY.values(), ids=_AWAY.keys())
def test_what_passes_by_itself_is_tried_again_under_the_same_token(error: Callable[[], Exception]) -> None:
    """A server that is away or busy is waited for, which is told; the block keeps its name, so it is stored once."""
    sink, client, said = scripted(error(), error(), None)
    sink.insert("rejects", reject_rows(1), "a")
    assert len(said) == 2
    assert said[0] == "ClickHouse is away while inserting into rejects; trying again for up to 30 s"
    assert len(client.tokens) == 3
    assert len(set(client.tokens)) == 1


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", code=243),
        DatabaseError("Code: 60. DB::Exception: Table default.rejects does not exist", code=60),
        DatabaseError("Received ClickHouse exception, code: 516, server response: Authentication failed", code=516),
        DatabaseError("HTTP driver received HTTP status 404"),
    ],
    ids=["disk full", "no table", "wrong password", "not a ClickHouse"],
)
def test_what_does_not_pass_stops_at_once(error: Exception) -> None:
    """A full disk or a wrong password does not mend itself: one try, and nothing is taken for stored."""
    sink, client, said = scripted(error, None)
    with pytest.raises(SinkError) as caught:
        sink.insert("rejects", reject_rows(1), "a")
    assert not isinstance(caught.value, SinkAwayError)
    assert (len(client.tokens), said) == (1, [])


def test_the_budget_bounds_the_waiting() -> None:
    """After the budget the error is given to whoever stops the worker, and nothing was acknowledged."""
    sink, _, said = scripted(*(ConnectionRefusedError("refused") for _ in range(1_000)), budget_s=0.3)
    started = time.monotonic()
    with pytest.raises(SinkAwayError, match="cannot be reached while inserting into rejects"):
        sink.insert("rejects", reject_rows(1), "a")
    assert 0.2 < time.monotonic() - started < 6
    assert said


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://user:secret-word@127.0.0.1:9/city", "clickhouse://127.0.0.1:9"]
)
def test_nobody_listening_is_away(url: str) -> None:
    """A server that does not answer may answer later, so the one who waits can tell; the password is not shown."""
    with pytest.raises(SinkAwayError, match="ClickHouse is away while connecting") as caught:
        connect(url)
    assert "secret-word" not in str(caught.value)


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
        f"{folder} is already open in another process: an embedded ClickHouse belongs to one process. "
        "Stop that one, or give this one another directory"
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
