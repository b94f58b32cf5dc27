"""The HTTP side of the gateway: requests in, the engine's bytes out.

A statement is run only when its whole request has arrived, so a client that dies in the middle of an insert leaves
nothing. An answer of 200 says that the engine has done it: whatever kills this process afterwards takes nothing back
(power loss can, without ClickHouse's fsync settings). A connection that ends without an answer says nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from sinks.clickhouse import SinkError
from sinks.clickhouse_gateway.body import form_fields, read_body, unpacked
from sinks.clickhouse_gateway.engine import Answer, Engine, Request, open_engine
from sinks.clickhouse_gateway.errors import CutShortError, RefusedError, StoppingError, refused

#: Seconds that a connection may be silent, between requests or inside one.
_SILENCE_S: Final = 60.0
#: How soon a stop is noticed, in seconds.
_POLL_S: Final = 0.05
#: How long statements that were asked to end may take to do so, in seconds.
_CANCEL_S: Final = 5.0
#: What belongs to the transport, and is not a setting for the engine.
_TRANSPORT: Final = frozenset(
    {
        "buffer_size", "cancel_http_readonly_queries_on_client_close", "client_protocol_version", "close_session",
        "compress", "database", "decompress", "default_format", "enable_http_compression",
        "http_headers_progress_interval_ms", "password", "query", "query_id", "quota_key", "role",
        "send_progress_in_http_headers", "session_check", "session_id", "session_timeout", "stacktrace", "user",
        "wait_end_of_query",
    }
)  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: Any, engine: Engine, read_only: bool, on_error: Callable[[str], None]) -> None:
        # An IPv6 address has four parts.
        self.address_family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        self.engine = engine
        self.read_only = read_only
        self._on_error = on_error
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        # A client that is lost is its own affair, and knows that it has no answer.
        if not isinstance(error, ConnectionError | TimeoutError | CutShortError):
            self._on_error(f"a request ended without an answer: {type(error).__name__}: {error}")

    def hang_up(self) -> None:
        """End every connection that is still open."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "vigie-gateway"
    sys_version = ""
    timeout = _SILENCE_S
    disable_nagle_algorithm = True
    # The head and the body of a small answer leave in one packet.
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: statements hold data."""

    def do_HEAD(self) -> None:
        self._reply(200, b"")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        if url.path == "/ping" or (url.path == "/" and not url.query):
            self._reply(200, b"Ok.\n")
        else:
            # Like ClickHouse: a link followed by mistake must not write.
            self._run(b"", only_reads=True)

    def do_POST(self) -> None:
        try:
            body = read_body(self.rfile, self.headers["Content-Length"], self.headers["Transfer-Encoding"])
        except RefusedError as error:
            # Where the next request would begin is not known.
            self.close_connection = True
            self._refuse(error)
        else:
            self._run(body, only_reads=self.server.read_only)

    def _run(self, body: bytes, *, only_reads: bool) -> None:
        url = urlsplit(self.path)
        if url.path != "/":
            self._reply(404, f"There is no handle {url.path}: / is for queries, /ping for health checks\n".encode())
            return
        try:
            with self.server.engine.turn():
                self._asked(url.query, body, only_reads)
        except RefusedError as error:
            self._refuse(error)
        except StoppingError:
            self.close_connection = True
            self._reply(503, b"the gateway is stopping\n")

    def _asked(self, query: str, body: bytes, only_reads: bool) -> None:
        try:
            _refuse_pages(self.headers)
            body = unpacked(body, self.headers["Content-Encoding"])
            asked = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
            request = _request(asked, self.headers, body, only_reads=only_reads)
            if self.request_version != "HTTP/1.1":
                request = replace(request, may_stream=False)
            with self.server.engine.answer(request) as answer:
                self._send(answer, asked.get("query_id") or str(uuid.uuid4()))
        except RefusedError as error:
            self._refuse(error)

    def _send(self, answer: Answer, query_id: str) -> None:
        headers = {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": self.server.engine.timezone,
            "X-ClickHouse-Summary": json.dumps(dict(answer.summary)),
        }
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
        if answer.size is not None:
            self._head(200, headers | {"Content-Length": str(answer.size)})
            for part in answer.parts:
                self.wfile.write(part)
            self.wfile.flush()
            return
        self._head(200, headers | {"Transfer-Encoding": "chunked"})
        # Whatever ends it before the last chunk, the client must not take what it has for everything.
        self.close_connection = True
        try:
            for part in answer.parts:
                self._chunk(part)
        except RefusedError as error:
            self._chunk(str(error).encode("utf-8", "replace"))
            self.wfile.flush()
            return
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        self.close_connection = False

    def _chunk(self, part: bytes | memoryview) -> None:
        self.wfile.write(b"%x\r\n" % len(part))
        self.wfile.write(part)
        self.wfile.write(b"\r\n")

    def _refuse(self, error: RefusedError) -> None:
        body = str(error).encode("utf-8", "replace") + b"\n"
        self._reply(error.status, body, {"X-ClickHouse-Exception-Code": str(error.code)})

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, {**(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("X-ClickHouse-Server-Display-Name", "vigie-gateway")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _request(asked: Mapping[str, str], headers: Message, body: bytes, *, only_reads: bool) -> Request:
    """What an address, headers and a body ask for. Raises RefusedError."""
    for framing in ("compress", "decompress"):
        if asked.get(framing, "0") not in ("0", "false"):
            raise refused(48, "NOT_IMPLEMENTED", f"{framing}=1 is not supported; use Content-Encoding")
    statement = asked.get("query", "").encode("utf-8", "surrogateescape")
    told = dict(asked)
    content_type = headers.get("Content-Type", "")
    if content_type.startswith("multipart/form-data"):
        fields = form_fields(body, content_type)
        statement += fields.pop("query", b"")
        told |= {name: value.decode("utf-8", "surrogateescape") for name, value in fields.items()}
        body = b""
    if not statement:
        statement, body = body, b""
    return Request(
        statement,
        body,
        settings={n: v for n, v in told.items() if n not in _TRANSPORT and not n.startswith("param_")},
        parameters={n.removeprefix("param_"): v for n, v in told.items() if n.startswith("param_")},
        database=told.get("database") or headers.get("X-ClickHouse-Database"),
        default_format=told.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        only_reads=only_reads,
        may_stream=told.get("wait_end_of_query", "0") in ("0", "false"),
    )


def _refuse_pages(headers: Message) -> None:
    """Raise RefusedError when a web page of another site sends this through a browser on this machine."""
    host = headers.get("Host", "")
    origin = headers.get("Origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise refused(497, "ACCESS_DENIED", f"requests from pages of {origin} are not answered")


class Gateway:
    """A gateway that answers at `url`; made by `serve`."""

    def __init__(self, server: _Server, url: str) -> None:
        self.url = url
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="gateway", daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether requests are turned away."""
        return self._server.engine.closing

    def stop(self, grace_s: float = 10.0) -> bool:
        """Take no more requests, let statements under way finish for so long, cancel the rest, close the engine.

        False when something would not end: the engine is then left open, and the process should end.
        """
        self._server.shutdown()
        self._server.server_close()
        engine = self._server.engine
        ended = engine.drain(grace_s)
        if not ended:
            engine.cancel()
            ended = engine.drain(_CANCEL_S)
        # Who does not take an answer holds it up, too.
        self._server.hang_up()
        ended = ended or engine.drain(_CANCEL_S)
        if ended:
            engine.close()
        return ended


