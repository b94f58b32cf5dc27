"""A real HTTP receiver for webhooks, on 127.0.0.1 and a free port, that answers what a script says.

    with WebhookReceiver([status(500), too_many("2"), hang()]) as receiver:
        ...  # post to receiver.url
        receiver.requests[0].headers["webhook-id"]

After the script it answers 200. It records what it was sent before it answers.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

#: How long `close` and a hanging answer wait at most; a test that gets here has failed.
_PATIENCE_S: Final = 30.0
_DRIP_S: Final = 0.02


@dataclass(frozen=True)
class Answer:
    """One scripted answer. A `Content-Length` given in `headers` is sent as it is, and the connection closed after.

    `kind` hang sends nothing until the receiver closes; reset cuts the connection (RST). The others send a byte now and
    then and never come to an end: drip-head of a header, drip-body of a body after the status.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    kind: Literal["answer", "hang", "reset", "drip-head", "drip-body"] = "answer"


def status(code: int, body: bytes = b"{}") -> Answer:
    return Answer(code, body=body)


def too_many(retry_after: str | None = None, code: int = 429) -> Answer:
    """429 (or another code) with a `Retry-After` header, verbatim."""
    return Answer(code, {} if retry_after is None else {"Retry-After": retry_after})


def gone() -> Answer:
    return Answer(410)


def redirect(location: str, code: int = 307) -> Answer:
    return Answer(code, {"Location": location})


def hang() -> Answer:
    return Answer(kind="hang")


def reset() -> Answer:
    return Answer(kind="reset")


def drip_head() -> Answer:
    return Answer(kind="drip-head")


def drip_body(code: int = 200) -> Answer:
    return Answer(code, kind="drip-body")


@dataclass(frozen=True)
class Received:
    """One request as it came: header names are in lower case, the body is untouched."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class WebhookReceiver:
    """The receiver; a context manager. `requests` grows in order of arrival and may be read from any thread."""

    def __init__(self, script: Iterable[Answer] = ()) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self._script = deque(script)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """Scheme, host and port, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.origin}/alerts"

    def speak_tls(self, certificate: Path) -> None:
        """Take connections from now on with a certificate and its key, both in that file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake is made by the first read, in the connection's own thread.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def script(self, *answers: Answer) -> None:
        """Append answers to the script."""
        with self._lock:
            self._script.extend(answers)

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """The first `count` requests, as soon as they have arrived. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {count} requests arrived within {timeout_s:g} s")
            return self.requests[:count]

    def close(self) -> None:
        """Stop answering, cut what hangs, join every thread."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join(_PATIENCE_S)
        self._server.cut()
        self._server.server_close()

    def take(self, received: Received) -> Answer:
        """Record one request and choose its answer."""
        with self._arrived:
            self.requests.append(received)
            answer = self._script.popleft() if self._script else Answer()
            self._arrived.notify_all()
            return answer

    def wait_until_closing(self, timeout_s: float = _PATIENCE_S) -> bool:
        """Whether the receiver closes within that time."""
        return self._closing.wait(timeout_s)


class _Server(ThreadingHTTPServer):
    #: Joined by server_close, so that no thread or socket outlives a test.
    daemon_threads = False

    def __init__(self, owner: WebhookReceiver) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Senders are killed by the tests, and their connections with them.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def cut(self) -> None:
        """End connections that are kept alive: their threads wait for a next request."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Head and body of an answer leave at once, not 40 ms apart.
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        if len(body) < length:
            # Whoever sent it is dead: what was cut off is no request.
            self.close_connection = True
            return
        answer = self.server.owner.take(Received("POST", self.path, headers, body))
        if answer.kind == "hang":
            self.server.owner.wait_until_closing()
            self.close_connection = True
            return
        if answer.kind == "reset":
            # Lingering for zero seconds makes close() send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if answer.kind in ("drip-head", "drip-body"):
            self._drip(answer)
            return
        # The client may have left: that is its business, and what is tested.
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            else:
                # The script lies about the length: the end of the connection ends the answer.
                self.close_connection = True
            self.end_headers()
            self.wfile.write(answer.body)

    def _drip(self, answer: Answer) -> None:
        begins = "X-Slow: " if answer.kind == "drip-head" else "Content-Length: 1000000\r\n\r\n"
        self.close_connection = True
        # The client leaves in the end.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(f"HTTP/1.1 {answer.status} Slow\r\n{begins}".encode())
            while not self.server.owner.wait_until_closing(_DRIP_S):
                self.wfile.write(b"x")

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.owner.take(Received("GET", self.path, headers, b""))
        self.send_error(405)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal: the requests are recorded."""
