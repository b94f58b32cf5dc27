"""A block as an Arrow file in pieces, for whoever reads it through: nothing of the block is copied for it."""

from __future__ import annotations

from io import RawIOBase
from typing import Any, Final

import pyarrow as pa

_PIECE: Final = 1 << 20


class ArrowFile:
    """A file to read once, from its beginning to its end. Its pieces are the memory of the table itself.

    pyarrow's own way (`BufferOutputStream`) has the block two more times in memory that the system must clear first,
    which costs as much as a third of the insert.
    """

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