def serve(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8123,
    read_only: bool = False,
    on_error: Callable[[str], None] = lambda message: None,
) -> Gateway:
    """Open the directory and answer at host:port (0: a free one), in threads of its own; returns once it answers.

    `on_error` is told of requests that ended without an answer through a fault of ours. Raises SinkError when the
    directory or the port is taken, and ValueError for a writable gateway on an address that others can reach.
    """
    address = _address(host, port)
    if not read_only and not ipaddress.ip_address(address[0]).is_loopback:
        raise ValueError(
            f"a gateway that can be written to listens on this machine only, not on {host}: "
            "it asks for no password. Use 127.0.0.1, or make it read-only"
        )
    engine = open_engine(directory)
    try:
        server = _Server(address, engine, read_only, on_error)
    except OSError as error:
        engine.close()
        taken = error.errno == errno.EADDRINUSE
        words = "is taken by another process" if taken else f"cannot be listened on: {error.strerror}"
        raise SinkError(f"{host}:{port} {words}; choose another --port or --host") from error
    shown = f"[{host}]" if ":" in host else host
    return Gateway(server, f"http://{shown}:{server.server_address[1]}")


def _address(host: str, port: int) -> Any:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SinkError(f"the host {host} is not an address of this machine: {error.strerror}") from error
    return found[0][4]
