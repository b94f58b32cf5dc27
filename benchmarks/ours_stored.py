"""The windows that `vigie worker` has stored, published as the results of its run.

    python -m benchmarks.ours_stored --clickhouse chdb:///PATH --bootstrap H:P --results TOPIC

Run after the worker has ended: an embedded ClickHouse belongs to one process. Everybody reads the view `windows`, which
adds up domains that share the name of a kind (`noise` is a sensor and a request), and results are told apart by domain:
so they are read from the table under it, and the view must say the same.
"""

from __future__ import annotations

from typing import Final

import click
import polars as pl

from benchmarks.wire import VALUES, encoded, publish
from schemas.contracts import RAW_TOPICS
from sinks.clickhouse import Sink, connect

_BY_TOPIC: Final = """
SELECT topic, layer, zone_code, metric, toUnixTimestamp(window_start) * 1000 AS window_start, sum(count) AS count,
    sum(sum) * any(resolution) AS sum, min(minimum) * any(resolution) AS min, max(maximum) * any(resolution) AS max
FROM (SELECT * FROM window_rows FINAL WHERE count > 0)
GROUP BY topic, layer, zone_code, metric, window_start
"""
_VIEW: Final = """
SELECT layer, zone_code, metric, toUnixTimestamp(window_start) * 1000 AS window_start, count, sum, minimum AS min,
    maximum AS max
FROM windows
"""
_PLACE: Final = ("layer", "zone_code", "metric", "window_start")
_DOMAINS: Final = {topic: domain for domain, topic in RAW_TOPICS.items()}
#: Adding up floats of two domains in another order.
_FLOATING: Final = 1e-9


def windows(sink: Sink) -> pl.DataFrame:
    """All windows, as `wire.encoded` takes them. Raises click.ClickException where the view says otherwise."""
    found = _read(sink, _BY_TOPIC).with_columns(
        pl.col("topic").cast(pl.String).replace_strict(_DOMAINS).alias("domain")
    )
    added = found.group_by(_PLACE).agg(
        pl.col("count").sum(), pl.col("sum").sum(), pl.col("min").min(), pl.col("max").max()
    )
    both = added.join(_read(sink, _VIEW), on=_PLACE, how="full", suffix="_view")
    same = pl.all_horizontal(
        (pl.col(name) - pl.col(f"{name}_view")).abs() <= _FLOATING * pl.col(name).abs() for name in VALUES
    )
    other = both.filter(~same.fill_null(False))
    if len(other):
        raise click.ClickException(f"the view `windows` differs in {len(other)} windows, first: {other.row(0)}")
    return found


def _read(sink: Sink, sql: str) -> pl.DataFrame:
    found = sink.frame(sql)
    return found.with_columns(pl.col("layer", "zone_code", "metric").cast(pl.String), pl.col(VALUES).cast(pl.Float64))


@click.command()
@click.option("--clickhouse", required=True, help="chdb:///PATH of the worker that has ended.")
@click.option("--bootstrap", required=True, help="host:port of Kafka.")
@click.option("--results", required=True, help="Topic of the results.")
def main(clickhouse: str, bootstrap: str, results: str) -> None:
    """Publish the stored windows."""
    sink = connect(clickhouse)
    try:
        found = windows(sink)
    finally:
        sink.close()
    publish(bootstrap, results, *encoded(found))


if __name__ == "__main__":
    main()
