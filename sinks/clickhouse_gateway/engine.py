"""The embedded engine behind the gateway: one directory, a fresh handle for every request.

A handle costs 0.1 ms and takes its settings, database and parameters with it when it is closed, so requests share
nothing but the data; tokens of inserts belong to the tables and hold across handles. The engine runs without the
interpreter's lock: a slow statement holds up no other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import chdb

from sinks.clickhouse import Sink, SinkError, connect
from sinks.clickhouse_gateway.errors import RefusedError, StoppingError, refused
from sinks.clickhouse_gateway.statements import Insert, insert_of, refuse_reaching_outside, shape_of
from sinks.embedded import Merges

#: Formats whose blocks, one after the other, are the answer; others have a head or a foot and come whole.
_STREAMED: Final = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
#: The binding takes these for Python objects instead of bytes.
_PYTHON: Final = frozenset({"arrowtable", "dataframe", "datastore"})
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CODE: Final = re.compile(r"Code: (\d+)\. DB::", re.DOTALL)
#: Statements under way. Each has threads of the engine's and memory; a server's default is unlimited.
MOST_AT_ONCE: Final = 100

#: What reads is bounded by, at most. Seconds, rows, bytes.
_READER_LIMITS: Final = {
    "max_execution_time": 60,
    "max_result_rows": 1_000_000,
    "max_result_bytes": 1 << 28,
    "max_memory_usage": 1 << 30,
}
#: What a reader may set besides: nothing that names files or addresses, holds SQL, or lifts a limit.
_READER_MAY_SET: Final = re.compile(
    r"max_threads|max_block_size|final|session_timezone|date_time_(in|out)put_format"
    r"|cast_string_to_dynamic_use_inference|join_use_nulls|output_format_(json|arrow|native|csv|tsv|binary)_\w+"
    r"|(result|read|timeout)_overflow_mode"
)
#: Table functions that stay inside: the engine's list of the others grows with every release.
_INSIDE: Final = frozenset(
    {
        "dictionary", "format", "generate_series", "generateseries", "merge", "mergetreeindex", "null", "numbers",
        "numbers_mt", "primes", "sqlstandardvalues", "values", "view", "zeros", "zeros_mt",
    }
)  # fmt: skip
_TABLE_FUNCTIONS: Final = "SELECT name FROM system.table_functions"
#: Functions that read files, call services of others, look into this process or write its log.
_NAMES: Final = """
SELECT name FROM system.functions
WHERE name IN ('file', 'catboostEvaluate', 'logTrace') OR name ILIKE 'ai%' OR name LIKE 'addressTo%'
"""


@dataclass(frozen=True)
class Request:
    """One statement with what a client sent along.

    `statement` may be followed by data inside `body` or be alone; `settings` and `parameters` are texts by name.
    """

    statement: bytes
    body: bytes = b""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    database: str | None = None
    default_format: str = "TabSeparated"
    only_reads: bool = False
    may_stream: bool = False


@dataclass(frozen=True)
class Answer:
    """`format` is None when there are no rows by nature; `size` in bytes is None when it is not known beforehand."""

    format: str | None
    parts: Iterator[bytes | memoryview]
    size: int | None
    summary: Mapping[str, str]


class Engine:
    """The engine of one directory; made by `open_engine`. Any number of threads may ask it."""

    def __init__(self, sink: Sink, directory: str) -> None:
        self._sink = sink
        self._directory = directory
        self._running = 0
        self._merges = Merges()
        self.closing = False
        self._changed = threading.Condition()
        ((self.timezone,),) = sink.rows("SELECT timezone()")
        self._names = frozenset(name.lower() for (name,) in sink.rows(_NAMES))
        self._functions = frozenset(name.lower() for (name,) in sink.rows(_TABLE_FUNCTIONS)) - _INSIDE

    @contextmanager
    def answer(self, request: Request) -> Iterator[Answer]:
        """Run it; the answer's parts are good until the block ends.

        Raises RefusedError, also while the parts of a streamed answer are taken.
        """
        handle: Any = chdb.connect(self._directory)  # type: ignore[no-untyped-call]
        try:
            yield self._answered(handle, request)
        finally:
            handle.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Whoever asks does so in here, until what came of it is sent: the end of the gateway waits for that.

        Raises StoppingError, and RefusedError when too many are in here.
        """
        with self._changed:
            if self.closing:
                raise StoppingError
            if self._running >= MOST_AT_ONCE:
                raise refused(
                    202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many simultaneous queries. Maximum: {MOST_AT_ONCE}"
                )
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _answered(self, handle: Any, request: Request) -> Answer:
        text = request.statement
        data = [memoryview(request.body)]
        found = None if request.only_reads else insert_of(text)
        if found is None and request.body:
            text, data = text + b"\n" + request.body, []
            found = None if request.only_reads else insert_of(text)
        if found is not None:
            # An insert's data come in a file, and such a statement takes no parameters.
            told = {f"param_{name}": value for name, value in request.parameters.items()}
            _prepare(handle, replace(request, settings={**request.settings, **told}))
            done = _inserted(handle, found, [memoryview(text)[found.data_at :], *data])
            self._merges.let_others_go_first()
            return done
        return self._asked(handle, text, request)

    def _asked(self, handle: Any, text: bytes, request: Request) -> Answer:
        if request.only_reads:
            refuse_reaching_outside(text, self._names, self._functions)
        shape = shape_of(text)
        chosen = shape.format or request.default_format
        if chosen.lower() in _PYTHON:
            raise refused(73, "UNKNOWN_FORMAT", f"Unknown format {chosen}")
        _prepare(handle, request)
        given = dict(request.parameters)
        if shape.selects and request.may_stream and chosen in _STREAMED:
            return _streamed(_called(lambda: handle.send_query(text, chosen, given)), chosen)
        return _whole(_called(lambda: handle.query(text, chosen, given)), chosen if shape.answers else None)

    def drain(self, seconds: float) -> bool:
        """Begin nothing new and wait for what runs. True when nothing runs any more."""
        with self._changed:
            self.closing = True
            return self._changed.wait_for(lambda: self._running == 0, seconds)

    def cancel(self) -> None:
        """Ask whatever runs to end; its client is told that it was cancelled."""
        self._sink.client.command("KILL QUERY WHERE 1 ASYNC")

    def close(self) -> None:
        self._sink.close()


