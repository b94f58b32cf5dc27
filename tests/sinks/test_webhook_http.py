"""One deadline over a whole request: whatever a receiver does with its time, an attempt ends."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sinks import webhook_http
from sinks.webhook import Delivery
from sinks.webhook_http import HttpClient
from tests.sinks.test_webhook import scene
from tests.support.receiver import WebhookReceiver, drip_body, drip_head, hang, status

_TIMEOUT_S: Final = 0.1
#: Far beyond the deadlines of these tests, and far below what a receiver could do without one.
_SOON_S: Final = 4.0


@contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < _SOON_S


@contextmanager
def client(**kept: Any) -> Iterator[HttpClient]:
    one = HttpClient(time.monotonic, **kept)
    try:
        yield one
    finally:
        one.close()


def post(one: HttpClient, url: str, content: bytes = b"{}", timeout_s: float = _TIMEOUT_S) -> int:
    return one.post(url, {"content-type": "application/json"}, content, timeout_s).status


def test_an_answer_that_drips_is_left_at_the_deadline() -> None:
    """A byte now and then is within every single timeout: only one over all of them ends the attempt."""
    with soon(), scene(drip_head(), timeout_s=_TIMEOUT_S) as s:
        assert s.deliver() == Delivery("delivered", 2, 200)
        assert s.receiver.connections == 2, "what drips is not used again"
    with soon(), scene(drip_head(), timeout_s=_TIMEOUT_S, budget_s=0.1) as s:
        assert s.deliver() == Delivery("gave_up", 1, None, "ReadTimeout")


def test_a_body_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status has decided, long before the deadline: a new connection is cheaper than the rest of the body."""
    monkeypatch.setattr(webhook_http, "_DRAIN_S", 0.05)
    with soon(), scene(drip_body(), drip_body(400), timeout_s=60.0) as s:
        assert s.deliver() == Delivery("delivered", 1, 200)
        assert s.deliver() == Delivery("refused", 1, 400)
        assert s.deliver() == Delivery("delivered", 1, 200)
        assert s.receiver.connections == 3


def test_a_receiver_that_does_not_read_is_left_at_the_deadline() -> None:
    """A request that fills every buffer on the way ends as well."""
    with socket.create_server(("127.0.0.1", 0)) as silent, client() as one, soon():
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(httpcore.WriteTimeout):
            post(one, url, content=b"x" * 32_000_000)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with several addresses is reached as long as one of them answers; with none, by the deadline it is not."""
    with WebhookReceiver() as receiver, full("127.0.0.2", int(receiver.origin.rpartition(":")[2])), client() as one:
        monkeypatch.setattr(webhook_http, "_addresses", lambda host, port: ["127.0.0.2", "127.0.0.3", "127.0.0.1"])
        with soon():
            assert post(one, receiver.url, timeout_s=0.3) == 200
    with WebhookReceiver() as receiver, full("127.0.0.2", int(receiver.origin.rpartition(":")[2])), client() as one:
        monkeypatch.setattr(webhook_http, "_addresses", lambda host, port: ["127.0.0.2"])
        with soon(), pytest.raises(httpcore.ConnectTimeout):
            post(one, receiver.url)
        monkeypatch.setattr(webhook_http, "_addresses", lambda host, port: [])
        with pytest.raises(httpcore.ConnectError):
            post(one, receiver.url)


@contextmanager
def full(host: str, port: int) -> Iterator[None]:
    """A place where connecting takes for ever: its queue is full and nobody takes anything from it."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind((host, port))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield


def test_a_name_that_cannot_be_looked_up_is_a_failure_like_another() -> None:
    """A typing error in the host is told as what it is, and is no bug of ours."""
    with client() as one, pytest.raises(httpcore.ConnectError):
        post(one, f"https://{'a' * 70}.example/")


def test_connections_are_kept_and_requests_are_whole() -> None:
    """Two requests, one connection; each names its host and the length of its body, and nothing of ours."""
    with WebhookReceiver([status(503), status(204, body=b"")]) as receiver, client() as one:
        assert (post(one, receiver.url + "?a=b c", b"{}"), post(one, receiver.url, b"[1]")) == (503, 204)
        assert receiver.connections == 1
        first, second = receiver.requests
    assert first.path == "/alerts?a=b%20c"
    assert first.headers == {
        "host": receiver.origin.removeprefix("http://"), "content-type": "application/json", "content-length": "2",
    }  # fmt: skip
    assert second.body == b"[1]"


def test_the_beginning_of_an_answer_is_kept() -> None:
    """Enough for a person to read why, and no more of it than that; without a body there is none."""
    with (
        WebhookReceiver([status(400, b"why"), status(500, b"x" * 50_000), status(204, b"")]) as receiver,
        client() as one,
    ):
        starts = [one.post(receiver.url, {}, b"{}", 5.0).start for _ in range(3)]
    assert starts == [b"why", b"x" * 2_048, b""]


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1's own making with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    return path


def over_tls(receiver: WebhookReceiver, certificate: Path) -> str:
    """The receiver's address once it speaks TLS."""
    receiver.speak_tls(certificate)
    return receiver.url.replace("http://127.0.0.1", "https://localhost")


def test_tls_within_the_deadline(certificate: Path) -> None:
    """A receiver with a certificate that is trusted is told; it may drip as little as another."""
    trust = ssl.create_default_context(cafile=certificate)
    with WebhookReceiver([status(200), drip_head(), hang()]) as receiver, client(trust=trust) as one, soon():
        url = over_tls(receiver, certificate)
        assert post(one, url, timeout_s=2.0) == 200
        for _ in range(2):
            with pytest.raises(httpcore.ReadTimeout):
                post(one, url)


def test_a_certificate_that_is_not_trusted_is_refused(certificate: Path) -> None:
    """Whoever answers in the receiver's place learns of no alert."""
    with WebhookReceiver() as receiver, client() as one:
        url = over_tls(receiver, certificate)
        with pytest.raises(httpcore.ConnectError, match="certificate"):
            post(one, url, timeout_s=2.0)
        assert receiver.requests == []


def test_a_handshake_that_hangs_is_left_at_the_deadline() -> None:
    """Somebody accepts the connection and says nothing of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent, client() as one:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with soon(), pytest.raises(httpcore.ConnectTimeout):
            post(one, url)
