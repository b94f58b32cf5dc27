"""An alert's way out: from a reading in Kafka to a signed webhook, once for each transition."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.simulation.records import Record
from tests.support.batches import event
from tests.support.city import CITY
from tests.support.kafka import Kafka
from tests.support.pipeline import GROUP, Command, committed_offsets, send, succeeded, vigie
from tests.support.receiver import Received, WebhookReceiver, drip_head, status

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_KEY: Final = b"0123456789abcdef0123456789abcdef"
_SECRET: Final = "whsec_" + base64.b64encode(_KEY).decode()


def bin_reading(fill_level: float, ago_ms: int = 0) -> Record:
    """What a bin says now, or said a moment ago: of readings of one instant nobody knows which was the last."""
    at = int(time.time() * 1_000) - ago_ms
    value = event("sensor", event_id=f"e-{at}-{fill_level}", observed_at=at, fill_level=fill_level)
    return Record(RAW_TOPICS["sensor"], f"{CITY}|bin-00017".encode(), encode(contract_of("sensor"), value), at)


def opened(received: Received) -> dict[str, Any]:
    """The one alert of a delivery whose signature is good."""
    headers = received.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + received.body
    expected = "v1," + base64.b64encode(hmac.new(_KEY, signed, hashlib.sha256).digest()).decode()
    assert expected in headers["webhook-signature"].split()
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 300
    (alert,) = json.loads(received.body)["alerts"]
    found: dict[str, Any] = alert
    return found


def settings_of(kafka: Kafka, territory: Path, folder: Path, receiver: WebhookReceiver) -> dict[str, object]:
    return {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"chdb://{folder / 'clickhouse'}",
        "territories": territory,
        "webhook_url": receiver.url,
        "webhook_secrets": _SECRET,
    }


def test_full_and_emptied(kafka: Kafka, small_folder: Path, tmp_path: Path) -> None:
    """A bin that fills up is told as firing, once it is emptied as resolved: one fingerprint, one delivery each.

    The receiver fails at first; the delivery is tried again under the same id. A new worker tells nothing twice.
    """
    with WebhookReceiver([status(503)]) as receiver:
        settings = settings_of(kafka, small_folder, tmp_path, receiver)
        succeeded(vigie("init", folder=tmp_path, settings=settings))
        with Command("worker", folder=tmp_path / "first", settings=settings) as worker:
            send([bin_reading(0.4, ago_ms=100), bin_reading(0.95)], kafka.bootstrap)
            worker.wait_for(lambda: len(receiver.requests) >= 2, "the full bin was told", 60)
            send([bin_reading(0.1)], kafka.bootstrap)
            worker.wait_for(lambda: len(receiver.requests) >= 3, "the emptied bin was told", 60)
            # Who is stopped between the receiver's answer and the commit tells it again, under the same id.
            worker.wait_for(
                lambda: committed_offsets(kafka.bootstrap, GROUP, {ALERT_TOPIC}) == {(ALERT_TOPIC, 0): 2},
                "Kafka knew that both were told",
                60,
            )
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        with Command("worker", folder=tmp_path / "second", settings=settings) as worker:
            # Its own alert comes last on the topic: what was told before would come again before it.
            send([bin_reading(0.97)], kafka.bootstrap)
            worker.wait_for(lambda: len(receiver.requests) >= 4, "the bin that is full again was told", 60)
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        requests = list(receiver.requests)
    failed, firing, resolved, again = (opened(request) for request in requests)
    assert requests[0].headers["webhook-id"] == requests[1].headers["webhook-id"]
    assert len({request.headers["webhook-id"] for request in requests}) == 3
    told = [alert["status"] for alert in (failed, firing, resolved, again)]
    assert told == ["firing", "firing", "resolved", "firing"]
    assert firing["labels"]["alertname"] == "bin_full"
    assert firing["labels"]["asset_id"] == "bin-00017"
    assert firing["fingerprint"] == resolved["fingerprint"] == again["fingerprint"]
    assert firing["startsAt"] == resolved["startsAt"] < again["startsAt"]
    assert resolved["endsAt"] > resolved["startsAt"]


def test_a_receiver_that_drips_holds_up_no_stop(kafka: Kafka, small_folder: Path, tmp_path: Path) -> None:
    """A worker that is stopped while a receiver lets it wait ends, and well; the next one tells that alert again."""
    with WebhookReceiver([drip_head()]) as receiver:
        settings = settings_of(kafka, small_folder, tmp_path, receiver)
        succeeded(vigie("init", folder=tmp_path, settings=settings))
        with Command("worker", folder=tmp_path / "first", settings=settings) as worker:
            send([bin_reading(0.95)], kafka.bootstrap)
            worker.wait_for(lambda: len(receiver.requests) >= 1, "the receiver was asked", 60)
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        with Command("worker", folder=tmp_path / "second", settings=settings) as worker:
            worker.wait_for(lambda: len(receiver.requests) >= 2, "the full bin was told again", 60)
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        first, again, *_ = receiver.requests
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert opened(first) == opened(again)
