"""The gateway as clients see it: clickhouse-connect, and HTTP by hand. It runs in this process, over its engine."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import StreamFailureError

from sinks.clickhouse import Sink, SinkAwayError, SinkError, connect, migrate
from sinks.clickhouse_gateway import Gateway, engine, serve
from tests.support.gateway import ask, block, block_table, dial, post, stored


def directory(sink: Sink) -> Path:
    return Path(sink.url.removeprefix("chdb://"))


@pytest.fixture(scope="module")
def running(_engine: Sink) -> Iterator[Gateway]:
    faults: list[str] = []
    gateway = serve(directory(_engine), port=0, on_error=faults.append)
    yield gateway
    assert gateway.stop()
    assert faults == []


@pytest.fixture(scope="module")
def _over_http(running: Gateway) -> Iterator[Sink]:
    sink = connect(running.url, retry_budget_s=0.2)
    yield sink
    sink.close()


@pytest.fixture
def database(clickhouse: Sink) -> Iterator[Sink]:
    """The engine itself, beside the gateway, with all tables and `blocks`, empty."""
    with block_table(clickhouse):
        yield clickhouse


@pytest.fixture
def sink(_over_http: Sink, database: Sink) -> Sink:
    """The same over HTTP."""
    return _over_http


# --- what the sink promises, over HTTP


def test_tables_are_made_and_made_once(sink: Sink) -> None:
    """Every migration passes, and the second time there is nothing to do."""
    sink.command("DROP TABLE migrations")
    assert migrate(sink)[0] == "0001_events_sensor"
    assert migrate(sink) == []


def test_a_block_is_stored_once_under_its_names(sink: Sink, running: Gateway, database: Sink) -> None:
    """Tokens hold over connections, and between the gateway and the engine's own process: a repeat is dropped."""
    other = connect(running.url)
    try:
        for each in (sink, other, database, sink):
            each.insert("blocks", block(1, 2), "a/0:1-2")
    finally:
        other.close()
    assert stored(sink) == [1, 2]
    sink.insert("blocks", block(1, 2), "a/0:1-3")
    assert stored(database) == [1, 1, 2, 2]


def test_a_large_block_stays_one(sink: Sink) -> None:
    """A million and a half rows become one part: stored together or not at all, as the sink's settings ask for."""
    sink.command("CREATE TABLE large (a UInt64) ENGINE = MergeTree ORDER BY a")
    try:
        rows = pa.table({"a": pa.array(range(1_500_000), pa.uint64())})
        sink.insert("large", rows, "all of it")
        parts = "SELECT rows FROM system.parts WHERE table = 'large' AND active"
        assert sink.rows(parts) == [(1_500_000,)]
    finally:
        sink.command("DROP TABLE large")


def test_a_refused_block_keeps_clickhouses_own_words(sink: Sink) -> None:
    """A table that is not there is told as a server tells it, and not tried again."""
    with pytest.raises(SinkError, match=r"Code: 60\. DB::Exception: Table default\.nowhere does not exist") as caught:
        sink.insert("nowhere", block(1), "a")
    assert not isinstance(caught.value, SinkAwayError)


def test_results_come_as_frames_and_rows(sink: Sink) -> None:
    """Parameters reach the engine unharmed, whatever is in them."""
    text = "a'b\t\\N\n\\ {x} é \0"
    sql = "SELECT {text:String} AS text, {many:Array(String)} AS many, {none:Nullable(String)} AS none"
    given = {"text": text, "many": [text, ""], "none": None}
    assert sink.rows(sql, given) == [(text, [text, ""], None)]
    assert sink.frame(sql, given).rows() == [(text, [text, ""], None)]
    assert sink.frame("SELECT offset FROM blocks").is_empty()
    assert sink.rows("SELECT offset FROM blocks") == []


def test_parameters_too_long_for_an_address_arrive(sink: Sink) -> None:
    """The client then sends a form."""
    text = "é'\r\n--" * 50_000
    assert sink.rows("SELECT {text:String}", {"text": text}) == [(text,)]


# --- the rest of what the client sends


