"""Bad, repeated and odd records, put among the clean ones. Each is made from a clean record that has just gone out.

What must be stored says the same about its asset as that record did, so it changes nothing that anybody watches for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import fastavro
import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.contracts import DOMAINS, RAW_TOPICS, Contract, Domain, contract_of
from schemas.framing import encode
from streams.simulation.places import Area, Places, within
from streams.simulation.records import DIRT, DUPLICATE, Record
from streams.simulation.reports import ordinary_request, step_value
from streams.simulation.sky import DAY_MS, HOUR_MS, Ints

_SHARE: Final = 0.015
_AT_LEAST: Final = 3
_WEIGHTS: Final[Mapping[str, float]] = {DUPLICATE: 5.0, "late": 3.0, "nan": 2.0, "sentinel": 2.0, "null_island": 1.5}
_ABOUT_REPORTS: Final = ("swapped_report", "out_of_area", "bad_service_code")
_UNDECODABLE: Final = ("random_bytes", "truncated", "empty", "null", "foreign_body", "json_text")
_PREFIX: Final = 10
#: A duplicate comes within this many records of its original, on all topics together.
_DUPLICATE_WITHIN: Final = 1_500
_SENTINEL: Final = 9_999.0
_HALF_FULL: Final = 0.3
#: Degrees of latitude beyond the area: 67 km at least.
_FAR_DEG: Final = (0.6, 2.0)
_TRIES: Final = 20
#: Everything fastavro raises on bytes that are not of the schema.
_BROKEN: Final = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, StopIteration)


@dataclass(frozen=True)
class Slice:
    """Clean records that go out one after the other.

    `sound[i]` is whether record i speaks of a sound asset (or of none); `asset_at[i]` is its asset's registered
    position (longitude, latitude), NaN for a citizen report or a closure.
    """

    records: Sequence[Record]
    at_ms: Ints
    sound: npt.NDArray[np.bool_]
    asset_at: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Soil:
    """What dirt is made with, beside clean records."""

    jurisdiction_id: str
    places: Places
    wall_now: Callable[[], datetime]
    next_event_id: Callable[[], str]
    next_request: Callable[[], int]


@dataclass(frozen=True)
class _Of:
    """The clean record a dirty one is made from."""

    domain: Domain
    contract: Contract
    record: Record
    value: dict[str, Any]
    longitude: float
    latitude: float


def plan_dirt(
    rng: np.random.Generator, area: Area, start_ms: int, end_ms: int, events: float, requests: int
) -> list[tuple[int, str]]:
    """When which kind of dirt is due, in order of time: about 1.5 % of the events, three of each kind at least.

    Odd requests are at most a tenth of `requests`, or a zone would have more of them than its citizens explain.
    Swapped coordinates and (0, 0) are left out where the area makes them plausible positions.
    """
    west, south, east, north = area
    kinds = list(DIRT)
    overlaps_swap = west <= north and south <= east
    if overlaps_swap or max(abs(west), abs(east)) > 90:
        kinds = [kind for kind in kinds if not kind.startswith("swapped")]
    if within(area, 0.0, 0.0):
        kinds.remove("null_island")
    total = sum(_WEIGHTS.get(kind, 1.0) for kind in kinds)
    span = end_ms - start_ms
    plan: list[tuple[int, str]] = []
    for kind in kinds:
        count = max(_AT_LEAST, round(_SHARE * events * _WEIGHTS.get(kind, 1.0) / total))
        if kind in _ABOUT_REPORTS:
            count = min(count, max(_AT_LEAST, requests // 10))
        # The first records must have gone out before, and what waits for its occasion must find one.
        due = start_ms + (span * rng.uniform(0.05, 0.9, count)).astype(np.int64)
        plan += [(at, kind) for at in due.tolist()]
    return sorted(plan)


def place_dirt(
    clean: Slice, due: Sequence[tuple[int, str]], soil: Soil, rng: np.random.Generator
) -> tuple[dict[int, list[tuple[Record, str]]], list[tuple[int, str]]]:
    """Dirt for a slice of clean records.

    Returns, by index of the clean record it follows, the dirty records with their kinds; and what found no occasion
    in this slice, for the next.
    """
    after: dict[int, list[tuple[Record, str]]] = {}
    waiting: list[tuple[int, str]] = []
    domains = np.array([DOMAINS.index(d) for d in map(_domain, clean.records)], np.int64)
    for at, kind in due:
        made = _make(clean, domains, at, kind, soil, rng)
        if made is None:
            waiting.append((at, kind))
        else:
            after.setdefault(made[0], []).append((made[1], kind))
    return after, waiting


_DOMAIN_OF: Final[Mapping[str, Domain]] = {topic: domain for domain, topic in RAW_TOPICS.items()}


def _domain(record: Record) -> Domain:
    return _DOMAIN_OF[record.topic]


def _make(
    clean: Slice, domains: Ints, at: int, kind: str, soil: Soil, rng: np.random.Generator
) -> tuple[int, Record] | None:
    """A dirty record of that kind and the index of the clean one it follows; None when the slice has no occasion."""
    if not len(clean.records):
        return None
    near = min(int(np.searchsorted(clean.at_ms, at)), len(clean.records) - 1)
    if kind in _ABOUT_REPORTS:
        return near, _report(kind, int(clean.at_ms[near]), soil, rng)
    wanted = clean.sound & _suits(kind, clean, domains)
    # Quiet topics get more than their share of the dirt, without drowning in it.
    weight = np.sqrt(np.bincount(domains[wanted], minlength=len(DOMAINS)))
    if kind != DUPLICATE and weight.any():
        wanted &= domains == rng.choice(len(DOMAINS), p=weight / weight.sum())
    choices = np.flatnonzero(wanted)
    if not len(choices):
        return None
    chosen = int(choices[min(int(np.searchsorted(choices, near)), len(choices) - 1)])
    original = clean.records[chosen]
    if kind == DUPLICATE:
        place = min(chosen + int(rng.integers(_DUPLICATE_WITHIN)), len(clean.records) - 1)
        return place, Record(original.topic, original.key, original.value, int(clean.at_ms[place]))
    if kind in _UNDECODABLE:
        value = _undecodable(kind, chosen, clean, domains, rng)
        if value is _NO_OCCASION:
            return None
        return chosen, Record(original.topic, original.key, value, original.at_ms)
    return chosen, _odd(kind, _read(original, clean.asset_at[chosen]), soil, rng)


def _suits(kind: str, clean: Slice, domains: Ints) -> npt.NDArray[np.bool_]:
    assets: npt.NDArray[np.bool_] = ~np.isnan(clean.asset_at[:, 0])
    if kind == "late":
        # An hour ago a lamp may rightly have been in the other state.
        assets = assets & (domains != DOMAINS.index("lighting"))
    if kind in ("late", "nan", "sentinel", "swapped_asset", "null_island"):
        return assets
    return np.ones(len(domains), np.bool_)


def _read(record: Record, asset_at: npt.NDArray[np.float64]) -> _Of:
    domain = _domain(record)
    contract = contract_of(domain)
    value: Any = fastavro.schemaless_reader(io.BytesIO((record.value or b"")[_PREFIX:]), contract.parsed, None)
    value["observed_at"] = round(value["observed_at"].timestamp() * 1000)
    return _Of(domain, contract, record, value, float(asset_at[0]), float(asset_at[1]))


def _odd(kind: str, of: _Of, soil: Soil, rng: np.random.Generator) -> Record:
    """A well-formed record with something odd in it."""
    value = of.value | {"event_id": soil.next_event_id()}
    key = of.record.key
    value["observed_at"] = min(value["observed_at"] + int(rng.integers(0, 200)), of.record.at_ms)
    if kind == "unknown_schema":
        body = encode(of.contract, value)[_PREFIX:]
        foreign = bytes([*rng.bytes(7), 0x5A])
        known = {contract_of(domain).fingerprint.to_bytes(8, "little") for domain in DOMAINS}
        foreign = foreign if foreign not in known else bytes(8)
        return Record(of.record.topic, key, b"\xc3\x01" + foreign + body, of.record.at_ms)
    if kind == "future":
        value["observed_at"] = int(soil.wall_now().timestamp() * 1000) + DAY_MS
    elif kind == "clock_1970":
        value["observed_at"] = int(rng.integers(0, DAY_MS))
    elif kind == "unknown_jurisdiction":
        other = f"{rng.integers(100_000_000, 999_999_999)}"
        value["jurisdiction_id"] = other if other != soil.jurisdiction_id else "999999999"
        key = f"{value['jurisdiction_id']}|{key.decode().partition('|')[2]}".encode()
    elif kind == "empty_event_id":
        value["event_id"] = ""
    elif kind == "short_jurisdiction":
        value["jurisdiction_id"] = soil.jurisdiction_id[:8]
    elif kind == "late":
        value["observed_at"] -= int(rng.uniform(1, 6) * HOUR_MS)
        if value.get("fill_level") is not None:
            value["distance_mm"] = round(value["distance_mm"] * (1 - _HALF_FULL) / max(1 - value["fill_level"], 0.1))
            value["fill_level"] = _HALF_FULL
    elif kind == "swapped_asset":
        value |= {"longitude": round(of.latitude, 6), "latitude": round(of.longitude, 6)}
    elif kind == "null_island":
        value |= {"longitude": 0.0, "latitude": 0.0}
    elif kind in ("nan", "sentinel"):
        value[_measure(kind, of, rng)] = float("nan") if kind == "nan" else _SENTINEL
    return Record(of.record.topic, key, encode(of.contract, value), of.record.at_ms)


def _measure(kind: str, of: _Of, rng: np.random.Generator) -> str:
    """A measure that the record has and for which the oddity is one."""
    names = [f.name for f in of.contract.metrics if f.dtype == pl.Float64() and of.value[f.name] is not None
             and (kind == "nan" or (f.maximum is not None and f.maximum < _SENTINEL))]  # fmt: skip
    return names[int(rng.integers(len(names)))]


def _report(kind: str, at_ms: int, soil: Soil, rng: np.random.Generator) -> Record:
    """A citizen's request of its own, with something odd about it."""
    request = ordinary_request(soil.places, rng, soil.next_request())
    value = step_value(soil.jurisdiction_id, request, "received", soil.next_event_id(),
                       at_ms - int(rng.integers(0, 5_000)))  # fmt: skip
    if kind == "swapped_report":
        value |= {"longitude": value["latitude"], "latitude": value["longitude"]}
    elif kind == "out_of_area":
        value["latitude"] = _far(soil.places.area, value["longitude"], rng)
    else:
        value["service_code"] = ("Pothole", "street light", "WASTE Bin", " noise")[int(rng.integers(4))]
    key = f"{soil.jurisdiction_id}|{value['service_request_id']}".encode()
    return Record(RAW_TOPICS["report"], key, encode(contract_of("report"), value), at_ms)


