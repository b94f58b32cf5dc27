"""The one place that turns findings into alerts: a condition that holds long enough, told once, ended once.

pending → firing → resolved. A pending alert whose condition ends too soon becomes `expired`: nobody is told *resolved*
who was never told *firing*. Acknowledging is left to people and to the receivers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import polars as pl

from processors.detect.findings import Finding

State = Literal["pending", "firing", "acknowledged", "resolved", "expired"]

_VERSION: Final = 2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
#: Rules whose condition has a second step worth telling while it lasts: a silent asset is given up for dead.
_ESCALATING: Final = frozenset({"silent"})


@dataclass(frozen=True)
class Transition:
    """One transition of one alert: the fields of the Alert contract, instants as aware datetimes."""

    transition_id: str
    fingerprint: str
    sequence: int
    alertname: str
    jurisdiction_id: str
    domain: str
    asset_id: str | None
    zone_layer: str | None
    zone_code: str | None
    category: str | None
    severity: str
    state: State
    at: datetime
    starts_at: datetime
    ends_at: datetime | None
    value: float | None
    threshold: float | None
    summary: str


def to_record(transition: Transition) -> dict[str, Any]:
    """The transition as a record of the Alert contract: instants as milliseconds since 1970, UTC."""
    return {
        name: (value - _EPOCH) // _MS if isinstance(value, datetime) else value
        for name, value in asdict(transition).items()
    }


@dataclass(frozen=True)
class _Open:
    """An alert that is pending or firing: the finding that raised it (its latest step) and how far it has come."""

    raised: Finding
    starts_ms: int
    fires_ms: int
    firing: bool = False
    told_ms: int = 0


class AlertBook:
    """The alerts of one partition (or of one zone detector), from the findings of one batch after another.

    An open alert is found again by its labels without the severity, and keeps the severity it was raised with, so a
    change of thresholds in between does not leave it open for ever. Memory: one small entry per alert open, one number
    per fingerprint ever seen.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str | None, ...], _Open] = {}
        self._sequence: dict[str, int] = {}
        self._watermark: int | None = None
        # Lower bound of the instants at which a pending alert fires; None when none is pending.
        self._earliest: int | None = None

    def step(self, findings: pl.DataFrame, watermark_ms: int) -> list[Transition]:
        """Transitions that follow from these findings (FINDING_SCHEMA) and from time, ordered by `at`.

        `watermark_ms` is how far event time has come after the batch that gave the findings, milliseconds since 1970;
        one that went back is ignored. Findings of one condition stand in the order in which it changed. A pending alert
        fires when the watermark, or its own next finding, shows that the condition has lasted `hold_s`. A raise of what
        is raised, or an end of what is not, changes nothing.
        """
        made: list[Transition] = []
        if findings.height:
            for row in findings.with_columns(pl.col("at", "watermark").dt.epoch("ms")).iter_rows():
                made += self._take(Finding(*row))
        self._watermark = watermark_ms if self._watermark is None else max(self._watermark, watermark_ms)
        made += self._ripen(self._watermark)
        return sorted(made, key=lambda transition: (transition.at, transition.fingerprint, transition.sequence))

    def raised(self, rule: str, jurisdiction_id: str) -> set[tuple[str, str]]:
        """(zone, category) of each open zone alert of a rule: what `hot_spots` is to compare with."""
        return {
            (alert.raised.zone_code, alert.raised.category or "")
            for alert in self._open.values()
            if (alert.raised.rule, alert.raised.jurisdiction_id) == (rule, jurisdiction_id) and alert.raised.zone_code
        }

    def _take(self, finding: Finding) -> Iterator[Transition]:
        identity = _identity(finding)
        alert = self._open.get(identity)
        if alert is not None and not alert.firing and _seen(finding) >= alert.fires_ms:
            yield self._fire(identity, alert)
            alert = self._open[identity]
        if finding.raised and alert is None:
            yield from self._begin(identity, finding)
        elif finding.raised and alert is not None:
            if alert.firing and finding.rule in _ESCALATING and finding.threshold != alert.raised.threshold:
                yield self._escalate(identity, alert, finding)
        elif alert is not None:
            yield self._end(identity, alert, finding)

    def _begin(self, identity: tuple[str | None, ...], finding: Finding) -> Iterator[Transition]:
        alert = _Open(finding, finding.at, finding.at + round(finding.hold_s * 1_000))
        self._open[identity] = alert
        if finding.hold_s > 0:
            self._earliest = alert.fires_ms if self._earliest is None else min(self._earliest, alert.fires_ms)
            yield self._transition(alert, "pending", finding.at, finding)
        else:
            yield self._fire(identity, alert)

    def _fire(self, identity: tuple[str | None, ...], alert: _Open) -> Transition:
        self._open[identity] = replace(alert, firing=True, told_ms=alert.fires_ms)
        return self._transition(alert, "firing", alert.fires_ms, alert.raised)

    def _escalate(self, identity: tuple[str | None, ...], alert: _Open, finding: Finding) -> Transition:
        step = finding._replace(severity=alert.raised.severity)
        self._open[identity] = replace(alert, raised=step, told_ms=finding.at)
        return self._transition(alert, "firing", finding.at, step)

    def _end(self, identity: tuple[str | None, ...], alert: _Open, finding: Finding) -> Transition:
        del self._open[identity]
        # A late clear can bear an instant before the one at which the watermark let the alert fire.
        at = max(finding.at, alert.told_ms, alert.starts_ms)
        return self._transition(alert, "resolved" if alert.firing else "expired", at, finding, ends_ms=at)

    def _ripen(self, watermark_ms: int) -> Iterator[Transition]:
        if self._earliest is None or watermark_ms < self._earliest:
            return
        waiting = [(identity, alert) for identity, alert in self._open.items() if not alert.firing]
        for identity, alert in waiting:
            if watermark_ms >= alert.fires_ms:
                yield self._fire(identity, alert)
        self._earliest = _earliest(self._open.values())

    def _transition(
        self, alert: _Open, state: State, at_ms: int, evidence: Finding, ends_ms: int | None = None
    ) -> Transition:
        labels = alert.raised
        fingerprint = _fingerprint(labels)
        sequence = self._sequence[fingerprint] = self._sequence.get(fingerprint, 0) + 1
        return Transition(
            transition_id=_digest(f"{fingerprint}|{alert.starts_ms}|{state}|{sequence}", 32),
            fingerprint=fingerprint,
            sequence=sequence,
            alertname=labels.rule,
            jurisdiction_id=labels.jurisdiction_id,
            domain=labels.domain,
            asset_id=labels.asset_id,
            zone_layer=labels.zone_layer,
            zone_code=labels.zone_code,
            category=labels.category,
            severity=labels.severity,
            state=state,
            at=_instant(at_ms),
            starts_at=_instant(alert.starts_ms),
            ends_at=None if ends_ms is None else _instant(ends_ms),
            value=evidence.value,
            threshold=evidence.threshold,
            summary=summary(evidence),
        )

    def adopt(
        self,
        newest: Iterable[Mapping[str, Any]],
        hold_s: Callable[[str, str], float] = lambda rule, jurisdiction_id: 0.0,
    ) -> None:
        """Take over what was told by a book that is lost, so that names go on and what lasts is not told again.

        `newest`: of each alert the newest transition (values of the Alert contract, instants in milliseconds). `hold_s`
        gives the seconds that a rule of an authority holds back an alert: what is pending goes on waiting for them.
        Raises ValueError when this book already holds alerts.
        """
        if self._open or self._sequence:
            raise ValueError("adopt into a new AlertBook: this one already holds alerts")
        for record in newest:
            self._sequence[record["fingerprint"]] = record["sequence"]
            if record["ends_at"] is None:
                alert = _adopted(record, hold_s(record["alertname"], record["jurisdiction_id"]))
                self._open[_identity(alert.raised)] = alert
        self._earliest = _earliest(self._open.values())

    def snapshot(self) -> bytes:
        """The state, for `restore`, as JSON."""
        return json.dumps(
            {
                "version": _VERSION,
                "watermark_ms": self._watermark,
                "open": [
                    [list(alert.raised), alert.starts_ms, alert.fires_ms, alert.firing, alert.told_ms]
                    for alert in self._open.values()
                ],
                "sequence": self._sequence,
            }
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot in place of one's own. Raises ValueError for bytes that are none."""
        try:
            held = json.loads(snapshot)
            if held["version"] != _VERSION:
                raise ValueError(f"version {held['version']}, this code reads {_VERSION}")
            alerts = [_Open(Finding(*finding), *rest) for finding, *rest in held["open"]]
            watermark, sequence = held["watermark_ms"], dict(held["sequence"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a snapshot of an alert book ({error}): rebuild the partition's state") from error
        self._open = {_identity(alert.raised): alert for alert in alerts}
        self._watermark, self._sequence = watermark, sequence
        self._earliest = _earliest(alerts)


def _earliest(alerts: Iterable[_Open]) -> int | None:
    return min((alert.fires_ms for alert in alerts if not alert.firing), default=None)


def _adopted(record: Mapping[str, Any], hold_s: float) -> _Open:
    """The open alert that a stored transition speaks of."""
    raised = Finding(
        rule=record["alertname"],
        jurisdiction_id=record["jurisdiction_id"],
        domain=record["domain"],
        asset_id=record["asset_id"],
        zone_layer=record["zone_layer"],
        zone_code=record["zone_code"],
        category=record["category"],
        at=record["at"],
        raised=True,
        value=record["value"],
        threshold=record["threshold"],
        severity=record["severity"],
        hold_s=hold_s,
        watermark=None,
    )
    starts_ms, firing = record["starts_at"], record["state"] != "pending"
    return _Open(raised, starts_ms, starts_ms + round(hold_s * 1_000), firing, record["at"] if firing else 0)


def _seen(finding: Finding) -> int:
    """How far event time is known to have come when this finding is made."""
    return finding.at if finding.watermark is None else max(finding.at, finding.watermark)


def _identity(finding: Finding) -> tuple[str | None, ...]:
    return finding[:7]


def _labels(finding: Finding) -> dict[str, str]:
    labels = {
        "alertname": finding.rule,
        "jurisdiction_id": finding.jurisdiction_id,
        "domain": finding.domain,
        "asset_id": finding.asset_id,
        "zone_layer": finding.zone_layer,
        "zone_code": finding.zone_code,
        "category": finding.category,
        "severity": finding.severity,
    }
    return {name: value for name, value in labels.items() if value is not None}


def _fingerprint(finding: Finding) -> str:
    return _digest(json.dumps(_labels(finding), sort_keys=True, ensure_ascii=True, separators=(",", ":")), 16)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _instant(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def summary(finding: Finding) -> str:
    """One sentence for a person. It names the asset or zone and the numbers, nothing else."""
    write = _SENTENCES.get(finding.rule)
    if write is not None:
        return write(finding)
    about = finding.asset_id or f"{finding.zone_layer} {finding.zone_code}"
    return f"{finding.rule} {'holds' if finding.raised else 'has ended'} for {about}"


def _bin_full(finding: Finding) -> str:
    verb, edge = ("is full", "threshold") if finding.raised else ("is no longer full", "clears at")
    return f"Bin {finding.asset_id} {verb}{_measured(finding, '{:.2f}', edge)}"


def _bin_fire(finding: Finding) -> str:
    verb, edge = ("may be on fire", "threshold") if finding.raised else ("has cooled down", "clears at")
    return f"Bin {finding.asset_id} {verb}{_measured(finding, '{:.0f} °C', edge)}"


def _measured(finding: Finding, form: str, edge: str) -> str:
    if finding.value is None or finding.threshold is None:
        return ""
    return f": {form.format(finding.value)} ({edge} {form.format(finding.threshold)})"


def _lamp_defective(finding: Finding) -> str:
    return f"Lamp {finding.asset_id} reports {'a defect' if finding.raised else 'no defect any more'}"


def _lamp_dark(finding: Finding) -> str:
    if not finding.raised:
        return f"Lamp {finding.asset_id} is no longer dark at night"
    return f"Lamp {finding.asset_id} is off in the dark{_sun(finding)}"


def _lamp_lit_by_day(finding: Finding) -> str:
    if not finding.raised:
        return f"Lamp {finding.asset_id} is no longer lit by day"
    return f"Lamp {finding.asset_id} is lit in daylight{_sun(finding)}"


def _sun(finding: Finding) -> str:
    if finding.value is None or finding.threshold is None:
        return ""
    return f": sun at {finding.value:.1f}° (threshold {finding.threshold:.1f}°)"


def _silent(finding: Finding) -> str:
    if not finding.raised:
        after = "" if finding.value is None else f" after {_span(finding.value)}"
        return f"Asset {finding.asset_id} is no longer silent{after}"
    return f"Asset {finding.asset_id} has said nothing for {_span(finding.value or 0)}"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _report_hot_spot(finding: Finding) -> str:
    about = f"{finding.zone_layer} {finding.zone_code}"
    if finding.value is None or finding.threshold is None:
        return f"Reports of {finding.category} in {about} are as usual again"
    verb = "Unusually many" if finding.raised else "No longer unusually many"
    return f"{verb} reports of {finding.category} in {about}: {finding.value:.0f} ({finding.threshold:.1f} expected)"


_SENTENCES: Final[Mapping[str, Callable[[Finding], str]]] = {
    "bin_full": _bin_full,
    "bin_fire": _bin_fire,
    "lamp_defective": _lamp_defective,
    "lamp_dark": _lamp_dark,
    "lamp_lit_by_day": _lamp_lit_by_day,
    "silent": _silent,
    "report_hot_spot": _report_hot_spot,
}
