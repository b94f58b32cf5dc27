"""Waiting for ClickHouse: what is tried again, for how long, under which token, and how the waiting is ended."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from sinks.clickhouse import Sink, SinkAwayError, SinkError, connect

_BLOCK: Final = pa.table({"n": [1]})


@dataclass
class Scripted:
    """A client that does, one call after the other, what its script says: raise an error, or answer. At the end of the
    script it begins with the last step again."""

    script: list[Exception | None]
    tokens: list[str] = field(default_factory=list)
    closed: int = 0

    def insert_arrow(self, table: str, rows: pa.Table, settings: dict[str, Any]) -> None:
        self.tokens.append(settings["insert_deduplication_token"])
        assert settings["async_insert"] == 0
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if step is not None:
            raise step

    def close_connections(self) -> None:
        self.closed += 1


def scripted(*script: Exception | None, budget_s: float = 30.0) -> tuple[Sink, Scripted, list[str]]:
    said: list[str] = []
    client = Scripted(list(script))
    return Sink(client, "http://nowhere", budget_s, said.append), client, said


class HurriedEvent(threading.Event):
    """An event that is waited for in no time: the clock that tenacity reads goes on instead."""

    now_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0.0
        return self.is_set()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> HurriedEvent:
    """For hours of waiting in a test: give it to `until`."""
    event = HurriedEvent()
    monkeypatch.setattr("tenacity.time", SimpleNamespace(monotonic=lambda: event.now_s))
    return event


# --- what is tried again

_AWAY: Final[dict[str, Callable[[], Exception]]] = {
    "no connection": lambda: OperationalError("Error connection refused executing HTTP request"),
    "connection reset": lambda: ConnectionResetError("reset"),
    "time out": lambda: TimeoutError("timed out"),
    "no route": lambda: OSError(errno.EHOSTUNREACH, "No route to host"),
    "too many queries": lambda: DatabaseError("Received ClickHouse exception, code: 202", code=202),
    "memory limit": lambda: DatabaseError("Code: 241. DB::Exception: Memory limit (total) exceeded", code=241),
    "too many parts": lambda: DatabaseError("Code: 252. DB::Exception: Too many parts", code=252),
    "still running": lambda: DatabaseError("Code: 216. DB::Exception: Query with id = x is already running", code=216),
    "proxy without a server": lambda: DatabaseError("HTTP driver received HTTP status 502, server response: Bad"),
}


@pytest.mark.parametrize("error", _AWAY.values(), ids=_AWAY.keys())
def test_what_passes_by_itself_is_tried_again_under_the_same_token(
    error: Callable[[], Exception], hurried: HurriedEvent
) -> None:
    """A server that is away or busy is waited for; the block keeps its name, so it is stored once, and each attempt
    gets a new connection."""
    sink, client, _ = scripted(error(), error(), None)
    assert sink.until(hurried).insert("readings", _BLOCK, "a") == ()
    assert len(client.tokens) == 3
    assert len(set(client.tokens)) == 1
    assert client.closed == 2


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (DatabaseError("Code: 243. DB::Exception: Cannot reserve 1 MiB", code=243), "free some space and start again"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space and start again"),
        (DatabaseError("Code: 60. DB::Exception: Table does not exist", code=60), "run `vigie init`"),
        (
            DatabaseError("code: 516, Authentication failed", code=516),
            "check user and password in VIGIE_CLICKHOUSE_URL",
        ),
        (DatabaseError("HTTP driver received HTTP status 404"), "HTTP status 404"),
        (DatabaseError("Code: 98765. DB::Exception: of a later version", code=98765), "of a later version"),
    ],
    ids=["disk full", "file system full", "no table", "wrong password", "not a ClickHouse", "unknown"],
)
def test_what_does_not_pass_stops_at_once(error: Exception, advice: str) -> None:
    """A full disk or a wrong password does not mend itself: one try, what to do, and nothing is taken for stored."""
    sink, client, said = scripted(error, None)
    with pytest.raises(SinkError, match="ClickHouse refused inserting into readings: ") as caught:
        sink.insert("readings", _BLOCK, "a")
    assert str(caught.value).endswith(advice)
    assert not isinstance(caught.value, SinkAwayError)
    assert (len(client.tokens), said) == (1, [])


def test_a_bug_of_ours_is_not_blamed_on_clickhouse() -> None:
    """An error that is not of the database or the network goes its own way, untouched."""
    sink, client, _ = scripted(ValueError("ours"))
    with pytest.raises(ValueError, match="ours"):
        sink.insert("readings", _BLOCK, "a")
    assert len(client.tokens) == 1


# --- for how long, and what is said


def test_the_budget_bounds_the_waiting(hurried: HurriedEvent) -> None:
    """After the budget the error is given to whoever stops the worker, and nothing was acknowledged."""
    sink, client, _ = scripted(ConnectionRefusedError("refused"), budget_s=3_600.0)
    with pytest.raises(SinkAwayError, match="ClickHouse is away while inserting into readings: refused"):
        sink.until(hurried).insert("readings", _BLOCK, "a")
    assert 3_600 <= hurried.now_s < 3_610
    assert len(client.tokens) > 700, "every five seconds at least"


def test_an_hour_of_waiting_is_told_without_a_flood(hurried: HurriedEvent) -> None:
    """The first failure is told at once, the next ones ever more seldom, and in the end that ClickHouse answers."""
    away = [ConnectionRefusedError("refused") for _ in range(1_200)]
    sink, _, said = scripted(*away, None, budget_s=3_600.0)
    sink.until(hurried).insert("readings", _BLOCK, "a")
    assert hurried.now_s > 1_800
    start = "ClickHouse is away while inserting into readings: refused; trying again, for"
    assert said[0] == f"{start} 0 s of up to 3600 s"
    assert said[-1] == "ClickHouse answers again, inserting into readings"
    told_s = [int(line.removeprefix(start).split()[0]) for line in said[:-1]]
    gaps_s = [later - earlier for earlier, later in pairwise(told_s)]
    assert min(gaps_s) >= 9
    assert max(gaps_s) <= 66
    assert gaps_s[0] <= 15


def test_what_works_at_once_is_not_talked_about() -> None:
    """A word for every insert would hide those that matter."""
    sink, _, said = scripted(None)
    sink.insert("readings", _BLOCK, "a")
    assert said == []


# --- until


def test_nothing_is_begun_once_it_is_given_up() -> None:
    """Partitions are another's: neither insert nor query is sent any more; the worker's other work goes on."""
    sink, client, _ = scripted(None)
    over = threading.Event()
    over.set()
    view = sink.until(over)
    for call in (
        lambda: view.insert("readings", _BLOCK, "a"),
        lambda: view.rows("SELECT 1"),
        lambda: view.frame("SELECT 1"),
        lambda: view.command("SELECT 1"),
        lambda: view.delete("readings", "1"),
    ):
        with pytest.raises(SinkAwayError, match="told to wait for ClickHouse no longer"):
            call()
    assert client.tokens == []
    assert sink.insert("readings", _BLOCK, "a") == ()


def test_whoever_waits_is_woken() -> None:
    """A drain must not wait for the pause between two attempts, however long the budget is."""
    sink, client, said = scripted(ConnectionRefusedError("refused"), budget_s=3_600.0)
    over = threading.Event()
    ended: list[float] = []

    def insert() -> None:
        with pytest.raises(SinkAwayError):
            sink.until(over).insert("readings", _BLOCK, "a")
        ended.append(time.monotonic())

    thread = threading.Thread(target=insert)
    thread.start()
    while len(client.tokens) < 4:
        time.sleep(0.001)
    before, tries = time.monotonic(), len(client.tokens)
    over.set()
    thread.join()
    assert ended[0] - before < 0.5
    assert len(client.tokens) <= tries + 1, "at most the attempt that was on its way"
    assert said
    assert "answers again" not in said[-1]


# --- is_waiting


def test_waiting_is_seen_from_other_threads_and_views() -> None:
    """The watchdog asks the worker's sink; the call that waits may have been made on a view of it."""
    sink, client, _ = scripted(ConnectionRefusedError("refused"), budget_s=3_600.0)
    assert not sink.is_waiting
    view = sink.until(threading.Event())
    thread = threading.Thread(target=view.insert, args=("readings", _BLOCK, "a"))
    thread.start()
    while len(client.tokens) < 2:
        time.sleep(0.001)
    assert sink.is_waiting
    assert view.is_waiting
    client.script.append(None)
    client.script.pop(0)
    thread.join()
    assert not sink.is_waiting