def test_every_way_of_inserting_arrives(sink: Sink) -> None:
    """Native in packed chunks, Arrow, a frame, and raw bytes in each encoding store the same rows."""
    client: Any = sink.client
    sink.command("CREATE TABLE ways (n UInt32, s Nullable(String), way LowCardinality(String)) ENGINE = Memory")
    try:
        rows = [(i, None if i % 3 == 0 else f"text {i}") for i in range(20_000)]
        numbers, texts = [n for n, _ in rows], [s for _, s in rows]
        client.insert("ways", [(*row, "rows") for row in rows], column_names=["n", "s", "way"])
        client.insert(
            "ways", [numbers, texts, ["columns"] * len(rows)], column_names=["n", "s", "way"], column_oriented=True
        )
        table = pa.table({"n": pa.array(numbers, pa.uint32()), "s": texts, "way": ["arrow"] * len(rows)})
        client.insert_arrow("ways", table)
        csv = pl.DataFrame({"n": numbers, "s": texts, "way": "raw"}).write_csv(include_header=False).encode()
        client.raw_insert("ways", ["n", "s", "way"], csv, fmt="CSV")
        packed = gzip.compress(csv.replace(b"raw", b"gzip"))
        client.raw_insert("ways", ["n", "s", "way"], packed, fmt="CSV", compression="gzip")
        found = sink.rows("SELECT way, count(), sum(n), uniqExact(s) FROM ways GROUP BY way ORDER BY way")
        same = (len(rows), sum(numbers), len({s for s in texts if s}))
        assert found == [(way, *same) for way in ("arrow", "columns", "gzip", "raw", "rows")]
    finally:
        sink.command("DROP TABLE ways")


def test_an_insert_tells_what_it_wrote(sink: Sink) -> None:
    """The client's summary has the rows, as from a server."""
    client: Any = sink.client
    summary = client.insert_arrow("blocks", block(1, 2, 3))
    assert summary.written_rows == 3


def test_a_stream_of_blocks_is_whole_or_fails(sink: Sink) -> None:
    """A result that breaks off in the middle is an error with ClickHouse's words, never a shorter result."""
    client: Any = sink.client
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as stream:
        blocks = [len(block) for block in stream]
    assert (sum(blocks), len(blocks) > 1) == (300_000, True)
    with (
        client.query_row_block_stream("SELECT throwIf(number = 1000000) FROM numbers(2000000)") as stream,
        pytest.raises(StreamFailureError, match="Code: 395"),
    ):
        assert sum(len(block) for block in stream) < 0


def test_a_result_that_breaks_off_ends_its_connection(running: Gateway) -> None:
    """Without its last chunk, so that whoever reads it neither waits for more nor takes it for all."""
    with dial(running.url) as connection, connection.makefile("rb") as answer:
        connection.sendall(post("SELECT throwIf(number = 1000000) FROM numbers(2000000)"))
        everything = answer.read()
    assert everything.startswith(b"HTTP/1.1 200")
    assert b"Code: 395. DB::Exception: " in everything
    assert not everything.endswith(b"\r\n0\r\n\r\n")


def test_commands_and_metadata_answer_as_from_a_server(sink: Sink) -> None:
    """What clients ask beside rows: pings, single values, columns without rows, statements without an answer."""
    client: Any = sink.client
    assert client.ping() is True
    assert client.command("SELECT 7") == 7
    assert client.command("SELECT 'x' WHERE 0") == client.command("SHOW TABLES LIKE 'nothing'") == ""
    assert client.query("SELECT 1 AS a, 'x' AS b LIMIT 0").column_names == ("a", "b")
    assert "blocks" in client.command("SHOW TABLES")
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    assert client.query("SELECT getSetting('max_threads')", settings={"max_threads": 3}).result_rows == [(3,)]
    assert client.query("SELECT currentDatabase()", settings={"database": "system"}).result_rows == [("system",)]


