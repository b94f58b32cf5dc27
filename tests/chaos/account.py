"""The account of a run: what ClickHouse and the receiver hold, and in words what of it the generator knows better."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from schemas.contracts import DOMAINS
from schemas.rejects import Reason
from tests.chaos.database import Database
from tests.chaos.records import STORED
from tests.support.oracles import wrong_windows
from tests.support.receiver import Received

#: Examples in a sentence, at most.
_SOME: Final = 5
_POSITION: Final = "toString(topic) AS topic, toInt64(partition) AS partition, toInt64(offset) AS offset"
#: Every position that ClickHouse knows, and what became of it. Without FINAL a replaced row would stand twice.
POSITIONS: Final = " UNION ALL ".join(
    [
        *(f"SELECT {_POSITION}, '{STORED}' AS found FROM events_{domain} FINAL" for domain in DOMAINS),
        f"SELECT {_POSITION}, toString(reason) AS found FROM rejects FINAL",
    ]
)
_TRANSITIONS: Final = """
SELECT DISTINCT transition_id, fingerprint, toInt64(sequence) AS sequence, toString(alertname) AS alertname,
    toString(state) AS state, coalesce(toString(asset_id), '') AS asset_id,
    toUnixTimestamp64Milli(starts_at) AS starts_ms
FROM alert_transitions FINAL
"""
#: Faults of the simulated city that are seen whenever they are looked at: no learning, no time of day.
_SEEN_AT_ONCE: Final = frozenset({"bin_full", "bin_fire", "lamp_defective"})
_TOLD: Final = frozenset({"firing", "resolved"})


@dataclass
class Account:
    """What was counted, and what is wrong, in words. A run is right when nothing is wrong."""

    records: int = 0
    stored: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    transitions: int = 0
    fired: int = 0
    delivered: int = 0
    wrong: list[str] = field(default_factory=list)


def judge_positions(truth: pl.DataFrame, found: pl.DataFrame) -> list[str]:
    """Every confirmed position must be found exactly once, as what it must become, and no other.

    `truth`: topic, partition, offset, expected. `found`: topic, partition, offset, found.
    """
    key = ["topic", "partition", "offset"]
    wrong = []
    twice = found.group_by(key).agg(pl.col("found").sort()).filter(pl.col("found").list.len() > 1)
    if len(twice):
        wrong.append(f"{len(twice)} positions stand twice: {_positions(twice, 'found')}")
    once = found.unique(key, keep="first", maintain_order=True)
    missing = truth.join(once, on=key, how="anti")
    if len(missing):
        wrong.append(f"{len(missing)} records are neither stored nor rejected: {_positions(missing, 'expected')}")
    strange = once.join(truth, on=key, how="anti")
    if len(strange):
        wrong.append(f"{len(strange)} positions were never published: {_positions(strange, 'found')}")
    other = truth.join(once, on=key).filter(pl.col("expected") != pl.col("found"))
    for (expected, became), rows in sorted(other.group_by("expected", "found"), key=lambda group: str(group[0])):
        wrong.append(f"{len(rows)} records to be {expected} became {became}: {_positions(rows, 'expected')}")
    return wrong


def judge_transitions(transitions: Sequence[Mapping[str, Any]], burnt: Mapping[str, int]) -> list[str]:
    """One content for each id, one id for each step of an alert, and as many fires as were lit.

    `burnt` is how often each blinker was set on fire.
    """
    wrong = []
    ids = Counter(t["transition_id"] for t in transitions)
    if several := [name for name, count in ids.items() if count > 1]:
        wrong.append(f"{len(several)} transition ids have several contents: {_some(several)}")
    steps: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for t in transitions:
        steps[t["fingerprint"], t["sequence"]].add(t["transition_id"])
    if several := [f"{name} {number}" for (name, number), found in steps.items() if len(found) > 1]:
        wrong.append(f"{len(several)} steps of alerts have several transitions: {_some(several)}")
    for state in ("firing", "resolved"):
        lives: defaultdict[str, set[int]] = defaultdict(set)
        for t in transitions:
            if t["alertname"] == "bin_fire" and t["state"] == state:
                lives[t["asset_id"]].add(t["starts_ms"])
        for asset, count in sorted(burnt.items()):
            if len(lives[asset]) != count:
                wrong.append(f"{asset} burnt {count} times, and {len(lives[asset])} alerts of it are {state}")
    return wrong


def to_deliver(transitions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ids of the transitions of which somebody must be told."""
    return sorted({t["transition_id"] for t in transitions if t["state"] in _TOLD})