def _far(area: Area, longitude: float, rng: np.random.Generator) -> float:
    """A latitude more than 50 km outside the area, such that the swapped position is not in it either."""
    west, south, east, north = area
    latitude = south
    for _ in range(_TRIES):
        away = float(rng.uniform(*_FAR_DEG))
        latitude = round(south - away if (rng.random() < 0.5 and south > -80) or north > 80 else north + away, 6)
        if not within((west - 1, south - 1, east + 1, north + 1), latitude, longitude):
            break
    return latitude


_NO_OCCASION: Final = b"no occasion"


def _undecodable(kind: str, chosen: int, clean: Slice, domains: Ints, rng: np.random.Generator) -> bytes | None:
    original = clean.records[chosen]
    value = original.value or b""
    contract = contract_of(_domain(original))
    if kind == "null":
        return None
    if kind == "empty":
        return b""
    if kind == "json_text":
        return json.dumps({"asset_id": original.key.decode().partition("|")[2], "value": 0.5}).encode()
    if kind == "truncated":
        return value[: int(rng.integers(1, len(value)))]
    if kind == "random_bytes" and rng.random() < 0.5:
        # Neither of the first bytes that begin a framing we know.
        return bytes([int(rng.integers(1, 0xC3)), *rng.bytes(int(rng.integers(5, 120)))])
    others = np.flatnonzero(domains != domains[chosen]) if kind == "foreign_body" else None
    for _ in range(_TRIES):
        if others is None:
            body = rng.bytes(int(rng.integers(5, 120)))
        elif len(others):
            body = (clean.records[int(others[rng.integers(len(others))])].value or b"")[_PREFIX:]
        else:
            break
        if _is_broken(contract, body):
            return value[:_PREFIX] + body
    return _NO_OCCASION


def _is_broken(contract: Contract, body: bytes) -> bool:
    """Whether the body can surely not be read as the contract. Bytes left over alone do not count as broken."""
    try:
        fastavro.schemaless_reader(io.BytesIO(body), contract.parsed, None)
    except _BROKEN:
        return True
    return False
