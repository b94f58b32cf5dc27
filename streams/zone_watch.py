"""Zone detectors: they need every partition, so the leader reads merged windows once they are complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from processors.alerts import AlertBook, Transition, to_record
from processors.detect.hot_spot import hot_spots
from processors.territory import ReportHotSpot, Territory
from schemas.contracts import RAW_TOPICS
from sinks.clickhouse import Sink
from sinks.store import store_alerts
from streams.flush import Message, alert_message

#: Zones are evaluated at every multiple of this event time, whenever the leader gets to it.
STEP_MS: Final = 600_000
#: Six hours: twice the usual window of the rule.
_MOST_STEPS: Final = 36

_COMPLETE: Final = """
SELECT count() AS partitions, toUnixTimestamp64Milli(min(mark)) AS watermark
FROM (
    SELECT partition, argMax(watermark, taken_at) AS mark FROM snapshots WHERE topic = {topic:String} GROUP BY partition
)
"""

_RECEIVED: Final = """
SELECT toUnixTimestamp(window_start) AS start_s, zone_code, replaceOne(metric, '.received', '') AS category, count
FROM windows
WHERE jurisdiction_id = {jurisdiction:String} AND layer = {layer:String} AND endsWith(metric, '.received')
  AND window_start >= toDateTime({start_s:Int64}, 'UTC') AND window_start < toDateTime({end_s:Int64}, 'UTC')
"""


class ZoneWatch:
    """Looks for hot spots of citizen reports in every territory. Its alerts are remembered by this process only."""

    def __init__(self, territories: Mapping[str, Territory], sink: Sink) -> None:
        self._territories = territories
        self._sink = sink
        self.looked_up_to_ms = 0
        self._books = {jurisdiction: AlertBook() for jurisdiction in territories}

    def look(self, partitions: int) -> tuple[list[Transition], list[Message]]:
        """Evaluate up to the instant that all `partitions` of the report topic have reached.

        Transitions are stored before they are returned, with the messages that announce them. Blocks on ClickHouse.
        """
        known, watermark_ms = self._sink.rows(_COMPLETE, {"topic": RAW_TOPICS["report"]})[0]
        if not partitions or known < partitions or watermark_ms <= 0:
            return [], []
        ends = self._ends(watermark_ms)
        if not ends:
            return [], []
        made = [
            transition
            for jurisdiction, territory in self._territories.items()
            if territory.rules.report_hot_spot is not None
            for transition in self._look_at(jurisdiction, territory, territory.rules.report_hot_spot, ends)
        ]
        records = [to_record(transition) for transition in made]
        if records:
            store_alerts(records, self._sink)
        self.looked_up_to_ms = ends[-1]
        return made, [alert_message(record) for record in records]

    def _ends(self, watermark_ms: int) -> range:
        """The instants to evaluate at: every step of event time since the last look, so that what is found does not
        depend on how often somebody looks. The first look is at the newest step only, and of a long gap only the last
        hours are evaluated: what was hot before is nobody's alert any more."""
        newest = watermark_ms - watermark_ms % STEP_MS
        first = self.looked_up_to_ms + STEP_MS if self.looked_up_to_ms else newest
        return range(max(first, newest - (_MOST_STEPS - 1) * STEP_MS), newest + 1, STEP_MS)

    def _look_at(self, jurisdiction: str, territory: Territory, rule: ReportHotSpot, ends: range) -> list[Transition]:
        layer = rule.layer or next(iter(territory.layers), None)
        if layer is None:
            return []
        start_s = (ends[0] - round((rule.history_s + rule.window_s) * 1_000)) // 1_000
        windows = self._sink.rows(
            _RECEIVED,
            {"jurisdiction": jurisdiction, "layer": layer, "start_s": start_s, "end_s": ends[-1] // 1_000},
        )
        frame = pl.DataFrame(
            windows,
            schema={"start_s": pl.Int64, "zone_code": pl.String, "category": pl.String, "count": pl.Int64},
            orient="row",
        ).with_columns((pl.col("start_s") * 1_000).cast(pl.Datetime("ms", "UTC")).alias("window_start"))
        book = self._books[jurisdiction]
        made = []
        for end_ms in ends:
            raised = book.raised("report_hot_spot", jurisdiction)
            findings = hot_spots(frame, rule, jurisdiction, end_ms, layer=layer, raised=raised)
            made += book.step(findings, end_ms)
        return made
