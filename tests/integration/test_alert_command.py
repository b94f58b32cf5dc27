"""An alert from the side of the person on call: seen, taken on while a worker runs, kept over its restart, and over."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from sinks.clickhouse import connect
from sinks.queries import ask
from tests.integration.test_webhook_delivery import bin_reading
from tests.support.gateway import gateway
from tests.support.pipeline import Command, Done, broker_in_process, failed, send, succeeded, vigie
from tests.support.receiver import WebhookReceiver
from tests.support.webhook_page import SECRET

pytestmark = pytest.mark.integration


def test_taken_on_while_workers_come_and_go(small_folder: Path, tmp_path: Path) -> None:
    """The list shows what a worker has just told; an acknowledgement is in the list and in the view at once, outlives a
    new owner of the partition, is told to no receiver, and ends with the alert; the audit finds nothing amiss."""
    with broker_in_process() as bootstrap, gateway(tmp_path) as database, WebhookReceiver() as receiver:
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": database.url,
            "territories": small_folder,
            "webhook_url": receiver.url,
            "webhook_secrets": SECRET,
            # The broker in memory waits for the member before, though it has left.
            "session_timeout_s": 3,
        }
        sink = connect(database.url, retry_budget_s=5.0)

        def states() -> list[str]:
            """What the receiver was told, each transition once."""
            told = {one.headers["webhook-id"]: json.loads(one.body)["status"] for one in list(receiver.requests)}
            return list(told.values())

        def run(*arguments: str) -> Done:
            return vigie(*arguments, folder=tmp_path / "command", settings=settings)

        with Command("worker", folder=tmp_path / "first", settings=settings) as worker:
            send([bin_reading(0.4, ago_ms=100), bin_reading(0.95)], bootstrap)
            worker.wait_for(lambda: states() == ["firing"], "the full bin was told", 60)
            held = {**settings, "clickhouse_url": f"chdb://{database.data}"}
            told = failed(vigie("alert", "list", folder=tmp_path / "held", settings=held))
            assert f"`vigie gateway --data-dir {database.data}`" in told
            (alert,) = json.loads(succeeded(run("alert", "list", "--json")).out)
            assert (alert["state"], alert["asset_id"]) == ("firing", "bin-00017")
            done = succeeded(run("alert", "ack", alert["fingerprint"][:6], "--by", "Ada", "--note", "on my way"))
            assert f"{alert['fingerprint']} is acknowledged by Ada" in done.out
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        with Command("worker", folder=tmp_path / "second", settings=settings) as worker:
            send([bin_reading(0.96)], bootstrap)
            worker.wait_for(lambda: sink.rows("SELECT count() FROM events_sensor FINAL") == [(3,)], "it went on", 60)
            (alert,) = ask(sink, "open_alerts", jurisdictions=[])
            assert (alert["state"], alert["acknowledged_by"]) == ("acknowledged", "Ada")
            send([bin_reading(0.1)], bootstrap)
            worker.wait_for(lambda: states() == ["firing", "resolved"], "the emptied bin was told", 60)
            worker.interrupt(signal.SIGTERM)
            assert succeeded(worker.wait(40))
        history = json.loads(succeeded(run("alert", "show", alert["fingerprint"], "--json")).out)
        (life,) = history["lives"]
        assert [
            (step["sequence"], step["state"], step["acknowledged_by"], step["note"]) for step in life["transitions"]
        ] == [(1, "firing", "Ada", "on my way"), (2, "resolved", None, None)]
        assert states() == ["firing", "resolved"]
        assert "no differences" in succeeded(run("audit", "--without-kafka")).out
