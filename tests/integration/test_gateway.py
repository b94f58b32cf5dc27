"""`vigie gateway` as people run it: several processes share one embedded ClickHouse, and any of them may die."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from processors.territory import Territory
from schemas.contracts import DOMAINS
from sinks.clickhouse import SinkError, connect, migrate, migrations
from streams.simulation.city import simulate
from tests.support.gateway import Gateway, GatewayError, ask, block, block_table, dial, gateway, post, stored
from tests.support.pipeline import ROOT, Command, broker_in_process, failed, rows, send, succeeded, vigie
from tests.support.threads import niceness

pytestmark = pytest.mark.integration

_BLOCK: Final = 1_000


# --- the command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    """One line on standard output, once it answers; then a clean end with exit code 0."""
    with Command("gateway", "--data-dir", tmp_path / "a" / "b", "--port", 0, folder=tmp_path) as command:
        command.wait_for_text("listening on ")
        url = command.text.removeprefix("listening on ").strip()
        assert ask(url, b"SELECT 1") == (200, None, b"1\n")
        command.interrupt(number)
        done = succeeded(command.wait(30))
    assert (done.out, done.err) == (f"listening on {url}\n", "")


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    """A directory or port in use is exit code 1; a way to let others write is wrong usage, exit code 2."""
    with gateway(tmp_path) as running:
        told = failed(vigie("gateway", "--data-dir", running.data, "--port", 0, folder=tmp_path / "second"))
        assert f"{running.data} is already open in another process: " in told
        told = failed(vigie("gateway", "--data-dir", tmp_path / "x", "--port", running.port, folder=tmp_path / "port"))
        assert f"127.0.0.1:{running.port} is taken by another process; choose another --port" in told
        with pytest.raises(GatewayError, match="is already running"):
            running.start()
    open_to_all = ("gateway", "--data-dir", tmp_path / "y", "--host", "0.0.0.0", "--port", 0)
    assert "listens on this machine only" in failed(vigie(*open_to_all, folder=tmp_path / "all"), code=2)
    assert not (tmp_path / "y").exists()
    failed(vigie("gateway", folder=tmp_path / "nothing"), "--data-dir", code=2)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own but on Linux")
def test_merges_let_others_go_first(tmp_path: Path) -> None:
    """Nobody waits for them: they come behind what is asked for."""
    with gateway(tmp_path) as running:
        sink = connect(running.url)
        with block_table(sink):
            sink.insert("blocks", block(1, 2), "a/0:1-2")
            assert running.pid is not None
            nice = niceness(running.pid)["MergeMutate"]
        assert nice == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)}


def test_readers_may_come_from_elsewhere(tmp_path: Path) -> None:
    """Read-only, it may listen on every address: what was written before can be read, and nothing be written."""
    with gateway(tmp_path) as running:
        sink = connect(running.url)
        sink.command("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
        sink.command("INSERT INTO t VALUES (7)")
        running.stop()
    with gateway(tmp_path, options=["--read-only", "--host", "0.0.0.0"]) as running:
        assert ask(running.url, b"SELECT a FROM t") == (200, None, b"7\n")
        assert ask(running.url, b"INSERT INTO t VALUES (8)")[1] == "164"


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever cannot wait for a statement says so by asking again."""
    with gateway(tmp_path) as running, dial(running.url) as stalled:
        stalled.sendall(post("SELECT number FROM system.numbers"))
        assert stalled.recv(12) == b"HTTP/1.1 200"
        pid = running.pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 5
        while running.answers():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert running.pid == pid, "it waits for the statement"
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 5
        while running.pid is not None:
            assert time.monotonic() < until
            time.sleep(0.02)


# --- one database, several processes


def test_an_empty_directory_becomes_the_database(tmp_path: Path) -> None:
    """Every table is made over HTTP, and the embedded engine finds them when the gateway has ended."""
    with gateway(tmp_path) as running:
        sink = connect(running.url)
        assert migrate(sink) == [name for name, _ in migrations()]
        assert migrate(sink) == []
        running.stop()
    (found,) = rows(running.data, "SELECT count() FROM system.tables WHERE database = 'default' AND name = 'windows'")
    assert found == [(1,)]


_WRITER: Final = """
import sys
from sinks.clickhouse import connect
from tests.support.gateway import block
sink = connect(sys.argv[1])
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    sink.insert("blocks", block(*range(i * 1000, i * 1000 + 1000)), f"block {i}")
    assert sink.rows("SELECT 1") == [(1,)]
"""


