"""Named queries: what dashboards, commands and tests ask ClickHouse, each in one place.

A query is a file `<name>.sql` here. It begins with comment lines that say in words what it answers, and takes typed
parameters (`{name:Type}`, bound by ClickHouse, never pasted into the text). It reads through views or with FINAL, so
that nobody who uses it can forget chunks and versions. Parameters have the names and types of `VOCABULARY`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from sinks.clickhouse import Sink

#: Every parameter a query may take, and its ClickHouse type: all that another way of asking (Grafana's) has to know. An
#: empty array of jurisdictions, districts or severities names all of them.
VOCABULARY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "since": "DateTime64(3)",  # the period, from its first instant
        "until": "DateTime64(3)",  # to its last
        "now": "DateTime64(3)",  # the wall clock, for ages: what is open or stale is so now, whatever the period
        "bucket_s": "UInt32",  # seconds of one point of a curve; whole minutes where windows are read
        "jurisdictions": "Array(String)",  # authorities
        "layer": "String",  # of zones: what a district is
        "districts": "Array(String)",  # codes of zones of that layer
        "metrics": "Array(String)",  # of windows (kind.field) or of workers, by their whole names
        # What only commands ask for.
        "severities": "Array(String)",
        "fingerprint": "String",  # of an alert
        "prefix": "String",  # the beginning of a fingerprint
        "most": "UInt32",  # rows
        "run_id": "String",  # of a replay or retry
        "topics": "Array(String)",
        "table": "String",  # of events
        "first_ms": "Int64",  # milliseconds since 1970, of event time
        "last_ms": "Int64",
        "crcs": "Array(UInt32)",  # CRC32 of event ids
    }
)

_PARAMETER: Final = re.compile(r"\{(\w+):\s*([^{}]+?)\s*\}")


class UnknownQueryError(ValueError):
    """There is no query of that name, or a parameter is missing or not one of its own."""


@dataclass(frozen=True)
class Query:
    """A query: its name, what it answers, its SQL, and the ClickHouse type of each parameter."""

    name: str
    doc: str
    sql: str
    parameters: Mapping[str, str]


@cache
def names() -> tuple[str, ...]:
    """The names of all queries, in order."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql")))


@cache
def query(name: str) -> Query:
    """The query of that name. Raises UnknownQueryError."""
    if name not in names():
        raise UnknownQueryError(f"there is no query {name}; there are {', '.join(names()) or 'none'}")
    lines = resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8").splitlines()
    head = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
    doc = " ".join(line.removeprefix("--").strip() for line in lines[:head])
    sql = "\n".join(lines[head:]).strip().removesuffix(";")
    return Query(name, doc, sql, MappingProxyType(dict(_PARAMETER.findall(sql))))


def ask(sink: Sink, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a query, by column. Every parameter must be given, and none that it does not take.

    Raises UnknownQueryError, SinkError.
    """
    asked = query(name)
    if parameters.keys() != asked.parameters.keys():
        wrong = sorted(parameters.keys() ^ asked.parameters.keys())
        raise UnknownQueryError(f"query {name} takes {sorted(asked.parameters)}; look at {', '.join(wrong)}")
    return sink.named_rows(asked.sql, parameters)
