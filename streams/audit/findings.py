"""Alerts against findings: what the stored events give when they are looked at again, from the first one on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from processors.alerts import Transition
from processors.detect.signals import COLUMNS
from processors.pipeline import CODE_VERSION, Reference, new_state
from processors.rebuild import adopt
from processors.replay import transitions_of
from schemas.contracts import domain_of
from sinks import audited_alerts, stored
from sinks.audited import END, Span
from sinks.audited_alerts import TRANSITIONS
from sinks.clickhouse import Sink
from streams.audit.accounting import Extent
from streams.audit.alerts import described
from streams.audit.differences import Findings


@dataclass
class Recomputed:
    """How many transitions were made again, of how many partitions, and what was found."""

    transitions: int = 0
    partitions: int = 0
    findings: Findings = field(default_factory=Findings)


def recompute(reference: Reference, extents: Sequence[Extent], sink: Sink, *, strict_end: bool) -> Recomputed:
    """Make the alerts of each partition again and compare them by transition id.

    Only where the code and the territories are those that the events were stored under: others find other things.
    With `strict_end` everything stored is compared, else what the newest snapshot includes.
    """
    done = Recomputed()
    for extent in extents:
        if not COLUMNS[domain_of(extent.origin.topic)] or extent.mark is None:
            continue
        span = Span(extent.origin, -1, extent.mark.next_offset)
        if reason := _otherwise(reference, extent, span, sink):
            done.findings.notes.append(f"{extent.place}: its alerts are not made again, because {reason}")
            continue
        state = new_state(extent.origin.topic, extent.origin.partition, domain_of(extent.origin.topic), reference)
        adopt(state, _inherited(extent, sink))
        events = audited_alerts.events_in_order(span, sink)
        passes, clock_ms = _passes(extent, span, sink, strict_end=strict_end)
        made = list(transitions_of(events, passes, state, reference, clock_ms=clock_ms))
        done.partitions += 1
        done.transitions += len(made)
        told = pl.concat([pl.DataFrame(schema=TRANSITIONS), *audited_alerts.transitions([extent.origin], sink)])
        there = told.filter((pl.col("at_ms") <= clock_ms) & (pl.col("offset") < span.end))
        _compare(extent, made, there, done.findings)
    return done


def _otherwise(reference: Reference, extent: Extent, span: Span, sink: Sink) -> str:
    """Why the same events would not give the same alerts; "" where they would."""
    assert extent.mark is not None
    if extent.mark.code_version != CODE_VERSION:
        return f"its snapshot is of code version {extent.mark.code_version}, this one is {CODE_VERSION}"
    today = {(j, territory.version) for j, territory in reference.locator.territories.items()}
    if audited_alerts.versions_of(span, sink) - today:
        return "some of its events were stored under another version of the territory"
    return ""


def _inherited(extent: Extent, sink: Sink) -> list[dict[str, Any]]:
    """The newest transition of each alert from before the topic was created anew: alerts outlive their topic."""
    newest: dict[str, dict[str, Any]] = {}
    for epoch in audited_alerts.epochs_before(extent.origin, sink):
        before = replace(extent.origin, epoch=epoch)
        for record in stored.newest_transitions(before, END, sink):
            known = newest.get(record["fingerprint"])
            if known is None or known["sequence"] < record["sequence"]:
                newest[record["fingerprint"]] = record
    return list(newest.values())


def _passes(extent: Extent, span: Span, sink: Sink, *, strict_end: bool) -> tuple[list[tuple[int, int]], int]:
    """Where the wall clock let time pass (offset, instant), and how far time has come in the end.

    As far as the snapshot includes it; with `strict_end` all of it, because nobody can be about to store more.
    """
    assert extent.mark is not None
    clock_ms = extent.mark.watermark_ms
    found = [(one.offset, one.passed_ms) for one in stored.passes(extent.origin, -1, sink) if one.offset < span.end]
    if strict_end:
        return found, max([clock_ms, *(passed_ms for _, passed_ms in found)])
    return [one for one in found if one[1] <= clock_ms], clock_ms


def _compare(extent: Extent, made: Sequence[Transition], told: pl.DataFrame, findings: Findings) -> None:
    there = {str(row["transition_id"]): row for row in told.iter_rows(named=True)}
    right = {transition.transition_id: transition for transition in made}
    state_lost = "a bug, or a worker began without its snapshot and its detectors were learning (its log says `begun`)"
    for one in (transition for identity, transition in right.items() if identity not in there):
        findings.add(
            "alert_missing",
            extent.place,
            f"{one.alertname} {one.asset_id} {one.state} (fingerprint {one.fingerprint}, #{one.sequence})",
            {"sequence": one.sequence},
            f"the stored events give this transition at {one.at:%Y-%m-%d %H:%M:%S}, and it was never stored or told: "
            + state_lost,
        )
    for row in (row for identity, row in there.items() if identity not in right):
        findings.add(
            "alert_unfounded",
            extent.place,
            described(row),
            {"sequence": int(row["sequence"])},
            f"it was told, and the stored events do not give it: {state_lost}",
        )
