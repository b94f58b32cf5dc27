"""The read-only gateway: everything inside the database may be looked at, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks.clickhouse import Sink, connect
from sinks.clickhouse_gateway import Gateway, serve
from tests.support.gateway import ask, block, block_table, stored


@pytest.fixture(scope="module")
def read_only(_engine: Sink) -> Iterator[Gateway]:
    with block_table(_engine):
        gateway = serve(Path(_engine.url.removeprefix("chdb://")), port=0, read_only=True)
        yield gateway
        assert gateway.stop()


def test_a_reader_reads_through_the_same_client(read_only: Gateway, clickhouse: Sink) -> None:
    """Rows, frames and streams come; writing is refused under ClickHouse's number for it."""
    clickhouse.insert("blocks", block(1, 2), "a")
    sink = connect(read_only.url, retry_budget_s=0.2)
    try:
        assert stored(sink) == [1, 2]
        assert sink.frame("SELECT offset FROM blocks ORDER BY offset").rows() == [(1,), (2,)]
        client: Any = sink.client
        for statement in ("TRUNCATE TABLE blocks", "INSERT INTO blocks SELECT * FROM blocks"):
            with pytest.raises(DatabaseError) as caught:
                client.command(statement)
            assert caught.value.code == 164
    finally:
        sink.close()
    assert stored(clickhouse) == [1, 2]


_ALLOWED: Final = (
    "SELECT 1",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH 1 AS x SELECT x FROM numbers(3)",
    "SHOW TABLES",
    "DESCRIBE TABLE blocks",
    "EXISTS blocks",
    "EXPLAIN SELECT 1",
    "SELECT 'é; file(''x'') INTO OUTFILE' FORMAT JSONCompact",
)
_DENIED: Final = (
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "CREATE TEMPORARY TABLE x (a Int8)",
    "KILL QUERY WHERE 1",
    "SYSTEM FLUSH LOGS",
    "WITH x AS (SELECT 1) INSERT INTO blocks SELECT * FROM blocks",
    "SELECT file('{path}')",
    "SELECT `f\\x69le`('{path}')",
    "SELECT {f:Identifier}('{path}')",
    "SELECT arrayMap({f:Identifier}, ['{path}'])",
    "SELECT arrayMap(file, ['{path}'])",
    "SELECT arrayMap(x -> `file`(x), ['{path}'])",
    "SELECT * APPLY file FROM (SELECT '{path}')",
    "SELECT COLUMNS('a') APPLY(`file`) FROM (SELECT '{path}' AS a)",
    "SELECT 1 WHERE 'x' IN file('{path}')",
    "SELECT * FROM file('{path}', 'LineAsString')",
    "DESCRIBE TABLE file('{path}', 'LineAsString')",
    "EXPLAIN SELECT * FROM file('{path}', 'LineAsString')",
    "DESCRIBE TABLE url('http://127.0.0.1:9/', 'CSV')",
    "SELECT * FROM s3('http://127.0.0.1:9/a/b', 'CSV')",
    "SELECT * FROM executable('x', 'TSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:9', 'system.one')",
    "SELECT * FROM Python(ask)",
    "SELECT addressToLine(toUInt64(1))",
    "SELECT aiGenerate('x')",
    "SELECT * FROM '{path}'",
    "SELECT 1 INTO OUTFILE '{path}.out'",
    "INSERT INTO FUNCTION file('{path}.out') SELECT 1",
    "SELECT 1; SELECT 2",
)


@pytest.mark.parametrize("sql", _ALLOWED)
def test_a_reader_may_look_at_everything_inside(read_only: Gateway, sql: str) -> None:
    """Whatever only reads the database is run."""
    assert ask(read_only.url, sql.encode())[0] == 200


@pytest.mark.parametrize("sql", _DENIED)
def test_a_reader_reaches_nothing_outside(read_only: Gateway, tmp_path: Path, sql: str) -> None:
    """Neither files nor addresses nor settings nor memory of this process: nothing of it is answered or written."""
    file = tmp_path / "secret"
    file.write_text("the secret", "utf-8")
    status, code, answer = ask(read_only.url, sql.replace("{path}", str(file)).encode(), "/?param_f=file")
    assert status >= 400
    assert code is not None
    assert b"the secret" not in answer
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_reader_cannot_leave_its_limits(read_only: Gateway) -> None:
    """Limits may be lowered by a request and not raised; other settings only where they can do no harm."""
    limits = "SELECT getSetting('max_execution_time'), getSetting('max_result_rows'), getSetting('readonly')"
    raised = "/?max_execution_time=0&max_result_rows=99999999999&readonly=0&max_threads=1"
    assert ask(read_only.url, limits.encode(), raised) == (200, None, b"60\t1000000\t1\n")
    assert ask(read_only.url, limits.encode(), "/?max_execution_time=5&result_overflow_mode=break") == (
        200,
        None,
        b"5\t1000000\t1\n",
    )
    assert ask(read_only.url, b"SELECT number FROM numbers(2000000) FORMAT JSON")[1] == "396"
    for harmful in ("additional_table_filters={}", "max_memory_usage_for_user=0", "output_format_schema=/x"):
        assert ask(read_only.url, b"SELECT 1", f"/?{harmful}")[1] == "164"
    assert ask(read_only.url, b"SELECT 1", "/?format_template_resultset=/etc/hostname")[1] == "164"
