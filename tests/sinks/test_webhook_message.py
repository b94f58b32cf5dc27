"""Webhook messages without a network: signatures, bodies, and the settings of a receiver."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.contracts import examples
from sinks.webhook import Receiver, body, is_notified
from sinks.webhook_signature import SignatureError, key_of, new_secret, sign, verify
from tests.sinks.test_webhook import EXTERNAL_URL, FIRING, NOW, OTHER, SECRET, independent_check
from tests.support.receiver import Received

# --- signatures


def test_signature_is_that_of_the_reference_vector() -> None:
    """The vector of the Standard Webhooks reference libraries: same secret, id, timestamp and body, same signature."""
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_new_secrets_are_secrets() -> None:
    """Of 256 bits, and never the same."""
    first, second = new_secret(), new_secret()
    assert len(key_of(first)) == len(key_of(second)) == 32
    assert first != second


def signed(secret: str = SECRET, timestamp: int = int(NOW), message: bytes = b"{}") -> dict[str, str]:
    return {
        "Webhook-Id": "t-1",
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": sign(secret, "t-1", timestamp, message),
    }


def test_verify_accepts_what_sign_made_under_any_known_secret() -> None:
    """During a rotation both secrets are known; header names come in any case; other signature versions are skipped."""
    verify(signed(), b"{}", (SECRET,), NOW)
    verify(signed(OTHER), b"{}", (SECRET, OTHER), NOW)
    both = signed() | {"Webhook-Signature": f"v1a,AAAA {sign(OTHER, 't-1', int(NOW), b'{}')}"}
    verify(both, b"{}", (OTHER,), NOW + 299)
    assert independent_check(Received("POST", "/", {k.lower(): v for k, v in both.items()}, b"{}"), OTHER)


@pytest.mark.parametrize(
    ("change", "message", "secrets", "now"),
    [
        ({}, b"{ }", (SECRET,), NOW),
        ({}, b"{}", (OTHER,), NOW),
        ({}, b"{}", (), NOW),
        ({}, b"{}", (SECRET,), NOW + 301),
        ({}, b"{}", (SECRET,), NOW - 301),
        ({"Webhook-Id": "t-2"}, b"{}", (SECRET,), NOW),
        ({"Webhook-Timestamp": str(int(NOW) + 1)}, b"{}", (SECRET,), NOW),
        ({"Webhook-Timestamp": "soon"}, b"{}", (SECRET,), NOW),
        ({"Webhook-Timestamp": "²"}, b"{}", (SECRET,), NOW),
        ({"Webhook-Timestamp": "9" * 5000}, b"{}", (SECRET,), NOW),
        ({"Webhook-Signature": ""}, b"{}", (SECRET,), NOW),
        ({"Webhook-Signature": "v1,é"}, b"{}", (SECRET,), NOW),
        ({"Webhook-Signature": "v2," + sign(SECRET, "t-1", int(NOW), b"{}")[3:]}, b"{}", (SECRET,), NOW),
    ],
    ids=[
        "body", "secret", "no-secret", "old", "early", "id", "other-timestamp", "word", "superscript", "digits",
        "no-signature", "not-ascii", "version",
    ],
)  # fmt: skip
def test_verify_refuses_everything_else(
    change: dict[str, str], message: bytes, secrets: tuple[str, ...], now: float
) -> None:
    """Another body, secret, id, instant or version is refused with one kind of error, never with another."""
    with pytest.raises(SignatureError):
        verify(signed() | change, message, secrets, now)


# --- bodies


def sent(transition: dict[str, Any]) -> dict[str, Any]:
    receiver = Receiver("on-call", "https://receiver.example/alerts", (SECRET,))
    message = json.loads(body(transition, receiver, EXTERNAL_URL))
    assert isinstance(message, dict)
    return message


def test_body_of_a_firing_alert_is_alertmanager_version_4() -> None:
    """Every field of Alertmanager's webhook body is there; an alert that lasts ends at Go's zero time."""
    labels = {
        "alertname": "bin_full",
        "asset_id": "bin-0001",
        "domain": "sensor",
        "jurisdiction_id": "999999999",
        "severity": "warning",
    }
    annotations = {"summary": "Conteneur bin-0001 : plein à 83 %", "value": "0.83", "threshold": "0.8"}
    assert sent(FIRING) == {
        "version": "4",
        "groupKey": '{}:{alertname="bin_full", asset_id="bin-0001", domain="sensor", '
        'jurisdiction_id="999999999", severity="warning"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "on-call",
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": EXTERNAL_URL,
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-05-28T20:25:40.000Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": EXTERNAL_URL,
                "fingerprint": "0123456789abcdef",
            }
        ],
    }


def test_body_of_a_resolved_zone_alert() -> None:
    """A zone alert is labelled by layer, code and category; a resolved alert says when it ended."""
    zone = {"asset_id": None, "zone_layer": "quartier", "zone_code": "Q1", "category": "lighting", "domain": "report"}
    ended = {**FIRING, **zone, "state": "resolved", "ends_at": 1_780_000_100_007, "value": None, "threshold": None}
    alert = sent(ended)["alerts"][0]
    assert alert["status"] == "resolved"
    assert alert["endsAt"] == "2026-05-28T20:28:20.007Z"
    assert set(alert["labels"]) == {
        "alertname", "jurisdiction_id", "domain", "severity", "zone_layer", "zone_code", "category",
    }  # fmt: skip
    assert set(alert["annotations"]) == {"summary"}
    at_once = sent({**FIRING, "state": "resolved"})
    assert at_once["status"] == at_once["alerts"][0]["status"] == "resolved"
    assert at_once["alerts"][0]["endsAt"] == "2026-05-28T20:26:40.250Z", "without ends_at, the transition's instant"


def test_body_is_the_same_for_the_same_transition() -> None:
    """Bytes do not depend on the order of the fields, nor on whether instants are numbers or datetimes."""
    receiver = Receiver("on-call", "https://receiver.example/alerts", (SECRET,))
    shuffled = dict(reversed(FIRING.items()))
    from_frame = FIRING | {
        name: datetime.fromtimestamp(FIRING[name] / 1000, UTC) for name in ("at", "starts_at") if FIRING[name]
    }
    assert body(FIRING, receiver, "") == body(shuffled, receiver, "") == body(from_frame, receiver, "")


def test_body_refuses_what_is_not_told() -> None:
    """Pending, acknowledged, expired and unknown are not for receivers: nobody is told *resolved* who was never told
    *firing*. An instant without a time zone is a bug of ours."""
    receiver = Receiver("on-call", "https://receiver.example/alerts", (SECRET,))
    for state, told in (
        ("unknown", False), ("pending", False), ("firing", True), ("acknowledged", False), ("resolved", True),
        ("expired", False),
    ):  # fmt: skip
        assert is_notified({"state": state}) is told
        if not told:
            with pytest.raises(ValueError, match="is not notified"):
                body({**FIRING, "state": state}, receiver, "")
    naive = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        body({**FIRING, "starts_at": naive}, receiver, "")


def test_every_example_of_an_alert_has_a_body_if_it_is_told() -> None:
    """The contract's own examples become bodies, so a field added to the contract cannot break the webhook."""
    told = [e["value"] for e in examples("Alert", "good") if is_notified(e["value"])]
    assert {sent(value)["status"] for value in told} == {"firing", "resolved"}


