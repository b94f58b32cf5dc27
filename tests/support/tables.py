"""What tables and views look like in a ClickHouse."""

from __future__ import annotations

from sinks.clickhouse import Sink


def columns(sink: Sink, table: str) -> dict[str, str]:
    """The type of each column."""
    return dict(sink.rows("SELECT name, type FROM system.columns WHERE table = {t:String}", {"t": table}))
