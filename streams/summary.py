"""The end of a demo: what was produced against what is stored, and which of the injected faults were found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from processors.aggregate import EVENTS
from schemas.contracts import DOMAINS
from schemas.rejects import Reason
from sinks.clickhouse import Sink
from streams.simulation.records import Fault, Truth
from streams.tally import Tally

#: Rules of one asset and one reading or state: each injected fault must be found and nothing else.
THRESHOLD_RULES: Final = ("bin_full", "bin_fire", "lamp_defective", "lamp_dark", "lamp_lit_by_day", "silent")
HOT_SPOT: Final = "report_hot_spot"
RULES: Final = (*THRESHOLD_RULES, HOT_SPOT)


@dataclass(frozen=True)
class Found:
    """An alert that fired: its rule, and the asset, or the zone and category, that it names."""

    rule: str
    asset_id: str | None
    zone_code: str | None
    category: str | None


def fired(sink: Sink) -> list[Found]:
    """Every alert that ever fired, as ClickHouse has it."""
    rows = sink.rows(
        "SELECT alertname, asset_id, zone_code, category FROM alerts WHERE fired ORDER BY alertname, fingerprint"
    )
    return [Found(*row) for row in rows]


def judged(evident: Sequence[Fault], faults: Sequence[Fault], alerts: Sequence[Found]) -> dict[str, dict[str, int]]:
    """By rule: faults that could be seen (`evident`), those found, and alerts that none of `faults` explains."""
    truth: dict[str, set[tuple[str | None, ...]]] = defaultdict(set)
    told: dict[str, set[tuple[str | None, ...]]] = defaultdict(set)
    for fault in evident:
        truth[fault.rule].add((fault.asset_id, fault.zone_code, fault.category))
    planned = {(fault.rule, fault.asset_id, fault.zone_code, fault.category) for fault in faults}
    for alert in alerts:
        told[alert.rule].add((alert.asset_id, alert.zone_code, alert.category))
    return {
        rule: {
            "injected": len(truth[rule]),
            "found": len(truth[rule] & told[rule]),
            "false": sum((rule, *alert) not in planned for alert in told[rule]),
        }
        for rule in sorted({*RULES, *told})
    }


def stored_events(sink: Sink) -> int:
    """Rows of the event tables."""
    return sum(int(sink.rows(f"SELECT count() FROM events_{domain} FINAL")[0][0]) for domain in DOMAINS)


def window_events(sink: Sink, layer: str) -> int:
    """The windows' event counts over one layer, "no zone" included."""
    sql = "SELECT sum(count) FROM windows WHERE layer = {layer:String} AND endsWith(metric, {metric:String})"
    return int(sink.rows(sql, {"layer": layer, "metric": f".{EVENTS}"})[0][0] or 0)


def rejected(sink: Sink) -> dict[str, int]:
    """Rejects by reason, duplicates among them."""
    rows = sink.rows("SELECT reason, count() FROM rejects FINAL GROUP BY reason ORDER BY reason")
    return {str(reason): int(n) for reason, n in rows}


def summarize(sink: Sink, layer: str, truth: Truth, tally: Tally) -> dict[str, Any]:
    """The summary of a run, from what is stored (ClickHouse) and what was handed out (the simulator's truth)."""
    refused = rejected(sink)
    duplicates = refused.pop(Reason.DUPLICATE.value, 0)
    speed: Mapping[str, Any] = tally.summary()
    return {
        "produced": truth.produced,
        "stored": stored_events(sink),
        "rejected": refused,
        "duplicates": duplicates,
        "window_events": window_events(sink, layer),
        "late": speed["late"],
        "location_quality": speed["location_quality"],
        "alerts": judged(truth.evident_faults(), truth.faults, fired(sink)),
        "events_per_s": speed["events_per_s"],
        "visible_latency_ms": speed["visible_latency_ms"],
        "seconds": speed["seconds"],
        "peak_rss_mib": speed["peak_rss_mib"],
        "truth": {name: value for name, value in truth.to_dict().items() if name != "faults"},
    }


def faults_of(summary: Mapping[str, Any]) -> list[str]:
    """What is wrong with a finished run, in words; nothing when every number is accounted for."""
    wrong = []
    accounted = summary["stored"] + sum(summary["rejected"].values()) + summary["duplicates"]
    if summary["produced"] != accounted:
        wrong.append(f"{summary['produced']} produced, {accounted} accounted for")
    if summary["window_events"] != summary["stored"]:
        wrong.append(f"{summary['stored']} stored, {summary['window_events']} in the windows")
    truth = summary["truth"]
    if summary["rejected"] != truth["refused"]:
        wrong.append(f"rejected {summary['rejected']}, to be refused {truth['refused']}")
    if summary["duplicates"] != truth["duplicates"]:
        wrong.append(f"{summary['duplicates']} duplicates seen, {truth['duplicates']} sent")
    for rule, count in summary["alerts"].items():
        if count["found"] < count["injected"]:
            wrong.append(f"{rule}: {count['injected'] - count['found']} not found")
        if count["false"] > (1 if rule == HOT_SPOT else 0):
            wrong.append(f"{rule}: {count['false']} false")
    return wrong


_ZONES: Final = """
SELECT z.name, e.events, coalesce(a.open, 0)
FROM (
    SELECT zone_code, toInt64(sum(count)) AS events FROM windows
    WHERE layer = {layer:String} AND endsWith(metric, {metric:String}) AND zone_code != '' GROUP BY zone_code
) AS e
LEFT JOIN (SELECT code, any(name) AS name FROM zones WHERE layer = {layer:String} GROUP BY code) AS z
    ON z.code = e.zone_code
LEFT JOIN (
    SELECT s.zones[{layer:String}] AS code, toInt64(count()) AS open
    FROM (SELECT asset_id FROM alerts WHERE fired AND ends_at IS NULL AND asset_id != '') AS f
    INNER JOIN (SELECT asset_id, zones FROM asset_state FINAL) AS s ON s.asset_id = f.asset_id
    GROUP BY code
) AS a ON a.code = e.zone_code
ORDER BY e.events DESC, z.name LIMIT 10
"""


def busiest_zones(sink: Sink, layer: str) -> list[tuple[str, int, int]]:
    """Name, stored events and open asset alerts of the ten zones of a layer with most events."""
    rows = sink.rows(_ZONES, {"layer": layer, "metric": f".{EVENTS}"})
    return [(str(name), int(events), int(alerts)) for name, events, alerts in rows]
