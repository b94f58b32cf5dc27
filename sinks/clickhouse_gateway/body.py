"""The body of an HTTP request: whole or not at all, as it was before compression, and form fields."""

from __future__ import annotations

import zlib
from email.parser import BytesHeaderParser
from io import BufferedIOBase
from typing import Any, Final

import pyarrow as pa

from sinks.clickhouse_gateway.errors import CutShortError, refused

#: Bytes of one body, as sent and as unpacked. A block of 100 000 events is about 30 MB.
MOST_BYTES: Final = 1 << 30
_PIECE: Final = 1 << 20
_PACKED: Final[dict[str, Any]] = {"lz4": "lz4", "zstd": "zstd", "gzip": "gzip", "br": "brotli"}


def read_body(stream: BufferedIOBase, length: str | None, transfer: str | None) -> bytes:
    """Everything that the headers Content-Length or Transfer-Encoding announce.

    Raises CutShortError when the stream ends before, RefusedError when the headers or chunks make no sense.
    """
    if transfer is not None:
        if transfer.strip().lower() != "chunked":
            raise refused(48, "NOT_IMPLEMENTED", f"Transfer-Encoding {transfer} is not supported, only chunked")
        return _chunks(stream)
    if length is None:
        raise refused(381, "HTTP_LENGTH_REQUIRED", "neither Content-Length nor Transfer-Encoding: chunked")
    if not length.strip().isdecimal():
        raise refused(36, "BAD_ARGUMENTS", f"Content-Length {length} is not a number of bytes")
    return _exactly(stream, int(length))


def _exactly(stream: BufferedIOBase, count: int) -> bytes:
    _small_enough(count)
    found = stream.read(count)
    if len(found) < count:
        raise CutShortError
    return found


def _small_enough(count: int) -> None:
    if count > MOST_BYTES:
        raise refused(290, "LIMIT_EXCEEDED", f"a body of more than {MOST_BYTES} bytes; send smaller blocks")


def _line(stream: BufferedIOBase) -> bytes:
    line = stream.readline(1_024)
    if not line.endswith(b"\n"):
        raise CutShortError
    return line.strip()


def _chunks(stream: BufferedIOBase) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        announced = _line(stream).partition(b";")[0].strip()
        try:
            size = int(announced, 16)
        except ValueError:
            raise refused(36, "BAD_ARGUMENTS", "the size of a chunk is not a number") from None
        if size < 0:
            raise refused(36, "BAD_ARGUMENTS", "the size of a chunk is below zero")
        if size == 0:
            break
        total += size
        _small_enough(total)
        parts.append(_exactly(stream, size))
        if _line(stream):
            raise refused(36, "BAD_ARGUMENTS", "a chunk is longer than it says")
    while _line(stream):
        pass
    return b"".join(parts)


def unpacked(body: bytes, encoding: str | None) -> bytes:
    """The body before its Content-Encoding. Raises RefusedError when it does not unpack to its end."""
    name = (encoding or "identity").strip().lower()
    if name == "identity" or not body:
        return body
    if name != "deflate" and name not in _PACKED:
        raise refused(48, "NOT_IMPLEMENTED", f"Content-Encoding {name} is not supported")
    try:
        if name == "deflate":
            return _inflated(body)
        parts: list[bytes] = []
        total = 0
        with pa.input_stream(pa.py_buffer(body), compression=_PACKED[name]) as stream:
            while part := stream.read(_PIECE):
                total += len(part)
                _small_enough(total)
                parts.append(part)
        return b"".join(parts)
    except (OSError, zlib.error) as error:
        raise refused(354, "INFLATE_FAILED", f"the body does not unpack as {name}: {error}") from None


def _inflated(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(body, MOST_BYTES + 1)
    _small_enough(len(found))
    if not inflater.eof:
        raise zlib.error("incomplete")
    return found


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """Fields of a multipart/form-data body, in which clients send parameters too long for an address.

    Raises RefusedError, also for files (ClickHouse's external data).
    """
    head = BytesHeaderParser().parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n")
    boundary = head.get_boundary()
    if boundary is None:
        raise refused(36, "BAD_ARGUMENTS", "multipart/form-data without a boundary")
    found: dict[str, bytes] = {}
    for piece in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))[1:]:
        if piece.startswith(b"--"):
            return found
        headers, _, value = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        about = BytesHeaderParser().parsebytes(headers)
        name = about.get_param("name", header="content-disposition")
        if about.get_filename() is not None:
            raise refused(48, "NOT_IMPLEMENTED", "external data is not supported")
        if not isinstance(name, str):
            raise refused(36, "BAD_ARGUMENTS", "a form field without a name")
        found[name] = value
    raise CutShortError
