"""The dashboard Pipeline: whether records become rows, how fast, and what becomes of the others."""

from __future__ import annotations

from typing import Final

from deploy.grafana.boards import Line, Row, dashboard
from deploy.grafana.panels import NEUTRAL, WORKER_STATES, Panel, column, curves, hidden, stat, steps, table, worded
from deploy.grafana.targets import Json

UID: Final = "vigie-pipeline"
#: Two samples of a worker: a rate needs two.
_SAMPLES: Final = "30s"


def _workers() -> Panel:
    return table(
        "Workers",
        "worker_states",
        [
            worded("state", WORKER_STATES, "State", 120),
            column("worker", displayName="Worker"),
            column("age_s", displayName="Last sample", unit="s", custom_width=110),
            column("waiting_for", displayName="Waiting for"),
            column("stalled_s", displayName="Nothing has moved for", unit="s", decimals=0),
            column("last_at", displayName="At", custom_width=160),
        ],
        no_value="○ no worker has said anything for a day",
    )


def _unaccounted() -> Panel:
    wrong = steps((None, "red"), (0, NEUTRAL), (1, "red"))
    return stat(
        "Unaccounted records",
        "account",
        "short",
        fields="/^(unaccounted|difference)$/",
        reducer="sum",
        overrides=[
            column("unaccounted", displayName="as workers say", thresholds=wrong),
            column("difference", displayName="in the period", thresholds=wrong),
        ],
        note="Anything but 0 is a bug of vigie: run `vigie audit`.",
    )


def _account() -> Panel:
    return table(
        "In = stored + rejected + duplicates",
        "account",
        [
            column("topic", displayName="Topic"),
            column("records", displayName="In"),
            column("stored", displayName="Stored"),
            column("rejected", displayName="Rejected"),
            column("duplicates", displayName="Duplicates"),
            column("late", displayName="Of the stored, late"),
            column("difference", displayName="Difference"),
            column("unaccounted", displayName="Unaccounted"),
        ],
        unit="short",
        no_value="no worker has said anything in this period",
    )


def _snapshots() -> Panel:
    return table(
        "Snapshots",
        "snapshot_ages",
        [
            column("topic", displayName="Topic", custom_width=90),
            column("part", displayName="Partition", custom_width=80),
            column("age_s", displayName="Age", unit="s", custom_width=100),
            column("behind_s", displayName="Event time behind it", unit="s"),
            column("next_offset", displayName="Up to offset"),
            column("owner", displayName="Worker"),
            column("code_version", displayName="Code", custom_width=70),
            *hidden("watermark"),
        ],
        note="A partition without records keeps its last snapshot: age alone is no fault.",
        no_value="no snapshot yet",
    )


def _reasons() -> Panel:
    return table(
        "Why records were refused",
        "reject_reasons",
        [
            column("topic", displayName="Topic", custom_width=90),
            column("stage", displayName="Stage", custom_width=100),
            column("reason", displayName="Reason", custom_width=150),
            column("detail", displayName="Detail"),
            column("records", displayName="Records", custom_width=90),
            column("newest", displayName="Newest", custom_width=160),
        ],
        unit="short",
        no_value="nothing was refused in this period",
    )


def _rates(title: str, metric: str, *, stacked: bool = False) -> Panel:
    return curves(
        title, "sample_rates", "cps", series="series", min_interval=_SAMPLES, stacked=stacked, metrics=(metric,)
    )


def _seconds(title: str, metric: str) -> Panel:
    return curves(title, "latencies", "s", series="quantile", min_interval=_SAMPLES, metrics=(metric,))


def _records() -> list[Line]:
    ended = curves(
        "What becomes of records, per second",
        "account_rates",
        "cps",
        min_interval=_SAMPLES,
        stacked=True,
        overrides=[
            column(
                "records",
                displayName="in",
                custom_stacking={"mode": "none", "group": "A"},
                custom_fillOpacity=0,
                custom_lineWidth=2,
            )
        ],
        note="The line is what came in; the areas below it are what became of it.",
    )
    lag = curves(
        "Lag: records in Kafka that are not durable yet",
        "lag",
        "short",
        series="topic",
        min_interval=_SAMPLES,
        stacked=True,
    )
    come = _rates("Records per second by topic", "vigie_records_total", stacked=True)
    return [Line(8, [come, ended, lag]), Line(8, [_account()])]


def _time() -> list[Line]:
    behind = curves(
        "Behind the wall clock",
        "delays",
        "s",
        min_interval=_SAMPLES,
        note="event_time_s: event time. snapshot_s: the newest snapshot.",
    )
    quick = [
        _seconds("From the broker to a readable row", "vigie_visible_seconds"),
        _seconds("How long a flush takes", "vigie_flush_seconds"),
        _rates("Late events per second by topic", "vigie_late_events_total"),
    ]
    return [Line(8, quick), Line(8, [behind, _snapshots()])]


def pipeline() -> Json:
    """The dashboard."""
    refused = curves(
        "Rejects by reason", "rejects_over_time", "short", series="reason", min_interval="1m", stacked=True
    )
    alerts = [
        _rates("Transitions of alerts per second", "vigie_alert_transitions_total"),
        _rates("Notifications per second by outcome", "vigie_notifications_total"),
    ]
    return dashboard(
        UID,
        "Pipeline",
        "Whether records become rows, how fast, and what becomes of the others. Counters and gauges are what the "
        "workers say of themselves every few seconds (table worker_samples).",
        [
            Row("Workers", [Line(7, [_workers(), _unaccounted()], (16, 8))]),
            Row("Records", _records()),
            Row("Time", _time()),
            Row("Refused", [Line(9, [refused, _reasons()], (10, 14))]),
            Row("Alerts", [Line(7, alerts)]),
        ],
        since="now-1h",
    )
