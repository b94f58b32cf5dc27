"""The real HTTP client against the gateway, with the faults of a network between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import pyarrow as pa
import pytest

from sinks.clickhouse import Sink, SinkAwayError, SinkError, connect
from tests.support.gateway import Gateway, gateway
from tests.support.proxy import FaultProxy

pytestmark = pytest.mark.integration

_TIMEOUT_S: Final = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def proxy(server: Gateway) -> Iterator[FaultProxy]:
    with FaultProxy(f"127.0.0.1:{server.port}") as between:
        yield between


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sink(proxy: FaultProxy, said: list[str]) -> Iterator[Sink]:
    """Through the proxy, with a table of numbers of which 13 is refused."""
    made = connect(f"http://{proxy.address}", retry_budget_s=60.0, on_retry=said.append, timeout_s=_TIMEOUT_S)
    made.command(
        "CREATE OR REPLACE TABLE readings (n Int64, CONSTRAINT lucky CHECK n != 13) ENGINE = MergeTree ORDER BY n "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield made
    proxy.heal()
    made.close()


def block(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def stored(sink: Sink) -> list[int]:
    return [n for (n,) in sink.rows("SELECT n FROM readings ORDER BY n")]


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def wait_for(sink: Sink) -> None:
    until = time.monotonic() + 20
    while not sink.is_waiting:
        assert time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


def test_a_cut_is_outlasted(sink: Sink, proxy: FaultProxy, said: list[str]) -> None:
    """Connections are reset and refused for a while: the insert waits and goes through once, by itself."""
    sink.insert("readings", block(1), "a")
    proxy.cut()
    timer = later(0.5, proxy.heal)
    assert sink.insert("readings", block(2), "b") == ()
    timer.join()
    assert stored(sink) == [1, 2]
    assert said[0].startswith("ClickHouse is away while inserting into readings: ")
    assert said[-1] == "ClickHouse answers again, inserting into readings"


def test_silence_is_outlasted(sink: Sink, proxy: FaultProxy) -> None:
    """A half-open connection answers nothing, for ever: the socket timeout ends the attempt, and the next one, on a new
    connection, goes through. What was under way arrives late and is the same block."""
    sink.insert("readings", block(1), "a")
    accepted = proxy.accepted
    proxy.half_open()
    timer = later(_TIMEOUT_S + 0.5, proxy.heal)
    started = time.monotonic()
    assert sink.insert("readings", block(2), "b") == ()
    timer.join()
    assert time.monotonic() - started > _TIMEOUT_S
    assert proxy.accepted > accepted
    time.sleep(0.1)
    assert stored(sink) == [1, 2]


def test_a_lost_answer_stores_nothing_twice(sink: Sink, proxy: FaultProxy, said: list[str]) -> None:
    """The insert was done, its answer was not heard: it is sent again, by the client library or by us."""
    for number in range(5):
        proxy.reset_answer(20)
        assert sink.insert("readings", block(number), str(number)) == ()
    assert proxy.resets == 5
    assert stored(sink) == list(range(5))


@pytest.mark.parametrize("after_bytes", [0, 20, 200, 5_000, 100_000])
def test_an_answer_that_breaks_off_is_asked_for_again(sink: Sink, proxy: FaultProxy, after_bytes: int) -> None:
    """Half a result is never taken for a whole one, wherever it broke, in either form of reading."""
    sql = "SELECT number FROM numbers(100000)"
    for _ in range(3):
        proxy.reset_answer(after_bytes)
        assert sink.rows(sql)[-1] == (99_999,)
        proxy.reset_answer(after_bytes)
        assert sink.frame(sql)["number"].sum() == 4_999_950_000
    assert proxy.resets == 6


def test_a_refused_row_is_told_apart_from_a_fault(sink: Sink, proxy: FaultProxy) -> None:
    """Over HTTP as in the process: the row's fault is found while answers are lost, and nothing is stored twice."""
    for first in (0, 8, 16):
        proxy.reset_answer(20)
        refused = sink.insert("readings", block(*range(first, first + 8)), str(first))
        assert [row.row for row in refused] == ([5] if first == 8 else [])
    assert stored(sink) == [n for n in range(24) if n != 13]


@pytest.mark.parametrize("fault", ["cut", "half_open"])
def test_waiting_is_given_up_at_once(sink: Sink, proxy: FaultProxy, fault: str) -> None:
    """Partitions are revoked while ClickHouse is away: whoever waits ends, within one attempt at most."""
    over = threading.Event()
    ended: list[BaseException] = []

    def insert() -> None:
        try:
            sink.until(over).insert("readings", block(1), "a")
        except SinkAwayError as error:
            ended.append(error)

    getattr(proxy, fault)()
    thread = threading.Thread(target=insert)
    thread.start()
    wait_for(sink)
    started = time.monotonic()
    over.set()
    thread.join(20)
    assert time.monotonic() - started < _TIMEOUT_S + 1.0
    assert len(ended) == 1
    assert not sink.is_waiting


def test_a_server_that_ends_is_waited_for(server: Gateway, sink: Sink, proxy: FaultProxy) -> None:
    """Killed and started again: what was answered is there, what was not is sent again."""
    sink.insert("readings", block(1), "a")
    server.kill()
    thread = threading.Thread(target=sink.insert, args=("readings", block(2), "b"))
    thread.start()
    wait_for(sink)
    server.start()
    thread.join(30)
    assert stored(sink) == [1, 2]


def test_rows_are_deleted_while_answers_are_lost(sink: Sink, proxy: FaultProxy) -> None:
    """Deleting again is safe, so it is simply sent again."""
    sink.insert("readings", block(*range(10)), "a")
    proxy.reset_answer(20)
    sink.delete("readings", "n >= {n:Int64}", {"n": 4})
    assert stored(sink) == [0, 1, 2, 3]


def test_a_session_in_the_url_is_refused(server: Gateway) -> None:
    """A session takes one query at a time; a second thread's would be an error in the middle of the night."""
    with pytest.raises(SinkError, match="must not name a session") as caught:
        connect(f"{server.url}/?session_id=mine")
    assert not isinstance(caught.value, SinkAwayError)


def test_threads_share_a_sink_over_http(sink: Sink) -> None:
    """Many at once, each with its own connection."""
    threads = [threading.Thread(target=sink.insert, args=("readings", block(n), str(n))) for n in range(100, 116)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert stored(sink) == list(range(100, 116))


def test_silence_at_the_start_is_away(proxy: FaultProxy) -> None:
    """Whoever starts can wait: nobody answers, which is not a wrong setting."""
    proxy.half_open()
    with pytest.raises(SinkAwayError):
        connect(f"http://{proxy.address}", timeout_s=_TIMEOUT_S)
