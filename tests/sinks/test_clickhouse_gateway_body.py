"""Bodies as the gateway takes them: whole or not at all."""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import pyarrow as pa
import pytest

from sinks.clickhouse_gateway.body import form_fields, read_body, unpacked
from sinks.clickhouse_gateway.errors import CutShortError, RefusedError


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_a_chunked_body_is_put_together() -> None:
    """Extensions and trailers are skipped, and the stream stands at the next request."""
    stream = io.BytesIO(b"3;x=y\r\nabc\r\n1\r\n\n\r\n0\r\nTrailer: x\r\n\r\nGET")
    assert read_body(stream, None, "chunked") == b"abc\n"
    assert stream.read() == b"GET"


def test_a_body_cut_at_any_byte_is_no_body() -> None:
    """Half a block must never be taken for a whole one: every cut is noticed, whatever announces the length."""
    whole = chunked(b"INSERT INTO t FORMAT CSV\n", b"1\n" * 40, b"2\n")
    assert read_body(io.BytesIO(whole), None, "chunked").endswith(b"2\n")
    for cut in range(len(whole)):
        with pytest.raises(CutShortError):
            read_body(io.BytesIO(whole[:cut]), None, "chunked")
    for cut in range(10):
        with pytest.raises(CutShortError):
            read_body(io.BytesIO(b"x" * cut), "10", None)


@pytest.mark.parametrize(
    ("body", "length", "transfer", "code"),
    [
        (b"", None, None, 381),
        (b"", "-1", None, 36),
        (b"", "1e3", None, 36),
        (b"", str(1 << 40), None, 290),
        (b"", None, "gzip, chunked", 48),
        (b"xyz\r\n", None, "chunked", 36),
        (b"-1\r\n", None, "chunked", 36),
        (b"ffffffffffff\r\n", None, "chunked", 290),
        (b"1\r\nabc\r\n0\r\n\r\n", None, "chunked", 36),
    ],
)
def test_a_length_that_makes_no_sense_is_refused(
    body: bytes, length: str | None, transfer: str | None, code: int
) -> None:
    """Told with ClickHouse's number, and before memory is taken for it."""
    with pytest.raises(RefusedError) as caught:
        read_body(io.BytesIO(body), length, transfer)
    assert caught.value.code == code


def packed(name: Any, parts: list[bytes]) -> bytes:
    """As clients pack: part by part. A deflate body is one stream."""
    if name == "deflate":
        return zlib.compress(b"".join(parts))
    sink = io.BytesIO()
    for part in parts:
        piece = pa.BufferOutputStream()
        with pa.CompressedOutputStream(piece, name) as stream:
            stream.write(part)
        sink.write(piece.getvalue().to_pybytes())
    return sink.getvalue()


@pytest.mark.parametrize("name", ["lz4", "zstd", "gzip", "deflate"])
def test_packed_bodies_are_unpacked_whole(name: str) -> None:
    """Every part is there; what was cut or garbled is refused, and never half of it used."""
    rng = random.Random(3)
    parts = [rng.randbytes(70_000) + bytes(200_000), b"x", rng.randbytes(10)]
    body = packed(name, parts)
    assert unpacked(body, name.upper()) == b"".join(parts)
    for wrong in (body[:-3], body[: len(body) // 2], b"nonsense" * 20):
        with pytest.raises(RefusedError, match=f"does not unpack as {name}"):
            unpacked(wrong, name)


def test_an_encoding_that_is_not_known_is_named() -> None:
    """Guessing would store packed bytes for rows."""
    with pytest.raises(RefusedError, match="Content-Encoding snappy is not supported"):
        unpacked(b"x", "snappy")
    assert unpacked(b"x", None) == unpacked(b"x", "identity") == b"x"


def test_form_fields_are_read_and_files_refused() -> None:
    """Values pass as bytes; external data, which the engine cannot take, is refused in words."""
    kind = "multipart/form-data; boundary=abc"
    field = b'--abc\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT\r\n1\r\n'
    assert form_fields(field + b"--abc--\r\n", kind) == {"query": b"SELECT\r\n1"}
    with pytest.raises(CutShortError):
        form_fields(field, kind)
    file = b'--abc\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\n1\r\n--abc--\r\n'
    with pytest.raises(RefusedError, match="external data"):
        form_fields(file, kind)
