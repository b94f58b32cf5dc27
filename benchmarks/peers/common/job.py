"""The work on one record: decode it, find its zones, count it in its windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.peers.common.contracts import CONTRACTS, Contract, Record, kind_of, read_contract
from benchmarks.peers.common.places import Places, read_places

#: Count, sum, smallest and largest of one metric in one window.
Cell = list[float]

WINDOW_MS: Final = 60_000
EVENTS: Final = "events"


@dataclass
class Job:
    """The work on one raw topic, with its window cells.

    `windows` has the cells of each metric by start in milliseconds and kind, and within them by zone. They stay until
    the run ends.
    """

    domain: str
    contract: Contract
    places: Places
    kind: Callable[[Record], str]
    windows: dict[tuple[int, str], dict[int, dict[str, Cell]]] = field(default_factory=dict)

    def place(self, value: bytes) -> Record:
        """Decode a record and find its "zones". Raises ValueError for bytes of another schema."""
        record = self.contract.decode(value)
        record["zones"] = self.places.of(record)
        return record

    def place_many(self, values: Sequence[bytes]) -> list[Record]:
        """The same for many records at once, which is quicker for each of them."""
        records = [self.contract.decode(value) for value in values]
        for record, zones in zip(records, self.places.of_many(records), strict=True):
            record["zones"] = zones
        return records

    def count(self, record: Record) -> None:
        """Add a record to the one-minute window of each of its zones."""
        observed: int = record["observed_at"]
        key = (observed - observed % WINDOW_MS, self.kind(record))
        by_zone = self.windows.get(key)
        if by_zone is None:
            by_zone = self.windows[key] = {}
        present = [(name, number) for name in self.contract.metrics if (number := record[name]) is not None]
        for zone in record["zones"]:
            cells = by_zone.get(zone)
            if cells is None:
                cells = by_zone[zone] = {EVENTS: [0, 0, 0, 0]}
            cells[EVENTS][0] += 1
            for name, number in present:
                cell = cells.get(name)
                if cell is None:
                    cells[name] = [1, number, number, number]
                    continue
                cell[0] += 1
                cell[1] += number
                if number < cell[2]:
                    cell[2] = number
                elif number > cell[3]:
                    cell[3] = number

    def results(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every window cell, as the results topic holds them.

        There can be half as many cells as records, so what their keys share is encoded once.
        """
        text = cache(json.dumps)
        starts = [_compact([self.domain, *zone])[:-1] for zone in self.places.zones]
        for (start, kind), by_zone in self.windows.items():
            for zone, cells in by_zone.items():
                for name, (count, total, least, most) in cells.items():
                    key = f"{starts[zone]},{text(f'{kind}.{name}')},{start}]"
                    yield key.encode(), f"[{count},{total!r},{least!r},{most!r}]".encode()


def _compact(value: list[str]) -> str:
    return json.dumps(value, separators=(",", ":"))


def read_jobs(schemas: Path, territory: Path) -> dict[str, Job]:
    """A job for each domain, all with the same places. Zones are those valid today."""
    places = read_places(territory, datetime.now(UTC).date().isoformat())
    return {
        domain: Job(domain, read_contract(schemas / f"{name}.avsc"), places, kind_of(domain))
        for domain, name in CONTRACTS.items()
    }
