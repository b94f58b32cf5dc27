"""What must hold whatever was killed (FAUST.md, "Oracles"), told as sentences about what does not.

Every produced offset is exactly one of stored and rejected; the windows are the stored events; nothing is committed
that is not durable; an alert transition has one id and one content, is on `city.alerts` and was delivered. What is
asked of ClickHouse is made from the contracts here, not by the code that is tested.

`Reader` asks any ClickHouse in a process that it keeps; an embedded one no other process may have open meanwhile.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from schemas.contracts import DOMAINS, Domain, contract_of
from sinks.clickhouse import Sink, connect
from tests.support.steps import ROOT

#: Topic and partition.
Place = tuple[str, int]
Rows = list[tuple[Any, ...]]

#: Examples in a sentence, at most.
_SOME: Final = 5
#: Alerts that expire have never fired, so nobody may hear that they are over.
NOTIFIED: Final = frozenset({"firing", "resolved"})

_EVENTS: Final = " UNION ALL ".join(f"SELECT topic, partition, offset FROM events_{domain} FINAL" for domain in DOMAINS)
_OFFSETS: Final = "SELECT topic, partition, groupArray(offset) FROM ({}) GROUP BY topic, partition"
_REJECTS: Final = "SELECT topic, partition, offset FROM rejects FINAL"
_REASONS: Final = "SELECT reason, count() FROM rejects FINAL GROUP BY reason"
_TABLES_THERE: Final = (
    "SELECT count() FROM system.tables WHERE database = currentDatabase() AND "
    f"name IN ('rejects', {', '.join(repr(f'events_{domain}') for domain in DOMAINS)})"
)
#: Without FINAL: what was written under one name and replaced is told too.
_TRANSITIONS: Final = "SELECT DISTINCT * FROM alert_transitions"
_WINDOW_KEY: Final = "jurisdiction_id, layer, zone_code, metric, window_start"


@dataclass(frozen=True)
class Stored:
    """What ClickHouse holds. Offsets as they were found: one that stands twice is stored twice."""

    events: Mapping[Place, Sequence[int]]
    rejects: Mapping[Place, Sequence[int]]
    reasons: Mapping[str, int]
    transitions: Sequence[Mapping[str, Any]]
    windows: Rows
    """Windows that differ from the stored events: key, then count, late and steps here and there."""

    def durable(self, place: Place, start: int = 0) -> int:
        """The first offset, from `start` on, that is neither stored nor rejected."""
        known = {*self.events.get(place, ()), *self.rejects.get(place, ())}
        return next(offset for offset in range(start, start + len(known) + 1) if offset not in known)


def stored_windows(layers: Sequence[str]) -> str:
    """A query for the windows that stored events give: the key, then count, late and the sum of steps."""
    parts = [_measured(domain, *measure) for domain in DOMAINS for measure in _measures(domain)]
    names = ", ".join(f"'{layer}'" for layer in layers)
    return f"""
        SELECT jurisdiction_id, layer, zones[layer] AS zone_code, metric, window_start,
            toInt64(count()) AS n, toInt64(sum(late)) AS n_late, toInt64(sum(steps)) AS n_steps
        FROM ({" UNION ALL ".join(parts)}) ARRAY JOIN [{names}] AS layer
        GROUP BY {_WINDOW_KEY}
    """


def _measures(domain: Domain) -> Iterable[tuple[str, str, str]]:
    """Of each metric of a domain: its name, its steps, and which events it counts."""
    contract = contract_of(domain)
    yield "events", "0", "1"
    if domain == "report":
        yield "received", "0", "status = 'received'"
    bits = {field.name: bit for bit, field in enumerate(contract.measures)}
    for metric in contract.metrics:
        sound = f"{metric.name} IS NOT NULL AND NOT bitTest(failed, {bits[metric.name]})"
        yield metric.name, f"toInt64(round(assumeNotNull({metric.name}) / {metric.resolution}))", sound


def _measured(domain: Domain, name: str, steps: str, which: str) -> str:
    return f"""
        SELECT jurisdiction_id, zones, concat(kind, '.{name}') AS metric, toStartOfMinute(observed_at) AS window_start,
            late, toInt64({steps}) AS steps
        FROM events_{domain} FINAL WHERE {which}
    """


def wrong_windows(layers: Sequence[str]) -> str:
    """A query for the windows that are not what the stored events give: key, count, late and steps there and here."""
    resolutions = {metric.name: metric.resolution for domain in DOMAINS for metric in contract_of(domain).metrics} | {
        "events": 1.0,
        "received": 1.0,
    }
    names = ", ".join(f"'{name}'" for name in resolutions)
    values = ", ".join(f"toFloat64({value})" for value in resolutions.values())
    return f"""
        SELECT {_WINDOW_KEY}, sum(w), sum(w_late), sum(w_steps), sum(s), sum(s_late), sum(s_steps) FROM (
            SELECT {_WINDOW_KEY}, toInt64(count) AS w, toInt64(late) AS w_late,
                toInt64(round(sum / transform(splitByChar('.', metric)[-1], [{names}], [{values}], 1.))) AS w_steps,
                toInt64(0) AS s, toInt64(0) AS s_late, toInt64(0) AS s_steps
            FROM windows
            UNION ALL
            SELECT {_WINDOW_KEY}, toInt64(0), toInt64(0), toInt64(0), n, n_late, n_steps
            FROM ({stored_windows(layers)})
        )
        GROUP BY {_WINDOW_KEY}
        HAVING sum(w) != sum(s) OR sum(w_late) != sum(s_late) OR sum(w_steps) != sum(s_steps)
        ORDER BY {_WINDOW_KEY}
    """


class Reader:
    """Asks a ClickHouse (`chdb:///path`, `http://…`) in a process of its own, which connects for each question only.

    A context manager. No other process may have an embedded one open while it is asked.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.oracles"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def rows(self, url: str, *queries: str) -> list[Rows]:
        """The answer to each query. Raises RuntimeError with what ClickHouse said."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump((url, queries), stdin)
        stdin.flush()
        answer: list[Rows] | str = pickle.load(stdout)
        if isinstance(answer, str):
            raise RuntimeError(f"{url} cannot be read: {answer}")
        return answer

    def stored(self, url: str, layers: Sequence[str]) -> Stored:
        """What that database holds; `layers` are those of the one territory there."""
        return read_stored(lambda *queries: self.rows(url, *queries), layers)

    def durable(self, url: str) -> Stored:
        """The same without windows and alerts: what is read after every kill, of a world without tables too."""
        ((there,),) = self.rows(url, _TABLES_THERE)[0]
        if there < len(DOMAINS) + 1:
            return Stored({}, {}, {}, (), [])
        events, rejects = self.rows(url, _OFFSETS.format(_EVENTS), _OFFSETS.format(_REJECTS))
        return Stored(_by_place(events), _by_place(rejects), {}, (), [])


def read_stored(ask: Any, layers: Sequence[str]) -> Stored:
    """What a ClickHouse holds; `ask` answers queries with a list of rows each."""
    events, rejects, reasons, columns, transitions, windows = ask(
        _OFFSETS.format(_EVENTS),
        _OFFSETS.format(_REJECTS),
        _REASONS,
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'alert_transitions' "
        "ORDER BY position",
        _TRANSITIONS,
        wrong_windows(layers),
    )
    names = [name for (name,) in columns]
    told = [dict(zip(names, row, strict=True)) for row in transitions]
    return Stored(_by_place(events), _by_place(rejects), {r: int(n) for r, n in reasons}, told, windows)


def _by_place(rows: Rows) -> dict[Place, list[int]]:
    return {(str(topic), int(partition)): [int(o) for o in offsets] for topic, partition, offsets in rows}


# --- the oracles


#: Logs begin at offset 0 where nothing else is said.
_FROM_ZERO: Final[Mapping[Place, int]] = {}


def account_faults(ends: Mapping[Place, int], stored: Stored, starts: Mapping[Place, int] = _FROM_ZERO) -> list[str]:
    """Every produced offset is exactly one of stored and rejected.

    `ends`: the next offset of each partition, `starts` the first that was there to be read.
    """
    told = []
    for place in sorted({*ends, *stored.events, *stored.rejects}):
        name, end = f"{place[0]}/{place[1]}", ends.get(place, 0)
        events, rejects = stored.events.get(place, ()), stored.rejects.get(place, ())
        for what, offsets in (("stored", events), ("rejected", rejects)):
            if twice := sorted(offset for offset, n in Counter(offsets).items() if n > 1):
                told.append(f"{name}: {_some(twice)} {what} twice")
        if both := sorted({*events} & {*rejects}):
            told.append(f"{name}: {_some(both)} stored and rejected")
        known = {*events, *rejects}
        start = starts.get(place, 0)
        if lost := [offset for offset in range(start, end) if offset not in known]:
            told.append(f"{name}: {_some(lost)} neither stored nor rejected")
        if strange := sorted(offset for offset in known if not start <= offset < end):
            told.append(f"{name}: {_some(strange)} stored, and never produced")
    return told


def commit_faults(
    committed: Mapping[Place, int], stored: Stored, starts: Mapping[Place, int] = _FROM_ZERO
) -> list[str]:
    """Nothing is committed that is not durable. `committed`: the next offset to read of each partition."""
    durable = {place: stored.durable(place, starts.get(place, 0)) for place in committed}
    return [
        f"{place[0]}/{place[1]}: committed {offset}, durable {durable[place]}"
        for place, offset in sorted(committed.items())
        if offset > durable[place]
    ]


def overlap_faults(stored: Stored, starts: Mapping[Place, int] = _FROM_ZERO) -> list[str]:
    """What holds at every instant, work under way or not: no offset is stored twice, or stored and rejected."""
    ends = {place: stored.durable(place, starts.get(place, 0)) for place in {*stored.events, *stored.rejects}}
    return [told for told in account_faults(ends, stored, starts) if "never produced" not in told]


def reason_faults(refused: Mapping[str, int], stored: Stored) -> list[str]:
    """Records are rejected for the reasons they were made for, duplicates recognized among them."""
    return [
        f"rejected as {reason}: {stored.reasons.get(reason, 0)}, made to be: {refused.get(reason, 0)}"
        for reason in sorted({*refused, *stored.reasons})
        if stored.reasons.get(reason, 0) != refused.get(reason, 0)
    ]


def window_faults(stored: Stored) -> list[str]:
    """The windows are exactly what the stored events give, for every zone, minute and metric."""
    told = []
    for jurisdiction, layer, zone, metric, start, *numbers in stored.windows[:_SOME]:
        w, w_late, w_steps, s, s_late, s_steps = numbers
        where = f"{metric} in {jurisdiction} {layer} {zone or '(no zone)'} at {start}"
        told.append(f"{where}: windows say {w} ({w_late} late, {w_steps} steps), events {s} ({s_late}, {s_steps})")
    if len(stored.windows) > _SOME:
        events = sum(row[5] for row in stored.windows if row[3].endswith(".events"))
        there = sum(row[8] for row in stored.windows if row[3].endswith(".events"))
        told.append(f"{len(stored.windows)} windows differ in all; their events: {events} instead of {there}")
    return told


@dataclass(frozen=True)
class Told:
    """What left through Kafka and HTTP: transitions on `city.alerts`, deliveries by webhook id, dead letters."""

    transitions: Sequence[Mapping[str, Any]] = ()
    deliveries: Sequence[tuple[str, bytes]] = ()
    letters: Collection[tuple[str, int, int]] = field(default_factory=frozenset)


def alert_faults(stored: Stored, told: Told) -> list[str]:
    """One transition has one id and one content; it is on the alert topic, and whom it concerns was told."""
    found = []
    for source, transitions in (("stored", stored.transitions), ("on the topic", told.transitions)):
        found += [f"{source}: {fault}" for fault in _ambiguous(transitions)]
    known = {str(t["transition_id"]) for t in stored.transitions}
    on_topic = {str(t["transition_id"]) for t in told.transitions}
    delivered = {identity for identity, _ in told.deliveries}
    due = {str(t["transition_id"]) for t in stored.transitions if t["state"] in NOTIFIED}
    for missing, what in (
        (known - on_topic, "stored and not on the alert topic"),
        (on_topic - known, "on the alert topic and not stored"),
        (due - delivered, "stored and not delivered"),
        (delivered - known, "delivered and not stored"),
        (delivered & known - due, "delivered and nobody's business"),
    ):
        if missing:
            names = {str(t["transition_id"]): t for t in [*stored.transitions, *told.transitions]}
            found.append(f"{what}: {_some([_described(names.get(one), one) for one in sorted(missing)])}")
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for identity, body in told.deliveries:
        bodies[identity].add(body)
    if several := sorted(identity for identity, found_bodies in bodies.items() if len(found_bodies) > 1):
        found.append(f"delivered with several contents: {_some(several)}")
    return found


def _ambiguous(transitions: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Names that do not name one thing, and alerts whose history has a hole."""
    by_id: dict[str, set[Any]] = defaultdict(set)
    by_place: dict[tuple[str, int], set[str]] = defaultdict(set)
    for transition in transitions:
        identity = str(transition["transition_id"])
        by_id[identity].add(tuple(sorted((k, str(v)) for k, v in transition.items() if k not in _WRITER)))
        by_place[str(transition["fingerprint"]), int(transition["sequence"])].add(identity)
    if several := sorted(identity for identity, contents in by_id.items() if len(contents) > 1):
        yield f"one id, several contents: {_some(several)}"
    if several := sorted(f"{place[0]}#{place[1]}" for place, ids in by_place.items() if len(ids) > 1):
        yield f"one fingerprint and sequence, several transitions: {_some(several)}"
    sequences: dict[str, set[int]] = defaultdict(set)
    for fingerprint, sequence in by_place:
        sequences[fingerprint].add(sequence)
    if holes := sorted(f for f, seen in sequences.items() if seen != set(range(1, len(seen) + 1))):
        yield f"sequences with a hole: {_some(holes)}"