def test_settings_end_with_their_request(sink: Sink) -> None:
    """Requests share nothing but the data, on whatever connection they come."""
    client: Any = sink.client
    before = client.command("SELECT getSetting('max_block_size')")
    client.command("SET max_block_size = 17", settings={"max_threads": 1})
    client.command("SELECT 1", settings={"max_block_size": 19})
    assert client.command("SELECT getSetting('max_block_size')") == before


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELECT nope", 404, 47),
        ("SELECT * FROM nowhere", 404, 60),
        ("SELEC 1", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ("", 400, 62),
        ("SELECT throwIf(1)", 500, 395),
        ("SELECT 1 FORMAT Nope", 404, 73),
        ("SELECT 1 FORMAT DataFrame", 404, 73),
        ("INSERT INTO blocks FORMAT Native\nnonsense", 500, 33),
        ("INSERT INTO blocks FORMAT Arrow\nnonsense", 400, 117),
        ("INSERT INTO blocks FORMAT CSV\nnot,a,row\n", 400, 117),
        ("SELECT * FROM blocks INTO OUTFILE 'x'", 500, 1),
    ],
)
def test_errors_have_the_number_and_status_of_a_server(
    running: Gateway, database: Sink, sql: str, status: int, code: int
) -> None:
    """Who decides by them whether to try again decides the same as in front of a server."""
    found = ask(running.url, sql.encode())
    assert found[:2] == (status, str(code))
    assert found[2].startswith(f"Code: {code}. DB::Exception: ".encode())
    assert stored(database) == []


@pytest.mark.parametrize(
    ("query", "code"),
    [("nope=1", 115), ("max_threads=x", 27), ("a%3Bb=1", 115), ("database=nope", 81), ("decompress=1", 48)],
)
def test_what_cannot_be_applied_is_refused(running: Gateway, query: str, code: int) -> None:
    """A setting that is not understood must not be passed over."""
    assert ask(running.url, b"SELECT 1", f"/?{query}")[1] == str(code)


# --- HTTP


def test_a_body_cut_short_is_never_run(running: Gateway, database: Sink) -> None:
    """A client that dies in the middle of an insert leaves nothing, wherever its data could have been cut."""
    head = b"POST /?query=INSERT+INTO+blocks+FORMAT+CSV HTTP/1.1\r\nHost: x\r\n"
    row = b"%d\n"
    rows = b"".join(row % i for i in range(3))
    first = row % 0
    cuts = [
        head + b"Content-Length: %d\r\n\r\n" % len(rows) + first,
        head + b"Content-Length: %d\r\n\r\n" % len(rows),
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(first), first),
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(rows), rows),
    ]
    for cut in cuts:
        with dial(running.url) as connection:
            connection.sendall(cut)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1_000) == b"", "no answer, so nobody takes it for done"
    assert stored(database) == []
    with dial(running.url) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(rows) + rows)
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert stored(database) == [0, 1, 2]


def test_a_connection_is_kept_over_requests(running: Gateway) -> None:
    """Also after an error of the engine; only where the next request would begin is not known, it is closed."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=30)
    try:
        for sql, status in (("SELECT 1", 200), ("SELECT nope", 404), ("SELECT number FROM numbers(3)", 200)):
            connection.request("POST", "/", sql)
            answer = connection.getresponse()
            assert (answer.status, answer.will_close) == (status, False)
            answer.read()
        kept = connection.sock
        connection.putrequest("POST", "/")
        connection.putheader("Transfer-Encoding", "gzip")
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.will_close) == (501, True)
        assert kept is not None
    finally:
        connection.close()


def test_pings_and_other_addresses(running: Gateway) -> None:
    """Health checks answer as ClickHouse's; what is not there is said."""
    for method, address in (("GET", "/ping"), ("GET", "/"), ("HEAD", "/"), ("HEAD", "/ping")):
        assert ask(running.url, None, address, method)[::2] == (200, b"Ok.\n" if method == "GET" else b"")
    assert ask(running.url, None, "/nothing", "GET")[0] == 404
    assert ask(running.url, b"SELECT 1", "/?default_format=JSONEachRow") == (200, None, b'{"1":1}\n')
    assert ask(running.url, b"SELECT 1", "/", X_ClickHouse_Format="CSV") == (200, None, b"1\n")


def test_what_comes_by_get_only_reads(running: Gateway, database: Sink) -> None:
    """A link followed by mistake changes nothing."""
    assert ask(running.url, None, "/?query=SELECT%201", "GET") == (200, None, b"1\n")
    assert ask(running.url, None, "/?query=CREATE%20TABLE%20x%20(a%20Int8)%20ENGINE=Memory", "GET")[1] == "164"
    assert ask(running.url, None, "/?query=DROP%20TABLE%20blocks&readonly=0", "GET")[1] == "164"
    assert stored(database) == []


