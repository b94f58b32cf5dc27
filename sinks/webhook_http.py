"""HTTP for webhooks: POST with one deadline over the whole request.

httpx and httpcore bound each wait by itself, so a receiver that sends a byte now and then holds a request for ever.
Here every read and write gets what is left of the request's time. Looking up the receiver's name is not bounded by it:
the resolver has limits of its own. Redirects are not followed, cookies not kept and proxy variables not read.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx

#: What `post` raises when no status came: the network, the deadline, or an answer that is not HTTP.
FAILURES: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)

#: An answer's body is read only so that the connection can be used again; beyond this a new connection is cheaper.
_DRAIN_BYTES: Final = 65_536
_DRAIN_S: Final = 1.0
#: What is kept of that body, for a person who tries a receiver.
_KEPT_BYTES: Final = 2_048
#: What a socket that takes anything takes at once, so that a receiver which reads slowly cannot stretch one write.
_WRITE_BYTES: Final = 4_096
#: Servers commonly close idle connections after this or more.
_KEEPALIVE_S: Final = 5.0


@dataclass(frozen=True)
class Response:
    """The status of an answer, its headers under names in lower case, and how its body begins."""

    status: int
    headers: Mapping[str, str]
    start: bytes = b""


class HttpClient:
    """Keeps connections between requests; from any number of threads.

    `monotonic` gives seconds that never go back. `trust` says whose certificates are accepted, by default those of the
    authorities that certifi lists.
    """

    def __init__(self, monotonic: Callable[[], float], trust: ssl.SSLContext | None = None) -> None:
        self._deadline = _Deadline(monotonic)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False) if trust is None else trust,
            max_connections=None,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=_Backend(self._deadline),
        )

    def post(self, url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> Response:
        """Send a request and wait for the status, at most `timeout_s` seconds. Raises one of FAILURES."""
        asked = httpx.URL(url)
        target = httpcore.URL(scheme=asked.raw_scheme, host=asked.raw_host, port=asked.port, target=asked.raw_path)
        sent = [(b"host", asked.netloc), *((name.encode(), value.encode()) for name, value in headers.items())]
        self._deadline.begin(timeout_s)
        with self._pool.stream("POST", target, headers=sent, content=content) as answer:
            start = self._drain(answer)
        found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        return Response(answer.status, found, start)

    def close(self) -> None:
        self._pool.close()

    def _drain(self, answer: httpcore.Response) -> bytes:
        """Read a small answer to its end, and return how it begins. The status is known by now, so what goes wrong
        here changes nothing."""
        self._deadline.shorten(_DRAIN_S)
        start, size = b"", 0
        with contextlib.suppress(*FAILURES):
            for piece in answer.iter_stream():
                start += piece[: _KEPT_BYTES - len(start)]
                size += len(piece)
                if size > _DRAIN_BYTES:
                    break
        return start


class _Deadline(threading.local):
    """When the request under way must be over. A thread has one, because a request stays in the thread it began in."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._end_s = 0.0

    def begin(self, timeout_s: float) -> None:
        self._end_s = self._monotonic() + timeout_s

    def shorten(self, timeout_s: float) -> None:
        self._end_s = min(self._end_s, self._monotonic() + timeout_s)

    def left_s(self, error: type[httpcore.TimeoutException]) -> float:
        """Seconds that are left. Raises `error` when none are."""
        left_s = self._end_s - self._monotonic()
        if left_s <= 0:
            raise error("the request took too long")
        return left_s


class _Backend(httpcore.NetworkBackend):
    """Connects within the deadline. The timeouts it is given are those of single waits, and none are asked for."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _addresses(host, port)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            # An address that does not answer must leave time for those behind it.
            share_s = self._deadline.left_s(httpcore.ConnectTimeout) / (len(addresses) - number)
            try:
                found = self._inner.connect_tcp(address, port, share_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(found, self._deadline)
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A label of a name that is too long is a UnicodeError.
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end with the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], self._deadline.left_s(httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = self._deadline.left_s(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
