"""Webhooks against a real HTTP receiver on this machine: what is sent, and what follows each kind of answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from sinks.webhook import Delivery, Receiver, WebhookSink
from sinks.webhook_http import FAILURES, Response
from sinks.webhook_signature import verify
from tests.support.receiver import (
    Answer,
    Received,
    WebhookReceiver,
    gone,
    hang,
    redirect,
    reset,
    status,
    too_many,
)

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
NOW = 1_780_000_000.0
EXTERNAL_URL = "https://vigie.example"

FIRING: dict[str, Any] = {
    "transition_id": "0123456789abcdef-1",
    "fingerprint": "0123456789abcdef",
    "sequence": 1,
    "alertname": "bin_full",
    "jurisdiction_id": "999999999",
    "domain": "sensor",
    "asset_id": "bin-0001",
    "zone_layer": None,
    "zone_code": None,
    "category": None,
    "severity": "warning",
    "state": "firing",
    "at": 1_780_000_000_250,
    "starts_at": 1_779_999_940_000,
    "ends_at": None,
    "value": 0.83,
    "threshold": 0.8,
    "summary": "Conteneur bin-0001 : plein à 83 %",
}


@dataclass
class FakeClock:
    """Seconds that pass only in `sleep`, which remembers what it was asked for."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Scene:
    receiver: WebhookReceiver
    sink: WebhookSink
    clock: FakeClock

    def deliver(self, **changes: Any) -> Delivery:
        return self.sink.deliver({**FIRING, **changes})


@contextmanager
def scene(
    *script: Answer, secrets: tuple[str, ...] = (SECRET,), timeout_s: float = 5.0, **kept: Any
) -> Iterator[Scene]:
    clock = FakeClock()
    with (
        WebhookReceiver(script) as http,
        WebhookSink(
            Receiver("on-call", http.url, secrets, timeout_s),
            clock=clock,
            monotonic=time.monotonic,
            external_url=EXTERNAL_URL,
            **{"sleep": clock.sleep, **kept},
        ) as sink,
    ):
        yield Scene(http, sink, clock)


def independent_check(request: Received, secret: str) -> bool:
    """Standard Webhooks written again from its text, in a way that shares nothing with the code under test."""
    key = base64.b64decode(secret[6:])
    signed = request.headers["webhook-id"] + "." + request.headers["webhook-timestamp"] + "." + request.body.decode()
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return expected in request.headers["webhook-signature"].split(" ")


# --- deliveries


def test_a_delivery_is_one_signed_request() -> None:
    """200: delivered at the first attempt; a ten-line check of our own and `verify` both accept the request."""
    with scene() as s:
        assert s.deliver() == Delivery("delivered", 1, 200)
        (request,) = s.receiver.requests
        assert request.path == "/alerts"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["webhook-id"] == FIRING["transition_id"]
        assert request.headers["webhook-timestamp"] == str(int(NOW))
        assert independent_check(request, SECRET)
        assert not independent_check(replace(request, body=request.body + b" "), SECRET)
        verify(request.headers, request.body, (SECRET,), NOW)
        assert json.loads(request.body)["alerts"][0]["annotations"]["summary"] == FIRING["summary"]
        assert s.clock.slept == []


def test_every_secret_signs_during_a_rotation() -> None:
    """A receiver that knows only one of the two secrets accepts the request, whichever it is."""
    with scene(secrets=(SECRET, OTHER)) as s:
        s.deliver()
        (request,) = s.receiver.requests
        assert request.headers["webhook-signature"].count("v1,") == 2
        assert independent_check(request, SECRET)
        assert independent_check(request, OTHER)


def test_server_errors_are_retried_with_a_growing_delay() -> None:
    """5xx: same id and body each time, timestamp and signature of the attempt, delays that grow and differ."""
    with scene(*(status(code) for code in (500, 502, 503, 504, 500))) as s:
        assert s.deliver() == Delivery("delivered", 6, 200)
        requests = s.receiver.requests
        assert {r.headers["webhook-id"] for r in requests} == {FIRING["transition_id"]}
        assert len({r.body for r in requests}) == 1
        assert len({r.headers["webhook-timestamp"] for r in requests}) > 3
        assert all(independent_check(r, SECRET) for r in requests)
        slept = s.clock.slept
        assert slept == sorted(slept)
        assert all(0.5 * 2**n <= delay <= 0.5 * 2**n + 0.5 for n, delay in enumerate(slept))
        assert s.receiver.connections == 1, "the connection is kept over the attempts"


def test_delays_are_drawn() -> None:
    """Many workers that failed together do not come back together."""
    first = set()
    for _ in range(5):
        with scene(status(500)) as s:
            s.deliver()
            first.update(s.clock.slept)
    assert len(first) > 1