def undelivered(owed: Iterable[str], received: Iterable[Received]) -> list[str]:
    """Those of the ids that the receiver has not got."""
    return sorted(set(owed) - {request.headers.get("webhook-id", "") for request in list(received)})


def judge_deliveries(
    transitions: Sequence[Mapping[str, Any]], received: Sequence[Received], owed: Sequence[str]
) -> list[str]:
    """What is `owed` arrived under its id, nothing that is not stored or has not fired did, and never two things under
    one id."""
    bodies: defaultdict[str, set[bytes]] = defaultdict(set)
    for request in received:
        bodies[request.headers.get("webhook-id", "")].add(request.body)
    known = {t["transition_id"] for t in transitions}
    wrong = []
    if missing := undelivered(owed, received):
        wrong.append(f"{len(missing)} transitions never reached the receiver: {_some(missing)}")
    if strange := sorted(bodies.keys() - known):
        wrong.append(f"{len(strange)} deliveries are of no stored transition: {_some(strange)}")
    if unasked := sorted(bodies.keys() & known - set(to_deliver(transitions))):
        wrong.append(f"{len(unasked)} deliveries are of alerts that have not fired: {_some(unasked)}")
    if several := sorted(name for name, contents in bodies.items() if len(contents) > 1):
        wrong.append(f"{len(several)} webhook ids came with different bodies: {_some(several)}")
    return wrong


def judge_faults(evident: Iterable[tuple[str, str]], transitions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each (rule, asset) that anybody could see must have fired, where the rule needs no past."""
    fired = {(t["alertname"], t["asset_id"]) for t in transitions if t["state"] == "firing"}
    missing = sorted(pair for pair in evident if pair[0] in _SEEN_AT_ONCE and pair not in fired)
    return [f"{len(missing)} faults of the city raised no alert: {_some(map(str, missing))}"] if missing else []


def transitions(database: Database) -> list[dict[str, Any]]:
    """Every transition, each content of an id by itself."""
    return list(database.frame(_TRANSITIONS).iter_rows(named=True))


def judge(
    database: Database,
    truth: pl.DataFrame,
    burnt: Mapping[str, int],
    evident: Iterable[tuple[str, str]],
    received: Sequence[Received],
    owed: Sequence[str],
    layers: Sequence[str],
) -> Account:
    """The whole account, once every worker has ended."""
    found = database.frame(POSITIONS)
    counts = dict(found.group_by("found").len().iter_rows())
    told = transitions(database)
    account = Account(
        records=len(truth),
        stored=counts.pop(STORED, 0),
        duplicates=counts.pop(Reason.DUPLICATE.value, 0),
        rejected=dict(sorted(counts.items())),
        transitions=len(told),
        fired=sum(t["state"] == "firing" for t in told),
        delivered=len(received),
    )
    account.wrong = [
        *judge_positions(truth, found),
        *judge_transitions(told, burnt),
        *judge_deliveries(told, received, owed),
        *judge_faults(evident, told),
    ]
    total = account.stored + sum(account.rejected.values()) + account.duplicates
    if total != account.records:
        account.wrong.append(f"{account.records} records were confirmed, and {total} are accounted for")
    if windows := database.rows(wrong_windows(layers)):
        account.wrong.append(f"{len(windows)} windows are not the stored events: {_some(map(str, windows))}")
    return account


def _positions(frame: pl.DataFrame, column: str) -> str:
    rows = frame.sort("topic", "partition", "offset").select("topic", "partition", "offset", column)
    return _some(f"{topic}/{partition} at {offset} ({what})" for topic, partition, offset, what in rows.iter_rows())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SOME} more" if len(listed) > _SOME else ""
    return ", ".join(listed[:_SOME]) + more
