"""What the audit asks of ClickHouse about alerts: what was told, and the events it was told of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import polars as pl

from schemas.contracts import DOMAINS, contract_of, domain_of
from sinks.audited import Span, among, chunks, here, parts_of
from sinks.clickhouse import Sink
from sinks.rows import Origin

#: Transitions held in memory at once: some 100 MB.
_AT_ONCE: Final = 200_000

#: Columns of `transitions`.
TRANSITIONS: Final[dict[str, pl.DataType]] = {
    "topic": pl.String(),
    "epoch": pl.String(),
    "partition": pl.Int64(),
    "fingerprint": pl.String(),
    "sequence": pl.Int64(),
    "transition_id": pl.String(),
    "alertname": pl.String(),
    "jurisdiction_id": pl.String(),
    "asset_id": pl.String(),
    "about": pl.String(),
    "state": pl.String(),
    "at_ms": pl.Int64(),
    "starts_ms": pl.Int64(),
    "ends_ms": pl.Int64(),
    "offset": pl.Int64(),
    "contents": pl.Int64(),
}

#: Every field of the Alert contract, and not where the row comes from: what may differ when it is written again.
_CONTENT: Final = (
    "toString((alertname, jurisdiction_id, domain, asset_id, zone_layer, zone_code, category, severity, state, at, "
    "starts_at, ends_at, value, threshold, summary))"
)


def transitions(origins: Collection[Origin] | None, sink: Sink) -> Iterator[pl.DataFrame]:
    """Stored transitions, one row for each place, fingerprint, sequence and id, ordered by these.

    In parts that hold every transition of their fingerprints. `origins`: places to look at (topic '' for zones); None
    takes all. `contents` counts how many different things are stored under the one name; `offset` is the lowest.
    """
    where = "1" if origins is None else " OR ".join(f"({here(origin)})" for origin in origins) or "0"
    count = int(sink.rows(f"SELECT count() FROM alert_transitions WHERE {where}")[0][0])
    parts = count // _AT_ONCE + 1
    for part in range(parts if count else 0):
        found = sink.frame(
            f"""
            SELECT topic, epoch, partition, fingerprint, sequence, transition_id,
                any(t.alertname) AS alertname, any(t.jurisdiction_id) AS jurisdiction_id, any(t.asset_id) AS asset_id,
                any(coalesce(t.asset_id, concat(t.zone_layer, ' ', t.zone_code), '')) AS about,
                any(t.state) AS state, any(toUnixTimestamp64Milli(t.at)) AS at_ms,
                any(toUnixTimestamp64Milli(t.starts_at)) AS starts_ms,
                any(if(t.ends_at IS NULL, NULL, toUnixTimestamp64Milli(assumeNotNull(t.ends_at)))) AS ends_ms,
                min(t.offset) AS offset, uniqExact(content) AS contents
            FROM (
                SELECT *, {_CONTENT} AS content FROM alert_transitions
                WHERE ({where}) AND cityHash64(fingerprint) % {parts} = {part}
            ) AS t
            GROUP BY topic, epoch, partition, fingerprint, sequence, transition_id
            ORDER BY topic, epoch, partition, fingerprint, sequence, transition_id
            """
        )
        if not found.is_empty():
            yield found.select(*TRANSITIONS).cast(TRANSITIONS)  # type: ignore[arg-type]


def known(identities: Sequence[str], sink: Sink) -> set[str]:
    """Which of these transition ids are stored."""
    found: set[str] = set()
    for start in range(0, len(identities), 10_000):
        some = list(identities[start : start + 10_000])
        sql = "SELECT DISTINCT transition_id FROM alert_transitions WHERE transition_id IN {ids:Array(String)}"
        found |= {str(identity) for (identity,) in sink.rows(sql, {"ids": some})}
    return found


def instants_with_events(domain: str, wanted: pl.DataFrame, sink: Sink) -> pl.DataFrame:
    """Which of the wanted (topic, epoch, partition, jurisdiction_id, asset_id, starts_ms) have a stored event of that
    asset at that instant: the same columns."""
    assert domain in DOMAINS
    columns = ("topic", "epoch", "partition", "jurisdiction_id", "asset_id", "starts_ms")
    found: list[tuple[Any, ...]] = []
    rows = wanted.select(*columns).rows()
    for start in range(0, len(rows), 10_000):
        found += sink.rows(
            f"""
            SELECT DISTINCT topic, epoch, partition, jurisdiction_id, asset_id, toUnixTimestamp64Milli(observed_at)
            FROM events_{domain} WHERE
            (topic, epoch, toInt64(partition), jurisdiction_id, asset_id, toUnixTimestamp64Milli(observed_at))
            IN {{wanted:Array(Tuple(String, String, Int64, String, String, Int64))}}
            """,
            {"wanted": rows[start : start + 10_000]},
        )
    return pl.DataFrame(found, schema={name: TRANSITIONS[name] for name in columns}, orient="row")


# -- stored events, in the order they came -----------------------------------------------------------------------------


def events_in_order(span: Span, sink: Sink) -> Iterator[pl.DataFrame]:
    """The stored events of a span of offsets in offset order: what `processors.replay.transitions_of` reads."""
    domain = domain_of(span.origin.topic)
    fields = [field.name for field in contract_of(domain).fields]
    added = ("received_at", "kind", "quality", "failed", "offset")
    columns = ", ".join(f"`{name}`" for name in (*fields, *(name for name in added if name not in fields)))
    origin = span.origin
    whole = Span(origin, -1, span.end)
    for part in parts_of(whole, chunks(whole, sink)):
        yield sink.frame(
            f"SELECT {columns} FROM events_{domain} FINAL WHERE {among([part])} "
            "AND offset >= {first:Int64} AND offset < {end:Int64} ORDER BY offset",
            {"first": max(span.first, part.first), "end": span.end},
        )


def versions_of(span: Span, sink: Sink) -> set[tuple[str, str]]:
    """(jurisdiction, territory version) of the stored events of a span of offsets."""
    found = sink.rows(
        f"SELECT DISTINCT jurisdiction_id, territory_version FROM events_{domain_of(span.origin.topic)} "
        f"WHERE {here(span.origin)} AND offset >= {{first:Int64}} AND offset < {{end:Int64}}",
        {"first": span.first, "end": span.end},
    )
    return {(str(jurisdiction), str(version)) for jurisdiction, version in found}


def epochs_before(origin: Origin, sink: Sink) -> list[str]:
    """Ids that the topic had before this one, by when somebody first took up the partition."""
    found = sink.rows(
        "SELECT epoch FROM owners WHERE topic = {topic:String} AND partition = {partition:UInt16} "
        "GROUP BY epoch ORDER BY min(claimed_at)",
        {"topic": origin.topic, "partition": origin.partition},
    )
    epochs = [str(epoch) for (epoch,) in found]
    return epochs[: epochs.index(origin.epoch)] if origin.epoch in epochs else []