def open_engine(directory: Path) -> Engine:
    """Open the directory, which is made when it is missing. Raises SinkError, e.g. when another process has it open."""
    real = directory.resolve()
    if set("?#") & set(str(real)):
        # The engine would take the rest of the path for options.
        raise SinkError(f"{real} cannot hold an embedded ClickHouse: its path must not contain ? or #")
    # The engine makes the last folder of a path only.
    real.parent.mkdir(parents=True, exist_ok=True)
    return Engine(connect(f"chdb://{real}"), str(real))


def _called(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RuntimeError as error:
        raise _engine_error(error) from error


def _engine_error(error: RuntimeError) -> RefusedError:
    message = str(error)
    found = _CODE.search(message)
    if found is None:
        return RefusedError(1002, f"Code: 1002. DB::Exception: {message}. (UNKNOWN_EXCEPTION)")
    # The binding puts words of its own before.
    return RefusedError(int(found[1]), message[found.start() :])


def _prepare(handle: Any, request: Request) -> None:
    """Give the handle the database and settings of the request; a reader loses the right to write last."""
    if request.database:
        use = f"USE {_quoted(request.database, '`')}"
        _called(lambda: handle.query(use.encode("utf-8", "surrogateescape"), "TabSeparated"))
    chosen = dict(request.settings)
    if request.only_reads:
        chosen = {name: value for name, value in chosen.items() if name != "readonly"}
        for name in chosen:
            if name not in _READER_LIMITS and _READER_MAY_SET.fullmatch(name) is None:
                raise refused(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode")
        chosen |= {name: _at_most(chosen.get(name), most) for name, most in _READER_LIMITS.items()}
    for name in chosen:
        if _SETTING.fullmatch(name) is None:
            raise refused(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
    if chosen:
        told = "SET " + ", ".join(f"{name} = {_quoted(value)}" for name, value in chosen.items())
        _called(lambda: handle.query(told.encode("utf-8", "surrogateescape"), "TabSeparated"))
    if request.only_reads:
        _called(lambda: handle.query("SET readonly = 1", "TabSeparated"))


def _quoted(text: str, quote: str = "'") -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def _at_most(asked: str | None, most: int) -> str:
    """What was asked for, if it is a whole number of at least 1 (0 means without limit) and no more than that."""
    return asked if asked is not None and asked.isdecimal() and 0 < int(asked) <= most else str(most)


def _inserted(handle: Any, insert: Insert, parts: list[memoryview]) -> Answer:
    """Insert data as a file: the binding's call for streamed data tells errors of parsing, but none of storing."""
    with NamedTemporaryFile(prefix="vigie-insert-") as file:
        for part in parts:
            file.write(part)
        file.flush()
        source = f" FROM INFILE {_quoted(file.name)} COMPRESSION 'none' ".encode()
        told = insert.head + source + insert.settings + b" FORMAT " + insert.format.encode()
        done = _called(lambda: handle.query(told, "TabSeparated"))
    return _whole(done, None)


def _whole(result: Any, form: str | None) -> Answer:
    summary = {
        "read_rows": str(result.rows_read()),
        "read_bytes": str(result.bytes_read()),
        "written_rows": str(result.rows_written()),
        "written_bytes": str(result.bytes_written()),
        "elapsed_ns": str(int(result.elapsed() * 1e9)),
    }

    def parts() -> Iterator[memoryview]:
        # The memory is the engine's, and stays while this frame holds the result.
        held = result.get_memview()
        yield memoryview(held.view())

    size = int(result.size())
    return Answer(form, parts() if size else iter(()), size, summary)


def _streamed(stream: Any, form: str) -> Answer:
    # The first block before the answer begins: most errors come with it and can still be told.
    first = _called(lambda: next(stream, None))

    def parts() -> Iterator[bytes]:
        block = first
        while block is not None:
            yield block.bytes()
            block = _called(lambda: next(stream, None))

    return Answer(form, parts(), None, {})
