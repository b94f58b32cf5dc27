"""What Grafana and its ClickHouse plugin 4.20 make of a dashboard's queries, and the answers of an embedded ClickHouse.

Only the macros and formats that our dashboards use are known; whatever else stands in a query stays there, and
`unexpanded` finds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sinks.clickhouse import Sink

Json = dict[str, Any]

TIME_SERIES, TABLE = 0, 1
DASHBOARDS: Final = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
#: The choice of everything, as the dashboard's variables have it.
EVERYTHING: Final = "$__all"

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}")
_MACRO: Final = re.compile(r"\$__(\w+)")
_METRIC: Final = re.compile(r"\bvigie_[a-z0-9_]+\b")
#: Grafana's own steps for the time one point stands for, in seconds.
_NICE_S: Final = (
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400,
)  # fmt: skip
_POINTS: Final = 1_000
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Choice = str | Sequence[str]


@dataclass(frozen=True)
class Period:
    """What the time picker says, and the instant at which somebody looks (None: when ClickHouse's clock says it is)."""

    since: datetime
    until: datetime
    now: datetime | None


@dataclass(frozen=True)
class Asked:
    """A query of a dashboard: what it belongs to, its SQL, how its answer is read, its shortest bucket in seconds."""

    name: str
    kind: str
    sql: str
    form: int
    ref: str = "A"
    min_interval_s: int = 1


@dataclass(frozen=True)
class Answer:
    """Rows with the names and ClickHouse types of their columns, which are there when no row is."""

    columns: Mapping[str, str]
    rows: list[tuple[Any, ...]]

    def values(self, column: str) -> list[Any]:
        at = list(self.columns).index(column)
        return [row[at] for row in self.rows]


def dashboard(name: str) -> Json:
    """A committed dashboard."""
    found: Json = json.loads((DASHBOARDS / f"{name}.json").read_text("utf-8"))
    return found


def names() -> list[str]:
    """The names of the committed dashboards."""
    return sorted(path.stem for path in DASHBOARDS.glob("*.json"))


# --- what a dashboard asks


def panels(board: Json) -> list[Json]:
    """Every panel that shows something, those in collapsed rows too."""
    found = [*board["panels"], *(inner for panel in board["panels"] for inner in panel.get("panels", ()))]
    return [panel for panel in found if panel["type"] != "row"]


def variables(board: Json) -> dict[str, Json]:
    """The variables by name."""
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def asked(board: Json) -> Iterator[Asked]:
    """Every query of a dashboard: of its variables, its annotations and its panels."""
    for name, variable in variables(board).items():
        if variable["type"] == "query":
            yield Asked(name, "variable", variable["query"]["rawSql"], TABLE)
    for found in board["annotations"]["list"]:
        yield Asked(found["name"], "annotation", found["target"]["rawSql"], found["target"]["format"])
    for panel in panels(board):
        for one in panel["targets"]:
            interval_s = seconds(panel.get("interval", "1s"))
            yield Asked(panel["title"], panel["type"], one["rawSql"], one["format"], one["refId"], interval_s)


def metrics(text: str) -> set[str]:
    """Names of workers' metrics in a query or a dashboard."""
    return set(_METRIC.findall(text))


def seconds(interval: str) -> int:
    """The length of "30s", "1m"."""
    return int(interval[:-1]) * _UNIT_S[interval[-1]]


# --- what becomes of a query


def expand(one: Asked, period: Period, board: Json, chosen: Mapping[str, Choice]) -> str:
    """The SQL that reaches ClickHouse, whose clock stands at `period.now`. `chosen`: values of the variables."""
    macros = {
        "fromTime_ms": _instant(period.since),
        "toTime_ms": _instant(period.until),
        "interval_s": str(bucket_s(period, one.min_interval_s)),
    }
    sql = interpolate(one.sql, board, chosen)
    sql = _MACRO.sub(lambda found: macros.get(found[1], found[0]), sql)
    return sql if period.now is None else sql.replace("now64(3)", _instant(period.now))


def interpolate(sql: str, board: Json, chosen: Mapping[str, Choice]) -> str:
    """The SQL with the values of variables in it, as Grafana's front end formats them. A variable that the dashboard
    does not have stays."""
    known = variables(board)

    def value(found: re.Match[str]) -> str:
        name, form = found[1], found[2]
        if name not in known:
            return found[0]
        given = chosen.get(name, "")
        if given == EVERYTHING:
            if not known[name].get("includeAll"):
                raise ValueError(f"{name} has no All")
            # Grafana puts a value of one's own for All into the query as it is, whatever the format.
            return str(known[name]["allValue"])
        if form != "singlequote":
            raise ValueError(f"format {form} of {name} is not known here")
        several = [given] if isinstance(given, str) else given
        return ",".join("'" + one.replace("'", "\\'") + "'" for one in several)

    return _VARIABLE.sub(value, sql)


def bucket_s(period: Period, least_s: int) -> int:
    """Seconds of one point of a curve, as Grafana chooses them for a panel of a thousand points."""
    wanted = (period.until - period.since).total_seconds() / _POINTS
    return max(least_s, next((step for step in _NICE_S if step >= wanted), _NICE_S[-1]))


def unexpanded(sql: str) -> list[str]:
    """Macros and variables that are still in a query."""
    return re.findall(r"\$(?:__\w+|\{[^}]*\}?|[A-Za-z]\w*)", sql)


def _instant(at: datetime) -> str:
    return f"fromUnixTimestamp64Milli({round(at.timestamp() * 1_000)})"


def run(sink: Sink, sql: str) -> Answer:
    """The answer to a query. Raises the client's error."""
    found = json.loads(sink.client.raw_query(f"{sql}\nFORMAT JSONCompact"))
    columns = {column["name"]: column["type"] for column in found["meta"]}
    return Answer(columns, [tuple(row) for row in found["data"]])
