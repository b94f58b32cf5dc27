"""What a demo shows while it runs."""

from __future__ import annotations

from datetime import UTC, datetime

from processors.alerts import to_record
from sinks.acknowledgements import Acknowledgement, acknowledge
from sinks.clickhouse import Sink
from sinks.rows import Origin
from sinks.store import store_alerts
from streams.summary import busiest_zones
from tests.sinks.test_store import write
from tests.support.batches import RECEIVED_MS, Ran, batch_of, event, reference


def test_an_acknowledged_alert_is_still_open(clickhouse: Sink) -> None:
    """Somebody has taken it on, and the bin is as full as before: a zone counts it until it is over."""
    readings = [event(event_id="1", observed_at=RECEIVED_MS - 9_000, fill_level=0.97)]
    readings += [event(event_id="2", observed_at=RECEIVED_MS - 2_000, fill_level=0.97)]
    ran = Ran([batch_of(readings)], reference())
    (firing,) = ran.transitions
    write(ran, clickhouse)
    store_alerts([(Origin("city.raw.sensor", 0, "T1", 1), 1, to_record(firing))], clickhouse)
    assert busiest_zones(clickhouse, "quarter") == [("", 2, 1)]
    now = datetime.fromtimestamp(RECEIVED_MS / 1_000, UTC)
    taken = Acknowledgement(
        firing.jurisdiction_id, firing.fingerprint, firing.starts_at, firing.transition_id, "Ada", "", now
    )
    acknowledge(taken, clickhouse)
    assert clickhouse.rows("SELECT state FROM alerts") == [("acknowledged",)]
    assert busiest_zones(clickhouse, "quarter") == [("", 2, 1)]