# --- settings


def receiver_with(**changes: Any) -> Callable[[], Receiver]:
    return lambda: Receiver(**{"name": "on-call", "url": "https://receiver.example/", "secrets": (SECRET,), **changes})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (receiver_with(secrets=()), "at least one"),
        (receiver_with(secrets=(SECRET, SECRET.removeprefix("whsec_"))), r"secrets\[1\]: a secret begins with whsec_"),
        (receiver_with(secrets=("whsec_n0t*base64",)), "not base64"),
        (receiver_with(secrets=("whsec_é",)), "not base64"),
        (receiver_with(secrets=("whsec_c2hvcnQ=",)), "24 bytes"),
        (receiver_with(url="ftp://receiver.example/"), "https://"),
        (receiver_with(url="receiver.example/alerts"), "https://"),
        (receiver_with(url="https://"), "name a host"),
        (receiver_with(url="https://user:hunter2@receiver.example/"), "user or password"),
        (receiver_with(url="https://receiver.example:port/"), "cannot be parsed"),
        (receiver_with(timeout_s=0.0), "timeout_s"),
        (receiver_with(timeout_s=float("nan")), "timeout_s"),
    ],
)
def test_a_wrong_receiver_is_refused_at_start(make: Callable[[], Receiver], says: str) -> None:
    """The error names the receiver and the setting, and quotes no secret."""
    with pytest.raises(ValueError, match=f"receiver on-call: .*{says}") as caught:
        make()
    for secret in (SECRET, SECRET.removeprefix("whsec_"), "n0t*base64", "c2hvcnQ", "hunter2"):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
