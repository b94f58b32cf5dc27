"""The embedded engine in a process that has more to do: inserts that copy nothing, merges that let others go first.

The engine reads a block from a file, which the client writes. Before that, the client's own `insert_arrow` has the
block two more times in memory that the system must clear first: a third of the processor time of an insert.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

#: What the engine is opened with.
OPTIONS: Final[Mapping[str, str]] = {"config-file": str(Path(__file__).with_name("embedded.xml"))}
_PIECE: Final = 1 << 20
_THREADS: Final = Path("/proc/self/task")
#: What the engine calls the threads that merge and mutate, of whose niceness in its settings there is none.
_MERGING: Final = "MergeMutate"
#: How much nicer they are than the process: against one busy thread a merge gets a tenth of the core, two get a fifth.
_NICER: Final = 10
#: Inserts after which they are looked for no more.
_LOOKS: Final = 100


class Merges:
    """The engine's merges, of which nobody waits.

    On one core a merge takes its share from whatever runs beside it, and an alert waits for a flush that takes twice as
    long. They come behind, so that a core that is busy still has time for them: parts that pile up are merged in more
    threads, which get more of it.
    """

    def __init__(self) -> None:
        self._looks_left = _LOOKS

    def let_others_go_first(self) -> None:
        """Call after something was inserted: the engine makes these threads with its first table. Linux only."""
        if self._looks_left <= 0 or not _THREADS.exists():
            return
        self._looks_left -= 1
        nice = min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICER)
        for thread in _THREADS.iterdir():
            # A thread may have ended meanwhile.
            with suppress(OSError):
                if (thread / "comm").read_text().startswith(_MERGING):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
                    self._looks_left = 0


class EmbeddedClient:
    """clickhouse-connect's client of an embedded engine, but for the way of a block.

    Over a connection a block must be bytes: the client sends it again where an idle connection was closed, and what is
    read piece by piece can be sent once.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._merges = Merges()

    def insert_arrow(self, table: str, rows: pa.Table, settings: Mapping[str, Any]) -> None:
        """Insert the rows. Raises what the client raises."""
        self._engine.raw_insert(table, rows.column_names, ArrowFile(rows), settings, "Arrow")
        self._merges.let_others_go_first()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class ArrowFile:
    """A block as an Arrow file to read once, from its beginning to its end: its pieces are the memory of the rows."""

    def __init__(self, rows: pa.Table) -> None:
        pieces = _Pieces()
        with pa.PythonFile(pieces, mode="w") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
        self._left = pieces.written[::-1]

    def read(self, size: int = _PIECE) -> memoryview:
        """The next bytes, at most `size` and perhaps fewer; none at the end."""
        if not self._left:
            return memoryview(b"")
        piece = self._left.pop()
        if len(piece) > size:
            self._left.append(piece[size:])
        return piece[:size]


class _Pieces(RawIOBase):
    """Keeps what is written as it is. What Arrow writes from memory of its own comes as a buffer that holds it."""

    def __init__(self) -> None:
        self.written: list[memoryview] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, piece: Any) -> int:
        view = memoryview(piece)
        if len(view):
            self.written.append(view)
        self._size += len(view)
        return len(view)