def test_waiting_ends_with_the_last_that_waits() -> None:
    """Two calls wait; that one of them gives up does not mean that ClickHouse is back."""
    sink, client, _ = scripted(ConnectionRefusedError("refused"), budget_s=3_600.0)
    events = [threading.Event(), threading.Event()]

    def insert(event: threading.Event) -> None:
        with pytest.raises(SinkAwayError):
            sink.until(event).insert("readings", _BLOCK, "a")

    threads = [threading.Thread(target=insert, args=(event,)) for event in events]
    for thread in threads:
        thread.start()
    while len(sink.waiting) < 2:
        time.sleep(0.001)
    for event, thread, expected in zip(events, threads, (True, False), strict=True):
        event.set()
        thread.join()
        assert sink.is_waiting is expected
    assert client.tokens


@pytest.mark.parametrize("end", [SinkAwayError, SinkError, ValueError])
def test_waiting_ends_however_it_ends(end: type[Exception]) -> None:
    """Budget spent, refused after all, or a bug: an ended call must not excuse a worker that is stuck for ever."""
    last = {SinkError: DatabaseError("x", code=60), ValueError: ValueError("ours")}.get(end, TimeoutError("t"))
    sink, _, _ = scripted(TimeoutError("t"), last, budget_s=0.2)
    with pytest.raises(end):
        sink.insert("readings", _BLOCK, "a")
    assert not sink.is_waiting


def test_a_copy_with_another_budget_waits_with_the_original() -> None:
    """Whoever changes a setting of the sink has not made another sink."""
    sink, _, _ = scripted(None)
    assert replace(sink, retry_budget_s=1.0).waiting is sink.waiting


# --- at the start


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://user:secret-word@127.0.0.1:9/city", "clickhouse://127.0.0.1:9"]
)
def test_nobody_listening_is_away(url: str) -> None:
    """A server that does not answer may answer later, so the one who waits can tell; the password is not shown."""
    with pytest.raises(SinkAwayError, match="ClickHouse is away while connecting") as caught:
        connect(url)
    assert "secret-word" not in str(caught.value)
