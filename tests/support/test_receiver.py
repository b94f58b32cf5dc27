"""The receiver of the tests takes what a receiver takes, so that what it says was delivered was."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from tests.support.receiver import WebhookReceiver


def test_a_request_that_is_cut_off_is_none() -> None:
    """Its sender died while it wrote: half a body would be another content under the same name."""
    with WebhookReceiver() as receiver:
        port = urlsplit(receiver.url).port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b'POST /alerts HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{"half":')
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        assert receiver.requests == []
