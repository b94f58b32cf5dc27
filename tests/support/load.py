"""A small seeded load with everything in it: all domains, dirt, late events, duplicates, alerts that come and go.

Each draw is about a hundred records dated by the instant it is given; the truth about all that were drawn is kept.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from processors.territory import Rules, Territory
from schemas.contracts import DOMAINS, RAW_TOPICS, Domain, contract_of
from schemas.framing import encode
from schemas.rejects import Reason
from streams.simulation.records import Record
from tests.support.batches import event
from tests.support.city import CITY, HERE, NOWHERE, THERE, city

_SECOND: Final = 1_000
_DAY: Final = 86_400_000
#: Long enough ago to be a hot spot's past.
_PAST: Final = 36_000_000
#: A draw's events lie within so many milliseconds before its instant.
SPAN_MS: Final = 900
#: A batch of a partition that names no schema of ours still has a schema's prefix.
_FOREIGN: Final = b"\xc3\x01" + b"\x07" * 8
#: Records of one partition in one draw, at most: how far a duplicate of the draw before can be from its original.
MOST_PER_PARTITION: Final = 60


def territory() -> Territory:
    """The small city, with the rules that do not depend on the hour at which a test runs."""
    return city(Rules(lamp_dark=None, lamp_lit_by_day=None))


class Load:
    """The records of one log, draw by draw. `produced` and `refused` (by reason, duplicates among them) are its truth.

    Duplicates repeat an event of the same draw or of the one before, under the same key: they are recognized when
    chunks hold at least `2 * MOST_PER_PARTITION` records.
    """

    def __init__(self, seed: int) -> None:
        self.produced = 0
        self.refused: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._draws = 0
        self._before: list[Record] = []

    @property
    def stored(self) -> int:
        return self.produced - self.refused.total()

    def draw(self, now_ms: int) -> list[Record]:
        """The next records; their events are dated up to `now_ms`, milliseconds since 1970."""
        self._draws += 1
        clean = self._clean(now_ms)
        # What was expected of a zone must not change after somebody has looked: the past is told before all else.
        past = [self._report(now_ms - _PAST, n, "received") for n in range(4)] if self._draws == 1 else []
        late = [self._record(domain, now_ms - ago, number=900 + n) for n, (domain, ago) in enumerate(_LATE)]
        late.append(self._report(now_ms - 3 * _DAY, 950, "done"))
        dirt = [(reason, make(self, now_ms)) for reason, make in _DIRT]
        again = [*self._random.sample(clean, 3), *self._random.sample(self._before, min(3, len(self._before)))]
        self.refused.update(str(reason) for reason, _ in dirt)
        self.refused[str(Reason.DUPLICATE)] += len(again)
        # Alerts need their readings in order, and a duplicate comes after its original.
        records = [*past, *_sprinkled(self._random, clean, [*late, *(record for _, record in dirt)]), *again]
        self._before = clean
        self.produced += len(records)
        return records

    def _clean(self, now_ms: int) -> list[Record]:
        full, defective = self._draws % 2 == 1, self._draws % 3 == 1
        at = now_ms - SPAN_MS
        records = [
            self._record("sensor", at, asset_id="bin-00017", fill_level=0.95 if full else 0.1),
            self._record("sensor", at + 1, asset_id="bin-fire", temperature_c=300.0),
            self._record("lighting", at, asset_id="lamp-00001", lamp_status="defective_lamp" if defective else "ok"),
            self._record("sensor", at + 2, asset_id="bin-fire", temperature_c=20.0),
        ]
        for domain in DOMAINS:
            records += [
                self._record(domain, at + 10 + number * 40 + self._random.randrange(30), number=number)
                for number in range(20)
            ]
        return records

    def _report(self, at_ms: int, number: int, status: str) -> Record:
        return self._record("report", at_ms, number, status=status)

    def _record(self, domain: Domain, at_ms: int, number: int = 0, **changes: Any) -> Record:
        value = self._value(domain, at_ms, number, **changes)
        return _as_record(domain, value, encode(contract_of(domain), value), at_ms)

    def _value(self, domain: Domain, at_ms: int, number: int, **changes: Any) -> dict[str, Any]:
        longitude, latitude = (HERE, THERE, NOWHERE)[number % 3]
        identity = f"{self._draws}-{number}-{self._random.getrandbits(40):x}"
        ordinary: dict[str, Any] = {"event_id": identity, "observed_at": at_ms}
        if number % 4 or domain == "report":
            # Positions of their own; the others have the registry's.
            ordinary |= {"longitude": longitude, "latitude": latitude}
        return event(domain, **{**ordinary, **_MEASURED[domain](self._random, number), **changes})


def _as_record(domain: Domain, value: Mapping[str, Any], encoded: bytes | None, at_ms: int) -> Record:
    about = value["asset_id"] or value.get("service_request_id", "")
    return Record(RAW_TOPICS[domain], f"{CITY}|{about}".encode(), encoded, at_ms)


def _sensor(rng: random.Random, number: int) -> dict[str, Any]:
    # Multiples of the resolution, so that sums compare exactly; the last is impossible, and flagged.
    level = 7.5 if number == 19 else rng.randrange(5_000) / 10_000
    return {"asset_id": f"bin-{number % 7}", "fill_level": level, "battery_ratio": rng.randrange(1_000) / 1_000}


def _lighting(rng: random.Random, number: int) -> dict[str, Any]:
    return {"asset_id": f"lamp-{number % 7}", "power_w": rng.randrange(800) / 10, "power_state": "on"}


def _roadway(rng: random.Random, number: int) -> dict[str, Any]:
    return {"asset_id": f"count-{number % 7}", "count": float(rng.randrange(300))}


def _report(rng: random.Random, number: int) -> dict[str, Any]:
    status = "received" if number % 2 else "done"
    return {"service_request_id": f"r-{number % 7}-{rng.randrange(1_000)}", "status": status}


_MEASURED: Final[Mapping[Domain, Callable[[random.Random, int], dict[str, Any]]]] = {
    "sensor": _sensor,
    "lighting": _lighting,
    "roadway": _roadway,
    "report": _report,
}

#: Domain and age of each late event: other windows, another day, perhaps another month.
_LATE: Final[tuple[tuple[Domain, int], ...]] = (
    ("sensor", 7_200 * _SECOND),
    ("sensor", 7 * _DAY),
    ("roadway", 7 * _DAY),
    ("lighting", 600 * _SECOND),
)


def _changed(domain: Domain, number: int, **changes: Any) -> Callable[[Load, int], Record]:
    return lambda load, now_ms: load._record(domain, now_ms, number, **changes)


def _raw(domain: Domain, number: int, make: Callable[[bytes], bytes | None]) -> Callable[[Load, int], Record]:
    def record(load: Load, now_ms: int) -> Record:
        value = load._value(domain, now_ms, number)
        return _as_record(domain, value, make(encode(contract_of(domain), value)), now_ms)

    return record


#: What must be refused, why, and how it is made.
_DIRT: Final[tuple[tuple[Reason, Callable[[Load, int], Record]], ...]] = (
    (Reason.DECODE, _raw("sensor", 1, lambda good: good[:-3])),
    (Reason.DECODE, _raw("lighting", 2, lambda good: None)),
    (Reason.DECODE, _raw("roadway", 3, lambda good: b"{}")),
    (Reason.UNKNOWN_SCHEMA, _raw("sensor", 4, lambda good: _FOREIGN + good[10:])),
    (Reason.FUTURE, lambda load, now_ms: load._record("sensor", now_ms + _DAY, 5)),
    (Reason.QUALITY, lambda load, now_ms: load._record("roadway", 86_400_000, 6)),
    (Reason.CONTRACT, _changed("lighting", 1, event_id="")),
    (Reason.UNKNOWN_JURISDICTION, _changed("sensor", 2, jurisdiction_id="111111111")),
    (Reason.OUT_OF_AREA, _changed("report", 3, longitude=12.5, latitude=41.9)),
)


def _sprinkled(rng: random.Random, records: list[Record], others: list[Record]) -> list[Record]:
    """The records in their order, with the others anywhere among them."""
    mixed = list(records)
    for other in others:
        mixed.insert(rng.randrange(len(mixed) + 1), other)
    return mixed
