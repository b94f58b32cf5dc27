"""Somebody who reads: asks a ClickHouse over HTTP, again and again, which events can be read by now.

Every part of a table that appears (an insert's, or one that a merge made of several) is read once, and the last offset
of each partition in it noted, with the instant at which the answer was there. So a row counts as readable when a query
of another process has read its part, never before. It may have been readable since the question before began: that is
the resolution (`lag_ms`).
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

from schemas.contracts import DOMAINS

TABLES: Final = tuple(f"events_{domain}" for domain in DOMAINS)
EVERY_S: Final = 0.02
_FORGET_S: Final = 5.0
_ACTIVE: Final = "SELECT concat(table, '/', name) FROM system.parts WHERE active AND table LIKE 'events_%' FORMAT TSV"


@dataclass
class Reached:
    """How far one partition of a table could be read, and since when (milliseconds since 1970, rising)."""

    at_ms: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)


class Reader:
    """Asks every `EVERY_S`, from a thread of its own; a context manager. Raises at its end what made it stop before."""

    def __init__(self, url: str) -> None:
        self.reached: dict[tuple[str, int], Reached] = defaultdict(Reached)
        self.lag_ms: list[float] = []
        self._address = urlsplit(url).netloc
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            self._look(connection)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._failure = error
        finally:
            connection.close()

    def _look(self, connection: http.client.HTTPConnection) -> None:
        before = forgot = time.monotonic()
        while not self._over.is_set():
            begun = time.monotonic()
            answer = _ask(connection, question(self._seen))
            at_ms, ended = time.time_ns() // 1_000_000, time.monotonic()
            self.lag_ms.append((ended - before) * 1_000)
            before = begun
            for line in answer.splitlines():
                table, part, partition, offset = line.split("\t")
                self._seen.add(f"{table}/{part}")
                reached = self.reached[table, int(partition)]
                reached.at_ms.append(at_ms)
                reached.offset.append(int(offset))
            if ended - forgot > _FORGET_S:
                forgot = ended
                self._seen &= set(_ask(connection, _ACTIVE).splitlines())
            self._over.wait(max(0.0, EVERY_S - (time.monotonic() - begun)))


def question(seen: Collection[str]) -> str:
    """The last offset by partition of every part, `table/part`, that has not been seen."""
    parts: dict[str, list[str]] = defaultdict(list)
    for one in sorted(seen):
        table, _, part = one.partition("/")
        parts[table].append(f"'{part}'")
    asked = []
    for table in TABLES:
        but = f" WHERE _part NOT IN ({', '.join(parts[table])})" if parts[table] else ""
        asked.append(f"SELECT '{table}', _part, partition, max(offset) FROM {table}{but} GROUP BY _part, partition")
    return " UNION ALL ".join(asked) + " FORMAT TSV"


def _ask(connection: http.client.HTTPConnection, sql: str) -> str:
    connection.request("POST", "/", sql.encode())
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200:
        raise ValueError(f"ClickHouse answered {response.status}: {text[:500]}")
    return text
