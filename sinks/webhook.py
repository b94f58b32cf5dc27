"""Webhooks: one alert transition, signed (Standard Webhooks), in the body Alertmanager sends (version 4).

A delivery is synchronous and belongs in a thread. It never raises for what a receiver does: the outcome is data.
Nothing here logs; the caller logs the `Delivery`, which holds no secret, no URL and no answer text. Whoever wants to
read an answer is given it as it comes (`on_answer`).

What an answer says of the transition itself is final: 2xx takes it, 400, 413, 415 and 422 refuse its body, 410 refuses
all that will come. Every other answer, and none, says something of the moment, of the address (3xx, 404) or of the
signature (401, 403): somebody can put that right, so it is tried again within a budget and not lost after it.

Retrying may deliver a transition twice (the receiver acted, its answer was lost): `webhook-id` is the same both
times, and receivers that act once per identifier act once. They answer 2xx to what they know already; 409 asks for it
again.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx
import tenacity

from sinks.webhook_http import FAILURES, HttpClient, Response
from sinks.webhook_signature import key_of, sign

Outcome = Literal["delivered", "refused", "disabled", "gave_up"]

#: States that are told, under Alertmanager's names. An acknowledgement is our own affair, and an alert that expired was
#: never told: it becomes so from pending alone.
_TOLD: Final = frozenset({"firing", "resolved"})
#: 4xx that say nothing of what was sent: it took too long, or came too early or in the way of something else.
_NOT_NOW: Final = frozenset({408, 409, 425, 429})
#: 4xx that refuse the body. A retry would send the same one.
_BODY_REFUSED: Final = frozenset({400, 413, 415, 422})
#: What identifies an alert, where it has them.
LABELS: Final = (
    "alertname", "jurisdiction_id", "domain", "asset_id", "zone_layer", "zone_code", "category", "severity",
)  # fmt: skip
#: Go's zero time, which Alertmanager writes for "has not ended".
_NOT_ENDED: Final = "0001-01-01T00:00:00Z"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 60.0
#: Not above the first delay, so that each delay is at least as long as the one before, whatever the draw.
_JITTER_S: Final = 0.5
#: Keeps sums with hostile `Retry-After` values finite; far beyond any budget.
_FOREVER_S: Final = 1e9


@dataclass(frozen=True)
class Receiver:
    """Where alerts go.

    `secrets` are `whsec_<base64>`, at least one; during a rotation every one of them signs. `timeout_s` bounds one
    attempt as a whole, from connecting to the status (see sinks.webhook_http). Raises ValueError, which names the
    receiver and never quotes a secret, for a URL that is not http(s) or holds credentials and for an unusable secret.
    """

    name: str
    url: str
    secrets: tuple[str, ...] = field(repr=False)
    timeout_s: float = 15.0

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ValueError(f"receiver {self.name}: url cannot be parsed; write https://host/path") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"receiver {self.name}: url must begin with https:// or http:// and name a host")
        if url.userinfo:
            raise ValueError(f"receiver {self.name}: url must not hold a user or password; receivers check signatures")
        if not self.secrets:
            raise ValueError(f"receiver {self.name}: secrets is empty; give at least one whsec_<base64>")
        if not self.timeout_s > 0:
            raise ValueError(f"receiver {self.name}: timeout_s must be above 0")
        for i, secret in enumerate(self.secrets):
            try:
                key_of(secret)
            except ValueError as error:
                raise ValueError(f"receiver {self.name}: secrets[{i}]: {error}") from None

    @property
    def host(self) -> str:
        """What may be shown of the URL: many services put a token into the path or the query."""
        return httpx.URL(self.url).host

    def __repr__(self) -> str:
        return f"Receiver(name={self.name!r}, host={self.host!r}, secrets=<{len(self.secrets)}>)"


@dataclass(frozen=True)
class Delivery:
    """What became of one delivery.

    `delivered`: the receiver answered 2xx. `refused`: it will not take this body; sending again is pointless.
    `disabled`: it answered 410, now or to an earlier delivery (then `attempts` is 0). `gave_up`: the budget ended
    first; sending again later may succeed, and not before `retry_after_s` if the receiver asked for that. `status` is
    the last HTTP status, None when the last attempt got no answer; `error` then names the kind of failure.
    """

    outcome: Outcome
    attempts: int
    status: int | None
    error: str | None = None
    retry_after_s: float = 0.0

    @property
    def is_misdirected(self) -> bool:
        """Whether the answer speaks of the address or the signature: the settings, or the receiver's, are wrong."""
        return (
            self.outcome == "gave_up"
            and self.status is not None
            and 300 <= self.status < 500
            and self.status not in _NOT_NOW
        )


