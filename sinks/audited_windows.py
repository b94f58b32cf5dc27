"""What the audit asks of ClickHouse about windows: rows and events chunk by chunk, and totals as readers see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from schemas.contracts import DOMAINS, Domain, contract_of, domain_of
from sinks.audited import Span, among
from sinks.clickhouse import Sink

_KEY: Final = "jurisdiction_id, layer, zone_code, metric, window_start"


def chunks_events(span: Span, sink: Sink) -> pl.DataFrame:
    """The stored events of a span of chunks: what `processors.rebuild.window_rows_of` reads, `chunk`, `offset` and
    `territory_version`."""
    domain = domain_of(span.origin.topic)
    fields = [field.name for field in contract_of(domain).fields]
    added = ("kind", "late", "failed", "offset", "chunk", "zones", "territory_version")
    columns = [*fields, *(name for name in added if name not in fields)]
    return sink.frame(
        f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM events_{domain} FINAL WHERE {among([span])} "
        # Every chunk's offsets follow its first; the index is on offsets.
        "AND offset >= {first:Int64}",
        {"first": span.first},
    )


def chunks_windows(span: Span, sink: Sink) -> pl.DataFrame:
    """The window rows of a span of chunks as readers see them: each at its newest version, `count` 0 left out.

    Columns of WINDOW_SCHEMA and `chunk`; none at all where there is no row.
    """
    values = ("count", "late", "sum", "sum_squares", "minimum", "maximum", "last")
    newest = ", ".join(f"argMax(w.{name}, w.version) AS {name}" for name in values)
    return sink.frame(
        "SELECT toDateTime64(window_start, 3, 'UTC') AS window_start, jurisdiction_id, layer, zone_code, metric, "
        f"argMax(w.resolution, w.version) AS resolution, {newest}, argMax(w.last_at, w.version) AS last_at, chunk "
        f"FROM window_rows AS w WHERE {among([span])} "
        "GROUP BY window_start, jurisdiction_id, layer, zone_code, metric, chunk HAVING count > 0"
    )


def wrong_totals(spans: Sequence[Span] | None, most: int, sink: Sink) -> pl.DataFrame:
    """Event counts of windows that are not those of the stored events.

    `spans`: chunks that are compared; None compares the view `windows` as it stands. Columns: jurisdiction_id, layer,
    zone_code, metric, window_start, shown, stored, shown_late, stored_late; `most` rows at most, the largest
    differences first; `windows` counts them all.
    """
    found = "1" if spans is None else among(spans)
    shown = (
        f"SELECT {_KEY}, count AS n, late FROM windows WHERE endsWith(metric, '.events')"
        if spans is None
        else f"""
        SELECT {_KEY}, sum(newest) AS n, sum(newest_late) AS late FROM (
            SELECT {_KEY}, argMax(w.count, w.version) AS newest, argMax(w.late, w.version) AS newest_late
            FROM window_rows AS w WHERE endsWith(metric, '.events') AND ({found})
            GROUP BY {_KEY}, topic, epoch, partition, chunk
        ) GROUP BY {_KEY}
        """
    )
    stored = " UNION ALL ".join(_counted(domain, found) for domain in DOMAINS)
    return sink.frame(
        f"""
        SELECT * REPLACE (toDateTime64(window_start, 3, 'UTC') AS window_start)
        FROM (
            SELECT {_KEY}, toInt64(sum(w)) AS shown, toInt64(sum(s)) AS stored,
                toInt64(sum(w_late)) AS shown_late, toInt64(sum(s_late)) AS stored_late, count() OVER () AS windows
            FROM (
                SELECT {_KEY}, n AS w, late AS w_late, 0 AS s, 0 AS s_late FROM ({shown})
                UNION ALL
                SELECT {_KEY}, 0 AS w, 0 AS w_late, n AS s, n_late AS s_late FROM ({stored})
            )
            GROUP BY {_KEY}
            HAVING sum(w) != sum(s) OR sum(w_late) != sum(s_late)
        )
        ORDER BY abs(shown - stored) DESC, {_KEY} LIMIT {most}
        """
    )


def _counted(domain: Domain, among: str) -> str:
    return f"""
        SELECT e.jurisdiction_id AS jurisdiction_id, layer, e.zones[layer] AS zone_code,
            concat(e.kind, '.events') AS metric, toStartOfMinute(e.observed_at) AS window_start,
            count() AS n, sum(e.late) AS n_late
        FROM (SELECT * FROM events_{domain} FINAL WHERE {among}) AS e
        INNER JOIN (
            SELECT jurisdiction_id, territory_version, groupUniqArray(layer) AS layers FROM zones
            GROUP BY jurisdiction_id, territory_version
        ) AS z ON z.jurisdiction_id = e.jurisdiction_id AND z.territory_version = e.territory_version
        ARRAY JOIN z.layers AS layer
        GROUP BY jurisdiction_id, layer, zone_code, metric, window_start
    """
