"""The simulated city: wire records of a territory's assets and citizens, with the truth about them.

It knows the city and the contracts, and nothing of how the pipeline judges: what is wrong is wrong by plain sense (a
full bin reads above 0.9, a burning one above 200 degC, a dead lamp is dark in the middle of the night).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processors.territory import Territory
from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.simulation.avro import Column, encode_rows, hexadecimal
from streams.simulation.dirt import Slice, Soil, place_dirt, plan_dirt
from streams.simulation.faults import plan_asset_faults
from streams.simulation.fleet import MAX_DELAY_MS, SOUND, Fleet, draw_turns, make_fleets
from streams.simulation.places import Places, make_places
from streams.simulation.records import Record, Truth
from streams.simulation.reports import Requests, plan_hot_spot, plan_requests, step_value
from streams.simulation.sensors import SENSOR_MODELS, Model
from streams.simulation.sky import Ints, Sky, make_sky
from streams.simulation.street import Closure, lamp, pavement, plan_closures, traffic

#: Clean records made at once: enough that the work is in arrays, few enough that memory does not show.
_SLICE_EVENTS: Final = 8_192
_REPORT_SHARE: Final = 0.015
_CLOSURE_SOURCE: Final = "sim/closures"
#: No asset: a citizen report or a closure.
_NOBODY: Final = -1


@dataclass
class _Pending:
    """Records with, for each, the fleet and the asset it speaks of."""

    records: list[Record] = field(default_factory=list)
    fleet: list[int] = field(default_factory=list)
    asset: list[int] = field(default_factory=list)

    def add(self, record: Record, fleet: int = _NOBODY, asset: int = _NOBODY) -> None:
        self.records.append(record)
        self.fleet.append(fleet)
        self.asset.append(asset)


class _Ids:
    """Event ids: sixteen hexadecimal digits, never the same twice, that look like no sequence."""

    def __init__(self, seed: int) -> None:
        self._next = 1
        self._salt = np.uint64(seed & 0xFFFF_FFFF) << np.uint64(32)

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        numbers = np.arange(self._next, self._next + count, dtype=np.uint64) + self._salt
        self._next += count
        # The finalizer of splitmix64: one to one on 64 bits.
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return hexadecimal(numbers ^ (numbers >> np.uint64(31)))

    def one(self) -> str:
        return self.take(1).tobytes().decode()


@dataclass
class Simulation:
    """A simulated span of a territory. Made by `simulate`.

    `truth` holds for the records drawn so far by the last call of `records`.
    """

    territory: Territory
    seed: int
    fleets: list[Fleet]
    sky: Sky
    places: Places
    requests: Requests
    closures: tuple[Closure, ...]
    wall_now: Callable[[], datetime]
    truth: Truth

    @property
    def expected_events(self) -> int:
        """About how many clean events there are in all."""
        assets = sum(fleet.expected_events(self.sky.end_ms) for fleet in self.fleets)
        return round(assets) + len(self.requests.steps) + 2 * len(self.closures)

    @property
    def active_assets(self) -> int:
        return sum(map(len, self.fleets))

    def records(self) -> Iterator[Record]:
        """All records in order of `at_ms`, made while they are drawn. Each call starts again and empties the truth."""
        truth = self.truth = Truth(faults=self.truth.faults)
        models = [_model(fleet, self.sky, self.closures) for fleet in self.fleets]
        ids = _Ids(self.seed)
        extra_requests = iter(range(len(self.requests.requests), 2**31))
        soil = Soil(self.territory.jurisdiction_id, self.places, self.wall_now, ids.one, lambda: next(extra_requests))
        start, end = self.sky.start_ms, self.sky.end_ms
        due = plan_dirt(
            np.random.default_rng([self.seed, 1]), self.territory.area, start, end, self.expected_events,
            len(self.requests.requests),
        )  # fmt: skip
        step = max(1_000, -(-(end - start) // max(1, round(self.expected_events / _SLICE_EVENTS))))
        waiting: list[tuple[int, str]] = []
        first = 0
        pending = _Pending()
        for closure in self.closures:
            self._announce(closure, ids, pending)
        for number, begin in enumerate(range(start, end, step)):
            rng = np.random.default_rng([self.seed, 2, number])
            until = min(begin + step, end)
            for index, (fleet, model) in enumerate(zip(self.fleets, models, strict=True)):
                self._report_assets(index, fleet, model, rng, begin, until, ids, pending)
            self._report_citizens(rng, begin, until, ids, pending)
            clean, pending = self._cut(pending, until)
            last = bisect_left(due, (until, ""), first)
            dirt, waiting = place_dirt(clean, [*waiting, *due[first:last]], soil, rng)
            first = last
            for place, record in enumerate(clean.records):
                truth.count(record, None)
                yield record
                for dirty, kind in dirt.get(place, ()):
                    truth.count(dirty, kind)
                    yield dirty
        truth.complete = True

    def _report_assets(
        self, index: int, fleet: Fleet, model: Model, rng: np.random.Generator, begin: int, until: int, ids: _Ids,
        pending: _Pending,
    ) -> None:  # fmt: skip
        turns = draw_turns(fleet, rng, begin, until)
        rows = len(turns.asset)
        if rows == 0:
            return
        sends = fleet.sends_position[turns.asset]
        wobble = rng.uniform(-3e-5, 3e-5, (2, rows))
        asset = turns.asset.tolist()
        columns: dict[str, Column] = {
            "event_id": ids.take(rows),
            "source": f"sim/{fleet.kind}",
            "jurisdiction_id": self.territory.jurisdiction_id,
            "asset_id": [fleet.avro_ids[a] for a in asset],
            "observed_at": turns.observed_ms,
            "longitude": np.where(sends, np.round(fleet.longitude[turns.asset] + wobble[0], 6), np.nan),
            "latitude": np.where(sends, np.round(fleet.latitude[turns.asset] + wobble[1], 6), np.nan),
        }
        columns |= model(turns, rng)
        topic = RAW_TOPICS[fleet.domain]
        values = encode_rows(contract_of(fleet.domain), rows, columns)
        pending.records += [Record(topic, fleet.keys[a], value, at)
                            for a, value, at in zip(asset, values, turns.at_ms.tolist(), strict=True)]  # fmt: skip
        pending.fleet += [index] * rows
        pending.asset += asset

    def _report_citizens(self, rng: np.random.Generator, begin: int, until: int, ids: _Ids, pending: _Pending) -> None:
        first, last = np.searchsorted(self.requests.step_ms, [begin, until]).tolist()
        jurisdiction = self.territory.jurisdiction_id
        for place in range(first, last):
            number, status = self.requests.steps[place]
            request, observed = self.requests.requests[number], int(self.requests.step_ms[place])
            value = step_value(jurisdiction, request, status, ids.one(), observed)
            key = f"{jurisdiction}|{value['service_request_id']}".encode()
            at = observed + int(rng.integers(0, MAX_DELAY_MS))
            pending.add(Record(RAW_TOPICS["report"], key, encode(contract_of("report"), value), at))

    def _announce(self, closure: Closure, ids: _Ids, pending: _Pending) -> None:
        """A closure is announced when it begins, open-ended, and its end is announced halfway."""
        halfway = (closure.start_ms + closure.end_ms) // 2
        for at, end in ((closure.start_ms, None), (halfway, closure.end_ms)):
            value: dict[str, Any] = {
                "event_id": ids.one(),
                "source": _CLOSURE_SOURCE,
                "jurisdiction_id": self.territory.jurisdiction_id,
                "asset_id": closure.asset_id,
                "observed_at": at,
                "observation_type": "closure",
                "mobility_type": "unknown",
                "closure_start_at": closure.start_ms,
                "closure_end_at": end,
            }
            key = f"{self.territory.jurisdiction_id}|{closure.asset_id}".encode()
            pending.add(Record(RAW_TOPICS["roadway"], key, encode(contract_of("roadway"), value), at))

    def _cut(self, pending: _Pending, until: int) -> tuple[Slice, _Pending]:
        """The pending records due before `until`, in order, and those that stay pending."""
        at: Ints = np.array([record.at_ms for record in pending.records], np.int64)
        order = np.argsort(at, kind="stable")
        ready, rest = np.split(order, [int(np.searchsorted(at[order], until))])
        sound = np.ones(len(ready), np.bool_)
        position = np.full((len(ready), 2), np.nan)
        fleet, asset = (np.array(column, np.int64)[ready] for column in (pending.fleet, pending.asset))
        for index, one in enumerate(self.fleets):
            mine = fleet == index
            sound[mine] = one.fault[asset[mine]] == SOUND
            position[mine] = np.column_stack([one.longitude[asset[mine]], one.latitude[asset[mine]]])
        kept = _Pending()
        for place in rest.tolist():
            kept.add(pending.records[place], pending.fleet[place], pending.asset[place])
        return Slice([pending.records[place] for place in ready.tolist()], at[ready], sound, position), kept


def _model(fleet: Fleet, sky: Sky, closures: tuple[Closure, ...]) -> Model:
    if fleet.domain == "sensor":
        return SENSOR_MODELS[fleet.kind](fleet, sky)
    if fleet.domain == "lighting":
        return lamp(fleet, sky)
    return traffic(fleet, sky, closures) if fleet.kind == "traffic" else pavement(fleet, sky)


def simulate(
    territory: Territory,
    *,
    seed: int,
    start: datetime,
    end: datetime,
    events: int,
    wall_now: Callable[[], datetime],
) -> Simulation:
    """A simulated span `[start, end)` of a territory with about `events` clean events.

    Active assets report at their registry's interval; so many of them take part that the number comes out, a few dozen
    at least, all at most (`expected_events` says what it comes to). The same arguments give the same records, except
    that records from the future are dated by `wall_now`. Raises ValueError for a negative seed, instants without a
    time zone, an empty span, or a territory in which no asset can report.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end need a time zone; pass aware datetimes")
    if end <= start:
        raise ValueError(f"the simulated span is empty: end {end} is not after start {start}")
    if seed < 0:
        raise ValueError(f"the seed is {seed}; give 0 or more")
    start_ms, end_ms = (int(instant.timestamp() * 1000) for instant in (start, end))
    rng = np.random.default_rng([seed, 0])
    fleets = make_fleets(territory, rng, start_ms, end_ms, events * (1 - _REPORT_SHARE))
    if not fleets:
        raise ValueError(
            f"territory {territory.name} has no asset that can report: "
            "give its registry assets with longitude, latitude and report_interval_s"
        )
    sky = make_sky(rng, start_ms, end_ms, *territory.centre, territory.timezone)
    faults = plan_asset_faults(fleets, sky, rng)
    closures = plan_closures(fleets, rng, start_ms, end_ms)
    places = make_places(territory, fleets, start_ms, end_ms)
    hot_spot = plan_hot_spot(territory, places, sky, rng)
    expected = sum(fleet.expected_events(end_ms) for fleet in fleets)
    requests = plan_requests(places, sky, rng, expected, hot_spot)
    truth = Truth(faults=faults if hot_spot is None else (*faults, hot_spot[1]))
    return Simulation(territory, seed, fleets, sky, places, requests, closures, wall_now, truth)