def is_notified(transition: Mapping[str, Any]) -> bool:
    """Whether entering this state is told to receivers: firing and resolved are.

    An alert is resolved only after it has fired; one whose condition ended before has expired, and nobody hears of it.
    """
    return transition["state"] in _TOLD


def _rfc3339(instant: datetime | int) -> str:
    """`instant` is an aware datetime or milliseconds since 1970, as frames and Avro values have it."""
    when = _EPOCH + timedelta(milliseconds=instant) if isinstance(instant, int) else instant
    if when.tzinfo is None:
        raise ValueError("an instant of a transition has no time zone; give UTC")
    return when.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def body(transition: Mapping[str, Any], receiver: Receiver, external_url: str) -> bytes:
    """The request body for one transition (the fields of the Alert contract): Alertmanager v4 with one alert.

    Labels identify and are all text; values are annotations, as text. The group is the alert itself. The same
    transition gives the same bytes. Raises ValueError for a state that is not notified (see `is_notified`).
    """
    status = transition["state"]
    if not is_notified(transition):
        raise ValueError(f"state {status!r} is not notified; ask is_notified() first")
    labels = {name: str(transition[name]) for name in LABELS if transition.get(name) is not None}
    annotations = {"summary": str(transition["summary"])}
    for name in ("value", "threshold"):
        if transition.get(name) is not None:
            annotations[name] = repr(float(transition[name]))
    ended = transition.get("ends_at")
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": _rfc3339(transition["starts_at"]),
        "endsAt": _NOT_ENDED if status == "firing" else _rfc3339(transition["at"] if ended is None else ended),
        "generatorURL": external_url,
        "fingerprint": transition["fingerprint"],
    }
    group = ", ".join(f"{name}={json.dumps(labels[name], ensure_ascii=False)}" for name in sorted(labels))
    message = {
        "version": "4",
        "groupKey": f"{{}}:{{{group}}}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": receiver.name,
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": external_url,
        "alerts": [alert],
    }
    return json.dumps(message, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class _Answer:
    """What one attempt brought: a status, or the name of the failure that prevented one."""

    status: int | None
    retry_after_s: float = 0.0
    error: str | None = None

    @property
    def outcome(self) -> Outcome:
        """What it is when no other attempt follows; one follows, within the budget, where it is `gave_up`."""
        if self.status == 410:
            return "disabled"
        if self.status in _BODY_REFUSED:
            return "refused"
        return "delivered" if self.status is not None and 200 <= self.status < 300 else "gave_up"


def _retry_after_s(value: str | None, now: float) -> float:
    """Seconds that a `Retry-After` header asks for (a number of seconds or an HTTP date); 0 when it says nothing."""
    text = (value or "").strip()
    try:
        if text.isascii() and text.isdecimal():
            return min(float(text), _FOREVER_S)
        when = parsedate_to_datetime(text)
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return min(max(aware.timestamp() - now, 0.0), _FOREVER_S)
    except (ValueError, OverflowError):
        return 0.0


class WebhookSink:
    """Delivers transitions to one receiver, from any number of threads.

    `clock` gives seconds since 1970, `monotonic` seconds that never go back. No attempt begins when the delay before
    it would end more than `budget_s` seconds after the delivery began; the last attempt may itself last as long as
    the receiver's `timeout_s`. A receiver that answers 410 is disabled until a new sink is made for it. `sleep` takes
    seconds; by default it ends early when the sink is closed, and deliveries under way then give up. `on_answer` hears,
    in the thread of the delivery, what each attempt brought: an answer, or the failure in its place.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        external_url: str,
        budget_s: float = 300.0,
        sleep: Callable[[float], None] | None = None,
        on_answer: Callable[[Response | Exception], None] = lambda answer: None,
    ) -> None:
        self.receiver = receiver
        self._clock = clock
        self._external_url = external_url
        self._budget_s = budget_s
        self._client = HttpClient(monotonic)
        self._on_answer = on_answer
        self._disabled = threading.Event()
        self._closed = threading.Event()
        self._idle = threading.Condition()
        self._attempts_under_way = 0
        self._sleep = sleep or tenacity.sleep_using_event(self._closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def disabled(self) -> bool:
        """Whether the receiver answered 410 Gone."""
        return self._disabled.is_set()

    def close(self) -> None:
        """Let attempts under way end, make deliveries that wait give up, close the connections. Safe to call twice.

        Blocks until attempts under way have ended, for `timeout_s` at most and what looking up a name takes: their
        outcome is worth knowing.
        """
        self._closed.set()
        with self._idle:
            self._idle.wait_for(lambda: self._attempts_under_way == 0)
        self._client.close()

    def deliver(
        self, transition: Mapping[str, Any], on_retry: Callable[[Delivery], None] = lambda so_far: None
    ) -> Delivery:
        """Tell the receiver of one transition (the fields of the Alert contract); blocks until it is decided.

        `on_retry` is called, in this thread, before each delay with what it would come to without another attempt.
        Raises ValueError for a state that is not notified, and nothing for what the receiver or the network does.
        """
        message = body(transition, self.receiver, self._external_url)
        if self._disabled.is_set():
            return Delivery("disabled", 0, None)
        webhook_id = str(transition["transition_id"])
        started = self._clock()
        growing = tenacity.wait_exponential(_FIRST_DELAY_S, max=_LONGEST_DELAY_S) + tenacity.wait_random(0, _JITTER_S)
        attempts = 0

        def attempt() -> _Answer:
            nonlocal attempts
            attempts += 1
            with self._under_way() as is_open:
                return self._post(webhook_id, message) if is_open else _Answer(None, error="Closed")

        def delivery(answer: _Answer) -> Delivery:
            return Delivery(answer.outcome, attempts, answer.status, answer.error, answer.retry_after_s)

        def delay_s(state: tenacity.RetryCallState) -> float:
            return max(growing(state), _result(state).retry_after_s)

        def is_over(state: tenacity.RetryCallState) -> bool:
            return self._closed.is_set() or self._clock() - started + state.upcoming_sleep > self._budget_s

        answer = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda answer: answer.outcome == "gave_up"),
            wait=delay_s,
            stop=is_over,
            sleep=self._sleep,
            before_sleep=lambda state: on_retry(delivery(_result(state))),
            retry_error_callback=_result,
        )(attempt)
        if answer.outcome == "disabled":
            self._disabled.set()
        return delivery(answer)

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[bool]:
        """Keep the client open for one attempt; gives False when it is too late for another."""
        with self._idle:
            is_open = not self._closed.is_set()
            self._attempts_under_way += is_open
        try:
            yield is_open
        finally:
            with self._idle:
                self._attempts_under_way -= is_open
                self._idle.notify_all()

    def _post(self, webhook_id: str, message: bytes) -> _Answer:
        timestamp = int(self._clock())
        signatures = " ".join(sign(secret, webhook_id, timestamp, message) for secret in self.receiver.secrets)
        headers = {
            "accept": "*/*",
            "content-type": "application/json",
            "user-agent": "vigie",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures,
        }
        try:
            response = self._client.post(self.receiver.url, headers, message, self.receiver.timeout_s)
        except FAILURES as error:
            self._on_answer(error)
            return _Answer(None, error=type(error).__name__)
        self._on_answer(response)
        after = _retry_after_s(response.headers.get("retry-after"), self._clock())
        return _Answer(response.status, retry_after_s=after)


def _result(state: tenacity.RetryCallState) -> _Answer:
    if state.outcome is None:
        raise RuntimeError("asked for the answer before the first attempt ended")
    answer: _Answer = state.outcome.result()
    return answer