def test_too_many_requests_waits_as_long_as_asked() -> None:
    """429 and 503 with Retry-After, in seconds or as a date, are not retried before that."""
    date = format_datetime(datetime.fromtimestamp(NOW + 100, UTC), usegmt=True)
    with scene(too_many("30"), too_many(date), too_many("7", code=503)) as s:
        assert s.deliver() == Delivery("delivered", 4, 200)
        assert s.clock.slept[0] == 30
        assert s.clock.slept[1] == pytest.approx(70)
        assert s.clock.slept[2] == 7


@pytest.mark.parametrize(
    "header",
    [None, "", "soon", "-5", "0", "1e3", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan 2026 00:00:00 GMT",
     "Thu, 01 Jan 2026 00:00:00 +999999999999999999999", "Thu Jan  1 00:00:00 2026"],
)  # fmt: skip
def test_a_retry_after_that_says_nothing_is_the_ordinary_delay(header: str | None) -> None:
    """Missing, malformed, negative and past values fall back to the growing delay."""
    with scene(too_many(header)) as s:
        assert s.deliver() == Delivery("delivered", 2, 200)
        assert 0.5 <= s.clock.slept[0] <= 1.0


@pytest.mark.parametrize("header", ["301", "9" * 6000, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_beyond_the_budget_gives_up_at_once(header: str) -> None:
    """There is no point in holding the thread for an attempt that will not be made; how long was asked for is told."""
    with scene(too_many(header), budget_s=300.0) as s:
        answer = s.deliver()
        assert answer == Delivery("gave_up", 1, 429, retry_after_s=answer.retry_after_s)
        assert 301 <= answer.retry_after_s <= 1e9
        assert s.clock.slept == []


def test_the_budget_ends_the_attempts() -> None:
    """A receiver that stays down is given up within the budget, and the next transition is tried afresh."""
    with scene(*[status(500)] * 30, budget_s=60.0) as s:
        answer = s.deliver()
        assert answer.outcome == "gave_up"
        assert answer.status == 500
        assert answer.attempts == len(s.receiver.requests) == len(s.clock.slept) + 1
        assert 15 < sum(s.clock.slept) <= 60
        again = len(s.receiver.requests)
        assert s.deliver(transition_id="0123456789abcdef-2").outcome == "gave_up"
        assert len(s.receiver.requests) > again


@pytest.mark.parametrize("code", [400, 413, 415, 422])
def test_a_body_that_is_refused_is_final(code: int) -> None:
    """The same body would be refused again; the next one is sent."""
    with scene(status(code)) as s:
        assert s.deliver() == Delivery("refused", 1, code)
        assert s.deliver() == Delivery("delivered", 1, 200)


@pytest.mark.parametrize("code", [408, 409, 425, 401, 403, 404, 405, 418, 451])
def test_other_client_errors_are_tried_again_and_not_lost(code: int) -> None:
    """Too slow, too early, a secret being rotated, a wrong path, a balancer during a deploy: nothing that another
    attempt could not end. Beyond the budget it is given up for now, and said whether to look at the settings."""
    with scene(status(code), status(code)) as s:
        assert s.deliver() == Delivery("delivered", 3, 200)
        assert s.clock.slept == sorted(s.clock.slept)
    with scene(*[status(code)] * 30, budget_s=60.0) as s:
        answer = s.deliver()
        assert (answer.outcome, answer.status) == ("gave_up", code)
        assert answer.attempts == len(s.receiver.requests) > 3
        assert answer.is_misdirected is (code not in (408, 409, 425))


def test_each_failed_attempt_is_told_before_the_delay() -> None:
    """Whoever is on call need not wait for the budget to end to hear that nothing arrives, and why."""
    so_far: list[Delivery] = []
    with scene(status(401), too_many("2"), reset()) as s:
        assert s.sink.deliver(FIRING, so_far.append) == Delivery("delivered", 4, 200)
    assert [(one.outcome, one.attempts, one.status, one.retry_after_s) for one in so_far] == [
        ("gave_up", 1, 401, 0), ("gave_up", 2, 429, 2), ("gave_up", 3, None, 0),
    ]  # fmt: skip
    assert [one.is_misdirected for one in so_far] == [True, False, False]


def test_whoever_asks_hears_what_each_attempt_brought() -> None:
    """The answer as it came, or the failure in its place, in order; the delivery itself holds neither."""
    heard: list[Response | Exception] = []
    with scene(status(500, b"later"), reset(), status(200, b"thanks"), on_answer=heard.append) as s:
        delivery = s.deliver()
    assert delivery == Delivery("delivered", 3, 200)
    first, second, third = heard
    assert isinstance(first, Response)
    assert isinstance(third, Response)
    assert isinstance(second, FAILURES)
    assert [(one.status, one.start) for one in (first, third)] == [(500, b"later"), (200, b"thanks")]
    assert "thanks" not in repr(delivery)


def test_gone_disables_the_endpoint() -> None:
    """After 410 nothing is sent to this endpoint any more, not even for another transition."""
    with scene(status(500), gone()) as s:
        assert not s.sink.disabled
        assert s.deliver() == Delivery("disabled", 2, 410)
        assert s.sink.disabled
        assert s.deliver(transition_id="0123456789abcdef-2") == Delivery("disabled", 0, None)
        assert len(s.receiver.requests) == 2


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code: int) -> None:
    """An alert goes where the operator said; they hear that this is elsewhere now, and the alert is not lost."""
    with WebhookReceiver() as elsewhere, scene(redirect(f"{elsewhere.origin}/other", code), budget_s=0.1) as s:
        answer = s.deliver()
        assert answer == Delivery("gave_up", 1, code)
        assert answer.is_misdirected
        assert len(s.receiver.requests) == 1
        assert elsewhere.requests == []


def test_a_hanging_receiver_is_left_after_the_timeout() -> None:
    """A receiver that takes the request and says nothing costs one timeout, then the attempt is repeated."""
    began = time.monotonic()
    # Time enough for the second attempt on a busy machine.
    with scene(hang(), timeout_s=0.5) as s:
        assert s.deliver() == Delivery("delivered", 2, 200)
        assert time.monotonic() - began < 4
    with scene(hang(), timeout_s=0.05, budget_s=0.1) as s:
        assert s.deliver() == Delivery("gave_up", 1, None, "ReadTimeout")


def test_a_reset_connection_is_retried() -> None:
    """A connection cut before the answer is a network error."""
    with scene(reset(), reset()) as s:
        assert s.deliver() == Delivery("delivered", 3, 200)
        assert len({r.headers["webhook-id"] for r in s.receiver.requests}) == 1
    with scene(reset(), budget_s=0.1) as s:
        answer = s.deliver()
        assert (answer.outcome, answer.attempts, answer.status) == ("gave_up", 1, None)
        assert answer.error in ("ReadError", "RemoteProtocolError")


def test_a_refused_connection_is_retried() -> None:
    """Nobody listens: a network error like another, within the budget."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    clock = FakeClock()
    receiver = Receiver("on-call", f"http://127.0.0.1:{port}/", (SECRET,))
    kept: dict[str, Any] = {"clock": clock, "monotonic": time.monotonic, "sleep": clock.sleep}
    with WebhookSink(receiver, external_url="", budget_s=5.0, **kept) as sink:
        answer = sink.deliver(FIRING)
    assert (answer.outcome, answer.status, answer.error) == ("gave_up", None, "ConnectError")
    assert answer.attempts >= 3


def test_a_large_answer_is_not_read_to_its_end() -> None:
    """The status decides; a receiver cannot fill our memory: the connection is dropped, the next delivery works."""
    with scene(status(200, body=b"x" * 8_000_000)) as s:
        assert s.deliver() == Delivery("delivered", 1, 200)
        assert s.deliver() == Delivery("delivered", 1, 200)
        assert s.receiver.connections == 2


def test_an_answer_that_stops_in_its_middle_still_counts() -> None:
    """The status line said 200, so the transition is delivered; asking again would tell it twice."""
    with scene(Answer(200, {"Content-Length": "50"}, body=b"{")) as s:
        assert s.deliver() == Delivery("delivered", 1, 200)
        assert s.deliver() == Delivery("delivered", 1, 200)


def test_one_sink_serves_many_threads() -> None:
    """Twenty transitions from eight threads through failures: each is delivered, under its own id."""
    script = [status(500) if i % 3 == 0 else status(200) for i in range(20)]
    with scene(*script, sleep=lambda _: None) as s, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: s.deliver(transition_id=f"t-{i}"), range(20)))
        assert {a.outcome for a in answers} == {"delivered"}
        assert {r.headers["webhook-id"] for r in s.receiver.requests} == {f"t-{i}" for i in range(20)}
        assert sum(a.attempts for a in answers) == len(s.receiver.requests)


def test_closing_ends_deliveries_that_wait() -> None:
    """At shutdown no thread sits out a long delay: it gives up, the caller will send again."""
    with scene(too_many("250"), sleep=None) as s:
        answers: list[Delivery] = []
        thread = threading.Thread(target=lambda: answers.append(s.deliver()))
        thread.start()
        s.receiver.wait_for(1)
        # Time for the answer to arrive and the long delay to begin; if that takes longer, the outcome is the same.
        time.sleep(0.05)
        s.sink.close()
        thread.join(5)
        assert not thread.is_alive()
        (answer,) = answers
        assert answer.outcome == "gave_up"
        assert len(s.receiver.requests) == 1
        assert s.deliver() == Delivery("gave_up", 1, None, "Closed")
        s.sink.close()


# --- secrets and settings


def test_secrets_stay_out_of_logs_and_reprs(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the secret nor its bytes nor the URL's path appear where people look when something fails."""
    with caplog.at_level(logging.DEBUG), scene(reset(), status(500), too_many("1")) as s:
        answer = s.deliver()
        told = caplog.text + repr(s.sink) + repr(s.sink.receiver) + str(s.sink.receiver) + repr(answer)
    assert "alerts" not in repr(s.sink.receiver)
    for secret in (SECRET, SECRET.removeprefix("whsec_"), repr(bytes(range(32)))):
        assert secret not in told
