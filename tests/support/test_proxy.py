"""The fault proxy: each fault is seen by a client as the network would show it, and ends with `heal`."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest

from tests.support.proxy import FaultProxy

#: Long enough that an answer without a fault always comes, short enough to wait for one that does not.
_SILENCE_S: Final = 0.1
_BIG: Final = bytes(range(256)) * 8_192


class Echo:
    """A server that sends back what it gets; it keeps what it got, and ends a connection when its client does."""

    def __init__(self) -> None:
        self.got = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65_536):
                self.got += data
                connection.sendall(data)

    def close(self) -> None:
        # A thread in accept() is woken by shutdown and not by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address) as running:
        yield running


def connect(proxy: FaultProxy, timeout_s: float = 5.0) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def receive(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count and (data := connection.recv(65_536)):
        found += data
    return bytes(found)


def echoed(connection: socket.socket, data: bytes) -> float:
    """Seconds until the data came back; it must be the same."""
    begun = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    back = receive(connection, len(data))
    sender.join()
    assert back == data
    return time.monotonic() - begun


def quickest(connection: socket.socket, data: bytes) -> float:
    """The least of several: a busy machine makes one slow, not all."""
    return min(echoed(connection, data) for _ in range(10))


def eventually(so: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not so():
        assert time.monotonic() < until, "not within 5 s"
        time.sleep(0.005)


def test_bytes_pass_unchanged_both_ways(proxy: FaultProxy) -> None:
    """Two megabytes go to the target and back the same, on several connections at once."""
    with connect(proxy) as first, connect(proxy) as second:
        echoed(first, b"hello")
        echoed(second, _BIG)
        echoed(first, _BIG)
    assert proxy.accepted == 2
    eventually(lambda: proxy.connections == 0)


def test_the_end_of_a_stream_is_passed_on(proxy: FaultProxy) -> None:
    """A client that has said all still gets its answer, and then the end."""
    with connect(proxy) as connection:
        connection.sendall(b"all")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 100) == b"all"
        assert connection.recv(1) == b""


def test_a_target_that_refuses(echo: Echo) -> None:
    """Without a target, a client is reset instead of being left waiting."""
    with FaultProxy("127.0.0.1:1") as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)


@pytest.mark.parametrize("up_s, down_s", [(0.06, 0.0), (0.0, 0.06), (0.04, 0.04)])
def test_delay(proxy: FaultProxy, up_s: float, down_s: float) -> None:
    """Each direction has its own delay; it comes upon a connection that is open, and goes with `heal`."""
    with connect(proxy) as connection:
        echoed(connection, b"quick")
        proxy.delay(up_s=up_s, down_s=down_s)
        assert echoed(connection, b"slow") >= up_s + down_s
        proxy.heal()
        assert quickest(connection, b"quick") < up_s + down_s


def test_delay_is_no_limit(proxy: FaultProxy) -> None:
    """Far is not narrow: two megabytes over a way of 0.1 s take little longer than one byte."""
    proxy.delay(up_s=0.1)
    with connect(proxy) as connection:
        # At a chunk per delay it would take 3.2 s.
        assert 0.1 <= echoed(connection, _BIG) < 1.6


def test_limit(proxy: FaultProxy) -> None:
    """Bytes come no faster than the limit; without it they do."""
    proxy.limit(1_000_000)
    with connect(proxy) as connection:
        assert echoed(connection, bytes(150_000)) >= 0.1
        proxy.heal()
        assert quickest(connection, bytes(150_000)) < 0.1


def test_cut_resets_and_refuses(proxy: FaultProxy, echo: Echo) -> None:
    """Open connections are reset, new ones refused; after `heal` the same address answers."""
    address = proxy.address
    with connect(proxy) as connection:
        echoed(connection, b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    assert proxy.connections == 0
    proxy.heal()
    assert proxy.address == address
    with connect(proxy) as connection:
        echoed(connection, b"after")
    assert bytes(echo.got) == b"beforeafter"


def test_cut_and_heal_again_and_again(proxy: FaultProxy) -> None:
    """The port stays ours and works however often it is cut; cutting or healing twice is harmless."""
    for _ in range(5):
        proxy.cut()
        proxy.cut()
        proxy.heal()
        proxy.heal()
        with connect(proxy) as connection:
            echoed(connection, b"again")


def test_half_open_is_silence(proxy: FaultProxy, echo: Echo) -> None:
    """Nothing passes and nothing is refused, on connections old and new; what was sent arrives after `heal`."""
    with connect(proxy) as old:
        echoed(old, b"1")
        proxy.half_open()
        with connect(proxy) as new:
            for connection, data in ((old, b"2"), (new, b"3")):
                connection.settimeout(_SILENCE_S)
                connection.sendall(data)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            assert bytes(echo.got) == b"1"
            proxy.heal()
            for connection, data in ((old, b"2"), (new, b"3")):
                connection.settimeout(5)
                assert receive(connection, 1) == data
    assert sorted(echo.got) == sorted(b"123")


def test_half_open_keeps_what_a_client_left_behind(proxy: FaultProxy, echo: Echo) -> None:
    """A request whose client has given up meanwhile reaches the target all the same: that is the danger in it."""
    with connect(proxy) as connection:
        echoed(connection, b"a")
        proxy.half_open()
        connection.sendall(b"b")
    time.sleep(0.02)
    assert bytes(echo.got) == b"a"
    proxy.heal()
    eventually(lambda: bytes(echo.got) == b"ab")


def test_cut_ends_a_half_open_connection(proxy: FaultProxy) -> None:
    """Faults add up: a connection that is silent can be reset."""
    with connect(proxy) as connection:
        proxy.half_open()
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_BIG)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(_BIG)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def test_reset_in_the_middle_of_an_answer() -> None:
    """One answer ends in a reset after so many bytes; the next request, on a new connection, is answered whole."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with FaultProxy(f"127.0.0.1:{server.server_address[1]}") as proxy:

            def get() -> bytes:
                client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
                with contextlib.closing(client):
                    client.request("GET", "/")
                    return client.getresponse().read()

            assert get() == _BIG
            proxy.reset_answer(after_bytes=1_000)
            with pytest.raises(ConnectionResetError):
                get()
            assert proxy.resets == 1
            assert get() == _BIG
            assert proxy.resets == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("after_bytes", [0, 3])
def test_reset_lets_so_many_bytes_pass(proxy: FaultProxy, after_bytes: int) -> None:
    """Exactly so many bytes of the answer arrive before the reset, none included."""
    with connect(proxy) as connection:
        echoed(connection, b"whole")
        proxy.reset_answer(after_bytes)
        connection.sendall(b"answer")
        with pytest.raises(ConnectionResetError):
            found = receive(connection, after_bytes) if after_bytes else b""
            assert found == b"answer"[:after_bytes]
            connection.recv(1)


def test_an_answer_that_is_short_enough_passes(proxy: FaultProxy) -> None:
    """The reset waits for an answer that is longer than the bytes that may pass."""
    with connect(proxy) as connection:
        proxy.reset_answer(4)
        echoed(connection, b"1234")
        connection.sendall(b"5")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_close_ends_everything(echo: Echo) -> None:
    """After the context nothing listens, connections are reset and the thread is gone; closing again is harmless."""
    with FaultProxy(echo.address) as proxy:
        connection = connect(proxy)
        echoed(connection, b"x")
        proxy.half_open()
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert f"proxy-{proxy.port}" not in {thread.name for thread in threading.enumerate()}
    proxy.close()
