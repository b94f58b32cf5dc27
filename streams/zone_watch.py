"""Zone detectors: they need every partition, so the leader reads merged windows once they are complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import polars as pl

from processors.alerts import AlertBook, Transition, to_record
from processors.detect.hot_spot import hot_spots
from processors.pipeline import CODE_VERSION
from processors.territory import ReportHotSpot, Territory
from schemas.contracts import RAW_TOPICS
from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin
from sinks.store import Snapshot, store_alerts, store_snapshots
from streams.clock import instant, utc_now
from streams.flush import Message, alert_message
from streams.log import logger

#: Zones are evaluated at every multiple of this event time, whenever the leader gets to it.
STEP_MS: Final = 600_000
#: A week.
_MOST_STEPS: Final = 1_008
#: Alerts of zones come from no partition.
_NO_ORIGIN: Final = Origin("", 0)

_COMPLETE: Final = """
SELECT count() AS partitions, toUnixTimestamp64Milli(min(mark)) AS watermark
FROM (
    SELECT partition, argMax(watermark, (version, taken_at)) AS mark
    FROM snapshots WHERE topic = {topic:String} AND epoch = {epoch:String} GROUP BY partition
)
"""

_RECEIVED: Final = """
SELECT toUnixTimestamp(window_start) AS start_s, zone_code, replaceOne(metric, '.received', '') AS category, count
FROM windows
WHERE jurisdiction_id = {jurisdiction:String} AND layer = {layer:String} AND endsWith(metric, '.received')
  AND window_start >= toDateTime({start_s:Int64}, 'UTC') AND window_start < toDateTime({end_s:Int64}, 'UTC')
"""

_FIRST: Final = """
SELECT toUnixTimestamp(min(window_start)) FROM window_rows
WHERE jurisdiction_id = {jurisdiction:String} AND endsWith(metric, '.received')
"""


class ZoneWatch:
    """Looks for hot spots of citizen reports in every territory.

    What it remembers is kept in `snapshots`, under the topic '' and the jurisdiction in place of an epoch, so that the
    next leader goes on from there. `owner` names this worker.
    """

    def __init__(self, territories: Mapping[str, Territory], owner: str) -> None:
        self._territories = territories
        self._owner = owner
        self._origins: dict[str, Origin] = {}
        self._books: dict[str, AlertBook] = {}
        # Each for itself: a territory that was taken out and is put back has not come as far as the others.
        self._looked_ms: dict[str, int] = {}
        self._saved_ms: dict[str, int] = {}
        self._log = logger("zones")

    @property
    def looked_up_to_ms(self) -> int:
        """The event time up to which every territory has been looked at; 0 before that."""
        return min(self._looked_ms.values(), default=0)

    def forget(self) -> None:
        """Somebody else leads: what they do is not known here."""
        self._origins, self._books, self._looked_ms = {}, {}, {}

    def look(self, partitions: int, epoch: str, sink: Sink) -> tuple[list[Transition], list[Message]]:
        """Evaluate up to the instant that all `partitions` of the report topic have reached.

        Transitions are stored before they are returned, with the messages that announce them; `save` comes after they
        are confirmed. Blocks on ClickHouse.
        """
        known, watermark_ms = sink.rows(_COMPLETE, {"topic": RAW_TOPICS["report"], "epoch": epoch})[0]
        if not partitions or known < partitions or watermark_ms <= 0:
            return [], []
        if not self._books:
            self._recall(sink)
        made, looked_ms = [], {}
        for jurisdiction, territory in self._territories.items():
            ends = self._ends(jurisdiction, watermark_ms, sink)
            if not ends:
                continue
            looked_ms[jurisdiction] = ends[-1]
            if (rule := territory.rules.report_hot_spot) is not None:
                transitions = self._look_at(jurisdiction, territory, rule, ends, sink)
                made += [(self._origins[jurisdiction], transition) for transition in transitions]
        records = [(origin, to_record(transition)) for origin, transition in made]
        if records:
            store_alerts([(_NO_ORIGIN, 0, record) for _, record in records], sink)
        self._looked_ms |= looked_ms
        return [transition for _, transition in made], [alert_message(record) for _, record in records]

    def save(self, sink: Sink, now_ms: int) -> None:
        """Keep what is remembered, once everything it told is confirmed."""
        further = {j: looked for j, looked in self._looked_ms.items() if looked != self._saved_ms[j]}
        if not further:
            return
        snapshots = [
            Snapshot(
                origin=self._origins[jurisdiction],
                next_offset=looked_ms,
                watermark=instant(looked_ms),
                code_version=CODE_VERSION,
                owner=self._owner,
                taken_at=instant(now_ms),
                state=self._books[jurisdiction].snapshot(),
            )
            for jurisdiction, looked_ms in further.items()
        ]
        store_snapshots(snapshots, sink)
        self._saved_ms |= further

    def _recall(self, sink: Sink) -> None:
        """Take up where the last leader stopped."""
        origins = [Origin("", 0, jurisdiction) for jurisdiction in self._territories]
        known = stored.terms(origins, sink)
        books, looked_ms = {}, dict.fromkeys(self._territories, 0)
        for origin in origins:
            jurisdiction = origin.epoch
            self._origins[jurisdiction] = replace(origin, term=known["", 0] + 1)
            books[jurisdiction] = AlertBook()
            newest = stored.newest_snapshot(origin, sink)
            if newest is not None:
                try:
                    books[jurisdiction].restore(newest.state)
                    looked_ms[jurisdiction] = newest.next_offset
                except ValueError as error:
                    self._log.error("zone alerts are not remembered", jurisdiction=jurisdiction, error=str(error))
        stored.claim(list(self._origins.values()), self._owner, 0, utc_now(), sink)
        self._books, self._looked_ms, self._saved_ms = books, looked_ms, dict(looked_ms)

    def _ends(self, jurisdiction: str, watermark_ms: int, sink: Sink) -> range:
        """The instants to evaluate at: every step of event time since the last look, so that what is found does not
        depend on how often somebody looks. Of a long gap only the last week is evaluated: what was hot before is
        nobody's alert any more."""
        newest = watermark_ms - watermark_ms % STEP_MS
        looked_ms = self._looked_ms.get(jurisdiction, 0)
        first = looked_ms + STEP_MS
        if not looked_ms:
            begun_ms = sink.rows(_FIRST, {"jurisdiction": jurisdiction})[0][0] * 1_000
            first = begun_ms - begun_ms % STEP_MS + STEP_MS if begun_ms else newest
        return range(max(first, newest - (_MOST_STEPS - 1) * STEP_MS), newest + 1, STEP_MS)

    def _look_at(
        self, jurisdiction: str, territory: Territory, rule: ReportHotSpot, ends: range, sink: Sink
    ) -> list[Transition]:
        layer = rule.layer or next(iter(territory.layers), None)
        if layer is None:
            return []
        start_s = (ends[0] - round((rule.history_s + rule.window_s) * 1_000)) // 1_000
        windows = sink.rows(
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
