"""`vigie alert test`: one delivery by the code that delivers real alerts, and what its answer means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Literal

from processors.alerts import AlertBook, to_record
from processors.detect.findings import Finding, findings
from sinks.webhook import Delivery, Receiver, WebhookSink
from sinks.webhook_http import Response
from streams.clock import WallClock, monotonic_s

#: The name of the rule, which no real one has.
ALERTNAME: Final = "VigieTest"
#: Stands where an authority's SIREN does: none begins with nine zeros.
_NO_AUTHORITY: Final = "000000000"
_SUMMARIES: Final[Mapping[str, str]] = {
    "firing": "TEST of this receiver by `vigie alert test`: nothing has happened, nobody needs to act",
    "resolved": "TEST of this receiver by `vigie alert test`: the test alert has ended",
}
#: Of an answer and of where a redirect points.
_MOST_SHOWN: Final = 300
_MASK: Final = "********"

_FAILURES: Final[Mapping[str, str]] = {
    "ConnectError": "no connection",
    "ConnectTimeout": "no connection in time",
    "ReadTimeout": "no answer in time",
    "WriteTimeout": "it did not take the request in time",
    "ReadError": "the connection was cut before an answer",
    "WriteError": "the connection was cut before an answer",
    "RemoteProtocolError": "what it answered is not HTTP",
    "LocalProtocolError": "the request could not be written as HTTP",
}


def notifications(severity: str, resolve: bool, now_ms: int) -> Iterator[dict[str, Any]]:
    """The transitions of a test alert that begins now: firing, and resolved with `resolve` (values of the contract)."""
    book = AlertBook()
    for raised in (True, False) if resolve else (True,):
        found = Finding(
            rule=ALERTNAME,
            jurisdiction_id=_NO_AUTHORITY,
            domain="unknown",
            asset_id="vigie-test",
            zone_layer=None,
            zone_code=None,
            category=None,
            at=now_ms,
            raised=raised,
            value=None,
            threshold=None,
            severity=severity,
            hold_s=0.0,
            watermark=None,
        )
        for transition in book.step(findings([found]), now_ms):
            yield to_record(replace(transition, summary=_SUMMARIES[transition.state]))


@dataclass(frozen=True)
class Trial:
    """One notification that was sent once: what came of it, in seconds, and the answer or the failure in its place."""

    status: Literal["firing", "resolved"]
    webhook_id: str
    host: str
    delivery: Delivery
    seconds: float
    answer: Response | Exception

    def lines(self, secrets: Sequence[str]) -> Iterator[str]:
        """What a person is told. Of the answer only its beginning, on one line, without the secrets."""
        yield f"{ALERTNAME} {self.status} to {self.host}, webhook-id {self.webhook_id}"
        yield _line("answer", f"{self._what(secrets)}, after {self.seconds * 1_000:,.0f} ms")
        if isinstance(self.answer, Response):
            if 300 <= self.answer.status < 400 and (place := self.answer.headers.get("location")):
                yield _line("it points to", _shown(place.encode("latin-1", "replace"), secrets))
            if self.answer.start.strip():
                yield _line("it says", _shown(self.answer.start, secrets))
        yield _line("a real alert", _consequence(self.delivery))
        if self.delivery.is_misdirected:
            yield _line("look at", _advice(self.delivery.status or 0))

    def _what(self, secrets: Sequence[str]) -> str:
        if isinstance(self.answer, Response):
            return _named(self.answer.status)
        kind = type(self.answer).__name__
        detail = _shown(str(self.answer).encode(), secrets)
        return f"none: {_FAILURES.get(kind, kind)}{f' ({detail})' if detail else ''}"


def tried(receiver: Receiver, external_url: str, severity: str, resolve: bool) -> Iterator[Trial]:
    """Send a test alert, each of its notifications once and only after the one before was taken."""
    clock = WallClock()
    answers: list[Response | Exception] = []
    with WebhookSink(
        receiver,
        clock=lambda: clock.now_ms() / 1_000,
        monotonic=monotonic_s,
        external_url=external_url,
        # No delay fits into it, so there is one attempt.
        budget_s=0.0,
        on_answer=answers.append,
    ) as sink:
        for transition in notifications(severity, resolve, clock.now_ms()):
            started_s = monotonic_s()
            delivery = sink.deliver(transition)
            yield Trial(
                status=transition["state"],
                webhook_id=transition["transition_id"],
                host=receiver.host,
                delivery=delivery,
                seconds=monotonic_s() - started_s,
                answer=answers[-1],
            )
            if delivery.outcome != "delivered":
                return


def _line(name: str, words: str) -> str:
    return f"  {name:<12}  {words}"


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}"


def _shown(text: bytes, secrets: Sequence[str]) -> str:
    """The beginning of what somebody else wrote, fit for a terminal."""
    words = " ".join(text.decode("utf-8", "replace").split())
    for secret in secrets:
        # Whole, and as the receiver may keep it.
        for part in (secret, secret.removeprefix("whsec_")):
            words = words.replace(part, _MASK)
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
    return plain if len(plain) <= _MOST_SHOWN else f"{plain[:_MOST_SHOWN]} …"


def _consequence(delivery: Delivery) -> str:
    """What a worker does with that answer (sinks/webhook.py, streams/notify.py)."""
    if delivery.outcome == "delivered":
        return "counts as told, and is not sent again"
    if delivery.outcome == "refused":
        return "is given up and logged as an error: this answer refuses what was sent, for good"
    if delivery.outcome == "disabled":
        return "is given up, and so are all after it, until the worker that tells alerts is started again"
    asked = ""
    if delivery.retry_after_s:
        asked = f"; it asks for {delivery.retry_after_s:,.0f} s, and is believed up to VIGIE_WEBHOOK_BUDGET_S"
    return f"is sent again, up to a minute apart, until it is taken or refused; those behind it wait{asked}"


def _advice(status: int) -> str:
    """Where the mistake is when the answer is none about the alert. A worker logs it as an error."""
    if status < 400:
        return "the address: redirects are not followed"
    if status in (401, 403):
        return "the secrets on both sides: it does not accept the signature"
    return "the address: no receiver of alerts seems to be there"
