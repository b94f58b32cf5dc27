"""ClickHouse through clickhouse-connect: the same client, DDL and inserts for `chdb:///path` and `https?://`.

One insert is one block (`async_insert=0`) and carries a token that names everything in it, so a block sent twice is
stored once. Inserts are split by the table's date partition, because one that spans two is not atomic.

Every attempt ends by itself (socket timeouts), every retry begins on a new connection, and what is retried, refused row
by row or passed on as an error is decided in `sinks/errors.py`. Several threads may use one sink.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random_exponential,
)

from sinks.embedded import OPTIONS, EmbeddedClient
from sinks.errors import Treatment, clickhouse_number, hint, known, treatment

_WHOLE: Final = 1 << 40
_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "max_partitions_per_insert_block": 0,
    # Collapsing equal keys inside the block costs a third of the insert, and there are none.
    "optimize_on_insert": 0,
    # Past about a million rows an insert would become several blocks, which are not stored together or not at all.
    "max_insert_block_size": _WHOLE,
    "min_insert_block_size_rows": _WHOLE,
    "min_insert_block_size_bytes": _WHOLE,
    # A null where the column takes none is refused, and not stored as '' or 0.
    "input_format_null_as_default": 0,
}

#: More refused rows in one block are no accident of the rows. Finding that many costs some 2 000 small inserts.
MOST_REFUSED: Final = 1_000
#: A block of at least so many rows that are all refused: the table is at fault. Fewer can all be bad by chance.
ALL_REFUSED: Final = 10

# Whatever it logs it raises as well: where nobody has set up a log, it would be said twice.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

#: Also the time for sending a request on a new connection.
_CONNECT_TIMEOUT_S: Final = 10
#: After the first word about a retry the next ones come later and later, at most this far apart.
_MOST_SILENT_S: Final = 60.0
_FIRST_SILENT_S: Final = 10.0


class SinkError(RuntimeError):
    """ClickHouse did not take the rows; the message says what to do. Nothing was acknowledged."""


class SinkAwayError(SinkError):
    """ClickHouse could not be reached, or asked to be left alone for now, for as long as it was waited for."""


class _RowsRefusedError(SinkError):
    """Something in the rows was refused. The message holds no value of theirs."""


@dataclass(frozen=True)
class Refused:
    """A row (its index in the block) that ClickHouse refuses. The message names rule and column, never a value."""

    row: int
    message: str


@dataclass(frozen=True)
class Sink:
    """A connection and how long a call may be tried again, in seconds, before the process must stop."""

    client: Any
    url: str
    retry_budget_s: float = 60.0
    on_retry: Callable[[str], None] = lambda message: None
    given_up: Event = field(default_factory=Event, compare=False, repr=False)
    waiting: set[object] = field(default_factory=set, compare=False, repr=False)

    def until(self, event: Event) -> Sink:
        """The same sink for work that is given up once the event is set: no attempt begins then, and whoever waits
        for the next one wakes at once, with SinkAwayError. An attempt on its way ends by its socket timeouts."""
        return replace(self, given_up=event)

    @property
    def is_waiting(self) -> bool:
        """Whether a call, in whatever thread and view, has failed and is being tried again now."""
        return bool(self.waiting)

    def insert(self, table: str, rows: pa.Table, names: str) -> tuple[Refused, ...]:
        """Insert one block. `names` says what is in it (topic, offsets); equal names mean an equal block.

        Returns the rows that ClickHouse refuses for what is in them, in order; all others are stored. Whoever cannot do
        without a row takes `insert_whole`. Raises SinkError; nothing of the block may then be taken for stored.
        """
        refused: list[Refused] = []
        parts = [(0, rows.num_rows)] if rows.num_rows else []
        while parts:
            first, after = parts.pop()
            try:
                self._insert(table, rows, names, first, after)
            except _RowsRefusedError as error:
                if after - first > 1:
                    middle = (first + after) // 2
                    parts += [(middle, after), (first, middle)]
                    continue
                refused.append(Refused(first, str(error)))
                if len(refused) > MOST_REFUSED or len(refused) == rows.num_rows >= ALL_REFUSED:
                    raise SinkError(
                        f"ClickHouse refused {len(refused)} of {rows.num_rows} rows for {table}, too many to blame the "
                        f"rows: compare the table with sinks/ddl. Of row {first} it says: {error}"
                    ) from None
        return tuple(refused)

    def insert_whole(self, table: str, rows: pa.Table, names: str) -> None:
        """Insert one block of which no row can be spared (totals, snapshots). Raises SinkError, also for its rows."""
        if rows.num_rows:
            try:
                self._insert(table, rows, names, 0, rows.num_rows)
            except _RowsRefusedError as error:
                raise SinkError(
                    f"ClickHouse refused inserting into {table}: {error}; compare it with sinks/ddl"
                ) from None

    def _insert(self, table: str, rows: pa.Table, names: str, first: int, after: int) -> None:
        # Parts have tokens of their own: those that went through stay stored when the block is sent again, and a
        # shorter block under the same names is another one.
        token = hashlib.sha256(f"{table}|{names}|rows {first}-{after - 1} of {rows.num_rows}".encode()).hexdigest()
        settings = {**_SETTINGS, "insert_deduplication_token": token}
        part = rows.slice(first, after - first)
        self._tried(f"inserting into {table}", lambda: self.client.insert_arrow(table, part, settings=settings))

    def delete(self, table: str, where_sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Delete rows, and return when no query sees them any more. Raises SinkError; deleting again is safe.

        The table keeps the tokens of deleted blocks: to be stored again, rows need other `names`.
        """
        # Waiting is done here, not by the server: a DELETE that takes longer than the socket timeout would be taken for
        # a lost one and be sent again and again, each time with the same work to do.
        sql, doing = f"DELETE FROM {table} WHERE {where_sql}", f"deleting from {table}"
        settings = {"lightweight_deletes_sync": 0, "mutations_sync": 0}
        self._tried(doing, lambda: self.client.command(sql, parameters=dict(parameters or {}), settings=settings))
        begun = "SELECT mutation_id FROM system.mutations WHERE database = currentDatabase() AND table = {t:String}"
        ids = [name for (name,) in self.rows(f"{begun} AND NOT is_done AND NOT is_killed", {"t": table})]
        left = f"{begun} AND NOT is_done AND NOT is_killed AND mutation_id IN {{ids:Array(String)}}"
        polling = Retrying(
            retry=retry_if_result(bool),
            stop=stop_after_delay(self.retry_budget_s) | stop_when_event_set(self.given_up),
            wait=wait_exponential(multiplier=0.01, max=1.0),
            sleep=sleep_using_event(self.given_up),
        )
        try:
            polling(lambda: ids and self.rows(left, {"t": table, "ids": ids}))
        except RetryError:
            raise SinkAwayError(f"ClickHouse has not finished {doing}; see system.mutations there") from None

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that is safe to run twice (DDL with IF NOT EXISTS). Raises SinkError."""
        doing = f"running {' '.join(sql.split()[:5])}"
        self._tried(doing, lambda: self.client.command(sql, parameters=dict(parameters or {})))

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """A query's result. An empty result has no columns."""
        given = dict(parameters or {})
        found: Any = pl.from_arrow(self._tried("reading", lambda: self.client.query_arrow(sql, parameters=given)))
        return found if isinstance(found, pl.DataFrame) else pl.DataFrame()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """A query's result as tuples of Python values."""
        return [tuple(row) for row in self._query(sql, parameters).result_rows]

    def named_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A query's result as rows of Python values by the name of their column."""
        answer = self._query(sql, parameters)
        return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]

    def _query(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        return self._tried("reading", lambda: self.client.query(sql, parameters=dict(parameters or {})))

    def _tried(self, doing: str, call: Callable[[], Any]) -> Any:
        this, say_at_s = object(), 0.0

        def attempt() -> Any:
            if self.given_up.is_set():
                raise SinkAwayError(f"gave up {doing}: told to wait for ClickHouse no longer")
            return _translated(doing, call)

        def failed(state: RetryCallState) -> None:
            nonlocal say_at_s
            self.waiting.add(this)
            # Whatever idles in the pool went the same way; the next attempt must not wait for a dead connection.
            self.client.close_connections()
            seconds = state.seconds_since_start or 0.0
            if seconds >= say_at_s:
                say_at_s = seconds + min(max(seconds, _FIRST_SILENT_S), _MOST_SILENT_S)
                why = state.outcome.exception() if state.outcome else None
                self.on_retry(f"{why}; trying again, for {seconds:.0f} s of up to {self.retry_budget_s:.0f} s")

        retrying = Retrying(
            retry=retry_if_exception_type(SinkAwayError),
            stop=stop_after_delay(self.retry_budget_s) | stop_when_event_set(self.given_up),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            sleep=sleep_using_event(self.given_up),
            before_sleep=failed,
            reraise=True,
        )
        try:
            answer = retrying(attempt)
        finally:
            waited = this in self.waiting
            self.waiting.discard(this)
        if waited:
            self.on_retry(f"ClickHouse answers again, {doing}")
        return answer

    def close(self) -> None:
        self.client.close()


def _translated(doing: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ClickHouseError, OSError) as error:
        translated = _sink_error(doing, error)
        # ClickHouse quotes values of refused rows, and a log would quote the cause.
        raise translated from None if isinstance(translated, _RowsRefusedError) else error


def _sink_error(doing: str, error: Exception) -> SinkError:
    kind = treatment(error)
    if kind == Treatment.REJECT:
        return _RowsRefusedError(_without_values(str(error), error))
    first_line = (str(error).strip().splitlines() or ["no message"])[0][:300]
    if kind == Treatment.RETRY:
        return SinkAwayError(f"ClickHouse is away while {doing}: {first_line}")
    advice = hint(error)
    return SinkError(f"ClickHouse refused {doing}: {first_line}{'; ' if advice else ''}{advice}")


def _without_values(text: str, error: Exception) -> str:
    """Number, name and the place of the rule. The patterns are ClickHouse's own, at places where no value stands."""
    entry = known(error)
    places = re.match(r"(?:Code: \d+\. DB::Exception: )*Constraint (`[^`]+`)", text) or re.search(
        r": while converting column (`[^`]+`) from type ", text
    )
    return f"{clickhouse_number(error)} {entry.name if entry else ''}{' in ' + places[1] if places else ''}"


def connect(
    url: str,
    *,
    retry_budget_s: float = 60.0,
    on_retry: Callable[[str], None] = lambda message: None,
    timeout_s: float = 30.0,
) -> Sink:
    """Connect to `chdb:///path`, `http://user:password@host:8123/database` or `https://…`.

    `timeout_s` bounds how long an answer may be silent, in whole seconds; the embedded engine knows no such bound.
    Raises SinkAwayError when nobody answers, SinkError when the directory is in use or the URL is wrong.
    """
    try:
        client = _client(url, max(1, math.ceil(timeout_s)))
    except ClickHouseError as error:
        if url.startswith("chdb:"):
            raise _embedded_error(url, error) from error
        raise _sink_error("connecting", error) from error
    except OSError as error:
        raise _sink_error("connecting", error) from error
    except ValueError as error:
        raise SinkError(f"ClickHouse URL cannot be read: {error}") from error
    return Sink(client, url, retry_budget_s, on_retry)


#: The client goes by the port alone and would speak HTTP, with the password, to https://host:9440.
_INTERFACES: Final = {"http": "http", "https": "https", "clickhouse": None, "clickhouses": "https"}


def _client(url: str, timeout_s: int) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        if parts.netloc or len(parts.path) < 2:
            # Without a path the engine would keep everything in memory, and rows would be acknowledged that are lost.
            raise SinkError(f"an embedded ClickHouse is chdb:///path with a path from the root, not {url}")
        return EmbeddedClient(clickhouse_connect.get_client(dsn=url, chdb_options=dict(OPTIONS)))
    if parts.scheme not in _INTERFACES:
        raise SinkError(f"ClickHouse URL must begin with chdb://, http:// or https://, not {parts.scheme}://")
    client = clickhouse_connect.get_client(
        dsn=url,
        interface=_INTERFACES[parts.scheme],
        connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
        send_receive_timeout=timeout_s,
        # Its connections are closed after an error, which must not be those of somebody else in this process.
        dedicated_pool=True,
        autogenerate_session_id=False,
    )
    if client.get_client_setting("session_id"):
        client.close()
        raise SinkError(
            "ClickHouse URL must not name a session: a session takes one query at a time, workers send more"
        )
    return client


def _embedded_error(url: str, error: ClickHouseError) -> SinkError:
    path = urlsplit(url).path
    if _is_locked(Path(path)):
        return SinkError(
            f"{path} is already open in another process: an embedded ClickHouse belongs to one process. If that one is "
            "`vigie gateway`, set VIGIE_CLICKHOUSE_URL to the address it printed. Otherwise stop it; to have both, "
            f"run `vigie gateway --data-dir {path}` and set VIGIE_CLICKHOUSE_URL=http://127.0.0.1:8123 for both"
        )
    # It begins with the path again, and with what the engine is opened with.
    reason = re.sub(r"^Unable to open .*?': ", "", str(error).strip().partition(", Stack trace")[0])
    return SinkError(f"{path} cannot be opened as an embedded ClickHouse: {reason[:300]}")


def _is_locked(directory: Path) -> bool:
    """Whether another process holds the directory: the engine's error says no more than that it could not begin."""
    try:
        with (directory / "status").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def migrations() -> Iterator[tuple[str, list[str]]]:
    """The numbered DDL files that ship, in order: (name, statements)."""
    folder = resources.files("sinks").joinpath("ddl")
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            text = "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.startswith("--"))
            yield file.name.removesuffix(".sql"), [s.strip() for s in re.split(r";\s*(?:\n|$)", text) if s.strip()]


_DONE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS migrations (name String, checksum String, applied_at DateTime DEFAULT now())
ENGINE = ReplacingMergeTree(applied_at) ORDER BY name
"""


def migrate(sink: Sink) -> list[str]:
    """Apply what has not been applied. Safe to run twice. Returns the names applied now.

    Raises SinkError when a file that was applied has changed since: DDL only moves forward, in new files.
    """
    sink.command(_DONE_TABLE)
    done = dict(sink.rows("SELECT name, checksum FROM migrations FINAL"))
    applied = []
    for name, statements in migrations():
        checksum = hashlib.sha256("\n".join(statements).encode()).hexdigest()
        if name in done:
            if done[name] != checksum:
                raise SinkError(f"migration {name} was applied in another form; undo its change and add a new file")
            continue
        for statement in statements:
            sink.command(statement)
        sink.insert_whole("migrations", pa.table({"name": [name], "checksum": [checksum]}), checksum)
        applied.append(name)
    return applied