#: Columns that say who wrote a row and where from; they may differ between two writings of the same transition.
_WRITER: Final = frozenset({"term", "epoch", "version", "topic", "partition", "offset", "chunk"})


def _described(transition: Mapping[str, Any] | None, identity: str) -> str:
    if transition is None:
        return identity
    about = transition.get("asset_id") or transition.get("zone_code")
    return f"{transition['alertname']} {about} {transition['state']} #{transition['sequence']}"


def letter_faults(stored: Stored, told: Told) -> list[str]:
    """Every reject is in the dead letters, and nothing that is stored is."""
    rejects = {(*place, offset) for place, offsets in stored.rejects.items() for offset in offsets}
    found = []
    if missing := sorted(rejects - set(told.letters)):
        found.append(f"rejected and not in the dead letters: {_some(missing)}")
    if wrong := sorted(set(told.letters) - rejects):
        found.append(f"in the dead letters and not rejected: {_some(wrong)}")
    return found


def _some(found: Sequence[Any]) -> str:
    shown = ", ".join(str(one) for one in found[:_SOME])
    return shown if len(found) <= _SOME else f"{shown} … ({len(found)} in all)"


# --- the reading process


def _answer_for_ever() -> None:
    while True:
        try:
            url, queries = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_answers(url, queries), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _answers(url: str, queries: Sequence[str]) -> list[Rows] | str:
    try:
        with contextlib.closing(connect(url, retry_budget_s=1.0)) as sink:
            return answers(sink, queries)
    except Exception as error:  # noqa: BLE001 - told to the asking process, which raises it
        return f"{type(error).__name__}: {error}"


def answers(sink: Sink, queries: Iterable[str]) -> list[Rows]:
    """The rows of each query; none of a statement that is no query."""
    return [sink.rows(sql) if sql.split()[0] in _QUERIES else _done(sink, sql) for sql in queries]


_QUERIES: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE"})


def _done(sink: Sink, sql: str) -> Rows:
    sink.client.command(sql)
    return []


if __name__ == "__main__":
    _answer_for_ever()