def test_pages_of_other_sites_are_not_answered(running: Gateway) -> None:
    """A browser on this machine would send a page's requests to loopback, too."""
    assert ask(running.url, b"SELECT 1", Origin="http://elsewhere.example")[1] == "497"
    assert ask(running.url, b"SELECT 1", Origin=running.url)[0] == 200


def test_a_query_that_is_not_finished_holds_up_no_other(running: Gateway, sink: Sink) -> None:
    """One client that takes its rows slowly, or not at all, leaves the rest as fast as they were."""
    with dial(running.url) as connection:
        connection.sendall(post("SELECT number FROM system.numbers"))
        assert connection.recv(12) == b"HTTP/1.1 200"
        sink.insert("blocks", block(1), "a")
        assert stored(sink) == [1]
        assert connection.recv(1) != b"", "it is still being answered"


def test_too_many_at_once_are_told_to_come_again(database: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what the engine takes the number is one that clients wait for."""
    monkeypatch.setattr(engine, "MOST_AT_ONCE", 1)
    gateway = serve(directory(database), port=0)
    with dial(gateway.url) as connection:
        connection.sendall(post("SELECT number FROM system.numbers"))
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert ask(gateway.url, b"SELECT 1")[:2] == (500, "202")
    assert gateway.stop()


# --- its life


def test_only_this_machine_may_write(database: Sink) -> None:
    """It asks for no password: whoever reaches it can write, so nobody else may reach it."""
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match=f"listens on this machine only, not on {host}"):
            serve(directory(database), host=host, port=0)
    for host in ("localhost", "127.0.0.2"):
        assert serve(directory(database), host=host, port=0).stop()


def test_an_address_that_cannot_be_had_is_named(running: Gateway, database: Sink) -> None:
    """A port that is taken, a host that is not ours, a path that the engine would cut: told, with what to do."""
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(SinkError, match=f"127.0.0.1:{port} is taken by another process; choose another --port"):
        serve(directory(database), port=port)
    with pytest.raises(SinkError, match=r"the host nowhere\.invalid is not an address"):
        serve(directory(database), host="nowhere.invalid", port=0)
    with pytest.raises(SinkError, match=r"must not contain \? or #"):
        serve(directory(database) / "a?b", port=0)


def test_a_stop_lets_statements_finish_and_cancels_what_does_not(database: Sink) -> None:
    """Who waits is answered: with the result, or that it was cancelled. Afterwards nobody answers."""
    gateway = serve(directory(database), port=0)
    found: list[tuple[int, str | None, bytes]] = []
    endless = b"SELECT sum(number) FROM system.numbers"
    asking = threading.Thread(target=lambda: found.append(ask(gateway.url, endless)))
    asking.start()
    while not database.rows("SELECT 1 FROM system.processes WHERE query LIKE 'SELECT sum(number)%'"):
        time.sleep(0.01)
    assert gateway.stop(grace_s=0.05)
    asking.join()
    assert [answer[:2] for answer in found] == [(500, "394")]
    with pytest.raises(ConnectionRefusedError):
        ask(gateway.url, b"SELECT 1")


def test_a_stopping_gateway_begins_nothing(database: Sink) -> None:
    """What arrives on a connection that was kept is turned away, and its client can go elsewhere."""
    gateway = serve(directory(database), port=0)
    with dial(gateway.url) as stalled, dial(gateway.url) as kept:
        stalled.sendall(post("SELECT number FROM system.numbers"))
        assert stalled.recv(12) == b"HTTP/1.1 200"
        kept.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"
        kept.recv(1_000)
        stopping = threading.Thread(target=gateway.stop, args=(0.5,))
        stopping.start()
        while not gateway.stopping:
            time.sleep(0.01)
        kept.sendall(post("INSERT INTO blocks VALUES (1)"))
        assert kept.recv(12) == b"HTTP/1.1 503"
        stalled.close()
        stopping.join()
    assert stored(database) == []
