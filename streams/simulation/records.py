"""What the simulated city hands out: wire records, and the truth about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from schemas.rejects import Reason

FaultRule = Literal[
    "bin_full", "bin_fire", "lamp_defective", "lamp_dark", "lamp_lit_by_day", "silent", "report_hot_spot"
]

#: Dirt that must be refused, and the reason it must be refused for.
REFUSED: Final[dict[str, Reason]] = {
    "random_bytes": Reason.DECODE,
    "truncated": Reason.DECODE,
    "empty": Reason.DECODE,
    "null": Reason.DECODE,
    "foreign_body": Reason.DECODE,
    "json_text": Reason.DECODE,
    "unknown_schema": Reason.UNKNOWN_SCHEMA,
    "future": Reason.FUTURE,
    "clock_1970": Reason.QUALITY,
    "out_of_area": Reason.OUT_OF_AREA,
    "unknown_jurisdiction": Reason.UNKNOWN_JURISDICTION,
    "empty_event_id": Reason.CONTRACT,
    "short_jurisdiction": Reason.CONTRACT,
    "bad_service_code": Reason.CONTRACT,
}
#: Dirt that must be stored: mended, flagged, or merely late.
STORED: Final = ("late", "swapped_report", "swapped_asset", "null_island", "nan", "sentinel")
DUPLICATE: Final = "duplicate"
DIRT: Final[tuple[str, ...]] = (*REFUSED, *STORED, DUPLICATE)


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record to publish. `at_ms` is the event-time instant, in ms since 1970, at which it is due."""

    topic: str
    key: bytes
    value: bytes | None
    at_ms: int


@dataclass(frozen=True)
class Fault:
    """Something wrong in the city that somebody should be told about.

    `rule` is the name of the alert. Instants are event time in ms since 1970: the fault begins at `start_ms` (nothing
    of it shows earlier) and is over at `end_ms`, null when it outlasts the simulation. From `evident_ms` on, what has
    been published is enough to see it; a run that is cut short owes nobody the faults that come later.
    """

    rule: FaultRule
    asset_id: str | None
    zone_code: str | None
    category: str | None
    start_ms: int
    end_ms: int | None
    evident_ms: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Truth:
    """What has been handed out so far: filled while records are drawn, so it holds for a run that is cut short too.

    `produced = clean + sum(dirt)`; `refused` counts by reject reason what must not be stored, `duplicates` what must be
    recognized as seen before, and everything else must be stored. `late` and `swapped` are parts of what must be
    stored. `faults` is known from the start.
    """

    faults: tuple[Fault, ...] = ()
    produced: int = 0
    by_topic: Counter[str] = field(default_factory=Counter)
    clean: int = 0
    dirt: Counter[str] = field(default_factory=Counter)
    drawn_until_ms: int | None = None
    """`at_ms` of the last record drawn."""
    complete: bool = False
    """Whether the simulation has been drawn to its end."""

    def count(self, record: Record, dirt: str | None) -> None:
        """Note a record that is about to be handed out; `dirt` is its kind of dirt, None for a clean event."""
        self.produced += 1
        self.by_topic[record.topic] += 1
        self.drawn_until_ms = record.at_ms
        if dirt is None:
            self.clean += 1
        else:
            self.dirt[dirt] += 1

    @property
    def refused(self) -> dict[str, int]:
        """Records that must be refused, by reject reason; reasons without records are left out."""
        counts: Counter[str] = Counter()
        for kind, reason in REFUSED.items():
            counts[reason.value] += self.dirt[kind]
        return {reason: n for reason, n in counts.items() if n}

    @property
    def duplicates(self) -> int:
        return self.dirt[DUPLICATE]

    @property
    def late(self) -> int:
        return self.dirt["late"]

    @property
    def swapped(self) -> int:
        return self.dirt["swapped_report"] + self.dirt["swapped_asset"]

    @property
    def stored(self) -> int:
        """Records that must end as stored events."""
        return self.produced - sum(self.refused.values()) - self.duplicates

    def evident_faults(self) -> tuple[Fault, ...]:
        """The faults that the records drawn so far suffice to see; all of them at the end.

        A fault that has begun and is not evident yet may be seen all the same: hold an alert against `faults`.
        """
        until = self.drawn_until_ms
        return tuple(f for f in self.faults if self.complete or (until is not None and f.evident_ms <= until))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "produced": self.produced,
            "by_topic": dict(sorted(self.by_topic.items())),
            "clean": self.clean,
            "dirt": {kind: n for kind, n in sorted(self.dirt.items()) if n},
            "refused": self.refused,
            "duplicates": self.duplicates,
            "late": self.late,
            "swapped": self.swapped,
            "stored": self.stored,
            "drawn_until_ms": self.drawn_until_ms,
            "complete": self.complete,
            "faults": [fault.to_dict() for fault in self.faults],
        }
