"""What is published, in order of time, each record with what must become of it."""

from __future__ import annotations

import heapq
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import fastavro
import numpy as np

from processors.territory import Territory
from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode
from schemas.rejects import Reason
from streams.simulation.city import Simulation, simulate
from streams.simulation.records import DUPLICATE, REFUSED, Record
from streams.simulation.reports import ordinary_request, step_value
from tests.chaos.town import blinkers

STORED: Final = "stored"
#: Larger than the workers of a chaos run are told to take, and small enough for Kafka.
HUGE_BYTES: Final = 80_000
MAX_RECORD_BYTES: Final = 40_000

_BLINK_S: Final = 1.0
_QUIET_TURNS: Final = 5
_HUGE_EVERY_S: Final = 7.0
#: The simulated city's citizens write a few letters an hour; here a part of the stream is theirs.
_REPORTS: Final = 0.03
_WEEK_LATE: Final = 0.003
_WEEK_MS: Final = 7 * 86_400_000
_PREFIX: Final = 10
_SOURCE: Final = "chaos"
_BURNING_C, _OUT_C = 180.0, 20.0
#: Numbers of requests beside those of the simulation.
_FIRST_REQUEST: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Label:
    """What must become of a record: `expected` is "stored" or the reason it must be refused for.

    `burns` names the blinker that this record sets on fire: one alert more must fire for it.
    """

    expected: str
    burns: str | None = None


Labelled = tuple[Record, Label]
_STORED_LABEL: Final = Label(STORED)


@dataclass(frozen=True)
class Stream:
    """The records of one run, and the simulation that most of them come from."""

    simulation: Simulation
    seed: int
    rate: float

    def records(self) -> Iterator[Labelled]:
        """All records in order of `at_ms`. Each call starts again."""
        sky = self.simulation.sky
        rng = np.random.default_rng([self.seed, 77])
        beside = (
            _blinks(self.simulation, sky.start_ms, sky.end_ms),
            _reports(self.simulation, rng.spawn(1)[0], self.rate),
            _huge(self.simulation, sky.start_ms, sky.end_ms),
        )
        ordinary = _with_old_news(_labelled(self.simulation), rng)
        yield from heapq.merge(ordinary, *beside, key=lambda labelled: labelled[0].at_ms)


def stream(
    territory: Territory, *, seed: int, rate: float, start: datetime, end: datetime, wall_now: Callable[[], datetime]
) -> Stream:
    """The stream of `[start, end)`: about `rate` events a second when the territory is `town(rate)`."""
    events = round(2 * rate * (end - start).total_seconds())
    simulation = simulate(territory, seed=seed, start=start, end=end, events=events, wall_now=wall_now)
    return Stream(simulation, seed, rate)


def _labelled(simulation: Simulation) -> Iterator[Labelled]:
    """The simulation's records. Their truth is told by what the simulation counts before it hands each out."""
    clean = 0
    dirt: Counter[str] = Counter()
    for record in simulation.records():
        truth = simulation.truth
        if truth.clean > clean:
            clean = truth.clean
            yield record, _STORED_LABEL
            continue
        (kind,) = truth.dirt - dirt
        dirt[kind] += 1
        if kind == DUPLICATE:
            yield record, Label(Reason.DUPLICATE.value)
        else:
            yield record, Label(REFUSED[kind].value) if kind in REFUSED else _STORED_LABEL


def _with_old_news(records: Iterator[Labelled], rng: np.random.Generator) -> Iterator[Labelled]:
    """After some clean records, what the same asset observed a week ago: stored, in a window long closed."""
    reports = RAW_TOPICS["report"]
    number = 0
    for record, label in records:
        yield record, label
        if label is _STORED_LABEL and record.topic != reports and rng.random() < _WEEK_LATE:
            number += 1
            if (old := _a_week_older(record, f"old-{number}")) is not None:
                yield old, _STORED_LABEL


def _a_week_older(record: Record, event_id: str) -> Record | None:
    domain = next(domain for domain, topic in RAW_TOPICS.items() if topic == record.topic)
    contract = contract_of(domain)
    value: Any = fastavro.schemaless_reader(io.BytesIO((record.value or b"")[_PREFIX:]), contract.parsed, None)
    for name, content in value.items():
        if isinstance(content, datetime):
            value[name] = round(content.timestamp() * 1_000)
    value |= {"event_id": event_id, "source": _SOURCE, "observed_at": value["observed_at"] - _WEEK_MS}
    return Record(record.topic, record.key, encode(contract, value), record.at_ms)


def _blinks(simulation: Simulation, start_ms: int, end_ms: int) -> Iterator[Labelled]:
    """Each blinker burns and is out by turns; at the end it stays out, until time has passed for its last alert."""
    jurisdiction = simulation.territory.jurisdiction_id
    contract = contract_of("sensor")
    every_ms = round(_BLINK_S * 1_000)
    turns = (end_ms - start_ms) // every_ms
    for turn in range(turns):
        burning = turn % 2 == 1 and turn < turns - _QUIET_TURNS
        for place, asset in enumerate(blinkers()):
            at = start_ms + turn * every_ms + place * every_ms // len(blinkers())
            value = {
                "event_id": f"{asset}-{turn}",
                "source": _SOURCE,
                "jurisdiction_id": jurisdiction,
                "asset_id": asset,
                "observed_at": at,
                "longitude": None,
                "latitude": None,
                "sensor_type": "bin",
                "temperature_c": _BURNING_C if burning else _OUT_C,
            }
            record = Record(RAW_TOPICS["sensor"], f"{jurisdiction}|{asset}".encode(), encode(contract, value), at)
            yield record, Label(STORED, asset) if burning else _STORED_LABEL


def _reports(simulation: Simulation, rng: np.random.Generator, rate: float) -> Iterator[Labelled]:
    jurisdiction, sky = simulation.territory.jurisdiction_id, simulation.sky
    contract = contract_of("report")
    step_ms = 1_000 / (rate * _REPORTS)
    for number in range(int((sky.end_ms - sky.start_ms) / step_ms)):
        at = sky.start_ms + int(number * step_ms)
        request = ordinary_request(simulation.places, rng, _FIRST_REQUEST + number)
        value = step_value(jurisdiction, request, "received", f"report-{number}", at) | {"source": _SOURCE}
        key = f"{jurisdiction}|{value['service_request_id']}".encode()
        yield Record(RAW_TOPICS["report"], key, encode(contract, value), at), _STORED_LABEL


def _huge(simulation: Simulation, start_ms: int, end_ms: int) -> Iterator[Labelled]:
    """Records that are too large, for each topic in turn."""
    key = f"{simulation.territory.jurisdiction_id}|huge".encode()
    topics = list(RAW_TOPICS.values())
    every_ms = round(_HUGE_EVERY_S * 1_000)
    for number, at in enumerate(range(start_ms + every_ms, end_ms, every_ms)):
        record = Record(topics[number % len(topics)], key, bytes(HUGE_BYTES), at)
        yield record, Label(Reason.TOO_LARGE.value)
