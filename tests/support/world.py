"""A consumer group with a ClickHouse database of its own: what several workers make of a log together.

Worlds share a broker and a gateway and know nothing of each other, so one log can be read by many of them. They can be
looked into while their workers run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.codec import decode_values
from schemas.contracts import ALERT_TOPIC, contract
from schemas.writers import own_writers
from sinks.clickhouse import Sink, connect, migrate
from streams import broker
from streams.settings import Settings, load
from streams.territory.files import load as load_territory
from tests.support import oracles
from tests.support.oracles import Place, Rows, Stored, Told
from tests.support.pipeline import VIGIE, Command, Done, committed_offsets, everything, succeeded

_POLL_S: Final = 0.05
_PATIENCE_S: Final = 90.0

#: What one log must always give. Where it was read from and by whom is left out, and nothing else.
_WINDOWS: Final = "SELECT * FROM windows ORDER BY ALL"
_ALERTS: Final = (
    "SELECT DISTINCT * EXCEPT (topic, epoch, partition, offset) FROM alert_transitions "
    "ORDER BY fingerprint, sequence, transition_id"
)
_REACHED: Final = (
    "SELECT topic, epoch, partition, argMax(next_offset, version) FROM snapshots WHERE topic != '' GROUP BY ALL"
)


@dataclass(frozen=True)
class Answer:
    """Window totals and alert histories as ClickHouse writes them, one JSON row a line."""

    windows: bytes
    alerts: bytes

    @property
    def hashes(self) -> tuple[str, str]:
        """Of the windows and of the alerts."""
        windows, alerts = (hashlib.sha256(part).hexdigest()[:16] for part in (self.windows, self.alerts))
        return windows, alerts

    def differences(self, other: Answer) -> list[str]:
        """Lines that only one of the two has; those of the other are marked with +."""
        told = []
        for mine, theirs in ((self.windows, other.windows), (self.alerts, other.alerts)):
            here, there = set(mine.decode().splitlines()), set(theirs.decode().splitlines())
            told += [f"- {line}" for line in sorted(here - there)] + [f"+ {line}" for line in sorted(there - here)]
        return told


@dataclass(frozen=True)
class World:
    """One group and its database. Made by `world`; `settings` are those of its workers, by lower-case name."""

    group: str
    bootstrap: str
    folder: Path
    settings: Mapping[str, object]
    sink: Sink
    layers: tuple[str, ...]
    _workers: list[str] = field(default_factory=list)

    # -- workers -------------------------------------------------------------------------------------------------------

    def worker(self, *arguments: object, program: tuple[object, ...] = (VIGIE,), **changes: object) -> Command:
        """A worker of this world, under way; with these settings in place of the world's."""
        self._workers.append(f"worker-{len(self._workers) + 1}")
        return Command(
            "worker",
            "--verbose",
            *arguments,
            folder=self.folder / self._workers[-1],
            settings={**self.settings, **changes},
            program=program,
        )

    def work_off(self, *, program: tuple[object, ...] = (VIGIE,), **changes: object) -> Done:
        """Have one worker store everything there is, and end it as an operator would. What it wrote."""
        with self.worker(program=program, **changes) as worker:
            self.wait_until_caught_up(worker)
            return stopped(worker)[0]

    def wait_until_caught_up(self, worker: Command, seconds: float = _PATIENCE_S) -> None:
        """Wait until everything that is in Kafka now is in snapshots, and Kafka knows."""
        ends, epochs = self.ends(), self.epochs()

        def is_reached() -> bool:
            reached = self.reached(epochs)
            return all(reached.get(place, 0) >= end for place, end in ends.items())

        def is_committed() -> bool:
            committed = self.committed()
            return all(committed.get(place, 0) >= end for place, end in ends.items())

        worker.wait_for(is_reached, f"{self.group} had caught up", seconds)
        worker.wait_for(is_committed, f"{self.group} had committed", seconds)

    # -- what Kafka knows ----------------------------------------------------------------------------------------------

    def ends(self) -> dict[Place, int]:
        """The next offset of each partition of the raw topics that has ever held something."""
        ends = broker.end_offsets(self.parsed())
        return {(place.topic, place.partition): end for place, (_, end) in ends.items() if end}

    def committed(self) -> dict[Place, int]:
        return committed_offsets(self.bootstrap, self.group)

    def epochs(self) -> dict[str, str]:
        """The ids of the raw topics as they are now."""
        return broker.topic_ids(self.parsed())

    def parsed(self) -> Settings:
        """The settings as a worker reads them."""
        return load(**self.settings)

    # -- what ClickHouse holds -----------------------------------------------------------------------------------------

    def rows(self, sql: str) -> Rows:
        return self.sink.rows(sql)

    def reached(self, epochs: Mapping[str, str] | None = None) -> dict[Place, int]:
        """Where the newest snapshot of each partition would go on; of the topics as they are now, or of these ids."""
        ids = self.epochs() if epochs is None else epochs
        return {(topic, number): end for topic, epoch, number, end in self.rows(_REACHED) if ids.get(topic) == epoch}

    def stored(self) -> Stored:
        return oracles.read_stored(lambda *queries: [self.rows(sql) for sql in queries], self.layers)

    def answer(self) -> Answer:
        windows, alerts = (self.sink.client.raw_query(sql, fmt="JSONEachRow") for sql in (_WINDOWS, _ALERTS))
        return Answer(windows, alerts)

    def faults(self) -> list[str]:
        """What does not hold of a world that has caught up: sentences, none when all is well.

        Every offset is stored or rejected, once; windows are the stored events; nothing is committed that is not
        durable; each alert has one id and one history, and is on the alert topic.
        """
        stored = self.stored()
        return [
            *oracles.account_faults(self.ends(), stored),
            *oracles.commit_faults(self.committed(), stored),
            *self.faults_of_what_follows(stored),
        ]

    def faults_of_what_follows(self, stored: Stored) -> list[str]:
        """The part of it that does not depend on offsets: windows and alerts."""
        # Others tell the same topic: of them only what this world has stored too is looked at. Nobody listens here.
        known = {str(one["transition_id"]): one for one in stored.transitions}
        on_topic = [one for one in alerts_told(self.bootstrap) if str(one["transition_id"]) in known]
        heard = [(identity, b"") for identity, one in known.items() if one["state"] in oracles.NOTIFIED]
        told = Told(on_topic, heard)
        return [*oracles.window_faults(stored), *oracles.alert_faults(stored, told)]


