"""Alerts that are stored are on `city.alerts`, and nothing else is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from schemas.codec import decode_values
from schemas.contracts import ALERT_TOPIC, contract
from schemas.writers import own_writers
from sinks import audited_alerts
from sinks.clickhouse import Sink
from streams.audit import kafka
from streams.audit.alerts import ALERT, described, place_of
from streams.audit.differences import Findings
from streams.settings import Settings

_AT_ONCE = 10_000


@dataclass(frozen=True)
class OnTopic:
    """What `city.alerts` holds: transition id and fingerprint of each record. `whole`: nothing was compacted away."""

    records: pl.DataFrame
    whole: bool
    unreadable: int


def on_topic(settings: Settings) -> OnTopic:
    """Read the alert topic from its first record to its end. Raises BrokerError."""
    alert = contract("Alert")
    parts, unreadable = [], 0
    read = kafka.alerts(settings)
    for values in _in_parts(read.values):
        found = decode_values(alert, values, own_writers(alert))
        unreadable += len(found.rejects)
        parts.append(found.frame.select("transition_id", "fingerprint"))
    empty = pl.DataFrame(schema={"transition_id": pl.String(), "fingerprint": pl.String()})
    return OnTopic(pl.concat([empty, *parts]).unique(maintain_order=True), read.whole, unreadable)


def _in_parts(values: Sequence[bytes]) -> Iterator[list[bytes | None]]:
    for start in range(0, len(values), _AT_ONCE):
        yield list(values[start : start + _AT_ONCE])


def stored_and_told(told: pl.DataFrame, settled: pl.DataFrame, there: OnTopic) -> Findings:
    """Transitions that are stored and not on the topic. `settled`: those of `told` that must be.

    A compacted topic keeps the newest record of each fingerprint at least; any newer one stands for it.
    """
    findings = Findings()
    missing = settled.join(there.records, on="transition_id", how="anti", maintain_order="left")
    if not there.whole and len(missing):
        newest = settled.group_by(*ALERT).agg(pl.col("sequence").max())
        on = [*ALERT, "sequence"]
        unsettled = told.join(settled, on="transition_id", how="anti")
        enough = pl.concat((settled.join(newest, on=on, how="semi"), unsettled)).join(
            there.records.select("transition_id"), on="transition_id", how="semi"
        )
        missing = missing.join(newest, on=on, how="semi", maintain_order="left").join(
            enough.select("fingerprint").unique(), on="fingerprint", how="anti", maintain_order="left"
        )
    for row in missing.iter_rows(named=True):
        findings.add(
            "alert_not_told",
            place_of(row),
            described(row),
            {"sequence": row["sequence"]},
            f"it is stored and not on {ALERT_TOPIC}, so receivers may never have heard of it. Look at the receiver, "
            "and tell it by hand",
        )
    return findings


def told_and_stored(there: OnTopic, stored: set[str], sink: Sink) -> Findings:
    """Transitions that are on the topic and not stored. `stored`: ids known to be."""
    findings = Findings()
    strange = [(i, f) for i, f in there.records.iter_rows() if i not in stored]
    # Asked again: a worker may have told it since the stored ones were read.
    known = audited_alerts.known([identity for identity, _ in strange], sink) if strange else set()
    for identity, fingerprint in strange:
        if identity not in known:
            findings.add(
                "alert_not_stored",
                ALERT_TOPIC,
                f"transition {identity} (fingerprint {fingerprint})",
                {},
                "it was told and is not in alert_transitions: rows were lost, or another installation writes to this "
                "topic",
            )
    if there.unreadable:
        findings.notes.append(f"{ALERT_TOPIC}: {there.unreadable:,} records are no alerts of this code version")
    return findings