def test_several_processes_write_at_once_and_nothing_twice(tmp_path: Path) -> None:
    """Three processes, each with blocks that another sends too: every row is there, once."""
    with gateway(tmp_path) as running:
        sink = connect(running.url)
        with block_table(sink):
            spans = ((0, 30), (15, 45), (0, 45))
            writers = [
                subprocess.Popen([sys.executable, "-c", _WRITER, running.url, str(a), str(b)], cwd=ROOT)
                for a, b in spans
            ]
            try:
                assert [writer.wait(120) for writer in writers] == [0, 0, 0]
            finally:
                for writer in writers:
                    writer.kill()
                    writer.wait()
            assert stored(sink) == list(range(45 * _BLOCK))


def test_what_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    """SIGKILL again and again under inserts: an answered block is there after the next start, whole.

    A block without an answer is there whole or not at all, and sending all again stores each once.
    """
    with gateway(tmp_path) as running:
        connect(running.url).command(
            "CREATE TABLE blocks (offset Int64) ENGINE = MergeTree ORDER BY offset "
            "SETTINGS non_replicated_deduplication_window = 1000"
        )
        answered: set[int] = set()
        for life in range(4):
            tried = insert_until_killed(running, life * 100, answered)
            running.restart()
            found = stored(connect(running.url))
            whole = {offset // _BLOCK for offset in found}
            assert len(found) == len(whole) * _BLOCK, "no block is there in part"
            assert answered <= whole, "what was answered is there"
            assert len(whole) <= len(answered) + life + 1, "at most the block under way is there without an answer"
            assert tried
        sink = connect(running.url)
        for number in sorted(answered | whole):
            sink.insert("blocks", block(*range(number * _BLOCK, (number + 1) * _BLOCK)), f"block {number}")
        assert stored(sink) == sorted(found)


def insert_until_killed(running: Gateway, first: int, answered: set[int]) -> int:
    """Insert blocks one after the other, kill the gateway among them; returns how many were answered."""
    sink = connect(running.url, retry_budget_s=0.0)
    enough = threading.Event()

    def insert() -> None:
        for number in range(first, first + 100):
            try:
                sink.insert("blocks", block(*range(number * _BLOCK, (number + 1) * _BLOCK)), f"block {number}")
            except SinkError:
                return
            answered.add(number)
            if number >= first + 3:
                enough.set()

    inserting = threading.Thread(target=insert)
    inserting.start()
    assert enough.wait(60)
    running.kill()
    inserting.join()
    return sum(number >= first for number in answered)


def test_a_hundred_megabytes_are_one_insert(tmp_path: Path) -> None:
    """A large body costs in proportion to its size, in either framing, and becomes one block."""
    numbers = 13_000_000
    with gateway(tmp_path) as running:
        sink: Any = connect(running.url)
        sink.command("CREATE TABLE large (a UInt64) ENGINE = MergeTree ORDER BY tuple()")
        body = bytes(numbers * 8)
        address = "/?query=INSERT+INTO+large+FORMAT+RowBinary&" + "&".join(
            f"{name}={1 << 40}"
            for name in ("max_insert_block_size", "min_insert_block_size_rows", "min_insert_block_size_bytes")
        )
        assert ask(running.url, body, address)[0] == 200
        pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", address, pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()
        parts = "SELECT count() FROM system.parts WHERE table = 'large' AND active"
        assert sink.rows(f"SELECT count(), ({parts}) FROM large") == [(2 * numbers, 2)]


# --- the whole worker


_COUNTS: Final = (
    *(f"SELECT count(), uniqExact(topic, partition, offset) FROM events_{domain}" for domain in DOMAINS),
    "SELECT reason, count() FROM rejects GROUP BY reason ORDER BY reason",
    "SELECT * FROM windows ORDER BY ALL",
)


def test_a_worker_stores_the_same_over_http(synthetic_city: Territory, synthetic_folder: Path, tmp_path: Path) -> None:
    """The same records give the same events, rejects and windows, with the engine in the worker or behind HTTP."""
    now = datetime.now(UTC)
    city = simulate(synthetic_city, seed=3, start=now - timedelta(days=1), end=now, events=8_000, wall_now=lambda: now)
    records = list(city.records())
    settings = {"territories": synthetic_folder, "log_batches": "false"}

    def work(url: str, folder: Path) -> None:
        with broker_in_process() as bootstrap:
            send(records, bootstrap)
            ours = {**settings, "kafka_bootstrap": bootstrap, "clickhouse_url": url}
            succeeded(vigie("worker", "--until-caught-up", folder=folder, settings=ours))

    embedded = tmp_path / "embedded"
    work(f"chdb://{embedded}", tmp_path / "first")
    with gateway(tmp_path / "shared") as running:
        work(running.url, tmp_path / "second")
        sink = connect(running.url)
        over_http = [sink.rows(sql) for sql in _COUNTS]
        assert running.pid is not None
        running.stop()
    assert over_http == rows(embedded, *_COUNTS) == rows(running.data, *_COUNTS)
    assert sum(count for ((count, _),) in over_http[: len(DOMAINS)]) > 7_000