@contextlib.contextmanager
def world(
    group: str, bootstrap: str, clickhouse: str, territory: Path, folder: Path, settings: Mapping[str, object]
) -> Iterator[World]:
    """A world with its topics and tables, as `vigie init` makes them. `clickhouse` is the gateway's URL."""
    with contextlib.closing(connect(clickhouse)) as whole:
        whole.command(f"CREATE DATABASE IF NOT EXISTS {group}")
    all_settings: dict[str, object] = {
        "kafka_bootstrap": bootstrap,
        "clickhouse_url": f"{clickhouse}/{group}",
        "territories": str(territory),
        "group": group,
        "log_batches": "false",
        **settings,
    }
    with contextlib.closing(connect(f"{clickhouse}/{group}")) as sink:
        layers = load_territory(territory)[0].layers
        made = World(group, bootstrap, folder / group, all_settings, sink, layers)
        broker.create_topics(made.parsed())
        migrate(sink)
        yield made


def stopped(*workers: Command) -> list[Done]:
    """Have workers end as an operator would. What they wrote; raises AssertionError unless each ends with code 0."""
    for worker in workers:
        worker.interrupt(signal.SIGTERM)
    return [succeeded(worker.wait(_PATIENCE_S)) for worker in workers]


def wait_for(something: Callable[[], bool], what: str, seconds: float = _PATIENCE_S) -> None:
    """Wait until it is so. Raises AssertionError when it never is."""
    until = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(_POLL_S)


def alerts_told(bootstrap: str) -> list[dict[str, Any]]:
    """Every transition on the alert topic."""
    values = [message.value() for message in everything(bootstrap, [ALERT_TOPIC])]
    alert = contract("Alert")
    found = decode_values(alert, values, own_writers(alert))
    assert found.rejects.is_empty(), f"not alerts: {found.rejects}"
    return list(found.frame.drop("row").iter_rows(named=True))


def said(worker: Done | Command, what: str) -> list[dict[str, Any]]:
    """The lines of a worker's log so far about an event, like "resumed"."""
    lines = [json.loads(line) for line in worker.text.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line.get("event") == what]
