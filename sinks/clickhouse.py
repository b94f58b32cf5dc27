"""ClickHouse through clickhouse-connect: the same client, DDL and inserts for `chdb:///path` and `https?://`.

One insert is one block (`async_insert=0`) and carries a token that names everything in it, so a block sent twice is
stored once. Inserts are split by the table's date partition, because one that spans two is not atomic.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "max_partitions_per_insert_block": 0,
    # Collapsing equal keys inside the block costs a third of the insert, and there are none.
    "optimize_on_insert": 0,
}

#: ClickHouse's own numbers of what passes by itself.
_PASSING: Final = frozenset({159, 202, 203, 209, 210, 241, 242, 252, 319, 999})
#: ClickHouse's own number of a disk that is full.
_FULL: Final = frozenset({243})
#: What stands before ClickHouse and cannot reach it says so in HTTP alone, without a number of ClickHouse's.
_PASSING_HTTP: Final = re.compile(r"HTTP status (?:429|5\d\d)")


class SinkError(RuntimeError):
    """ClickHouse did not take the rows; the message says what to do. Nothing was acknowledged."""


class SinkAwayError(SinkError):
    """ClickHouse could not be reached, or asked to be left alone for now."""


@dataclass(frozen=True)
class Sink:
    """A connection and how long an insert may be tried again, in seconds, before the process must stop."""

    client: Any
    url: str
    retry_budget_s: float = 60.0
    on_retry: Callable[[str], None] = lambda message: None

    def insert(self, table: str, rows: pa.Table, names: str) -> None:
        """Insert one block. `names` says what is in it (topic, offsets); equal names mean an equal block.

        Raises SinkError; nothing of the block may then be taken for stored.
        """
        if rows.num_rows == 0:
            return
        token = hashlib.sha256(f"{table}|{names}".encode()).hexdigest()
        settings = {**_SETTINGS, "insert_deduplication_token": token}
        self._tried(f"inserting into {table}", lambda: self.client.insert_arrow(table, rows, settings=settings))

    def frame(self, sql: str, parameters: dict[str, Any] | None = None) -> pl.DataFrame:
        """A query's result. An empty result has no columns."""
        found: Any = pl.from_arrow(self._tried("reading", lambda: self.client.query_arrow(sql, parameters=parameters)))
        return found if isinstance(found, pl.DataFrame) else pl.DataFrame()

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """A query's result as tuples of Python values."""
        answer = self._tried("reading", lambda: self.client.query(sql, parameters=parameters))
        return [tuple(row) for row in answer.result_rows]

    def _tried(self, doing: str, call: Callable[[], Any]) -> Any:
        def told(state: RetryCallState) -> None:
            self.on_retry(f"ClickHouse is away while {doing}; trying again for up to {self.retry_budget_s:.0f} s")

        retrying = Retrying(
            retry=retry_if_exception_type(SinkAwayError),
            stop=stop_after_delay(self.retry_budget_s),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            before_sleep=told,
            reraise=True,
        )
        return retrying(_translated, doing, call)

    def close(self) -> None:
        self.client.close()


def _translated(doing: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ClickHouseError as error:
        raise _sink_error(doing, error) from error
    except (ConnectionError, TimeoutError) as error:
        raise SinkAwayError(f"ClickHouse cannot be reached while {doing}: {error}") from error


def error_code(error: BaseException) -> int | None:
    """The number ClickHouse gave to the error, if any."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    found = re.search(r"[Cc]ode:? ?(\d+)", str(error))
    return int(found[1]) if found else None


def _sink_error(doing: str, error: ClickHouseError) -> SinkError:
    code = error_code(error)
    first_line = (str(error).strip().splitlines() or ["no message"])[0][:300]
    away = isinstance(error, OperationalError) or _PASSING_HTTP.search(first_line) is not None
    if code in _PASSING or (code is None and away):
        return SinkAwayError(f"ClickHouse is away while {doing}: {first_line}")
    hint = "; free some space and start again" if code in _FULL or "No space left on device" in first_line else ""
    return SinkError(f"ClickHouse refused {doing}: {first_line}{hint}")


def connect(url: str, *, retry_budget_s: float = 60.0, on_retry: Callable[[str], None] = lambda message: None) -> Sink:
    """Connect to `chdb:///path`, `http://user:password@host:8123/database` or `https://…`.

    Raises SinkAwayError when nobody answers, SinkError when the directory is in use or the URL is wrong.
    """
    try:
        client = _client(url)
    except ClickHouseError as error:
        if url.startswith("chdb:"):
            raise _embedded_error(url, error) from error
        raise _sink_error("connecting", error) from error
    except (ConnectionError, TimeoutError) as error:
        raise SinkAwayError(f"ClickHouse cannot be reached: {error}") from error
    except ValueError as error:
        raise SinkError(f"ClickHouse URL cannot be read: {error}") from error
    return Sink(client, url, retry_budget_s, on_retry)


def _client(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        if parts.netloc or len(parts.path) < 2:
            # Without a path the engine would keep everything in memory, and rows would be acknowledged that are lost.
            raise SinkError(f"an embedded ClickHouse is chdb:///path with a path from the root, not {url}")
        return clickhouse_connect.get_client(dsn=url)
    if parts.scheme not in ("http", "https", "clickhouse", "clickhouses"):
        raise SinkError(f"ClickHouse URL must begin with chdb://, http:// or https://, not {parts.scheme}://")
    return clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)


def _embedded_error(url: str, error: ClickHouseError) -> SinkError:
    path = urlsplit(url).path
    if _is_locked(Path(path)):
        return SinkError(
            f"{path} is already open in another process: an embedded ClickHouse belongs to one process. "
            f"Stop that one, or give this one another directory"
        )
    reason = str(error).strip().partition(", Stack trace")[0]
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
    sink._tried("creating tables", lambda: sink.client.command(_DONE_TABLE))
    done = dict(sink.rows("SELECT name, checksum FROM migrations FINAL"))
    applied = []
    for name, statements in migrations():
        checksum = hashlib.sha256("\n".join(statements).encode()).hexdigest()
        if name in done:
            if done[name] != checksum:
                raise SinkError(f"migration {name} was applied in another form; undo its change and add a new file")
            continue
        for statement in statements:
            sink._tried("creating tables", lambda statement=statement: sink.client.command(statement))  # type: ignore[misc]
        sink.insert("migrations", pa.table({"name": [name], "checksum": [checksum]}), checksum)
        applied.append(name)
    return applied
