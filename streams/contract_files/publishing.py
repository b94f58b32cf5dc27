"""Records of a file on their way to Kafka: kept until all of the file is judged, then published, each confirmed."""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

from streams.broker import client_config
from streams.clock import monotonic_s
from streams.contract_files.lines import Judged
from streams.settings import Settings
from streams.simulation.publish import PublishError, publish
from streams.simulation.records import Record

_ENTRY: Final = struct.Struct(">QII")
#: Kept in memory up to here, then on disk.
_IN_MEMORY: Final = 16_777_216


class UnconfirmedError(Exception):
    """Not everything was confirmed; the message says how much was and where to go on."""


@dataclass
class Kept:
    """Good records of a file by line, in order: what was judged is what is published, whatever becomes of the file."""

    file: IO[bytes]
    records: int = 0
    size_bytes: int = 0

    def add(self, line: Judged) -> None:
        assert line.payload is not None
        assert line.key is not None
        self.file.write(_ENTRY.pack(line.number, len(line.key), len(line.payload)) + line.key + line.payload)
        self.records += 1
        self.size_bytes += len(line.payload)

    def __iter__(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Line, key and value of each."""
        self.file.seek(0)
        while head := self.file.read(_ENTRY.size):
            number, key, payload = _ENTRY.unpack(head)
            yield number, self.file.read(key), self.file.read(payload)


@contextmanager
def kept() -> Iterator[Kept]:
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        yield Kept(file)


@dataclass
class Sent:
    """What has been confirmed, and the lines that have been drawn and have not."""

    confirmed: Counter[str] = field(default_factory=Counter)
    under_way: dict[int, int] = field(default_factory=dict)
    drawn: int = 0
    last_line: int = 0

    def go_on_from(self) -> int:
        """The first line of which it is not known that it is in Kafka."""
        return min(self.under_way.values(), default=self.last_line + 1)


def send(
    records: Kept,
    topic: str,
    settings: Settings,
    *,
    rate: float | None,
    stop: Callable[[], bool],
    on_confirmed: Callable[[int], None],
    unit: str,
) -> Sent:
    """Publish what was kept, in its order, at most `rate` records a second; `on_confirmed` is told how many are.

    Raises UnconfirmedError when a record was not confirmed or `stop` turned true before the last.
    """
    sent = Sent()

    def confirmed(number: int) -> None:
        del sent.under_way[number]
        sent.confirmed[topic] += 1
        on_confirmed(sent.confirmed.total())

    def drawn() -> Iterator[Record]:
        for line, key, payload in records:
            sent.under_way[sent.drawn] = sent.last_line = line
            sent.drawn += 1
            yield Record(topic, key, payload, round((sent.drawn - 1) * 1_000 / rate) if rate else 0)

    begun_s = monotonic_s()
    try:
        publish(
            drawn(),
            settings.kafka_bootstrap,
            pace=(lambda at_ms: at_ms / 1_000 - (monotonic_s() - begun_s)) if rate else None,
            stop=stop,
            on_progress=lambda _: None,
            client=client_config(settings),
            on_confirmed=confirmed,
        )
    except PublishError as error:
        raise UnconfirmedError(f"{error}. {_state(sent, records, unit)}") from error
    if sent.confirmed.total() < records.records:
        raise UnconfirmedError(f"interrupted. {_state(sent, records, unit)}")
    return sent


def _state(sent: Sent, records: Kept, unit: str) -> str:
    return (
        f"{sent.confirmed.total()} of {records.records} records were confirmed: go on with --from-line "
        f"{sent.go_on_from()} ({unit} {sent.go_on_from()} is the first that was not; what is sent again is recognized "
        "by source and event_id)"
    )
