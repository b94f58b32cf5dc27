"""The whole audit, in order: what there is, the account, the windows, the alerts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from processors.pipeline import Reference
from sinks import audited, audited_alerts
from sinks.audited import END, Span
from sinks.clickhouse import Sink
from streams.audit import accounting, alerts, kafka, windows
from streams.audit.accounting import Accounted, Extent
from streams.audit.differences import Difference, Findings
from streams.audit.findings import recompute
from streams.audit.kafka import Facts
from streams.audit.mend import Repaired, repair
from streams.audit.told import on_topic, stored_and_told, told_and_stored
from streams.clock import monotonic_s
from streams.settings import Settings

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scope:
    """What is asked for. Instants in milliseconds since 1970, of the broker's time; None leaves open.

    `strict_end`: everything that Kafka has must have been processed, and nothing may be beyond the snapshots.
    """

    from_ms: int | None = None
    to_ms: int | None = None
    topic: str | None = None
    partition: int | None = None
    kafka: bool = True
    strict_end: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is everything there is."""
        return (self.from_ms, self.to_ms, self.topic, self.partition) == (None, None, None, None)


@dataclass
class Audit:
    """What has been looked at, and what was found."""

    scope: Scope
    extents: list[Extent] = field(default_factory=list)
    partitions: list[Accounted] = field(default_factory=list)
    compared: list[Span] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    seconds: dict[str, float] = field(default_factory=dict)
    members: int | None = None
    transitions: int = 0
    recomputed: int = 0
    repaired: Repaired | None = None

    @property
    def differences(self) -> list[Difference]:
        return self.findings.differences

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the partitions: `records` = `stored` + `rejected` + `duplicates` when all is well."""
        accounts = [one.account for one in self.partitions]
        return {
            "records": sum(one.records for one in self.partitions),
            "stored": sum(account.stored for account in accounts),
            "rejected": sum(account.rejected - account.duplicates for account in accounts),
            "duplicates": sum(account.duplicates for account in accounts),
            "missing": sum(one.missing for one in self.partitions),
            "without_record": sum(one.gaps for one in self.partitions),
            "older_duplicates": sum(one.repeated for one in self.partitions),
            "transitions": self.transitions,
            "transitions_recomputed": self.recomputed,
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "differences": [difference.to_dict() for difference in self.differences],
            "notes": self.findings.notes,
            "partitions": [one.to_dict() for one in self.partitions],
            "totals": self.totals,
            "kafka": self.scope.kafka,
            "workers": self.members,
            "seconds": self.seconds,
        } | ({} if self.repaired is None else {"repaired": self.repaired.to_dict()})


def audit(
    settings: Settings, sink: Sink, scope: Scope, reference: Reference | None, say: Say = lambda message: None
) -> Audit:
    """Look at everything in the scope. Raises BrokerError and SinkError where that cannot be done.

    `reference`: today's territories, to make alerts again from stored events; None leaves that out.
    """
    found = Audit(scope)
    started = monotonic_s()

    def step(name: str) -> None:
        nonlocal started
        found.seconds[name] = round(monotonic_s() - started, 2)
        started = monotonic_s()

    facts = kafka.facts(settings) if scope.kafka else None
    found.members = None if facts is None else facts.members
    found.extents = accounting.extents(
        settings,
        sink,
        facts,
        from_ms=scope.from_ms,
        to_ms=scope.to_ms,
        topic=scope.topic,
        partition=scope.partition,
        strict_end=scope.strict_end,
    )
    step("extents")
    for extent in found.extents:
        say(f"counting {extent.place}")
        accounted, findings = accounting.check(settings, extent, sink, strict_end=scope.strict_end)
        found.partitions.append(accounted)
        found.findings.take(findings)
    step("accounting")
    _windows(found, sink, say)
    step("windows")
    _alerts(found, facts, settings, reference, sink, say)
    step("alerts")
    return found


def mended(
    found: Audit, settings: Settings, sink: Sink, reference: Reference | None, say: Say = lambda message: None
) -> Audit:
    """Repair the windows that were found to differ, and look again. Raises BrokerError and SinkError."""
    if not any(difference.kind == "window_rows" for difference in found.differences):
        return found
    # Nobody else can have an embedded database open while we have.
    idle = sink.url.startswith("chdb:") or (found.scope.kafka and kafka.members(settings) == 0)
    say("repairing windows")
    done = repair(found.extents, found.compared, sink, idle=idle)
    again = audit(settings, sink, found.scope, reference, say)
    again.repaired = done
    return again


def _windows(found: Audit, sink: Sink, say: Say) -> None:
    say("comparing windows")
    found.compared = windows.spans(found.extents, sink, strict_end=found.scope.strict_end)
    while True:
        at_rest = len(found.compared) == len(found.extents) and all(span.end == END for span in found.compared)
        everything = found.scope.whole and at_rest
        findings = windows.totals(found.compared, everything=everything, sink=sink)
        findings.take(windows.check(found.compared, sink))
        # A worker may have gone on meanwhile: what it was at is left out, and the rest looked at again.
        rest = windows.at_rest(found.compared, found.extents, sink) if findings.differences else found.compared
        if found.scope.strict_end or rest == found.compared:
            break
        found.compared = rest
    found.findings.take(findings)
    left = {(span.origin, span.end) for span in found.compared}
    for extent in found.extents:
        if extent.whole and (extent.origin, END) not in left:
            found.findings.notes.append(
                f"{extent.place}: its open chunk is being worked on, so its windows are not compared"
            )


def _alerts(
    found: Audit, facts: Facts | None, settings: Settings, reference: Reference | None, sink: Sink, say: Say
) -> None:
    say("comparing alerts")
    scope, findings = found.scope, found.findings
    zones_ms = audited.zones_mark_ms(sink)
    slim: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for part in audited_alerts.transitions(None if scope.whole else [e.origin for e in found.extents], sink):
        told = part if scope.whole else _within(part, found.extents)
        settled = alerts.settled(told, found.extents, zones_ms, strict_end=scope.strict_end)
        findings.take(alerts.structure(told))
        findings.take(alerts.evidence(settled, sink))
        found.transitions += len(told)
        slim.append((told.select(_SLIM), settled.select(_SLIM)))
    if facts is not None:
        _told(slim, facts, settings, scope, findings, sink)
    if reference is None:
        findings.notes.append("alerts are not made again from stored events: set VIGIE_TERRITORIES for that")
    elif scope.from_ms is None and scope.to_ms is None:
        say("making alerts again")
        again = recompute(reference, found.extents, sink, strict_end=scope.strict_end)
        findings.take(again.findings)
        found.recomputed = again.transitions


#: What naming a transition takes, and finding it on the alert topic.
_SLIM: Final = (*alerts.PLACE, "fingerprint", "sequence", "transition_id", "alertname", "about", "state")


def _within(told: pl.DataFrame, extents: Sequence[Extent]) -> pl.DataFrame:
    """The transitions of alerts that changed within the extents, their whole histories."""
    spans = pl.DataFrame(
        [(e.origin.topic, e.origin.epoch, e.origin.partition, e.first, e.end) for e in extents],
        schema={"topic": pl.String, "epoch": pl.String, "partition": pl.Int64, "_first": pl.Int64, "_end": pl.Int64},
        orient="row",
    )
    inside = pl.col("offset").is_between(pl.col("_first"), pl.col("_end"), closed="left")
    changed = told.join(spans, on=list(alerts.PLACE), how="inner").filter(inside)
    return told.join(changed, on=[*alerts.PLACE, "fingerprint"], how="semi", maintain_order="left")


def _told(
    slim: Sequence[tuple[pl.DataFrame, pl.DataFrame]],
    facts: Facts,
    settings: Settings,
    scope: Scope,
    findings: Findings,
    sink: Sink,
) -> None:
    there = on_topic(settings)
    # Of a topic that was created anew the alerts of before may never have been told to these brokers.
    epochs = pl.DataFrame(
        [("", ""), *facts.epochs.items()], schema={"topic": pl.String, "epoch": pl.String}, orient="row"
    )
    stored: set[str] = set()
    for told, settled in slim:
        current = settled.join(epochs, on=["topic", "epoch"], how="semi", maintain_order="left")
        findings.take(stored_and_told(told, current, there))
        stored |= set(told["transition_id"])
    if scope.whole:
        findings.take(told_and_stored(there, stored, sink))
